"""Tables that kernels look up instead of computing; the engine fills them once, like weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from fusec.ir.graph import Node
from fusec.ir.op_rope import rope_angles
from fusec.ir.ops import op
from fusec.ir.plan import Table


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


def make_table(
    table: Table, context: int, weight: Callable[[str], np.ndarray[Any, Any]]
) -> np.ndarray[Any, Any]:
    """The table's contents. rope: cos and sin as f32[context, dims/2, 2], rounded from float64."""
    factors = weight(table.weight[1:]) if table.weight else None
    angle = rope_angles(np.arange(context), factors=factors, **table.attrs)
    return np.stack([np.cos(angle), np.sin(angle)], axis=-1).astype(np.float32)
