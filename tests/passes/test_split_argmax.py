"""argmax split over blocks: what the pass makes, what it keeps, what it leaves alone."""

import numpy as np
import pytest

from fusec.codegen.cpu.emit import emit as emit_cpu
from fusec.errors import FusecError
from fusec.ir import Builder, Reference, Value
from fusec.ir.ops import OPS
from fusec.ir.region import analyse
from fusec.ir.region_heads import NotOneKernel
from fusec.passes.lower import lower
from fusec.passes.pipeline import passes_of, run_passes
from fusec.passes.split_argmax import SplitArgmax
from tests.graphs import Types, llama_graph, weights_for
from tests.passes.stages import reasons_of
from tests.random_numbers import random_numbers
from tests.targets import ANY, HOPPER, SPLIT

RANDOM = random_numbers(2)


def head(name="next", rows=96, matrix=True, taken="next.parts"):
    b = Builder("g")
    x, taken = b.input("x", (1, 32)), b.input(taken, (1, 32))
    y = b.matvec(x, b.weight("w", (rows, 32)), name="y") if matrix else b.silu(x, name="y")
    return b.build(b.add(x, taken, name="sum"), b.argmax(y, name=name))


def reasons(graph, target=SPLIT):
    return reasons_of(SplitArgmax(), graph, target)


def test_one_argmax_becomes_two_nodes():
    graph, hits, refused = SplitArgmax().run(head("n"), SPLIT)
    assert (hits, refused) == (1, ())
    parts, combine = graph.nodes[-2:]
    assert (parts.op, parts["parts"]) == ("argmax_parts", SPLIT.parts)
    assert [(v.name, v.type) for v in parts.outputs] == [
        ("%n.parts", f"f32[1, {SPLIT.parts}]"), ("%n.parts.places", f"i32[1, {SPLIT.parts}]"),
    ]  # fmt: skip
    assert combine.inputs == parts.outputs
    assert (combine.op, combine.outputs) == ("argmax_combine", head("n").nodes[-1].outputs)


@pytest.mark.parametrize(
    ("graph", "target", "reason"),
    [
        (head("n"), ANY, "no parts: on any one block reads the whole row"),
        (
            head("n", matrix=False),
            SPLIT,
            "no matrix: expected rows of one to make %y",
        ),
        (head(), SPLIT, "a name is taken: %next.parts"),
        (head(taken="next.parts.places"), SPLIT, "a name is taken: %next.parts.places"),
    ],
    ids=["target", "element-wise", "name", "second name"],
)
def test_what_is_left_alone(graph, target, reason):
    assert reasons(graph, target) == (0, [reason])


@pytest.mark.parametrize("parts", [1, 3, 7, 64, 100])
def test_the_reference_of_both_parts_is_that_of_the_whole(parts):
    row = RANDOM.integers(-3, 3, (6, 64)).astype(np.float64)
    row[1], row[2, 20:40], row[3, 63] = -np.inf, np.inf, 9
    row[4, [30, 40]] = np.nan  # the first NaN is the largest, as NumPy has it
    row[5, 1:] = -np.inf
    best, places = OPS["argmax_parts"].reference(row, parts=parts)
    assert best.shape == places.shape == (6, parts)
    assert places.dtype == np.int32
    found = OPS["argmax_combine"].reference(best, places)
    assert found.tolist() == OPS["argmax"].reference(row).tolist()


def test_parts_may_come_in_any_order():
    best, places = np.array([[2.0, 5, 5, 1, 5]]), np.array([[9, 30, 4, 0, 17]], np.int32)
    assert OPS["argmax_combine"].reference(best, places) == [4]


def test_a_place_that_no_f32_holds():
    """An index beyond 2**24 is a whole number as well, and a row that long may be split."""
    assert reasons_of(SplitArgmax(), head("n", rows=2**24 + 3), SPLIT) == (1, [])
    row = np.zeros((1, 2**24 + 3), np.float32)
    row[0, -2] = 1
    best, places = OPS["argmax_parts"].reference(row, parts=1024)
    assert OPS["argmax_combine"].reference(best, places) == [2**24 + 1]


