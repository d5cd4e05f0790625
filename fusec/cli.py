"""The command line: `fusec compile | run | inspect | verify | synth`."""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from fusec.errors import FusecError

app = typer.Typer(
    name="fusec",
    help="Compile a language model's decode step into fused kernels and a launch plan; run it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
out, err = Console(soft_wrap=True, highlight=False), Console(stderr=True, soft_wrap=True)

ModelArg = Annotated[Path, typer.Argument(metavar="MODEL.gguf", help="A GGUF model file.")]
ModelOrDir = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL.gguf|DIR", help="A GGUF file, or a folder from fusec compile -o."
    ),
]
Level = Annotated[int, typer.Option("-O", "--level", help="0 naive, 1 paired, 2 fused.")]
Context = Annotated[
    int | None,
    typer.Option(help="Positions of the KV cache; up to what the model was trained for."),
]
Kv = Annotated[str, typer.Option(metavar="f16|f32", help="Element type of the KV cache.")]
Target = Annotated[str, typer.Option(help="What to generate code for: cpu.")]
Disable = Annotated[
    list[str] | None,
    typer.Option(metavar="RULE", help="Leave a fusion rule out; may be repeated."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Threads = Annotated[int, typer.Option(help="CPU threads; 0 takes all cores this process may use.")]


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
    from fusec.codegen.cpu.build import build
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
    with progress("compiling", len(compiled.kernels)) as advance:
        build(tuple(compiled.kernels.values()), advance)
    if output is not None:
        compiled.save(output)
    if dot is not None:
        write_text(dot, to_dot(compiled.graph))
    show_report(report.summary(compiled))
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
        typer.Option(help="Use the model's chat template: for -p, or for a conversation on stdin."),
    ] = False,
    new_tokens: Annotated[int, typer.Option("-n", help="New tokens at most.")] = 128,
    level: Annotated[
        int | None, typer.Option("-O", "--level", help="0, 1 or 2 (default 2).")
    ] = None,
    context: Context = None,
    kv: Annotated[
        str | None, typer.Option(metavar="f16|f32", help="KV cache type (default f16).")
    ] = None,
    target: Target = "cpu",
    temp: Annotated[float, typer.Option(help="Temperature; 0 is greedy.")] = 0.8,
    top_k: Annotated[int, typer.Option(help="Keep the k likeliest tokens; 0 keeps all.")] = 40,
    top_p: Annotated[float, typer.Option(help="Keep the likeliest tokens up to this mass.")] = 0.95,
    min_p: Annotated[
        float, typer.Option(help="Drop tokens below this share of the likeliest.")
    ] = 0.05,
    repeat_penalty: Annotated[float, typer.Option(help="Above 1 discourages repetition.")] = 1.0,
    seed: Annotated[int, typer.Option(help="The same seed gives the same text.")] = 0,
    threads: Threads = 0,
    ignore_eos: Annotated[bool, typer.Option(help="Go on behind an end-of-text token.")] = False,
    as_json: AsJson = False,
) -> None:
    """Generate text: from a model, or from a folder that fusec compile wrote."""
    from fusec import generate
    from fusec.runtime.sampling import Sampling

    sampling = Sampling(temp, top_k, top_p, min_p, repeat_penalty, seed=seed)
    request = generate.Request(prompt, prompt_ids, chat, new_tokens, sampling, ignore_eos)
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
        )
    if chat and prompt is None:
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
    level: Level = 2,
    context: Context = None,
    kv: Kv = "f16",
    target: Target = "cpu",
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
        data = saved.manifest["report"]
        last = data["stages"][-1]["pass"]
        shown = saved.stage(stage or last)
        graph = parse("".join(x for x in shown.splitlines(True) if not x.startswith("#")))
    else:
        compiled = driver.compile(
            model, target=target, level=level, context=context, kv=kv, disable=disable or ()
        )
        data = report.summary(compiled)
        by_name = {s.name: s for s in compiled.stages}
        if stage is not None and stage not in by_name:
            raise FusecError(f"no stage '{stage}' at -O{level}: there are {', '.join(by_name)}")
        found = by_name[stage] if stage else compiled.stages[-1]
        shown, graph = artifact.stage_text(found), found.graph
    if dot is not None:
        write_text(dot, to_dot(graph))
    if as_json:
        typer.echo(json.dumps(data))
    elif stage is not None:
        typer.echo(shown)
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
    tokens: Annotated[int, typer.Option(help="Length of the random prompt.")] = 24,
    seed: Annotated[int, typer.Option(help="Seed of the random prompt.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Check compiled logits: against the float64 reference, and between levels byte for byte."""
    from fusec.verifier import VERDICT_COLUMNS, check

    kinds = ("f16", "f32") if kv == "both" else (kv,)
    with progress("verifying") as advance:
        verdicts = check(
            model, level=level, context=context, kinds=kinds, tokens=tokens, seed=seed, note=advance
        )
    if as_json:
        typer.echo(json.dumps([v.as_dict() for v in verdicts]))
    else:
        from rich.table import Table

        table = Table(*VERDICT_COLUMNS, title=f"{model}: {tokens} tokens", title_justify="left")
        for verdict in verdicts:
            table.add_row(*verdict.cells())
        out.print(table)
    if not all(v.ok for v in verdicts):
        raise typer.Exit(1)


@app.command()
def synth(
    preset: Annotated[
        str, typer.Argument(help="smollm2-135m, smollm2-360m, smollm2-1.7b or tiny.")
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
    context: Context = None,
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
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text)
        temporary.replace(path)
    except OSError as error:
        raise FusecError(f"{path}: cannot write here: {error.strerror}") from None


def main() -> None:
    """Entry point: user errors are one line and exit code 2; FUSEC_DEBUG shows the traceback."""
    try:
        app()
    except FusecError as error:
        if os.environ.get("FUSEC_DEBUG"):
            traceback.print_exc()
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from None
    except BrokenPipeError:  # the reader of our output went away, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
