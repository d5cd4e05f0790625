"""Scalar functions of f32, bit for bit those of the CPU target."""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"

from numba import float32, int32, uint32

from fusec.codegen.cuda.device import (
    bits_f32,
    bits_u32,
    div_f32,
    fma,
    inline,
    max_magnitude,
    rcp_approx,
    select_f32,
)


@inline
def exp_f32(x):
    """exp(x), at most 1 ulp off; `fusec.codegen.cpu.math` explains the constants."""
    x = select_f32(x < float32(-104.0), float32(-104.0), x)
    x = select_f32(x > float32(89.0), float32(89.0), x)
    mantissa, exponent = exp_parts(x)
    half = int32(exponent >> 1)
    return (mantissa * power_of_two(half)) * power_of_two(int32(exponent - half))


@inline
def exp_parts(x):
    """(m, n): exp(x) = m * 2**n, with m from 0.7 to 1.42 and an integer n; |x| up to 2**20."""
    shifted = fma(x, float32(1.4426950408889634), float32(12582912.0))
    exponent = int32(int32(bits_u32(shifted)) - int32(0x4B400000))
    minus_n = float32(12582912.0) - shifted
    r = fma(minus_n, float32(0.693145751953125), x)
    r = fma(minus_n, float32(1.4286068203094173e-06), r)
    q = fma(float32(0.0013814540579915047), r, float32(0.00836874544620514))
    q = fma(q, r, float32(0.04166838899254799))
    q = fma(q, r, float32(0.1666652113199234))
    q = fma(q, r, float32(0.4999999403953552))
    return fma(r * r, q, r) + float32(1), exponent


@inline
def power_of_two(exponent):
    """2**exponent as a normal f32."""
    return bits_f32(uint32(int32(exponent + int32(127)) << 23))


@inline
def reciprocal(d):
    """1 / d within an ulp, without the branches of `rcp.rn`; d from 2**-125 to 2**125."""
    r = rcp_approx(d)
    return fma(r, fma(-d, r, float32(1)), r)


@inline
def quotient(x, d):
    """x / d, without the branches of `div.rn`; d from 1 to 2**125.

    One step of Newton for the reciprocal, one for the quotient round it correctly (Markstein 1990),
    unless it is too small for a normal number.
    """
    r = reciprocal(d)
    q = x * r
    return fma(fma(-d, q, x), r, q)


@inline
def silu(x):
    """x * sigmoid(x); the sigmoid is not below exp(-86)."""
    return quotient(x, float32(1) + exp_f32(select_f32(x < float32(-86), float32(86), -x)))


@inline
def sigmoid(x):
    """1 / (1 + exp(-x)), not below exp(-86)."""
    return reciprocal(float32(1) + exp_f32(select_f32(x < float32(-86), float32(86), -x)))


@inline
def swiglu_oai(gate, up):
    """g * sigmoid(1.702 g) * (u + 1) with g up to 7 and u within 7."""
    g = select_f32(gate > float32(7), float32(7), gate)
    u = select_f32(up > float32(7), float32(7), up)
    u = select_f32(u < float32(-7), float32(-7), u)
    scaled = float32(1.702) * g
    slow = select_f32(scaled < float32(-86), float32(86), -scaled)
    return quotient(g, float32(1) + exp_f32(slow)) * (u + float32(1))


@inline
def softplus(x):
    """log(1 + exp(x)); `fusec.codegen.cpu.experts` explains the series."""
    negative = x < float32(0)
    y = exp_f32(select_f32(negative, x, -x))
    z = quotient(y, y + float32(2))
    square = z * z
    s = fma(float32(0.058823529411764705), square, float32(0.06666666666666667))
    s = fma(s, square, float32(0.07692307692307693))
    s = fma(s, square, float32(0.09090909090909091))
    s = fma(s, square, float32(0.1111111111111111))
    s = fma(s, square, float32(0.14285714285714285))
    s = fma(s, square, float32(0.2))
    s = fma(s, square, float32(0.3333333333333333))
    s = fma(s, square, float32(1))
    return select_f32(negative, float32(0), x) + (z + z) * s


@inline
def abs_f32(x):
    """x without its sign."""
    return max_magnitude(x, x)


@inline
def tanh_f32(x):
    """1 - 2 / (exp(2x) + 1)."""
    return float32(1) - div_f32(float32(2), exp_f32(x + x) + float32(1))


@inline
def gelu(x):
    """The tanh form."""
    cubic = x + float32(0.044715) * x * x * x
    return float32(0.5) * x * (float32(1) + tanh_f32(float32(0.7978845608028654) * cubic))


@inline
def relu_squared(x):
    """max(x, 0)^2; NaN stays."""
    positive = select_f32(x < float32(0), float32(0), x)
    return positive * positive


@inline
def softcap(x, cap):
    """cap * tanh(x / cap)."""
    return cap * tanh_f32(div_f32(x, cap))
