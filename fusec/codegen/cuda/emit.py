"""A region becomes one Numba CUDA kernel, launched with one pointer for each parameter.

The thread blocks of the grid are dealt to the segments in order; segments that are `alike` share
one text. The emitters write lines into stages (`stages`), and a wrapper says what stands between
those (`wrapper`); here the parts are chosen and put together.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

from fusec.codegen.common import open_region
from fusec.codegen.cuda.alike import Alike, classes
from fusec.codegen.cuda.arch import ARCHS, Arch
from fusec.codegen.cuda.attention import Attention
from fusec.codegen.cuda.attention_project import ProjectedAttention
from fusec.codegen.cuda.attention_rows import AttentionRows
from fusec.codegen.cuda.defaults import default
from fusec.codegen.cuda.elements import Elements, Indices
from fusec.codegen.cuda.expert_matvec import ExpertMatvec
from fusec.codegen.cuda.gemm import Gemm, gemm_geometry, is_gemm, tilings_of, why_not_tiling
from fusec.codegen.cuda.gemm_pairs import grouped_product, layers_of
from fusec.codegen.cuda.grouping import Grouping, grouping_geometry, is_grouping
from fusec.codegen.cuda.head_rows import HeadRows
from fusec.codegen.cuda.imports import format_functions, import_lines
from fusec.codegen.cuda.interleave import interleaved
from fusec.codegen.cuda.matvec import Matvec
from fusec.codegen.cuda.matvec_parts import SharedMatvec
from fusec.codegen.cuda.matvecs import Matvecs
from fusec.codegen.cuda.parts_of_rows import PartsOfRows
from fusec.codegen.cuda.prologue import Prologue
from fusec.codegen.cuda.routing import Routing
from fusec.codegen.cuda.row_prologues import ROW_PROLOGUES
from fusec.codegen.cuda.rows import INTERLEAVING, ways_of_rows, why_not_way
from fusec.codegen.cuda.scope import SHARED, Scope, begin_row, begin_rows, zeros_of
from fusec.codegen.cuda.shape import is_tiled, plan, projections, units, why_not
from fusec.codegen.cuda.stages import Stage
from fusec.codegen.cuda.tiles import TiledMatvec
from fusec.codegen.cuda.toolchain import CudaKernel
from fusec.codegen.cuda.wrapper import Dependent, Launched, Phase, assemble
from fusec.errors import FusecError
from fusec.ir.choice import Choice, Tiling
from fusec.ir.graph import Graph, Node
from fusec.ir.ops import op, picks_rows
from fusec.ir.plan import Kernel
from fusec.ir.region import KernelShape, Segment, parameters
from fusec.ir.target import layouts_apart
from fusec.writer import Writer

MOST_BYTES = 1 << 32  # offsets into a buffer are 32 bits wide
SCALARS = {"route": Routing}
"""Reductions that have an emitter; the others are functions of the library, under their name."""


def emit(kernel: Kernel, arch: Arch = ARCHS["sm_90a"], sms: int | None = None) -> CudaKernel:
    """Source and launch shape of a kernel for an architecture, and a number of multiprocessors.

    Raises FusecError if its region cannot be one kernel.
    """
    region, shape = _opened(kernel)
    sms = arch.sms if sms is None else sms
    if is_gemm(region):
        return _in_tiles(kernel, region, shape, arch, sms)
    if is_grouping(region):
        geometry = grouping_geometry(region)
        scope = Scope(region, geometry, kernel.overlaps, arch, kernel.rows)
        return _Emitter(shape, scope, Grouping(scope)).emit()
    if isinstance(kernel.choice, Tiling):
        raise FusecError(f"kernel {kernel.name}: expected a choice of warps, found {kernel.choice}")
    rows, choice = kernel.taken, kernel.choice
    if choice is None:
        choice = default(shape, sms, kernel.overlaps, kernel.rows, kernel.leads)
    if reason := why_not_way(shape, choice.way, rows, arch.shared):
        raise FusecError(f"kernel {kernel.name}: {reason}")
    _check(kernel, shape, choice, arch, sms)
    scope = Scope(region, plan(shape, choice, sms), kernel.overlaps, arch, rows)
    way = choice.way or next(iter(ways_of_rows(shape, rows, arch.shared)), "")
    if way in ROW_PROLOGUES:
        return _Emitter(shape, scope, PartsOfRows(scope, shape, way)).emit()
    scope.interleaves = way == INTERLEAVING
    return _Emitter(shape, scope).emit()


def emit_phase(
    kernel: Kernel, choice: Choice, arch: Arch, sms: int, pointer: Callable[[Scope, int], str]
) -> tuple[Scope, list[str]]:
    """The body of a kernel for one row, as a phase of a resident kernel, and its scope.

    `pointer` gives the statement that assigns an argument, by its number. Raises FusecError if the
    kernel's region cannot be one.
    """
    region, shape = _opened(kernel)
    if kernel.rows or is_gemm(region) or is_grouping(region):
        raise FusecError(f"kernel {kernel.name}: expected a kernel of one row of a step")
    _check(kernel, shape, choice, arch, sms)
    scope = Scope(region, plan(shape, choice, sms), True, arch, resident=True)
    return scope, _Emitter(shape, scope).phase(pointer)


def _opened(kernel: Kernel) -> tuple[Graph, KernelShape]:
    """A kernel's region, and how it splits."""
    region, shape = open_region(kernel)
    for value in region.weights:
        if value.nbytes >= MOST_BYTES:
            raise FusecError(
                f"kernel {kernel.name}: weight {value.type} is too large: a CUDA kernel addresses "
                f"less than {MOST_BYTES} bytes"
            )
    if region.nodes and any(v.shape[0] != 1 for v in region.inputs):
        raise FusecError(f"kernel {kernel.name}: expected a canonical region, of one row")
    return region, shape


