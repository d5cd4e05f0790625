"""Which nodes share a kernel: equal but for the names of their values, and nothing else."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from fusec.ir import Graph
from fusec.ir.graph import Attr, Node, Value, attrs, outside
from fusec.ir.ops import OPS
from fusec.ir.text import parse
from fusec.passes.canonical import canonical, digest
from fusec.passes.lower import lower
from tests.graphs import llama_graph

X, Y = (Value(f"%{name}", "f32", (1, 32)) for name in "xy")
W = Value("@w", "q8_0", (32, 32))


def key(node: Node) -> str:
    """What `lower` tells kernels apart by."""
    region = canonical(node)
    return f"{region.name}_{digest(region)}"


def node(op: str = "matvec", inputs=(X, W), **given: Attr) -> Node:
    return Node(op, tuple(inputs), (Value("%z", "f32", (1, 32)),), attrs(**given))


def values_of(kind: Attr | type) -> tuple[Attr, Attr]:
    """Two values of an attribute, as close as they come."""
    kind = kind if isinstance(kind, type) else type(kind)
    pairs = {float: (1e-5, math.nextafter(1e-5, 1)), int: (2, 3), str: ("adjacent", "halves")}
    return pairs[kind]


ATTRIBUTES = [(op, name) for op, entry in OPS.items() for name in entry.attributes]


@pytest.mark.parametrize(("op", "name"), ATTRIBUTES)
def test_every_attribute_tells_kernels_apart(op: str, name: str) -> None:
    """As it is printed: regions are compared, kept and read again as text."""
    common = {n: values_of(kind)[0] for n, kind in OPS[op].attributes.items()}
    one, other = (node(op, (X,), **common | {name: v}) for v in values_of(OPS[op].attributes[name]))
    assert key(one) != key(other)
    assert parse(str(canonical(other))).nodes[0].attrs == other.attrs


@pytest.mark.parametrize(
    "changed",
    [
        node("mul"),
        node(inputs=(X, replace(W, dtype="q4_0"))),
        node(inputs=(X, replace(W, shape=(64, 32)))),
        node(inputs=(X, W, Value("@s", "f32", (1,)))),
        node(inputs=(replace(X, shape=(1, 33)), W)),
        replace(node(), outputs=(Value("%z", "f32", (1, 64)),)),
    ],
    ids=["op", "format", "rows", "operand", "width", "result"],
)
def test_what_is_computed_tells_kernels_apart(changed: Node) -> None:
    assert key(changed) != key(node())


def test_one_value_twice_is_not_two_values() -> None:
    assert key(node("mul", (X, X))) != key(node("mul", (X, Y)))
    assert key(node("mul", (X, Y))) == key(node("mul", (Y, X)))  # bound the other way round


def test_rows_of_any_number_and_caches_of_any_length_share_a_kernel() -> None:
    def append(tokens: int, context: int, heads: int = 2) -> Node:
        state = Value("$k", "f16", (context, heads, 16))
        x, pos = Value("%x", "f32", (tokens, 32)), Value("%pos", "i32", (tokens,))
        return Node("kv_append", (state, x, pos), (replace(state, name="$k'"),))

    assert key(append(1, 8)) == key(append(7, 512))
    assert key(append(1, 8)) != key(append(1, 8, heads=4))


def swiglu(keep: bool = False, swap: bool = False) -> Node:
    gate, up = (Value(f"%{n}", "f32", (1, 32)) for n in ("gate", "up"))
    act, out = Value("%act", "f32", (1, 32)), Value("%out", "f32", (1, 32))
    body = (Node("silu", (gate,), (act,)), Node("mul", (up, act) if swap else (act, up), (out,)))
    inputs, outputs = outside(body, {"%out", "%act"} if keep else {"%out"})
    return Node("fused", inputs, outputs, attrs(kind="swiglu"), body)


def test_what_a_kernel_writes_and_how_it_is_wired_tell_kernels_apart() -> None:
    assert key(swiglu()) != key(swiglu(keep=True))
    assert len(canonical(swiglu(keep=True)).outputs) == 2
    assert key(swiglu()) != key(swiglu(swap=True))


def test_a_state_s_versions_stay_apart() -> None:
    """One node reads the cache before its append, the other one behind it."""

    def read(old: bool) -> Node:
        k, v = (Value(f"${n}", "f16", (8, 2, 16)) for n in "kv")
        pos = Value("%pos", "i32", (1,))
        made = replace(k, name="$k'")
        append = Node("kv_append", (k, Y, pos), (made,))
        given = attrs(heads=2, kv_heads=2, scale=1.0)
        attend = Node("attention", (X, k if old else made, v, pos), (Value("%a", "f32", (1, 32)),),
                      given)  # fmt: skip
        body = (attend, append) if old else (append, attend)
        inputs, outputs = outside(body, {"$k'", "%a"})
        return Node("fused", inputs, outputs, attrs(kind="both"), body)

    assert key(read(old=True)) != key(read(old=False))


def test_a_plan_s_kernels_are_the_regions_of_its_nodes() -> None:
    """By the name in a launch one finds what the node computes, for every node."""
    graph: Graph = llama_graph(layers=11)
    plan = lower(graph, "any", 0)
    regions = {kernel.name: parse(kernel.region) for kernel in plan.kernels}
    assert len(regions) == len(plan.kernels)
    for n, launch in zip(graph.nodes, plan.launches, strict=True):
        region = regions[launch.kernel]
        assert replace(region, name="") == replace(canonical(n), name="")
        assert [w.type for w in region.weights] == [w.type for w in n.weights]
        assert [v.shape[1:] for v in region.outputs] == [v.shape[1:] for v in n.outputs]
    # layers of one and of two digits share theirs
    assert len(plan.kernels) == len(lower(llama_graph(layers=2), "any", 0).kernels)
