"""A model over one sequence of tokens: what its cache holds, whose it is, and steps that go on."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from fusec.arguments import whole
from fusec.errors import FusecError
from fusec.runtime.finite import check_finite
from fusec.runtime.job import Array, Ids, new_tokens, token_ids
from fusec.runtime.session import Session
from fusec.runtime.turns import Closing, Turns


class SequenceEngine(Closing):
    """Tokens in, logits and other values out, over the sessions of any target.

    `decode` steps one token. `prefill` steps up to its plan's T tokens and `absorb` does so without
    computing logits, for the prompt; `traced` is as `prefill`, with the values that `fusec.load`
    was asked to give out. All share one KV cache of `context` positions.

    An engine holds one sequence of tokens, for one caller at a time. Calls of several threads take
    turns. `reset`, `logits` and `trace` begin a new sequence unless they are told to append, and
    whoever was in the middle of another one (a generation, or tokens stepped and fed by another
    thread) gets a FusecError when he goes on, never wrong tokens. Logits of which one is not a
    number, or the largest is not finite, are a FusecError as well. `close`, or the end of a `with`
    statement, gives back memory and threads; a closed engine, and one in a forked child, refuses
    every call.
    """

    def __init__(
        self,
        decode: Session,
        prefill: Session,
        absorb: Session,
        *,
        context: int,
        traced: Session | None = None,
    ) -> None:
        self.decode, self.prefill, self.absorb = decode, prefill, absorb
        self.traced = prefill if traced is None else traced
        self.context = context
        self.vocabulary = decode.plan.outputs["%logits"].shape[-1]
        self._position = 0
        self._ids: list[int] = []  # the sequence: what is in the cache, and a token made from it
        self._turns = Turns("engine")
        self._uses = 0  # counts steps and resets, so that a generation notices another's
        self._caller: threading.Thread | None = None  # whose sequence the cache holds
        self._local = threading.local()

    @property
    def position(self) -> int:
        """The next token's: how many tokens of the sequence are in the cache.

        It can be set back, to go on from there: memory of what lies behind it is given back. Raises
        FusecError for a position that the cache does not have, and where layers with a window no
        longer have what the token there would see.
        """
        return self._position

    @position.setter
    def position(self, value: int) -> None:
        if not 0 <= value <= self._position:
            raise FusecError(
                f"expected a position from 0 to {self._position}, as the cache holds so many "
                f"tokens, found {value}"
            )
        with self.decode.cached() as cache:
            oldest = cache.oldest(self._position)
            if 0 < value < oldest:
                raise FusecError(
                    f"position {value}: the layers' window has moved on, expected 0 or a position "
                    f"from {oldest} on, as the cache holds {self._position} tokens"
                )
            cache.cut(value)
        self._position = value
        del self._ids[value:]

    @property
    def ids(self) -> tuple[int, ...]:
        """The sequence: the tokens in the cache, and the last one of a generation.

        The latter comes into the cache when the next generation appends; `step`, `feed` and `trace`
        put their tokens in its place.
        """
        return tuple(self._ids)

    @property
    def sessions(self) -> tuple[Session, ...]:
        """All that the engine runs; they share weights and cache."""
        return self.decode, self.prefill, self.absorb, self.traced

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
            ids = self._begun([token], append=True)
            *_, last = self._steps(self.decode, ids, 1)
            logits: Array = last["logits"][0]
            return logits

    def logits(self, ids: Ids, width: int | None = None) -> Array:
        """float32[len(ids), vocabulary]: logits after each token, from an empty cache.

        `width`: how many tokens a step takes, which changes no byte; by default as many as the
        plan of `prefill` is for. Raises FusecError for a width that this plan does not take.
        """
        with self._turns.take():
            self._turns.check()
            ids = self.check(ids)
            size = self._width(width)
            self._begin()
            parts = [step["logits"] for step in self._steps(self.prefill, ids, size)]
            return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def trace(
        self,
        ids: Ids,
        *,
        width: int | None = None,
        append: bool = False,
        on_device: bool = False,
    ) -> dict[str, Any]:
        """Logits, and the values that `fusec.load(outputs=...)` asked for, after each token.

        name -> float32[len(ids), size]; `logits` is one of them. From an empty cache, or with
        `append` behind what it holds. `width` is that of `logits`. `on_device`: arrays stay where
        they were made. A GPU's have `__dlpack__` and `__cuda_array_interface__`, and nobody looks
        whether the logits are finite; on the CPU it changes nothing, as NumPy's have the former.
        """
        with self._turns.take():
            self._turns.check()
            size, ids = self._width(width), self._begun(ids, append)
            steps = self._steps(self.traced, ids, size)
            return {name: np.concatenate(parts) for name, parts in _by_name(steps).items()}

    def feed(self, ids: Ids) -> None:
        """Append tokens to the cache without asking what follows them."""
        with self._turns.take():
            self._turns.check()
            ids = self._tokens(ids, append=self._position > 0)
            self._go_on(len(ids))
            self._absorb(ids)

    def wait(self) -> None:
        """Return when all that was fed is in the cache: `feed` on a GPU does not wait for that.

        Raises FusecError where a kernel failed.
        """
        with self._turns.take():
            self._turns.check()

    def _go_back(self, kept: int) -> None:
        """Have the cache hold so many tokens of what it does; an empty one is the caller's."""
        if not kept:
            self._begin()
            return
        self._go_on(0)
        self.position = kept
        self._uses += 1

    def _begin(self) -> None:
        """An empty cache, for the calling thread."""
        self._position, self._ids = 0, []
        self._uses += 1
        self._caller = self._me
        self.decode.reset()

    def _go_on(self, count: int) -> None:
        """Raise FusecError unless the caller can append so many tokens to what the cache holds.

        There must be room, and no other thread that may go on as well with what it has begun.
        """
        end = self.position + count
        if end > self.context:
            raise FusecError(f"position {end - 1} is past the context of {self.context} tokens")
        if self._position and not self._is_ours:
            raise FusecError(
                "the engine was used for something else by another thread, whose tokens its cache "
                "holds: begin a new sequence with reset(), or load an engine for each thread"
            )
        self._caller = self._me

    @property
    def _is_ours(self) -> bool:
        """Whether no other thread may go on with what it has begun."""
        begun = self._caller
        return begun is None or begun is self._me or not begun.is_alive()

    @property
    def _me(self) -> threading.Thread:
        """The thread that this call is for."""
        acting: threading.Thread | None = getattr(self._local, "acting_for", None)
        return acting or threading.current_thread()

    def _act_for(self, caller: threading.Thread | None) -> None:
        """From now on this thread's calls are another's (None: its own again)."""
        self._local.acting_for = caller

    def _begun(self, ids: Ids, append: bool) -> list[int]:
        """Tokens to run, from an empty cache or behind what it holds."""
        ids = self.check(self._tokens(ids, append=append and self._position > 0))
        if append:
            self._go_on(len(ids))
        else:
            self._begin()
        return ids

    def _steps(self, session: Session, ids: Sequence[int], size: int) -> Iterator[dict[str, Array]]:
        """What steps of up to `size` tokens give, their logits checked."""
        for i in range(0, len(ids), size):
            given = ids[i : i + size]
            step = self._run(session, given)
            check_finite(session.plan, step["logits"], given, self.position - len(given))
            yield step

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
        width = whole("width", width, wanted, 1)
        if width > most:
            raise FusecError(f"expected {wanted}, found {width}")
        return width

    def check(self, ids: Ids) -> list[int]:
        """The prompt as a list. Raises FusecError if it is empty, too long or out of vocabulary."""
        ids = self._tokens(ids)
        if not ids:
            raise FusecError("the prompt is empty: expected at least one token")
        new_tokens(len(ids), None, self.context)
        return ids

    def _tokens(self, ids: Iterable[int] | str, *, append: bool = False) -> list[int]:
        """Token ids as a list. `append`: they go on behind others, which a text would have to know.

        Raises FusecError for what are none.
        """
        return token_ids(ids, self.vocabulary)

    def _run(self, session: Session, ids: Sequence[int]) -> dict[str, Array]:
        result = session.step(**self._inputs(ids))
        self._advance(ids)
        return result

    def _inputs(self, ids: Sequence[int]) -> dict[str, Array]:
        """Of a step that appends these tokens."""
        end = self._position + len(ids)
        return {
            "token": np.asarray(ids, np.int32),
            "pos": np.arange(self._position, end, dtype=np.int32),
        }

    def _advance(self, ids: Sequence[int]) -> None:
        """The cache has these tokens too."""
        self._ids[self._position :] = ids
        self._position += len(ids)
        self._uses += 1

    def close(self) -> None:
        """Give back memory and threads, behind a call that is under way. Twice is fine.

        In a forked child there is nothing to give back.
        """
        if self._turns.is_forked:
            return
        with self._turns.take():
            self._turns.closed = True
            for session in {id(s): s for s in self.sessions}.values():
                session.close()


def _by_name(steps: Iterable[dict[str, Array]]) -> dict[str, list[Array]]:
    found: dict[str, list[Array]] = {}
    for step in steps:
        for name, array in step.items():
            if name != "next":
                found.setdefault(name, []).append(array)
    return found
