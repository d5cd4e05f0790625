"""log, sin, cos and tan of f32: the same bits on every machine and, by the same steps, on a GPU.

`fusec.codegen.cuda.lib.elementary` has the same steps in 32-bit integers.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import math

from numba import float32, int64, njit, types

from fusec.codegen.cpu.function import f32, llvm_function
from fusec.codegen.cpu.math import LN2_HIGH, LN2_LOW, fma_f32, rounded
from fusec.codegen.cpu.simd import F32, I32

SMALLEST = 2.0**-126  # of the normal numbers
ROOT = 0x3F3504F3  # the bits of sqrt(1/2)
QUARTER, INFINITY = 0x3F490FDB, 0x7F800000  # those of pi/4 and of infinity
WORD, MANTISSA, IMPLIED = 0xFFFFFFFF, 0x7FFFFF, 0x800000
TWO_OVER_PI = (
    *(0, 0xA2F9836E, 0x4E441529, 0xFC2757D1),
    *(0xF534DDC0, 0xDB629599, 0x3C439041, 0xFE5163AB),
)
"""2/pi in words of 32 bits, the first in front of the point."""
HALF_PI = rounded(math.pi / 2)
HALF_PI_REST = math.pi / 2 - HALF_PI
# log((1 + s) / (1 - s)) = 2 s + s * z * (LOG[0] + LOG[1] z + ...), z = s * s (fdlibm's logf)
LOG = (0.6666666269302368, 0.4000097215175629, 0.2849878668785095, 0.2427907884120941)
# sin r = r + r z (SIN[0] + SIN[1] z + ...), cos r = 1 - z / 2 + z z (COS[0] + ...), z = r * r,
# for |r| up to pi/4 (Cephes)
SIN = (-1.6666654611e-1, 8.3321608736e-3, -1.9515295891e-4)
COS = (4.166664568298827e-2, -1.388731625493765e-3, 2.443315711809948e-5)

bits_s32 = llvm_function(
    "bits_s32",
    types.int32,
    {"x": f32},
    lambda b, x: b.bitcast(x, I32),
    "The bits of x.",
    inline=True,
)
bits_f32 = llvm_function(
    "bits_f32",
    f32,
    {"bits": types.int32},
    lambda b, bits: b.bitcast(bits, F32),
    "The f32 with these bits.",
    inline=True,
)


@njit(error_model="numpy")
def log_f32(x):
    """log(x), at most 1 ulp off; minus infinity of 0, NaN below."""
    if not x > float32(0):
        return float32(-math.inf) if x == float32(0) else float32(math.nan)
    if x == float32(math.inf):
        return x
    tiny = x < float32(SMALLEST)
    offset = int64(bits_s32(x * float32(2**25) if tiny else x)) - ROOT
    n = float32(offset >> 23) - (float32(25) if tiny else float32(0))
    f = bits_f32((offset & MANTISSA) + ROOT) - float32(1)
    s = f / (f + float32(2))
    z = s * s
    r = fma_f32(float32(LOG[3]), z, float32(LOG[2]))
    r = fma_f32(r, z, float32(LOG[1]))
    r = fma_f32(r, z, float32(LOG[0])) * z
    half = float32(0.5) * f * f
    t = fma_f32(s, half + r, n * float32(LN2_LOW))
    return ((t - half) + f) + n * float32(LN2_HIGH)


@njit
def reduced(x):
    """(r, n): |x| is r + n pi/2, with |r| up to pi/4 and n modulo 4; r is NaN of an infinity.

    x = m * 2**e with an integer m. Of m * 2**e * 2/pi only what lies below 4 is needed, so m is
    multiplied with 96 bits of 2/pi (Payne and Hanek 1983). That leaves 62 bits of the fraction,
    of which at most 29 are 0 at its beginning, as no f32 is nearer to a multiple of pi/2.
    """
    size = abs(x)
    word = int64(bits_s32(size))
    if word < QUARTER:
        return size, int64(0)
    if word >= INFINITY:
        return float32(math.nan), int64(0)
    m = (word & MANTISSA) | IMPLIED
    offset = (word >> 23) - 120
    first, shift = offset >> 5, offset & 31
    low = m * _window(first + 2, shift)
    middle = m * _window(first + 1, shift) + (low >> 32)
    high = m * _window(first, shift) + (middle >> 32)
    # quarters of a turn: 2 bits in front of the point and 64 behind it, the nearest is n
    rest = ((high & 0x3FFFFFFF) << 34) | ((middle & WORD) << 2) | ((low & WORD) >> 30)
    n = ((high >> 30) & 3) + (1 if rest < 0 else 0)
    distance = abs(rest)
    v = float32(distance >> 40) * float32(2.0**-24)
    w = float32((distance >> 16) & 0xFFFFFF) * float32(2.0**-48)
    w = fma_f32(float32(distance & 0xFFFF), float32(2.0**-64), w)
    u = v + w
    lost = (v - u) + w
    r = fma_f32(u, float32(HALF_PI_REST), lost * float32(HALF_PI))
    r = fma_f32(u, float32(HALF_PI), r)
    return -r if rest < 0 else r, n


@njit
def _window(first, shift):
    """32 bits of 2/pi."""
    return ((TWO_OVER_PI[first] << shift) | (TWO_OVER_PI[first + 1] >> (32 - shift))) & WORD


@njit
def sine(r):
    """sin(r) for |r| up to pi/4."""
    z = r * r
    p = fma_f32(float32(SIN[2]), z, float32(SIN[1]))
    return fma_f32(r * z, fma_f32(p, z, float32(SIN[0])), r)


@njit
def cosine(r):
    """cos(r) for |r| up to pi/4."""
    z = r * r
    p = fma_f32(float32(COS[2]), z, float32(COS[1]))
    p = fma_f32(p, z, float32(COS[0]))
    return float32(1) + fma_f32(z * z, p, float32(-0.5) * z)


@njit
def sin_f32(x):
    """sin(x), at most 2 ulp off for any x; NaN of an infinity."""
    r, n = reduced(x)
    y = cosine(r) if n & 1 else sine(r)
    return -y if ((n & 2) != 0) != (bits_s32(x) < 0) else y


@njit
def cos_f32(x):
    """cos(x), at most 2 ulp off for any x; NaN of an infinity."""
    r, n = reduced(x)
    y = sine(r) if n & 1 else cosine(r)
    return -y if (n + 1) & 2 else y


@njit(error_model="numpy")
def tan_f32(x):
    """tan(x), at most 4 ulp off for any x; NaN of an infinity."""
    r, n = reduced(x)
    s, c = sine(r), cosine(r)
    y = c / s if n & 1 else s / c
    return -y if ((n & 1) != 0) != (bits_s32(x) < 0) else y
