"""What `fusec tune` shows and writes, and how a later search goes on with a file of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from fusec.bench.facts import machine
from fusec.bench.search import Found, Subject
from fusec.bench.tune import Tuned, plan_of
from fusec.codegen.cuda import tuning as tunings
from fusec.codegen.cuda.tuning import Tuning
from fusec.driver import Compiled
from fusec.errors import FusecError, reason
from fusec.ir.choice import AnyChoice, choice_of
from fusec.report import make_table


def save(compiled: Compiled, gpu: str, tuned: Sequence[Tuned]) -> Path:
    """Put the choices into the GPU's table."""
    old = tunings.load(gpu, compiled.options.target)
    return tunings.save(tunings.merge(old, entries(tuned)))


def entries(tuned: Sequence[Tuned]) -> dict[str, AnyChoice | None]:
    """Choices of all widths; see `Tuned.entries`."""
    return {key: choice for each in tuned for key, choice in each.entries.items()}


def as_data(compiled: Compiled, gpu: str, tuned: Sequence[Tuned]) -> dict[str, Any]:
    """What `--json` writes: a table that FUSEC_TUNING takes, and how it came about."""
    none = Tuning(gpu, compiled.options.target)
    model = compiled.model
    return {
        **tunings.merge(none, entries(tuned)).as_dict(),
        "model": Path(model.file.path).stem if model else compiled.plan.name,
        "level": compiled.plan.level,
        "context": compiled.context,
        "widths": [_of_width(each) for each in tuned],
        "machine": machine(compiled.backend),
    }


def _of_width(tuned: Tuned) -> dict[str, Any]:
    usual = {subject.name: subject.default for subject in tuned.subjects}
    return {
        "width": tuned.width,
        "step_us": {"before": tuned.before, "after": tuned.after},
        "kernels": [_row(tuned, subject) for subject in tuned.subjects],
        "looks": [
            {"gained_us": round(gained, 2), "choices": _changed(dict(choices), usual)}
            for choices, gained in tuned.found.looks.items()
        ],
    }


def _changed(choices: Mapping[str, AnyChoice], usual: Mapping[str, AnyChoice]) -> dict[str, Any]:
    return {name: asdict(c) for name, c in sorted(choices.items()) if c != usual[name]}


def _row(tuned: Tuned, subject: Subject) -> dict[str, Any]:
    name = subject.name
    return {
        "kernel": name,
        "launches": subject.launches,
        "tried": tuned.found.tried.get(name, 0),
        "default": asdict(subject.default),
        "chosen": asdict(tuned.found.choices[name]),
        "us_before": subject.share,
        "us_after": tuned.shares[name],
    }


def read(path: Path, compiled: Compiled, widths: Sequence[int]) -> dict[int, Found]:
    """What the searches of a file came to, by width, of these widths.

    Raises FusecError for a file that `fusec tune` did not write, and for one of another GPU's
    architecture, of another version of fusec, or of other kernels.
    """
    try:
        raw = json.loads(path.read_text())
        table = tunings.parse(raw)
        found = {int(each["width"]): _found(each) for each in raw["widths"]}
        found = {width: each for width, each in found.items() if width in widths}
    except OSError as error:
        raise FusecError(f"{path}: {reason(error)}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise FusecError(f"{path}: expected a file that fusec tune -o wrote") from None
    target = compiled.options.target
    if table.arch != target or raw["emitters"] != tunings.digest():
        raise FusecError(
            f"{path}: expected a search on {target} by this version of fusec, found one on "
            f"{table.arch} by {'this' if raw['emitters'] == tunings.digest() else 'another'}"
        )
    for width, each in found.items():
        known = {kernel.name for kernel in plan_of(compiled, width).kernels}
        if other := sorted(each.choices.keys() - known):
            raise FusecError(f"{path}: expected kernels of this model, found {other[0]}")
    return found


def _found(raw: Mapping[str, Any]) -> Found:
    """A search, of what `_of_width` wrote."""
    rows = raw["kernels"]
    usual = {row["kernel"]: choice_of(row["default"]) for row in rows}
    looks = {}
    for look in raw["looks"]:
        changed = {name: choice_of(choice) for name, choice in look["choices"].items()}
        looks[frozenset((usual | changed).items())] = float(look["gained_us"])
    return Found(
        {row["kernel"]: choice_of(row["chosen"]) for row in rows},
        tried={row["kernel"]: int(row["tried"]) for row in rows if row["tried"]},
        looks=looks,
    )


def tables(data: dict[str, Any]) -> list[Table]:
    """A table a width, a row a kernel: its default, what was chosen, its time before and after."""
    return [_table(each) for each in data["widths"]]


def _table(data: dict[str, Any]) -> Table:
    found = make_table("kernels" if data["width"] == 1 else f"steps of {data['width']} rows")
    found.add_column("kernel", overflow="fold")
    for title in ("launches", "tried"):
        found.add_column(title, justify="right")
    found.add_column("default")
    found.add_column("chosen")
    for title in ("us before", "after"):
        found.add_column(title, justify="right")
    for row in data["kernels"]:
        default, chosen = choice_of(row["default"]), choice_of(row["chosen"])
        found.add_row(
            row["kernel"], str(row["launches"]), str(row["tried"]), str(default),
            "" if chosen == default else str(chosen),
            f"{row['us_before']:.2f}", f"{row['us_after']:.2f}",
        )  # fmt: skip
    return found


def lines(data: dict[str, Any]) -> list[str]:
    """A sentence for each width: the whole step."""
    return [_line(data, each) for each in data["widths"]]


def _line(data: dict[str, Any], each: dict[str, Any]) -> str:
    before, after, width = each["step_us"]["before"], each["step_us"]["after"], each["width"]
    step = "token" if width == 1 else f"step of {width} rows"
    return (
        f"{data['model']} at -O{data['level']} on {data['gpu']}: {before:.1f} us a {step} with "
        f"every default, {after:.1f} with what was chosen ({before / after:.3f}x)"
    )
