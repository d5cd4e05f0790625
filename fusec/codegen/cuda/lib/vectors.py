"""Whole vectors: reading them four floats a lane, the norm's sum, and fixed point for matvecs.

A quad is floats 4i to 4i + 3. Reading a quad behind the end gives zeros.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"

from numba import float32, int32, uint32

from fusec.codegen.cuda.device import (
    at,
    bits_f32,
    bits_u32,
    f32_to_s32,
    fma,
    inline,
    load_f32,
    load_f32x4,
    load_shared_f32,
    load_shared_f32x4,
    load_shared_u32x4,
    load_weight_f32,
    load_weight_v4,
    max_magnitude,
    max_u32,
    min_s32,
    min_u32,
    prmt,
    rsqrt_approx,
    s32_to_f32,
    select_f32,
    select_u32,
    shuffle_xor_f32,
    shuffle_xor_u32,
    store_f32_if,
    store_f32x4_if,
    store_shared_f32_if,
    store_shared_f32x4_if,
    store_shared_u32_if,
    thread_index,
)


@inline
def quad(x, i, n):
    """Quad i of n floats in memory."""
    if n % 4 == 0:
        inside = i < uint32(n // 4)
        a, b, c, d = load_f32x4(at(x, uint32(select_u32(inside, uint32(i), uint32(0)) * 4)))
        return only(inside, a), only(inside, b), only(inside, c), only(inside, d)
    last = uint32(n - 1)
    j = uint32(i * 4)
    return (
        only(j <= last, load_f32(at(x, min_u32(j, last)))),
        only(uint32(j + 1) <= last, load_f32(at(x, min_u32(uint32(j + 1), last)))),
        only(uint32(j + 2) <= last, load_f32(at(x, min_u32(uint32(j + 2), last)))),
        only(uint32(j + 3) <= last, load_f32(at(x, min_u32(uint32(j + 3), last)))),
    )


@inline
def quad_weight(x, i, n):
    """Quad i of a weight vector; behind the end it is any of its floats."""
    if n % 4 == 0:
        a, b, c, d = load_weight_v4(at(x, uint32(min_u32(uint32(i), uint32(n // 4 - 1)) * 4)))
        return bits_f32(a), bits_f32(b), bits_f32(c), bits_f32(d)
    last = uint32(n - 1)
    j = uint32(i * 4)
    return (
        load_weight_f32(at(x, min_u32(j, last))),
        load_weight_f32(at(x, min_u32(uint32(j + 1), last))),
        load_weight_f32(at(x, min_u32(uint32(j + 2), last))),
        load_weight_f32(at(x, min_u32(uint32(j + 3), last))),
    )


@inline
def quad_shared(x, i, n):
    """Quad i of n floats in shared memory, which are followed by zeros up to a whole quad."""
    inside = i < uint32((n + 3) // 4)
    a, b, c, d = load_shared_f32x4(uint32(x + select_u32(inside, uint32(i), uint32(0)) * 16))
    return only(inside, a), only(inside, b), only(inside, c), only(inside, d)


@inline
def only(condition, value):
    """The value where the condition holds, else 0."""
    return select_f32(condition, value, float32(0))


@inline
def only_quad(condition, x):
    """The quad where the condition holds, else zeros."""
    return (
        only(condition, x[0]),
        only(condition, x[1]),
        only(condition, x[2]),
        only(condition, x[3]),
    )


@inline
def plus(a, b):
    """Two quads, element by element."""
    return a[0] + b[0], a[1] + b[1], a[2] + b[2], a[3] + b[3]


@inline
def normed(x, inverse, weight):
    """A quad of an RMS norm."""
    return (
        x[0] * inverse * weight[0],
        x[1] * inverse * weight[1],
        x[2] * inverse * weight[2],
        x[3] * inverse * weight[3],
    )


@inline
def gained(x, weight):
    """A quad times its weights."""
    return x[0] * weight[0], x[1] * weight[1], x[2] * weight[2], x[3] * weight[3]


@inline
def add_across(s, distance):
    """The lane's value plus that of the lane `distance` away."""
    return s + shuffle_xor_f32(s, distance)


