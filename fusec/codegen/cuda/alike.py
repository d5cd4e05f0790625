"""Segments that differ only in their operands share one text in the kernel.

The query, key and value projections are such: each one's thread blocks assign its operands, its
size and its place in the grid to variables, and then all run the same code.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from fusec.codegen.cuda.scope import Scope
from fusec.codegen.cuda.shape import units
from fusec.codegen.cuda.stages import Stage
from fusec.ir.graph import Node, Value
from fusec.ir.ops import op, picks_rows
from fusec.ir.region import KernelShape, Segment


@dataclass(frozen=True)
class Alike:
    """Segments that share one text, with their blocks in the grid: (segment, first, blocks).

    `bindings`: the first member's value -> every member's pointer, where the members differ.
    `condition`: what only these blocks fulfil; empty where there are no others.
    """

    scope: Scope
    members: tuple[tuple[Segment, int, int], ...]
    bindings: dict[str, tuple[str, ...]]
    condition: str

    @property
    def segment(self) -> Segment:
        """The one whose text it is."""
        return self.members[0][0]

    @property
    def role(self) -> str:
        """What their blocks do."""
        return self.segment.role

    @property
    def size(self) -> tuple[int | str, str, int | str]:
        """Units, first block and blocks of a member: numbers, or variables if there are several."""
        segment, first, blocks = self.members[0]
        if len(self.members) == 1:
            return units(segment), str(first), blocks
        return "size", "first_block", "blocks"

    @contextmanager
    def bound(self) -> Iterator[None]:
        """Let the values of the first member be found in the variables that members assign."""
        kept = dict(self.scope.pointers)
        for name, pointers in self.bindings.items():
            self.scope.pointers[name] = _chosen(pointers)
        yield
        self.scope.pointers.clear()
        self.scope.pointers.update(kept)

    @contextmanager
    def at(self, stage: Stage, apart: bool = False) -> Iterator[None]:
        """Lines of a stage that are for these blocks alone."""
        with self.scope.w.at(stage, self.condition, apart), self.bound():
            yield

    def select(self, conditions: Sequence[str]) -> None:
        """The same warp by warp: member k + 1 has the warps that fulfil `conditions[k]`.

        Of several that hold, the last one counts.
        """
        w, (first, *others) = self.scope.w, [units(segment) for segment, _, _ in self.members]
        for pointers in self.bindings.values():
            chosen = pointers[0]
            for condition, pointer in zip(conditions, pointers[1:], strict=True):
                chosen = f"select_pointer({condition}, {pointer}, {chosen})"
            w.line(f"{_chosen(pointers)} = {chosen}")
        size = f"uint32({first})"
        for condition, other in zip(conditions, others, strict=True):
            size = f"select_u32({condition}, uint32({other}), {size})"
        w.line(f"size = {size}")

    def choose(self) -> None:
        """Each member's blocks assign its operands, its size and its place in the grid."""
        if len(self.members) == 1:
            return
        w = self.scope.w
        for k, (segment, first, blocks) in enumerate(self.members):
            word = "if" if k == 0 else "elif"
            last = k == len(self.members) - 1
            with w.block("else:" if last else f"{word} block < uint32({first + blocks}):"):
                for pointers in self.bindings.values():
                    w.line(f"{_chosen(pointers)} = {pointers[k]}")
                w.line(f"size, first_block, blocks = {units(segment)}, {first}, {blocks}")


def classes(scope: Scope, shape: KernelShape) -> list[Alike]:
    """The segments of a kernel, those that are alike together, in the order of their blocks."""
    found: dict[object, list[tuple[Segment, int]]] = {}
    for segment, blocks in zip(shape.segments, scope.geometry.blocks, strict=True):
        found.setdefault(_key(scope, segment), []).append((segment, blocks))
    made: list[Alike] = []
    end = 0
    for members in found.values():
        first, placed = end, []
        for segment, blocks in members:
            placed.append((segment, end, blocks))
            end += blocks
        condition = f"block < uint32({end})"
        if made:
            condition = f"(block >= uint32({first})) & ({condition})"
        alone = len(found) == 1
        bindings = _bindings(scope, [segment for segment, _ in members])
        made.append(Alike(scope, tuple(placed), bindings, "" if alone else condition))
    return made


def together(scope: Scope, segments: list[Segment]) -> Alike:
    """Segments that share one text and have no thread blocks of their own."""
    members = tuple((segment, 0, 0) for segment in segments)
    return Alike(scope, members, _bindings(scope, segments), "")


def _key(scope: Scope, segment: Segment) -> object:
    """Equal for segments whose text can be shared."""
    inside = {n.name: k for k, n in enumerate(segment.nodes)}
    external = _external(scope, segment)

    def operand(value: Value) -> object:
        if value.name in inside:
            return inside[value.name]
        if value.name in external:
            each = segment.size // value.shape[-1] if value.name[0] == "%" else 1
            return external.index(value.name), value.dtype, len(value.shape), each
        return value.name

    nodes = tuple(
        (
            n.op,
            n.attrs,
            tuple(map(operand, n.inputs)),
            n.name in scope.outputs,
            _matrix_size(n),
        )
        for n in segment.nodes
    )
    fixed = segment.role in ("heads", "scalar") or any(
        op(n.op).role in ("store", "fold") for n in segment.nodes
    )
    return nodes, segment.size if fixed else 0


def _matrix_size(node: Node) -> tuple[int, ...]:
    """What the text of a product has of its matrix: of one whose rows an index picks, all."""
    if op(node.op).role != "rows":
        return ()
    return node.inputs[1].shape[0 if picks_rows(node) else 1 :]


def _external(scope: Scope, segment: Segment) -> list[str]:
    """Memory a segment reads element by element or as rows, and memory it writes, in order."""
    inside = {n.name for n in segment.nodes}
    names: dict[str, None] = {}
    for node in segment.nodes:
        vector = {node.inputs[0].name} if op(node.op).role == "rows" else set()
        for value in node.inputs:
            known = value.name in scope.pointers and value.name not in inside | vector
            # what the prologue makes is not read from memory; all members have the same position
            if known and value.name not in scope.region.producers and value.dtype != "i32":
                names[value.name] = None
        for value in node.outputs:
            if value.name in scope.outputs and not value.is_state:
                names[value.name] = None
    return list(names)


def _bindings(scope: Scope, segments: list[Segment]) -> dict[str, tuple[str, ...]]:
    """See `Alike.bindings`."""
    columns = zip(*(_external(scope, segment) for segment in segments), strict=True)
    bound = {names[0]: tuple(scope.pointers[n] for n in names) for names in columns}
    return {name: pointers for name, pointers in bound.items() if len(set(pointers)) > 1}


def _chosen(pointers: tuple[str, ...]) -> str:
    """The variable that holds one of several pointers."""
    return "_or_".join(dict.fromkeys(pointers))
