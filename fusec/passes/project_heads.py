"""The thread blocks of a head multiply its attention by the head's columns of the output matrix.

    %a.spans, %a.spans.sums = attention_spans(%q, $k', $v', %pos)
    %a = attention_combine(%a.spans, %a.spans.sums, %pos)
    %z = fused matvec_add(%a, @w, %r)           (its matvec is a split_matvec)
                    =>     %z.parts = attention_project(%q, $k', $v', %pos, @w)
                           %z = add_parts(%z.parts, %r)     (sum_parts where nothing is added)

The product w @ a is the sum over heads of w's columns of a head times that head's attention. So the
launch that attends also makes these partial sums (split-K), and the kernel that reads %z adds them
up. The bytes stay, if the rows of the product are sums of exactly these parts (`split-products`).
"""

from __future__ import annotations

from dataclasses import dataclass

from fusec.ir.graph import Graph, Node, Value, attrs
from fusec.ir.op_attention import query_of_values
from fusec.ir.ops import make
from fusec.ir.target import ColumnSums, Target
from fusec.passes.fuse import Refusal
from fusec.passes.projections import (
    Product,
    homeless,
    in_order,
    parts_name,
    product_of,
    second_user,
    total_of,
)
from fusec.passes.split_columns import head_branch, unfit_for_heads

HASTE = 2
"""Of the weights that a block could hold, one part of so many is what it should read.

Measured on an H200 for heads of 256 elements and 640 rows: 252.6, 242.1 and 245.9 us a token of
Gemma 3 270M with 1, 2 and 4.
"""


@dataclass(frozen=True)
class ProjectHeads:
    """The pass. It runs behind `split-attention`."""

    name: str = "project-heads"
    equation: str = (
        "attention_spans -> attention_combine -> split_matvec + add => attention_project -> "
        "add_parts"
    )

    def run(self, graph: Graph, target: Target) -> tuple[Graph, int, tuple[Refusal, ...]]:
        """The graph with every output projection among the heads that may be there."""
        made: dict[str, tuple[Node, ...]] = {}
        refused = []
        for node in graph.nodes:
            if node.op != "attention_combine":
                continue
            product = why_not(graph, node, target)
            if isinstance(product, str):
                refused.append(Refusal(self.equation, (node.name,), product))
                continue
            spans = graph.producers[node.inputs[0].name]
            assert target.column_sums is not None
            blocks = blocks_of_head(spans, product.weight, target.column_sums)
            parts, *totals = project(spans, product, node.inputs[3:], blocks)
            last = graph.producers[product.total.name]
            made |= {spans.name: (parts,), node.name: (), last.name: tuple(totals)}
        nodes = [new for node in graph.nodes for new in made.get(node.name, (node,))]
        return graph.replace_nodes(nodes), len(made) // 3, tuple(refused)


def why_not(graph: Graph, combine: Node, target: Target) -> Product | str:
    """The reason a projection must stay apart from its attention, or the one that may move."""
    if target.column_sums is None:
        return f"no partial sums by heads: {target.name} has no clusters of thread blocks"
    values, sums = combine.inputs[:2]
    spans = graph.producers.get(values.name)
    if spans is None or spans.op != "attention_spans" or sums not in spans.outputs:
        return f"no attention: {values.name} is not made by attention_spans"
    if (of_values := query_of_values(spans)) is not None:
        return f"a second query: {spans.name} also multiplies values, by {of_values.name}"
    if reason := second_user(graph, values.name) or second_user(graph, sums.name):
        return reason
    product = product_of(graph, combine.outputs[0])
    if isinstance(product, str):
        return product
    return (
        _unfit(spans, product, target.column_sums)
        or homeless(graph, product.total, "attention_project")
        or product
    )


def project(
    spans: Node, product: Product, sinks: tuple[Value, ...], blocks: int
) -> tuple[Node, ...]:
    """Attention with its projection, and the sum under the name it had."""
    inputs = (*spans.inputs, product.weight, *sinks)
    given = dict(spans.attrs) | {"spans": blocks}
    made = make("attention_project", inputs, parts_name(product.total), attrs(**given))
    return made, *total_of(made.outputs[0], product)


def blocks_of_head(spans: Node, weight: Value, sums: ColumnSums) -> int:
    """Thread blocks of a head: one a span, or as many as hold its columns without haste.

    Those without a span only multiply.
    """
    branch = head_branch(weight, int(spans["heads"]), sums)
    wanted = -(-weight.shape[0] * branch // (sums.held // HASTE))
    return max(int(spans["spans"]), min(wanted, sums.cluster))


def _unfit(spans: Node, product: Product, sums: ColumnSums) -> str | None:
    """What is wrong with the sizes or the format, or with the order of sums."""
    heads, weight = int(spans["heads"]), product.weight
    blocks = blocks_of_head(spans, weight, sums)
    reason = unfit_for_heads(weight, heads, blocks, sums)
    return reason or in_order(product, head_branch(weight, heads, sums))
