"""Vectors in fixed point for steps of many rows: which, why others are not, what merges then."""

from dataclasses import replace

import numpy as np
import pytest

from fusec.ir import Builder, Reference
from fusec.ir.target import ROWS, TILES
from fusec.passes.fix_vectors import FixVectors
from fusec.passes.pipeline import LEVELS, passes_of, run_passes
from tests.graphs import Types, llama_graph, weights_for
from tests.passes.stages import reasons_of, through
from tests.targets import ANY, HOPPER, TILED

MANY = HOPPER.fixed_from
BOTH = replace(HOPPER, fixed_kinds=((ROWS, "fixed24"), (TILES, "fixed23")))
KINDS = {
    0: ["rms_factors", "fix", *["matvec"] * 3, "rope", "rope", "kv_append", "kv_append",
        "attention", "fix", "matvec", "add",
        "rms_factors", "fix", "matvec", "matvec", "silu", "mul", "fix", "split_matvec", "add"],
    1: ["norm_fix", "matvec", "rope", "kv", "attention", "fix", "matvec", "add",
        "norm_fix", "matvec", "silu_mul", "fix", "split_matvec", "add"],
    2: ["norm_fix", "matvec", "rope_kv", "attention", "fix", "matvec_add",
        "norm_fix", "matvec_silu_mul", "fix", "matvec_add"],
    3: ["norm_fix", "matvec_rope_kv", "attention", "fix", "matvec_add",
        "norm_fix", "matvec_silu_mul", "fix", "matvec_add"],
}  # fmt: skip
KINDS[4] = KINDS[3]
"""Level -> what a layer is in a step of many rows."""


def products(*weights, tokens=16, **others):
    """The products of one vector x with `weights`, (name, type, columns), placed for a GPU."""
    b = Builder("g")
    n = max(columns for _, _, columns in weights)
    x = b.input("x", (tokens, n))
    extra = [b.silu(b.input(name, shape)) for name, shape in others.items()]
    made = (
        b.matvec(x, b.weight(name, (32, c), kind), name=f"y_{name}") for name, kind, c in weights
    )
    return b.build(*made, *extra)


def placed(graph, target=HOPPER):
    return through(graph, target, "place-weights")


def reasons(graph, target=HOPPER):
    return reasons_of(FixVectors(), placed(graph, target), target)


def test_a_vector_is_brought_into_fixed_point_once():
    graph = placed(products(("v", "q4_0", 64), ("w", "q8_0", 64)))
    after, hits, refused = FixVectors().run(graph, HOPPER)
    assert (hits, refused) == (1, ())
    fix, *readers = after.nodes
    assert (fix.op, fix.name, fix["kind"]) == ("fix", "%x.fixed24", "fixed24")
    assert [v.type for v in fix.outputs] == ["fixed24[16, 64]"]
    for node, before in zip(readers, graph.nodes, strict=True):
        assert (node.op, node.name) == ("matvec", before.name)
        assert node.inputs == (*fix.outputs, *before.inputs[1:])


def test_factors_of_a_norm_stay_behind_the_product():
    graph = through(llama_graph(layers=1, tokens=MANY), HOPPER, "place-weights", "factor-norms")
    after, hits, _ = FixVectors().run(graph, HOPPER)
    assert hits == 5  # two norms, attention, the activation, and the final norm
    before = {node.name: node for node in graph.nodes}
    found = [node for node in after.nodes if node.op == "matvec"]
    assert {v.dtype for node in found for v in node.inputs[:1]} == {"fixed24"}
    assert all(node.inputs[1:] == before[node.name].inputs[1:] for node in found)


def test_the_layout_decides_the_type():
    graph = placed(products(("v", "q4_k", 2048), ("w", "q8_0", 2048)), BOTH)
    assert [w.layout for w in graph.weights] == [TILES, ROWS]
    after, hits, _ = FixVectors().run(graph, BOTH)
    assert hits == 2
    kinds = {node.name: node.inputs[0].type for node in after.nodes if node.op == "matvec"}
    assert kinds == {"%y_v": "fixed23[16, 2048]", "%y_w": "fixed24[16, 2048]"}


