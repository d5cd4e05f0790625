"""What `fusec run` does between its options and the engine: prompts, streaming, conversations."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusec import driver
from fusec.artifact import Artifact
from fusec.errors import FusecError
from fusec.models.chat import ChatTemplate
from fusec.models.model import Model
from fusec.models.tokenizer import StreamDecoder
from fusec.runtime.engine import Engine
from fusec.runtime.sampling import Sampling

Emit = Callable[[str], None]


@dataclass(frozen=True)
class Request:
    """One prompt, in one of its three forms, and how to go on from it."""

    prompt: str | None
    prompt_ids: str | None
    chat: bool
    new_tokens: int
    sampling: Sampling
    ignore_eos: bool

    def ids(self, model: Model) -> list[int]:
        """The prompt as tokens. Raises FusecError for none, an empty one or one that is not ids."""
        if self.prompt is not None and self.prompt_ids is not None:
            raise FusecError("give the prompt as text (-p) or as --prompt-ids, not both")
        if self.prompt_ids is not None:
            parts = [part.strip() for part in self.prompt_ids.split(",")]
            if bad := [p for p in parts if p and not p.lstrip("-").isdigit()]:
                raise FusecError(f"--prompt-ids: expected numbers like 1,2,3, found '{bad[0]}'")
            return [int(part) for part in parts if part]
        if self.prompt is None:
            raise FusecError("no prompt: give one with -p TEXT, --prompt-ids 1,2,3 or --chat")
        if not self.prompt:
            raise FusecError("the prompt is empty: expected some text behind -p")
        if self.chat:
            return chat_ids(model, [{"role": "user", "content": self.prompt}])
        return model.tokenizer.encode(self.prompt)


@dataclass(frozen=True)
class Runner:
    """A model and its engine, with the seconds it took to get there."""

    model: Model
    engine: Engine
    load_s: float


def open_runner(
    path: Path,
    request: Request,
    *,
    level: int | None,
    context: int | None,
    kv: str | None,
    target: str,
    threads: int,
    progress: Any,
) -> Runner:
    """An engine for a model file or a compiled folder, with a context the request fits in."""
    start = time.perf_counter()
    if path.is_dir():
        artifact = Artifact.open(path)
        for name, given in (("-O", level), ("--context", context), ("--kv", kv)):
            if given is not None:
                raise FusecError(f"{path} is compiled already: {name} goes with fusec compile")
        model, engine = artifact.model(), artifact.engine(progress, threads)
    else:
        model = Model.open(path)
        if context is None:
            wanted = driver.DEFAULT_CONTEXT
            if not request.chat:
                wanted = max(wanted, len(request.ids(model)) + request.new_tokens)
            context = min(wanted, model.config.context)
        level = driver.DEFAULT_LEVEL if level is None else level
        engine = driver.load(
            path, target, level, context, kv or "f16", progress=progress, threads=threads
        )
    if request.ignore_eos:
        engine.stop = frozenset()
    return Runner(model, engine, time.perf_counter() - start)


def complete(runner: Runner, request: Request, emit: Emit | None = None) -> dict[str, Any]:
    """Generate once; the text is handed to `emit` as it comes. Returns what `--json` prints."""
    prompt = request.ids(runner.model)
    return generate(runner, prompt, request, emit) | {"prompt_ids": prompt}


def generate(
    runner: Runner, prompt: list[int], request: Request, emit: Emit | None
) -> dict[str, Any]:
    """Tokens, text and timings of one generation."""
    decoder = text_decoder(runner.model, prompt)
    ids: list[int] = []
    pieces: list[str] = []
    first = start = time.perf_counter()
    for token in runner.engine.generate(prompt, request.new_tokens, request.sampling):
        if not ids:
            first = time.perf_counter()
        ids.append(token)
        pieces.append(decoder.push(token) if decoder else f"{' ' if len(ids) > 1 else ''}{token}")
        if emit:
            emit(pieces[-1])
            sys.stdout.flush()
    end = time.perf_counter()
    pieces.append(decoder.finish() if decoder else "")
    if emit:
        emit(pieces[-1])
    decoded = max(len(ids) - 1, 0)
    timings = {
        "load_s": runner.load_s,
        "prompt_tokens": len(prompt),
        "first_token_s": first - start,
        "decode_tokens": decoded,
        "decode_s": end - first,
        "tok_s": decoded / (end - first) if decoded else 0.0,
    }
    return {"ids": ids, "text": "".join(pieces) if decoder else None, "timings": timings}


def text_decoder(model: Model, prompt: list[int]) -> StreamDecoder | None:
    """Decodes what follows the prompt; None for a file without a vocabulary."""
    if "tokenizer.ggml.model" not in model.file.metadata:
        return None
    return StreamDecoder(model.tokenizer, prompt)


def chat_ids(model: Model, messages: list[dict[str, str]]) -> list[int]:
    """A conversation as tokens, by the model's template. The template writes its own BOS."""
    text = ChatTemplate.from_gguf(model.file).render(messages)
    return model.tokenizer.encode(text, bos=False)


def converse(runner: Runner, request: Request) -> None:
    """A conversation: a line on standard input is a turn, its end is the end."""
    messages: list[dict[str, str]] = []
    interactive = sys.stdin.isatty()
    while True:
        try:
            line = input("> ") if interactive else sys.stdin.readline()
        except EOFError:
            line = ""
        if not line:
            return
        if not line.strip():
            continue
        messages.append({"role": "user", "content": line.strip()})
        prompt = chat_ids(runner.model, messages)
        room = runner.engine.context - len(prompt) + 1
        if room < 1:
            raise FusecError(
                f"the conversation has {len(prompt)} tokens, the context {runner.engine.context}: "
                f"start again with a larger --context"
            )
        turn = Request(None, None, True, min(request.new_tokens, room), request.sampling, False)
        answer = generate(runner, prompt, turn, lambda text: print(text, end="", flush=True))
        print()
        messages.append({"role": "assistant", "content": answer["text"] or ""})


def timing_line(result: dict[str, Any]) -> str:
    """Speed in one line."""
    t = result["timings"]
    return (
        f"prompt {t['prompt_tokens']} tokens, first token after {1e3 * t['first_token_s']:.0f} ms, "
        f"{t['decode_tokens']} tokens at {t['tok_s']:.1f} tok/s"
    )