@inline
def add_kept(a, b, lane, distance):
    """`add_across` of `a` where the lane's bit of `distance` is 0, of `b` in the lane beside it."""
    is_one = uint32(lane & distance) != uint32(0)
    return select_f32(is_one, b, a) + shuffle_xor_f32(select_f32(is_one, a, b), distance)


@inline
def warp_sum(s):
    """The sum over the warp's lanes, in every lane: distances 1, 2, 4, 8, 16."""
    s = add_across(add_across(s, uint32(1)), uint32(2))
    return add_across(add_across(add_across(s, uint32(4)), uint32(8)), uint32(16))


@inline
def add_squares(s, x):
    """Four running sums of squares, one for each place in a quad."""
    return (
        fma(x[0], x[0], s[0]),
        fma(x[1], x[1], s[1]),
        fma(x[2], x[2], s[2]),
        fma(x[3], x[3], s[3]),
    )


@inline
def of_quad(s):
    """Four sums as one."""
    return (s[0] + s[1]) + (s[2] + s[3])


@inline
def squares_of_quad(x):
    """Their sum."""
    zero = float32(0)
    return of_quad(add_squares((zero, zero, zero, zero), x))


@inline
def store_squares(x, i, quads, partials):
    """Write the sum of squares of quad i."""
    store_shared_f32_if(uint32(partials + i * 4), squares_of_quad(x), i < uint32(quads))


