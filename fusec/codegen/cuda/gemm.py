"""Products for many rows of a step: a thread block makes a tile, rows of matrices by rows of the
step, on the integer tensor cores.

`gemm_products` makes the sums, in the order of the kernels for one row (`gemm_orders`). At the end
they go through shared memory, so that a warp does the element-wise work of neighbouring elements of
one row of the step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fusec.codegen.cuda.elements import Elements, HasElements, Indices, element_operands
from fusec.codegen.cuda.gemm_orders import products_of
from fusec.codegen.cuda.gemm_products import OUT
from fusec.codegen.cuda.gemm_slabs import COPY, branch, each, first_unit, groups
from fusec.codegen.cuda.scope import Scope, identifier, words
from fusec.codegen.cuda.shape import WARP, Geometry, anchors, is_tiled, units
from fusec.codegen.cuda.sources import Memory
from fusec.codegen.cuda.stages import Stage
from fusec.codegen.cuda.tilings import OF_ROWS, OF_TILES, Tiling
from fusec.errors import FusecError
from fusec.ir.graph import Graph, Value
from fusec.ir.op_matvec import inverse_of, is_fixed
from fusec.ir.ops import position_of
from fusec.ir.region import KernelShape, Segment


def is_gemm(region: Graph) -> bool:
    """Whether a kernel's products are made in tiles."""
    return any(is_fixed(n) for n in region.nodes)


def tilings_of(shape: KernelShape, rows: int) -> tuple[Tiling, ...]:
    """How a block of a kernel may take so many rows of the step; later ways need less memory."""
    return (OF_TILES if any(map(is_tiled, shape.segments)) else OF_ROWS)[rows]


