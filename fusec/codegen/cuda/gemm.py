"""Products for many rows of a step: a thread block makes a tile, rows of matrices by rows of the
step, on the integer tensor cores.

`gemm_products` makes the sums, in the order of the kernels for one row (`gemm_orders`). At the end
they go through shared memory, so that a warp does the element-wise work of neighbouring elements of
one row of the step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fusec.codegen.cuda.elements import element_operands
from fusec.codegen.cuda.gemm_elements import Places, TileElements
from fusec.codegen.cuda.gemm_orders import ByRows, ByTiles
from fusec.codegen.cuda.gemm_pairs import Pairs, grouped_product
from fusec.codegen.cuda.gemm_parts import ByParts
from fusec.codegen.cuda.gemm_products import OUT, Products
from fusec.codegen.cuda.gemm_records import COPY
from fusec.codegen.cuda.gemm_slabs import Members, branch, each, first_unit, reach
from fusec.codegen.cuda.gemm_vectors import Vectors
from fusec.codegen.cuda.scope import Scope
from fusec.codegen.cuda.shape import TILE_WARPS, WARP, Geometry, anchors, is_tiled
from fusec.codegen.cuda.stages import Stage
from fusec.codegen.cuda.tilings import SLIM, own_tilings, tilings
from fusec.errors import FusecError
from fusec.ir.choice import Tiling
from fusec.ir.graph import Graph, Value
from fusec.ir.op_groups import is_grouped, used_by
from fusec.ir.op_matvec import branch_of, inverse_of, is_fixed
from fusec.ir.ops import op, position_of
from fusec.ir.region import KernelShape, Segment
from fusec.ir.target import TILES


def is_gemm(region: Graph) -> bool:
    """Whether a kernel's products are made in tiles."""
    return any(is_fixed(n) for n in region.nodes)


def tilings_of(shape: KernelShape, rows: int, sms: int) -> tuple[Tiling, ...]:
    """How a block of a kernel may take so many rows of the step; later ways need less memory."""
    matrices = [a.inputs[1] for s in shape.segments for a in anchors(s)]
    tiled, of_all = any(map(is_tiled, shape.segments)), sum(m.shape[0] for m in matrices)
    if shape.prologue:
        return own_tilings(of_all, sms, normed=any(op(n.op).trees for n in shape.prologue))
    return tilings(of_all, rows, sms, tiled=tiled)


def why_not_tiling(shape: KernelShape, tiling: Tiling) -> str | None:
    """The reason a kernel of this shape cannot have that tiling, or None if it can."""
    if shape.prologue and tiling.width != SLIM:
        return f"expected tiles of {SLIM} rows of the step, which a block makes, found {tiling}"
    if tiling.along & (tiling.along - 1):
        return f"expected a power of two warps along the rows of the step, found {tiling}"
    for segment in shape.segments:
        share = each(segment, tiling)
        if share < 4 or share & (share - 1):
            return f"expected a power of two elements of a tile, from four on, found {share}"
        used = max((used_by(a) for a in anchors(segment) if is_grouped(a)), default=0)
        if tiling.width < used:  # or layers, which are of whole rows, would be too few
            return f"expected tiles of at least the {used} experts of a row, found {tiling}"
    if tiling.deep > TILE_WARPS:
        return f"expected at most {TILE_WARPS} branches of the columns, found {tiling.deep}"
    return None


