"""The report's stages side by side: what each pass merged, what the next will, what was refused."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from fusec.ir.graph import LAYER, Graph, Node, Value
from fusec.passes.pipeline import Stage
from fusec.pictures.subject import Subject

EXAMPLES = 3  # of a refusal


def stages(subject: Subject, layer: int | None) -> str:
    """A column a stage, each with one layer's nodes."""
    number = layer if layer is not None else _first_layer(subject.stages[0].graph)
    columns = []
    for before, stage, after in zip(
        (None, *subject.stages), subject.stages, (*subject.stages[1:], None), strict=False
    ):
        columns.append(_column(before, stage, after, number))
    what = "every node" if number is None else f"layer {number}"
    return (
        f"<p>Columns are stages, left to right, each with {what} as the pass left it."
        '<span class="key made"></span>made by this pass'
        '<span class="key next"></span>merged or moved into another by the next</p>'
        f'<div class="wide"><div class="stages">{"".join(columns)}</div></div>'
    )


def refusals(subject: Subject) -> str:
    """Each pass's reasons, with how often each was given and examples."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for stage in subject.stages:
        for refusal in stage.refused:
            key = stage.name, refusal.rule, refusal.reason.split(":")[0]
            nodes = " + ".join(refusal.nodes)
            found.setdefault(key, []).append(f"{nodes}: {refusal.reason}")
    if not found:
        return "<p>Nothing was refused: every match of every rule was merged.</p>"
    rows = []
    for (name, rule, reason), given in found.items():
        examples = "<br>".join(escape(text) for text in given[:EXAMPLES])
        more = f"<br>and {len(given) - EXAMPLES} more" if len(given) > EXAMPLES else ""
        rows.append(
            f'<tr><td class="text">{escape(name)}<br><span class="faint">{escape(rule)}</span></td>'
            f'<td>{len(given)}</td><td class="text">{escape(reason)}</td>'
            f'<td class="text wrap">{examples}{more}</td></tr>'
        )
    head = '<tr><th>pass</th><th>times</th><th class="text">reason</th><th class="text">where</th>'
    return f'<div class="wide"><table>{head}</tr>{"".join(rows)}</table></div>'


def _first_layer(graph: Graph) -> int | None:
    return next((n.layer for n in graph.nodes if n.layer is not None), None)


def _column(before: Stage | None, stage: Stage, after: Stage | None, layer: int | None) -> str:
    old = set(before.graph.nodes) if before else set(stage.graph.nodes)
    new = set(after.graph.nodes) if after else set(stage.graph.nodes)
    shown = [n for n in stage.graph.nodes if layer is None or n.layer == layer]
    items = []
    for node in shown:
        classes = ["made"] if node not in old else []
        classes += ["next"] if node not in new else []
        items.append(
            f'<li class="{" ".join(classes)}" title="{escape(node.name)}">{_node(node)}</li>'
        )
    rule = f"<code>{escape(stage.equation)}</code><br>" if stage.equation else ""
    counts = f"{stage.before} to {stage.after} nodes, {stage.ms:.1f} ms"
    hits = f"{stage.hits} merged, {len(stage.refused)} refused; " if stage.equation else ""
    return (
        f'<div class="stage"><h3>{escape(stage.name)}</h3>{rule}'
        f'<span class="faint">{hits}{counts}</span><ol>{"".join(items)}</ol></div>'
    )


def _node(node: Node) -> str:
    """`%q, %k = kind(%x, @w)` with the layer's prefix left out, and the body's ops below."""
    outs = ", ".join(_short(v, node.layer) for v in node.outputs)
    inputs = ", ".join(_short(v, node.layer) for v in node.inputs)
    text = f"<code>{escape(outs)} = <b>{escape(node.kind)}</b>({escape(inputs)})</code>"
    if node.body:
        ops = ", ".join(_named(node.body))
        text += f'<br><span class="faint">{escape(ops)}</span>'
    return text


def _named(nodes: Sequence[Node]) -> list[str]:
    return [f"{n.op} {_short(n.outputs[0], n.layer)}" for n in nodes]


def _short(value: Value, layer: int | None) -> str:
    found = LAYER.search(value.name)
    inside = found is not None and layer is not None and int(found[1]) == layer
    return (LAYER.sub("", value.name) if inside else value.name).removesuffix(".weight")
