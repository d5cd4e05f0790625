"""log, sin, cos and tan of f32, bit for bit those of the CPU target.

`fusec.codegen.cpu.elementary` explains the steps and the constants. There are no branches: all
threads take every step, and select.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"

from numba import float32, int32, uint32

from fusec.codegen.cuda.device import (
    bits_f32,
    bits_u32,
    div_f32,
    fma,
    inline,
    mul_high_u32,
    mul_u32,
    s32_to_f32,
    select_f32,
    select_u32,
)


@inline
def log_f32(x):
    """log(x), at most 1 ulp off; minus infinity of 0, NaN below."""
    tiny = x < float32(1.1754943508222875e-38)
    scaled = select_f32(tiny, x * float32(33554432), x)
    offset = int32(int32(bits_u32(scaled)) - int32(0x3F3504F3))
    n = s32_to_f32(int32(offset >> 23)) - select_f32(tiny, float32(25), float32(0))
    root = uint32(int32(offset & int32(0x7FFFFF)) + int32(0x3F3504F3))
    f = bits_f32(root) - float32(1)
    s = div_f32(f, f + float32(2))
    z = s * s
    r = fma(float32(0.2427907884120941), z, float32(0.2849878668785095))
    r = fma(r, z, float32(0.4000097215175629))
    r = fma(r, z, float32(0.6666666269302368)) * z
    half = float32(0.5) * f * f
    t = fma(s, half + r, n * float32(1.4286068203094173e-06))
    y = ((t - half) + f) + n * float32(0.693145751953125)
    # what is left are 0, an infinity, what lies below 0, and NaN
    y = select_f32(uint32(bits_u32(x)) == uint32(0x7F800000), x, y)
    none = select_u32(x == float32(0), uint32(0xFF800000), uint32(0x7FC00000))
    return select_f32(x > float32(0), y, bits_f32(none))


@inline
def pick(place, a, b, c, d, e):
    """The word at a place from 0 to 4."""
    found = select_u32(place == uint32(0), a, b)
    found = select_u32(place > uint32(1), c, found)
    found = select_u32(place > uint32(2), d, found)
    return select_u32(place > uint32(3), e, found)


@inline
def straddling(high, low, shift):
    """32 bits of two words, from bit `shift` on, counted from the top; `shift` from 0 to 31."""
    return uint32(
        uint32(high << shift) | uint32(uint32(low >> uint32(1)) >> uint32(uint32(31) - shift))
    )


@inline
def reduced(x):
    """(r, n): |x| is r + n pi/2, with |r| up to pi/4 and n modulo 4; r is NaN of an infinity."""
    word = uint32(bits_u32(x) & uint32(0x7FFFFFFF))
    near = word < uint32(0x3F490FDB)
    given = select_u32(near, uint32(0x3F800000), word)  # where there is nothing to do, of 1
    m = uint32(uint32(given & uint32(0x7FFFFF)) | uint32(0x800000))
    offset = uint32(uint32(given >> uint32(23)) - uint32(120))
    first, shift = uint32(offset >> uint32(5)), uint32(offset & uint32(31))
    s1, s2, s3 = uint32(0xA2F9836E), uint32(0x4E441529), uint32(0xFC2757D1)
    s4, s5, s6 = uint32(0xF534DDC0), uint32(0xDB629599), uint32(0x3C439041)
    a = pick(first, uint32(0), s1, s2, s3, s4)
    b = pick(first, s1, s2, s3, s4, s5)
    c = pick(first, s2, s3, s4, s5, s6)
    d = pick(first, s3, s4, s5, s6, uint32(0xFE5163AB))
    w0, w1, w2 = straddling(a, b, shift), straddling(b, c, shift), straddling(c, d, shift)
    low = mul_u32(m, w2)
    carry = mul_high_u32(m, w2)
    middle = uint32(mul_u32(m, w1) + carry)
    over = select_u32(middle < carry, uint32(1), uint32(0))
    high = uint32(uint32(mul_u32(m, w0) + mul_high_u32(m, w1)) + over)
    # quarters of a turn: 2 bits in front of the point and 64 behind it, the nearest is n
    top, rest = straddling(high, middle, uint32(2)), straddling(middle, low, uint32(2))
    up = top >= uint32(0x80000000)
    n = uint32(uint32(high >> uint32(30)) + select_u32(up, uint32(1), uint32(0)))
    borrow = select_u32(rest == uint32(0), uint32(1), uint32(0))
    top = select_u32(up, uint32(uint32(top ^ uint32(0xFFFFFFFF)) + borrow), top)
    rest = select_u32(up, uint32(uint32(rest ^ uint32(0xFFFFFFFF)) + uint32(1)), rest)
    v = s32_to_f32(int32(top >> uint32(8))) * float32(5.960464477539063e-08)
    between = uint32(uint32(uint32(top & uint32(0xFF)) << uint32(16)) | uint32(rest >> uint32(16)))
    w = s32_to_f32(int32(between)) * float32(3.552713678800501e-15)
    w = fma(s32_to_f32(int32(rest & uint32(0xFFFF))), float32(5.421010862427522e-20), w)
    u = v + w
    lost = (v - u) + w
    r = fma(u, float32(-4.371139000186241e-08), lost * float32(1.5707963705062866))
    r = fma(u, float32(1.5707963705062866), r)
    r = select_f32(near, bits_f32(word), select_f32(up, -r, r))
    r = select_f32(word >= uint32(0x7F800000), bits_f32(uint32(0x7FC00000)), r)
    return r, select_u32(near, uint32(0), n)


@inline
def sine(r):
    """sin(r) for |r| up to pi/4."""
    z = r * r
    p = fma(float32(-1.9515295891e-4), z, float32(8.3321608736e-3))
    return fma(r * z, fma(p, z, float32(-1.6666654611e-1)), r)


@inline
def cosine(r):
    """cos(r) for |r| up to pi/4."""
    z = r * r
    p = fma(float32(2.443315711809948e-5), z, float32(-1.388731625493765e-3))
    p = fma(p, z, float32(4.166664568298827e-2))
    return float32(1) + fma(z * z, p, float32(-0.5) * z)


@inline
def flipped(y, flips, x):
    """y, negated where the lowest bit of one of two words is set, and not that of both."""
    sign = uint32(uint32(uint32(flips ^ x) & uint32(1)) << uint32(31))
    return bits_f32(uint32(bits_u32(y) ^ sign))


@inline
def sin_f32(x):
    """sin(x), at most 2 ulp off for any x; NaN of an infinity."""
    r, n = reduced(x)
    y = select_f32(uint32(n & uint32(1)) != uint32(0), cosine(r), sine(r))
    return flipped(y, uint32(n >> uint32(1)), uint32(bits_u32(x) >> uint32(31)))


@inline
def cos_f32(x):
    """cos(x), at most 2 ulp off for any x; NaN of an infinity."""
    r, n = reduced(x)
    y = select_f32(uint32(n & uint32(1)) != uint32(0), sine(r), cosine(r))
    return flipped(y, uint32(uint32(n + uint32(1)) >> uint32(1)), uint32(0))


@inline
def tan_f32(x):
    """tan(x), at most 4 ulp off for any x; NaN of an infinity."""
    r, n = reduced(x)
    s, c = sine(r), cosine(r)
    odd = uint32(n & uint32(1)) != uint32(0)
    y = div_f32(select_f32(odd, c, s), select_f32(odd, s, c))
    return flipped(y, n, uint32(bits_u32(x) >> uint32(31)))
