"""Plans and emitted kernels of models that were loaded before: the second time none are made.

An entry of the cache holds decode.json, rows-N.json and prefill.json, where there are such, and
kernels.json. Its key covers the graphs of all steps as text, the options, the table of the GPU and
every source file of fusec. Rules, ops, formats and targets of a user's own are code
that no key covers: what they take part in is compiled every time.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from fusec import backends
from fusec.backends import Plans
from fusec.backends.base import wider_files
from fusec.codegen.cache import (
    cache_root,
    content_key,
    digest_of_files,
    discard,
    intact,
    publish,
    stage,
    sweep,
    writing,
)
from fusec.codegen.formats import FORMATS, OWN_FORMATS
from fusec.compiled import Options, Prepared
from fusec.errors import FusecError
from fusec.ir.graph import Graph
from fusec.ir.ops import OPS, OWN_OPS
from fusec.ir.plan import from_json

PACKAGE = Path(__file__).parent
DECODE, KERNELS = "decode.json", "kernels.json"


def entry_of(graphs: Iterable[Graph], options: Options) -> Path | None:
    """Where what is made of a model's graphs is kept; None if it must be made every time."""
    graphs, backend = tuple(graphs), backends.get(options.target)
    theirs = not type(backend).__module__.startswith("fusec.")
    if options.rules or theirs or not all(map(_is_ours, graphs)):
        return None
    key = content_key(
        *map(str, graphs),
        options.target,
        str(options.level),
        json.dumps([options.disable, options.outputs]),
        json.dumps(options.tuning.as_dict()),
        repr(backend.limits.gpu),
        digest_of_files(*PACKAGE.rglob("*.py")),
    )
    return cache_root() / "plans" / key


def _is_ours(graph: Graph) -> bool:
    """Whether ops and formats of a graph are those that came with fusec, not added or replaced."""
    ops = {inner.op for node in graph.nodes for inner in node.ops}
    formats = {weight.dtype for weight in graph.weights}
    return all(OPS.get(name) is OWN_OPS.get(name) for name in ops) and all(
        FORMATS.get(name) is OWN_FORMATS.get(name) for name in formats
    )


def find(entry: Path, target: str) -> Prepared | None:
    """What is kept in an entry, if it is there and whole."""
    if not intact(entry):
        return None
    backend = backends.get(target)
    try:
        texts = {path.name: path.read_text() for path in entry.glob("*.json")}
        kernels = [backend.source(facts) for facts in json.loads(texts[KERNELS])]
        wider = {name: from_json(texts[name]) for name in wider_files(texts)}
        plans = Plans.of(from_json(texts[DECODE]), wider)
    except (OSError, KeyError):  # another process has just removed it
        return None
    return Prepared(target, plans, {kernel.name: kernel for kernel in kernels})


def keep(entry: Path, prepared: Prepared) -> None:
    """Write an entry. A cache that cannot be written is no reason to fail: it only saves time."""
    plans = prepared.plans
    texts = {KERNELS: json.dumps([asdict(k) for k in prepared.kernels.values()])}
    texts |= {name: plan.to_json() for name, plan in {DECODE: plans.decode, **plans.wider}.items()}
    with contextlib.suppress(FusecError):
        sweep(entry.parent)
        staging = stage(entry)
        try:
            with writing():
                for name, text in texts.items():
                    (staging / name).write_text(text)
            publish(staging, entry)
        finally:
            discard(staging)
