"""LayerNorm of vectors, by all warps of a block together, and of heads, by a warp each.

Behind the end of a vector, what is left when its mean is taken away is 0.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"

from numba import float32, uint32

from fusec.codegen.cuda.device import inline, store_shared_f32_if, thread_index
from fusec.codegen.cuda.lib.vectors import (
    add_squares,
    inverse_rms,
    normed,
    of_quad,
    only,
    only_quad,
    plus,
    quad,
    quad_shared,
    quad_weight,
    run_shared,
    squares_of_lane,
    store_elements,
    warp_sum,
)


@inline
def within(x, i, n):
    """Quad i of a vector of n floats: zeros in place of elements behind the end.

    Nobody reads quads behind the next multiple of 256 elements.
    """
    if n % 256 == 0:
        return x
    if n % 4 == 0:
        return only_quad(i < uint32(n // 4), x)
    j = uint32(i * 4)
    return (
        only(j < uint32(n), x[0]),
        only(uint32(j + 1) < uint32(n), x[1]),
        only(uint32(j + 2) < uint32(n), x[2]),
        only(uint32(j + 3) < uint32(n), x[3]),
    )


@inline
def without(x, mean):
    """A quad without the mean."""
    return x[0] - mean, x[1] - mean, x[2] - mean, x[3] - mean


@inline
def store_sums(x, n, threads, runs):
    """Write the sum of each run of 128 of n floats in memory; the block's warps take turns."""
    for step in range((n + 4 * threads - 1) // (4 * threads)):
        i = uint32(step * threads + thread_index())
        store_run(of_quad(quad(x, i, n)), i, n, runs)


@inline
def store_sums_shared(x, n, threads, runs):
    """`store_sums` of floats in shared memory."""
    for step in range((n + 4 * threads - 1) // (4 * threads)):
        i = uint32(step * threads + thread_index())
        store_run(of_quad(quad_shared(x, i, n)), i, n, runs)


@inline
def store_deviations(x, mean, n, threads, runs):
    """`store_sums` of the squares of what is above or below the mean."""
    for step in range((n + 4 * threads - 1) // (4 * threads)):
        i = uint32(step * threads + thread_index())
        store_run(square_of(within(without(quad(x, i, n), mean), i, n)), i, n, runs)


@inline
def store_deviations_shared(x, mean, n, threads, runs):
    """`store_deviations` of floats in shared memory."""
    for step in range((n + 4 * threads - 1) // (4 * threads)):
        i = uint32(step * threads + thread_index())
        store_run(square_of(within(without(quad_shared(x, i, n), mean), i, n)), i, n, runs)


@inline
def square_of(x):
    """The sum of a quad's squares."""
    zero = float32(0)
    return of_quad(add_squares((zero, zero, zero, zero), x))


@inline
def store_run(s, i, n, runs):
    """Write the sum over a warp of what each lane has of quad i: neighbours, 32 of them."""
    run, total = uint32(i >> uint32(5)), warp_sum(s)
    first = uint32(i & uint32(31)) == uint32(0)
    store_shared_f32_if(uint32(runs + run * 4), total, first & (run < uint32((n + 127) // 128)))


@inline
def sum_of_runs(runs, n):
    """The sum of n floats, of which `runs` has that of every 128, in every lane."""
    lane = uint32(thread_index() & uint32(31))
    return warp_sum(squares_of_lane(runs, (n + 127) // 128, lane))


@inline
def mean_of(x, n, fraction):
    """The mean of n floats in memory, by one warp; `fraction` is 1 / n."""
    lane = uint32(thread_index() & uint32(31))
    s = (float32(0), float32(0), float32(0), float32(0))
    for step in range((n + 127) // 128):
        s = plus(s, quad(x, uint32(step * 32 + lane), n))
    return warp_sum(of_quad(s)) * fraction


@inline
def mean_of_shared(x, n, fraction):
    """`mean_of` floats in shared memory, behind which others may come."""
    lane = uint32(thread_index() & uint32(31))
    s = (float32(0), float32(0), float32(0), float32(0))
    for step in range((n + 127) // 128):
        s = plus(s, run_shared(x, uint32(step * 32 + lane), n))
    return warp_sum(of_quad(s)) * fraction


@inline
def sum_deviations(x, mean, n):
    """Sum of the squares of what n floats in memory are above or below their mean, by one warp."""
    lane = uint32(thread_index() & uint32(31))
    s = (float32(0), float32(0), float32(0), float32(0))
    for step in range((n + 127) // 128):
        i = uint32(step * 32 + lane)
        s = add_squares(s, within(without(quad(x, i, n), mean), i, n))
    return warp_sum(of_quad(s))


@inline
def sum_deviations_shared(x, mean, n):
    """`sum_deviations` of floats in shared memory, behind which others may come."""
    lane = uint32(thread_index() & uint32(31))
    s = (float32(0), float32(0), float32(0), float32(0))
    for step in range((n + 127) // 128):
        i = uint32(step * 32 + lane)
        s = add_squares(s, within(without(run_shared(x, i, n), mean), i, n))
    return warp_sum(of_quad(s))


@inline
def layer_norm_head(x, weight, n, out, fraction, eps, live):
    """LayerNorm of n floats in memory by one warp, times weights, to shared memory if `live`."""
    lane = uint32(thread_index() & uint32(31))
    mean = mean_of(x, n, fraction)
    inverse = inverse_rms(sum_deviations(x, mean, n), fraction, eps)
    for step in range((n + 127) // 128):
        i = uint32(step * 32 + lane)
        gain = quad_weight(weight, i, n)
        store_elements(normed(without(quad(x, i, n), mean), inverse, gain), i, n, out, live)


@inline
def layer_norm_head_shared(x, weight, n, out, fraction, eps, live):
    """`layer_norm_head` of floats in shared memory, behind which others may come."""
    lane = uint32(thread_index() & uint32(31))
    mean = mean_of_shared(x, n, fraction)
    inverse = inverse_rms(sum_deviations_shared(x, mean, n), fraction, eps)
    for step in range((n + 127) // 128):
        i = uint32(step * 32 + lane)
        gain = quad_weight(weight, i, n)
        store_elements(normed(without(run_shared(x, i, n), mean), inverse, gain), i, n, out, live)
