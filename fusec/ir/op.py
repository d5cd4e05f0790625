"""What the op table says of one op. An entry with a hole fails when it is made, at import."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from fusec.ir.graph import Attr, Node
from fusec.ir.op_checks import Array, Type

Role = Literal["element", "pair", "store", "fold", "vector", "rows", "parts", "heads", "scalar"]
"""How an op's result depends on its operands, which decides what may share a kernel:

- element: element i on element i of every operand
- pair: elements 2i and 2i + 1 (or i and i + half) on the same two
- store: writes element i into state
- fold: sums up the elements that a block has
- vector: on anything; cheap, and made whole by every block that needs it
- rows: element i on a whole vector and on row i of a weight matrix
- parts: sums over the elements that a few blocks have
- heads: the elements of a head on that head of the query and on the whole cache
- scalar: sums up a whole row
"""

ROLES: tuple[Role, ...] = get_args(Role)
LOCAL: frozenset[Role] = frozenset({"element", "pair", "store", "fold"})
"""Roles whose element i needs no more of its operands than element i, or the pair it is in."""

Bound = Callable[[Node], int | None]
"""How many values an index may take because of what the node reads; None: the plan's positions."""


@dataclass(frozen=True)
class Lookup:
    """A table that kernels read instead of computing it; `weight` names what else goes into it."""

    kind: str
    attrs: tuple[tuple[str, Attr], ...]
    weight: str = ""


@dataclass(frozen=True)
class Op:
    """One entry of the table.

    `operands` says what `infer` wants, for messages: "x: f32[T, n], w: f32[n]". `indices` gives the
    bound of every integer operand, by its place; None if it is data that indexes no memory.
    `attributes` maps each attribute to its default, or to its type if it has none. `outputs` names
    the results where there are several: each is called after the first one, with that suffix.
    `label` is what a fused node's kind is made of. `group` is what its launch counts as.

    For element-wise roles `expression` makes one element's source from the node and its operands'
    (functions are the target's own), and `work` counts a thread's instructions for it. For vectors
    `work_whole(node, threads, position)` does, of a block of so many threads. `loads` and `trees`
    count the loads that a thread waits for before it can begin, and sums over a warp's lanes.

    `points`: what the integers that it makes are places in: the row of its first operand (`into
    row`), or whatever those of its integer operand are (`as operand`). `gathers`: of its weight,
    only the rows that its index names are read. `adds_parts`: its first operand is partial sums of
    what it makes.
    """

    name: str
    role: Role
    operands: str
    arity: tuple[int, int]
    infer: Callable[[Node], list[Type]]
    reference: Callable[..., Array | tuple[Array, ...]]
    flops: Callable[[Node], int]
    attributes: Mapping[str, Attr | type] = field(default_factory=dict)
    bytes: Callable[[Node], int] | None = None  # None: every operand and result once
    outputs: tuple[str, ...] = ("",)
    indices: Mapping[int, Bound | None] = field(default_factory=dict)
    label: str = ""
    group: str = "forward"
    expression: Callable[[Node, list[str]], str] | None = None
    work: float = 4
    work_whole: Callable[[Node, int, int], float] | None = None
    loads: int = 0
    trees: int = 0
    lookup: Callable[[Node], Lookup] | None = None
    points: Literal["", "into row", "as operand"] = ""
    gathers: bool = False
    adds_parts: bool = False

    def __post_init__(self) -> None:
        holes = [
            what
            for what, there in {
                "operands": self.operands,
                "an expression": self.expression or self.role != "element",
                "work_whole": self.work_whole or self.role != "vector",
                "outputs": self.outputs,
            }.items()
            if not there
        ]
        types = re.findall(r"\w+: (\w+)", self.operands)
        if set(self.indices) != {i for i, kind in enumerate(types) if kind == "i32"}:
            holes.append(f"indices of the i32 among {self.operands}")
        if len(types) != self.arity[1]:
            holes.append(f"an arity up to {len(types)} operands")
        if holes:
            raise TypeError(f"op table entry '{self.name}' is incomplete: it lacks {holes[0]}")

    @property
    def short(self) -> str:
        """Its part of a fused node's kind."""
        return self.label or self.name


def bound_by_positions(node: Node) -> int | None:
    """The index is a position of the sequence: the plan's states bound it."""
    return None


def results_of(made: Any) -> tuple[Array, ...]:
    """What a reference function returned, as a tuple whether it is one array or several."""
    return made if isinstance(made, tuple) else (made,)
