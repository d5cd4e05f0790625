"""What attention's blocks make of their own head: when the rule merges, and each reason not to."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fusec import backends
from fusec.ir import Builder, Graph
from fusec.ir.region import analyse
from fusec.ir.region_heads import NotOneKernel
from fusec.passes.cost import launch_us
from fusec.passes.pipeline import passes_of, run_passes
from tests.graphs import BLOCKS, block_graph
from tests.passes.stages import distance
from tests.targets import ANY, HOPPER

HEADS, SIZE = 2, 16
N = HEADS * SIZE


def attends(*made: str, tokens: int = 1, also: str = "", second: bool = False) -> Graph:
    """Attention whose query is made by ops in turn; keys and values are appended as they are."""
    b = Builder("g")
    x, k, v = (b.input(name, (tokens, N)) for name in "xkv")
    pos = b.input("pos", (tokens,), "i32")
    q = x
    for op in made:
        q = MAKERS[op](b, q, pos)
    caches = [b.state(f"c{name}", (8, HEADS, SIZE), "f16") for name in "kv"]
    if also != "other caches":
        appended = zip(caches, (k, v), strict=True)
        caches = [
            c if also == "value" and row is k else b.kv_append(c, row, pos) for c, row in appended
        ]
    more = [b.input("p", (tokens, N))] if second else []
    sizes = {"heads": HEADS, "kv_heads": HEADS, "scale": 0.25}
    a = b.attention(q, *caches, pos, *more, **sizes, name="a")
    if also == "output":
        return b.build(a, q)
    return b.build(a, b.silu(k, name="other")) if also == "beside" else b.build(a)


MAKERS = {
    "rope": lambda b, x, pos: b.rope(x, pos, base=1e3, head_dim=SIZE, dims=SIZE, name="t"),
    "head_norm": lambda b, x, pos: b.head_norm(
        x, b.weight("g", (SIZE,)), eps=1e-5, head_dim=SIZE, name="h"
    ),
    "half_heads": lambda b, x, pos: b.head_norm(
        x, b.weight("g8", (8,)), eps=1e-5, head_dim=8, name="h"
    ),
    "rms_norm": lambda b, x, pos: b.rms_norm(x, b.weight("gn", (N,)), eps=1e-5, name="n"),
    "layer_norm": lambda b, x, pos: b.layer_norm(x, b.weight("gn", (N,)), eps=1e-5, name="l"),
    "matvec": lambda b, x, pos: b.matvec(x, b.weight("w", (N, N)), name="y"),
    "add": lambda b, x, pos: b.add(x, b.input("z", x.shape), name="s"),
    "spread": lambda b, x, pos: b.mul(x, b.input("z", (1, HEADS)), name="m"),
}


def behind_all_passes(graph: Graph, target=HOPPER) -> tuple[list[str], list[str]]:
    """Kinds of the nodes, and why the rule left some."""
    stages = run_passes(graph, passes_of(3, disable=["add-in-l2"]), target)
    refused = next(s for s in stages if s.name == "fuse-prologue-of-heads").refused
    return [n.kind for n in stages[-1].graph.nodes], [r.reason for r in refused]


# --- what it merges ------------------------------------------------------------------------------


def test_norm_rotation_and_cache_are_made_by_the_blocks_that_attend():
    assert behind_all_passes(attends("head_norm", "rope")) == (
        ["kv_head_norm_rope_attention_spans", "attention_combine"],
        [],
    )


@pytest.mark.parametrize("made", [(), ("rope",), ("rms_norm",), ("rope", "head_norm")])
def test_whatever_is_in_front(made):
    kinds, refused = behind_all_passes(attends(*made))
    assert len(kinds) == 2 and refused == []


def test_it_goes_with_the_projection():
    graph = block_graph(heads=2, kv_heads=1, head_dim=32, **BLOCKS["gemma"])
    kinds, _ = behind_all_passes(graph)
    assert kinds.count("head_norm_rope_kv_attention_project") == 2


def test_the_meaning_stays():
    graph = block_graph(heads=2, kv_heads=1, head_dim=32, context=300, matrix="f32", kv="f32",
                        **BLOCKS["gemma"])  # fmt: skip
    stages = run_passes(graph, passes_of(3), HOPPER)
    assert any("kv_attention" in n.kind for n in stages[-1].graph.nodes)
    assert distance(stages[0], stages[-1]) < 1e-12


def test_what_a_block_makes_is_neither_prologue_nor_segment():
    shape = analyse(attends("head_norm", "rope"))
    assert [n.op for n in shape.of_heads] == ["head_norm", "rope", "kv_append", "kv_append"]
    assert (shape.prologue, [s.role for s in shape.segments]) == ((), ["heads"])


def test_a_launch_is_predicted_to_be_saved():
    gpu = backends.get("sm_90a").limits.gpu
    graph = attends("head_norm", "rope")

    def us(graph: Graph) -> float:
        return sum(launch_us(node, gpu).total for node in graph.nodes)

    deep, flat = (
        run_passes(graph, passes_of(3, disable=off), HOPPER)[-1].graph
        for off in ((), ("prologue-of-heads",))
    )
    attention = next(n for n in deep.nodes if n.body)
    alone = next(n for n in attention.body if n.op == "attention_spans")
    assert launch_us(alone, gpu).total < launch_us(attention, gpu).total
    assert us(deep) < us(flat)


# --- reasons to refuse ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("graph", "reason"),
    [
        (attends("matvec"), "attention %a needs all of %y, which the same kernel spreads"),
        (attends("layer_norm"), "attention %a needs all of %l, which the same kernel spreads"),
        (attends("half_heads"), "head_norm %h has heads of 8 elements, attention %a of 16"),
        (attends("rope", "rms_norm"), "rms_norm %n needs all of %t, of which a block makes a head"),
        (attends("add"), "add %s reads two vectors, %x and %z"),
        (attends("spread"), "mul %m shares elements of %z among those of a head"),
        (attends("rope", also="output"), "%t is an output, and blocks of heads make only their"),
        (attends("rope", also="beside"), "silu %other is not what attention %a needs first"),
        (attends("rope", also="value"), "needs all of $cv', which the same kernel appends to, and"),
        (attends("rope", second=True), "attention %a has two queries, and its blocks make one"),
    ],
)
def test_what_a_block_cannot_make_for_its_head(graph, reason):
    with pytest.raises(NotOneKernel) as refused:
        analyse(graph)
    assert reason in str(refused.value)


def test_a_target_whose_attention_reads_memory():
    kinds, reasons = behind_all_passes(attends("rope"), ANY)
    assert kinds == ["rope", "kv", "attention"]
    assert reasons == [
        f"not one kernel: attention %a reads {made} from memory, and the same kernel makes it"
        for made in ("%t", "$cv'")
    ]


def test_many_rows():
    kinds, reasons = behind_all_passes(attends("rope", tokens=9))
    assert kinds[-1] == "attention"
    assert set(reasons) == {"many rows: attention %a reads queries and keys of 9 rows"}


@pytest.mark.parametrize(("most", "launches"), [(SIZE, 2), (SIZE - 1, 4)])
def test_heads_that_are_too_large(most, launches):
    target = replace(HOPPER, makes_heads=most)
    kinds, reasons = behind_all_passes(attends("head_norm", "rope"), target)
    assert len(kinds) == launches
    wanted = f"heads of {SIZE} elements are too much to make for blocks that attend, at most {most}"
    assert {reason.removeprefix("not one kernel: ") for reason in reasons} == (
        set() if launches == 2 else {wanted}
    )
