"""The token loop on the device: the host enqueues graphs ahead and reads tokens as they appear.

One captured graph is one token: the plan, the choice of the next token, and `advance`, which makes
it the next input, moves the position and writes the token to a ring in pinned host memory. Where
the blocks that make the logits have found the best of theirs, `advance_best` does the last two. The
device never waits for the host. When a stop token appears, graphs enqueued ahead of it still run;
their tokens are dropped, and what they append to the KV cache is overwritten before it is read.

If the chosen token's logit is not finite, the ring gets NO_TOKEN in its place. A NaN that is not
chosen shows only in the logits. The host looks at those behind the prompt, because a matrix that
makes a NaN makes it at every token.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace

import numpy as np

from fusec.codegen.cuda.control import NO_TOKEN, RING, SAMPLING_WORDS, sampling_words
from fusec.errors import FusecError
from fusec.ir.choosing import final_choice, without_choice
from fusec.ir.plan import HIDDEN, Arg
from fusec.runtime.cuda.driver import Handle
from fusec.runtime.cuda.session import CudaSession
from fusec.runtime.finite import check_finite, not_finite
from fusec.runtime.job import Job
from fusec.runtime.sampling import Sampling
from fusec.runtime.session import Array

Reader = Callable[[int, Array], None]
"""Is told of positions from the first on: float32[rows, width] hidden states."""

RUN_AHEAD = 16
"""Graphs enqueued ahead of the last token seen: milliseconds of work, so the host may sleep."""

MOST_AHEAD = 64
"""Positions that enqueued graphs write at most, whatever they guess."""

_SPINS = 20  # polls before the first nap
_NAP = 2e-5  # seconds
_POLLS = 2000  # between two looks at whether a kernel failed


class TokenLoop:
    """Greedy and sampled decoding over `decode`; a prompt goes through `absorb` in wide steps.

    `decode`: a session of the whole plan; `scores`: one without the argmax, for sampling; `absorb`:
    one without logits. All share one workspace, into which the kernels of
    `fusec.codegen.cuda.control` are loaded as well. `greedy` is the session of what a greedy token
    launches in front of the control kernel that ends it: `decode`, or `decode` less the argmax that
    this kernel does.
    """

    def __init__(
        self, decode: CudaSession, scores: CudaSession, absorb: CudaSession, context: int
    ) -> None:
        self.decode, self._scores, self._absorb = decode, scores, absorb
        self.workspace = decode.workspace
        memory = self.workspace.memory
        plan = decode.plan
        self._context, self.vocabulary = context, plan.outputs["%logits"].shape[-1]
        self._ring, self.ring = memory.pinned(RING, np.dtype(np.uint64))
        self.tokens = memory.zeros(4 * (context + 1), "the tokens")  # by position
        self.params = memory.zeros(4 * SAMPLING_WORDS, "the sampling parameters")
        scratch = memory.zeros(4 * self.vocabulary, "the sampler's scores")
        self.counter = memory.zeros(4, "the counter of tokens")
        self.steps = 0  # what the counter holds once all that is enqueued is done, or more
        self._begin = self._end = 0  # positions: of the first graph, and behind the last, or later
        self._is_counted = True  # whether it holds just that
        token, pos = (self.workspace.address(Arg("input", name)) for name in ("%token", "%pos"))
        chosen = self.workspace.address(plan.output_args["%next"])
        logits = self.workspace.address(plan.output_args["%logits"])
        self.token, self.pos, self.logits, self.chosen = token, pos, logits, chosen
        self._arguments: dict[str, tuple[int, ...]] = {
            "advance": (logits, chosen, token, pos, self.counter, self.tokens, self.ring),
            "feed": (self.tokens, token, pos),
            "sample": (logits, scratch, chosen, pos, self.tokens, self.params),
        }
        self.greedy, self._greedy_end = decode, "advance"
        if argmax := final_choice(plan):
            self.greedy = CudaSession(without_choice(plan), self.workspace, eager=decode.eager)
            self._greedy_end = "advance_best"
            parts = [self.workspace.address(arg) for arg in argmax.args[:2]]
            self._arguments["advance_best"] = (*parts, *self._arguments["advance"][1:])
        self._graphs: dict[str, Handle] = {}

    def run(self, job: Job, stop: frozenset[int]) -> Iterator[int]:
        """Yield the tokens of a job, ending in front of one of `stop`.

        The caller has checked that all of them fit the context, and takes care that nothing else
        uses the workspace until then.
        """
        ids, count = job.sequence, job.count
        kind, enqueue = self.token_graph(job.sampling)
        self.start(ids, job.sampling, job.kept)
        first, token = self.steps, ids[-1]
        for done in range(count):
            position = len(ids) - 1 + done
            with self.workspace.turns.take():
                self.workspace.enter()
                if not done:
                    self.ahead(first + 1, kind, enqueue)
                    check_finite(self.decode.plan, self.read_logits(), [token], position)
                self.keep_ahead(first, done, count, kind, enqueue)
                made = self.take(first + done)
            if made == NO_TOKEN:
                raise not_finite(self.decode.plan, token, position)
            token = made
            if token in stop:
                return
            yield token

    def start(
        self, ids: Sequence[int], sampling: Sampling, kept: int = 0, read: Reader | None = None
    ) -> None:
        """Put prompt and settings on the device; enqueue all but the last token: see `go_on`."""
        memory = self.workspace.memory
        top_k = min(sampling.top_k, self.vocabulary)
        repeat_last = min(sampling.repeat_last, self._context)
        within = replace(sampling, top_k=top_k, repeat_last=repeat_last)
        with self.workspace.turns.take():
            self.workspace.enter()
            memory.write(self.tokens, np.asarray(ids, np.uint32))
            memory.write(self.params, sampling_words(**asdict(within)))
            self.go_on(ids, kept, read)

    def go_on(self, ids: Sequence[int], kept: int, read: Reader | None = None) -> None:
        """Have the next graph read the last of these tokens, and the cache hold the others.

        It has the first `kept` of them already. `read` is told of the hidden states behind the
        rest, the last one too. To be called in a turn.
        """
        memory, last, size = self.workspace.memory, len(ids) - 1, self._absorb.plan.tokens
        if not self._is_counted:
            memory.write(self.counter, np.array([self.steps], np.uint32))
            self._is_counted = True
        end = last if read is None else len(ids)
        for first in range(kept, end, size):
            places = np.arange(first, min(first + size, end), dtype=np.int32)
            given = np.asarray(ids[first : first + len(places)], np.int32)
            rows = self._absorb.begin(token=given, pos=places)
            if read is not None:
                read(first, self._absorb.results(rows)[HIDDEN])
        memory.write(self.token, np.asarray(ids[-1:], np.int32))
        memory.write(self.pos, np.array([last], np.int32))
        self._begin = self._end = last

    def token_graph(self, sampling: Sampling) -> tuple[str, Callable[[], None]]:
        """The name of a token's graph for these settings, and what is captured in it."""
        if sampling.is_argmax:
            return "greedy", self.enqueue_greedy
        return "sampled", self.enqueue_sampled

    def enqueue_greedy(self) -> None:
        """One token: the plan with its argmax, and advance, which may be one launch."""
        self.greedy.enqueue()
        self.enqueue_control(self._greedy_end)

    def enqueue_sampled(self) -> None:
        """One token: the plan up to the logits, sample, and advance."""
        self._scores.enqueue()
        self.enqueue_control("sample")
        self.enqueue_control("advance")

    def enqueue_control(self, name: str) -> None:
        """One of the kernels of `fusec.codegen.cuda.control`."""
        self.workspace.launch(name, self._arguments[name], self.decode.plan.overlaps)

    def ahead(self, steps: int, kind: str, enqueue: Callable[[], None]) -> None:
        """Enqueue tokens until there are so many of them."""
        while self.steps < steps:
            self.make_room(1)
            self._go(kind, enqueue)
            self.steps += 1

    def stop(self) -> None:
        """Have the device end soon what it does ahead of the host: here that is little."""

    def keep_ahead(
        self, first: int, done: int, count: int, kind: str, enqueue: Callable[[], None]
    ) -> None:
        """Have the device make tokens while the host reads: of `count` from step `first` on.

        `done` of them were read, and the next one is enqueued.
        """
        self.ahead(first + min(done + RUN_AHEAD, count), kind, enqueue)

    def read_logits(self) -> Array:
        """float32[1, vocabulary] of the last token enqueued, once it is done."""
        plan = self.decode.plan
        return self.workspace.read(plan.output_args["%logits"], plan.outputs["%logits"])

    def _go(self, kind: str, enqueue: Callable[[], None]) -> None:
        if self.decode.eager:
            enqueue()
            return
        if kind not in self._graphs:
            self._graphs[kind] = self.workspace.capture(enqueue)
        self.workspace.driver.replay(self._graphs[kind], self.workspace.stream)

    def make_room(self, rows: int, ahead: int = MOST_AHEAD) -> None:
        """Have the cache hold what is enqueued next and writes so many rows.

        The device may be `ahead` positions further back, or at the first that is enqueued, and sees
        more from there.
        """
        first, self._end = max(self._begin, self._end - ahead), self._end + rows
        end = min(self._end, self._context)
        self.workspace.cache.reach(min(first, end - 1), end)

    def may_have_made(self, most: int) -> None:
        """A graph of several rows was enqueued, which makes so many tokens at most.

        What it did make, the next `start` makes good.
        """
        self.steps += most
        self._is_counted = False

    def has_made_fewer(self, count: int) -> None:
        """Of the tokens that enqueued graphs may make, so many were not made."""
        self._end -= count

    def take(self, step: int, *, naps: bool = True) -> int:
        """The token of a step, as soon as it is there."""
        return self.wait_for(self._ring, step, naps=naps)

    def take_all(self, first: int, count: int) -> list[int]:
        """The tokens of so many steps, which may all be there by now."""
        slot = first % RING
        words = self._ring[slot : slot + count].tolist()
        if len(words) == count and all(
            word >> 32 == number for number, word in enumerate(words, first + 1)
        ):
            return [word & 0xFFFFFFFF for word in words]
        return [self.take(first + n) for n in range(count)]

    def wait_for(self, entries: Array, number: int, *, naps: bool = True) -> int:
        """The lower half of an entry in pinned memory, as soon as the upper one is its number + 1.

        `naps`: sleep in between, as is right while the GPU has more to do; a nap takes far longer
        than it says. Raises FusecError if the GPU is done and it is not there.
        """
        slot, wanted = number % RING, (number + 1) & 0xFFFFFFFF
        polls = 0
        while (word := int(entries[slot])) >> 32 != wanted:
            polls += 1
            if polls % _POLLS == 0 and self.workspace.driver.idle(self.workspace.stream):
                if int(entries[slot]) == word:
                    raise FusecError("the GPU finished its work without delivering a token")
            elif polls > _SPINS:
                time.sleep(_NAP if naps else 0)  # which lets other threads run
        return word & 0xFFFFFFFF
