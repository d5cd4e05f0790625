"""Attention's output projection in the blocks that attend: a head's columns times its attention.

A head has `branch` blocks of 32 elements, a power of two of them, so each `branch` neighbouring
lanes take a row of those columns, a block each, and their first distances of the canonical order
(see `matvec`) sum the row up. The sums, one vector of all rows for each head, are the parts that
`Summed` adds up. Where the lanes of a whole row outnumber its blocks, the canonical order adds
zeros, which matters to nothing but -0: here, one is added to every part.

The rows are dealt to the lanes of all of the head's thread blocks. Weights are loaded and decoded
in front of the wait.
"""

from __future__ import annotations

from fusec.codegen import formats
from fusec.codegen.cuda.block_products import accumulate, decode
from fusec.codegen.cuda.forms import FixedPoint
from fusec.codegen.cuda.scope import Scope
from fusec.codegen.cuda.shape import WARP
from fusec.codegen.formats import QuantFormat
from fusec.errors import FusecError
from fusec.ir.graph import Node

BLOCK = 32  # elements in fixed point with one scale


class Projection:
    """What multiplies in an `attention_project`; a lane's variables of its k-th row end in k."""

    def __init__(self, scope: Scope, node: Node) -> None:
        self.scope, self.w, self.node = scope, scope.w, node
        weight = node.inputs[4]
        self.pointer = scope.pointers[weight.name]
        self.rows, columns = weight.shape
        self.blocks, self.heads = columns // BLOCK, int(node["heads"])
        self.branch = self._branch(columns)
        fmt = formats.get(weight.dtype)
        if not isinstance(fmt, QuantFormat):
            raise FusecError(f"{node.name}: expected quantised weights, found {weight.type}")
        self.fmt = fmt
        self.spans, self.threads = int(node["spans"]), scope.geometry.threads
        self.step = self.spans * self.threads // self.branch  # rows that the lanes take at once
        self.held = range(-(-self.rows // self.step))
        self.has_sum = fmt.has_min and fmt.group == BLOCK
        digits = scope.shared("digits", 96 * self.branch)
        scales = scope.shared("scales", 4 * self.branch)
        sums = scope.shared("digit_sums", 4 * self.branch) if self.has_sum else ""
        self.fixed = FixedPoint(digits, scales, sums, self.branch, tiled=False)

    def _branch(self, columns: int) -> int:
        """Blocks of a head."""
        branch, rest = divmod(columns // self.heads, BLOCK)
        if rest or branch & (branch - 1) or self.blocks > WARP:
            raise FusecError(
                f"{self.node.name}: expected heads of {BLOCK} elements times a power of two, in "
                f"rows of at most {WARP * BLOCK}, found {self.heads} heads in {columns}"
            )
        return branch

    @property
    def registers(self) -> int:
        """What a lane's weights fill."""
        scales = 2 if self.fmt.group == 16 else 1
        return len(self.held) * (8 + scales * (1 + self.fmt.has_min))

    def load(self) -> None:
        """The weights of this lane's rows."""
        w, branch = self.w, self.branch
        w.line(f"chunk = uint32(lane & uint32({branch - 1}))", "of the head, in every row")
        where = f"(span * {self.threads} + thread)"
        w.line(f"out0 = uint32(uint32{where} >> uint32({branch.bit_length() - 1}))")
        for k in self.held[1:]:
            w.line(f"out{k} = uint32(out0 + uint32({k * self.step}))")
        w.line(f"column = uint32(head * {branch} + chunk)")
        for k in self.held:
            row = f"min_u32(out{k}, uint32({self.rows - 1}))"
            size = f"{self.rows}, {self.blocks}"
            w.line(f"held{k} = fetch_{self.fmt.name}({self.pointer}, {size}, {row}, column)")

    def decode(self) -> None:
        """What needs no activations of their products; it is done when the wait begins."""
        for k in self.held:
            decode(self.w, self.fmt, f"held{k}", f"held{k}_levels")
        if self.scope.overlaps:
            self.w.line(f"settle({' ^ '.join(f'all_words(held{k}_levels)' for k in self.held)})")

    def store_digits(self, quad: str) -> None:
        """A thread's quad of the head's attention as fixed point, in shared memory."""
        self.w.line(self.fixed.store(quad, "thread", f"thread < uint32({8 * self.branch})", 0))

    def finish(self) -> None:
        """Products and stores; the digits are there."""
        w = self.w
        w.line(f"digits = load_digits({self.fixed.digits}, chunk, {self.branch})")
        w.line(f"scale = load_shared_f32(uint32({self.fixed.scales} + chunk * 4))")
        if self.has_sum:
            w.line(f"total = load_shared_f32(uint32({self.fixed.sums} + chunk * 4))")
        for k in self.held:
            w.line(f"sum{k} = float32(0)")
            held = f"held{k}"
            accumulate(w, self.fmt, f"sum{k}", held, f"{held}_levels", "digits", "scale", "total")
        distance = 1
        while distance < self.branch:
            for k in self.held:
                w.line(f"sum{k} = add_across(sum{k}, uint32({distance}))")
            distance *= 2
        out = self.scope.pointers[self.node.name]
        zero = " + float32(0)" if self.blocks < WARP else ""
        for k in self.held:
            where = f"at({out}, uint32(head * {self.rows} + out{k}))"
            live = f"(chunk == uint32(0)) & (out{k} < uint32({self.rows}))"
            w.line(f"store_f32_if({where}, sum{k}{zero}, {live})")
