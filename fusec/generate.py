"""What `fusec run` does between its options and the engine: prompts, streaming, conversations.

What only a compiled folder or a conversation needs is imported when there is one.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusec import drafters, driver
from fusec.answer import Answer
from fusec.errors import FusecError
from fusec.models.model import Model
from fusec.models.tokenizer import Tokenizer
from fusec.runtime.drafting import MOST_DRAFTED
from fusec.runtime.engine import Engine
from fusec.runtime.job import new_tokens
from fusec.runtime.sampling import Sampling
from fusec.texts import standard_input, utf8

if TYPE_CHECKING:
    from fusec.artifact import Artifact
    from fusec.models.chat import ChatTemplate

Emit = Callable[[str], None]

DEFAULT_NEW_TOKENS = 128
CHAT_CONTEXT = 2048  # positions a conversation gets unless told otherwise


@dataclass(frozen=True)
class Request:
    """One prompt, in one of its three forms, and how to go on from it.

    `new_tokens` None is DEFAULT_NEW_TOKENS, or fewer where the context is short. In a chat
    `system` comes before the first turn, and `template` is used instead of the file's. Text ends in
    front of any of `stop`. `logprobs`: how many of the likeliest tokens are named with each.
    """

    prompt: str | None
    prompt_ids: str | None
    chat: bool
    new_tokens: int | None
    sampling: Sampling
    ignore_eos: bool
    system: str | None = None
    template: str | None = None
    stop: Sequence[str] = ()
    logprobs: int | None = None

    @property
    def is_conversation(self) -> bool:
        """Whether the turns come from standard input."""
        return self.chat and self.prompt is None

    def check(self) -> None:
        """Raise FusecError for options that contradict each other, and for no prompt at all."""
        if self.prompt_ids is not None and (self.prompt is not None or self.chat):
            other = "--chat" if self.prompt is None else "text (-p)"
            raise FusecError(f"the prompt is given twice, as --prompt-ids and as {other}")
        if self.prompt is None and self.prompt_ids is None and not self.chat:
            raise FusecError(
                "no prompt: give one with -p TEXT, -f FILE, --prompt-ids 1,2,3, on standard input, "
                "or --chat"
            )
        for option, given in (("--system", self.system), ("--chat-template", self.template)):
            if given is not None and not self.chat:
                raise FusecError(f"{option} is for conversations: add --chat")
        if "" in self.stop:
            raise FusecError("--stop: expected some text, found none")
        if self.new_tokens is not None and self.new_tokens < 0:
            raise FusecError(f"-n: expected a number of tokens from 0, found {self.new_tokens}")
        if self.logprobs is not None and self.logprobs < 0:
            raise FusecError(f"--logprobs: expected a number from 0, found {self.logprobs}")

    def ids(self, model: Model) -> list[int]:
        """The prompt as tokens. Raises FusecError for an empty one and for what are not ids."""
        if self.prompt_ids is not None:
            return parse_ids(self.prompt_ids, model.config.vocab)
        if not self.prompt:
            raise FusecError("the prompt is empty: expected some text behind -p")
        prompt = utf8(self.prompt, "-p")
        if self.chat:
            messages = [*self.first_messages(), {"role": "user", "content": prompt}]
            return _template(model, self.template).encode(messages, model.tokenizer)
        if ids := model.tokenizer.encode(prompt):
            return ids
        raise FusecError("the prompt is empty: its text makes no tokens")

    def first_messages(self) -> list[dict[str, str]]:
        """What a conversation begins with."""
        if self.system is None:
            return []
        return [{"role": "system", "content": utf8(self.system, "--system")}]

    def count(self, prompt: int, context: int) -> int:
        """New tokens to make behind a prompt of that many tokens."""
        if self.new_tokens is None:
            return min(DEFAULT_NEW_TOKENS, new_tokens(prompt, None, context))
        return new_tokens(prompt, self.new_tokens, context)


def parse_ids(text: str, vocabulary: int) -> list[int]:
    """Token ids from "1,2,3". Raises FusecError for anything else."""
    if not text.strip():
        raise FusecError("the prompt is empty: expected numbers like 1,2,3 behind --prompt-ids")
    ids = []
    for part in text.split(","):
        if not re.fullmatch(r"\s*-?[0-9]{1,18}\s*", part):
            raise FusecError(
                f"--prompt-ids: expected numbers like 1,2,3, found '{part[:40].strip()}'"
            )
        ids.append(int(part))
    for token in ids:
        if not 0 <= token < vocabulary:
            raise FusecError(
                f"--prompt-ids: token {token} is out of vocabulary: expected 0 to {vocabulary - 1}"
            )
    return ids


@dataclass(frozen=True)
class Runner:
    """A model and its engine, with the seconds it took to get there.

    `prompt` is empty for a conversation. `tokenizer` is None where the file has none that is
    supported: such a model runs from ids to ids.
    """

    model: Model
    engine: Engine
    prompt: list[int]
    tokenizer: Tokenizer | None
    load_s: float


def open_runner(
    path: Path,
    request: Request,
    *,
    level: int | None,
    context: int | None,
    kv: str | None,
    target: str | None,
    threads: int,
    progress: Any,
    l2: str = "auto",
    resident: bool = False,
    disable: Sequence[str] | None = None,
    draft: str = "off",
    draft_max: int = MOST_DRAFTED,
) -> Runner:
    """An engine for a model file or a compiled folder, with a context the request fits in.

    Whatever is wrong with the request is said before anything is compiled.
    """
    start = time.perf_counter()
    request.check()
    artifact = _artifact(path) if path.is_dir() else None
    if resident and not request.sampling.is_argmax:
        raise FusecError(
            "--resident chooses the likeliest token: expected --temp 0, found "
            f"--temp {request.sampling.temperature:g}"
        )
    if artifact is not None and resident:
        raise FusecError(
            f"{path}: --resident compiles a kernel of its own: expected a model file, found a "
            "compiled folder"
        )
    if artifact is not None:
        artifact.refuse(level=level, context=context, kv=kv, target=target, disable=disable or None)
    model = artifact.model() if artifact else Model.open(path)
    if request.is_conversation:
        _template(model, request.template)
    prompt = [] if request.is_conversation else request.ids(model)
    if artifact is not None:
        context = artifact.context
    elif context is None:
        context = min(_default_context(request, len(prompt)), model.config.context)
    context = model.check_context(context, driver.DEFAULT_CONTEXT)
    if not request.is_conversation:
        request.count(len(prompt), context)
    tokenizer = _tokenizer(model, request)
    drafters.check_draft_max(draft_max)
    how: dict[str, Any] = {"progress": progress, "threads": threads, "l2": l2}
    if artifact is not None:
        drafter = driver.drafter_of(
            draft, model, context, hidden=False, target=artifact.backend.name, kv="f16", **how
        )
        engine = artifact.engine(progress, threads, l2)
        engine.drafter, engine.draft_max = drafter, draft_max
    else:
        engine = driver.load(
            model,
            "cpu" if target is None else target,
            level,
            context,
            kv or "f16",
            disable=disable or (),
            draft=draft,
            draft_max=draft_max,
            resident=resident,
            **how,
        )
    if request.ignore_eos:
        engine.stop = frozenset()
    return Runner(model, engine, prompt, tokenizer, time.perf_counter() - start)


def _artifact(folder: Path) -> Artifact:
    from fusec.artifact import Artifact

    return Artifact.open(folder)


def _template(model: Model, given: str | None) -> ChatTemplate:
    from fusec.models.chat import ChatTemplate

    return ChatTemplate.from_gguf(model.file, given)


def _default_context(request: Request, prompt: int) -> int:
    if request.is_conversation:
        return CHAT_CONTEXT
    wanted = DEFAULT_NEW_TOKENS if request.new_tokens is None else request.new_tokens
    return max(driver.DEFAULT_CONTEXT, prompt + wanted)


def _tokenizer(model: Model, request: Request) -> Tokenizer | None:
    if not model.has_vocabulary:
        return None
    try:
        return model.tokenizer
    except FusecError as error:
        if request.prompt_ids is None:
            raise
        print(f"note: {error}: token ids are printed instead of text", file=sys.stderr)
        return None


def complete(runner: Runner, request: Request, emit: Emit | None = None) -> Answer:
    """Generate once; the text is handed to `emit` as it comes."""
    return generate(runner, runner.prompt, request, emit)


def generate(runner: Runner, prompt: list[int], request: Request, emit: Emit | None) -> Answer:
    """One generation. Of a conversation, only what is new since the last turn is computed."""
    count = request.count(len(prompt), runner.engine.context)
    start = time.perf_counter()
    stream = runner.engine.stream(
        prompt,
        count,
        request.sampling,
        stop=request.stop,
        logprobs=request.logprobs,
        reuse=request.is_conversation,
    )
    first = None
    for piece in stream:
        blank = "" if first is None else " "
        first = time.perf_counter() - start if first is None else first
        if emit:
            emit(piece.text if runner.tokenizer else f"{blank}{piece.token}")
    seconds = time.perf_counter() - start
    has_text, engine = runner.tokenizer is not None, runner.engine
    drafts = None if engine.drafter is None else engine.draft_statistics
    return Answer(stream.completion, first, seconds, has_text, drafts)


def read_turns() -> Iterator[str]:
    """The lines of standard input that say something. Raises FusecError for one not in UTF-8."""
    lines = standard_input()
    interactive = lines.isatty()
    number = 0
    while True:
        try:
            line = input("> ") + "\n" if interactive else lines.readline()
        except EOFError:
            return
        if not line:
            return
        number += 1
        if text := utf8(line, f"standard input, line {number}").strip():
            yield text


def converse(runner: Runner, request: Request) -> None:
    """A conversation: a line on standard input is a turn, its end is the end."""
    template, messages = _template(runner.model, request.template), request.first_messages()
    for line in read_turns():
        messages.append({"role": "user", "content": line})
        prompt = template.encode(messages, runner.model.tokenizer)
        room = new_tokens(len(prompt), None, runner.engine.context)
        wanted = DEFAULT_NEW_TOKENS if request.new_tokens is None else request.new_tokens
        turn = replace(request, new_tokens=min(wanted, room))
        answer = generate(runner, prompt, turn, lambda text: print(text, end="", flush=True))
        print()
        messages.append({"role": "assistant", "content": answer.completion.text})
