"""What a session takes: checked before a kernel sees it."""

from __future__ import annotations

import numpy as np
import pytest

from fusec.errors import FusecError
from fusec.ir import Builder, Graph
from fusec.ir.plan import LaunchPlan
from fusec.passes.lower import lower
from fusec.passes.pipeline import LEVELS, passes_of, run_passes
from fusec.runtime.session import (
    STATELESS_POSITIONS,
    bound_weight,
    check_inputs,
    check_order,
    in_order,
    limits,
    positions,
    tables,
)
from tests.graphs import BLOCKS, Types, block_graph, llama_graph
from tests.targets import ANY, HOPPER


def planned(graph: Graph, level: int = 2) -> LaunchPlan:
    return lower(run_passes(graph, passes_of(level), ANY)[-1].graph, "any", level)


PLAN = planned(llama_graph(tokens=4, vocab=64, context=32))


class Sub(np.ndarray):
    """An array of somebody's own kind."""


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


@pytest.mark.parametrize("count", [1, 3, 4])
def test_up_to_the_plans_tokens(count: int) -> None:
    given = ints(*range(count))
    assert check_inputs(PLAN, {"token": given, "pos": given}, limits(PLAN)) == count


@pytest.mark.parametrize(
    ("inputs", "reason"),
    [
        ({}, "expected inputs token, pos, found none"),
        ({"token": ints(1)}, "expected inputs token, pos, found token"),
        ({"token": ints(1), "pos": ints(0), "x": ints(0)}, "expected inputs token, pos, found "),
        ({"token": ints(1, 2), "pos": ints(0)}, r"one number of tokens .* found \[1, 2\]"),
        ({"token": ints(), "pos": ints()}, r"from 1 to 4 for every input, found \[0\]"),
        ({"token": ints(*[1] * 5), "pos": ints(*[1] * 5)}, r"from 1 to 4 .*, found \[5\]"),
        ({"token": [1], "pos": ints(0)}, r"expected %token as int32\[T\], found list"),
        ({"token": 1, "pos": ints(0)}, r"expected %token as int32\[T\], found int"),
        ({"token": np.int32(1), "pos": ints(0)}, r"expected %token as int32\[T\], found int32"),
        ({"token": np.array(1, np.int32), "pos": ints(0)}, "one number of tokens"),
        ({"token": np.array([1]), "pos": ints(0)}, r"found int64\[1\]"),
        ({"token": np.array([1.0]), "pos": ints(0)}, r"found float64\[1\]"),
        ({"token": ints(1).astype(">i4"), "pos": ints(0)}, r"found >i4\[1\]"),
        ({"token": np.ma.masked_array(ints(1)), "pos": ints(0)}, "found MaskedArray"),
        ({"token": ints(1)[None], "pos": ints(0)}, r"found int32\[1, 1\]"),
        ({"token": ints(64), "pos": ints(0)}, r"expected %token from 0 to 63, found \[64\]"),
        ({"token": ints(1, -1), "pos": ints(0, 1)}, r"%token from 0 to 63, found \[1, -1\]"),
        ({"token": ints(1), "pos": ints(32)}, r"expected %pos from 0 to 31, found \[32\]"),
        ({"token": ints(1), "pos": ints(-1)}, r"expected %pos from 0 to 31, found \[-1\]"),
    ],
)
def test_inputs_that_are_refused(inputs: dict, reason: str) -> None:
    with pytest.raises(FusecError, match=reason) as caught:
        check_inputs(PLAN, inputs, limits(PLAN))
    assert str(caught.value).startswith("llama_decode: ")


def attends(tokens: int) -> LaunchPlan:
    """Whose attention makes the newest rows itself, on a GPU."""
    graph = block_graph(tokens=tokens, **BLOCKS["gemma"])
    return lower(run_passes(graph, passes_of(3), HOPPER)[-1].graph, "sm_90a", 3)


def test_positions_that_kernels_take_for_neighbours_count_up() -> None:
    assert in_order(PLAN) == in_order(attends(1)) == set()
    plan = attends(4)
    assert in_order(plan) == {"%pos"}
    check_order(plan, {"pos": ints(7, 8, 9)}, {"%pos"})
    with pytest.raises(FusecError, match=r"%pos to count up by one .*, found \[7, 9\]"):
        check_order(plan, {"pos": ints(7, 9)}, {"%pos"})


@pytest.mark.parametrize(
    "given",
    [ints(3, 9, 2, 9)[::2], ints(2, 3)[::-1], ints(3, 2).view(Sub)],
)
def test_inputs_that_lie_otherwise_in_memory(given: np.ndarray) -> None:
    given.flags.writeable = False
    assert check_inputs(PLAN, {"token": given, "pos": given}, limits(PLAN)) == 2


@pytest.mark.parametrize("level", LEVELS)
def test_limits_are_those_of_the_memory_indexed(level: int) -> None:
    plan = planned(llama_graph(vocab=96, context=7), level)
    assert limits(plan) == {"%token": 96, "%pos": 7}


def test_limits_of_graphs_by_hand() -> None:
    b = Builder("toy")
    x, at, id_ = b.input("x", (1, 32)), b.input("at", (1,), "i32"), b.input("id", (1,), "i32")
    angles = {"base": 1e4, "head_dim": 16, "dims": 16}
    turned = b.rope(x, at, **angles)
    small, large = (b.embed(id_, b.weight(name, (rows, 32))) for name, rows in (("s", 5), ("l", 9)))
    plan = planned(b.build(turned, b.add(small, large)), 0)
    assert positions(plan) == STATELESS_POSITIONS
    assert limits(plan) == {"%at": STATELESS_POSITIONS, "%id": 5}
    for length in (12, 6):
        b.kv_append(b.state(f"s{length}", (length, 2, 16), "f32"), x, at)
    plan = planned(b.build(turned, b.add(small, large)), 0)
    assert limits(plan) == {"%at": 6, "%id": 5}


