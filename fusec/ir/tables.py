"""Tables that kernels look up instead of computing; the engine fills them once, like weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from fusec.ir.graph import Node
from fusec.ir.op_rope import rope_angles
from fusec.ir.op_temper import temperatures
from fusec.ir.ops import op
from fusec.ir.plan import Table

Array = np.ndarray[Any, Any]


def table_of(node: Node) -> str:
    """The name of the table of a (plain) node that needs one."""
    (name,) = tables_of([node])
    return name


def tables_of(nodes: Iterable[Node]) -> dict[str, Table]:
    """Name -> table for every table these (plain) nodes need, in order of first need."""
    found = {}
    for node in nodes:
        if (lookup := op(node.op).lookup) is None:
            continue
        wanted = lookup(node)
        weight = [wanted.weight] if wanted.weight else []
        name = ", ".join((*(f"{k}={v}" for k, v in wanted.attrs), *weight))
        found[f"{wanted.kind}({name})"] = Table(wanted.kind, dict(wanted.attrs), wanted.weight)
    return found


def make_table(table: Table, context: int, weight: Callable[[str], Array]) -> Array:
    """The table's contents for so many positions, f32[context, ...], rounded from float64."""
    factors = weight(table.weight[1:]) if table.weight else None
    return MAKERS[table.kind](np.arange(context), factors, **table.attrs).astype(np.float32)


def _angles(pos: Array, factors: Array | None, magnitude: float = 1.0, **given: Any) -> Array:
    """cos and sin of RoPE's angles times a magnitude, [positions, dims/2, 2]."""
    angle = rope_angles(pos, factors=factors, **given)
    return magnitude * np.stack([np.cos(angle), np.sin(angle)], axis=-1)


MAKERS: dict[str, Callable[..., Array]] = {
    "rope": _angles,
    "temperature": lambda pos, _, **given: temperatures(pos, **given),
}
"""Kind of a table -> what it has at each position."""
