"""Plans and emitted kernels of models that were loaded before: the second time none are made.

An entry of the cache holds decode.json, prefill.json unless it is the same plan, and kernels.json.
Its key covers the graphs of a decode step and of a prompt step as text, the options, the table of
the GPU and every source file of fusec. Rules, ops, formats and targets of a user's own are code
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
from fusec.codegen.formats import FORMATS
from fusec.compiled import Options, Prepared
from fusec.errors import FusecError
from fusec.ir.graph import Graph
from fusec.ir.ops import OPS
from fusec.ir.plan import from_json

PACKAGE = Path(__file__).parent

# this module is loaded with the package, before anybody can add to the tables
_OPS, _FORMATS = dict(OPS), dict(FORMATS)


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
        *options.disable,
        json.dumps(options.tuning.as_dict()),
        repr(backend.limits.gpu),
        digest_of_files(*PACKAGE.rglob("*.py")),
    )
    return cache_root() / "plans" / key


def _is_ours(graph: Graph) -> bool:
    """Whether ops and formats of a graph are those that came with fusec, not added or replaced."""
    ops = {inner.op for node in graph.nodes for inner in node.ops}
    formats = {weight.dtype for weight in graph.weights}
    return all(OPS.get(name) is _OPS.get(name) for name in ops) and all(
        FORMATS.get(name) is _FORMATS.get(name) for name in formats
    )


def find(entry: Path, target: str) -> Prepared | None:
    """What is kept in an entry, if it is there and whole."""
    if not intact(entry):
        return None
    backend = backends.get(target)
    try:
        texts = {path.name: path.read_text() for path in entry.glob("*.json")}
        decode = from_json(texts["decode.json"])
        prefill = from_json(texts["prefill.json"]) if "prefill.json" in texts else decode
        kernels = [backend.source(facts) for facts in json.loads(texts["kernels.json"])]
    except (OSError, KeyError):  # another process has just removed it
        return None
    return Prepared(target, Plans(decode, prefill), {kernel.name: kernel for kernel in kernels})


def keep(entry: Path, prepared: Prepared) -> None:
    """Write an entry. A cache that cannot be written is no reason to fail: it only saves time."""
    plans = prepared.plans
    texts = {
        "decode.json": plans.decode.to_json(),
        "kernels.json": json.dumps([asdict(kernel) for kernel in prepared.kernels.values()]),
    }
    if plans.prefill is not plans.decode:
        texts["prefill.json"] = plans.prefill.to_json()
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
