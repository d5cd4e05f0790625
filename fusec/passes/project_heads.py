"""The blocks that attend multiply what they made by their columns of the output matrix.

    %a.spans = attention_spans(%q, $k', $v', %pos)
    %a = attention_combine(%a.spans, %pos)
    %z = fused matvec_residual(%a, @w, %r)
                    =>     %z.parts = attention_project(%q, $k', $v', %pos, @w)
                           %z = add_parts(%z.parts, %r)

A product is linear in its vector: w @ a is the sum over heads of w's columns of a head times that
head's attention. So one launch makes these parts, and whoever reads all of %z adds them up on the
way. No sum changes its order, if the target adds a row up as a tree in which each head is a branch.
"""

from __future__ import annotations

from dataclasses import dataclass

from fusec.ir.graph import Graph, Node
from fusec.ir.target import ColumnSums, Target
from fusec.passes.fuse import Refusal
from fusec.passes.projections import homeless, in_parts, no_sum, product_of, second_user


@dataclass(frozen=True)
class ProjectHeads:
    """The pass. It runs behind `split-attention`."""

    name: str = "project-heads"
    equation: str = (
        "attention_spans -> attention_combine -> matvec_residual => attention_project -> add_parts"
    )

    def run(self, graph: Graph, target: Target) -> tuple[Graph, int, tuple[Refusal, ...]]:
        """The graph with every output projection among the heads that may be there."""
        made: dict[str, tuple[Node, ...]] = {}
        refused = []
        for node in graph.nodes:
            if node.op != "attention_combine":
                continue
            if reason := why_not(graph, node, target):
                refused.append(Refusal(self.equation, (node.name,), reason))
                continue
            (product,) = graph.users[node.name]
            spans = graph.producers[node.inputs[0].name]
            parts, total = project(spans, product)
            made |= {spans.name: (parts,), node.name: (), product.name: (total,)}
        nodes = [new for node in graph.nodes for new in made.get(node.name, (node,))]
        return graph.replace_nodes(nodes), len(made) // 3, tuple(refused)


def why_not(graph: Graph, combine: Node, target: Target) -> str | None:
    """The reason a projection must stay apart from its attention, or None if it may move."""
    if target.column_sums is None:
        return f"no sums by heads: {target.name} has no clusters of blocks"
    if reason := _other_users(graph, combine):
        return reason
    (product,) = graph.users.get(combine.name, (combine,))
    if product.kind != "matvec_residual" or product_of(product)[0].inputs[0] != combine.outputs[0]:
        return f"no projection: expected a matvec_residual to multiply {combine.name}"
    return (
        no_sum(graph, combine, product)
        or _unfit(graph.producers[combine.inputs[0].name], product, target.column_sums)
        or homeless(graph, product.outputs[0])
    )


def project(spans: Node, product: Node) -> tuple[Node, Node]:
    """Attention with its projection, and the sum under the name it had."""
    matvec, residual, total = product_of(product)
    assert residual is not None
    inputs = (*spans.inputs, matvec.inputs[1])
    made = in_parts("attention_project", inputs, spans.attrs, total)
    return made, Node("add_parts", (*made.outputs, residual), (total,))


def _other_users(graph: Graph, combine: Node) -> str | None:
    """The attention must be one that is split, and nobody else may read it."""
    partials = combine.inputs[0].name
    if partials not in graph.producers or graph.producers[partials].op != "attention_spans":
        return f"no attention: {partials} is not made by attention_spans"
    return second_user(graph, partials) or second_user(graph, combine.name)


def _unfit(spans: Node, product: Node, sums: ColumnSums) -> str | None:
    """What is wrong with the sizes or the format."""
    matvec, _, _ = product_of(product)
    weight, heads, count = matvec.inputs[1], int(spans["heads"]), int(spans["spans"])
    rows, columns = weight.shape
    branch, rest = divmod(columns // heads, sums.block)
    reasons = {
        f"a factor of the whole matrix: {weight.name} has one": len(matvec.inputs) > 2,
        f"no blocks of {sums.block}: {weight.name} is {weight.dtype}": (
            weight.dtype not in sums.formats
        ),
        f"too many spans: {count}, of which {sums.cluster} can exchange": count > sums.cluster,
        f"no branches of a sum: heads of {columns // heads} in blocks of {sums.block}": (
            rest or branch & (branch - 1)
        ),
        f"too long a row: {heads * branch} blocks for {sums.lanes} lanes": (
            heads * branch > sums.lanes
        ),
        f"rows that are no quads: {weight.name} has {rows}": rows % 4,
        f"too many weights: {rows * branch} blocks for a head, whose thread blocks hold "
        f"{count * sums.held}": rows * branch > count * sums.held,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)
