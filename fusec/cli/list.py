"""`fusec list`: what there is of a kind, and what each does.

A topic is a function that yields entries; `TOPICS` names it. Sentences come from where a thing is
described anyway: the docstring of a pass's file, of an op's reference, of a weight format.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Annotated

import typer

from fusec.cli.console import out, show_json
from fusec.cli.options import AsJson
from fusec.errors import unknown

if TYPE_CHECKING:
    from fusec.passes.pipeline import Pass


Facts = dict[str, str | int | float]


@dataclass(frozen=True)
class Entry:
    """One line: a name, a sentence about it, and facts by name, for columns between the two."""

    name: str
    about: str
    facts: Facts = field(default_factory=dict)


def models() -> Iterator[Entry]:
    """Models that have names, and where they are."""
    from fusec.models.names import known_models

    for model in known_models():
        where = "not fetched" if model.path is None else str(model.path)
        facts: Facts = {"MB": round(model.size / 1e6), "licence": model.licence, "file": where}
        yield Entry(model.name, model.about, facts)


def rules() -> Iterator[Entry]:
    """Fusion rules, in the order they are tried; equations speak of roles, as `list ops` shows."""
    from fusec.passes.fuse import Fuse

    for level, step in _passes():
        if isinstance(step, Fuse):
            facts: Facts = {"from": f"-O{level}", "rule": step.equation}
            yield Entry(step.rule.name, sentence(step.about), facts)


def passes() -> Iterator[Entry]:
    """Passes, in the order in which they run."""
    from fusec.passes.fuse import Fuse

    for level, step in _passes():
        about = step.about if isinstance(step, Fuse) else _module_doc(step)
        yield Entry(step.name, sentence(about), {"from": f"-O{level}"})


def ops() -> Iterator[Entry]:
    """Ops of the graph, with the role that decides what they fuse with."""
    from fusec.ir.ops import OPS

    for op in OPS.values():
        yield Entry(op.name, sentence(op.about), {"role": op.role})


def gpus() -> Iterator[Entry]:
    """GPUs that the cost model knows."""
    from fusec.ir.gpus import all_gpus

    for gpu in all_gpus().values():
        measured = f"measured: {gpu.measured}" if gpu.is_measured else gpu.measured
        about = f"{measured}; sizes: {gpu.source}"
        yield Entry(gpu.name, about, {"target": gpu.arch, "SMs": gpu.sms, "GHz": gpu.clock_ghz})


def presets() -> Iterator[Entry]:
    """Shapes of models that `fusec synth` fills with random weights."""
    from math import prod

    from fusec.models.presets import PRESETS

    for name, config in PRESETS.items():
        count = sum(prod(shape) for _, shape in config.tensor_shapes()) / 1e6
        about = f"{config.layers} layers of width {config.width}, vocabulary {config.vocab}"
        yield Entry(name, about, {"architecture": config.architecture, "weights": f"{count:.0f} M"})


def formats() -> Iterator[Entry]:
    """Weight formats, with the bits of a weight."""
    from fusec.codegen.formats import FORMATS

    for name, found in FORMATS.items():
        about = sentence(_module_doc(found)).partition(": ")[2]
        bits = 8 * found.dtype.block_bytes / found.dtype.block
        yield Entry(name, about, {"bits": bits, "per block": found.dtype.block})


TOPICS: dict[str, Callable[[], Iterable[Entry]]] = {
    topic.__name__: topic for topic in (models, rules, passes, ops, gpus, presets, formats)
}


def list_command(
    topic: Annotated[
        str | None,
        typer.Argument(
            metavar="|".join(TOPICS),
            help="What to list. (default: the topics)",
            autocompletion=lambda: list(TOPICS),
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List models, rules, passes, ops, GPUs, presets or formats; a sentence about each.

    A rule's equation is written in roles of ops (rows, element, vector, ...): `fusec list ops` has
    the role of each, docs/architecture.md what a role means, docs/glossary.md the other words.
    """
    entries = list(entries_of(topic))
    if as_json:
        show_json([_plain(entry) for entry in entries])
        return
    for line in lines(entries):
        out.print(line)


def entries_of(topic: str | None) -> Iterable[Entry]:
    """What a topic lists; None lists the topics. Raises FusecError for one that is not there."""
    if topic is None:
        return [Entry(name, sentence(each.__doc__)) for name, each in TOPICS.items()]
    if topic not in TOPICS:
        raise unknown("list: no topic", topic, TOPICS)
    return TOPICS[topic]()


def lines(entries: list[Entry]) -> Iterator[str]:
    """The entries as aligned columns, name first and the sentence last."""
    rows = [(entry.name, *(_cell(*fact) for fact in entry.facts.items())) for entry in entries]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row, entry in zip(rows, entries, strict=True):
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield "  ".join((*cells, entry.about)).rstrip()


def sentence(doc: str | None) -> str:
    """The first sentence of a docstring, without its full stop; "et al. 2017" ends none."""
    first = " ".join((doc or "").partition("\n\n")[0].split())
    return re.split(r"\.(?: (?=[A-Z])|$)", first)[0]


def _cell(fact: str, value: str | int | float) -> str:
    """A fact in its column: a number says of what it is."""
    return value if isinstance(value, str) else f"{value:g} {fact}"


def _plain(entry: Entry) -> dict[str, object]:
    data = asdict(entry)
    return {"name": data["name"], **data["facts"], "about": data["about"]}


def _passes() -> Iterator[tuple[int, Pass]]:
    """(the lowest level that has it, the pass), in the order in which the highest level runs them.

    The schedule is in no level's list: it ends all of them.
    """
    from fusec.passes.pipeline import LEVELS, passes_of

    for step in passes_of(max(LEVELS)):
        yield min((n for n, steps in LEVELS.items() if step in steps), default=0), step


def _module_doc(thing: object) -> str | None:
    """The docstring of the file that a thing's class is in."""
    return sys.modules[type(thing).__module__].__doc__
