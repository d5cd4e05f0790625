"""Sums in memory that blocks add to: what is made, what is left, and whose memory it is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fusec import Rule, pattern
from fusec.errors import FusecError
from fusec.ir import Builder, Graph
from fusec.ir.ops import in_place
from fusec.ir.region import analyse, parameters
from fusec.ir.verify import verify
from fusec.passes.add_in_l2 import AddInL2
from fusec.passes.fuse import Fuse
from fusec.passes.lower import lower
from fusec.passes.memory import plan_memory
from fusec.passes.pipeline import passes_of, run_passes
from tests.graphs import Types, llama_graph
from tests.passes.stages import distance, reasons_of
from tests.targets import AMPERE, HOPPER

SHAPE = {"width": 64, "ffn": 640, "heads": 2, "kv_heads": 1, "layers": 2, "context": 40}
FLOATS = replace(HOPPER, column_sums=replace(HOPPER.column_sums, formats=frozenset({"f32"})))


def model(matrix="iq4_nl", **given) -> Graph:
    return llama_graph(**SHAPE | given, types=Types(matrix))


def before(level=3, target=HOPPER, **given) -> Graph:
    """A model as the pass finds it."""
    return run_passes(model(**given), passes_of(level, disable=["add-in-l2"]), target)[-1].graph


def final(level=3, target=HOPPER, matrix="iq4_nl", **given) -> Graph:
    return run_passes(model(matrix, **given), passes_of(level), target)[-1].graph


def test_a_launch_clears_what_the_next_one_adds_to() -> None:
    kinds = [n.kind for n in final().nodes]
    assert kinds[1:5] == [
        "attention_project_added_clear",
        "sum_norm_matvec_silu_mul_parts_added",
        "sum_norm_matvec_rope_kv_clear",
        "attention_project_added_clear",
    ]
    assert kinds[0] == "embed_norm_matvec_rope_kv_clear"


def test_two_launches_a_layer() -> None:
    """The first has none in front of it, so that its parts stay parts."""
    kinds = [n.kind for n in final(4).nodes]
    assert kinds[:4] == [
        "embed_norm_matvec_rope_kv_attention_project_clear",
        "sum_norm_matvec_silu_mul_parts_added_clear",
        "sum_norm_matvec_rope_kv_attention_project_added_clear",
        "sum_norm_matvec_silu_mul_parts_added",
    ]
    hits, reasons = AddInL2().run(before(4), HOPPER)[1:]
    assert hits == 3
    assert [r.reason for r in reasons] == ["no launch in front of %embed could write zeros"]


@pytest.mark.parametrize("tokens", [2, 8])
def test_steps_of_a_few_rows(tokens: int) -> None:
    assert len(in_place(final(tokens=tokens).walk())) == 4


def test_a_kernel_of_it() -> None:
    node = final().nodes[1]
    shape = analyse(node.region)
    assert [v.name for v in shape.clears] == ["%blk.0.ffn_residual.zeros"]
    assert shape.into is not None and shape.into.name == "%blk.0.attn_residual.sums"
    assert len(shape.segments) == 1 and not shape.prologue
    names = [v.name for v in parameters(node.region)]
    assert "%blk.0.attn_residual.zeros" in names, "what is added to is a parameter"
    assert "%blk.0.attn_residual.sums" not in names, "and what it becomes is the same memory"


@pytest.mark.parametrize("level", [3, 4])
def test_its_meaning_stays(level: int) -> None:
    stages = run_passes(model("f32", context=300), passes_of(level), FLOATS)
    assert in_place(stages[-1].graph.walk())
    assert distance(stages[0], stages[-1]) < 1e-12


@pytest.mark.parametrize("level", [3, 4])
def test_sums_live_from_their_zeros_to_the_last_reader(level: int) -> None:
    graph = final(level)
    slots = plan_memory(graph)
    place = graph.place
    for made, zeros in in_place(graph.walk()).items():
        slot = slots[made]
        assert slot is slots[zeros] and slot.names == (zeros, made)
        assert slot.first == place[graph.producers[zeros].name]
        assert slot.last == max(place[n.name] for n in graph.users[made])
    distinct = list(dict.fromkeys(slots.values()))
    for k, one in enumerate(distinct):
        for other in distinct[:k]:
            together = one.first <= other.last and other.first <= one.last
            assert not (together and one.overlaps(other)), (one.names, other.names)


def test_who_takes_the_memory_over_waits_for_the_readers() -> None:
    """Of the sums, not only for who made them."""
    graph = final(layers=3)
    plan, slots = lower(graph, "any", 3), plan_memory(graph)
    covered: list[set[int]] = []
    for launch in plan.launches:
        covered.append(set(launch.waits).union(*(covered[j] for j in launch.waits)))
    checked = 0
    for i, node in enumerate(graph.nodes):
        for mine in (slots[v.name] for v in node.outputs if v.name in slots):
            for other in dict.fromkeys(slots.values()):
                if mine.overlaps(other) and other.last < mine.first == i:
                    readers = {graph.place[n.name] for v in other.names
                               for n in graph.users.get(v, ())}  # fmt: skip
                    assert readers <= covered[i]
                    checked += len(other.names) > 1
    assert checked


def refusal(graph: Graph) -> tuple[int, list[str]]:
    return reasons_of(AddInL2(), graph, HOPPER)


def test_a_target_without_parts() -> None:
    graph = before(target=AMPERE)
    assert AddInL2().run(graph, AMPERE) == (graph, 0, ())


def parts_of(reader="sum", ffn=640, front="rows", out=False) -> Graph:
    """A network whose blocks make parts, what is in front of it, and who reads them."""
    b = Builder("g")
    x, r = b.input("x", (1, 64)), b.input("r", (1, 64))
    if front == "rows":
        x = b.matvec(x, b.weight("front", (64, 64), "q8_0"), name="x1")
    elif front == "element":
        x = b.silu(x, name="x1")
    h = b.matvec(x, b.weight("u", (ffn, 64), "q8_0"), name="h")
    parts = b.matvec_parts(h, b.weight("w", (64, ffn), "q8_0"), block=32, lanes=32, branch=8)
    y = b.add_parts(parts, r, name="y") if reader == "sum" else b.silu(parts, name="y")
    return b.build(y, *([parts] if out else []))


def test_every_reason() -> None:
    found = {
        "nothing in front": parts_of(front=""),
        "an element": parts_of(front="element"),
        "another reader": parts_of(reader="silu"),
        "an output": parts_of(out=True),
        "one part": parts_of(ffn=192),
    }
    wanted = {
        "nothing in front": "no launch in front of",
        "an element": "in front of it writes no zeros",
        "another reader": "which adds no parts up",
        "an output": "is an output of the graph",
        "one part": "is one part: nothing is added to it",
    }
    for name, graph in found.items():
        fused = run_passes(graph, [_into_one_kernel()], HOPPER)[-1].graph
        hits, reasons = refusal(fused)
        assert hits == 0 and len(reasons) == 1 and wanted[name] in reasons[0], name
    fused = run_passes(parts_of(), [_into_one_kernel()], HOPPER)[-1].graph
    assert AddInL2().run(fused, HOPPER)[1] == 1


def _into_one_kernel():
    """A pass that merges the product in parts with what makes its vector."""
    return Fuse(Rule("rows -> parts => parts", pattern("a -> b", a="rows", b="parts"), named="in"))


@pytest.mark.parametrize("reader", ["another", "output"])
def test_sums_that_somebody_else_reads_are_refused(reader: str) -> None:
    b = Builder("g")
    x = b.input("x", (1, 64))
    zeros = b.clear_sums(x, n=64)
    sums = b.add_into(zeros, b.input("parts", (1, 128)), name="sums")
    outputs = [b.sum_parts(sums, parts=1)]
    if reader == "another":
        outputs.append(b.sum_parts(zeros, parts=1))
    else:
        outputs.append(zeros)
    with pytest.raises(FusecError, match="has another reader"):
        verify(b.build(*outputs))


def test_sums_that_nobody_cleared_are_refused() -> None:
    b = Builder("g")
    sums = b.add_into(b.input("given", (1, 64), "i64"), b.input("parts", (1, 128)))
    with pytest.raises(FusecError, match=r"expected sums of clear_sums, found %given"):
        verify(b.build(b.sum_parts(sums, parts=1)))