@inline
def squares_of_lane(partials, quads, lane):
    """Every 32nd of what `store_squares` wrote, added up; `warp_sum` takes all of them together."""
    s = float32(0)
    for step in range((quads + 31) // 32):
        i = uint32(step * 32 + lane)
        there = load_shared_f32(uint32(partials + min_u32(i, uint32(quads - 1)) * 4))
        s = s + (there if step < quads // 32 else only(i < uint32(quads), there))
    return s


@inline
def sum_squares(x, n):
    """Sum of squares of n floats in memory, by every warp for itself."""
    lane = uint32(thread_index() & uint32(31))
    s = (float32(0), float32(0), float32(0), float32(0))
    for step in range((n + 127) // 128):
        s = add_squares(s, quad(x, uint32(step * 32 + lane), n))
    return warp_sum(of_quad(s))


@inline
def sum_squares_shared(x, n):
    """`sum_squares` of floats in shared memory."""
    lane = uint32(thread_index() & uint32(31))
    s = (float32(0), float32(0), float32(0), float32(0))
    for step in range((n + 127) // 128):
        s = add_squares(s, quad_shared(x, uint32(step * 32 + lane), n))
    return warp_sum(of_quad(s))


@inline
def inverse_rms(squares, fraction, eps):
    """1 / sqrt(mean of squares + eps); `fraction` is 1 / n.

    One step of Newton takes the approximation to within an ulp, without branches.
    """
    mean = squares * fraction + eps
    y = rsqrt_approx(mean)
    return fma(float32(0.5) * y, fma(-(mean * y), y, float32(1)), y)


@inline
def norm_head(x, weight, n, out, fraction, eps, live):
    """RMS norm of n floats in memory by one warp, times weights, to shared memory if `live`."""
    lane = uint32(thread_index() & uint32(31))
    inverse = inverse_rms(sum_squares(x, n), fraction, eps)
    for step in range((n + 127) // 128):
        i = uint32(step * 32 + lane)
        store_elements(normed(quad(x, i, n), inverse, quad_weight(weight, i, n)), i, n, out, live)


@inline
def norm_head_shared(x, weight, n, out, fraction, eps, live):
    """`norm_head` of floats in shared memory, behind which others may come."""
    lane = uint32(thread_index() & uint32(31))
    s = (float32(0), float32(0), float32(0), float32(0))
    for step in range((n + 127) // 128):
        s = add_squares(s, run_shared(x, uint32(step * 32 + lane), n))
    inverse = inverse_rms(warp_sum(of_quad(s)), fraction, eps)
    for step in range((n + 127) // 128):
        i = uint32(step * 32 + lane)
        gain = quad_weight(weight, i, n)
        store_elements(normed(run_shared(x, i, n), inverse, gain), i, n, out, live)


@inline
def run_shared(x, i, n):
    """Quad i of n floats in shared memory, without what comes behind them."""
    if n % 4 == 0:
        return quad_shared(x, i, n)
    last = uint32(n - 1)
    j = uint32(i * 4)
    return (
        only(j <= last, load_shared_f32(uint32(x + min_u32(j, last) * 4))),
        only(uint32(j + 1) <= last, load_shared_f32(uint32(x + min_u32(uint32(j + 1), last) * 4))),
        only(uint32(j + 2) <= last, load_shared_f32(uint32(x + min_u32(uint32(j + 2), last) * 4))),
        only(uint32(j + 3) <= last, load_shared_f32(uint32(x + min_u32(uint32(j + 3), last) * 4))),
    )


@inline
def store_elements(values, i, n, out, live):
    """Write those elements of quad i that are among n, one by one: `out` may lie anywhere."""
    a, b, c, d = values
    j = uint32(i * 4)
    store_shared_f32_if(uint32(out + j * 4), a, live & (j < uint32(n)))
    store_shared_f32_if(uint32(out + j * 4 + 4), b, live & (uint32(j + 1) < uint32(n)))
    store_shared_f32_if(uint32(out + j * 4 + 8), c, live & (uint32(j + 2) < uint32(n)))
    store_shared_f32_if(uint32(out + j * 4 + 12), d, live & (uint32(j + 3) < uint32(n)))


# A block of 32 floats in fixed point: the quantum is 2**(e - 22) for a largest magnitude with
# exponent e, so an integer has 23 bits and a sign. It is kept as three digits of a byte, the top
# one signed. Digit d of quad q of block b is the word at ((2 d + q / 4) * blocks + b) * 16 +
# q % 4 * 4, so that neighbouring lanes, which take neighbouring blocks, read without conflict.


@inline
def store_digits(x, i, inside, blocks, digits, scales):
    """Write quad i, if it is inside, as fixed point; the eight lanes of its block take part.

    Returns the sum of its four integers.
    """
    low, middle, high, quantum, total = fixed24_quad(x)
    block = uint32(i >> uint32(3))
    word = uint32(
        digits
        + (uint32((i >> uint32(2)) & uint32(1)) * uint32(blocks) + block) * 16
        + (i & uint32(3)) * 4
    )
    digit = uint32(blocks * 32)
    store_shared_u32_if(word, low, inside)
    store_shared_u32_if(uint32(word + digit), middle, inside)
    store_shared_u32_if(uint32(word + digit * 2), high, inside)
    first = uint32(i & uint32(7)) == uint32(0)
    store_shared_f32_if(uint32(scales + block * 4), quantum, inside & first)
    return total


@inline
def fixed24_quad(x):
    """A quad in fixed point, made by the eight lanes of its block together.

    Its three digits, lowest first, a byte of each element; the block's quantum, and the sum of the
    quad's integers.
    """
    largest = max_magnitude(max_magnitude(x[0], x[1]), max_magnitude(x[2], x[3]))
    largest = max_magnitude(largest, shuffle_xor_f32(largest, uint32(4)))
    largest = max_magnitude(largest, shuffle_xor_f32(largest, uint32(2)))
    largest = bits_u32(max_magnitude(largest, shuffle_xor_f32(largest, uint32(1))))
    exponent = max_u32(uint32(largest & uint32(0x7F800000)), uint32(22 << 23))
    factor = bits_f32(uint32(uint32(0x8A000000) - exponent))  # 2**(22 - e): biased 276 - e
    a, b = fixed(x[0] * factor), fixed(x[1] * factor)
    c, d = fixed(x[2] * factor), fixed(x[3] * factor)
    quantum = bits_f32(uint32(exponent - uint32(22 << 23)))
    finite = exponent < uint32(0x7F800000)  # otherwise the whole block becomes NaN
    quantum = select_f32(finite, quantum, bits_f32(uint32(0x7FC00000)))
    low, middle, high = three_bytes(a, b, c, d)
    return low, middle, high, quantum, int32(int32(a) + int32(b) + int32(c) + int32(d))


@inline
def fixed(x):
    """The nearest integer below 2**23, as bits."""
    return uint32(min_s32(f32_to_s32(x), int32(0x7FFFFF)))


@inline
def three_bytes(a, b, c, d):
    """The lowest bytes of four words, the next ones, and those behind these."""
    one, two = prmt(a, b, uint32(0x5140)), prmt(c, d, uint32(0x5140))
    high = prmt(prmt(a, b, uint32(0x62)), prmt(c, d, uint32(0x62)), uint32(0x5410))
    return prmt(one, two, uint32(0x5410)), prmt(one, two, uint32(0x7632)), high


@inline
def store_sum(partial, i, inside, sums):
    """Write the sum of a block's integers; `partial` is what `store_digits` returned."""
    s = uint32(partial)
    s = uint32(s + shuffle_xor_u32(s, uint32(4)))
    s = uint32(s + shuffle_xor_u32(s, uint32(2)))
    s = uint32(s + shuffle_xor_u32(s, uint32(1)))
    leader = inside & (uint32(i & uint32(7)) == uint32(0))
    store_shared_f32_if(uint32(sums + (i >> uint32(3)) * 4), s32_to_f32(int32(s)), leader)


@inline
def load_digits(digits, block, blocks):
    """A block's three digits, lowest first, each as two halves of four words."""
    here = uint32(digits + block * 16)
    half = uint32(blocks * 16)
    return (
        (load_shared_u32x4(here), load_shared_u32x4(uint32(here + half))),
        (load_shared_u32x4(uint32(here + half * 2)), load_shared_u32x4(uint32(here + half * 3))),
        (load_shared_u32x4(uint32(here + half * 4)), load_shared_u32x4(uint32(here + half * 5))),
    )


@inline
def load_of_block(values, block, blocks):
    """A block's quantum (or sum); 0 behind the last block."""
    inside = block < uint32(blocks)
    return only(inside, load_shared_f32(uint32(values + min_u32(block, uint32(blocks - 1)) * 4)))


@inline
def store_floats(x, i, inside, floats):
    """Write quad i, if it is inside, as it is."""
    store_shared_f32x4_if(uint32(floats + i * 16), x[0], x[1], x[2], x[3], inside)


@inline
def keep_quad(out, x, i, n, here):
    """`store_quad` by some threads only, of an n that is a multiple of four."""
    live = here & (i < uint32(n // 4))
    store_f32x4_if(at(out, uint32(i * 4)), x[0], x[1], x[2], x[3], live)


@inline
def store_quad(out, x, i, n):
    """Write quad i of n floats to memory."""
    j = uint32(i * 4)
    if n % 4 == 0:
        store_f32x4_if(at(out, j), x[0], x[1], x[2], x[3], i < uint32(n // 4))
    else:
        store_f32_if(at(out, j), x[0], j < uint32(n))
        store_f32_if(at(out, uint32(j + 1)), x[1], uint32(j + 1) < uint32(n))
        store_f32_if(at(out, uint32(j + 2)), x[2], uint32(j + 2) < uint32(n))
        store_f32_if(at(out, uint32(j + 3)), x[3], uint32(j + 3) < uint32(n))
