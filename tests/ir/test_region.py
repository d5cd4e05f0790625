"""How regions split into prologue, segments and stores."""

import pytest

from fusec.ir import Builder
from fusec.ir.region import NotOneKernel, analyse, parameters
from fusec.passes.pipeline import passes_of, run_passes
from tests.graphs import llama_graph
from tests.targets import ANY


def regions(level=2):
    graph = run_passes(llama_graph(layers=1), passes_of(level), ANY)[-1].graph
    return {node.kind: node.region for node in graph.nodes}


def names(nodes):
    return [n.name.removeprefix("%blk.0.") for n in nodes]


def test_a_norm_is_a_prologue_and_each_matrix_a_segment():
    shape = analyse(regions(level=1)["norm_matvec"])
    assert [n.op for n in shape.prologue] == ["rms_norm"]
    assert all(s.role == "rows" for s in shape.segments)
    assert shape.stores == ()


def test_pairs_of_rows_and_their_activation_share_an_index():
    shape = analyse(regions()["norm_matvec_silu_mul"])
    (segment,) = shape.segments
    assert names(segment.nodes) == ["gate", "up", "silu", "swiglu"]
    assert (segment.role, segment.size, segment.rope) == ("rows", 96, None)


def test_rotations_and_appends_are_three_element_segments():
    shape = analyse(regions()["rope_kv"])
    assert [names(s.nodes) for s in shape.segments] == [
        ["q_rope"],
        ["k_rope", "$blk.0.k'"],
        ["$blk.0.v'"],
    ]
    assert [s.size for s in shape.segments] == [64, 32, 32]
    assert [s.rope is None for s in shape.segments] == [False, False, True]
    assert all(s.role == "element" for s in shape.segments)


@pytest.mark.parametrize(
    ("kind", "role", "size"), [("attention", "heads", 64), ("argmax", "scalar", 1)]
)
def test_heads_and_scalars_stand_alone(kind, role, size):
    (segment,) = analyse(regions()[kind]).segments
    assert (segment.role, segment.size) == (role, size)


def test_a_norm_alone_is_a_prologue_that_is_stored():
    shape = analyse(regions(level=0)["rms_norm"])
    assert [n.op for n in shape.prologue] == ["rms_norm"]
    assert shape.segments == ()
    assert len(shape.stores) == 1
    assert shape.prologue_bytes == 64 * 4


def test_what_a_norm_reads_is_computed_whole_and_may_be_read_again():
    b = Builder("g")
    token = b.input("token", (1,), "i32")
    x = b.embed(token, b.weight("e", (16, 32)), name="x")
    s = b.silu(x, name="s")
    n = b.rms_norm(s, b.weight("g", (32,)), eps=1e-5, name="n")
    y = b.add(b.matvec(n, b.weight("w", (32, 32)), name="y"), x, name="z")
    shape = analyse(b.build(y, x))
    assert [n.name for n in shape.prologue] == ["%x", "%s", "%n"]
    assert [n.name for n in shape.segments[0].nodes] == ["%y", "%z"]
    assert [v.name for v in shape.stores] == ["%x"]


def test_parameters_are_reads_then_results_without_states():
    region = regions()["rope_kv"]
    assert [v.name for v in parameters(region)] == [
        "%blk.0.q", "%pos", "%blk.0.k", "$blk.0.k", "$blk.0.v", "%blk.0.v", "%blk.0.q_rope",
    ]  # fmt: skip


def test_a_whole_graph_is_not_one_kernel():
    with pytest.raises(NotOneKernel, match="which the same kernel spreads over its blocks"):
        analyse(llama_graph(layers=1))
