"""A registered op, and a graph that holds it between products."""

from __future__ import annotations

from typing import Any

import numpy as np

import fusec
from fusec.ir import Builder, Graph
from fusec.ir.op import Op

WIDTH = 64


def softsign(x: np.ndarray) -> np.ndarray:
    """x / (1 + |x|), Bergstra et al. 2009."""
    return x / (1 + np.abs(x))


def register_softsign(**options: Any) -> Op:
    return fusec.register_op("softsign", "x / (1 + abs(x))", softsign, **options)


def gated(name: str = "softsign", **attributes: float) -> Graph:
    """norm -> two products -> the op of one, times the other -> a product."""
    b = Builder("gated")
    x = b.input("x", (1, WIDTH))
    n = b.rms_norm(x, b.weight("norm", (WIDTH,)), eps=1e-5)
    gate = b.op(name, b.matvec(n, b.weight("gate", (128, WIDTH))), **attributes)
    h = b.mul(gate, b.matvec(n, b.weight("up", (128, WIDTH))))
    return b.build(b.matvec(h, b.weight("down", (WIDTH, 128)), name="y"))
