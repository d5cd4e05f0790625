"""What a resident kernel does between its phases: see `fusec.codegen.cuda.resident`.

`entry` is the place of a phase in the table, in shared memory: numbers of its body and of the first
cluster that takes part, and how many blocks arrive in a token before what it needs is made. `told`,
in shared memory as well, are two words: whether to go on, and how many blocks had arrived when the
token in front was made, which the first thread alone reads and writes.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"

from numba import uint32

from fusec.codegen.cuda.device import (
    at,
    await_count,
    barrier,
    block_count,
    block_index,
    cluster_count,
    cluster_index_again,
    inline,
    load_shared_u32,
    load_shared_u32x2,
    load_shared_u64,
    load_system_u32,
    load_u32,
    load_u32x2,
    mailbox_make_if,
    mailbox_remake_if,
    min_u32,
    prefetch_l2_bulk,
    red_release_add_u32_if,
    select_u32,
    some,
    store_shared_u32_if,
    store_shared_u32x2_if,
    store_system_u32x2_if,
    store_u32_if,
    thread_index,
    u8_at,
    uniform,
    warp_barrier,
)
from fusec.codegen.cuda.lib.control import NO_TOKEN, RING, is_finite, make_input
from fusec.codegen.cuda.lib.reduce import best_of_parts

GOING, END, GAVE_UP = 32, 33, 34  # words of the control memory
FAR = 1 << 29  # a count so far beyond its number says that somebody has given up


@inline
def copy_phases(table, to, pairs, threads):
    """So many pairs of words of the table of phases into shared memory; a barrier follows."""
    thread = thread_index()
    for turn in range((pairs + threads - 1) // threads):
        i = uint32(turn * threads + thread)
        here = min_u32(i, uint32(pairs - 1))
        a, b = load_u32x2(at(table, uint32(here * 2)))
        store_shared_u32x2_if(uint32(to + here * 8), a, b, i < uint32(pairs))


@inline
def begin(told, boxes, count):
    """So many mailboxes that expect nothing yet, and no token."""
    store_shared_u32_if(uint32(told + uint32(4)), block_count(), thread_index() == uint32(0))
    for n in range(count):
        mailbox_make_if(uint32(boxes + n * 8), thread_index() == uint32(0))


@inline
def body_of_phase(entry):
    """Number of the body, the same in all threads."""
    return uniform(uint32(load_shared_u32(entry) & uint32(255)))


@inline
def cluster_of_phase(entry):
    """This block's cluster, counted from the first that takes part in the phase, around."""
    first, own = uint32(load_shared_u32(entry) >> uint32(8)), cluster_index_again()
    around = select_u32(own < first, cluster_count(), uint32(0))
    return uniform(uint32(own + around - first))


@inline
def end_turn(boxes, count):
    """The block has done its part of a phase; its mailboxes, all of whose bytes are here, are new.

    Its shared memory is free for what comes next.
    """
    barrier()
    for n in range(count):
        mailbox_remake_if(uint32(boxes + n * 8), thread_index() == uint32(0))


@inline
def arrive(count, takes_part):
    """Count this block, which has ended a turn, for those who wait for this phase."""
    red_release_add_u32_if(count, uint32(1), takes_part & (thread_index() == uint32(0)))


@inline
def await_phase(count, entry, told):
    """Wait until what a phase needs is made; it is seen behind this."""
    before = load_shared_u32(uint32(told + uint32(4)))
    target = uint32(before + load_shared_u32(uint32(entry + uint32(4))))
    await_count(count, target, thread_index() == uint32(0))
    barrier()


@inline
def end_token(entry, told):
    """The entry is the token's last, of a phase that one block takes part in."""
    before = load_shared_u32(uint32(told + uint32(4)))
    after = uint32(before + load_shared_u32(uint32(entry + uint32(4))) + uint32(1))
    store_shared_u32_if(uint32(told + uint32(4)), after, thread_index() == uint32(0))


@inline
def goes_on(count, control, told):
    """Wait for the token in front; whether another one is wanted, the same in all threads.

    It is not where the loop was stopped, or somebody has waited too long, which is written down.
    """
    first = thread_index() == uint32(0)
    beyond = await_count(count, load_shared_u32(uint32(told + uint32(4))), first)
    in_time = beyond < uint32(FAR)
    store_u32_if(at(control, uint32(GAVE_UP)), uint32(1), first & (beyond >= uint32(FAR)))
    wanted = select_u32(in_time, load_u32(at(control, uint32(GOING))), uint32(0))
    store_shared_u32_if(told, wanted, first)
    barrier()
    wanted = load_shared_u32(told)
    barrier()  # a block without work comes here again at once
    return uniform(wanted)


@inline
def choose_best(
    count, entry, told, tops, places, parts, threads, room, control, next_token, token, pos, step,
    tokens, ring, stop,
):  # fmt: skip
    """The last phase of a token, by one block: `advance_best` of `fusec.codegen.cuda.control`.

    The ring's entry is seen by the host at once. It is the last token where `stop`, a word of the
    host's memory, is not 0, where its logit is not finite, and where all are made. `room`: 256
    shared bytes.
    """
    stopped = load_system_u32(stop)  # takes long, and nothing waits for it yet
    end = load_u32(at(control, uint32(END)))
    position, made = load_u32(pos), load_u32(step)
    await_phase(count, entry, told)
    top, best = best_of_parts(tops, places, parts, threads, room, uint32(room + uint32(128)))
    first, good = thread_index() == uint32(0), is_finite(top)
    entry = at(ring, uint32(made & uint32(RING - 1)))
    word = select_u32(good, best, uint32(NO_TOKEN))
    store_u32_if(next_token, best, first)
    warp_barrier()  # all lanes have read what the first one writes
    store_system_u32x2_if(entry, word, uint32(made + uint32(1)), first)
    make_input(select_u32(good, best, uint32(0)), position, made, token, pos, step, tokens)
    wanted = good & (stopped == uint32(0)) & (uint32(made + uint32(1)) != end)
    store_u32_if(at(control, uint32(GOING)), select_u32(wanted, uint32(1), uint32(0)), first)


PREFETCHED = 4096  # bytes that a thread asks for at once


@inline
def prefetch_share(start, nbytes, block, blocks, threads):
    """A block's share of bringing so many bytes, a multiple of 16, into L2."""
    here = uint32((block * uint32(threads) + thread_index()) * uint32(PREFETCHED))
    step = uint32(blocks * uint32(threads * PREFETCHED))
    first = uint32(block * uint32(threads * PREFETCHED))
    while first < nbytes:
        if some(here < nbytes):
            prefetch_l2_bulk(at(start, here), min_u32(uint32(PREFETCHED), uint32(nbytes - here)))
        here, first = uint32(here + step), uint32(first + step)


@inline
def prefetch_phase(entry, count, told, threads):
    """Blocks from a number on, without work of their own, bring weights into L2."""
    nbytes, first = load_shared_u32x2(uint32(entry + 16))
    if block_index() >= uniform(first):
        await_phase(count, entry, told)
        own = uniform(uint32(block_index() - first))
        blocks = uniform(uint32(block_count() - first))
        start = u8_at(load_shared_u64(uint32(entry + 8)))
        prefetch_share(start, uniform(nbytes), own, blocks, threads)
