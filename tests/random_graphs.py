"""Random graphs of every op of the table, and random sets of their nodes to merge."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from fusec.ir import Builder, Graph
from fusec.ir.graph import Node, Value
from fusec.ir.op_experts import GATINGS

Pick = Callable[[Sequence[Any]], Any]
"""Chooses one of several: a hypothesis draw, or a seeded generator's."""

HEAD = 16
EXPERTS = 8
WIDTHS = (32, 64, 96)
CONTEXT = 48
MATRICES = ("f32", "f16", "q8_0", "q4_0", "iq4_nl")


class _Maker:
    """One graph in the making: `vectors` are the activations there are so far."""

    def __init__(self, pick: Pick, matrices: Sequence[str]) -> None:
        self.b, self.pick, self.matrices = Builder("random"), pick, matrices
        self.pos, self.token = (self.b.input(name, (1,), "i32") for name in ("pos", "token"))
        self.vectors = [self.b.input(f"x{i}", (1, pick(WIDTHS))) for i in range(2)]
        self.results: list[Value] = []
        self.count = 0

    def weight(self, *shape: int, kind: str = "f32") -> Value:
        self.count += 1
        return self.b.weight(f"w{self.count}", shape, kind)

    def matrix(self, rows: int, columns: int) -> Value:
        return self.weight(rows, columns, kind=self.pick(self.matrices))

    def state(self, width: int) -> Value:
        self.count += 1
        return self.b.state(f"s{self.count}", (CONTEXT, width // HEAD, HEAD), "f32")

    def wide(self, n: int) -> Value:
        """Some vector of n elements."""
        if found := [v for v in self.vectors if v.shape[1] == n]:
            return self.pick(found)
        return self.product(n)

    def product(self, rows: int) -> Value:
        """A new vector, some matrix times some vector."""
        x = self.pick(self.vectors)
        return self.b.matvec(x, self.matrix(rows, x.shape[1]))

    # --- a step each ---------------------------------------------------------------------------

    def embed(self, x: Value) -> Value:
        return self.b.embed(self.token, self.matrix(8, x.shape[1]))

    def rms_norm(self, x: Value) -> Value:
        return self.b.rms_norm(x, self.weight(x.shape[1]), eps=1e-5)

    def head_norm(self, x: Value) -> Value:
        return self.b.head_norm(x, self.weight(HEAD), eps=1e-5, head_dim=HEAD)

    def layer_norm(self, x: Value) -> Value:
        bias = [self.weight(x.shape[1])] if self.pick((False, True)) else []
        return self.b.layer_norm(x, self.weight(x.shape[1]), *bias, eps=1e-5)

    def head_layer_norm(self, x: Value) -> Value:
        gain = self.weight(self.pick((HEAD, x.shape[1])))
        return self.b.head_layer_norm(x, gain, eps=1e-5, head_dim=HEAD)

    def factored(self, x: Value) -> Value:
        gained, inverse = self.b.rms_factors(x, self.weight(x.shape[1]), eps=1e-5)
        return self.b.matvec(gained, self.matrix(self.pick(WIDTHS), x.shape[1]), inverse)

    def matvec(self, x: Value) -> Value:
        factor = [self.weight(1)] if self.pick((False, False, True)) else []
        return self.b.matvec(x, self.matrix(self.pick(WIDTHS), x.shape[1]), *factor)

    def head_matvec(self, x: Value) -> Value:
        columns = x.shape[1] // 2
        kinds = self.matrices if columns == HEAD * 2 else [k for k in self.matrices if k[0] == "f"]
        w = self.weight(self.pick(WIDTHS), columns, kind=self.pick(kinds))
        return self.b.head_matvec(x, w, heads=2)

    def binary(self, x: Value) -> Value:
        others = [v for v in self.vectors if v.shape == x.shape]
        other = self.pick([*others, self.weight(x.shape[1])])
        return self.b.op(self.pick(("add", "mul", "swiglu_oai")), x, other)

    def shared(self, x: Value) -> Value:
        """A product with a vector of fewer elements."""
        return self.b.mul(x, self.product(x.shape[1] // self.pick((8, x.shape[1]))))

    def route(self, x: Value) -> tuple[Value, Value]:
        gating, bias = self.pick(GATINGS), self.pick((False, True))
        logits = self.product(EXPERTS)
        operands = (logits, self.weight(EXPERTS)) if bias else (logits,)
        groups = self.pick(({}, {"groups": 4, "groups_used": 2}))
        found: tuple[Value, Value] = self.b.route(*operands, used=3, gating=gating, **groups)
        return found

    def experts(self, x: Value) -> Value:
        """Some experts' products with one vector, and the sum of others' with its parts."""
        (ids, weights), rows = self.route(x), self.pick(WIDTHS)
        y = self.b.expert_matvec(x, self.matrix(EXPERTS * rows, x.shape[1]), ids, rows=rows)
        if self.pick((False, True)):
            y = self.b.add(y, self.b.expert_vector(ids, self.weight(EXPERTS * rows), rows=rows))
        y, rows = self.b.mul(y, weights), self.pick(WIDTHS)
        shape = (EXPERTS * rows, y.shape[1] // 3)
        y = self.b.expert_matvec_sum(y, self.matrix(*shape), ids, rows=rows)
        if self.pick((False, True)):
            bias = self.weight(EXPERTS * rows)
            y = self.b.add(y, self.b.expert_vector_sum(weights, ids, bias, rows=rows))
        return y

    def unary(self, x: Value) -> Value:
        op, given = self.pick(
            (
                *(("silu", {}), ("gelu", {}), ("relu_squared", {}), ("sigmoid", {})),
                *(("scale", {"factor": 0.5}), ("softcap", {"cap": 3.0})),
            )
        )
        return self.b.op(op, x, **given)

    def temper(self, x: Value) -> Value:
        return self.b.temper(x, self.pos, slope=0.5, length=2)

    def rope(self, x: Value) -> Value:
        sizes = {"head_dim": HEAD, "dims": self.pick((8, HEAD))}
        pairing = self.pick(("adjacent", "halves"))
        return self.b.rope(x, self.pos, base=1e4, pairing=pairing, **sizes)

    def append(self, x: Value) -> None:
        self.results.append(self.b.kv_append(self.state(x.shape[1]), x, self.pos))

    def _cached(self, q: Value) -> tuple[tuple[Value, ...], dict[str, Any]]:
        """Operands of attention over caches that this graph appends to, and its attributes."""
        kv = HEAD * self.pick((1, q.shape[1] // HEAD))
        k, v = (self.b.kv_append(self.state(kv), self.wide(kv), self.pos) for _ in "kv")
        groups = {"heads": q.shape[1] // HEAD, "kv_heads": kv // HEAD, "scale": HEAD**-0.5}
        return (q, k, v, self.pos), groups

    def attention(self, x: Value) -> Value:
        operands, groups = self._cached(x)
        return self.b.attention(*operands, **groups)

    def latent_attention(self, x: Value) -> Value:
        """Of a query of keys, and of x, which is one of values."""
        groups = {"heads": x.shape[1] // HEAD, "kv_heads": 1, "scale": HEAD**-0.5}
        k, v = (self.b.kv_append(self.state(HEAD), self.wide(HEAD), self.pos) for _ in "kv")
        return self.b.attention(self.product(x.shape[1]), k, v, self.pos, x, **groups)

    def split_attention(self, x: Value) -> Value:
        operands, groups = self._cached(x)
        sizes = {"span": 256, "spans": 1}
        spans = self.b.attention_spans(*operands, **groups, **sizes)
        return self.b.attention_combine(*spans, self.pos, heads=groups["heads"], **sizes)

    def parts(self, x: Value) -> Value:
        return self.b.add_parts(self.product(self.pick((2, 3)) * x.shape[1]), x)

    def argmax(self, x: Value) -> None:
        self.results.append(self.b.argmax(x))

    def best_of_parts(self, x: Value) -> None:
        self.results.append(self.b.argmax_combine(*self.b.argmax_parts(x, parts=1024)))


EVERYWHERE = (
    "embed", "rms_norm", "head_norm", "layer_norm", "head_layer_norm", "matvec", "matvec", "matvec",
    "head_matvec", "binary", "binary", "unary", "rope", "temper", "append", "attention", "argmax",
    "latent_attention", "shared", "experts",
)  # fmt: skip
ON_GPU = (*EVERYWHERE, "factored", "factored", "split_attention", "parts", "best_of_parts")


def random_graph(
    pick: Pick, steps: int, ops: Sequence[str] = ON_GPU, matrices: Sequence[str] = MATRICES
) -> Graph:
    """A graph of so many steps; a step makes a node or, where an op needs others, a few."""
    maker = _Maker(pick, matrices)
    for _ in range(steps):
        made = getattr(maker, pick(ops))(pick(maker.vectors))
        if made is not None:
            maker.vectors.append(made)
    read = {v.name for n in maker.b._nodes for v in n.inputs}
    ends = [v for v in maker.vectors[2:] if v.name not in read] or [maker.unary(maker.vectors[0])]
    some = [v for v in maker.results if not v.is_state]
    return maker.b.build(*ends, *some)


def connected_nodes(graph: Graph, pick: Pick, most: int) -> tuple[Node, ...]:
    """A connected set of up to `most` nodes, in the graph's order."""
    view = graph.as_networkx().to_undirected()
    nodes = [n.name for n in graph.nodes]
    chosen = [pick(nodes)]
    while len(chosen) < most:
        near = sorted({v for n in chosen for v in view[n] if v in graph.place} - set(chosen))
        if not near:
            break
        chosen.append(pick(near))
    return tuple(n for n in graph.nodes if n.name in chosen)
