"""Which pages of the KV cache hold which positions of which sequence: bookkeeping, without memory.

`fusec.ir.pages` says what pages, kinds and tables are. A sequence has a *slot*. Slots may share a
page: it has a count of those who hold it, and whoever writes into it gets a copy of his own first.
Pages that a window has left behind stay with their slot until it needs them for later positions, so
a sequence can be set back; what is set back, forgotten or shared no more goes back to the pool.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from fusec.errors import FusecError
from fusec.ir.op_attention import first_seen
from fusec.ir.pages import PAGE, entries, kind_of, most_pages
from fusec.ir.plan import LaunchPlan
from fusec.writer import count

Array = np.ndarray[Any, Any]


class OutOfPages(FusecError):
    """A sequence needs another page, and the pool has none left."""


class Change(NamedTuple):
    """Page `number` of a slot's sequence is now `page` of the pool of a kind.

    `copied`: the page whose rows it has to get, if it takes another one's place.
    """

    kind: str
    slot: int
    number: int
    page: int
    copied: int | None = None


class Run(NamedTuple):
    """So many positions (`length`) from `first` on, which lie in rows from `row` on."""

    first: int
    row: int
    length: int


Kept = Mapping[str, Mapping[int, int]]
"""Kind -> page of a sequence -> page of the pool: what somebody holds besides a slot."""


class Pool:
    """Pages of one kind, each with the number of those who hold it. The lowest free one is next."""

    def __init__(self, pages: int) -> None:
        self._holders = [0] * pages
        self._free = list(range(pages))  # a heap

    def __len__(self) -> int:
        return len(self._holders)

    @property
    def free(self) -> int:
        """How many pages nobody holds."""
        return len(self._free)

    def take(self) -> int:
        """A page that nobody else holds. Raises IndexError where there is none."""
        page = heapq.heappop(self._free)
        self._holders[page] = 1
        return page

    def share(self, page: int) -> None:
        """One more holds the page."""
        self._holders[page] += 1

    def is_shared(self, page: int) -> bool:
        """Whether several hold it, so that nobody may write to it."""
        return self._holders[page] > 1

    def drop(self, page: int) -> None:
        """One fewer holds it; from the last one it goes back to the pool."""
        self._holders[page] -= 1
        if not self._holders[page]:
            heapq.heappush(self._free, page)


class KindOfPages:
    """What slots hold of one kind of states, seen so far back as `window` says.

    `table`: i32[slots, entries], read by kernels. The pool has room for `room`
    sequences that fill the context. In memory its pages are so many rows `apart`.
    """

    def __init__(
        self, context: int, window: int, slots: int = 1, room: int = 1, apart: int = PAGE
    ) -> None:
        self.context, self.window, self.name = context, window, kind_of(window)
        self.most, self._apart = most_pages(context, window), apart
        self.pool = Pool(self.most * room)
        self.table: Array = np.zeros((slots, entries(context)), np.int32)
        self._held: list[dict[int, int]] = [{} for _ in range(slots)]
        self._ready = [range(0)] * slots  # positions that may be written, with all that they see

    def needed(self, first: int, end: int) -> range:
        """Pages of a sequence for a step of positions `first` to `end - 1`, and what they see."""
        return range(first_seen(first, self.window) // PAGE, -(-end // PAGE))

    def latest(self, first: int, end: int) -> range:
        """Pages that hold positions `first` to `end - 1`, the last of them if they are too many."""
        behind = -(-end // PAGE)
        return range(max(first // PAGE, behind - self.most), behind)

    def is_ready(self, slot: int, first: int, end: int) -> bool:
        """Whether a slot has all for such a step already: most steps begin no page."""
        ready = self._ready[slot]
        return first >= ready.start and end <= ready.stop

    def check(self, slot: int, needed: range, first: int, end: int) -> int:
        """How many pages are in use behind `have`, at most.

        Raises OutOfPages if the pool has too few.
        """
        held = self._held[slot]
        more = sum(self._is_wanted(slot, number, first) for number in needed)
        spare = sum(not self.pool.is_shared(held[n]) for n in held if n not in needed)
        if more > self.pool.free + spare:
            layers = f"a window of {self.window}" if self.window else "no window"
            raise OutOfPages(
                f"the KV cache has no room for position {end - 1} of a context of {self.context}: "
                f"layers with {layers} need {count(more, 'more page')} of {PAGE} positions, found "
                f"{self.pool.free + spare} of {len(self.pool)} free"
            )
        return min(len(self.pool), len(self.pool) - self.pool.free + more)

    def have(self, slot: int, needed: range, first: int) -> Iterator[Change]:
        """Let a slot hold these pages, and alone those that it writes, from position `first` on."""
        held = self._held[slot]
        for number in needed:
            if not self._is_wanted(slot, number, first):
                continue
            copied = held.get(number)
            self._make_room(slot, needed, is_copy=copied is not None)
            held[number] = page = self.pool.take()
            if copied is not None:
                self.pool.drop(copied)
            self._enter(slot, number)
            yield Change(self.name, slot, number, page, copied)
        self._ready[slot] = range(first, needed.stop * PAGE)

    def cut(self, slot: int, position: int) -> None:
        """Give back what lies behind the positions in front of `position`."""
        held, self._ready[slot] = self._held[slot], range(0)
        for number in [n for n in held if n * PAGE >= position]:
            self.pool.drop(held.pop(number))

    def oldest(self, slot: int, position: int) -> int:
        """The first position to which a sequence of so many tokens can be set back, besides 0."""
        begin = self.begin(slot, position)
        if begin and self.window:
            return min(position, begin + self.window - 1)
        return position if begin else 0

    def begin(self, slot: int, position: int) -> int:
        """The first position from which all in front of `position` are held."""
        held, number = self._held[slot], (position - 1) // PAGE + 1
        while number - 1 in held:
            number -= 1
        return min(number * PAGE, position)

    def held(self, slot: int) -> dict[int, int]:
        """Page of the slot's sequence -> page of the pool."""
        return dict(self._held[slot])

    def keep(self, slot: int) -> dict[int, int]:
        """What the slot holds now, held by somebody else as well."""
        for page in self._held[slot].values():
            self.pool.share(page)
        self._ready[slot] = range(0)
        return self.held(slot)

    def resume(self, slot: int, kept: Mapping[int, int]) -> Iterator[Change]:
        """Have the slot hold what somebody kept, who holds it no more."""
        self.cut(slot, 0)
        self._held[slot] = dict(kept)
        for number, page in kept.items():
            self._enter(slot, number)
            yield Change(self.name, slot, number, page)

    def runs(self, slot: int, first: int, end: int) -> Iterator[Run]:
        """Where positions lie, as few stretches of neighbouring rows as there are."""
        begin, row = first, -1
        for number in range(first // PAGE, -(-end // PAGE)):
            at = max(first, number * PAGE)
            here = int(self.table[slot, number]) + at % PAGE
            if row < 0:
                row = here
            elif here != row + at - begin:
                yield Run(begin, row, at - begin)
                begin, row = at, here
        if begin < end:
            yield Run(begin, row, end - begin)

    def _is_wanted(self, slot: int, number: int, first: int) -> bool:
        """Whether a slot has to take a page, to write there from position `first` on."""
        page = self._held[slot].get(number)
        return number >= first // PAGE and (page is None or self.pool.is_shared(page))

    def _make_room(self, slot: int, needed: range, is_copy: bool) -> None:
        """Let a slot take a page more: of those that it does not need, the one in front goes first.

        A sequence that was set back has some behind its end as well; of these the last goes first.
        """
        held = self._held[slot]
        spare = sorted(n for n in held if n not in needed)
        while spare and (len(held) - is_copy >= self.most or not self.pool.free):
            number = spare.pop(0 if spare[0] < needed.start else -1)
            self.pool.drop(held.pop(number))

    def _enter(self, slot: int, number: int) -> None:
        """Let the table find a page that the slot holds."""
        self.table[slot, number] = self._held[slot][number] * self._apart


class Pages:
    """All kinds of states of a plan: `slots` sequences, pools with room for `room` of them.

    `kind_of`: state -> the name of its kind. `apart`: kind -> rows from a page to the next, if they
    are not side by side. `back(kind, pages)` is called before more pages of a kind are in use than
    ever before, the first ones of its pool: there has to be memory for them.
    """

    def __init__(
        self,
        plan: LaunchPlan,
        slots: int = 1,
        room: int = 1,
        apart: Mapping[str, int] | None = None,
        back: Callable[[str, int], None] = lambda kind, pages: None,
    ) -> None:
        self.context = min((s.shape[0] for s in plan.states.values()), default=0)
        self.kind_of = {name: kind_of(plan.windows[name]) for name in plan.states}
        self.kinds: dict[str, KindOfPages] = {}
        for window in sorted(set(plan.windows.values())):
            name = kind_of(window)
            rows = (apart or {}).get(name, PAGE)
            self.kinds[name] = KindOfPages(self.context, window, slots, room, rows)
        self._back, self._backed = back, dict.fromkeys(self.kinds, 0)

    def rows(self, state: str) -> int:
        """Rows that a state has in memory: whole pages, or a context that is less than one."""
        pages = len(self.kinds[self.kind_of[state]].pool)
        return pages * PAGE if pages > 1 else self.context

    def reach(self, slot: int, first: int, end: int) -> list[Change]:
        """Have pages for positions `first` to `end - 1`, to be written, and keep what they see.

        Raises OutOfPages, and changes nothing, where a pool has too few.
        """
        kinds = [kind for kind in self.kinds.values() if not kind.is_ready(slot, first, end)]
        return self._have(slot, {kind: kind.needed(first, end) for kind in kinds}, first, end)

    def fill(self, slot: int, begins: Mapping[str, int], end: int) -> list[Change]:
        """Have pages for a sequence that is there up to `end - 1`, of each kind from a begin on.

        Raises OutOfPages, and changes nothing, where a pool has too few.
        """
        held = {kind: kind.latest(begins[name], end) for name, kind in self.kinds.items()}
        return self._have(slot, held, 0, end)

    def _have(
        self, slot: int, needed: Mapping[KindOfPages, range], first: int, end: int
    ) -> list[Change]:
        used = {k.name: k.check(slot, pages, first, end) for k, pages in needed.items()}
        for name, pages_used in used.items():
            if pages_used > self._backed[name]:
                self._back(name, pages_used)
                self._backed[name] = pages_used
        return [c for kind, pages in needed.items() for c in kind.have(slot, pages, first)]

    def cut(self, slot: int, position: int) -> None:
        """The sequence ends in front of `position`: give back the pages behind it."""
        for kind in self.kinds.values():
            kind.cut(slot, position)

    def oldest(self, slot: int, position: int) -> int:
        """The first position to which a sequence of so many tokens can be set back, besides 0.

        What the token there sees has to be held still, by all kinds.
        """
        return max((k.oldest(slot, position) for k in self.kinds.values()), default=0)

    def has_room_for_fork(self) -> bool:
        """Whether a second sequence can fill the context beside what is held now."""
        return all(kind.pool.free >= kind.most for kind in self.kinds.values())

    def keep(self, slot: int) -> Kept:
        """Hold what a slot holds, whatever becomes of its sequence."""
        return {name: kind.keep(slot) for name, kind in self.kinds.items()}

    def resume(self, slot: int, kept: Kept) -> list[Change]:
        """Let a slot's sequence be what `keep` gave, which may be resumed once."""
        return [c for name, kind in self.kinds.items() for c in kind.resume(slot, kept[name])]

    def runs(self, slot: int, state: str, first: int, end: int) -> Iterator[Run]:
        """Where positions of a state lie in memory."""
        return self.kinds[self.kind_of[state]].runs(slot, first, end)

    def begin(self, slot: int, state: str, position: int) -> int:
        """The first position of a state from which all in front of `position` are held."""
        return self.kinds[self.kind_of[state]].begin(slot, position)
