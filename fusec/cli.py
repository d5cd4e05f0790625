"""The command line: `fusec compile | run | inspect | verify | bench | synth`."""

from __future__ import annotations

import io
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from fusec.bench_cli import bench
from fusec.cli_options import (
    AsJson,
    Context,
    Disable,
    Kv,
    Level,
    MaybeKv,
    MaybeLevel,
    MaybeTarget,
    ModelArg,
    ModelOrDir,
    Target,
    Threads,
)
from fusec.errors import FusecError

app = typer.Typer(
    name="fusec",
    pretty_exceptions_enable=False,
    add_completion=False,
)
out = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
err = Console(stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False)


@contextmanager
def progress(title: str, total: int = 0) -> Iterator[Callable[..., None]]:
    """A bar on standard error; silent where nobody looks.

    Yields `note(what)`, which counts one, or `note(what, done, total)`.
    """
    columns = (
        TextColumn(f"{title:<10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task("", total=total or None)

        def note(what: str = "", done: int | None = None, total: int | None = None) -> None:
            bar.update(task, description=what, advance=1 if done is None else None)
            if done is not None:
                bar.update(task, completed=done, total=total)

        yield note


@app.callback(invoke_without_command=True)
def fusec(
    context: typer.Context,
    show_version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.")
    ] = False,
) -> None:
    """Compile a language model's decode step into fused kernels and a launch plan; run it."""
    if show_version:
        typer.echo(f"fusec {version('fusec')}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command("compile")
def compile_command(
    model: ModelArg,
    output: Annotated[
        Path | None,
        typer.Option("-o", metavar="DIR", help="Write plan, kernels, stages and DOT here."),
    ] = None,
    target: Target = "cpu",
    level: Level = 2,
    context: Context = None,
    kv: Kv = "f16",
    dot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the plan as graphviz DOT.")
    ] = None,
    dump_after: Annotated[
        str | None, typer.Option(metavar="PASS|all", help="Print the graph after this pass.")
    ] = None,
    stop_after: Annotated[
        str | None, typer.Option(metavar="PASS", help="Run no pass behind this one.")
    ] = None,
    disable: Disable = None,
) -> None:
    """Compile a model: print what each pass merged, and the plan; build every kernel."""
    from fusec import artifact, driver, report
    from fusec.ir.dot import to_dot

    start = time.perf_counter()
    compiled = driver.compile(
        model,
        target=target,
        level=level,
        context=context,
        kv=kv,
        disable=disable or (),
        stop_after=stop_after,
    )
    names = [stage.name for stage in compiled.stages]
    if dump_after not in (None, "all", *names):
        raise FusecError(f"no pass '{dump_after}' at this level: it runs {', '.join(names)}")
    for stage in compiled.stages:
        if dump_after in ("all", stage.name):
            typer.echo(artifact.stage_text(stage))
    if output is not None:  # before the long work, not after it
        artifact.check_target(output)
    if dot is not None:
        write_text(dot, to_dot(compiled.graph))
    with progress("compiling", len(compiled.kernels)) as advance:
        cubins = compiled.build(advance)
    if output is not None:
        compiled.save(output)
    show_report(report.summary(compiled))
    if cubins:
        from fusec import gpu

        out.print(gpu.cubin_table(gpu.describe(compiled.kernels, cubins)))
    seconds = time.perf_counter() - start
    out.print(f"{len(compiled.kernels)} kernels ready in {seconds:.1f} s")
    if output is not None:
        out.print(f"written to {output}: run it with  fusec run {output}")


@app.command()
def run(
    model: ModelOrDir,
    prompt: Annotated[
        str | None, typer.Option("-p", "--prompt", help="The text to go on from.")
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
            metavar="off|window|auto", help="Ask a GPU to keep the layers' weights in its L2 cache."
        ),
    ] = "auto",
    ignore_eos: Annotated[
        bool, typer.Option("--ignore-eos", help="Go on behind an end-of-text token.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Generate text: from a model, or from a folder that fusec compile wrote."""
    from fusec import generate
    from fusec.runtime.sampling import Sampling

    sampling = Sampling(temp, top_k, top_p, min_p, repeat_penalty, seed=seed)
    request = generate.Request(prompt, prompt_ids, chat, new_tokens, sampling, ignore_eos)
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
        )
    if request.is_conversation:
        generate.converse(runner, request)
    elif as_json:
        result = generate.complete(runner, request)
        typer.echo(json.dumps(result, ensure_ascii=False))
    else:
        result = generate.complete(runner, request, lambda text: typer.echo(text, nl=False))
        typer.echo()
        err.print(generate.timing_line(result), style="dim")
    runner.engine.close()


@app.command()
def inspect(
    model: ModelOrDir,
    level: MaybeLevel = None,
    context: Context = None,
    kv: MaybeKv = None,
    target: MaybeTarget = None,
    stage: Annotated[
        str | None, typer.Option(metavar="PASS", help="Print the graph after this pass.")
    ] = None,
    dot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write DOT, of the plan or of --stage.")
    ] = None,
    disable: Disable = None,
    as_json: AsJson = False,
) -> None:
    """Look at the graph at a stage, or at the plan, without compiling kernels."""
    from fusec import artifact, driver, report
    from fusec.ir.dot import to_dot
    from fusec.ir.text import parse

    if model.is_dir():
        saved = artifact.Artifact.open(model)
        saved.refuse(level=level, context=context, kv=kv, target=target, disable=disable)
        data, shown = saved.manifest["report"], saved.stage(stage)
        graph = parse("".join(x for x in shown.splitlines(True) if not x.startswith("#")))
    else:
        compiled = driver.compile(
            model,
            target=target or "cpu",
            level=driver.DEFAULT_LEVEL if level is None else level,
            context=context,
            kv=kv or "f16",
            disable=disable or (),
        )
        data = report.summary(compiled)
        by_name = {s.name: s for s in compiled.stages}
        if stage is not None and stage not in by_name:
            there = f"at -O{compiled.plan.level}: there are {', '.join(by_name)}"
            raise FusecError(f"no stage '{stage}' {there}")
        found = by_name[stage] if stage else compiled.stages[-1]
        shown, graph = artifact.stage_text(found), found.graph
    if dot is not None:
        write_text(dot, to_dot(graph))
    if as_json:
        typer.echo(json.dumps(data))
    elif stage is not None:
        typer.echo(shown, nl=False)
    else:
        show_report(data)


@app.command()
def verify(
    model: ModelArg,
    level: Annotated[
        int | None,
        typer.Option("-O", "--level", help="Check this level against -O0 (default: all)."),
    ] = None,
    context: Context = None,
    kv: Annotated[
        str, typer.Option(metavar="f16|f32|both", help="KV cache types to check.")
    ] = "both",
    tokens: Annotated[
        int | None, typer.Option(help="Length of the random prompt. (default: 24)")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the random prompt.")] = 0,
    target: Target = "cpu",
    as_json: AsJson = False,
) -> None:
    """Check compiled logits: against the float64 reference, and between levels byte for byte."""
    from fusec.verifier import check, verdict_table

    kinds = ("f16", "f32") if kv == "both" else (kv,)
    with progress("verifying") as advance:
        verdicts = check(
            model,
            level=level,
            context=context,
            kinds=kinds,
            tokens=tokens,
            seed=seed,
            target=target,
            note=advance,
        )
    if as_json:
        typer.echo(json.dumps([v.as_dict() for v in verdicts]))
    else:
        out.print(verdict_table(str(model), verdicts))
    if not all(v.ok for v in verdicts):
        raise typer.Exit(1)


app.command()(bench)


@app.command()
def synth(
    preset: Annotated[
        str,
        typer.Argument(metavar="PRESET", help="smollm2-135m, smollm2-360m, smollm2-1.7b or tiny."),
    ],
    output: Annotated[Path, typer.Option("-o", metavar="FILE", help="The GGUF file to write.")],
    quant: Annotated[
        str, typer.Option(help="Weight mix: F32, F16, BF16, Q8_0, IQ4_NL, IQ4_XS.")
    ] = "IQ4_XS",
    seed: Annotated[int, typer.Option(help="The same seed gives the same file.")] = 0,
    tokenizer: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="tokenizer.json or a GGUF with a vocabulary."),
    ] = None,
    context: Annotated[
        int | None, typer.Option(help="Replaces the length the model says it was trained for.")
    ] = None,
) -> None:
    """Write a model of a real shape with random weights, for tests and measurements."""
    from fusec.models.synth import synthesize

    with progress("writing") as advance:
        synthesize(
            preset,
            output,
            quant=quant,
            seed=seed,
            tokenizer=tokenizer,
            context=context,
            progress=advance,
        )
    out.print(f"{output}: {output.stat().st_size / 1e6:.1f} MB")


