"""Each kind of fault in the order of accesses, in a kernel of a few lines."""

from __future__ import annotations

import numpy as np
import pytest

from fusec.codegen.cuda.imports import import_lines
from fusec.codegen.cuda.toolchain import CudaKernel
from fusec.codegen.cuda.twins_grid import run_grid
from fusec.codegen.cuda.twins_history import RaceError
from fusec.codegen.cuda.twins_order import Trace

pytestmark = pytest.mark.slow  # compiles many kernels

START = ("room = shared_bytes(1024)", "t = thread_index()", "lane = uint32(t & uint32(31))")
STORE = "store_shared_u32(uint32(room + t * 4), t)"
OTHER_WARP = "v = load_shared_u32(uint32(room + (t ^ uint32(32)) * 4))"
OTHER_LANE = "v = load_shared_u32(uint32(room + (t ^ uint32(1)) * 4))"
KEEP = "store_u32(at(out, uint32(block_index() * uint32(64) + t)), v)"


def run(*lines: str, words: np.ndarray | None = None, **sizes: int) -> np.ndarray:
    """Of 64 threads a block, behind `START`; `words` is read, what `out` becomes is given back."""
    body = "def small(out, words):\n" + "".join(f"    {line}\n" for line in (*START, *lines))
    source = "\n".join(import_lines(body)) + "\n\n\n" + body
    kernel = CudaKernel("small", source, ("u32*", "u32*"), threads=64, **sizes)
    out = np.zeros(64 * kernel.grid, np.uint32)
    run_grid(kernel, out, np.arange(256, dtype=np.uint32) if words is None else words)
    return out


# --- barriers ------------------------------------------------------------------------------------


def test_a_read_that_no_barrier_orders_is_named() -> None:
    with pytest.raises(RaceError) as caught:
        run(STORE, OTHER_WARP, KEEP)
    text = str(caught.value)
    assert "thread 0 of block 0 reads room + 128" in text
    assert "which was written by thread 32 of block 0" in text
    assert OTHER_WARP in text and STORE in text


def test_a_barrier_orders_a_block() -> None:
    assert run(STORE, "barrier()", OTHER_WARP, KEEP)[:2].tolist() == [32, 33]


@pytest.mark.parametrize(("read", "fine"), [(OTHER_LANE, True), (OTHER_WARP, False)])
def test_a_warp_barrier_orders_a_warp(read: str, fine: bool) -> None:
    if fine:
        assert run(STORE, "warp_barrier()", read, KEEP)[0] == 1
    else:
        with pytest.raises(RaceError, match="nothing orders the two"):
            run(STORE, "warp_barrier()", read, KEEP)


def test_a_shuffle_orders_nothing() -> None:
    with pytest.raises(RaceError, match="reads room"):
        run(STORE, "t = shuffle_xor_u32(t, uint32(0))", OTHER_LANE, KEEP)


def test_what_was_read_is_not_written_before_a_barrier() -> None:
    again = "store_shared_u32(uint32(room + t * 4), uint32(t + uint32(1)))"
    before = (STORE, "barrier()", OTHER_WARP)
    with pytest.raises(RaceError, match=r"writes room .* which was read by thread 32 of block 0"):
        run(*before, again, KEEP)
    run(*before, "barrier()", again, KEEP)


def test_threads_may_write_the_same_but_not_different_words() -> None:
    run("store_shared_u32(room, uint32(5))", "barrier()", "v = load_shared_u32(room)", KEEP)
    with pytest.raises(RaceError, match="as does at once"):
        run("store_shared_u32(room, t)")


def test_a_word_that_many_lanes_read() -> None:
    lines = "v = load_shared_u32(room)", "store_shared_u32_if(room, uint32(7), t == uint32(0))"
    with pytest.raises(RaceError, match="which was read by lanes of warp 0"):
        run("store_shared_u32_if(room, t, t == uint32(0))", "barrier()", *lines)


def test_atomics_need_no_order_but_what_reads_them_does() -> None:
    zero = "store_shared_u32_if(room, uint32(0), t == uint32(0))"
    add = "atomic_add_shared_u32_if(room, uint32(1), t < uint32(64))"
    read = "v = load_shared_u32(room)"
    assert run(zero, "barrier()", add, add, "barrier()", read, KEEP)[0] == 128
    with pytest.raises(RaceError, match="changes room"):
        run(zero, add)
    with pytest.raises(RaceError, match="which was changed by"):
        run(zero, "barrier()", add, read, KEEP)


