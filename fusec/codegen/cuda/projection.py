"""Partial sums of a product over some columns, in the thread blocks that make those elements.

The columns of a part are `branch` blocks of 32 elements in each round, a power of two. So `branch`
neighbouring lanes have a row's share of them, and the first distances of the canonical order (see
`matvec`) sum it up. The results, one vector of all rows for each part, are what `Summed` in the
next kernel adds up.

The rows are dealt to the lanes of all thread blocks that work on the part. Weights are loaded and
decoded in front of the wait.
"""

from __future__ import annotations

from collections.abc import Sequence

from fusec.codegen import formats
from fusec.codegen.cuda.block_products import accumulate, decode
from fusec.codegen.cuda.columns import BLOCK
from fusec.codegen.cuda.forms import FixedPoint
from fusec.codegen.cuda.scope import IS_THERE, Scope
from fusec.codegen.cuda.shape import WARP
from fusec.codegen.formats import QuantFormat
from fusec.errors import FusecError
from fusec.ir.graph import Value


class Projection:
    """What multiplies by a part's columns; a lane's variables of its k-th row end in k.

    `part` and `rank` are variables: which part it is, and which of its `ranks` thread blocks. The
    `parts` that it makes are written to memory, or added to the sums of all parts.
    """

    part, rank = "part", "rank"

    def __init__(self, scope: Scope, weight: Value, branch: int, ranks: int, parts: Value) -> None:
        self.scope, self.w, self.parts = scope, scope.w, parts
        self.pointer = scope.pointers[weight.name]
        self.rows, columns = weight.shape
        self.blocks, self.branch = columns // BLOCK, branch
        fmt = formats.get(weight.dtype)
        if not isinstance(fmt, QuantFormat):
            raise FusecError(f"{parts.name}: expected quantised weights, found {weight.type}")
        self.fmt = fmt
        self.ranks, self.share = ranks, -(-self.rows // ranks)
        self.step = scope.geometry.threads // branch  # rows that the lanes take at once
        self.rounds = range(-(-self.blocks // WARP))
        rows = range(-(-self.share // self.step))
        self.held = [(k, r, f"held{k}{f'_{r}' if r else ''}") for k in rows for r in self.rounds]
        self.outs = rows
        self.has_sum = fmt.has_min and fmt.group == BLOCK
        own = branch * len(self.rounds)
        digits = scope.shared("digits", 96 * own)
        scales = scope.shared("scales", 4 * own)
        sums = scope.shared("digit_sums", 4 * own) if self.has_sum else ""
        self.fixed = FixedPoint(digits, scales, sums, own, tiled=False)

    @property
    def registers(self) -> int:
        """What a lane's weights fill."""
        scales = 2 if self.fmt.group == 16 else 1
        return len(self.held) * (8 + scales * (1 + self.fmt.has_min))

    def load(self) -> None:
        """The weights of this lane's rows."""
        w, branch = self.w, self.branch
        self._rows("thread", self.rank)
        for r in self.rounds:
            later = f" + uint32({WARP * r})" if r else ""
            column = f"uint32({self.part} * {branch} + chunk{later})"
            if self.blocks % (WARP if r else branch):  # zeros are multiplied behind the last block
                column = f"min_u32({column}, uint32({self.blocks - 1}))"
            w.line(f"column{r or ''} = {column}")
        for k, r, held in self.held:
            row = f"min_u32(out{k}, uint32({self.rows - 1}))"
            given = f"{self.pointer}, {self.rows}, {self.blocks}, {row}, column{r or ''}"
            w.line(f"{held} = fetch_{self.fmt.name}({given})")

    def decode(self) -> None:
        """What needs no activations of their products; it is done when the wait begins."""
        for _, _, held in self.held:
            decode(self.w, self.fmt, held, f"{held}_levels")
        if self.scope.overlaps:
            words = " ^ ".join(f"all_words({held}_levels)" for _, _, held in self.held)
            self.w.line(f"settle({words})")

    def store_digits(self, quad: str, i: str, inside: str) -> None:
        """A thread's quad, the i-th of the part's elements, as fixed point in shared memory."""
        self.w.line(self.fixed.store(quad, i, inside, 0))

    def finish(self) -> None:
        """Products and stores; the digits are there."""
        w = self.w
        self._rows(
            "thread_again()", self.scope.exchange.rank(self.ranks)
        )  # no register has them meanwhile
        for r in self.rounds:
            chunk = f"uint32(chunk + uint32({self.branch * r}))" if r else "chunk"
            given = f"{self.fixed.digits}, {chunk}, {self.fixed.blocks}"
            w.line(f"its_digits{r} = load_digits({given})")
            w.line(f"its_scale{r} = load_shared_f32(uint32({self.fixed.scales} + {chunk} * 4))")
            if self.has_sum:
                w.line(f"its_sum{r} = load_shared_f32(uint32({self.fixed.sums} + {chunk} * 4))")
        last = self.outs[-1]
        if last == 0 or (last + 1) * self.step <= self.share:
            self._sum_up(self.outs)
            return
        with w.block(f"if some({self._warp_inside(last)}):"):
            self._sum_up(self.outs)  # at once: one after the other, each would wait for itself
        with w.block("else:"):
            self._sum_up(self.outs[:-1])

    def _rows(self, thread: str, rank: str) -> None:
        """Which chunk this lane has, which row of the thread block's first, and which of all."""
        w = self.w
        w.line(f"chunk = uint32({thread} & uint32({self.branch - 1}))", "of a round")
        w.line(f"own_row = uint32({thread} >> uint32({self.branch.bit_length() - 1}))")
        for k in self.outs:
            w.line(f"out{k} = uint32({rank} * {self.share} + own_row + {k * self.step})")

    def _warp_inside(self, k: int) -> str:
        """Whether some lane of the warp has a k-th row: all lanes exchange sums, or none does."""
        rows = WARP // self.branch
        left = self.share - k * self.step
        first = "own_row" if left % rows == 0 else f"uint32(own_row & uint32({-rows & 0xFFFFFFFF}))"
        return f"({first} < uint32({left}))"

    def _inside(self, k: int) -> str:
        """Whether this lane's k-th row is one of the thread block's; empty where all lanes' are."""
        tests = []
        if (k + 1) * self.step > self.share:
            tests.append(f"(own_row < uint32({self.share - k * self.step}))")
        if self.share * self.ranks > self.rows:
            tests.append(f"(out{k} < uint32({self.rows}))")
        return " & ".join(tests)

    def _sum_up(self, outs: Sequence[int]) -> None:
        """Some rows of each group of lanes."""
        w = self.w
        for k in outs:
            w.line(f"sum{k} = float32(0)")
        for k, r, held in self.held:
            if k in outs:
                given = f"its_digits{r}", f"its_scale{r}", f"its_sum{r}"
                accumulate(w, self.fmt, f"sum{k}", held, f"{held}_levels", *given)
        distance = 1
        while distance < self.branch:
            for k in outs:
                w.line(f"sum{k} = add_across(sum{k}, uint32({distance}))")
            distance *= 2
        for k in outs:
            live = " & ".join(filter(None, ("(chunk == uint32(0))", self._inside(k))))
            if (sums := self.scope.added_to.get(self.parts.name)) is not None:
                live += f" & {IS_THERE}" if self.scope.interleaves else ""
                w.line(f"add_part_if(at({sums}, out{k}), sum{k}, {live})")
                continue
            out = self.scope.pointers[self.parts.name]
            where = f"at({out}, uint32({self.part} * {self.rows} + out{k}))"
            w.line(f"store_f32_if({where}, sum{k}, {live})")