def test_a_model_keeps_its_meaning_and_its_dispatches():
    graph = llama_graph(types=Types("f32"), vocab=80)
    stages = run_passes(graph, passes_of(3), HOPPER)
    final = stages[-1].graph
    kinds = [node.kind for node in final.nodes]
    assert kinds[-2:] == ["norm_matvec_argmax", "argmax_combine"]
    assert "argmax" not in kinds
    made = [v.name for v in final.nodes[-2].outputs]
    assert made == ["%logits", "%next.parts", "%next.parts.places"]
    assert lower(final, "any", 3).dispatches["other"] == {"sample": 1}
    weights, given = weights_for(graph), {"token": np.array([3]), "pos": np.array([0])}
    wanted = Reference(graph, weights).step(**given)["next"]
    assert Reference(final, weights).step(**given)["next"] == wanted


def test_the_parts_can_be_left_on_their_own_and_the_split_left_out():
    graph = llama_graph(layers=1)
    alone = run_passes(graph, passes_of(3, disable=["epilogue-fold"]), SPLIT)[-1].graph
    kinds = [n.kind for n in alone.nodes]
    assert kinds[-3:] == ["norm_matvec", "argmax_parts", "argmax_combine"]
    assert lower(alone, "any", 3).dispatches["other"] == {"sample": 2}
    whole = run_passes(graph, passes_of(3, disable=["split-argmax"]), SPLIT)[-1].graph
    assert "argmax" in {n.kind for n in whole.nodes}


@pytest.mark.parametrize(
    ("op", "shape", "given", "wanted"),
    [
        ("argmax_parts", [(1, 8)], {"parts": 0}, "at least one part, found 0"),
        ("argmax_combine", [(1, 7), (1, 6)], {}, r"places: i32\[1, 7\], found i32\[1, 6\]"),
        ("argmax_combine", [(2, 7), (1, 7)], {}, r"places: i32\[2, 7\], found i32\[1, 7\]"),
        ("argmax_combine", [(1, 0), (1, 0)], {}, r"at least one part, found f32\[1, 0\]"),
        ("argmax_combine", [(1, 7)], {}, r"operands \(best: f32\[T, parts\], places: i32"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(op, shape, given, wanted):
    b = Builder("g")
    operands = [Value(f"%x{i}", "i32" if i else "f32", s) for i, s in enumerate(shape)]
    with pytest.raises(FusecError, match=wanted):
        b.op(op, *operands, **given)


def test_places_are_whole_numbers():
    b = Builder("g")
    with pytest.raises(FusecError, match=r"places: i32\[1, 7\], found f32\[1, 7\]"):
        b.argmax_combine(b.input("x", (1, 7)), b.input("y", (1, 7)))


@pytest.mark.parametrize(
    ("op", "operands", "wanted"),
    [
        ("silu", ["p"], "silu %z needs %p, of which each block makes a part"),
        ("argmax_combine", ["p", "places"], "argmax_combine %z needs all of %p, which the same "
         "kernel spreads"),
        ("argmax_combine", ["others", "places"], "argmax_combine %z needs all of %p.places, which "
         "the same kernel spreads"),
    ],
)  # fmt: skip
def test_what_reads_the_parts_is_no_part_of_the_kernel(op, operands, wanted):
    b = Builder("g")
    p, places = b.argmax_parts(b.input("x", (1, 64)), parts=32, name="p")
    values = {"p": p, "places": places, "others": b.input("others", (1, 32))}
    with pytest.raises(NotOneKernel, match=wanted):
        analyse(b.build(b.op(op, *(values[name] for name in operands), name="z")))


def test_a_rotation_takes_elements_in_another_order():
    b = Builder("g")
    x, pos = b.input("x", (1, 64)), b.input("pos", (1,), "i32")
    r = b.rope(x, pos, base=1e4, head_dim=16, dims=16, pairing="halves", name="r")
    graph = b.build(*b.argmax_parts(r, parts=32, name="p"))
    wanted = "%p: a fold takes elements in order, a rotation in pairs"
    with pytest.raises(NotOneKernel, match=wanted):
        analyse(graph)


def test_the_cpu_target_has_no_kernels_for_either():
    b = Builder("g")
    parts = b.argmax_parts(b.input("x", (1, 64)), parts=4, name="p")
    for kernel in lower(b.build(b.argmax_combine(*parts)), "cpu", 0).kernels:
        with pytest.raises(FusecError, match="the CPU target has no kernel for it"):
            emit_cpu(kernel)
