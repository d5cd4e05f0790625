"""Split-KV: each span of the context gets thread blocks of its own, and one launch combines them.

    %a = attention(%q, $k', $v', %pos)
                             =>    %a.spans, %a.spans.sums = attention_spans(%q, $k', $v', %pos)
                                   %a = attention_combine(%a.spans, %a.spans.sums, %pos)

With one thread block a head most of a GPU is idle, and the time grows with the context. Combining
the spans in order multiplies their sums by powers of two only, which is exact, so nothing is
rounded differently than without the split. (Flash decoding: Dao et al. 2023, "Flash-Decoding for
long-context inference".)
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from fusec.ir.graph import Graph, Node, attrs
from fusec.ir.op_attention_spans import spans_seen
from fusec.ir.ops import make
from fusec.ir.target import Target
from fusec.passes.fuse import Refusal
from fusec.passes.split import split_nodes, taken


@dataclass(frozen=True)
class SplitAttention:
    """The pass. It takes the length of a span from the target."""

    name: str = "split-attention"
    equation: str = "attention => attention_spans -> attention_combine"

    def run(self, graph: Graph, target: Target) -> tuple[Graph, int, tuple[Refusal, ...]]:
        """The graph with every attention split that may be."""
        refuse = partial(why_not, graph, target=target)
        return split_nodes(graph, "attention", self.equation, refuse, split, target.span)


def why_not(graph: Graph, node: Node, target: Target) -> str | None:
    """The reason an attention must stay as it is, or None if it may be split."""
    if target.span is None:
        return f"no spans: {target.name} gives a head to one block"
    if target.has_many(graph.tokens):
        return f"many rows: the heads of {graph.tokens} rows are enough blocks"
    return taken(graph, "attention_spans", _partials(node))


def split(node: Node, span: int) -> tuple[Node, Node]:
    """An attention as two nodes, the second under its name."""
    given, (q, k, v, pos) = dict(node.attrs), node.inputs[:4]
    of_values = [x for x in node.inputs[4:] if not x.is_weight]
    sinks = [x for x in node.inputs[4:] if x.is_weight]
    window = int(node["window"])
    sizes = {"span": span, "spans": spans_seen(k.shape[0], window, span)}
    operands = (q, k, v, pos, *of_values)
    first = make("attention_spans", operands, _partials(node), attrs(**given, **sizes))
    combined = (*first.outputs, pos, *sinks)
    of_heads = attrs(heads=given["heads"], window=window, **sizes)
    return first, Node("attention_combine", combined, node.outputs, of_heads)


def _partials(node: Node) -> str:
    return f"{node.name}.spans"
