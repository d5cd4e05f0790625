"""The vector operations of formats, as LLVM IR for CPU kernels.

See `fusec.codegen.formats.lanes`. Blocks are read where they lie in the file, and nothing outside
of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from llvmlite import ir
from numpy.typing import NDArray

from fusec.codegen.cpu import simd
from fusec.codegen.cpu.simd import F32, I8, I16, I32, LANES, Features
from fusec.codegen.formats import FloatFormat, QuantFormat
from fusec.codegen.formats.lanes import Block, Lanes

ELEMENTS = {"u8": I8, "i8": I8, "u16": I16, "u32": I32, "i32": I32, "f32": F32}
INTEGER = {"and": "and_", "or": "or_", "xor": "xor", "shl": "shl", "add": "add", "sub": "sub",
           "mul": "mul"}  # fmt: skip
FLOAT = {"add": "fadd", "sub": "fsub", "mul": "fmul"}


@dataclass(frozen=True)
class IRLanes(Lanes):
    """A vector value.

    `table`: the codes and the table that levels were looked up by; `packed`: the bytes whose
    nibbles codes are. They let `halves` take a shorter way to the same floats.
    """

    b: ir.IRBuilder
    features: Features
    value: ir.Value
    kind: str
    table: tuple[IRLanes, tuple[int, ...]] | None = None
    packed: ir.Value | None = None

    @property
    def count(self) -> int:
        """How many lanes."""
        return int(self.value.type.count)

    def _with(self, value: ir.Value, kind: str | None = None) -> IRLanes:
        return replace(self, value=value, kind=kind or self.kind, table=None, packed=None)

    def apply(self, operation: str, other: Any) -> IRLanes:
        """See `Lanes.apply`."""
        element = ELEMENTS[self.kind]
        if isinstance(other, IRLanes):
            assert self.kind == other.kind, (self.kind, other.kind)
            right = other.value
        else:
            values = other if isinstance(other, tuple) else (other,)
            right = simd.vector(element, [self._wrapped(v) for v in values])
        left = self.value
        count = max(left.type.count, right.type.count)
        left, right = (
            simd.shuffle(self.b, v, [0] * count) if v.type.count < count else v
            for v in (left, right)
        )
        if operation == "shr":
            name = "ashr" if self.kind[0] == "i" else "lshr"
        else:
            name = (FLOAT if self.kind == "f32" else INTEGER)[operation]
        return self._with(getattr(self.b, name)(left, right))

    def _wrapped(self, value: float) -> float:
        """A number as a constant of this kind."""
        if self.kind == "f32":
            return float(value)
        return int(value) & ((1 << ELEMENTS[self.kind].width) - 1)

    def take(self, lanes: Sequence[int]) -> IRLanes:
        """See `Lanes.take`."""
        return self._with(simd.shuffle(self.b, self.value, list(lanes)))

    def join(self, other: IRLanes) -> IRLanes:
        """See `Lanes.join`."""
        return self._with(simd.concat(self.b, self.value, other.value))

    def to(self, kind: str) -> IRLanes:
        """See `Lanes.to`."""
        typ = simd.like(self.value.type, ELEMENTS[kind])
        signed = self.kind[0] == "i"
        if kind == "f32":
            convert = self.b.sitofp if signed else self.b.uitofp
        elif int(kind[1:]) > int(self.kind[1:]):
            convert = self.b.sext if signed else self.b.zext
        elif int(kind[1:]) < int(self.kind[1:]):
            convert = self.b.trunc
        else:
            return self._with(self.value, kind)
        return self._with(convert(self.value, typ), kind)

    def bits_as(self, kind: str) -> IRLanes:
        """See `Lanes.bits_as`."""
        count = self.count * int(self.kind[1:]) // int(kind[1:])
        typ = simd.vec(ELEMENTS[kind], count)
        value = self.value if typ == self.value.type else self.b.bitcast(self.value, typ)
        return self._with(value, kind)

    def half_to_f32(self) -> IRLanes:
        """See `Lanes.half_to_f32`."""
        return self._with(simd.widen_f16(self.b, self.value, self.features), "f32")

    def flag(self, value: int) -> IRLanes:
        """See `Lanes.flag`."""
        typ = self.value.type
        there = self.b.icmp_unsigned("!=", self.value, simd.const(typ, 0))
        return self._with(self.b.select(there, simd.const(typ, value), simd.const(typ, 0)))

    def lookup(self, table: Sequence[int]) -> IRLanes:
        """See `Lanes.lookup`."""
        found = simd.lookup16(self.b, table, self.value, self.features)
        return replace(self, value=found, kind="i8", table=(self, tuple(table)))

    def rows(self, table: NDArray[np.int8]) -> IRLanes:
        """See `Lanes.rows`."""
        return self._with(simd.table_rows(self.b, table, self.value), "u8")

    def halves(self) -> tuple[ir.Value, ir.Value]:
        """32 levels as floats, the first 16 and the last 16."""
        b = self.b
        if self.table and self.features.float_permute:
            codes, table = self.table
            low, high = codes._wide_halves()
            low, high = (simd.lookup16_f32(b, table, i, self.features) for i in (low, high))
            return low, high
        low, high = (simd.shuffle(b, self.value, range(s, s + LANES)) for s in (0, LANES))
        floats = simd.vec(F32, LANES)
        return b.sitofp(low, floats), b.sitofp(high, floats)

    def _wide_halves(self) -> tuple[ir.Value, ir.Value]:
        """32 codes as i32, the first 16 and the last 16."""
        b, wide = self.b, simd.vec(I32, LANES)
        if self.packed is not None:
            both = b.zext(self.packed, wide)
            return b.and_(both, simd.const(wide, 15)), b.lshr(both, simd.const(wide, 4))
        low, high = (simd.shuffle(b, self.value, range(s, s + LANES)) for s in (0, LANES))
        return b.zext(low, wide), b.zext(high, wide)


@dataclass(frozen=True)
class IRBlock(Block):
    """Consecutive blocks in memory; of several, only single lanes may be loaded."""

    b: ir.IRBuilder
    features: Features
    addresses: Sequence[ir.Value]

    def load(self, kind: str, offset: int, count: int = 1) -> IRLanes:
        """See `Block.load`: one lane of each block, or several of one block."""
        b, element = self.b, ELEMENTS[kind]
        if len(self.addresses) == 1:
            value = simd.load(b, self.addresses[0], simd.vec(element, count), offset)
        else:
            assert count == 1
            value = ir.Constant(simd.vec(element, len(self.addresses)), ir.Undefined)
            for lane, address in enumerate(self.addresses):
                one = simd.load(b, address, element, offset)
                value = b.insert_element(value, one, I32(lane))
        return IRLanes(b, self.features, value, kind)

    def nibbles(self, offset: int) -> IRLanes:
        """See `Block.nibbles`."""
        packed = self.load("u8", offset, 16)
        return replace((packed & 15).join(packed >> 4), packed=packed.value)


def widened(b: ir.IRBuilder, weights: FloatFormat, bits: ir.Value, features: Features) -> ir.Value:
    """f32 lanes of a float format's elements, given as a vector of integers."""
    return weights.widen(IRLanes(b, features, bits, f"u{bits.type.element.width}")).value


def scales_and_mins(
    b: ir.IRBuilder, weights: QuantFormat, blocks: Sequence[ir.Value], features: Features
) -> tuple[ir.Value, ir.Value | None]:
    """The scales of consecutive blocks, one f32 lane a group, and the minima if there are any.

    Blocks of one span come one or several at a time; larger blocks come alone.
    """
    block = IRBlock(b, features, blocks)
    minima = weights.mins(block).value if weights.has_min else None
    return weights.scales(block).value, minima


def float_levels(
    b: ir.IRBuilder, weights: QuantFormat, block: ir.Value, span: int, features: Features
) -> tuple[ir.Value, ir.Value]:
    """A span's levels as floats, the first 16 and the last 16."""
    levels: IRLanes = weights.levels(IRBlock(b, features, [block]), span)
    return levels.halves()