def show_report(data: dict[str, Any]) -> None:
    """Stage table, plan table, refusals and the plan in one line."""
    from fusec import report

    out.print(report.stage_table(data["stages"]))
    out.print(report.plan_table(data))
    for line in report.refusal_lines(data["stages"]):
        out.print(line, style="dim")
    out.print(report.plan_line(data))


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    if not path.name:
        raise FusecError(f"expected the name of a file, found '{path}'")
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(text.encode())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise FusecError(f"{path}: cannot write here: {error.strerror}") from None


def main(args: Sequence[str] | None = None) -> None:
    """Entry point: user errors are one line and exit code 2; FUSEC_DEBUG shows the traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # text that a terminal cannot show is no reason
            stream.reconfigure(errors="replace")  # to end a generation
    try:
        code = app(args, prog_name="fusec", standalone_mode=False)
        raise SystemExit(code if isinstance(code, int) else 0)
    except (typer.Abort, KeyboardInterrupt):
        raise SystemExit(130) from None
    except Exception as error:
        message = user_message(error)
        if message is None:
            raise
        if os.environ.get("FUSEC_DEBUG"):
            traceback.print_exc()
        print(f"error: {' '.join(message.split())}", file=sys.stderr)
        raise SystemExit(2) from None


def user_message(error: Exception) -> str | None:
    """What to tell the user; None for an error that is ours."""
    if isinstance(error, FusecError):
        return str(error)
    if isinstance(error, MemoryError):
        return f"out of memory: {error}"
    if isinstance(error, OSError):
        return str(error)
    # a mistake on the command line; typer has had classes of its own and click's for it
    format_message = getattr(error, "format_message", None)
    return f"{format_message()} (fusec --help explains)" if format_message else None


if __name__ == "__main__":
    main()
