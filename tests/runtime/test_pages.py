"""The KV cache's bookkeeping: what is held, shared, copied and given back, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from fusec.ir import Builder
from fusec.ir.pages import PAGE, cache_bytes, most_pages, rows_in_memory, windows
from fusec.passes.lower import lower
from fusec.runtime.pages import Change, KindOfPages, OutOfPages, Pages, Pool

CONTEXT = 10 * PAGE
WINDOW = PAGE


def kind(window: int = 0, slots: int = 1, room: int = 1) -> KindOfPages:
    return KindOfPages(CONTEXT, window, slots, room)


def reach(pages: KindOfPages, first: int, end: int, slot: int = 0) -> list[Change]:
    needed = pages.needed(first, end)
    pages.check(slot, needed, first, end)
    return list(pages.have(slot, needed, first))


# --- how many there are --------------------------------------------------------------------------


@pytest.mark.parametrize(("context", "window"), [(1, 0), (255, 3), (256, 0), (257, 0), (5000, 300)])
def test_a_sequence_needs_no_more_pages_than_there_are(context: int, window: int) -> None:
    """Whatever the widest step of 512 rows begins at, it and the window in front of it fit."""
    most = most_pages(context, window)
    needed = []
    for first in range(context):
        seen = max(0, first + 1 - window) if window else 0
        needed.append((min(context, first + 512) - 1) // PAGE - seen // PAGE + 1)
    assert max(needed) == most
    assert rows_in_memory(context, window) == (context if most == 1 else most * PAGE)


def test_states_are_of_the_kind_of_the_attention_that_reads_them() -> None:
    b = Builder("g")
    x, pos = b.input("x", (1, 16)), b.input("pos", (1,), "i32")
    given = {"heads": 2, "kv_heads": 2, "scale": 1.0}
    made = []
    for name, window in (("near", 10), ("far", 0)):
        k, v = (b.state(f"{name}.{part}", (2000, 2, 8)) for part in "kv")
        caches = (b.kv_append(k, x, pos), b.kv_append(v, x, pos))
        made.append(b.attention(x, *caches, pos, window=window, **given))
    b.kv_append(b.state("alone", (2000, 2, 8)), x, pos)
    graph = b.build(*made)
    seen = {"$near.k": 10, "$near.v": 10, "$far.k": 0, "$far.v": 0, "$alone": 0}
    assert windows(graph) == lower(graph, "any", 0).windows == seen
    assert cache_bytes(graph) == 2 * 16 * (2 * 4 + 3 * 8) * PAGE
    pages = {arg for launch in lower(graph, "any", 0).launches for arg in launch.args}
    assert {arg.name for arg in pages if arg.kind == "pages"} == {"full", "window 10"}


# --- a sequence that grows, and goes back --------------------------------------------------------


def test_memory_is_taken_as_a_sequence_grows() -> None:
    pages = kind()
    assert [c.number for c in reach(pages, 0, 300)] == [0, 1]
    assert reach(pages, 300, 512) == []
    assert [c.number for c in reach(pages, 512, 513)] == [2]
    assert pages.pool.free == len(pages.pool) - 3
    assert pages.is_ready(0, 513, 768) and not pages.is_ready(0, 513, 769)


def test_what_a_window_has_left_makes_room() -> None:
    pages = kind(WINDOW)
    for first in range(0, CONTEXT, 64):
        reach(pages, first, first + 64)
        assert len(pages.pool) - pages.pool.free <= pages.most < CONTEXT // PAGE
        assert pages.begin(0, first + 64) <= max(0, first + 1 - WINDOW)
    assert pages.begin(0, CONTEXT) == CONTEXT - pages.most * PAGE
    assert pages.oldest(0, CONTEXT) == CONTEXT - pages.most * PAGE + WINDOW - 1


def test_going_back_gives_pages_back() -> None:
    pages = kind()
    reach(pages, 0, 1000)
    pages.cut(0, 257)
    assert pages.pool.free == len(pages.pool) - 2
    assert pages.begin(0, 257) == 0 and pages.oldest(0, 257) == 0
    assert [c.number for c in reach(pages, 257, 600)] == [2]
    pages.cut(0, 256)
    assert pages.pool.free == len(pages.pool) - 1
    pages.cut(0, 0)
    assert pages.pool.free == len(pages.pool)


def test_steps_anywhere_find_their_rows() -> None:
    """Of a session that is used without an engine: pages behind its end make room too."""
    pages = kind(WINDOW)
    for first in (9 * PAGE, 3, 5 * PAGE, 0, 8 * PAGE - 1):
        reach(pages, first, first + 2)
        found = pages.held(0)
        assert {first // PAGE, (first + 1) // PAGE} <= found.keys()
        assert len(found) <= pages.most and len({*found.values()}) == len(found)


def test_positions_lie_in_as_few_stretches_as_their_pages() -> None:
    pages = kind(slots=2)
    reach(pages, 0, 2 * PAGE)
    reach(pages, 0, PAGE, slot=1)
    reach(pages, 2 * PAGE, 4 * PAGE)
    assert list(pages.runs(0, 0, 0)) == []
    assert list(pages.runs(0, 10, 600)) == [(10, 10, 502), (512, 768, 88)]
    rows = [row + i for _, row, n in pages.runs(0, 10, 1000) for i in range(n)]
    positions = np.arange(10, 1000)
    assert rows == (pages.table[0, positions // PAGE] + positions % PAGE).tolist()


# --- pages that several hold ---------------------------------------------------------------------


def test_who_writes_to_a_shared_page_gets_a_copy() -> None:
    pages = kind(room=2)
    reach(pages, 0, 600)
    kept = pages.keep(0)
    (change,) = reach(pages, 600, 601)
    assert (change.number, change.copied) == (2, kept[2]) and change.page not in kept.values()
    assert reach(pages, 601, 700) == []
    assert pages.held(0)[0] == kept[0]
    assert [c.page for c in pages.resume(0, kept)] == [*kept.values()]
    assert reach(pages, 600, 700) == []  # nobody shares it any more


def test_a_fork_that_goes_back_takes_nothing_from_the_other() -> None:
    pages = kind(room=2)
    reach(pages, 0, 1000)
    kept = pages.keep(0)
    pages.cut(0, 0)
    assert pages.pool.free == len(pages.pool) - 4
    assert not {c.page for c in reach(pages, 0, 1000)} & {*kept.values()}
    list(pages.resume(0, kept))
    assert pages.pool.free == len(pages.pool) - 4


def test_two_slots_hold_different_pages() -> None:
    pages = kind(slots=2, room=2)
    for slot in range(2):
        reach(pages, 0, 800, slot)
    one, other = ({*pages.table[slot, :4]} for slot in range(2))
    assert len(one) == len(other) == 4 and not one & other


def test_a_pool_gives_its_lowest_page() -> None:
    pool = Pool(3)
    assert [pool.take() for _ in range(3)] == [0, 1, 2]
    pool.share(1)
    for page in (2, 1, 0):
        pool.drop(page)
    assert pool.take() == 0 and pool.take() == 2 and pool.free == 0
    assert not pool.is_shared(1)


# --- what is refused -----------------------------------------------------------------------------


def pages_of(context: int) -> Pages:
    b = Builder("g")
    x, pos = b.input("x", (1, 16)), b.input("pos", (1,), "i32")
    k, v = (b.kv_append(b.state(part, (context, 2, 8)), x, pos) for part in "kv")
    a = b.attention(x, k, v, pos, heads=2, kv_heads=2, scale=1.0)
    return Pages(lower(b.build(a), "any", 0))


def test_too_few_pages_are_an_error_that_changes_nothing() -> None:
    pages = pages_of(1000)
    pages.reach(0, 0, 600)
    kept = pages.keep(0)
    pages.reach(0, 600, 700)  # a copy: the last page that is free
    before = pages.kinds["full"].table.copy()
    with pytest.raises(OutOfPages) as caught:
        pages.reach(0, 700, 800)
    assert str(caught.value) == (
        "the KV cache has no room for position 799 of a context of 1000: layers with no window "
        "need 1 more page of 256 positions, found 0 of 4 free"
    )
    assert (pages.kinds["full"].table == before).all()
    assert not pages.has_room_for_fork()
    pages.resume(0, kept)
    assert len(pages.reach(0, 700, 800)) == 1
