"""Scalar functions whose bits are the same on every machine."""

from __future__ import annotations

import math

from llvmlite import ir
from numba import types

from fusec.codegen.cpu import simd
from fusec.codegen.cpu.chunks import chunks, load_chunk, store_chunk
from fusec.codegen.cpu.function import f32, f32p, i64, llvm_function
from fusec.codegen.cpu.simd import F32, I32, LANES, Features, const

# exp(r) = 1 + r + r * r * q(r) for |r| <= log(2) / 2: the minimax q in relative error, by Remez
# exchange, rounded to f32; what remains is 3.7e-9.
EXP_Q = (0.0013814540579915047, 0.00836874544620514, 0.04166838899254799, 0.1666652113199234,
         0.4999999403953552)  # fmt: skip
# log(2) as a float with nine trailing zero bits, whose products with exponents are exact, and the
# rest
LN2_HIGH = 0.693145751953125
LN2_LOW = math.log(2.0) - LN2_HIGH
# Below the first exp rounds to 0, above the second to infinity.
EXP_MIN, EXP_MAX = -104.0, 89.0
# Adding 1.5 * 2**23 rounds to an integer and leaves it in the low bits.
ROUNDER = 12582912.0
ROUNDER_BITS = 0x4B400000


def emit_exp(b: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """exp of f32 (scalar or vector), at most 1 ulp off; 0 and infinity at the ends; NaN stays."""
    typ, i32 = x.type, simd.like(x.type, I32)
    x = b.select(b.fcmp_ordered("<", x, const(typ, EXP_MIN)), const(typ, EXP_MIN), x)
    x = b.select(b.fcmp_ordered(">", x, const(typ, EXP_MAX)), const(typ, EXP_MAX), x)
    shifted = simd.fma(b, x, const(typ, rounded(1 / math.log(2.0))), const(typ, ROUNDER))
    exponent = b.sub(b.bitcast(shifted, i32), const(i32, ROUNDER_BITS))
    minus_n = b.fsub(const(typ, ROUNDER), shifted)
    r = simd.fma(b, minus_n, const(typ, LN2_HIGH), x)
    r = simd.fma(b, minus_n, const(typ, rounded(LN2_LOW)), r)
    q = const(typ, EXP_Q[0])
    for coefficient in EXP_Q[1:]:
        q = simd.fma(b, q, r, const(typ, coefficient))
    mantissa = b.fadd(simd.fma(b, b.fmul(r, r), q, r), const(typ, 1.0))
    # two factors, because 2**exponent alone may be subnormal or overflow
    half = b.ashr(exponent, const(i32, 1))
    return b.fmul(b.fmul(mantissa, _power(b, half)), _power(b, b.sub(exponent, half)))


def _power(b: ir.IRBuilder, exponent: ir.Value) -> ir.Value:
    """2**exponent for exponents of normal floats."""
    typ = exponent.type
    bits = b.shl(b.add(exponent, const(typ, 127)), const(typ, 23))
    return b.bitcast(bits, simd.like(typ, F32))


def rounded(value: float) -> float:
    """The f32 nearest to a float, which LLVM wants its f32 constants to be."""
    return types.float32.cast_python_value(value).item()


def _exp_row(b: ir.IRBuilder, x: ir.Value, shift: ir.Value, n: ir.Value) -> None:
    shifts = simd.splat(b, shift, LANES)

    def step(i: ir.Value, mask: ir.Value | None, _: list[ir.Value]) -> list[ir.Value]:
        value = load_chunk(b, x, i, F32, mask)
        store_chunk(b, emit_exp(b, b.fsub(value, shifts)), x, i, mask)
        return []

    chunks(b, n, [], step)


exp_f32 = llvm_function(
    "exp_f32", f32, {"x": f32}, emit_exp, "exp(x), at most 1 ulp off.", inline=True
)
exp_row = llvm_function(
    "exp_row",
    types.void,
    {"x": f32p, "shift": f32, "n": i64},
    _exp_row,
    "x[i] = exp_f32(x[i] - shift) in place.",
)
fma_f32 = llvm_function(
    "fma_f32",
    f32,
    {"x": f32, "y": f32, "z": f32},
    simd.fma,
    "x * y + z rounded once.",
    inline=True,
)
f16_bits_to_f32 = llvm_function(
    "f16_bits_to_f32",
    f32,
    {"bits": types.uint16},
    lambda b, bits: simd.widen_f16(b, bits, Features.of_target()),
    "The f16 with these bits as f32.",
    inline=True,
)
f32_to_f16_bits = llvm_function(
    "f32_to_f16_bits",
    types.uint16,
    {"x": f32},
    lambda b, x: simd.narrow_f16(b, x, Features.of_target()),
    "The bits of the f16 nearest to x (ties to even).",
    inline=True,
)
