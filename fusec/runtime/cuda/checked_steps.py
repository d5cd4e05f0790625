"""Steps of several rows on the device that check guesses: their memory, their graphs, their log.

A graph is `draft`, unless the host has written the guesses, the plan of a step of several rows, the
choice of a token for each row, and `accept`: see `fusec.codegen.cuda.drafting`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from fusec.codegen.cuda.control import RING
from fusec.codegen.cuda.drafting import MOST_DRAFTED, PAIRS, STATE_WORDS
from fusec.ir.plan import HIDDEN, ROWS
from fusec.runtime.cuda.driver import Handle
from fusec.runtime.cuda.loop import TokenLoop
from fusec.runtime.cuda.pace import width_of
from fusec.runtime.cuda.session import CudaSession
from fusec.runtime.cuda.told import Told
from fusec.runtime.job import token_ids
from fusec.runtime.session import Array

MOST_ROWS = MOST_DRAFTED + 1
KERNELS = ("draft", "sample_rows", "accept")


class CheckedSteps:
    """Beside a `TokenLoop`, whose memory and counter of tokens they share.

    `rows`: a session of logits and choices for several rows; `scores`: of logits alone, for the
    sampler. Kernels are loaded and memory is taken where this is made.
    """

    def __init__(self, loop: TokenLoop, rows: CudaSession, scores: CudaSession) -> None:
        self._loop, self._sessions = loop, {"greedy": rows, "sampled": scores}
        self.workspace, memory = loop.workspace, loop.workspace.memory
        self.workspace.need(KERNELS)
        self._state = memory.zeros(4 * STATE_WORDS, "the state of drafting")
        self._widths = memory.upload(np.arange(MOST_ROWS, dtype=np.uint32), "numbers of guesses")
        self._pairs = memory.zeros(8 * PAIRS, "the table of pairs")
        self._chosen = memory.zeros(4 * MOST_ROWS, "the rows' choices")
        self._scratch = memory.zeros(4 * loop.vocabulary * MOST_ROWS, "the sampler's scores")
        self._log, self._log_there = memory.pinned(RING, np.dtype(np.uint64))
        self._clock, self._clock_there = memory.pinned(RING, np.dtype(np.uint64))
        self._graphs: dict[tuple[str, int, bool], Handle] = {}
        self.made = 0  # graphs that were enqueued, ever

    def begin(self, limit: int, suffixes: int, chained: int) -> None:
        """A generation starts, whose last row is at position `limit`.

        The device guesses at most so many tokens that followed a match, or from the table of pairs.
        """
        is_idle = 0
        words = np.array([limit, suffixes, chained, is_idle], np.uint32)
        self.workspace.memory.write(self._state, words)

    def forget(self) -> None:
        """Empty the table of pairs."""
        self.workspace.driver.zero(self._pairs, 8 * PAIRS, self.workspace.stream)

    def guess(self, position: int, guesses: Sequence[int]) -> None:
        """Write guesses of the host, behind the token at `position`.

        Raises FusecError for one that is out of vocabulary.
        """
        guesses = token_ids(guesses, self._loop.vocabulary)
        memory, count = self.workspace.memory, len(guesses)
        words = np.asarray(guesses, np.uint32)
        places = np.arange(position + 1, position + 1 + count, dtype=np.int32)
        memory.write(self._loop.token + 4, words)
        memory.write(self._loop.pos + 4, places)
        memory.write(self._loop.tokens + 4 * (position + 1), words)
        self.workspace.write(ROWS, np.array([count + 1], np.uint32))

    def enqueue(self, kind: str, width: int, *, drafts: bool = True) -> int:
        """Enqueue a step of so many rows at most, 1, 2, 4, 8 or 16; its number.

        `kind`: of the choice, greedy or sampled. `drafts`: whether the device guesses.
        """
        key = kind, width, drafts
        if (graph := self._graphs.get(key)) is None:
            self._sessions[kind].prepare(width)
            work = partial(self._put, *key)
            if self._loop.decode.eager:
                work()
            else:
                graph = self._graphs[key] = self.workspace.capture(work)
        if graph is not None:
            self.workspace.driver.replay(graph, self.workspace.stream)
        self.made += 1
        return self.made - 1

    def told(self, number: int, *, naps: bool = True) -> tuple[Told, int]:
        """What a step says of itself, once it is done, and when that was, in nanoseconds.

        `naps`: see `TokenLoop.wait_for`.
        """
        word = self._loop.wait_for(self._log, number, naps=naps)
        return Told.read(word), int(self._clock[number % RING])

    def choices(self, kind: str, rows: int) -> list[int]:
        """The tokens that the last step has chosen, once it is done."""
        address = self._choices_of(kind, width_of(rows))
        found = self.workspace.memory.read(address, (rows,), np.dtype(np.int32))
        return [int(token) for token in found]

    def hidden(self, kind: str, rows: int) -> Array:
        """float32[rows, width]: the hidden states of the last step, once it is done."""
        return self._sessions[kind].result(HIDDEN, width_of(rows))[:rows]

    def _choices_of(self, kind: str, width: int) -> int:
        """Where the choices of a step of this width are."""
        return self._chosen if kind == "sampled" else self._sessions[kind].places(width)["next"]

    def parts(self, kind: str, width: int, *, drafts: bool = True) -> dict[str, Callable[[], None]]:
        """The parts of a step in their order, each of which puts itself on the stream.

        The choice is a part of the check, unless it is sampled. `enqueue` has the arguments.
        """
        session = self._sessions[kind]
        session.prepare(width)
        found = {
            "draft": partial(self._draft, width),
            "check": partial(session.enqueue, width),
            "choice": partial(self._sample, width),
            "accept": partial(self._accept, kind, width),
        }
        left_out = {"draft": not drafts, "choice": kind != "sampled"}
        return {name: part for name, part in found.items() if not left_out.get(name)}

    def _put(self, kind: str, width: int, drafts: bool) -> None:
        """Put a step on the stream, to run or to be captured."""
        for part in self.parts(kind, width, drafts=drafts).values():
            part()

    def _draft(self, width: int) -> None:
        loop, most = self._loop, self._widths + 4 * (width - 1)
        step = (loop.tokens, loop.token, loop.pos, self.workspace.address(ROWS))
        self.workspace.launch("draft", (*step, most, self._state, self._pairs))

    def _sample(self, width: int) -> None:
        loop, chosen = self._loop, self._choices_of("sampled", width)
        logits = self._sessions["sampled"].places(width)["logits"]
        step = (loop.pos, loop.tokens, loop.params, self.workspace.address(ROWS))
        sampler = (logits, self._scratch, chosen, *step)
        self.workspace.launch("sample_rows", sampler, loop.decode.plan.overlaps, width)

    def _accept(self, kind: str, width: int) -> None:
        loop, chosen = self._loop, self._choices_of(kind, width)
        logits = self._sessions[kind].places(width)["logits"]
        step = (loop.token, loop.pos, self.workspace.address(ROWS))
        made = (loop.tokens, loop.counter, loop.ring)
        told = (self._state, self._log_there, self._clock_there, self._pairs)
        arguments = (logits, chosen, *step, *made, *told)
        self.workspace.launch("accept", arguments, loop.decode.plan.overlaps)
