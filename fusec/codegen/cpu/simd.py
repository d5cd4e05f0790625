"""Explicit vectors in LLVM IR: the few operations that inner loops of kernels are made of.

Everything is plain LLVM on `<N x type>` values, which any machine can legalise, so the order of
operations is the one written here and not the auto-vectoriser's choice. The exceptions are named
`Features`: each has a portable equivalent that gives the same bits.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from llvmlite import ir
from numpy.typing import NDArray

I1, I8, I16, I32, I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
F16, F32 = ir.HalfType(), ir.FloatType()
LANES = 16  # f32 lanes of every reduction: part of the numbers contract, not of the machine


@dataclass(frozen=True)
class Features:
    """Shortcuts that the code generator may take. None of them changes a result."""

    byte_shuffle: int = 0  # widest x86 `pshufb`, in bytes: 0, 16, 32
    native_f16: bool = False  # f16 <-> f32 conversion is an instruction
    float_permute: bool = False  # a table of 16 floats is looked up by one x86 `vpermps`

    @classmethod
    @functools.cache
    def of_target(cls) -> Features:
        """What numba's CPU target has (NUMBA_CPU_NAME and NUMBA_CPU_FEATURES are respected)."""
        from numba.core.registry import cpu_target

        triple, _, flags = cpu_target.target_context.codegen().magic_tuple()
        if not triple.startswith(("x86_64", "i686")):
            return cls(native_f16=triple.startswith(("aarch64", "arm64")))
        have = set(flags.split(","))
        widest = 32 if "+avx2" in have else 16 if "+ssse3" in have else 0
        return cls(widest, "+f16c" in have, "+avx512f" in have)


PORTABLE = Features()


def vec(element: ir.Type, lanes: int) -> ir.VectorType:
    """The type `<lanes x element>`."""
    return ir.VectorType(element, lanes)


def const(typ: ir.Type, value: float) -> ir.Constant:
    """A constant of a scalar type, or that constant in every lane of a vector type."""
    if isinstance(typ, ir.VectorType):
        return ir.Constant(typ, [const(typ.element, value)] * typ.count)
    return ir.Constant(typ, value)


def vector(element: ir.Type, values: Sequence[float]) -> ir.Constant:
    """A constant vector."""
    return ir.Constant(vec(element, len(values)), [ir.Constant(element, v) for v in values])


def like(typ: ir.Type, element: ir.Type) -> ir.Type:
    """`typ` (scalar or vector) with another element type."""
    return vec(element, typ.count) if isinstance(typ, ir.VectorType) else element


def call(b: ir.IRBuilder, name: str, result: ir.Type, *args: ir.Value) -> ir.Value:
    """Call an external function or LLVM intrinsic, declaring it in the module on first use."""
    function = b.module.globals.get(name)
    if function is None:
        signature = ir.FunctionType(result, [a.type for a in args])
        function = ir.Function(b.module, signature, name=name)
    return b.call(function, args)


def element_name(typ: ir.Type) -> str:
    """A scalar type's name in the suffix of an overloaded intrinsic."""
    return f"i{typ.width}" if isinstance(typ, ir.IntType) else "f32"


def fma(b: ir.IRBuilder, x: ir.Value, y: ir.Value, z: ir.Value) -> ir.Value:
    """`x * y + z` rounded once, on every machine."""
    suffix = f"v{x.type.count}f32" if isinstance(x.type, ir.VectorType) else "f32"
    return call(b, f"llvm.fma.{suffix}", x.type, x, y, z)


def at(b: ir.IRBuilder, ptr: ir.Value, index: ir.Value | int, element: ir.Type) -> ir.Value:
    """The address of element `index` of an array of `element` at `ptr`."""
    typed = b.bitcast(ptr, element.as_pointer())
    return b.gep(typed, [I64(index) if isinstance(index, int) else index], source_etype=element)


def load(b: ir.IRBuilder, ptr: ir.Value, typ: ir.Type, offset: int = 0) -> ir.Value:
    """Load `typ` from `offset` bytes behind `ptr`, which need not be aligned."""
    address = b.bitcast(at(b, ptr, offset, I8), typ.as_pointer())
    return b.load(address, align=1, typ=typ)


def store(b: ir.IRBuilder, value: ir.Value, ptr: ir.Value) -> None:
    """Store to an address that need not be aligned."""
    b.store(value, b.bitcast(ptr, value.type.as_pointer()), align=1)


def splat(b: ir.IRBuilder, value: ir.Value, lanes: int) -> ir.Value:
    """A scalar in every lane."""
    typ = vec(value.type, lanes)
    single = b.insert_element(ir.Constant(typ, ir.Undefined), value, I32(0))
    return shuffle(b, single, [0] * lanes)