@pytest.mark.parametrize(
    ("inside", "message"),
    [
        ("barrier()", "a barrier for 64 threads, to which 40 come"),
        ("v = shuffle_xor_u32(t, uint32(1))", "all lanes of a warp have to come"),
        ("warp_barrier()", "all lanes of a warp have to come"),
    ],
)
def test_not_all_come(inside: str, message: str) -> None:
    with pytest.raises(RaceError, match=message):
        run("if some(t < uint32(40)):", f"    {inside}")


def test_threads_beside_a_branch_do_not_run_it() -> None:
    v = run("v = t", "if some(t < uint32(32)):", "    store_u32(at(out, t), uint32(9))")
    assert v.tolist() == [9] * 32 + [0] * 32


# --- copies --------------------------------------------------------------------------------------

COPY = "copy_async_16(uint32(room + t * 16), at(words, uint32(t * 4)))"
READ_COPY = "v = load_shared_u32(uint32(room + {} * 16))"


def test_a_copy_is_there_when_it_was_waited_for() -> None:
    own = READ_COPY.format("t")
    waited = "copy_async_commit()", "copy_async_wait_0()"
    assert run(COPY, *waited, own, KEEP)[3] == 12
    for missing in ((), waited[:1], waited[1:]):
        with pytest.raises(RaceError, match="being copied to"):
            run(COPY, *missing, own, KEEP)
    other = READ_COPY.format("(t ^ uint32(1))")
    with pytest.raises(RaceError, match="which was written by thread 1 "):
        run(COPY, *waited, other, KEEP)
    assert run(COPY, *waited, "warp_barrier()", other, KEEP)[3] == 8


def test_a_copy_of_zeros_is_a_copy_as_well() -> None:
    copy = COPY.replace("copy_async_16(", "copy_async_16_or_zeros(")[:-1] + ", t < uint32(2))"
    own = READ_COPY.format("t")
    waited = "copy_async_commit()", "copy_async_wait_0()"
    assert run(copy, *waited, own, KEEP).tolist()[:4] == [0, 4, 0, 0]
    for missing in ((), waited[:1], waited[1:]):
        with pytest.raises(RaceError, match="being copied to"):
            run(copy, *missing, own, KEEP)


def test_a_wait_leaves_the_later_groups() -> None:
    two = COPY, "copy_async_commit()", COPY.replace("room", "room2"), "copy_async_commit()"
    room = "room2 = shared_bytes(1024)"
    later = READ_COPY.format("t").replace("room", "room2")
    run(room, *two, "copy_async_wait_1()", READ_COPY.format("t"), KEEP, "copy_async_wait_0()")
    with pytest.raises(RaceError, match="being copied to"):
        run(room, *two, "copy_async_wait_1()", later, KEEP)


def test_a_slot_is_not_filled_again_while_others_read_it() -> None:
    waited = "copy_async_commit()", "copy_async_wait_0()", "warp_barrier()"
    read = READ_COPY.format("(t ^ uint32(1))")
    with pytest.raises(RaceError, match=r"writes room .* which was read by thread 1 "):
        run(COPY, *waited, read, COPY, *waited)
    run(COPY, *waited, read, "warp_barrier()", COPY, *waited)


def test_nobody_leaves_with_copies_under_way() -> None:
    with pytest.raises(RaceError, match="ends with copies under way"):
        run(COPY)


# --- blocks and launches -------------------------------------------------------------------------


def test_blocks_of_a_launch_do_not_wait_for_each_other() -> None:
    ring = "v = load_u32(at(out, uint32((block_index() ^ uint32(1)) * uint32(64) + t)))"
    with pytest.raises(RaceError, match=r"writes out\[64\], which was read by another block"):
        run("v = t", KEEP, ring, grid=2)
    with pytest.raises(RaceError, match=r"writes out\[0\], which was written by block 0 or one of"):
        run("store_u32_if(out, block_index(), t == uint32(0))", grid=2)
    with pytest.raises(RaceError, match=r"reads out\[0\], which was written by block 0 or one of"):
        run(ring, KEEP, grid=2)


def test_blocks_may_reach_a_cluster_behind_its_barrier() -> None:
    peer = "peer = map_shared(uint32(room + t * 4), uint32(cluster_rank() ^ uint32(1)))"
    read, meet = "v = load_cluster_u32(peer)", ("cluster_arrive()", "cluster_wait()")
    two = {"grid": 2, "cluster": 2}
    value = "store_shared_u32(uint32(room + t * 4), uint32(block_index() * 100 + t))"
    assert run(value, peer, *meet, read, *meet, KEEP, **two)[[0, 64]].tolist() == [100, 0]
    relaxed = "cluster_arrive_relaxed()", "cluster_wait()"
    for first, last, message in (
        (relaxed, meet, "nothing orders the two|which was read"),
        ((), meet, "which may not have begun"),
        (meet, (), "leaves while its memory may still be read|may have left"),
        (("cluster_wait()",), meet, "where nobody has arrived"),
        (("cluster_arrive()",), meet, "arrives at the cluster's barrier again|not have begun"),
    ):
        with pytest.raises(RaceError, match=message):
            run(value, peer, *first, read, *last, KEEP, **two)


