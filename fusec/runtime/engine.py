"""The engine as people use it: text or a conversation in, text out, and the sequence kept."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from numbers import Integral
from pathlib import Path
from typing import Any, TypeVar, overload

from fusec.arguments import whole
from fusec.errors import FusecError
from fusec.models.chat import ChatTemplate
from fusec.models.model import Model
from fusec.models.tokenizer import Tokenizer
from fusec.runtime.aside import Aside
from fusec.runtime.completion import Completion, Piece, Stream, stop_strings
from fusec.runtime.job import Array, Chosen, Processor
from fusec.runtime.pages import Kept
from fusec.runtime.sampling import Sampling, settled
from fusec.runtime.saved import Origin, Saved, check_origin
from fusec.runtime.session import Session
from fusec.runtime.token_engine import TokenEngine
from fusec.writer import brief

Message = Mapping[str, Any]
"""One message of a conversation: `role`, `content`, and what else the chat template reads."""

Prompt = str | Sequence[int] | Sequence[Message]
"""A text, token ids, or a conversation for the model's chat template."""

Own = TypeVar("Own", bound="Engine")


class Engine(TokenEngine):
    """A model ready to generate text; `TokenEngine` says what its sessions are.

    `model` is the file that it was made of, which has the tokenizer and the chat template. Without
    one the engine goes from token ids to token ids.
    """

    def __init__(
        self,
        decode: Session,
        prefill: Session,
        absorb: Session,
        *,
        context: int,
        stop: Iterable[int] = (),
        traced: Session | None = None,
        model: Model | None = None,
    ) -> None:
        super().__init__(decode, prefill, absorb, context=context, stop=stop, traced=traced)
        self.model = model
        self._requests = threading.RLock()  # whole generations of several threads

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The model's. Raises FusecError where it has none that is supported."""
        return self._file.tokenizer

    @cached_property
    def chat_template(self) -> ChatTemplate:
        """The model's; another can be put in its place. Raises FusecError where there is none."""
        return ChatTemplate.from_gguf(self._file.file)

    def __repr__(self) -> str:
        plan, closed = self.decode.plan, ", closed" if self._turns.closed else ""
        used = f"{self._position:,} of {self.context:,} positions"
        return brief(self, f"{plan.name}: {plan.summary}, {used}{closed}")

    @property
    def _file(self) -> Model:
        if self.model is None:
            raise FusecError("the engine was made without a model file: give token ids, no text")
        return self.model

    def encode(self, prompt: Prompt, *, append: bool = False) -> list[int]:
        """The ids of a prompt, with a beginning token where the model wants one.

        `append`: text that goes on has none. A conversation ends where the answer begins. Raises
        FusecError for an empty one.
        """
        if isinstance(prompt, str):
            ids = self.tokenizer.encode(prompt, bos=False if append else None)
            if prompt or append:
                return ids
            raise FusecError("the prompt is empty: expected some text")
        found = type(prompt).__name__
        if isinstance(prompt, Iterable) and not isinstance(prompt, Mapping | bytes):
            items: list[Any] = list(prompt)
            kinds = sorted({type(item).__name__ for item in items})
            if items and all(isinstance(item, Mapping) for item in items):
                return self.chat_template.encode(items, self.tokenizer)
            if all(isinstance(item, Integral) for item in items):
                return super()._tokens(items)
            found = f"{found} of {' and '.join(kinds)}"
        raise FusecError(
            f"expected one prompt: a text, token ids, or a list of messages with role and content; "
            f"found {found}"
        )

    def _tokens(self, ids: Iterable[int] | str, *, append: bool = False) -> list[int]:
        """See `TokenEngine`: a text is encoded."""
        if isinstance(ids, str):
            return self.encode(ids, append=append)
        return super()._tokens(ids)

    @property
    def values(self) -> dict[str, tuple[int, ...]]:
        """The names that `fusec.load(outputs=...)` takes, with the shape of one token's value."""
        return self._file.values()

    def unembed(self, hidden: Array) -> Array:
        """The logits that hidden states would have behind the last layer: see `Model.unembed`."""
        return self._file.unembed(hidden)

    @overload
    def generate(
        self, prompt: Prompt, max_new_tokens: int | None = ..., sampling: Sampling | None = ...,
        *, stop: str | Sequence[str] = ..., logprobs: int | None = ...,
        processor: Processor | None = ..., append: bool = ..., reuse: bool = ..., **settings: float,
    ) -> Completion: ...  # fmt: skip

    @overload
    def generate(
        self, prompt: list[str] | list[list[int]] | list[list[Message]],
        max_new_tokens: int | None = ..., sampling: Sampling | None = ...,
        *, stop: str | Sequence[str] = ..., logprobs: int | None = ...,
        processor: Processor | None = ..., append: bool = ..., reuse: bool = ..., **settings: float,
    ) -> list[Completion]: ...  # fmt: skip

    def generate(
        self,
        prompt: Any,
        max_new_tokens: int | None = None,
        sampling: Sampling | None = None,
        *,
        stop: str | Sequence[str] = (),
        logprobs: int | None = None,
        processor: Processor | None = None,
        append: bool = False,
        reuse: bool = False,
        **settings: float,
    ) -> Completion | list[Completion]:
        """The text that follows a prompt; of a list of prompts, that of each, one after another.

        A prompt is a text, token ids, or messages with `role` and `content`. It begins a new
        sequence; with `append` it goes on behind `ids`, and an empty text just goes on. `reuse`
        keeps what the cache holds of its beginning, which changes no byte.

        Ends after `max_new_tokens` (default: when the context is full), at one of the model's stop
        tokens (`Engine.stop`, which can be set), or in front of a `stop` string. `sampling`: greedy
        by default; its settings can be given by themselves, as `temperature=0.8, seed=1`.
        `logprobs`: give each token's log probability, and those of so many likeliest tokens, by the
        model's logits before temperature, filters and processor. `processor(ids, logits)` may
        change float32[vocabulary] logits before a token is chosen.

        Calls of several threads are answered one after another. Raises FusecError for a prompt that
        is empty, out of vocabulary or too long for the context.
        """
        options: dict[str, Any] = {
            "stop": stop, "logprobs": logprobs, "processor": processor, "append": append,
            "reuse": reuse, **settings,
        }  # fmt: skip
        if isinstance(prompt, Iterator):
            prompt = list(prompt)
        if not _is_list(prompt):
            return self._completed(prompt, max_new_tokens, sampling, **options)
        if append:
            raise FusecError("append: expected one prompt, found a list of them")
        return [self._completed(one, max_new_tokens, sampling, **options) for one in prompt]

    def _completed(self, prompt: Prompt, *args: Any, **options: Any) -> Completion:
        with self._turns.take():  # a forked child must not wait for a lock that nobody gives back
            self._turns.check()
        with self._requests:
            stream = self.stream(prompt, *args, **options)
            for _ in stream:
                pass
            return stream.completion

    def stream(
        self,
        prompt: Prompt,
        max_new_tokens: int | None = None,
        sampling: Sampling | None = None,
        *,
        stop: str | Sequence[str] = (),
        logprobs: int | None = None,
        processor: Processor | None = None,
        append: bool = False,
        reuse: bool = False,
        **settings: float,
    ) -> Stream:
        """As `generate`, piece by piece, each printed as its text.

        What is wrong with the prompt is said at once, not with the first piece.
        """
        stop = stop_strings(stop)
        sampling = settled(sampling, settings)
        if logprobs is not None:
            logprobs = whole("logprobs", logprobs, "a number of tokens from 0", 0)
        ids = self.encode(prompt, append=append)
        with self._turns.take():
            self._turns.check()
            job = self._planned(ids, max_new_tokens, sampling, append, reuse)
            uses = self._uses if job.kept else None
        made: Iterator[Chosen | int]
        if logprobs is None and processor is None:
            made = self._in_turns(self._generate(job), uses)
        else:
            made = self._in_turns(self._choose(job, processor), uses)
        tokenizer = self.tokenizer if self._has_text(prompt, stop) else None
        return Stream(made, job.sequence, job.count, tokenizer, stop, logprobs)

    def chat(
        self,
        messages: str | Sequence[Message],
        max_new_tokens: int | None = None,
        sampling: Sampling | None = None,
        **options: Any,
    ) -> Completion:
        """The model's answer to a conversation, or to one text of the user.

        `messages`: each with `role` ("system", "user", "assistant") and `content`, for the model's
        chat template. What the cache holds of the conversation is not computed again. `options` are
        those of `generate`.
        """
        prompt = _messages(messages)
        return self._completed(prompt, max_new_tokens, sampling, **({"reuse": True} | options))

    async def astream(self, prompt: Prompt, *args: Any, **options: Any) -> AsyncIterator[Piece]:
        """`stream` for an event loop: `async for piece in engine.astream("Once"): ...`.

        Requests of several tasks are answered one after another.
        """
        async with self._aside.turn():
            async for piece in self._aside.pieces(self.stream(prompt, *args, **options)):
                yield piece

    async def agenerate(self, prompt: Prompt, *args: Any, **options: Any) -> Completion:
        """`generate` for an event loop, of one prompt: `await engine.agenerate("Once", 40)`."""
        async with self._aside.turn():
            stream = self.stream(prompt, *args, **options)
            async for _ in self._aside.pieces(stream):
                pass
            return stream.completion

    async def achat(
        self, messages: str | Sequence[Message], *args: Any, **options: Any
    ) -> Completion:
        """`chat` for an event loop."""
        return await self.agenerate(_messages(messages), *args, **({"reuse": True} | options))

    @cached_property
    def _aside(self) -> Aside:
        return Aside(self._act_for)

    def close(self) -> None:
        """See `TokenEngine`."""
        if "_aside" in self.__dict__:
            self._aside.close()
        super().close()

    def _has_text(self, prompt: Prompt, stop: Sequence[str]) -> bool:
        """Whether a generation needs the tokenizer: ids go to ids where there is none."""
        if isinstance(prompt, str) or stop:
            return True
        return self.model is not None and self.model.has_tokenizer

    # -- the sequence -----------------------------------------------------------------------------

    @property
    def _origin(self) -> Origin:
        model = "" if self.model is None else self.model.file.fingerprint
        return Origin(self.decode.plan.target, model, self.context)

    def rewind(self, position: int) -> None:
        """Forget the tokens of the sequence from `position` on, counted from 0.

        Raises FusecError for a position that the sequence does not have, and where layers with a
        window no longer hold what the token there would see.
        """
        with self._turns.take():
            self._turns.check()
            self._go_on(0)
            self.position = whole("position", position, "a position from 0", 0)
            self._uses += 1

    def save(self, path: str | Path | None = None) -> Saved:
        """The sequence and its cache as they are now, in memory and (`path`) in a file.

        `restore` goes on from there, in this engine or in another one of the same model file,
        target and context, and gives the same bytes as without the interruption.
        """
        with self._turns.take():
            self._turns.check()
            with self.decode.cached() as cache:
                states = cache.read(self._position)
            saved = Saved(self._origin, tuple(self._ids), self._position, states)
        if path is not None:
            saved.write(path)
        return saved

    def restore(self, saved: Saved | str | Path) -> None:
        """Take up a sequence that `save` gave, instead of the present one.

        Raises FusecError for a file that cannot be read and for the sequence of another model,
        target, context or type of cache; the present sequence is left as it is.
        """
        found = saved if isinstance(saved, Saved) else Saved.read(saved)
        with self._turns.take():
            self._turns.check()
            check_origin(found.origin, self._origin)
            with self.decode.cached() as cache:
                cache.check(found.states, found.position)
            self._begin()  # which it stays where there is too little memory
            with self.decode.cached() as cache:
                cache.write(found.states, found.position)
            self._take_up(found.ids, found.position)

    def _take_up(self, ids: Sequence[int], position: int) -> None:
        """The cache has these tokens, as many as `position` says, for the calling thread."""
        self._ids, self._position, self._caller = list(ids), position, self._me
        self._uses += 1

    @contextmanager
    def fork(self: Own) -> Iterator[Own]:
        """Try how the sequence could go on: at the end of the `with` block it is as it was.

        Both share what they have in common; in a fork of a fork it is copied to this machine.

        engine.feed(prompt)
        for seed in range(4):
            with engine.fork():
                print(engine.generate("", 40, Sampling(0.8, seed=seed), append=True))
        """
        with self._turns.take():
            self._turns.check()
            ids, position = tuple(self._ids), self._position
            with self.decode.cached() as cache:
                kept = cache.keep()
        saved = self.save() if kept is None else None
        try:
            yield self
        finally:
            if saved is not None:
                self.restore(saved)
            elif kept is not None:
                self._resume(kept, ids, position)

    def _resume(self, kept: Kept, ids: Sequence[int], position: int) -> None:
        """Take up the sequence that this one was forked from."""
        with self._turns.take():
            self._turns.check()
            with self.decode.cached() as cache:
                cache.resume(kept)
            self._take_up(ids, position)


def _messages(messages: str | Sequence[Message]) -> Sequence[Message]:
    """A conversation; a text is the user's first message."""
    if isinstance(messages, str):
        return [{"role": "user", "content": messages}]
    if isinstance(messages, Mapping):
        raise FusecError("expected a list of messages, found one message: put it into a list")
    return messages


def _is_list(prompt: Any) -> bool:
    """Whether this is a list of prompts: of texts, of lists of ids or of conversations."""
    if isinstance(prompt, str | bytes | Mapping) or not isinstance(prompt, Iterable):
        return False
    first = next(iter(prompt), 0)
    return isinstance(first, Iterable) and not isinstance(first, Mapping)