@pytest.mark.parametrize("tokens", [1, 2, 8])
def test_few_rows_stay_as_they_are(tokens):
    assert reasons(products(("w", "q4_0", 64), tokens=tokens)) == (0, [])
    assert MANY == 9 and reasons(products(("w", "q4_0", 64), tokens=MANY)) == (1, [])


@pytest.mark.parametrize("target", [ANY, TILED])
def test_targets_without_such_products(target):
    assert reasons(products(("w", "q4_0", 64)), target) == (0, [])


@pytest.mark.parametrize("kind", ["f32", "f16", "bf16"])
def test_plain_floats(kind):
    assert reasons(products(("w", kind, 64))) == (0, [f"@w is of plain floats, {kind}"])


def test_a_layout_without_a_type():
    rows_alone = replace(BOTH, fixed_kinds=((ROWS, "fixed24"),))
    wanted = "no products of many rows with @v, which lies in tiles"
    assert reasons(products(("v", "q4_k", 2048)), rows_alone) == (0, [wanted])
    assert reasons(products(("v", "q4_k", 2048), ("w", "q8_0", 2048)), rows_alone) == (1, [wanted])


def test_a_name_that_is_taken():
    graph = products(("w", "q4_0", 64), **{"x.fixed24": (16, 64)})
    assert reasons(graph) == (0, ["a name is taken: %x.fixed24"])


def kinds(tokens, level, target=HOPPER):
    stages = run_passes(llama_graph(tokens=tokens), passes_of(level), target)
    return [node.kind for node in stages[-1].graph.nodes if node.layer == 1]


@pytest.mark.parametrize("level", LEVELS)
def test_what_a_layer_of_many_rows_is_at_each_level(level):
    assert kinds(HOPPER.own_fixed_to + 1, level) == KINDS[level]


@pytest.mark.parametrize("level", [1, 2, 3])
def test_blocks_bring_few_rows_into_fixed_point_themselves(level):
    """Every product with what it reads: as many launches less."""
    merged = []
    for kind in KINDS[level]:
        fixed = merged and merged[-1].endswith("fix")
        merged.append(f"{merged.pop()}_{kind.removeprefix('split_')}" if fixed else kind)
    assert kinds(HOPPER.own_fixed_to, level) == merged


@pytest.mark.parametrize(
    "limit", [{"own_fixed_bytes": 1000}, {"own_fixed_rows": 63}, {"own_fixed_to": 15}]
)
def test_what_is_too_much_for_a_block_is_made_once(limit):
    target = replace(HOPPER, **limit)
    assert kinds(16, 3, target) == KINDS[3]
    (stage,) = (
        s for s in run_passes(llama_graph(tokens=16), passes_of(3), target)
        if s.name == "fuse-prologue"
    )  # fmt: skip
    assert all("is made once for all that read it" in r.reason for r in stage.refused)


@pytest.mark.parametrize(("rows", "tokens", "hits"), [(32, 4, 1), (31, 4, 0), (32, 1, 0)])
def test_large_matrices_take_tiles_of_any_step_of_several_rows(rows, tokens, hits):
    target = replace(HOPPER, fixed_large=32)
    b = Builder("g")
    weight = b.weight("w", (rows, 64), "q4_0")
    graph = placed(b.build(b.matvec(b.input("x", (tokens, 64)), weight)))
    assert FixVectors().run(graph, target)[1] == hits


def test_every_stage_of_a_step_of_many_rows_means_the_same():
    graph = llama_graph(types=Types("q4_0"), tokens=12)
    weights = weights_for(graph)
    given = {"token": np.arange(12) % 7, "pos": np.arange(12)}
    wanted = Reference(graph, weights).step(**given)
    for stage in run_passes(graph, passes_of(3), HOPPER):
        found = Reference(stage.graph, weights).step(**given)
        worst = np.abs(found["logits"] - wanted["logits"]).max()
        assert worst < 1e-9 * np.abs(wanted["logits"]).max(), stage.name
        assert np.array_equal(found["next"], wanted["next"])
