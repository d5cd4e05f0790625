"""The command line of `fusec bench`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from fusec.cli.console import out, progress, show_json, write_json
from fusec.cli.options import AsJson, Disable, DraftMax, ModelArg, Quiet, Results
from fusec.errors import FusecError
from fusec.files import check_outputs

TABLE_WIDTH = 140


def bench(
    model: ModelArg,
    lengths: Annotated[
        str, typer.Option("-n", metavar="N,...", help="New tokens of a run.")
    ] = "128,256",
    levels: Annotated[
        str, typer.Option("-O", "--level", metavar="LEVEL,...", help="Levels to measure.")
    ] = "0,1,2,3,4",
    l2: Annotated[
        str,
        typer.Option(
            metavar="MODE,...",
            help="A GPU's L2 cache and the layers' weights: off, window, prefetch, auto.",
        ),
    ] = "auto",
    target: Annotated[
        str,
        typer.Option(help="cpu, native or cuda (the GPU of this machine), or its architecture."),
    ] = "cpu",
    prompt: Annotated[int, typer.Option(help="Tokens before the new ones.")] = 16,
    pp: Annotated[
        str | None,
        typer.Option(
            metavar="N,...",
            help="Also prompts of so many tokens, 0 for none. (default: 512 on a GPU, 128 on the "
            "CPU)",
        ),
    ] = None,
    repeats: Annotated[int, typer.Option(help="Runs of each, after one to warm up.")] = 5,
    eager: Annotated[
        bool, typer.Option("--eager", help="Also the lowest level, launched kernel by kernel.")
    ] = False,
    resident: Annotated[
        bool,
        typer.Option("--resident", help="Also -O3 and -O4 with one launch for up to 256 tokens."),
    ] = False,
    compare: Annotated[
        str, typer.Option(metavar="PEER,...", help="Also these, where installed: torch, llama.cpp.")
    ] = "",
    threads: Annotated[
        int, typer.Option(help="CPU threads; 0 takes the cores this process may use.")
    ] = 0,
    disable: Disable = None,
    draft: Annotated[
        str,
        typer.Option(
            metavar="DRAFTER,...",
            help="Instead: six prompts with drafted tokens, beside plain decoding. auto, suffix, "
            "recycle, mtp or a model.",
        ),
    ] = "",
    draft_max: DraftMax = 15,
    output: Results = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Measure prompts and new tokens: tokens a second, dispatches, bandwidth; at every level.

    Tests have llama-bench's names. pp512: a prompt of 512 tokens, without logits.
    tg128 @ d16: 128 new tokens after a prompt of 16.
    """
    if draft:
        _bench_drafts(model, words(draft), numbers("-n", lengths), draft_max, levels, target,
                      repeats, threads, output, as_json)  # fmt: skip
        return
    from dataclasses import asdict

    from fusec import bench as measuring
    from fusec.bench import peers as bench_peers
    from fusec.bench.table import lines, table

    plan = measuring.Plan(
        lengths=numbers("-n", lengths),
        levels=numbers("-O", levels),
        l2=tuple(words(l2)),
        target=target,
        prompt=prompt,
        repeats=repeats,
        eager=eager,
        resident=resident,
        threads=threads,
        disable=tuple(disable or ()),
        pp=prompts(pp) if pp is not None else measuring.default_prompts(model, target),
    )
    peers = tuple(words(compare))
    bench_peers.check(peers)
    check_outputs([output], model)  # before the long work, not after it
    with progress("measuring") as advance:
        data: dict[str, Any] = measuring.run(model, plan, advance)
        if peers:
            advance(f"compared: {compare}")
            rows, data["notes"] = bench_peers.compare(model, plan, peers)
            data["results"] += [asdict(row) for row in rows]
    _show(data, table(data), lines(data), output, as_json)


def _bench_drafts(
    model: Path, names: list[str], lengths: tuple[int, ...], most: int, levels: str, target: str,
    repeats: int, threads: int, output: Path | None, as_json: bool,
) -> None:  # fmt: skip
    from fusec.bench import drafts

    asked = numbers("-O", levels)
    level = asked[0] if len(asked) == 1 else None
    plan = drafts.Plan(tuple(names), max(lengths), most, target, level, repeats, threads)
    check_outputs([output], model)
    with progress("measuring") as advance:
        data = drafts.run(model, plan, advance)
    _show(data, drafts.table(data), drafts.lines(data), output, as_json)


def _show(
    data: dict[str, Any], table: Table, lines: Iterable[str], output: Path | None, as_json: bool
) -> None:
    write_json(output, data)
    if as_json:
        show_json(data)
        return
    # a wide table that a narrow terminal wraps is better than one without its numbers
    Console(file=out.file, width=max(out.width, TABLE_WIDTH)).print(table)
    for line in lines:
        out.print(line)


def words(text: str) -> list[str]:
    """The parts of a comma-separated list."""
    return [part.strip() for part in text.split(",") if part.strip()]


def prompts(text: str) -> tuple[int, ...]:
    """The lengths that --pp lists; none for 0 or an empty text. Raises FusecError."""
    return tuple(n for n in numbers("--pp", text.strip() or "0") if n)


def numbers(option: str, text: str) -> tuple[int, ...]:
    """A comma-separated list of numbers. Raises FusecError naming the option."""
    parts = words(text) or [text]
    if bad := [part for part in parts if not re.fullmatch("[0-9]{1,18}", part)]:
        raise FusecError(f"{option}: expected numbers like 1,2, found '{bad[0][:40]}'")
    return tuple(int(part) for part in parts)
