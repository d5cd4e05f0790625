"""One entry of the op table: all that the compiler is told of an op.

An entry that lacks a fact which its role calls for is refused when it is made, at import.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from fusec.ir.graph import Attr, Node
from fusec.ir.op_checks import Array, Type
from fusec.writer import brief

Role = Literal[
    "element", "pair", "store", "fold", "vector", "rows", "parts", "heads", "scalar", "clear",
    "into",
]  # fmt: skip
"""How an op's result depends on its operands, which decides what may share a kernel:

- element: element i depends on element i of every operand
- pair: elements 2i and 2i + 1 (or i and i + half) depend on the same two
- store: writes element i into state
- fold: reduces the elements that one thread block has
- vector: depends on anything; cheap, so every thread block that needs it makes all of it
- rows: element i depends on a whole vector and on row i of a weight matrix
- parts: partial sums over the elements that a few thread blocks have
- heads: the elements of a head depend on that head of the query and on the whole cache
- scalar: reduces a whole row
- clear: depends on nothing; zeros, to which a later kernel adds
- into: adds the parts that this kernel makes to such zeros
"""

ROLES: tuple[Role, ...] = get_args(Role)
LOCAL: frozenset[Role] = frozenset({"element", "pair", "store"})
"""Roles whose element i needs no more of its operands than element i, or the pair it is in."""

INDEX = 15
"""Instructions of a thread to find its element, quad or row."""

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

    `operands` says what `infer` wants, for messages: "x: f32[T, n], w: f32[n]". `indices` maps the
    place of every integer operand to its bound: how many values it may take, or None for data that
    indexes no memory. `attributes` maps each attribute to its default, or to its type if it has
    none. `outputs` has a suffix of the name for each result. `label` is the op's word in a fused
    node's kind. `group` is what its launch is counted as.

    `expression` (element-wise roles) gives the source of one element, from the node and the sources
    of its operands' elements; it may call functions that every target has. For an integer operand
    it is given what the op's table (`lookup`) has at that index. `work` counts a thread's
    instructions for that element. `work_whole(node, threads, position)` (vectors) counts those of a
    thread in a block of so many threads. `loads` counts the loads that a thread waits for before it
    can begin, `trees` the sums over a warp's lanes.

    `points` says what the integers it makes are indices of: the row of its first operand (`into
    row`), the same as those of its integer operand (`as operand`), or elements of that operand
    (`places`; its second result are places where some begin or end). `rows_read`: how many rows of
    its weight one token reads, where its index names them; None where it reads all. `adds_parts`:
    its first operand is partial sums of what it makes. `by_quads`: four neighbours of a vector (and
    sums that come later) need no more of its operands than the same four.

    `by_heads` (vectors): a warp can make one head's elements of the result without the others.
    `by_elements` (vectors): who needs an element makes it, so that the vector takes no memory.

    `in_place`: the result has the memory of the first operand, which has no other reader.

    `text`: what a registered op computes, as text that tells it from others of the same name (see
    `fusec.ir.own_op`). `doc`: a line on what it computes, where the reference has no docstring.
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
    points: Literal["", "into row", "as operand", "places"] = ""
    rows_read: Callable[[Node], int] | None = None
    adds_parts: bool = False
    by_quads: bool = False
    by_heads: bool = False
    by_elements: bool = False
    in_place: bool = False
    text: str = ""
    doc: str = ""

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

    def __repr__(self) -> str:
        return brief(self, f"{self.name}: {self.role}, {self.operands}")

    @property
    def about(self) -> str:
        """A line on what it computes."""
        return self.doc or (self.reference.__doc__ or "").partition("\n")[0].strip()

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
