"""Attention of a step of several rows: a block takes one head of 8 to 64 rows, and 16 warps.

For every span of 256 positions it makes the weights of all its rows, then their weighted values,
which it folds into each row's state. Every sum has the order of `fusec.codegen.cuda.attention`
(see `docs/numbers.md`), so a row has the bytes that it has in a step of its own. What is gained is
that keys and values are read once for all the rows, from shared memory, and are made floats once
for eight or four of them:

- Scores: eight lanes share a key as they do there, but each lane has its pieces of the queries of
  `together` rows in registers. A warp's turn is these rows and `sets` chunks, eight scores a key
  piece; the lanes exchange sums so that each ends with four scores, a group's of one row and chunk.
- Values: a lane makes four elements of four rows for a whole chunk, which lie in shared memory
  until a thread for each four elements of a row folds the chunks.

In shared memory lie the queries, the weights of a span, the chunks' results, and two rooms that
keys and values pass in turn: while one is used, the next is being copied to the other. Large heads
pass in smaller tiles than a span. The longest blocks come first in the grid, so that the short ones
fill the gaps at its end.

Rows behind the step's are never stored, and weigh nothing. A value that is not finite must not
reach rows whose weight of it is 0, because its position is behind theirs: chunks near the ends of
rows look for such results, and make them again row by row.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from fusec.codegen.cuda.alike import Alike
from fusec.codegen.cuda.attention import quotient, scaled
from fusec.codegen.cuda.attention_cached import ZEROS
from fusec.codegen.cuda.attention_sizes import COPY, THREADS, WEIGHTS, Sizes, fits
from fusec.codegen.cuda.scope import PAGES
from fusec.codegen.cuda.shape import CHUNK, CHUNKS, SPAN, WARP
from fusec.codegen.cuda.stages import Stage
from fusec.errors import FusecError
from fusec.ir.graph import Node
from fusec.ir.pages import PAGE

GROUPS = 4  # of a chunk's positions
TILE = 4  # rows, and elements of each, that a lane sums up values of
UNROLLED = 4  # pieces of keys, up to which the text has all four steps of a turn


class AttentionRows:
    """The one segment, of role 'heads', of a kernel whose blocks take several rows."""

    def __init__(self, alike: Alike, node: Node) -> None:
        self.alike, self.scope, self.w, self.node = alike, alike.scope, alike.scope.w, node
        rows, shared = self.scope.rows, self.scope.arch.shared
        if not fits(node, rows, shared):
            raise FusecError(f"{node.name}: no block takes {rows} rows of {node.op} at once")
        if self.scope.geometry.threads != THREADS:
            raise FusecError(
                f"{node.name}: expected {THREADS} threads, found {self.scope.geometry.threads}"
            )
        self.q, self.k, self.v, self.pos = (self.scope.pointers[v.name] for v in node.inputs[:4])
        self.heads, self.kv_heads = int(node["heads"]), int(node["kv_heads"])
        self.window = int(node["window"])
        self.dtype = node.inputs[1].dtype
        self.sizes = Sizes.of(node, rows)
        tiles = self.sizes.tiles(shared)
        assert tiles is not None
        self.keys, self.values = tiles
        self.fold = "fold_fours" if self.values >= 4 * CHUNK else "fold_one"
        self.scope.dynamic = sum(self.sizes.places(*tiles).values())
        self.scope.holds = False

    def emit(self) -> None:
        """Everything: only positions are read in front of the wait."""
        w = self.w
        with self.alike.at(Stage.LOAD):
            self._begin()
        with self.alike.at(Stage.READ):
            first = f"uint32(start_span * {SPAN})" if self.window else "0"
            self._copy("k", "room", first, "next_page")
            self._store_queries()
        with self.alike.at(Stage.COMPUTE, apart=True):
            for turn in range(self.sizes.turns):
                w.line(f"state{turn} = (float32(-(1 << 30)), float32(0), {ZEROS[4]})", "no span")
            spans = quotient("end", SPAN)
            if self.window:
                spans = f"uint32({spans} - start_span)"
            with w.block(f"for span in range(int32(uniform({spans}))):"):
                span = "uint32(start_span + uint32(span))" if self.window else "span"
                w.line(f"base = uint32({span} * {SPAN})")
                w.line("left = uint32(end - base)")
                w.line("of_page = next_page")
                w.line(f"next_page = {self._page(f'base + {SPAN}')}")
                chunks = f"uniform(min_u32({quotient('left', CHUNK)}, uint32({CHUNKS})))"
                w.line(f"chunks = {chunks}")
                skipped = f"(max_u32(begins, base) - base) // uint32({CHUNK})"
                w.line(f"skipped = {f'uniform(uint32({skipped}))' if self.window else 'uint32(0)'}")
                self._weights()
                self._values()
            self._store()

    # --- what is read ----------------------------------------------------------------------------

    def _begin(self) -> None:
        w, rows = self.w, self.sizes.rows
        w.line("there_are = uniform(load_u32(rows))")
        w.line(f"layers = uniform({quotient('there_are', rows)})")
        with w.block("if block_index_y() >= layers:"):
            w.line("return")
        layer = "layers - uint32(1) - block_index_y()"
        w.line(f"first_row = uint32(({layer}) * {rows})", "the longest first")
        first = self.alike.size[1]
        w.line(f"head = uint32(block - {first})" if first != "0" else "head = block")
        w.line(f"kv_head = uint32(head // uint32({self.heads // self.kv_heads}))")
        at = 0
        for name, nbytes in self.sizes.places(self.keys, self.values).items():
            w.line(f"{name} = uint32(room + {at})" if at else f"{name} = dynamic_shared()")
            at += nbytes
        given = f"{self.pos}, first_row, there_are, {rows}, ends, lane, warp"
        w.line(f"most, fewest = store_ends({given})")
        w.line("end, last = uniform(most), uint32(most - uint32(1))", "of what the rows attend to")
        if self.window:
            w.line(f"begins = uniform(first_seen(fewest, {self.window}))", "the same")
            w.line(f"start_span = uint32(begins // uint32({SPAN}))")
        w.line(f"next_page = {self._page(f'start_span * {SPAN}' if self.window else '0')}")

    @staticmethod
    def _page(first: str) -> str:
        """The first row of a position's page, or of the last one's in front of it."""
        return f"page_row({PAGES}, min_u32(uint32({first}), last), {PAGE})"

    def _store_queries(self) -> None:
        sizes = self.sizes
        step, offset = self.heads * sizes.head_dim, f"uint32(head * {sizes.head_dim})"
        self.w.line(
            f"store_queries({self.q}, first_row, there_are, {step}, {offset}, {sizes.head_dim}, "
            f"{sizes.piece}, {sizes.parts}, {sizes.rows}, queries, thread)"
        )

    def _copy(self, cache: str, to: str, first: str, page: str = "of_page") -> None:
        """Begin to copy a tile of a page: positions up to the end, and what else a turn reads."""
        sizes, pointer = self.sizes, {"k": self.k, "v": self.v}[cache]
        positions = self.keys if cache == "k" else self.values
        whole = CHUNK * (sizes.sets if cache == "k" else 1)
        limit = f"uint32({quotient('end', whole)} * {whole})"
        step = self.kv_heads * sizes.head_dim
        where = f"{to}, {pointer}, {page}, {PAGE}, uint32({first}), {limit}, last, {step}, "
        where += f"uint32(kv_head * {sizes.head_dim})"
        if sizes.is_copied:
            pieces = f"{sizes.width // COPY}, {COPY // sizes.element}"
            self.w.line(f"copy_positions({where}, {pieces}, {positions}, thread_again())")
        else:
            words = f"{sizes.head_dim * sizes.element // 4}, {4 // sizes.element}, {sizes.width}"
            self.w.line(f"copy_words({where}, {words}, {positions}, thread_again())")

    def _arrive(self) -> None:
        """The tile that comes next is there, for all threads, and the other room is free."""
        if self.sizes.is_copied:
            self.w.line("copy_async_wait()")
        self.w.line("barrier()")

    @contextmanager
    def _tiles(self, cache: str) -> Iterator[str]:
        """A span's tiles, one after the other; gives where one begins in it, "" if it is all."""
        w, other = self.w, {"k": "v", "v": "k"}[cache]
        positions = self.keys if cache == "k" else self.values
        most = SPAN // positions
        behind = ("base", "of_page") if cache == "k" else (f"base + {SPAN}", "next_page")
        if most == 1:
            self._arrive()
            self._copy(other, "other_room", *behind)
            yield ""
            w.line("room, other_room = other_room, room")
            return
        w.line(f"tiles = uniform(min_u32({quotient('left', positions)}, uint32({most})))")
        with w.block("for tile in range(int32(tiles)):"):
            self._arrive()
            w.line(f"begin = uint32(tile * {positions})")
            with w.block("if tile + 1 < tiles:"):
                self._copy(cache, "other_room", f"base + begin + {positions}")
            with w.block("else:"):
                self._copy(other, "other_room", *behind)
            yield "begin"
            w.line("room, other_room = other_room, room")

    # --- weights ---------------------------------------------------------------------------------

    def _again(self) -> None:
        """Which thread this is, asked anew in each part: in between it takes no register."""
        self.w.line("here = thread_again()")
        self.w.line("lane, warp = uint32(here & uint32(31)), uint32(here >> uint32(5))")

    def _place_keys(self) -> None:
        """What a lane has of keys and queries, and which rows and chunks its warp has."""
        w, sizes = self.w, self.sizes
        bits = sizes.together.bit_length() - 1
        groups = self._row_groups()
        self._again()
        w.line("group, member = uint32(lane >> uint32(3)), uint32(lane & uint32(7))")
        w.line(f"its_row = uint32(member & uint32({sizes.together - 1}))")
        w.line(f"its_chunk = uint32(member >> uint32({bits}))")
        w.line(f"of_warp = uint32((warp & uint32({groups - 1})) * {sizes.together})", "first row")
        w.line(f"turn_of_warp = uint32(warp // uint32({groups}))")
        piece = sizes.piece * sizes.element
        for j in range(sizes.sets):
            chunk = f"uint32(its_chunk ^ uint32({j}))" if j else "its_chunk"
            place = f"({chunk} * {CHUNK} + group) * {sizes.width} + member * {piece}"
            w.line(f"keys{j} = uint32(room + {place})")
        if sizes.pieces % 8:
            c = sizes.parts - 1
            w.line(f"inside = uint32(member + {8 * c}) < uint32({sizes.pieces})")
            behind = f"uint32({8 * c * piece}), uint32(uint32(0) - member * uint32({piece}))"
            w.line(f"last_part = select_u32(inside, {behind})")

    def _row_groups(self) -> int:
        """Groups of rows that warps take: a power of two; those behind the rows idle."""
        groups = -(-self.sizes.rows // self.sizes.together)
        return int(1 << (groups - 1).bit_length())

    def _weights(self) -> None:
        """All rows' weights of the span; chunks' exponents and sums of weights."""
        w, sizes = self.w, self.sizes
        each = CHUNK * sizes.sets
        apart = CHUNKS // self._row_groups()  # warps that share a group of rows
        with self._tiles("k") as begin:
            self._place_keys()
            self._queries()
            w.line("row = uint32(of_warp + its_row)")
            known = f"min_u32(row, uint32({sizes.rows - 1}))"
            w.line(f"its_end = load_shared_u32(uint32(ends + {known} * 4))")
            w.line(f"its_begin = first_seen(its_end, {self.window})")
            with w.block(f"for turn in range(int32({-(-self.keys // (each * apart))})):"):
                w.line(f"start = uint32((turn * {apart} + turn_of_warp) * {each})")
                live = "(uint32(first_row + of_warp) < there_are)"
                live += f" & ({_plus(begin, 'start')} < left)"
                if self.window:
                    behind = f"uint32({_plus(begin, 'start')} // uint32({CHUNK}) + {sizes.sets})"
                    live += f" & ({behind} > skipped)"
                if self.keys < each * apart:
                    live += f" & (start < uint32({self.keys}))"
                if self._row_groups() * sizes.together > sizes.rows:
                    live += f" & (of_warp < uint32({sizes.rows}))"
                with w.block(f"if some({live}):"):
                    if self.keys < each * apart:
                        w.line(f"start = min_u32(start, uint32({self.keys - each}))")
                    self._turn(begin)

    def _queries(self) -> None:
        """A lane's pieces of its rows' queries; row i of member m is i ^ m."""
        w, sizes = self.w, self.sizes
        unit = min(16, 4 * sizes.piece)
        half = 8 * unit * sizes.rows
        part = half * (2 if sizes.piece == 8 else 1)
        bound = f"min_u32(of_warp, uint32({sizes.rows - sizes.together}))"
        w.line(f"its_queries = uint32(queries + {bound} * {8 * unit} + member * {unit})")
        for i in range(sizes.together):
            w.line(f"query = uint32(its_queries + uint32(its_row ^ uint32({i})) * {8 * unit})")
            for c in range(sizes.parts):
                place = f"uint32(query + {c * part})" if c else "query"
                w.line(f"q{i}_{c} = query_{sizes.piece}({place}, {half})")

    def _turn(self, begin: str) -> None:
        """A warp's rows and chunks: each lane makes a group's weights of one row and chunk."""
        w, sizes = self.w, self.sizes
        for j in range(sizes.sets):
            w.line(f"here{j} = uint32(start * {sizes.width} + keys{j})")
        score = scaled(self.node, f"score_of_member({', '.join(f'd{n}' for n in range(8))})")
        if sizes.parts * sizes.sets <= UNROLLED:
            for step in range(GROUPS):
                self._scores(str(step * GROUPS * sizes.width))
                w.line(f"score{step} = {score}")
            w.line("scores = (score0, score1, score2, score3)")
        else:
            w.line(f"scores = {ZEROS[4]}")
            with w.block(f"for step in range(int32({GROUPS})):"):
                self._scores(f"step * {GROUPS * sizes.width}")
                w.line(f"scores = (scores[1], scores[2], scores[3], {score})")
        w.line(f"chunk = uint32({_plus(begin, 'start')} // uint32({CHUNK}) + its_chunk)")
        w.line(f"position = uint32(base + chunk * {CHUNK} + group)")
        w.line("p, top = weigh_group(scores, position, its_begin, its_end)")
        w.line(f"place = uint32(weights + row * {WEIGHTS} + chunk * {4 * CHUNK} + group * 16)")
        w.line("store_shared_f32x4(place, p[0], p[1], p[2], p[3])")
        w.line("total = over_groups(p[0] + p[1] + p[2] + p[3])")
        w.line(f"place = uint32((row * {CHUNKS} + chunk) * 4)")
        w.line("store_shared_u32_if(uint32(maxima + place), uint32(top), group == uint32(0))")
        w.line("store_shared_f32_if(uint32(sums + place), total, group == uint32(0))")

    def _scores(self, step: str) -> None:
        """d0 to d7: sums over this member's pieces of sets and rows; `step`: bytes behind here."""
        w, sizes = self.w, self.sizes
        for c in range(sizes.parts):
            ragged = sizes.pieces % 8 and c == sizes.parts - 1
            part = "last_part" if ragged else str(8 * c * sizes.piece * sizes.element)
            for j in range(sizes.sets):
                place = f"uint32(here{j} + {step} + {part})"
                w.line(f"k = key_{self.dtype}_{sizes.piece}({place})")
                for i in range(sizes.together):
                    d = f"d{j * sizes.together + i}"
                    w.line(f"{d} = dot_{sizes.piece}({d if c else ZEROS[2]}, k, q{i}_{c})")

    # --- values ----------------------------------------------------------------------------------

    def _values(self) -> None:
        """The span's weighted values, folded into the rows' states."""
        w, sizes = self.w, self.sizes
        if self.values < SPAN:
            for turn in range(sizes.turns):
                w.line(f"found{turn} = {ZEROS[4]}")
        with self._tiles("v") as begin:
            given = f"maxima, sums, factors, tops, {self.window}, skipped, chunks, {sizes.rows}"
            w.line(f"store_factors({given}, thread_again())")
            self._chunk(begin)
            w.line("barrier()")
            self._fold(begin)

    def _chunk(self, begin: str) -> None:
        """One chunk, by as many warps as there are for each; a lane has four rows and elements."""
        w, sizes = self.w, self.sizes
        share = THREADS * CHUNK // self.values
        units = sizes.rows // TILE * sizes.quads
        self._again()
        w.line(f"of_values = uint32(warp & uint32({self.values // CHUNK - 1}))", "a chunk")
        among = f"uint32((warp // uint32({self.values // CHUNK})) * {WARP} + lane)"
        w.line(f"among = {among}" if share > WARP else "among = lane")
        chunk = f"uint32(begin // uint32({CHUNK}) + of_values)" if begin else "of_values"
        w.line(f"chunk = {chunk}")
        w.line(f"start = uint32(base + chunk * {CHUNK})")
        with w.block(f"for turn in range(int32({-(-units // share)})):"):
            w.line(f"unit = uint32(turn * {share} + among)")
            w.line(f"four = uint32(min_u32(unit, uint32({units - 1})) // uint32({sizes.quads}))")
            w.line(f"row = uint32(four * {TILE})")
            live = f"(unit < uint32({units})) & (uint32(first_row + row) < there_are)"
            w.line(f"live = {live}")
            w.line(f"quad = uint32(min_u32(unit, uint32({units - 1})) - four * {sizes.quads})")
            place = f"of_values * {sizes.out} + (row * {sizes.quads} + quad) * 16"
            w.line(f"out = uint32(outs + {place})")
            there = " & (chunk >= skipped)" if self.window else ""
            with w.block(f"if some(live & (chunk < chunks){there}):"):
                w.line(f"its_weights = uint32(weights + row * {WEIGHTS} + chunk * {4 * CHUNK})")
                place = f"of_values * {CHUNK * sizes.width} + quad * {4 * sizes.element}"
                w.line(f"values = uint32(room + {place})")
                given = f"its_weights, values, {WEIGHTS}, {sizes.width}, {self.dtype == 'f16'}"
                w.line(f"o = weighted_chunk({given})")
                w.line(f"store_four_rows(out, {16 * sizes.quads}, o)")
                near = f"(uint32(start + {CHUNK}) >= fewest)"
                if self.window:
                    near += f" | (start < first_seen(end, {self.window}))"
                with w.block(f"if some({near}):"), w.block("if some(are_not_finite(o)):"):
                    ends = f"uint32(ends + row * 4), start, out, {16 * sizes.quads}"
                    w.line(f"careful_chunk({given}, {self.window}, {ends})")
            if empty := self._empty():
                with w.block(f"if some(live & {empty}):"):
                    zeros = ", ".join([ZEROS[4]] * TILE)
                    w.line(f"store_four_rows(out, {16 * sizes.quads}, ({zeros}))")

    def _empty(self) -> str:
        """Whether a chunk is read though nobody made it; empty if there is none."""
        behind, skipped = "", "(chunk < skipped)"
        if self.fold == "fold_fours":
            fours = "uint32(uint32(chunks + uint32(3)) & uint32(28))"
            behind = f"(chunk >= chunks) & (chunk < {fours})"
        if not self.window:
            return behind
        return f"({skipped} | ({behind}))" if behind else skipped

    def _fold(self, begin: str) -> None:
        """A thread's quads: the tile's chunks, and behind the last tile the span.

        A span behind a row's end has the `top` of nothing and zeros, which change no state.
        """
        w, sizes = self.w, self.sizes
        first, count = "own", "chunks"
        if begin:
            w.line(f"first = uint32(begin // uint32({CHUNK}))")
            most = f"uint32({self.values // CHUNK})"
            w.line(f"count = uniform(min_u32(uint32(chunks - first), {most}))")
            first, count = "own + first * 4", "count"
        for turn in range(sizes.turns):
            self._own(turn)
            with w.block("if some(live):"):
                w.line(f"own = uint32(row * {4 * CHUNKS})", "its factors and sums")
                outs = f"uint32(outs + (row * {sizes.quads} + quad) * 16), {sizes.out}"
                before = f"found{turn}" if begin else ZEROS[4]
                given = f"{before}, uint32(factors + {first}), {outs}, {count}"
                w.line(f"found{turn} = {self.fold}({given})")
                with w.block("if tile + 1 == tiles:") if begin else nullcontext():
                    w.line("top = load_shared_f32(uint32(tops + row * 4))")
                    w.line("total = fold_sums(uint32(factors + own), uint32(sums + own), chunks)")
                    w.line(f"state{turn} = fold_four(state{turn}, (top, total, found{turn}))")

    def _own(self, turn: int) -> None:
        """Which quad of which row a thread has."""
        w, sizes = self.w, self.sizes
        units = sizes.rows * sizes.quads
        w.line("here = thread_again()")
        unit = f"uint32(here + {turn * THREADS})" if turn else "here"
        w.line(f"own = min_u32({unit}, uint32({units - 1}))")
        w.line(f"row = uint32(own // uint32({sizes.quads}))")
        w.line(f"quad = uint32(own - row * {sizes.quads})")
        w.line(f"live = ({unit} < uint32({units})) & (uint32(first_row + row) < there_are)")

    def _store(self) -> None:
        w, sizes = self.w, self.sizes
        out = self.scope.pointers[self.node.name]
        for turn in range(sizes.turns):
            self._own(turn)
            step = self.heads * sizes.head_dim
            if sinks := self.node.weights:
                sink = f"load_f32(at({self.scope.pointers[sinks[0].name]}, head))"
                w.line(f"state{turn} = fold_sink_four(state{turn}, {sink})")
            place = f"uint32((first_row + row) * {step} + head * {sizes.head_dim})"
            w.line(f"store_attention({out}, {place}, quad, {sizes.head_dim}, state{turn}, live)")


def _plus(begin: str, what: str) -> str:
    """The sum, where a tile is not the whole span."""
    return f"uint32({begin} + {what})" if begin else what
