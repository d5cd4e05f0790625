"""The token loop with drafted tokens: guess, check and accept in one captured graph.

The host enqueues graphs and reads tokens as they come, as `TokenLoop` does, and from a log beside
them how many each graph has made. It says how many rows the next graph has; which tokens are
guessed, and how many of these count, the device decides.

A drafter that is no kernel (a model, one of a user's own) guesses on the host, which then waits for
every step. All the rest is the same, so the same tokens come.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeVar

from fusec.codegen.cuda.control import NO_TOKEN
from fusec.runtime.cuda.checked_steps import MOST_ROWS, CheckedSteps
from fusec.runtime.cuda.loop import Reader, TokenLoop
from fusec.runtime.cuda.pace import Pace, width_of
from fusec.runtime.cuda.session import CudaSession
from fusec.runtime.drafting import Drafting, DraftStatistics
from fusec.runtime.finite import check_finite, not_finite
from fusec.runtime.job import Job

AHEAD = 3
"""Graphs enqueued ahead: few, so that it is soon noticed where a text begins to repeat itself."""

AHEAD_DRAFTED = 2
"""The same where one of them has guesses; what such a graph makes decides on the next."""

Found = TypeVar("Found")


class _Ahead(NamedTuple):
    """A graph that is enqueued: its rows, 0 of a plain one, and which of the drafted ones it is."""

    width: int
    number: int = 0

    @property
    def most(self) -> int:
        """Tokens that it may make."""
        return max(1, self.width)


class _Found(NamedTuple):
    """What a graph has made, of how many guesses, and when it ended by the device's clock."""

    tokens: list[int]
    drafted: int = 0
    ended: int = 0