MAIL = (
    "box = shared_bytes(8)",
    "mailbox_open(box, uint32(256), t == uint32(0))",
    "cluster_arrive_relaxed()",
    "cluster_wait()",
    "other = uint32(cluster_rank() ^ uint32(1))",
    "to = map_shared(uint32(room + t * 4), other)",
    "send_f32_if(to, float32(t), map_shared(box, other), t < uint32(64))",
    "mailbox_wait(box)",
    "v = f32_to_s32(load_shared_f32(uint32(room + t * 4)))",
)


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        (1, "a mailbox that the block has not opened"),
        (3, "the memory of block ., which may not have begun"),
        (2, "where nobody has arrived"),
        (7, "by its mailbox: nothing|which was read by|may have left|still be written"),
    ],
)
def test_what_is_sent_is_there_behind_the_wait_for_it(missing: int, message: str) -> None:
    two = {"grid": 2, "cluster": 2}
    assert run(*MAIL, KEEP, **two)[[5, 69]].tolist() == [5, 5]
    with pytest.raises(RaceError, match=message):
        run(*MAIL[:missing], *MAIL[missing + 1 :], KEEP, **two)


def test_mail_is_for_a_block_that_is_known_to_have_opened_its_mailbox() -> None:
    late = MAIL[0], MAIL[2], MAIL[3], MAIL[1], *MAIL[4:]
    with pytest.raises(RaceError, match="whose mailbox may not be open"):
        run(*late, KEEP, grid=2, cluster=2)


TWO = (
    "second = shared_bytes(8)",
    "mailbox_open(second, uint32(128), t == uint32(0))",
    *MAIL[:6],
    "to = map_shared(uint32(room + t * 4), other)",
    "send_f32_if(to, float32(t), map_shared(box, other), t < uint32(64))",
    "send_f32_if(map_shared(uint32(room + 256 + t * 4), other), float32(t), "
    "map_shared(second, other), t < uint32(32))",
    "mailbox_wait(box)",
    "mailbox_wait(second)",
    "v = f32_to_s32(load_shared_f32(uint32(room + 256 + uint32(t & uint32(31)) * 4)))",
)


def test_each_mailbox_orders_what_it_was_sent() -> None:
    two = {"grid": 2, "cluster": 2}
    assert run(*TWO, KEEP, **two)[[5, 69]].tolist() == [5, 5]
    with pytest.raises(RaceError, match="by its mailbox"):
        run(*(line for line in TWO if line != "mailbox_wait(second)"), KEEP, **two)


def test_a_wait_for_mail_orders_the_threads_that_wait() -> None:
    first = "if some(t < uint32(32)):", f"    {MAIL[7]}"
    two = {"grid": 2, "cluster": 2}
    with pytest.raises(RaceError, match="by its mailbox"):
        run(*MAIL[:7], *first, *MAIL[8:], KEEP, **two)
    run(*MAIL[:7], *first, "barrier()", *MAIL[8:], KEEP, **two)


def test_what_launches_in_front_make_is_read_and_replaced_behind_the_wait() -> None:
    def launch(*lines: str) -> CudaKernel:
        body = "def small(out, words):\n    t = thread_index()\n"
        body += "".join(f"    {line}\n" for line in lines)
        source = "\n".join(import_lines(body)) + "\n\n\n" + body
        return CudaKernel("small", source, ("u32*", "u32*"), threads=64)

    read, keep = "v = load_u32(at(words, t))", "store_u32(at(out, t), v)"
    first, second, third = (np.zeros(64, np.uint32) for _ in range(3))

    def step(*lines: str, early: bool = True) -> None:
        trace = Trace()
        run_grid(launch(read, keep), second, first, trace=trace, early=False)
        run_grid(launch(*lines), third, second, trace=trace, early=early)

    step("griddep_wait()", read, keep)
    step(read, keep, early=False)
    with pytest.raises(RaceError, match=r"reads words\[0\], .* by a launch in front"):
        step(read, "griddep_wait()", keep)
    with pytest.raises(RaceError, match="stores in front of the wait"):
        step("v = t", keep, "griddep_wait()")
    with pytest.raises(RaceError, match="by a launch in front"):
        step("if some(t < uint32(32)):", "    griddep_wait()", read, "barrier()", keep)
    step("if some(t < uint32(32)):", "    griddep_wait()", "barrier()", read, keep)
