"""The token loop: behind a sequence of tokens, the ones that the model makes of it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import takewhile
from typing import ClassVar, TypeVar

from fusec.arguments import whole
from fusec.errors import FusecError
from fusec.ir.plan import HIDDEN
from fusec.runtime.drafting import MOST_DRAFTED, Drafter, Drafting, DraftStatistics
from fusec.runtime.drafting.chain import Chained
from fusec.runtime.drafting.depth import Depth
from fusec.runtime.finite import check_finite
from fusec.runtime.job import Array, Chosen, Job, Processor, new_tokens, processed, token_ids
from fusec.runtime.sampling import Sampler, Sampling, settled
from fusec.runtime.sequence_engine import SequenceEngine
from fusec.runtime.session import Session

Made = TypeVar("Made")


class TokenEngine(SequenceEngine):
    """A model ready to generate, from token ids to token ids.

    `stop`: tokens that end a generation; it may be changed. `SequenceEngine` says what the sessions
    are, and who may use an engine.
    """

    most_candidates: ClassVar[int | None] = None
    """How many tokens sampling chooses among at most; None: the whole vocabulary."""

    def __init__(
        self,
        decode: Session,
        prefill: Session,
        absorb: Session,
        *,
        context: int,
        stop: Iterable[int] = (),
        traced: Session | None = None,
    ) -> None:
        super().__init__(decode, prefill, absorb, context=context, traced=traced)
        self.stop = frozenset(stop)
        self._drafting = Drafting(None, MOST_DRAFTED)

    @property
    def drafter(self) -> Drafter | None:
        """Guesses tokens, which steps of several rows check: the same text in fewer steps.

        None: a step makes one token. Another may be put in its place between two generations; the
        engine closes the one that it has when it is closed.
        """
        return self._drafting.drafter

    @drafter.setter
    def drafter(self, drafter: Drafter | None) -> None:
        if drafter is not None and not isinstance(drafter, Drafter):
            raise FusecError(f"expected a drafter, found {type(drafter).__name__}")
        if drafter and drafter.reads_hidden and f"%{HIDDEN}" not in self.prefill.plan.outputs:
            raise FusecError(
                f"{type(drafter).__name__} reads hidden states, which this engine does not give "
                f"out: load it with draft='mtp', or with outputs=['{HIDDEN}']"
            )
        cost = self._drafting.depth.cost  # is the engine's, whoever guesses
        self._drafting = Drafting(drafter, self.draft_max, Depth(cost))

    @property
    def draft_max(self) -> int:
        """How many tokens a step checks at most. Steps have the rows that `prefill` allows."""
        return self._drafting.most

    @draft_max.setter
    def draft_max(self, most: int) -> None:
        self._drafting.most = whole("draft_max", most, "a number of tokens from 1", 1)

    @property
    def draft_statistics(self) -> DraftStatistics:
        """Of the latest generation; without a drafter, none on a GPU."""
        return self._drafting.statistics

    @property
    def draft_costs(self) -> dict[int, float]:
        """Rows of a step -> what it costs, in steps of one: as measured while drafting."""
        return self._drafting.depth.cost.known

    @property
    def chain(self) -> Chained | None:
        """What makes guesses for another engine quicker than steps of the host; None here."""
        return None

    def tokens(
        self,
        ids: Sequence[int],
        max_new_tokens: int | None = None,
        sampling: Sampling | None = None,
        *,
        append: bool = False,
        reuse: bool = False,
    ) -> Iterator[int]:
        """Yield the tokens that follow `ids`, from an empty cache or (`append`) behind `self.ids`.

        Ends after `max_new_tokens` (default: when the context is full) or in front of a stop token.
        `reuse`: what the cache holds already of the beginning of `ids` is not computed again, which
        changes no token. Raises FusecError where prompt and new tokens together do not fit the
        context, and when the engine is used for something else before the generation has ended.
        """
        with self._turns.take():
            self._turns.check()
            job = self._planned(ids, max_new_tokens, sampling, append, reuse)
            uses = self._uses
        return self._in_turns(self._generate(job), uses if job.kept else None)

    def choices(
        self,
        ids: Sequence[int],
        max_new_tokens: int | None = None,
        sampling: Sampling | None = None,
        *,
        processor: Processor | None = None,
        append: bool = False,
        reuse: bool = False,
    ) -> Iterator[Chosen]:
        """As `tokens`, chosen on the host: each with its logits, which `processor` may change."""
        with self._turns.take():
            self._turns.check()
            job = self._planned(ids, max_new_tokens, sampling, append, reuse)
            uses = self._uses
        return self._in_turns(self._choose(job, processor), uses if job.kept else None)

    def _planned(
        self,
        ids: Sequence[int],
        max_new_tokens: int | None,
        sampling: Sampling | None,
        append: bool,
        reuse: bool,
    ) -> Job:
        ids = self._tokens(ids, append=append)
        sequence = self.check([*self._ids, *ids] if append else ids)
        count = new_tokens(len(sequence), max_new_tokens, self.context)
        sampling = settled(sampling, {})
        kept = 0
        if append:
            self._go_on(0)
            kept = min(self._position, len(sequence) - 1)
        elif reuse:
            kept = self._shared(sequence)
        return Job(tuple(sequence), count, sampling, kept)

    def _shared(self, sequence: Sequence[int]) -> int:
        """How many of the first tokens of a sequence the cache holds, for this thread to go on."""
        pairs = zip(self._ids[: self._position], sequence[:-1], strict=False)
        same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        with self.decode.cached() as cache:
            is_there = same >= cache.oldest(self._position)
        return same if is_there and self._is_ours else 0

    def _in_turns(self, made: Iterator[Made], uses: int | None) -> Iterator[Made]:
        """Each token in a turn of its own, if nobody has used the engine since the last.

        `uses`: what `_uses` was when the first of them was planned, if it builds on that.
        """
        while True:
            with self._turns.take():
                self._turns.check()
                if uses not in (None, self._uses):
                    raise FusecError(
                        "the engine was used for something else during a generation: one engine "
                        "serves one caller at a time"
                    )
                try:
                    one = next(made)
                except StopIteration:
                    return
                uses, self._caller = self._uses, self._me
            yield one

    def _generate(self, job: Job) -> Iterator[int]:
        for chosen in self._choose(job):
            yield chosen.token

    def _choose(self, job: Job, processor: Processor | None = None) -> Iterator[Chosen]:
        self._go_back(job.kept)
        if not job.count:
            return
        sampler = Sampler(job.sampling, self.most_candidates)
        for token in job.sequence:
            sampler.accept(token)
        drafting, made = self._drafting, 0
        drafting.begin(job.sequence)
        self._absorb(job.sequence[job.kept : -1])
        self._ids = list(job.sequence)
        while made < job.count:
            room = min(job.count - made, self.context - self._position) - 1
            guesses = drafting.guesses(min(room, self.prefill.plan.tokens - 1))
            read = [self._ids[-1], *token_ids(guesses, self.vocabulary)]
            start = time.perf_counter()
            rows, best = self._several(read)
            drafting.stepped(read, best, time.perf_counter() - start)
            for token, logits, likeliest in zip(read, rows, best, strict=True):
                self._position += 1  # what the cache holds: this row's token, and no guess
                check_finite(self.decode.plan, logits[None], [token], self._position - 1)
                chosen = likeliest
                if processor is not None or not job.sampling.is_argmax:
                    chosen = sampler.choose(processed(processor, self._ids, logits), self._position)
                if chosen in self.stop:
                    return
                sampler.accept(chosen)
                self._ids.append(chosen)
                made += 1
                goes_on = drafting.takes(chosen)
                yield Chosen(chosen, logits)
                if not goes_on:
                    break

    def _several(self, read: Sequence[int]) -> tuple[Array, list[int]]:
        """float32[len(read), vocabulary] logits behind the last token and guesses, and their best.

        Position and sequence stay where they are in front of the step.
        """
        begin = self._position
        result = self._run(self.decode if len(read) == 1 else self.prefill, read)
        self._position = begin
        del self._ids[begin + 1 :]
        logits = result["logits"]
        best = result["next"] if "next" in result else logits.argmax(axis=-1)
        return logits, best.tolist()

    def _run(self, session: Session, ids: Sequence[int]) -> dict[str, Array]:
        """See `SequenceEngine`; a drafter that wants to know is told of the hidden states."""
        first = self._position
        result = super()._run(session, ids)
        if self._drafting.reads_hidden:
            self._drafting.read(first, result[HIDDEN])
        return result

    def close(self) -> None:
        """See `SequenceEngine`; the drafter is closed as well."""
        was_open = not (self._turns.is_forked or self._turns.closed)
        super().close()
        if was_open and self.drafter is not None:
            self.drafter.close()
