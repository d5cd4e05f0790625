"""Which launches share a kernel: those whose regions differ only in the names of their values."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from fusec.ir.graph import Graph, Node, Value
from fusec.ir.ops import op
from fusec.ir.region import parameters
from fusec.ir.remember import remembered

PREFIXES = {"%": "%", "$": "$s", "@": "@w"}
KEPT = 1 << 12  # regions of a few models


@remembered(KEPT)
def canonical(node: Node) -> Graph:
    """The node's region with values numbered in order, T = 1 and a context of 1.

    A kernel is told the tokens of a step when it is launched, and never needs to know the context:
    positions are checked against it before a step.
    """
    names: dict[str, str] = {}
    counts = {"%": 0, "$": 0, "@": 0}
    renamed: dict[str, Value] = {}

    def rename(value: Value) -> Value:
        if value.name in renamed:
            return renamed[value.name]
        base = value.name.rstrip("'")
        if base not in names:
            sign = base[0]
            names[base] = f"{PREFIXES[sign]}{counts[sign]}"
            counts[sign] += 1
        name = names[base] + value.name[len(base) :]
        shape = value.shape if value.is_weight else (1, *value.shape[1:])
        renamed[value.name] = made = Value(name, value.dtype, shape, value.layout)
        return made

    region = node.region
    for value in parameters(region):
        rename(value)
    nodes = tuple(
        replace(n, inputs=tuple(map(rename, n.inputs)), outputs=tuple(map(rename, n.outputs)))
        for n in region.nodes
    )
    inputs, states, outputs = (
        tuple(map(rename, values)) for values in (region.inputs, region.states, region.outputs)
    )
    return Graph(kernel_name(node), inputs, states, nodes, outputs)


def kernel_name(node: Node) -> str:
    """Readable: kind, sizes and weight types of the heaviest part; equal regions, equal names."""
    weights = [v for n in node.ops if op(n.op).role in ("rows",) for v in n.weights]
    parts = [node.kind]
    if weights:
        rows = "_".join(str(w.shape[0]) for w in weights)
        parts += [f"{rows}x{weights[0].shape[1]}", *dict.fromkeys(w.dtype for w in weights)]
    else:
        vectors = [v for v in (*node.outputs, *node.inputs) if v.name[0] == "%" and v.shape[1:]]
        parts += [str(v.shape[1]) for v in vectors[:1]]
    return "_".join(parts)


def digest(region: Graph) -> str:
    """Eight hex digits that tell regions of one name apart, and what registered ops compute."""
    registered = (op(node.op).text for node in region.nodes)
    return hashlib.sha256("".join([str(region), *registered]).encode()).hexdigest()[:8]
