"""Between two forward passes: the chosen token, or the prompt's next one, becomes the input."""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"

from numba import uint32

from fusec.codegen.cuda.device import (
    at,
    bits_u32,
    block_index,
    inline,
    load_f32,
    load_u32,
    low_word,
    min_u32,
    prefetch_l2_bulk,
    select_u32,
    some,
    store_u32_if,
    store_u32x2_if,
    thread_index,
    uniform,
    warp_barrier,
)

RING = 1024  # entries of the ring that hands tokens to the host
NO_TOKEN = 0xFFFFFFFF  # what it gets in place of one that nobody may choose


@inline
def advance_token(logits, vocabulary, next_token, token, pos, step, tokens, ring):
    """See `fusec.codegen.cuda.control.advance`."""
    made, chosen = load_u32(step), load_u32(next_token)
    logit = load_f32(at(logits, min_u32(chosen, uint32(vocabulary - 1))))
    hand_on(chosen, is_finite(logit), load_u32(pos), made, token, pos, step, tokens, ring)


@inline
def is_finite(x):
    """Whether a float is neither infinite nor NaN."""
    return uint32(bits_u32(x) & uint32(0x7F800000)) != uint32(0x7F800000)


@inline
def hand_on(chosen, good, position, made, token, pos, step, tokens, ring):
    """What `advance` writes for a token, where pos holds `position` and step holds `made`.

    `good`: whether the token's logit is finite.
    """
    warp_barrier()  # all lanes have read what the first one writes
    first = thread_index() == uint32(0)
    entry = uint32(made & uint32(RING - 1))
    after = uint32(made + uint32(1))
    store_u32x2_if(at(ring, entry), select_u32(good, chosen, uint32(NO_TOKEN)), after, first)
    make_input(select_u32(good, chosen, uint32(0)), position, made, token, pos, step, tokens)


@inline
def make_input(chosen, position, made, token, pos, step, tokens):
    """The chosen token is read next, at the position behind `position`."""
    first = thread_index() == uint32(0)
    p = uint32(position + uint32(1))
    store_u32_if(at(tokens, p), chosen, first)
    store_u32_if(token, chosen, first)
    store_u32_if(pos, p, first)
    store_u32_if(step, uint32(made + uint32(1)), first)


@inline
def prefetch_bytes(start, end, share, blocks):
    """See `fusec.codegen.cuda.control.prefetch`."""
    n = uint32(low_word(end) - low_word(start))
    first = uint32((block_index() * uint32(32) + thread_index()) * uint32(share))
    for turn in range(
        uniform(uint32(uint32(n + uint32(share * 32 * blocks - 1)) // uint32(share * 32 * blocks)))
    ):
        here = uint32(first + uint32(turn) * uint32(share * 32 * blocks))
        with_end = min_u32(uint32(share), uint32(n - here))
        if some(here < n):
            prefetch_l2_bulk(at(start, here), with_end)


@inline
def feed_token(tokens, token, pos):
    """See `fusec.codegen.cuda.control.feed`."""
    first = thread_index() == uint32(0)
    p = uint32(load_u32(pos) + uint32(1))
    known = load_u32(at(tokens, p))
    warp_barrier()  # all lanes have read what the first one writes
    store_u32_if(token, known, first)
    store_u32_if(pos, p, first)
