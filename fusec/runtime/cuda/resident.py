"""The token loop in one launch: a resident kernel makes tokens until the host has enough of them.

`fusec.codegen.cuda.resident` says what the kernel does. The first token of a generation is a graph
as of `TokenLoop`, behind which the host looks at the logits. Then a launch makes up to `TOKENS`,
for which the cache has pages before it begins, and the next one is enqueued when `AHEAD` are left.
The host reads tokens from the ring as they appear. It stops a launch by a word in its own memory,
which the kernel reads once a token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from fusec.codegen.cuda.phases import CONTROL_WORDS, COUNT, END, GAVE_UP, GOING, MOST_BODIES
from fusec.codegen.cuda.resident import Resident
from fusec.errors import FusecError
from fusec.ir.choosing import final_choice, without_choice
from fusec.ir.plan import Arg, Launch, LaunchPlan
from fusec.runtime.cuda.loop import TokenLoop
from fusec.runtime.cuda.session import CudaSession
from fusec.runtime.job import Job
from fusec.runtime.session import Array

TOKENS = 256
"""Of a launch, at most: pages for them are in the cache before it begins."""

AHEAD = 64
"""Tokens that are still to be read when the next launch is enqueued: its start waits for nobody."""

STOPS = 16
"""Words by which launches are stopped, in turn: more than are ever enqueued."""


class ResidentLoop(TokenLoop):
    """`TokenLoop` for greedy tokens, of a plan that has a resident kernel.

    Raises FusecError where the GPU has no room for all of its blocks at once.
    """

    def __init__(
        self,
        decode: CudaSession,
        scores: CudaSession,
        absorb: CudaSession,
        context: int,
        resident: Resident,
    ) -> None:
        super().__init__(decode, scores, absorb, context)
        kernel, workspace, memory = resident.kernel, self.workspace, self.workspace.memory
        workspace.need([kernel.name])
        self.clusters = workspace.clusters_at_once(kernel.name, kernel.cluster)
        if self.clusters < resident.least:
            raise FusecError(
                f"kernel {kernel.name}: expected room for {resident.least} clusters of "
                f"{kernel.cluster} blocks of {kernel.threads} threads at once, so that none waits "
                f"for another, found {self.clusters} on {workspace.driver.name}: leave out "
                "--resident"
            )
        self._name, self._blocks = kernel.name, self.clusters * kernel.cluster
        plan = decode.plan
        argmax = final_choice(plan)
        assert argmax is not None  # `resident` has refused other plans
        words = table_of(resident, plan, workspace.address, workspace.stretches, self.clusters)
        table = memory.upload(words, "the table of phases")
        self._control = memory.zeros(4 * CONTROL_WORDS, "the resident kernel's control words")
        self._stops, self._stop_at = memory.pinned(STOPS, np.dtype(np.uint32))
        self._launches = 0
        self._own: list[int] = []  # words that stop the latest generation's launches
        parts = (workspace.address(arg) for arg in argmax.args[:2])
        handed = (self.chosen, self.token, self.pos, self.counter, self.tokens, self.ring)
        self._bound = (table, self._control, *parts, *handed)

    def run(self, job: Job, stop: frozenset[int]) -> Iterator[int]:
        """See `TokenLoop`; sampling is refused."""
        self.stop()
        if not job.sampling.is_argmax:
            raise FusecError(
                "a resident kernel chooses the likeliest token: expected temperature 0 (--temp 0), "
                f"found {job.sampling.temperature}: leave out --resident to sample"
            )
        own: list[int] = []
        self._own = own
        try:
            yield from super().run(job, stop)
        finally:
            self._end_launches(own)

    def stop(self) -> None:
        """See `TokenLoop`: launches end behind the token that they are at."""
        self._end_launches(self._own)

    def _end_launches(self, words: list[int]) -> None:
        """Those of a generation that end by these words, of which none is left then."""
        if words and not self.workspace.turns.closed:
            self._stops[words] = 1
            self._is_counted = False  # nobody knows how many tokens they make
        words.clear()

    def keep_ahead(
        self, first: int, done: int, count: int, kind: str, enqueue: Callable[[], None]
    ) -> None:
        """See `TokenLoop`."""
        left = first + count - self.steps
        if left and self.steps - (first + done) <= AHEAD:
            self._launch(min(left, TOKENS))

    def _launch(self, tokens: int) -> None:
        """Enqueue so many tokens."""
        self.make_room(tokens, AHEAD + TOKENS)
        self.steps += tokens
        start = np.zeros(END + 1, np.uint32)
        start[[COUNT, GOING, END]] = 0, 1, self.steps & 0xFFFFFFFF
        self.workspace.memory.write(self._control, start)
        word = self._launches % STOPS
        self._launches, self._stops[word] = self._launches + 1, 0
        self._own.append(word)
        pointers = (*self._bound, self._stop_at + 4 * word)
        self.workspace.launch_at_once(self._name, pointers, self._blocks)

    def take(self, step: int, *, naps: bool = True) -> int:
        """See `TokenLoop`."""
        try:
            return super().take(step, naps=naps)
        except FusecError as error:
            words = self.workspace.memory.read(self._control, (CONTROL_WORDS,), np.dtype(np.uint32))
            if not words[GAVE_UP]:
                raise
            raise FusecError(
                f"kernel {self._name}: its blocks waited for one another for some two seconds and "
                "gave up: leave out --resident, and report it"
            ) from error


def table_of(
    resident: Resident,
    plan: LaunchPlan,
    address: Callable[[Arg], int],
    stretches: Callable[[Sequence[str]], Sequence[tuple[int, int]]],
    clusters: int,
) -> Array:
    """The phases of a plan as the kernel reads them, for a grid of so many clusters.

    uint32: for each the number of its body, how many blocks arrive in front of it in a token, and
    two words of each pointer. Blocks without work in layers fetch weights, where the plan says so.
    `address` gives the place of an argument, `stretches` those of weights to fetch.
    """
    bodies = {body.name: number for number, body in enumerate(resident.bodies)}
    launches = without_choice(plan).launches
    places, used = _places(resident, launches, clusters)
    rows: list[list[int]] = []
    so_far = 0
    for launch, first in zip(launches, places, strict=True):
        number = bodies[launch.kernel]
        pointers = map(address, launch.args)
        what = number + MOST_BODIES * first
        rows.append([what, so_far, *(w for p in pointers for w in _words(p))])
        fetched = stretches(launch.prefetch)
        if fetched and used < clusters:
            start, end = max(fetched, key=lambda stretch: stretch[1] - stretch[0])
            spare = used * resident.kernel.cluster
            rows.append([resident.prefetching, so_far, *_words(start), end - start, spare])
        so_far += resident.blocks_of(resident.bodies[number], clusters)
    rows.append([resident.choosing, so_far])
    table = np.zeros((resident.phases, resident.entry // 4), np.uint32)
    for words, row in zip(table, rows, strict=False):
        words[: len(row)] = row
    return table.reshape(-1)


def _places(resident: Resident, launches: Sequence[Launch], clusters: int) -> tuple[list[int], int]:
    """The first cluster of each phase, and how many of the clusters layers use.

    The phases of a layer have theirs side by side, as far as there are some. So a block of the next
    phase has none of this one, and loads its weights meanwhile.
    """
    bodies = {body.name: body for body in resident.bodies}
    places: list[int] = []
    layer, cursor, used = None, 0, 0
    for launch in launches:
        needed = resident.clusters_of(bodies[launch.kernel], clusters)
        if launch.layer is None or launch.layer != layer:
            cursor = 0
        layer = launch.layer
        places.append(cursor % clusters)
        cursor += needed
        used = max(used, cursor if layer is not None else 0)
    return places, used


def _words(address: int) -> Sequence[int]:
    """Lower and upper half."""
    return address & 0xFFFFFFFF, address >> 32
