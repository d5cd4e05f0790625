"""Products whose rows are sums of parts: the same bytes by warps and in tiles of any shape."""

from __future__ import annotations

import numpy as np
import pytest

from fusec.codegen.cuda.gemm import is_gemm
from fusec.codegen.cuda.tilings import DEEP, LARGE, MEDIUM, NARROW, OF_ROWS, SLIM, TALL, WIDE
from fusec.ir import Builder, Graph
from fusec.ir.choice import Choice, Tiling
from fusec.ir.plan import Kernel
from fusec.ir.text import parse
from tests.codegen.cuda import orders
from tests.codegen.cuda.test_gemm import vectors
from tests.codegen.cuda.twin_session import TwinSession, random_weights
from tests.targets import HOPPER

pytestmark = pytest.mark.slow  # compiles many kernels


def product(tokens: int, columns: int, branch: int, name: str = "q4_0", rows: int = 18) -> Graph:
    b = Builder("product")
    x, w = b.input("x", (tokens, columns)), b.weight("w", (rows, columns), name)
    return b.build(b.split_matvec(x, w, branch=branch, name="y"))


def by_parts(graph: Graph, weights: dict, xs: np.ndarray) -> np.ndarray:
    """Rows in the order of docs/numbers.md."""
    (node,) = graph.nodes
    fmt = orders.format_of(node.inputs[1].dtype)
    blocks = orders.blocks_of(fmt, weights["@w"])
    return np.stack([orders.by_parts(blocks, x, int(node["branch"])) for x in xs])


@pytest.mark.parametrize("columns", [192, 576, 1536])
@pytest.mark.parametrize("branch", [1, 2, 8, 32])
def test_a_row_is_a_sum_of_parts(columns: int, branch: int) -> None:
    """A row has fewer blocks than a warp has lanes, or some lanes have one more than others."""
    graph = product(1, columns, branch)
    weights, xs = random_weights(graph), vectors(3, columns)
    session = TwinSession(graph, weights, 0, target=HOPPER)
    found = np.concatenate([session.step(x=x)["y"] for x in xs])
    assert found.tobytes() == by_parts(graph, weights, xs).tobytes()


def test_another_sum_than_in_order() -> None:
    """Or the tests above would say little."""
    graph = product(1, 1536, 4)
    weights, xs = random_weights(graph), vectors(9, 1536)
    blocks = orders.blocks_of(orders.format_of("q4_0"), weights["@w"])
    in_order = np.stack([orders.by_rows(blocks, x) for x in xs])
    assert in_order.tobytes() != by_parts(graph, weights, xs).tobytes()


WAYS = {
    "wide": (OF_ROWS[WIDE][0], 1536, 4),
    "wide, short rows": (OF_ROWS[WIDE][0], 192, 8),
    "wide, a lane each": (OF_ROWS[WIDE][1], 576, 1),
    "medium": (OF_ROWS[MEDIUM][0], 576, 2),
    "parts of several slabs": (OF_ROWS[MEDIUM][0], 1024, 16),
    "parts of several warps": (OF_ROWS[NARROW][0], 1536, 32),
    "parts of all warps, short rows": (OF_ROWS[NARROW][0], 192, 32),
    "warps with whole parts": (OF_ROWS[NARROW][0], 1536, 4),
    "warps with whole parts of many slabs": (OF_ROWS[NARROW][1], 1536, 16),
    "slim": (OF_ROWS[SLIM][0], 576, 2),
    "large": (LARGE[NARROW], 576, 2),
    "deep": (DEEP, 576, 2),
    "deep, long parts": (DEEP, 1536, 8),
    "tall, long rows": (TALL, 4096, 2),
}


@pytest.mark.parametrize(("tiling", "columns", "branch"), WAYS.values(), ids=WAYS)
def test_tiles_give_the_same(tiling: Tiling, columns: int, branch: int, monkeypatch) -> None:
    """Of a step of several rows, some of which are not there."""

    def choose(kernel: Kernel) -> Choice | Tiling | None:
        return tiling if is_gemm(parse(kernel.region)) else None

    monkeypatch.setattr("fusec.codegen.cuda.rows.tile_rows", lambda *_: tiling.width)
    one, several = product(1, columns, branch), product(40, columns, branch)
    weights, there = random_weights(one), 33 if tiling.width < WIDE else 34
    xs = vectors(there, columns)
    session = TwinSession(several, weights, 0, target=HOPPER, choose=choose)
    session.memory["rows"][:] = there
    found = session.step(x=np.resize(xs, (40, columns)))["y"][:there]
    assert found.tobytes() == by_parts(one, weights, xs).tobytes()


@pytest.mark.parametrize(("level", "tokens"), [(0, 1), (0, 12), (2, 2), (3, 1), (3, 2), (3, 8)])
def test_too_large_a_part_makes_nan_at_every_level_and_width(level: int, tokens: int) -> None:
    """Of two rows of the step, in the one that has it; and no other element."""
    b = Builder("g")
    x, r = b.input("x", (tokens, 64)), b.input("r", (tokens, 64))
    h = b.silu(b.matvec(x, b.weight("u", (192, 64), "q8_0")))
    y = b.add(b.matvec(h, b.weight("d", (64, 192), "q8_0")), r, name="y")
    n = b.rms_norm(y, b.weight("g", (64,)), eps=1e-5)
    graph = b.build(b.matvec(n, b.weight("o", (16, 64), "q8_0"), name="o"), y)
    session = TwinSession(graph, random_weights(graph), level, target=HOPPER)
    given = np.ones((tokens, 64), np.float32)
    given[-1] = 1e6
    residual = np.zeros((tokens, 64), np.float32)
    found = session.step(x=given, r=residual)["y"]
    assert np.isnan(found[-1]).any() and np.isfinite(found[:-1]).all()
