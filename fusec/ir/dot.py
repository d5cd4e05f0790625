"""A graph as graphviz DOT: one box per dispatch, one cluster per layer, edges with their types."""

from __future__ import annotations

from itertools import groupby

from fusec.ir.graph import Graph, Node
from fusec.ir.ops import op
from fusec.writer import Writer

COLOURS = {  # by the heaviest role inside, colour-blind safe (Okabe & Ito 2008), lightened
    "rows": "#cfe8f7",
    "heads": "#fbe3b3",
    "vector": "#d5efe3",
    "pair": "#f6d9e8",
    "store": "#f6d9e8",
    "scalar": "#ece7a8",
    "element": "#eeeeee",
}


def to_dot(graph: Graph) -> str:
    """The DOT text. A fused node lists the ops it holds; weights are listed in their node."""
    w = Writer()
    with w.block(f'digraph "{graph.name}" {{'):
        w.line("rankdir=TB; compound=true; ranksep=0.35; nodesep=0.25;")
        w.line('node [shape=box, style="rounded,filled", fontname="Helvetica", fontsize=10];')
        w.line('edge [fontname="Helvetica", fontsize=8, color="#555555"];')
        for value in (*graph.inputs, *graph.states):
            if value.name in graph.users:
                shape = "cylinder" if value.is_state else "ellipse"
                label = f"{value.name}\\n{value.type}"
                w.line(f'"{value.name}" [label="{label}", shape={shape}, style=""];')
        for layer, nodes in groupby(graph.nodes, key=lambda n: n.layer):
            if layer is None:
                for node in nodes:
                    w.line(_box(node))
                continue
            with w.block(f"subgraph cluster_{layer} {{"):
                w.line(f'label="layer {layer}"; color="#bbbbbb"; fontname="Helvetica";')
                for node in nodes:
                    w.line(_box(node))
            w.line("}")
        for source, target, data in graph.as_networkx().edges(data=True):
            for value in data["values"]:
                style = ", style=dashed" if value.is_state else ""
                w.line(f'"{source}" -> "{target}" [label="{value.type}"{style}];')
        for value in graph.outputs:
            maker = graph.producers[value.name].name
            w.line(f'"out {value.name}" [label="{value.name}", shape=ellipse, style=bold];')
            w.line(f'"{maker}" -> "out {value.name}" [label="{value.type}"];')
    w.line("}")
    return w.text


def _box(node: Node) -> str:
    roles = {op(n.op).role for n in node.ops}
    colour = next(c for role, c in COLOURS.items() if role in roles)
    lines = [f"{node.kind}", *(f"· {n.op} {n.name}" for n in node.body)]
    lines += [f"{v.name[1:]} {v.type}" for v in node.weights]
    label = "\\l".join(lines) + "\\l"
    return f'"{node.name}" [label="{label}", fillcolor="{colour}", tooltip="{node.name}"];'
