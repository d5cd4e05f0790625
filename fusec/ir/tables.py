"""Tables that kernels look up instead of computing: made once by the engine, bound like weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from fusec.ir.graph import Node, attrs
from fusec.ir.ops import rope_angles
from fusec.ir.plan import Table


def tables_of(nodes: Iterable[Node]) -> dict[str, Table]:
    """Name -> table for every table these (plain) nodes need, in order of first need."""
    found = {}
    for node in nodes:
        if node.op == "rope":
            angles = attrs(**{k: node[k] for k in ("base", "dims", "scale")})
            factors = next((v.name for v in node.weights), "")
            name = ", ".join((*(f"{k}={v}" for k, v in angles), *([factors] if factors else [])))
            found[f"rope({name})"] = Table("rope", dict(angles), factors)
    return found


def make_table(
    table: Table, context: int, weight: Callable[[str], np.ndarray[Any, Any]]
) -> np.ndarray[Any, Any]:
    """The table's contents. rope: cos and sin as f32[context, dims/2, 2], rounded from float64."""
    factors = weight(table.weight[1:]) if table.weight else None
    angle = rope_angles(np.arange(context), factors=factors, **table.attrs)
    return np.stack([np.cos(angle), np.sin(angle)], axis=-1).astype(np.float32)
