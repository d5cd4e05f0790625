"""The token loop: prompt in, tokens out, over whatever session the backend made."""

from __future__ import annotations

import operator
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from fusec.errors import FusecError
from fusec.runtime.finite import check_finite
from fusec.runtime.sampling import Sampler, Sampling
from fusec.runtime.session import Session, rewinds
from fusec.runtime.turns import Closing, Turns
from fusec.writer import brief

Array = np.ndarray[Any, Any]


class Engine(Closing):
    """A model ready to generate.

    `decode` steps one token. `prefill` steps up to its plan's T tokens and `absorb` does so without
    computing logits, for the prompt; all share one KV cache of `context` positions.

    An engine holds one sequence of tokens, for one caller at a time. Calls of several threads take
    turns. `reset`, `logits` and `generate` begin a new sequence, and whoever was in the middle of
    another one (a generation, or tokens stepped and fed by another thread) gets a FusecError when
    he goes on, never wrong tokens. Logits of which one is not a number, or the largest is not
    finite, are a FusecError as well. `close`, or the end of a `with` statement, gives back memory
    and threads; a closed engine, and one in a forked child, refuses every call.
    """

    def __init__(
        self,
        decode: Session,
        prefill: Session,
        absorb: Session,
        *,
        context: int,
        stop: Iterable[int] = (),
    ) -> None:
        self.decode, self.prefill, self.absorb = decode, prefill, absorb
        self.context, self.stop = context, frozenset(stop)
        self.vocabulary = decode.plan.outputs["%logits"].shape[-1]
        self._position, self._rewinds = 0, rewinds(decode.plan)
        self._turns = Turns("engine")
        self._uses = 0  # counts steps and resets, so that a generation notices another's
        self._caller: threading.Thread | None = None  # whose sequence the cache holds

    def __repr__(self) -> str:
        plan, closed = self.decode.plan, ", closed" if self._turns.closed else ""
        used = f"{self._position:,} of {self.context:,} positions"
        return brief(self, f"{plan.name}: {plan.summary}, {used}{closed}")

    @property
    def position(self) -> int:
        """The next token's: how many tokens of the sequence are in the cache.

        It can be set back, to go on from there. Raises FusecError where layers with a window no
        longer have what the token there would see.
        """
        return self._position

    @position.setter
    def position(self, value: int) -> None:
        if 0 < value < self._position - self._rewinds:
            raise FusecError(
                f"position {value}: the layers' window has moved on, expected 0 or a position from "
                f"{self._position - self._rewinds} on, as {self._position} tokens are in the cache"
            )
        self._position = value

    @property
    def residency(self) -> dict[str, Any] | None:
        """How the GPU's L2 cache was asked to keep weights; None where nothing can be asked."""
        return None

    def reset(self) -> None:
        """Forget every token. The next sequence is the calling thread's."""
        with self._turns.take():
            self._turns.check()
            self._begin()

    def step(self, token: int) -> Array:
        """Append one token; float32[vocabulary] logits of what follows it."""
        with self._turns.take():
            self._turns.check()
            ids = self._tokens([token])
            self._go_on(len(ids))
            return self._logits(self.decode, ids)[0]

    def logits(self, ids: Sequence[int], width: int | None = None) -> Array:
        """float32[len(ids), vocabulary]: logits after each token, from an empty cache.

        `width`: how many tokens a step takes, which changes no byte; by default as many as the
        plan of `prefill` is for. Raises FusecError for a width that this plan does not take.
        """
        with self._turns.take():
            self._turns.check()
            ids = self.check(ids)
            size = self._width(width)
            self._begin()
            parts = [
                self._logits(self.prefill, ids[i : i + size]) for i in range(0, len(ids), size)
            ]
            return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def feed(self, ids: Sequence[int]) -> None:
        """Append tokens to the cache without asking what follows them."""
        with self._turns.take():
            self._turns.check()
            ids = self._tokens(ids)
            self._go_on(len(ids))
            self._absorb(ids)

    def wait(self) -> None:
        """Return when all that was fed is in the cache: `feed` on a GPU does not wait for that.

        Raises FusecError where a kernel failed.
        """
        with self._turns.take():
            self._turns.check()

    def generate(
        self,
        ids: Sequence[int],
        max_new_tokens: int | None = None,
        sampling: Sampling | None = None,
    ) -> Iterator[int]:
        """Yield the tokens that follow `ids`, from an empty cache.

        Ends after `max_new_tokens` (default: when the context is full) or in front of a stop token.
        Raises FusecError where prompt and new tokens together do not fit the context, and when the
        engine is used for something else before the generation has ended.
        """
        with self._turns.take():
            self._turns.check()
            ids = self.check(ids)
            count = new_tokens(len(ids), max_new_tokens, self.context)
            sampling = Sampling() if sampling is None else sampling
            if not isinstance(sampling, Sampling):
                raise FusecError(f"expected a Sampling, found {type(sampling).__name__}")
        return self._in_turns(self._generate(ids, count, sampling))

    def _in_turns(self, tokens: Iterator[int]) -> Iterator[int]:
        """Each token in a turn of its own, if nobody has used the engine since the last."""
        uses = None
        while True:
            with self._turns.take():
                self._turns.check()
                if uses not in (None, self._uses):
                    raise FusecError(
                        "the engine was used for something else during a generation: one engine "
                        "serves one caller at a time"
                    )
                try:
                    token = next(tokens)
                except StopIteration:
                    return
                uses, self._caller = self._uses, threading.current_thread()
            yield token

    def _generate(self, ids: Sequence[int], count: int, sampling: Sampling) -> Iterator[int]:
        self._begin()
        sampler = Sampler(sampling)
        for token in ids:
            sampler.accept(token)
        if count:
            self._absorb(ids[:-1])
        token = ids[-1]
        for _ in range(count):
            result = self._run(self.decode, [token])
            check_finite(self.decode.plan, result["logits"], [token], self.position - 1)
            token = (
                int(result["next"][0])
                if sampling.is_argmax
                else sampler.choose(result["logits"][0])
            )
            if token in self.stop:
                return
            sampler.accept(token)
            yield token

    def _begin(self) -> None:
        """An empty cache, for the calling thread."""
        self.position = 0
        self._uses += 1
        self._caller = threading.current_thread()
        self.decode.reset()

    def _go_on(self, count: int) -> None:
        """Raise FusecError unless the caller can append so many tokens to what the cache holds.

        There must be room, and no other thread that may go on as well with what it has begun.
        """
        end = self.position + count
        if end > self.context:
            raise FusecError(f"position {end - 1} is past the context of {self.context} tokens")
        caller, begun = threading.current_thread(), self._caller
        if self.position and begun is not None and begun is not caller and begun.is_alive():
            raise FusecError(
                "the engine was used for something else by another thread, whose tokens its cache "
                "holds: begin a new sequence with reset(), or load an engine for each thread"
            )
        self._caller = caller

    def _logits(self, session: Session, ids: Sequence[int]) -> Array:
        logits = self._run(session, ids)["logits"]
        check_finite(session.plan, logits, ids, self.position - len(ids))
        return logits

    def _absorb(self, ids: Sequence[int]) -> None:
        size = self.absorb.plan.tokens
        for i in range(0, len(ids), size):
            self._run(self.absorb, ids[i : i + size])

    def _width(self, width: int | None) -> int:
        """Tokens of a step of `prefill`: so many, or (None) as many as it can take."""
        most = self.prefill.plan.tokens
        if width is None:
            return most
        wanted = f"a width from 1 to {most}"
        width = _whole(width, wanted, 1)
        if width > most:
            raise FusecError(f"expected {wanted}, found {width}")
        return width

    def check(self, ids: Sequence[int]) -> list[int]:
        """The prompt as a list. Raises FusecError if it is empty, too long or out of vocabulary."""
        ids = self._tokens(ids)
        if not ids:
            raise FusecError("the prompt is empty: expected at least one token")
        new_tokens(len(ids), None, self.context)
        return ids

    def _tokens(self, ids: Iterable[int]) -> list[int]:
        try:
            tokens = [operator.index(i) for i in ids]
        except TypeError as error:
            raise FusecError(f"expected token ids: {error}") from None
        for token in tokens:
            if not 0 <= token < self.vocabulary:
                raise FusecError(
                    f"token {token} is out of vocabulary: expected 0 to {self.vocabulary - 1}"
                )
        return tokens

    def _run(self, session: Session, ids: Sequence[int]) -> dict[str, Array]:
        end = self.position + len(ids)
        result = session.step(
            token=np.asarray(ids, np.int32), pos=np.arange(self.position, end, dtype=np.int32)
        )
        self.position = end
        self._uses += 1
        return result

    def close(self) -> None:
        """Give back memory and threads, behind a call that is under way. Twice is fine.

        In a forked child there is nothing to give back.
        """
        if self._turns.is_forked:
            return
        with self._turns.take():
            self._turns.closed = True
            for session in (self.decode, self.prefill, self.absorb):
                session.close()


def new_tokens(prompt: int, wanted: int | None, context: int) -> int:
    """How many tokens to make behind `prompt` ones: `wanted`, or (None) all there is room for.

    Raises FusecError where prompt and new tokens together do not fit the context.
    """
    if prompt > context:
        raise FusecError(
            f"the prompt has {prompt} tokens, the context {context}: "
            f"shorten it or ask for a larger context"
        )
    room = context - prompt + 1  # the last new token is never fed back
    if wanted is None:
        return room
    wanted = _whole(wanted, f"a number of new tokens from 0 to {room}", 0)
    if wanted > room:
        raise FusecError(
            f"{prompt} prompt tokens and {wanted} new ones do not fit a context of {context}: "
            f"ask for at most {room} new tokens or a larger context"
        )
    return wanted


def _whole(value: int, wanted: str, least: int) -> int:
    """A whole number of at least so much. Raises FusecError that says what was `wanted`."""
    try:
        value = operator.index(value)
    except TypeError as error:
        raise FusecError(f"expected {wanted}: {error}") from None
    if value < least:
        raise FusecError(f"expected {wanted}, found {value}")
    return value