def _check(kernel: Kernel, shape: KernelShape, choice: Choice, arch: Arch, sms: int) -> None:
    """Raise FusecError for a choice that the kernel cannot have."""
    if reason := why_not(shape, choice, sms):
        raise FusecError(f"kernel {kernel.name}: {reason}")
    if choice.paired and not arch.has_clusters:
        raise FusecError(
            f"kernel {kernel.name}: expected a GPU with clusters, for pairs of blocks, found "
            f"{arch.name}"
        )
    if len(shape.segments) > 1 and (projecting := projections(shape)):
        raise FusecError(
            f"kernel {kernel.name}: expected {projecting[0].op} alone, because its blocks come in "
            f"clusters, found {len(shape.segments)} segments"
        )
    if reason := layouts_apart(shape):
        raise FusecError(f"kernel {kernel.name}: not one kernel: {reason}")


def _in_tiles(
    kernel: Kernel, region: Graph, shape: KernelShape, arch: Arch, sms: int
) -> CudaKernel:
    """A kernel of products of many rows, in the first of its tilings that fits a block's memory."""
    if not kernel.rows:
        raise FusecError(
            f"kernel {kernel.name}: expected a step of several rows for a product of a vector in "
            "fixed point"
        )
    if isinstance(kernel.choice, Choice):
        raise FusecError(f"kernel {kernel.name}: expected a choice of tiles, found {kernel.choice}")
    tilings = (kernel.choice,) if kernel.choice else tilings_of(shape, kernel.rows, sms)
    needed = 0
    for tiling in tilings:
        if reason := why_not_tiling(shape, tiling):
            raise FusecError(f"kernel {kernel.name}: {reason}")
        scope = Scope(region, gemm_geometry(shape, tiling), kernel.overlaps, arch, tiling.width)
        gemm = Gemm(scope, shape, tiling)
        needed = scope.dynamic + scope.shared_bytes
        if needed <= arch.block_shared:
            return _Emitter(shape, scope, gemm).emit()
    raise FusecError(
        f"kernel {kernel.name}: expected a block with at most {arch.block_shared:,} bytes of "
        f"shared memory on {arch.name}, found {needed:,}"
    )