class DraftedLoop:
    """`rows` and `scores`: see `CheckedSteps`, which are made when they are first needed."""

    def __init__(self, loop: TokenLoop, rows: CudaSession, scores: CudaSession) -> None:
        self._loop, self._sessions = loop, (rows, scores)
        self.workspace = loop.workspace
        self._made: CheckedSteps | None = None

    def run(
        self, job: Job, stop: frozenset[int], pace: Pace, statistics: DraftStatistics
    ) -> Iterator[int]:
        """Yield the tokens of a job, which the device guesses. See `TokenLoop.run`."""
        first = self._begin(job, pace.suffixes, pace.chained)
        pace.begin(job.sequence)  # while the GPU reads the prompt
        ahead: deque[_Ahead] = deque()
        put = self._putting(job, ahead)
        made = 0

        def step() -> Sequence[int]:
            """The next tokens. Where the GPU waits for the next graph, all else comes behind it."""
            graph = ahead.popleft() if made else _Ahead(0)
            if not made:
                found = _Found([self._first(job, first)])
            elif graph.width:
                found = self._checked(graph, first + made, naps=bool(ahead))
            else:
                found = _Found([self._loop.take(first + made, naps=bool(ahead))])
            tokens = found.tokens
            goes_on = stop.isdisjoint(tokens) and made + len(tokens) < job.count
            pace.seen(tokens)
            if goes_on and not ahead:
                put(pace.width() or 0)
            if graph.width:
                pace.ended(graph.width, found.ended)
            pace.learn(plain=not graph.width)
            if goes_on:
                self._top_up(ahead, put, pace, job.count - made - len(tokens))
            statistics.checked(graph.most, found.drafted, len(tokens))
            return tokens

        last = job.sequence[-1]
        while made < job.count:
            for token in self._in_turn(step):
                self._check(token, last, len(job.sequence) - 1 + made)
                if token in stop:
                    return
                made, last = made + 1, token
                statistics.tokens += 1
                yield token

    def run_hosted(self, job: Job, stop: frozenset[int], drafting: Drafting) -> Iterator[int]:
        """Yield the tokens of a job, which the host guesses. See `TokenLoop.run`."""
        drafting.begin(job.sequence)
        reads = drafting.reads_hidden
        first = self._begin(job, read=drafting.read if reads else None)
        kind, enqueue = self._loop.token_graph(job.sampling)
        made, last = 0, job.sequence[-1]

        def step() -> tuple[list[int], list[int]]:
            """The tokens that were made, and what each row has chosen."""
            if not made:
                found = [self._first(job, first)]
                return found, found
            if not guesses and not reads:
                self._loop.ahead(self._loop.steps + 1, kind, enqueue)
                found = [self._loop.take(first + made)]
                return found, found
            position = len(job.sequence) - 1 + made
            self.steps.guess(position, guesses)
            rows = len(guesses) + 1
            number = self._enqueue(kind, width_of(rows), drafts=False)
            told, _ = self.steps.told(number)
            self._loop.has_made_fewer(width_of(rows) - told.made)
            if reads:
                drafting.read(position, self.steps.hidden(kind, rows))
            return self._loop.take_all(first + made, told.made), self.steps.choices(kind, rows)

        while made < job.count:
            most = min(job.count - made, MOST_ROWS) - 1
            guesses = drafting.guesses(most if made else 0)
            start = time.perf_counter()
            tokens, chosen = self._in_turn(step)
            drafting.stepped([last, *guesses], chosen, time.perf_counter() - start)
            for token in tokens:
                self._check(token, last, len(job.sequence) - 1 + made)
                if token in stop:
                    return
                made, last = made + 1, token
                drafting.takes(token)
                yield token

    def forget(self) -> None:
        """What rows have chosen so far is no guess any more: a new drafter begins with nothing."""
        if self._made is not None:
            self._in_turn(self._made.forget)

    @property
    def steps(self) -> CheckedSteps:
        """What is on the device for them."""
        if self._made is None:
            self._made = CheckedSteps(self._loop, *self._sessions)
        return self._made

    def _in_turn(self, work: Callable[[], Found]) -> Found:
        with self.workspace.turns.take():
            self.workspace.enter()
            return work()

    def _begin(
        self, job: Job, suffixes: int = 0, chained: int = 0, read: Reader | None = None
    ) -> int:
        """Put a job on the device; the number of its first token.

        See `CheckedSteps.begin` and `TokenLoop.start`.
        """
        self._loop.start(job.sequence, job.sampling, job.kept, read)
        limit = len(job.sequence) - 1 + job.count - 1
        self._in_turn(lambda: self.steps.begin(limit, suffixes, chained))
        return self._loop.steps

    def _first(self, job: Job, first: int) -> int:
        """The token behind the prompt, by a plain graph: the host looks at all its logits."""
        loop = self._loop
        loop.ahead(first + 1, *loop.token_graph(job.sampling))
        check_finite(loop.decode.plan, loop.read_logits(), job.sequence[-1:], len(job.sequence) - 1)
        return loop.take(first)

    def _checked(self, graph: _Ahead, first: int, *, naps: bool) -> _Found:
        """What a graph with guesses has made, once it is done: tokens from the number `first` on.

        See `CheckedSteps.told`.
        """
        told, ended = self.steps.told(graph.number, naps=naps)
        self._loop.has_made_fewer(graph.width - told.made)
        return _Found(self._loop.take_all(first, told.made), told.drafted, ended)

    def _top_up(
        self, ahead: deque[_Ahead], put: Callable[[int], None], pace: Pace, left: int
    ) -> None:
        """Enqueue graphs until there are enough of them, where so many tokens are `left` to make.

        Where the last token is made, a graph with guesses stops by itself. A plain one does not, so
        it is enqueued only where that cannot have been.
        """
        while len(ahead) < (AHEAD_DRAFTED if any(g.width > 1 for g in ahead) else AHEAD):
            if left - sum(graph.most for graph in ahead) < 1:
                return
            width = pace.width([graph.width for graph in ahead])
            if width is None:
                return
            put(width)

    def _putting(self, job: Job, ahead: deque[_Ahead]) -> Callable[[int], None]:
        """What enqueues a graph of so many rows, 0 for a plain one, which is `ahead` then."""
        kind, enqueue = self._loop.token_graph(job.sampling)

        def put(width: int) -> None:
            if width:
                ahead.append(_Ahead(width, self._enqueue(kind, width)))
            else:
                self._loop.ahead(self._loop.steps + 1, kind, enqueue)
                ahead.append(_Ahead(0))

        return put

    def _enqueue(self, kind: str, width: int, *, drafts: bool = True) -> int:
        self._loop.make_room(width)
        number = self.steps.enqueue(kind, width, drafts=drafts)
        self._loop.may_have_made(width)
        return number

    def _check(self, token: int, last: int, position: int) -> None:
        """Raise FusecError for what stands in place of a token that nobody may choose."""
        if token == NO_TOKEN:
            raise not_finite(self._loop.decode.plan, last, position)
