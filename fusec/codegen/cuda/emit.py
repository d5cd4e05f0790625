"""A region becomes one Numba CUDA kernel, launched with one pointer for each parameter.

Blocks are dealt to segments in order. Segments that differ in nothing but their operands, such as
the query, key and value projections, share one text: their blocks choose their operands and then
do the same. Weights are loaded before anything that another kernel made.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

from fusec.codegen.common import open_region
from fusec.codegen.cuda.arch import ARCHS, Arch
from fusec.codegen.cuda.attention import Attention
from fusec.codegen.cuda.attention_project import ProjectedAttention
from fusec.codegen.cuda.elements import Elements, Indices
from fusec.codegen.cuda.imports import format_functions, import_lines
from fusec.codegen.cuda.matvec import Matvec
from fusec.codegen.cuda.matvecs import Matvecs
from fusec.codegen.cuda.prologue import Others, Prologue
from fusec.codegen.cuda.scope import SHARED, WAIT, Scope
from fusec.codegen.cuda.shape import default, is_tiled, plan, tiles, units, why_not
from fusec.codegen.cuda.tiles import TiledMatvec
from fusec.codegen.cuda.toolchain import CudaKernel
from fusec.errors import FusecError
from fusec.ir.graph import Graph, Value
from fusec.ir.ops import op
from fusec.ir.plan import Kernel
from fusec.ir.region import KernelShape, Segment, parameters
from fusec.writer import Writer

CLUSTERS = 90  # compute capability from which blocks exchange through shared memory
MOST_BYTES = 1 << 32  # offsets into a buffer are 32 bits wide


def emit(kernel: Kernel, arch: Arch = ARCHS["sm_90a"]) -> CudaKernel:
    """Source and launch shape of a kernel for an architecture.

    Raises FusecError if its region cannot be one kernel.
    """
    region, shape = open_region(kernel)
    for value in region.weights:
        if value.nbytes >= MOST_BYTES:
            raise FusecError(
                f"kernel {kernel.name}: weight {value.type} is too large: a CUDA kernel addresses "
                f"less than {MOST_BYTES} bytes"
            )
    if region.nodes and any(v.shape[0] != 1 for v in region.inputs):
        raise FusecError(f"kernel {kernel.name}: a CUDA kernel takes one token a step")
    choice = kernel.choice or default(shape, kernel.overlaps)
    if reason := why_not(shape, choice):
        raise FusecError(f"kernel {kernel.name}: {reason}")
    if choice.paired and arch.number < CLUSTERS:
        raise FusecError(
            f"kernel {kernel.name}: expected a GPU with clusters, for pairs of blocks, found "
            f"{arch.name}"
        )
    if len(shape.segments) > 1 and any(n.op == "attention_project" for n in region.nodes):
        raise FusecError(
            f"kernel {kernel.name}: expected attention_project alone, because its blocks come in "
            f"clusters, found {len(shape.segments)} segments"
        )
    if reason := tiles().why_not(shape):
        raise FusecError(f"kernel {kernel.name}: not one kernel: {reason}")
    return _Emitter(region, shape, kernel, arch).emit()


@dataclass(frozen=True)
class Alike:
    """Segments that share one text, with their blocks in the grid: (segment, first, blocks)."""

    members: tuple[tuple[Segment, int, int], ...]

    @property
    def first(self) -> int:
        """The first block."""
        return self.members[0][1]

    @property
    def end(self) -> int:
        """Behind the last block."""
        return self.members[-1][1] + self.members[-1][2]


class _Emitter:
    def __init__(self, region: Graph, shape: KernelShape, kernel: Kernel, arch: Arch) -> None:
        self.region, self.shape = region, shape
        self.geometry = plan(shape, kernel.choice or default(shape, kernel.overlaps))
        self.scope = Scope(region, self.geometry, kernel.overlaps, arch)
        self.prologue = Prologue(self.scope, shape)
        self.alike = self._classes()

    def emit(self) -> CudaKernel:
        body = self.scope.w
        matvecs: list[Matvecs | None] = []
        bindings = [self._bindings(alike) for alike in self.alike]
        for alike, binding in zip(self.alike, bindings, strict=True):
            with self._bound(binding):
                matvecs.append(self._matvec(alike) if self._role(alike) == "rows" else None)
        self.prologue.begin()

        def loads() -> None:
            for at, alike in enumerate(self.alike):
                matvec = matvecs[at]
                if len(alike.members) > 1 or (matvec and matvec.early):
                    with self._branch(at), self._bound(bindings[at]):
                        self._choose(alike, bindings[at])
                        if matvec:
                            matvec.load()

        def behind_wait() -> None:
            for at, matvec in enumerate(matvecs):
                if matvec and matvec.has_activations:
                    with self._branch(at), self._bound(bindings[at]):
                        matvec.fetch_activations()

        def beside_reads() -> None:
            for at, matvec in enumerate(matvecs):
                if matvec and matvec.has_ahead:
                    with self._branch(at), self._bound(bindings[at]):
                        matvec.beside_reads()

        # records come last: there are so many bytes of them that other loads would wait for long
        last = any(isinstance(matvec, TiledMatvec) for matvec in matvecs)
        if not last:
            loads()
        if not self.waits_inside:
            before = loads if last else lambda: None
            self.prologue.emit(Others(before, behind_wait, beside_reads))
        for at, alike in enumerate(self.alike):
            body.line()
            with self._branch(at), self._bound(bindings[at]):
                if matvec := matvecs[at]:
                    matvec.rest()
                else:
                    self._others(alike)
        return self._module(body)

    @property
    def waits_inside(self) -> bool:
        """Whether the kernel is one attention, which reads most of the caches before it waits."""
        return not self.shape.prologue and [s.role for s in self.shape.segments] == ["heads"]

    def _module(self, body: Writer) -> CudaKernel:
        """The source around the body, which is written last because it declares what that used."""
        kernel = Writer()
        arguments = ", ".join(name for name, _ in self.scope.arguments)
        with kernel.block(f"def {self.region.name}({arguments}):"):
            for name, what in self.scope.arguments:
                kernel.line(f"# {name}: {what}")
            kernel.line(f"thread = below(thread_index(), {self.geometry.threads})")
            kernel.line("block = block_index()")
            kernel.line("lane, warp = uint32(thread & uint32(31)), uint32(thread >> uint32(5))")
            if self.geometry.paired:
                kernel.line("half = uint32(block & uint32(1))", "of the columns: what is its own")
            for line in (self.scope.declaration, *self.scope.places):
                if line:
                    kernel.line(line)
            for line in body.text.splitlines():
                if line == WAIT:
                    self._hold(kernel)
                kernel.line(line)
        geometry = self.geometry
        clusters = f", {geometry.cluster} blocks a cluster" if geometry.cluster > 1 else ""
        head = (
            f'"""{str(self.region).rstrip()}\n\nEmitted by fusec for CUDA: {geometry.grid} blocks '
            f'of {geometry.threads} threads{clusters}.\n"""\n\n'
        )
        functions = format_functions(kernel.text)
        text = f"{functions}\n\n{kernel.text}" if functions else kernel.text
        imports = "\n".join(import_lines(text))
        return CudaKernel(
            self.region.name,
            f"{head}{imports}\n\n\n{text}",
            tuple(self.scope.signature),
            geometry.threads,
            geometry.min_blocks,
            geometry.grid,
            geometry.cluster,
            self.scope.registers,
            self.scope.dynamic_bytes,
        )

    def _hold(self, w: Writer) -> None:
        """Addresses that are used behind the wait are in registers before it.

        Tiles leave none for what is only used at the end.
        """
        last = {v.name for v in self.region.outputs} if self.scope.dynamic else set()
        kept = [v for v in parameters(self.region) if not v.is_weight and v.name not in last]
        pointers = [self.scope.pointers[v.name] for v in kept]
        w.line("nothing = zero()")
        for name in pointers:
            w.line(f"{name} = at({name}, nothing)")
        words = [f"low_word({name})" for name in pointers]
        if places := self.scope.places:
            w.line(f"{SHARED} = uint32({SHARED} + nothing)")
            for line in places:
                w.line(line)
            words.append(SHARED)
        w.line(f"settle({' ^ '.join(words)})")

    # --- segments that are alike -----------------------------------------------------------------

    def _classes(self) -> list[Alike]:
        found: dict[object, list[tuple[Segment, int]]] = {}
        for segment, blocks in zip(self.shape.segments, self.geometry.blocks, strict=True):
            found.setdefault(self._key(segment), []).append((segment, blocks))
        classes, first = [], 0
        for members in found.values():
            placed = []
            for segment, blocks in members:
                placed.append((segment, first, blocks))
                first += blocks
            classes.append(Alike(tuple(placed)))
        return classes

    def _key(self, segment: Segment) -> object:
        """Equal for segments whose text can be shared."""
        inside = {n.name: k for k, n in enumerate(segment.nodes)}
        external = self._external(segment)

        def operand(value: Value) -> object:
            if value.name in inside:
                return inside[value.name]
            if value.name in external:
                return external.index(value.name), value.dtype, len(value.shape)
            return value.name

        nodes = tuple(
            (
                n.op,
                n.attrs,
                tuple(map(operand, n.inputs)),
                n.name in self.scope.outputs,
                n.inputs[1].shape[1:] if op(n.op).role == "rows" else (),
            )
            for n in segment.nodes
        )
        fixed = segment.role in ("heads", "scalar") or any(
            op(n.op).role in ("store", "fold") for n in segment.nodes
        )
        return nodes, segment.size if fixed else 0

    def _external(self, segment: Segment) -> list[str]:
        """Memory a segment reads element by element or as rows, and memory it writes, in order."""
        inside = {n.name for n in segment.nodes}
        names: dict[str, None] = {}
        for node in segment.nodes:
            vector = {node.inputs[0].name} if op(node.op).role == "rows" else set()
            for value in node.inputs:
                pos = value.dtype == "i32"
                if (
                    value.name in self.scope.pointers
                    and not pos
                    and (value.name not in inside | vector)
                ):
                    names[value.name] = None
            if node.name in self.scope.outputs and not node.outputs[0].is_state:
                names[node.name] = None
        return list(names)

    def _bindings(self, alike: Alike) -> dict[str, tuple[str, ...]]:
        """First member's value -> every member's pointer, where the members differ."""
        columns = zip(*(self._external(s) for s, _, _ in alike.members), strict=True)
        bound = {names[0]: tuple(self.scope.pointers[n] for n in names) for names in columns}
        return {name: pointers for name, pointers in bound.items() if len(set(pointers)) > 1}

    @contextmanager
    def _bound(self, bindings: dict[str, tuple[str, ...]]) -> Iterator[None]:
        """Let the values of the first member be found in the variables that members assign."""
        kept = dict(self.scope.pointers)
        for name, pointers in bindings.items():
            self.scope.pointers[name] = _chosen(pointers)
        yield
        self.scope.pointers.clear()
        self.scope.pointers.update(kept)

    def _choose(self, alike: Alike, bindings: dict[str, tuple[str, ...]]) -> None:
        """Each member's blocks assign its operands, its size and its place in the grid."""
        if len(alike.members) == 1:
            return
        w = self.scope.w
        for k, (segment, first, blocks) in enumerate(alike.members):
            word = "if" if k == 0 else "elif"
            last = k == len(alike.members) - 1
            with w.block("else:" if last else f"{word} block < uint32({first + blocks}):"):
                for pointers in bindings.values():
                    w.line(f"{_chosen(pointers)} = {pointers[k]}")
                w.line(f"size, first_block, blocks = {units(segment)}, {first}, {blocks}")

    @contextmanager
    def _branch(self, at: int) -> Iterator[None]:
        """Only the blocks of the class."""
        condition = f"if block < uint32({self.alike[at].end}):"
        if at:
            behind = f"block >= uint32({self.alike[at].first})"
            condition = f"if ({behind}) & (block < uint32({self.alike[at].end})):"
        alone = len(self.alike) == 1
        with nullcontext() if alone else self.scope.w.block(condition):
            yield

    @staticmethod
    def _role(alike: Alike) -> str:
        return alike.members[0][0].role

    def _size(self, alike: Alike) -> tuple[int | str, str, int | str]:
        """Units, first block and blocks of a member: numbers, or variables if there are several."""
        segment, first, blocks = alike.members[0]
        if len(alike.members) == 1:
            return units(segment), str(first), blocks
        return "size", "first_block", "blocks"

    # --- what they compute -----------------------------------------------------------------------

    def _matvec(self, alike: Alike) -> Matvecs:
        limit, first, blocks = self._size(alike)
        segment = alike.members[0][0]
        if is_tiled(segment):
            return TiledMatvec(self.scope, self.prologue, segment, limit, first, blocks)
        share = self.geometry.warps * self.geometry.rows_at_once * self.geometry.steps
        whole = all(units(s) % share == 0 for s, _, _ in alike.members)
        return Matvec(self.scope, self.prologue, segment, limit, first, blocks, whole)

    def _others(self, alike: Alike) -> None:
        segment, role = alike.members[0][0], self._role(alike)
        if role == "heads":
            (node,) = segment.nodes
            kind = ProjectedAttention if node.op == "attention_project" else Attention
            _, first, _ = self._size(alike)
            kind(self.scope, node, self.waits_inside).emit(first)
        elif role == "scalar":
            self._scalar(segment)
        else:
            self._elements(alike)

    def _elements(self, alike: Alike) -> None:
        """One unit a thread, or several where there are no more blocks."""
        w, threads = self.scope.w, self.geometry.threads
        segment, _, count = alike.members[0]
        limit, first, blocks = self._size(alike)
        indices = Indices(segment, "unit", limit)
        live = f"unit < uint32({limit})"
        elements = Elements(self.scope, segment, indices, live, self.prologue.source)
        elements.begin_folds()
        steps = -(-units(segment) // (count * threads))
        block = f"(block - {first})" if first != "0" else "block"
        if steps > 1:
            block = f"(step * {blocks} + {block})"
        with w.block(f"for step in range({steps}):") if steps > 1 else nullcontext():
            w.line(f"unit = uint32({block} * {threads} + thread)")
            indices.emit(w)
            elements.fetch()
            elements.compute({})
        elements.finish_folds(first, blocks)

    def _scalar(self, segment: Segment) -> None:
        """A reduction of the whole row by one block."""
        (node,) = segment.nodes
        (x,) = node.inputs
        keys, indices = self.scope.shared("keys", 128), self.scope.shared("indices", 128)
        pointers = f"{self.scope.pointers[x.name]}, {x.shape[-1]}, {self.scope.pointers[node.name]}"
        self.scope.w.line(f"{node.op}({pointers}, {self.geometry.threads}, {keys}, {indices})")


def _chosen(pointers: tuple[str, ...]) -> str:
    """The variable that holds one of several pointers."""
    return "_or_".join(dict.fromkeys(pointers))
