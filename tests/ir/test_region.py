"""How regions split into prologue, segments and stores."""

import pytest

from fusec.ir import Builder
from fusec.ir.region import analyse, many_rows_apart, parameters
from fusec.ir.region_heads import NotOneKernel
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


# --- products of many rows -----------------------------------------------------------------------


def apart(make):
    """Why what `make` adds to the product of a vector in fixed point is no kernel with it."""
    b = Builder("g")
    x = b.input("x", (1, 64))
    fixed = b.input("f", (1, 64), "fixed24")
    weights = (b.weight(name, (32, 64), "q4_0") for name in "vw")
    return many_rows_apart(analyse(b.build(*make(b, x, fixed, *weights))))


@pytest.mark.parametrize(
    "make",
    [
        lambda b, x, f, v, w: [b.matvec(f, w)],
        lambda b, x, f, v, w: [b.mul(b.silu(b.matvec(f, v)), b.matvec(f, w))],
        lambda b, x, f, v, w: [b.matvec(f, v), b.add(b.matvec(f, w), b.input("r", (1, 32)))],
        lambda b, x, f, v, w: [b.argmax_parts(b.matvec(x, w), parts=4)[0]],  # one row: it may fold
        lambda b, x, f, v, w: [b.silu(x)],
    ],
    ids=["alone", "epilogue", "several", "no fixed point", "no product"],
)
def test_products_of_many_rows_may_be_one_kernel(make):
    assert apart(make) is None


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (
            lambda b, x, f, v, w: [b.matvec(b.fix(x, kind="fixed24", name="n"), w, name="y")],
            "fix %n is made once for all that read it, %y in tiles",
        ),
        (
            lambda b, x, f, v, w: [
                b.matvec(f, v, name="y"),
                b.rms_norm(x, b.weight("g", (64,)), eps=0.1, name="n"),
            ],
            "rms_norm %n is made once for all that read it, %y in tiles",
        ),
        (
            lambda b, x, f, v, w: [b.matvec(f, v, name="y"), b.matvec(x, w)],
            "%y is made in tiles of rows of the step, the rest is not",
        ),
        (
            lambda b, x, f, v, w: [b.matvec(f, v, name="y"), b.silu(x)],
            "%y is made in tiles of rows of the step, the rest is not",
        ),
        (
            lambda b, x, f, v, w: [b.argmax_parts(b.matvec(f, v), parts=4, name="z")[0]],
            "%z folds one row of the step, blocks have several",
        ),
    ],
    ids=["its vector", "another vector", "another product", "elements", "a fold"],
)
def test_products_of_many_rows_are_apart_from_the_rest(make, reason):
    assert apart(make) == reason
