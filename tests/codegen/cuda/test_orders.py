"""Products by rows and by tiles add up in the order of docs/numbers.md, to the last bit."""

from __future__ import annotations

import numpy as np
import pytest

from fusec.codegen.formats import FORMATS, QuantFormat
from fusec.ir import Builder
from fusec.ir.target import ROWS, TILES
from tests.codegen.blocks import random_rows
from tests.codegen.cuda import orders
from tests.codegen.cuda.twin_session import TwinSession
from tests.random_numbers import random_numbers
from tests.targets import HOPPER

pytestmark = pytest.mark.slow  # compiles many kernels

RNG = random_numbers(23)


def product(name: str, columns: int, rows: int = 16) -> tuple[np.ndarray, np.ndarray, TwinSession]:
    """A matrix's bytes, a vector, and the session that multiplies them."""
    b = Builder("product")
    graph = b.build(b.matvec(b.input("x", (1, columns)), b.weight("w", (rows, columns), name)))
    data = random_rows(FORMATS[name], rows, columns, seed=columns)
    # magnitudes from block to block apart: then another order has other bits
    x = RNG.normal(size=columns) * np.repeat(2.0 ** RNG.integers(-3, 4, columns // 32), 32)
    return data, x.astype(np.float32), TwinSession(graph, {"@w": data}, 3, target=HOPPER)


def check(wanted: np.ndarray, found: np.ndarray) -> None:
    assert np.isfinite(wanted).all()
    assert wanted.view(np.uint32).tolist() == found.reshape(-1).view(np.uint32).tolist()


@pytest.mark.parametrize("columns", [2048, 6144, 8192])
@pytest.mark.parametrize("name", ["q4_0", "q4_k", "iq4_xs", "q6_k", "q2_k"])
def test_tiles(name: str, columns: int) -> None:
    """One scale or two, minima or none, levels in one term or two; one turn, several, halves."""
    fmt = orders.format_of(name)
    data, x, session = product(name, columns)
    assert session.plan.weights["@w"].layout == TILES
    check(orders.by_tiles(orders.blocks_of(fmt, data), x), session.step(x=x)["0"])


@pytest.mark.parametrize("columns", [256, 1536])
@pytest.mark.parametrize("name", ["q4_0", "q4_k", "q8_0", "q6_k", "q2_k"])
def test_rows(name: str, columns: int) -> None:
    fmt = orders.format_of(name)
    data, x, session = product(name, columns, rows=9)
    assert session.plan.weights["@w"].layout == ROWS
    check(orders.by_rows(orders.blocks_of(fmt, data), x), session.step(x=x)["0"])


@pytest.mark.parametrize("name", [n for n, f in FORMATS.items() if not isinstance(f, QuantFormat)])
def test_rows_of_floats(name: str) -> None:
    data, x, session = product(name, 608, rows=9)
    fmt = FORMATS[name]
    w = fmt.decode(data)
    check(orders.floats_by_rows(w, x, fmt.cuda_chunk), session.step(x=x)["0"])
