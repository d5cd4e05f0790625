"""argmax split over blocks: what the pass makes, what it keeps, what it leaves alone."""

import numpy as np
import pytest

from fusec.codegen.cpu.emit import emit as emit_cpu
from fusec.errors import FusecError
from fusec.ir import Builder, Reference
from fusec.ir.op_argmax import MOST
from fusec.ir.ops import OPS
from fusec.ir.region import NotOneKernel, analyse
from fusec.passes.lower import lower
from fusec.passes.pipeline import passes_of, run_passes
from fusec.passes.split_argmax import SplitArgmax
from tests.graphs import Types, llama_graph, weights_for
from tests.passes.stages import reasons_of
from tests.targets import ANY, HOPPER, SPLIT

RANDOM = np.random.default_rng(2)


def head(name="next", rows=96, matrix=True):
    b = Builder("g")
    x, taken = b.input("x", (1, 32)), b.input("next.parts", (1, 32))
    y = b.matvec(x, b.weight("w", (rows, 32)), name="y") if matrix else b.silu(x, name="y")
    return b.build(b.add(x, taken, name="sum"), b.argmax(y, name=name))


def reasons(graph, target=SPLIT):
    return reasons_of(SplitArgmax(), graph, target)


def test_one_argmax_becomes_two_nodes():
    graph, hits, refused = SplitArgmax().run(head("n"), SPLIT)
    assert (hits, refused) == (1, ())
    parts, combine = graph.nodes[-2:]
    assert (parts.op, parts.name, parts.outputs[0].shape) == (
        "argmax_parts", "%n.parts", (1, 2 * SPLIT.parts),
    )  # fmt: skip
    assert (combine.op, combine.outputs) == ("argmax_combine", head("n").nodes[-1].outputs)
    assert parts["parts"] == SPLIT.parts


@pytest.mark.parametrize(
    ("graph", "target", "reason"),
    [
        (head("n"), ANY, "no parts: on any one block reads the whole row"),
        (
            head("n", matrix=False),
            SPLIT,
            "no matrix: %y does not come from blocks that make its rows",
        ),
        (
            head("n", rows=MOST + 1),
            SPLIT,
            "too many elements: %y has 16,777,217, an index in f32 reaches 16,777,216",
        ),
        (head(), SPLIT, "a name is taken: %next.parts"),
    ],
    ids=["target", "element-wise", "long", "name"],
)
def test_what_is_left_alone(graph, target, reason):
    assert reasons(graph, target) == (0, [reason])


@pytest.mark.parametrize("parts", [1, 3, 7, 64, 100])
def test_the_reference_of_both_parts_is_that_of_the_whole(parts):
    row = RANDOM.integers(-3, 3, (6, 64)).astype(np.float64)
    row[1], row[2, 20:40], row[3, 63] = -np.inf, np.inf, 9
    row[4, [30, 40]] = np.nan  # the first NaN is the largest, as NumPy has it
    row[5, 1:] = -np.inf
    pairs = OPS["argmax_parts"].reference(row, parts=parts)
    assert pairs.shape == (6, 2 * parts)
    found = OPS["argmax_combine"].reference(pairs)
    assert found.tolist() == OPS["argmax"].reference(row).tolist()


def test_pairs_may_come_in_any_order():
    pairs = np.array([[2.0, 9, 5, 30, 5, 4, 1, 0, 5, 17]])
    assert OPS["argmax_combine"].reference(pairs) == [4]


def test_a_model_keeps_its_meaning_and_its_dispatches():
    graph = llama_graph(types=Types("f32"), vocab=80)
    stages = run_passes(graph, passes_of(3), HOPPER)
    final = stages[-1].graph
    kinds = [node.kind for node in final.nodes]
    assert kinds[-2:] == ["norm_matvec_argmax", "argmax_combine"]
    assert "argmax" not in kinds
    assert [v.name for v in final.nodes[-2].outputs] == ["%logits", "%next.parts"]
    assert lower(final, "any", 3).dispatches["other"] == {"sample": 1}
    weights, given = weights_for(graph), {"token": np.array([3]), "pos": np.array([0])}
    wanted = Reference(graph, weights).step(**given)["next"]
    assert Reference(final, weights).step(**given)["next"] == wanted


def test_the_parts_can_be_left_on_their_own_and_the_split_left_out():
    graph = llama_graph(layers=1)
    alone = run_passes(graph, passes_of(3, disable=["norm-matvec-argmax"]), SPLIT)[-1].graph
    kinds = [n.kind for n in alone.nodes]
    assert kinds[-3:] == ["norm_matvec", "argmax_parts", "argmax_combine"]
    assert lower(alone, "any", 3).dispatches["other"] == {"sample": 2}
    whole = run_passes(graph, passes_of(3, disable=["split-argmax"]), SPLIT)[-1].graph
    assert "argmax" in {n.kind for n in whole.nodes}


@pytest.mark.parametrize(
    ("op", "shape", "given", "wanted"),
    [
        ("argmax_parts", (1, 8), {"parts": 0}, "at least one part, found 0"),
        ("argmax_parts", (1, MOST + 1), {"parts": 4}, "x of at most 16,777,216 elements"),
        ("argmax_combine", (1, 7), {}, "pairs: f32.T, 2 parts., found f32.1, 7."),
        ("argmax_combine", (1, 0), {}, "pairs: f32.T, 2 parts."),
    ],
)
def test_sizes_that_do_not_fit_are_refused(op, shape, given, wanted):
    b = Builder("g")
    with pytest.raises(FusecError, match=wanted):
        b.op(op, b.input("x", shape), **given)


@pytest.mark.parametrize(
    ("op", "wanted"),
    [
        ("silu", "silu %z needs %p, which all blocks make"),
        ("argmax_combine", "argmax_combine %z needs all of %p, which the same kernel spreads"),
    ],
)
def test_what_reads_the_parts_is_no_part_of_the_kernel(op, wanted):
    b = Builder("g")
    p = b.argmax_parts(b.input("x", (1, 64)), parts=32, name="p")
    with pytest.raises(NotOneKernel, match=wanted):
        analyse(b.build(b.op(op, p, name="z")))


def test_a_rotation_takes_elements_in_another_order():
    b = Builder("g")
    x, pos = b.input("x", (1, 64)), b.input("pos", (1,), "i32")
    r = b.rope(x, pos, base=1e4, head_dim=16, dims=16, pairing="halves", name="r")
    graph = b.build(b.argmax_parts(r, parts=32, name="p"))
    with pytest.raises(NotOneKernel, match="%p: a fold takes elements in order, a rotation pairs"):
        analyse(graph)


def test_the_cpu_target_has_no_kernels_for_either():
    b = Builder("g")
    p = b.argmax_parts(b.input("x", (1, 64)), parts=4, name="p")
    for kernel in lower(b.build(b.argmax_combine(p)), "cpu", 0).kernels:
        with pytest.raises(FusecError, match="the CPU target has no kernel for it"):
            emit_cpu(kernel)