def gemm_geometry(shape: KernelShape, tiling: Tiling) -> Geometry:
    """The grid of a kernel of products, without its layers."""
    counts = tuple(-(-reach(s) // each(s, tiling)) for s in shape.segments)
    return Geometry(
        tiling.threads, tiling.beside, 1, 1, counts, sum(counts), tiling.release, 1, False, False
    )


def order_of(members: Members) -> type[Products]:
    """How the rows of a class of segments are summed up: the matrices' layout asks for it."""
    anchor = anchors(members[0][0])[0]
    if anchor.inputs[1].layout == TILES:
        return ByTiles
    return ByParts if branch_of(anchor) else ByRows


class Gemm:
    """Emits the whole kernel."""

    def __init__(self, scope: Scope, shape: KernelShape, tiling: Tiling) -> None:
        self.scope, self.w, self.shape, self.tiling = scope, scope.w, shape, tiling
        scope.holds = False
        firsts = [sum(scope.geometry.blocks[:n]) for n in range(len(shape.segments))]
        self.vectors = Vectors(scope, shape, tiling) if shape.prologue else None
        product = grouped_product(scope.region)
        self.pairs = Pairs(scope, tiling, product) if product is not None else None
        # what a block multiplies depends on the launch in front where rows are grouped
        self.load_at = Stage.READ if self.pairs else Stage.LOAD
        self.members = list(zip(shape.segments, firsts, scope.geometry.blocks, strict=True))
        self.classes = self._classes()
        out = 4 * self.tiling.width * (self.tiling.rows + OUT)
        sizes = [self._products(members).nbytes for members in self.classes]
        self.behind = max(*sizes, out)  # bytes of shared memory in front of the operands' tiles
        most = max(each(s, self.tiling) for s in shape.segments)
        self.tile_bytes = 4 * self.tiling.width * most  # of an operand
        tiles = max(len(self._tiles(s)) for s in shape.segments)
        scope.dynamic = self.behind + self.tile_bytes * tiles
        width = 4 * self.tiling.width
        self.of_row = {v.name: scope.shared("of_row", width) for v in self._scalars()}
        if self.vectors is not None:
            scope.dynamic += self.vectors.place(scope.dynamic, self._records())
        self.early = self.vectors is not None and all(
            TileElements.has_one(s, tiling) for s in shape.segments
        )

    def _classes(self) -> list[list[tuple[Segment, int, int]]]:
        """Segments whose products are one text: matrices of a format, times the same vector."""
        found: dict[tuple[object, ...], list[tuple[Segment, int, int]]] = {}
        for member in self.members:
            keys = {
                (w.dtype, w.layout, w.shape[1], x.name, branch_of(anchor))
                for anchor in anchors(member[0])
                for x, w in (anchor.inputs[:2],)
            }
            if len(keys) > 1:
                kinds = " and ".join(sorted(f"{dtype} times {x}" for dtype, _, _, x, _ in keys))
                raise FusecError(
                    f"kernel {self.scope.region.name}: expected matrices of one type and one "
                    f"vector for what tiles combine, found {kinds}"
                )
            found.setdefault(keys.pop(), []).append(member)
        return list(found.values())

    def _products(self, members: Members) -> Products:
        own = None if self.vectors is None else self.vectors.own(anchors(members[0][0])[0])
        return order_of(members)(self.scope, self.tiling, members, own, self.pairs)

    def _records(self) -> dict[str, int]:
        """Vector that the block makes -> how many records of a row products read."""
        found: dict[str, int] = {}
        for products in map(self._products, self.classes):
            found[products.x.name] = max(products.reach, found.get(products.x.name, 0))
        return found

    def emit(self) -> None:
        """Every class of segments, in the blocks that are its own."""
        with self.w.at(Stage.READ if self.pairs else Stage.FIND):
            self._begin()
        if self.vectors is not None:
            self.vectors.emit(self.of_row)
        for members in self.classes:
            last = members[-1]
            apart = len(self.classes) > 1
            guard = f"(block >= {members[0][1]}) & (block < {last[1] + last[2]})" if apart else ""
            products = self._products(members)
            elements = [self._elements(segment, first) for segment, first, _ in members]
            with self.w.at(self.load_at, guard):
                products.begin()
                if products.is_early:
                    products.decode_first()
                if self.early:
                    self._of_each(members, [each_of.begin for each_of in elements])
            with self.w.at(Stage.READ, guard):
                self._fetch(members)
            with self.w.at(Stage.COMPUTE, guard, apart=True):
                products.emit()
                self._of_each(members, [each_of.finish for each_of in elements])

    def _begin(self) -> None:
        w = self.w
        if self.pairs is not None:
            w.line("stage = dynamic_shared()")
            self.pairs.begin()
        else:
            w.line(f"first_row = uint32(block_index_y() * uint32({self.tiling.width}))")
            w.line("there_are = uniform(load_u32(rows))")
            w.line("stage = dynamic_shared()")
            with w.block("if uniform(first_row) >= there_are:"):
                w.line("return")
        read = [] if self.vectors is None else self.vectors.read
        for value in dict.fromkeys([*self._of_rows(), *read]):
            name = self.scope.pointers[value.name]
            w.line(f"all_{name} = {name}")

    def _of_rows(self) -> list[Value]:
        """What element-wise work finds in memory at a row of the step."""
        near = {v.name for s in self.shape.segments for v in self._tiles(s)}
        values = [
            v
            for s in self.shape.segments
            for n in s.nodes
            for v in (*element_operands(n), *n.outputs)
            if not (v.is_weight or v.is_state) and v.name not in near
        ]
        return list({v.name: v for v in values if v.name in self.scope.pointers}.values())

    def _scalars(self) -> list[Value]:
        """One number for each row of the step: what scales its products, and its position."""
        found: dict[str, Value] = {}
        for node in (n for s in self.shape.segments for n in s.nodes):
            if (pos := position_of(node)) is not None:
                found[pos.name] = pos
            if (inverse := inverse_of(node)) is not None:
                found[inverse.name] = inverse
        return list(found.values())

    def _tiles(self, segment: Segment) -> list[Value]:
        """What element-wise work reads of other kernels, a tile of it like that of the products."""
        if segment.rope or segment.size % (COPY // 4) or self.pairs:
            return []
        inside = {n.name for n in segment.nodes}
        values = [v for n in segment.nodes for v in element_operands(n) if not v.is_weight]
        whole = [v for v in values if v.shape[-1] == segment.size and v.name not in inside]
        return list({v.name: v for v in whole}.values())

    def _fetch(self, members: Sequence[tuple[Segment, int, int]]) -> None:
        """What element-wise work reads, on its way to shared memory long before it is needed."""
        w, width = self.w, self.tiling.width
        own = {v.name for s, _, _ in members for n in s.nodes for v in n.inputs}
        with w.block(f"if some(thread < uint32({-(-width // WARP) * WARP})):"):
            w.line("its = min_u32(uint32(first_row + thread), uint32(there_are - 1))")
            for value in self._scalars():
                made = value.name in self.scope.region.producers
                if value.name in own and not (made or (self.early and value.dtype == "i32")):
                    kind = "u32" if value.dtype == "i32" else "f32"
                    w.line(f"found = load_{kind}(at({self.scope.pointers[value.name]}, its))")
                    place = f"uint32({self.of_row[value.name]} + thread * 4)"
                    w.line(f"store_shared_{kind}_if({place}, found, thread < uint32({width}))")
        for n, (segment, first, blocks) in enumerate(members):
            if any(self._tiles(s) for s, _, _ in members):
                with branch(w, n, first + blocks, len(members)):
                    w.line("copies = thread")  # so that no branch is empty
                    self._copy_tiles(segment, first)

    def _copy_tiles(self, segment: Segment, first: int) -> None:
        w, threads, share = self.w, self.tiling.threads, each(segment, self.tiling)
        pieces = share * 4 // COPY
        for k, value in enumerate(self._tiles(segment)):
            size = value.shape[-1]
            with w.block(f"for step in range({-(-self.tiling.width * pieces // threads)}):"):
                w.line(f"copies = uint32(uint32(step * {threads}) + thread)")
                w.line(f"copied = uint32(copies >> uint32({pieces.bit_length() - 1}))")
                w.line(f"piece = uint32(copies & uint32({pieces - 1}))")
                start = f"uint32({first_unit(first, share)} + piece * {COPY // 4})"
                w.line(f"start = min_u32({start}, uint32({size - COPY // 4}))")
                w.line("its = min_u32(uint32(first_row + copied), uint32(there_are - 1))")
                source = f"at({self.scope.pointers[value.name]}, uint32(its * {size} + start))"
                to = f"uint32(stage + {self._tile(k)} + copies * {COPY})"
                w.line(f"copy_async_16_if({to}, {source}, copied < uint32({self.tiling.width}))")

    def _tile(self, k: int) -> int:
        """Where the k-th tile of a segment's operands is."""
        return self.behind + k * self.tile_bytes

    def _of_each(self, members: Members, emits: Sequence[Callable[[], None]]) -> None:
        """A text for each of the segments, in its own blocks."""
        for n, ((_, first, blocks), emit) in enumerate(zip(members, emits, strict=True)):
            with branch(self.w, n, first + blocks, len(members)):
                emit()

    def _elements(self, segment: Segment, first: int) -> TileElements:
        near = {v.name: self._tile(k) for k, v in enumerate(self._tiles(segment))}
        places = Places(near, self.of_row, self._of_rows())
        given = places, self.early, self.pairs
        return TileElements(self.scope, self.tiling, segment, first, *given)
