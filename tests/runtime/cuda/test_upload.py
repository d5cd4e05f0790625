"""Weights on their way to a GPU: each in the layout of the plan, one after the other."""

from __future__ import annotations

import weakref

import numpy as np
import pytest

from fusec import driver
from fusec.backends.cuda import PACKING
from fusec.codegen import formats
from fusec.codegen.cuda.shape import tiles
from fusec.errors import FusecError
from fusec.ir import Builder, Graph
from fusec.ir.plan import Arg, LaunchPlan
from fusec.ir.target import ROWS, TILES
from fusec.runtime.cuda.driver import Driver
from fusec.runtime.cuda.workspace import Packing, Workspace
from tests.codegen.cuda.twin_session import random_weights
from tests.runtime.cuda import fake

LONG = 2048


def products() -> Graph:
    """A vector and matrices of several types, as tiles and as rows."""
    b = Builder("products")
    x = b.rms_norm(b.input("x", (1, LONG)), b.weight("g", (LONG,)), eps=1e-5)
    rows = {"q4_k": 928, "q8_0": 32, "q5_0": 32, "f16": 32, "q6_k": 32}  # enough for tiles
    return b.build(*(b.matvec(x, b.weight(f"w{k}", (n, LONG), k)) for k, n in rows.items()))


@pytest.fixture(scope="module")
def plan() -> LaunchPlan:
    return driver.compile(products(), target="sm_90a").plan


@pytest.fixture(scope="module")
def weights() -> dict[str, np.ndarray]:
    return {name[1:]: raw for name, raw in random_weights(products()).items()}


def bound(
    plan: LaunchPlan, weights: dict[str, np.ndarray], packing: Packing, api: fake.FakeDriver
) -> Workspace:
    kernels = fake.executables(plan)
    return Workspace(
        Driver(api), (plan,), fake.by_name(kernels), kernels, weights.__getitem__, packing, "off"
    )


def test_every_weight_lies_as_the_plan_says(plan, weights) -> None:
    layouts = {name: tensor.layout for name, tensor in plan.weights.items()}
    assert {layouts["@wq4_k"], layouts["@wq8_0"], layouts["@g"]} == {TILES, ROWS, ""}
    workspace = bound(plan, weights, PACKING, fake.fake_for(plan))
    for name, tensor in plan.weights.items():
        raw = weights[name[1:]]
        if len(tensor.shape) == 2:
            raw = formats.get(tensor.dtype).cuda_repack(raw, tensor.layout)
        address = workspace.address(Arg("weight", name))
        found = fake.view(address, "f32", (raw.nbytes // 4,))
        assert found.tobytes() == raw.tobytes(), name
    workspace.close()


def test_no_two_weights_are_repacked_at_once(plan, weights) -> None:
    """What one has become is given back before the next is made: a model may fill the memory."""
    made: list[weakref.ref[np.ndarray]] = []
    alive: list[int] = []

    def pack(tensor, raw):
        alive.append(sum(one() is not None for one in made))
        found = PACKING.pack(tensor, raw).copy()
        made.append(weakref.ref(found))
        return found

    bound(plan, weights, Packing(PACKING.nbytes, pack), fake.fake_for(plan)).close()
    assert alive == [0] * len(plan.weights)


@pytest.mark.parametrize("by", [-16, 16])
def test_a_weight_of_another_size_is_refused_before_it_is_written(plan, weights, by: int) -> None:
    api = fake.fake_for(plan)
    written: list[str] = []

    def pack(tensor, raw):
        written.append(tensor.dtype)
        found = PACKING.pack(tensor, raw)
        return np.resize(found, found.nbytes + by) if tensor.dtype == "q6_k" else found

    size = PACKING.nbytes(plan.weights["@wq6_k"])
    expected = f"expected weight @wq6_k as {size:,} bytes, found {size + by:,}"
    with pytest.raises(FusecError, match=f"products: {expected}"):
        bound(plan, weights, Packing(PACKING.nbytes, pack), api)
    assert api.log.count("cuMemcpyHtoDAsync") == len(written) - 1
    assert not api.buffers  # the driver has everything back


ROWS_AND_TILES = [(name, ROWS) for name in sorted(formats.FORMATS)]
ROWS_AND_TILES += [(name, TILES) for name in sorted(tiles().formats)]


@pytest.mark.parametrize(("name", "layout"), ROWS_AND_TILES)
def test_a_format_says_how_many_bytes_it_makes(name: str, layout: str) -> None:
    fmt = formats.get(name)
    for rows, columns in ((48, LONG), (16, 3 * LONG)) if layout == TILES else ((9, 256), (1, 768)):
        raw = np.zeros((rows, fmt.row_bytes(columns)), np.uint8)
        assert fmt.cuda_repack(raw, layout).nbytes == fmt.cuda_bytes(rows, columns, layout)


@pytest.mark.parametrize("name", ["f32", "f16", "bf16"])
def test_rows_of_floats_end_with_whole_chunks(name: str) -> None:
    fmt = formats.get(name)
    raw = np.ones((5, fmt.row_bytes(131)), np.uint8)
    found = fmt.cuda_repack(raw)
    assert found.nbytes == fmt.cuda_bytes(5, 131) and found.nbytes % 16 == 0
    assert np.count_nonzero(found) == raw.size