def test_limits_of_spans_to_combine() -> None:
    b = Builder("spans")
    values, sums = b.input("values", (1, 3 * 32)), b.input("sums", (1, 3 * 2 * 2))
    at = b.input("at", (1,), "i32")
    plan = planned(b.build(b.attention_combine(values, sums, at, heads=2, span=256, spans=3)), 0)
    assert limits(plan) == {"%at": 768}


def test_whole_numbers_that_index_nothing_have_no_limits() -> None:
    b = Builder("places")
    best, places = b.input("best", (1, 8)), b.input("places", (1, 8), "i32")
    plan = planned(b.build(b.argmax_combine(best, places)), 0)
    assert limits(plan) == {}


ROWS = np.zeros((64, 64), np.float32)
NAME = "blk.0.attn_q.weight"


@pytest.mark.parametrize("level", [0, 2, 3])
def test_weights_are_arrays_or_bytes(level: int) -> None:
    types = Types("f32", **{"blk.0.attn_k.weight": "iq4_nl"})
    plan = planned(llama_graph(layers=1, types=types), level)
    raw = ROWS.view(np.uint8)
    assert bound_weight(plan, f"@{NAME}", {NAME: ROWS}.__getitem__) is ROWS
    assert bound_weight(plan, f"@{NAME}", {NAME: raw}.__getitem__).nbytes == ROWS.nbytes
    strided = np.zeros((64, 128), np.float32)[:, ::2]
    assert bound_weight(plan, f"@{NAME}", lambda _: strided).flags.c_contiguous
    ROWS.flags.writeable = False
    assert (
        bound_weight(plan, f"@{NAME}", {NAME: ROWS.view(Sub)}.__getitem__).tobytes()
        == raw.tobytes()
    )
    ROWS.flags.writeable = True
    square = np.arange(4096, dtype=np.float32).reshape(64, 64)
    turned = bound_weight(plan, f"@{NAME}", lambda _: square.T)
    assert turned.tobytes() == square.T.tobytes()
    odd = np.zeros(ROWS.nbytes + 1, np.uint8)[1:]  # what no float may start at
    assert bound_weight(plan, f"@{NAME}", lambda _: odd).ctypes.data % 4 == 0
    blocks = np.zeros((32, 36), np.uint8)  # 64 weights are two blocks of 18 bytes
    assert bound_weight(plan, "@blk.0.attn_k.weight", lambda _: blocks) is blocks


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({}, f"weight @{NAME} is not given"),
        ({NAME: ROWS.astype(np.float64)}, "found float64"),
        ({NAME: ROWS.astype(np.float16)}, "found float16"),
        ({NAME: ROWS[:63]}, r"found float32\[63, 64\]"),
        ({NAME: ROWS.reshape(32, 128)}, r"found float32\[32, 128\]"),
        ({NAME: ROWS.view(np.uint8)[:, :-4]}, r"found uint8\[64, 252\]"),
        ({NAME: 1.0}, r"found float64\[\]"),
        ({NAME: ROWS.astype(">f4")}, r"found >f4\[64, 64\]"),
        ({NAME: ROWS[:, :32].T.copy()}, r"found float32\[32, 64\]"),
        ({NAME: ROWS.view(np.uint8).T}, r"found uint8\[256, 64\]"),
        ({NAME: ROWS.view(np.uint8).T.copy()}, r"found uint8\[256, 64\]"),
        ({NAME: ROWS.view(np.uint8).reshape(-1)[:-1]}, r"found uint8\[16383\]"),
        ({NAME: ROWS.tolist()}, r"found float64\[64, 64\]"),
        ({NAME: [[1.0], [1.0, 2.0]]}, "inhomogeneous"),
        ({NAME: "weights"}, "found <U7"),
        ({NAME: None}, "found object"),
        ({NAME: np.ma.masked_array(ROWS, ROWS == 0)}, "a masked array"),
        ({NAME: np.zeros((64, 64), [("x", "f4")])}, "found .*x"),
    ],
)
def test_weights_that_are_refused(given: dict, found: str) -> None:
    plan = planned(llama_graph(layers=1, types=Types("f32")))
    with pytest.raises(FusecError, match=found) as caught:
        bound_weight(plan, f"@{NAME}", given.__getitem__)
    assert str(caught.value).startswith("llama_decode: ")


@pytest.mark.parametrize("level", [0, 2, 3])
def test_factors_of_a_table_are_checked_and_decoded(level: int) -> None:
    b = Builder("turned")
    x, at = b.input("x", (1, 32)), b.input("at", (1,), "i32")
    factors = b.weight("factors", (8,))
    plan = planned(b.build(b.rope(x, at, factors, base=1e4, head_dim=16, dims=16)), level)
    given = np.linspace(1, 8, 8, dtype=np.float32)
    (table,) = tables(plan, {"factors": given}.__getitem__).values()
    assert table.shape == (STATELESS_POSITIONS, 8, 2)
    (of_bytes,) = tables(plan, {"factors": given.view(np.uint8)}.__getitem__).values()
    assert table.tobytes() == of_bytes.tobytes()
    for wrong in (given[:4], given.astype(np.float64), given[None], 1.0):
        with pytest.raises(FusecError, match=r"turned: expected weight @factors as f32\[8\]"):
            tables(plan, {"factors": wrong}.__getitem__)
    with pytest.raises(FusecError, match="weight @factors is not given"):
        tables(plan, {}.__getitem__)