def shuffle(
    b: ir.IRBuilder, x: ir.Value, lanes: Sequence[int], y: ir.Value | None = None
) -> ir.Value:
    """The named lanes of `x`, or of `x` followed by `y`."""
    other = ir.Constant(x.type, ir.Undefined) if y is None else y
    return b.shuffle_vector(x, other, vector(I32, lanes))


def concat(b: ir.IRBuilder, x: ir.Value, y: ir.Value) -> ir.Value:
    """The lanes of `x`, then those of `y`."""
    return shuffle(b, x, range(2 * x.type.count), y)


def reduce_tree(b: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """Sum of the lanes: lane i takes lane i + n/2, then the halves again. The one final order."""
    lanes = x.type.count
    while lanes > 1:
        lanes //= 2
        low, high = (shuffle(b, x, range(s, s + lanes)) for s in (0, lanes))
        x = b.fadd(low, high)
    return b.extract_element(x, I32(0))


def reduce_trees(b: ir.IRBuilder, rows: Sequence[ir.Value]) -> ir.Value:
    """`reduce_tree` of each of a power of two of vectors, as one vector of that many lanes.

    Same additions, but halves of different rows share one instruction.
    """
    lanes = rows[0].type.count  # of each row; a vector holds one row or several
    state = list(rows)
    while lanes > 1:
        held = state[0].type.count // lanes
        low = [r * lanes + i for r in range(held) for i in range(lanes // 2)]
        high = [i + lanes // 2 for i in low]
        if len(state) > 1:
            size = held * lanes
            low, high = ([*part, *(i + size for i in part)] for part in (low, high))
            pairs = list(zip(state[::2], state[1::2], strict=True))
        else:
            pairs = [(state[0], None)]
        state = [b.fadd(shuffle(b, x, low, y), shuffle(b, x, high, y)) for x, y in pairs]
        lanes //= 2
    return state[0]


def widen_f16(b: ir.IRBuilder, bits: ir.Value, features: Features) -> ir.Value:
    """f16 given as i16 bits (scalar or vector) to f32, exactly; NaN stays NaN."""
    f32 = like(bits.type, F32)
    if features.native_f16:
        return b.fpext(b.bitcast(bits, like(bits.type, F16)), f32)
    i32 = like(bits.type, I32)
    wide = b.zext(bits, i32)
    magnitude = b.shl(b.and_(wide, const(i32, 0x7FFF)), const(i32, 13))
    # the exponent bias grows by 112; the multiplication also normalises subnormal halves
    scaled = b.bitcast(b.fmul(b.bitcast(magnitude, f32), const(f32, 2.0**112)), i32)
    special = b.icmp_unsigned(">=", magnitude, const(i32, 0x7C00 << 13))
    nan = b.icmp_unsigned(">", magnitude, const(i32, 0x7C00 << 13))
    quiet = b.select(nan, const(i32, 0x400000), const(i32, 0))
    infinite = b.or_(b.or_(magnitude, const(i32, 0x7F800000)), quiet)
    sign = b.shl(b.and_(wide, const(i32, 0x8000)), const(i32, 16))
    return b.bitcast(b.or_(sign, b.select(special, infinite, scaled)), f32)


def narrow_f16(b: ir.IRBuilder, x: ir.Value, features: Features) -> ir.Value:
    """f32 (scalar or vector) to the bits of the nearest f16 (ties to even) as i16."""
    i16 = like(x.type, I16)
    if features.native_f16:
        return b.bitcast(b.fptrunc(x, like(x.type, F16)), i16)
    i32 = like(x.type, I32)

    def number(value: int) -> ir.Value:
        return const(i32, value)

    bits = b.bitcast(x, i32)
    a = b.and_(bits, number(0x7FFFFFFF))
    odd = b.and_(b.lshr(a, number(13)), number(1))
    normal = b.sub(b.lshr(b.add(b.add(a, number(0xFFF)), odd), number(13)), number(112 << 10))
    # one unit in the last place of 0.5 is the smallest half, so the addition rounds to halves
    half = const(x.type, 0.5)
    subnormal = b.sub(b.bitcast(b.fadd(b.bitcast(a, x.type), half), i32), number(0x3F000000))
    payload = b.and_(b.lshr(a, number(13)), number(0x3FF))
    nan = b.icmp_unsigned(">", a, number(0x7F800000))
    huge = b.select(nan, b.or_(payload, number(0x7E00)), number(0x7C00))
    small = b.select(b.icmp_unsigned("<", a, number(0x38800000)), subnormal, normal)
    magnitude = b.select(b.icmp_unsigned(">=", a, number(0x47800000)), huge, small)
    sign = b.and_(b.lshr(bits, number(16)), number(0x8000))
    return b.trunc(b.or_(magnitude, sign), i16)


def table_rows(b: ir.IRBuilder, table: NDArray[np.int8], index: ir.Value) -> ir.Value:
    """For each lane of `index` that row of a constant table of bytes, one after the other."""
    row = ir.IntType(8 * table.shape[1])
    words = table.view(f"<u{table.shape[1]}")[:, 0].tolist()
    name = f"fusec.table.{hashlib.sha256(table.tobytes()).hexdigest()[:16]}"
    known = b.module.globals.get(name)
    if known is None:
        content = ir.ArrayType(row, len(words))
        known = ir.GlobalVariable(b.module, content, name=name)
        known.linkage, known.global_constant = "internal", True
        known.initializer = ir.Constant(content, words)
    found: ir.Value = ir.Constant(vec(row, index.type.count), ir.Undefined)
    for lane in range(index.type.count):
        place = b.zext(b.extract_element(index, I32(lane)), I64)
        value = b.load(at(b, known, place, row), align=1, typ=row)
        found = b.insert_element(found, value, I32(lane))
    return b.bitcast(found, vec(I8, index.type.count * table.shape[1]))


def lookup16(
    b: ir.IRBuilder, table: Sequence[int], index: ir.Value, features: Features
) -> ir.Value:
    """`table[i]` (16 signed bytes) for every lane of `index`, `<32 x i8>` with values 0 to 15."""
    if features.byte_shuffle == 32:
        return call(b, "llvm.x86.avx2.pshuf.b", index.type, vector(I8, [*table, *table]), index)
    if features.byte_shuffle == 16:
        halves = [
            call(b, "llvm.x86.ssse3.pshuf.b.128", vec(I8, 16), vector(I8, table), half)
            for half in (shuffle(b, index, range(s, s + 16)) for s in (0, 16))
        ]
        return concat(b, *halves)
    candidates: list[ir.Value] = [const(index.type, value) for value in table]
    for bit in range(4):
        flag = const(index.type, 1 << bit)
        odd = b.icmp_unsigned("==", b.and_(index, flag), flag)
        candidates = [
            b.select(odd, high, low)
            for low, high in zip(candidates[::2], candidates[1::2], strict=True)
        ]
    return candidates[0]


def lookup16_f32(
    b: ir.IRBuilder, table: Sequence[int], index: ir.Value, features: Features
) -> ir.Value:
    """`float(table[i])` for every lane of `index`, `<16 x i32>` with values 0 to 15."""
    assert features.float_permute
    floats = vector(F32, table)
    return call(b, "llvm.x86.avx512.permvar.sf.512", floats.type, floats, index)


def first_lanes(b: ir.IRBuilder, count: ir.Value, lanes: int) -> ir.Value:
    """The mask of lanes 0 to count - 1 (count is i64 and may be out of range)."""
    index = vector(I64, range(lanes))
    return b.icmp_signed("<", index, splat(b, count, lanes))


def masked_load(b: ir.IRBuilder, ptr: ir.Value, typ: ir.Type, mask: ir.Value) -> ir.Value:
    """Load a vector; lanes that are off are zero and their memory is not touched."""
    address = b.bitcast(ptr, typ.as_pointer())
    name = f"llvm.masked.load.v{typ.count}{element_name(typ.element)}.p0"
    return call(b, name, typ, address, I32(1), mask, const(typ, 0))


def masked_store(b: ir.IRBuilder, value: ir.Value, ptr: ir.Value, mask: ir.Value) -> None:
    """Store the lanes that are on; the memory of the others is not touched."""
    typ = value.type
    address = b.bitcast(ptr, typ.as_pointer())
    name = f"llvm.masked.store.v{typ.count}{element_name(typ.element)}.p0"
    call(b, name, ir.VoidType(), value, address, I32(1), mask)


def loop(
    b: ir.IRBuilder,
    start: ir.Value,
    stop: ir.Value,
    step: int,
    carried: Sequence[ir.Value],
    body: Callable[[ir.Value, list[ir.Value]], Sequence[ir.Value]],
) -> list[Any]:
    """`for i in range(start, stop, step)` over values in registers; returns their last state.

    `body(i, carried)` gives the next state. Signed comparison; the loop may run zero times.
    """
    entry = b.block
    head = b.append_basic_block("loop.head")
    inside = b.append_basic_block("loop.body")
    after = b.append_basic_block("loop.end")
    b.branch(head)
    b.position_at_end(head)
    index = b.phi(start.type)
    state = [b.phi(value.type) for value in carried]
    b.cbranch(b.icmp_signed("<", index, stop), inside, after)
    b.position_at_end(inside)
    following = body(index, list(state))
    bottom = b.block
    index.add_incoming(start, entry)
    index.add_incoming(b.add(index, ir.Constant(start.type, step)), bottom)
    for phi, first, value in zip(state, carried, following, strict=True):
        phi.add_incoming(first, entry)
        phi.add_incoming(value, bottom)
    b.branch(head)
    b.position_at_end(after)
    return list(state)