class _Emitter:
    """`several`: of a kernel whose products are of several rows, what emits its body."""

    def __init__(
        self, shape: KernelShape, scope: Scope, several: Gemm | PartsOfRows | Grouping | None = None
    ) -> None:
        self.shape, self.scope, self.several = shape, scope, several
        self.region, self.geometry = scope.region, scope.geometry

    def emit(self) -> CudaKernel:
        if self.several is not None:
            self.several.emit()
        else:
            self._one_row()
        wrapper = Dependent(self.geometry.release) if self.scope.overlaps else Launched()
        return self._module(assemble(self.scope.w, wrapper, self._hold))

    def phase(self, pointer: Callable[[Scope, int], str]) -> list[str]:
        """The lines of a phase of a resident kernel, behind those that assign its arguments.

        Those of activations and states are assigned again behind the wait, so that no register has
        them when it begins: the table lies near.
        """
        self._one_row()
        late = {self.scope.pointers[v.name] for v in parameters(self.region) if not v.is_weight}
        names = [name for name, _ in self.scope.arguments]
        again = tuple(pointer(self.scope, n) for n, name in enumerate(names) if name in late)
        return [*self.scope.places, *assemble(self.scope.w, Phase(again), list)]

    def _one_row(self) -> None:
        """What one row of the step takes, by the blocks of a layer of the grid."""
        prologue = self.prologue = Prologue(self.scope, self.shape)
        self.alike = classes(self.scope, self.shape)
        matvecs: list[Matvecs] = []
        for alike in self.alike:
            if alike.role == "rows":
                with alike.bound():
                    matvecs.append(self._matvec(alike))
        for matvec in matvecs:
            matvec.emit_loads()
        prologue.emit()
        for alike in self.alike:
            if alike.role == "rows":
                matvecs.pop(0).emit()
            else:
                self._others(alike)
        with self.scope.w.at(Stage.BESIDE):
            zeros_of(self.scope.w, self.scope, self.shape)

    def _module(self, body: list[str]) -> CudaKernel:
        """The source around the body."""
        kernel = Writer()
        arguments = ", ".join(name for name, _ in self.scope.arguments)
        with kernel.block(f"def {self.region.name}({arguments}):"):
            for name, what in self.scope.arguments:
                kernel.line(f"# {name}: {what}")
            own: list[str] = []
            if self.scope.interleaves:
                own = begin_rows(kernel, self.scope)
            elif self.scope.rows == 1:
                begin_row(kernel, self.scope)
            kernel.line(f"thread = below(thread_index(), {self.geometry.threads})")
            kernel.line("block = block_index()")
            kernel.line("lane, warp = uint32(thread & uint32(31)), uint32(thread >> uint32(5))")
            if isinstance(self.several, PartsOfRows):
                self.several.begin(kernel)
            if self.geometry.paired:
                kernel.line("half = uint32(block & uint32(1))", "of the columns: what is its own")
            if self.scope.interleaves:
                body = interleaved([*self.scope.places, *body], own, self.scope.rows)
            else:
                body = [*filter(None, [self.scope.declaration]), *self.scope.places, *body]
            for line in body:
                kernel.line(line)
        geometry = self.geometry
        clusters = f", {geometry.cluster} blocks a cluster" if geometry.cluster > 1 else ""
        head = (
            f'"""{str(self.region).rstrip()}\n\nEmitted by fusec for CUDA: {geometry.grid} blocks '
            f'of {geometry.threads} threads{clusters}.\n"""\n\n'
        )
        functions = format_functions(kernel.text)
        text = f"{functions}\n\n{kernel.text}" if functions else kernel.text
        imports = "\n".join(import_lines(functions, kernel.text))
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
            self.scope.static_bytes,
            *self._layers(),
        )

    def _layers(self) -> tuple[int, int]:
        """The rows of a step for which the grid has a layer, and how many it has besides."""
        product = grouped_product(self.region)
        return layers_of(product, self.scope.rows) if product else (self.scope.rows, 0)

    def _hold(self) -> list[str]:
        """Addresses that are used behind the wait are in registers before it.

        Tiles leave none for what is only used at the end; nor do pairs for what they read last, nor
        norms of several sums, behind which the weights wait, for what they do not read.
        """
        if not self.scope.holds:
            return []
        last = {v.name for v in self.region.outputs} if self.scope.dynamic else set()
        last |= {v.name for v in self.shape.clears}  # by a few threads
        kept = [v for v in parameters(self.region) if not v.is_weight and v.name not in last]
        if self.geometry.paired:
            kept = [v for v in kept if v.name in self.prologue.fixed]
        elif any(op(n.op).trees > 1 for n in self.shape.prologue):
            first = {v.name for n in self.shape.prologue for v in n.inputs}
            kept = [v for v in kept if v.name in first]
        pointers = [self.scope.pointers[v.name] for v in kept]
        lines = ["nothing = zero()", *(f"{name} = at({name}, nothing)" for name in pointers)]
        words = [f"low_word({name})" for name in pointers]
        if places := self.scope.places:
            lines += [f"{SHARED} = uint32({SHARED} + nothing)", *places]
            words.append(SHARED)
        return [*lines, f"settle({' ^ '.join(words)})"]

    # --- what they compute -----------------------------------------------------------------------

    def _matvec(self, alike: Alike) -> Matvecs:
        if self.shape.parts is not None:
            return SharedMatvec(alike, self.prologue, self.shape.parts)
        if any(map(picks_rows, alike.segment.nodes)):
            return ExpertMatvec(alike, self.prologue)
        kind = TiledMatvec if is_tiled(alike.segment) else Matvec
        return kind(alike, self.prologue)

    def _others(self, alike: Alike) -> None:
        segment = alike.segment
        if len(alike.members) > 1:
            with alike.at(Stage.LOAD):
                alike.choose()
        if alike.role == "heads":
            (node,) = segment.nodes
            if self.scope.rows > 1:
                AttentionRows(alike, node).emit()
                return
            self._attention(alike, node)
            return
        with alike.at(Stage.COMPUTE, apart=True):
            if alike.role == "scalar":
                self._scalar(segment)
            else:
                self._elements(alike)

    def _attention(self, alike: Alike, node: Node) -> None:
        """One row's, of blocks that may make their head's rows, and multiply by a matrix."""
        shape, rows = self.shape, None
        if shape.rows_of_heads:
            rows = HeadRows(alike, self.prologue, node, shape)
        alone = rows is not None or (not shape.prologue and len(shape.segments) == 1)
        if node.matrices:
            ProjectedAttention(alike, node, alone, shape.of_heads, rows).emit()
        else:
            Attention(alike, node, alone, shape.of_heads).emit()

    def _elements(self, alike: Alike) -> None:
        """One unit a thread, or several where there are no more blocks."""
        w, threads = self.scope.w, self.geometry.threads
        segment, _, count = alike.members[0]
        limit, first, blocks = alike.size
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
        if (emitter := SCALARS.get(node.op)) is not None:
            emitter(self.scope, node).emit()
            return
        keys, indices = self.scope.shared("keys", 128), self.scope.shared("indices", 128)
        read = ", ".join(self.scope.pointers[v.name] for v in node.inputs)
        given = f"{read}, {node.inputs[0].shape[-1]}, {self.scope.pointers[node.name]}"
        self.scope.w.line(f"{node.op}({given}, {self.geometry.threads}, {keys}, {indices})")