def gemm_geometry(shape: KernelShape, tiling: Tiling) -> Geometry:
    """The grid of a kernel of products, without its layers."""
    counts = tuple(-(-units(s) // each(s, tiling)) for s in shape.segments)
    return Geometry(
        tiling.threads, tiling.beside, 1, 1, counts, sum(counts), "wait", 1, False, False
    )


class Gemm:
    """Emits the whole kernel."""

    def __init__(self, scope: Scope, shape: KernelShape, tiling: Tiling) -> None:
        self.scope, self.w, self.shape, self.tiling = scope, scope.w, shape, tiling
        scope.holds = False
        firsts = [sum(scope.geometry.blocks[:n]) for n in range(len(shape.segments))]
        self.members = list(zip(shape.segments, firsts, scope.geometry.blocks, strict=True))
        self.classes = self._classes()
        sizes = [products_of(scope, self.tiling, members).nbytes for members in self.classes]
        out = 4 * self.tiling.width * (self.tiling.rows + OUT)
        self.behind = max(*sizes, out)  # bytes of shared memory in front of the operands' tiles
        most = max(each(s, self.tiling) for s in shape.segments)
        self.tile_bytes = 4 * self.tiling.width * most  # of an operand
        tiles = max(len(self._tiles(s)) for s in shape.segments)
        scope.dynamic = self.behind + self.tile_bytes * tiles
        width = 4 * self.tiling.width
        self.of_row = {v.name: scope.shared("of_row", width) for v in self._scalars()}

    def _classes(self) -> list[list[tuple[Segment, int, int]]]:
        """Segments whose products are one text: matrices of a format, times the same vector."""
        found: dict[tuple[object, ...], list[tuple[Segment, int, int]]] = {}
        for member in self.members:
            keys = {
                (w.dtype, w.layout, w.shape[1], x.name)
                for x, w in (anchor.inputs[:2] for anchor in anchors(member[0]))
            }
            if len(keys) > 1:
                kinds = " and ".join(sorted(f"{dtype} times {x}" for dtype, _, _, x in keys))
                raise FusecError(
                    f"kernel {self.scope.region.name}: expected matrices of one type and one "
                    f"vector for what tiles combine, found {kinds}"
                )
            found.setdefault(keys.pop(), []).append(member)
        return list(found.values())

    def emit(self) -> None:
        """Every class of segments, in the blocks that are its own."""
        with self.w.at(Stage.FIND):
            self._begin()
        for members in self.classes:
            last = members[-1]
            apart = len(self.classes) > 1
            guard = f"(block >= {members[0][1]}) & (block < {last[1] + last[2]})" if apart else ""
            products = products_of(self.scope, self.tiling, members)
            with self.w.at(Stage.LOAD, guard):
                products.begin()
            with self.w.at(Stage.READ, guard):
                self._fetch(members)
            with self.w.at(Stage.COMPUTE, guard, apart=True):
                products.emit()
                self._finish(members)

    def _begin(self) -> None:
        w = self.w
        w.line(f"first_row = uint32(block_index_y() * uint32({self.tiling.width}))")
        w.line("there_are = uniform(load_u32(rows))")
        with w.block("if uniform(first_row) >= there_are:"):
            w.line("return")
        for value in self._of_rows():
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
        if segment.rope or segment.size % (COPY // 4):
            return []
        inside = {n.name for n in segment.nodes}
        values = [v for n in segment.nodes for v in element_operands(n) if not v.is_weight]
        whole = [v for v in values if v.shape[-1] == segment.size and v.name not in inside]
        return list({v.name: v for v in whole}.values())

    def _fetch(self, members: Sequence[tuple[Segment, int, int]]) -> None:
        """What element-wise work reads, on its way to shared memory long before it is needed."""
        w, width = self.w, self.tiling.width
        w.line("stage = dynamic_shared()")
        own = {v.name for s, _, _ in members for n in s.nodes for v in n.inputs}
        with w.block(f"if some(thread < uint32({-(-width // WARP) * WARP})):"):
            w.line("its = min_u32(uint32(first_row + thread), uint32(there_are - 1))")
            for value in self._scalars():
                if value.name in own:
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
                w.line(f"row = uint32(copies >> uint32({pieces.bit_length() - 1}))")
                w.line(f"piece = uint32(copies & uint32({pieces - 1}))")
                start = f"uint32({first_unit(first, share)} + piece * {COPY // 4})"
                w.line(f"start = min_u32({start}, uint32({size - COPY // 4}))")
                w.line("its = min_u32(uint32(first_row + row), uint32(there_are - 1))")
                source = f"at({self.scope.pointers[value.name]}, uint32(its * {size} + start))"
                to = f"uint32(stage + {self._tile(k)} + copies * {COPY})"
                w.line(f"copy_async_16_if({to}, {source}, row < uint32({self.tiling.width}))")

    def _tile(self, k: int) -> int:
        """Where the k-th tile of a segment's operands is."""
        return self.behind + k * self.tile_bytes

    def _finish(self, members: Sequence[tuple[Segment, int, int]]) -> None:
        for n, (segment, first, blocks) in enumerate(members):
            with branch(self.w, n, first + blocks, len(members)):
                self._elements(segment, first)

    def _elements(self, segment: Segment, first: int) -> None:
        """A thread's elements of the tile, one after the other."""
        w, tiling = self.w, self.tiling
        share, threads = each(segment, tiling), tiling.threads
        count, limit = share * tiling.width, units(segment)
        indices = Indices(segment, "unit", limit)
        tiles = {v.name: k for k, v in enumerate(self._tiles(segment))}

        def source(value: Value) -> HasElements:
            if value.name in tiles:
                return _Near(self._tile(tiles[value.name]), share)
            return Memory(self.scope.pointers[value.name], value.shape[-1])

        elements = Elements(self.scope, segment, indices, "live", source)
        with w.block(f"for step in range({-(-count // threads)}):"):
            w.line(f"place = uint32(uint32(step * {threads}) + thread)")
            if count % threads:
                w.line(f"has_one = place < uint32({count})")
                w.line(f"place = min_u32(place, uint32({count - 1}))")
            w.line(f"own = uint32(place & uint32({share - 1}))")
            w.line(f"row = uint32(place >> uint32({share.bit_length() - 1}))")
            w.line(f"sums = uint32(stage + (row * {tiling.rows + OUT} + own) * 4)")
            w.line("near = row")
            w.line("row = uint32(row + first_row)")
            w.line(f"unit = uint32({first_unit(first, share)} + own)")
            inside = "" if limit % share == 0 else f" & (unit < uint32({limit}))"
            inside += " & has_one" if count % threads else ""
            w.line(f"live = (row < there_are){inside}")
            w.line("row = min_u32(row, uint32(there_are - 1))")
            own = {v.name for n in segment.nodes for v in (*n.inputs, *n.outputs)}
            for value in self._of_rows():
                if value.name in own:
                    name = self.scope.pointers[value.name]
                    w.line(f"{name} = at(all_{name}, uint32(row * uint32({words(value)})))")
            for name in sorted(own & self.of_row.keys()):
                if self._is_position(name):
                    now = elements.positions[name] = f"now_{name[1:]}"
                    w.line(f"{now} = load_shared_u32(uint32({self.of_row[name]} + near * 4))")
            indices.emit(w)
            elements.fetch()
            elements.compute(self._sums(segment, indices))

    def _sums(self, segment: Segment, indices: Indices) -> dict[tuple[str, str], str]:
        """The sums of a thread's unit, each times its row's factor if it has one."""
        sums = {}
        for k, (anchor, n) in enumerate(groups(segment)):
            name = f"sum_{identifier(anchor.inputs[1])}_{n}"
            place = f"uint32(sums + {4 * k * each(segment, self.tiling)})"
            factor = ""
            if (inverse := inverse_of(anchor)) is not None:
                place_of = f"uint32({self.of_row[inverse.name]} + near * 4)"
                factor = f" * load_shared_f32({place_of})"
            self.w.line(f"{name} = load_shared_f32({place}){factor}")
            sums[anchor.name, indices.names[n]] = name
        return sums

    def _is_position(self, name: str) -> bool:
        return any(v.name == name and v.dtype == "i32" for v in self._scalars())


@dataclass(frozen=True)
class _Near:
    """Elements of a tile in shared memory, `share` of them a row of the step."""

    start: int
    share: int

    def element(self, _i: str) -> str:
        """That of the thread's unit: operands that are read element by element share its index."""
        return f"load_shared_f32(uint32(stage + {self.start} + (near * {self.share} + own) * 4))"
