"""`fusec run`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fusec.cli import prompts
from fusec.cli.console import err, out, progress, show_json
from fusec.cli.options import (
    AsJson,
    Context,
    Disable,
    Draft,
    DraftMax,
    MaybeKv,
    MaybeLevel,
    MaybeTarget,
    ModelOrDir,
    Quiet,
    Threads,
)
from fusec.errors import FusecError


def run(
    model: ModelOrDir,
    prompt: Annotated[
        str | None,
        typer.Option("-p", "--prompt", help="The text to go on from; - reads standard input."),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            "-f",
            "--file",
            metavar="FILE",
            help="A file with the prompt, less one line end at its end; - reads standard input.",
        ),
    ] = None,
    prompt_ids: Annotated[
        str | None, typer.Option(metavar="1,2,3", help="The prompt as token ids.")
    ] = None,
    chat: Annotated[
        bool,
        typer.Option(
            "--chat", help="Use the model's chat template: for -p, or for a conversation on stdin."
        ),
    ] = False,
    system: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="With --chat: what the model is told before all turns."),
    ] = None,
    chat_template: Annotated[
        str | None,
        typer.Option(metavar="FILE|TEXT", help="With --chat: a Jinja template for the file's."),
    ] = None,
    new_tokens: Annotated[
        int | None,
        typer.Option(
            "-n", help="New tokens at most. (default: 128, or what the context has room for)"
        ),
    ] = None,
    level: MaybeLevel = None,
    context: Context = None,
    kv: MaybeKv = None,
    target: MaybeTarget = None,
    temp: Annotated[float, typer.Option(help="Temperature; 0 is greedy.")] = 0.8,
    top_k: Annotated[int, typer.Option(help="Keep the k likeliest tokens; 0 keeps all.")] = 40,
    top_p: Annotated[float, typer.Option(help="Keep the likeliest tokens up to this mass.")] = 0.95,
    min_p: Annotated[
        float, typer.Option(help="Drop tokens below this share of the likeliest.")
    ] = 0.05,
    repeat_penalty: Annotated[float, typer.Option(help="Above 1 discourages repetition.")] = 1.0,
    seed: Annotated[int, typer.Option(help="The same seed gives the same text.")] = 0,
    threads: Threads = 0,
    l2: Annotated[
        str,
        typer.Option(
            metavar="off|window|prefetch|auto",
            help="Have a GPU keep the layers' weights in its L2 cache, or fetch them ahead.",
        ),
    ] = "auto",
    resident: Annotated[
        bool,
        typer.Option(
            "--resident",
            help="Make up to 256 tokens in one launch of a GPU; with --temp 0, at -O3 and -O4.",
        ),
    ] = False,
    disable: Disable = None,
    draft: Draft = "off",
    draft_max: DraftMax = 15,
    ignore_eos: Annotated[
        bool, typer.Option("--ignore-eos", help="Go on after an end-of-text token.")
    ] = False,
    stop: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT", help="End before this text, which is left out; may be repeated."
        ),
    ] = None,
    as_json: AsJson = False,
    logprobs: Annotated[
        int | None,
        typer.Option(
            metavar="K",
            help="With --json: the log-probability of each new token, and the K likeliest.",
        ),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Generate text: from a model, or from a folder that fusec compile wrote."""
    from fusec.runtime.cuda.awake import awake

    with awake(target):
        from fusec import generate
        from fusec.runtime.sampling import Sampling
        from fusec.texts import utf8

        sampling = Sampling(temp, top_k, top_p, min_p, repeat_penalty, seed=seed)
        prompt = prompts.prompt_of(prompt, file, elsewhere=chat or prompt_ids is not None)
        request = generate.Request(
            *(prompt, prompt_ids, chat, new_tokens, sampling, ignore_eos),
            system=system,
            template=prompts.template_of(chat_template),
            stop=[utf8(text, "--stop") for text in stop or ()],
            logprobs=logprobs,
        )
        if logprobs is not None and not as_json:
            raise FusecError("--logprobs: its numbers are part of what --json prints: add --json")
        if as_json and request.is_conversation:
            raise FusecError("--json takes one prompt: give one with -p TEXT")
        with progress("kernels") as advance:
            runner = generate.open_runner(
                model,
                request,
                level=level,
                context=context,
                kv=kv,
                target=target,
                threads=threads,
                progress=advance,
                l2=l2,
                resident=resident,
                disable=disable,
                draft=draft,
                draft_max=draft_max,
            )
    with runner.engine:
        if request.is_conversation:
            generate.converse(runner, request)
        elif as_json:
            answer = generate.complete(runner, request)
            asked, path = logprobs is not None, runner.model.file.path
            show_json(answer.data(path, sampling, runner.load_s, logprobs=asked))
        else:
            echo = out.is_terminal and prompt is not None and not chat
            if echo:  # a reader wants the whole text
                out.print(prompt, style="dim", end="")
            answer = generate.complete(runner, request, lambda text: typer.echo(text, nl=False))
            if echo or answer.completion.ids:
                typer.echo()
            err.print(answer.line(), style="dim")
