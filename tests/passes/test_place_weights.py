"""Where a matrix's layout is decided, and everybody who reads it: text, plan, JSON, counts."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from fusec import backends, driver
from fusec.errors import FusecError
from fusec.ir import Builder, Graph, parse
from fusec.ir.graph import Value
from fusec.ir.plan import from_json
from fusec.ir.target import ROWS, TILES
from fusec.passes.lower import lower
from fusec.passes.pipeline import LEVELS, passes_of, run_passes
from fusec.passes.place_weights import PlaceWeights
from tests.command import fusec
from tests.graphs import llama_graph
from tests.targets import ANY, HOPPER, TILED

LONG = 2048


def mixed() -> Graph:
    """A vector, a matrix of long rows, one of short ones, one whose format has no tiles."""
    b = Builder("mixed")
    x = b.rms_norm(b.input("x", (1, LONG)), b.weight("g", (LONG,)), eps=1e-5)
    short = b.matvec(b.input("z", (1, 64)), b.weight("short", (32, 64), "q4_0"))
    rows = b.matvec(x, b.weight("rows", (64, LONG), "q8_0"))
    return b.build(b.matvec(x, b.weight("long", (992, LONG), "q4_k")), short, rows)


LAYOUTS = {"@g": "", "@long": TILES, "@short": ROWS, "@rows": ROWS}


@pytest.mark.parametrize(
    ("shape", "dtype", "layout"),
    [
        ((1024, LONG), "q4_k", TILES),
        ((1025, LONG), "q4_k", ROWS),
        ((1024, LONG + 256), "q4_k", ROWS),
        ((1024, LONG), "f16", ROWS),
        ((LONG,), "f32", ""),
    ],
)
def test_a_target_says_how_a_weight_lies(shape: tuple[int, ...], dtype: str, layout: str) -> None:
    weight = Value("@w", dtype, shape)
    assert HOPPER.layout_of(weight) == TILED.layout_of(weight) == layout
    assert ANY.layout_of(weight) == ""


def test_few_rows_lie_in_tiles_where_others_multiply_the_same_vector() -> None:
    """One kernel may take them together, and only tiles can be beside tiles."""
    sm90 = backends.get("sm_90a").limits
    for rows, beside, layout in [(1040, 0, ROWS), (1040, 16, TILES), (16, 1040, TILES)]:
        assert sm90.layout_of(Value("@w", "q4_k", (rows, LONG)), beside) == layout
    b = Builder("qkv")
    x = b.input("x", (1, LONG))
    q, k = (b.matvec(x, b.weight(n, (r, LONG), "q4_k")) for n, r in (("q", 768), ("k", 288)))
    alone = b.matvec(b.input("y", (1, LONG)), b.weight("o", (768, LONG), "q4_k"))
    placed = PlaceWeights().run(b.build(q, k, alone), sm90)[0]
    assert {w.name: w.layout for w in placed.weights} == {"@q": TILES, "@k": TILES, "@o": ROWS}


def test_the_pass_places_every_weight_and_nothing_else() -> None:
    graph = mixed()
    placed, count, refused = PlaceWeights().run(graph, TILED)
    assert {w.name: w.layout for w in placed.weights} == LAYOUTS
    assert (count, refused) == (3, ())
    assert str(placed).replace(".tiles[", "[").replace(".rows[", "[") == str(graph)
    assert PlaceWeights().run(graph, ANY) == (graph, 0, ())
    assert PlaceWeights().run(placed, TILED)[0] == placed


def test_weights_of_merged_nodes_are_placed_too() -> None:
    fused = run_passes(mixed(), passes_of(2), ANY)[-1].graph
    assert any(node.body for node in fused.nodes)
    placed = PlaceWeights().run(fused, TILED)[0]
    inside = {v.name: v.layout for node in placed.walk() for v in node.weights}
    assert inside == {v.name: v.layout for n in placed.nodes for v in n.weights} == LAYOUTS


@pytest.mark.parametrize("level", LEVELS)
def test_it_runs_before_all_fusion_and_is_kept_by_every_pass(level: int) -> None:
    first, *stages = run_passes(mixed(), passes_of(level), HOPPER)
    assert {w.layout for w in first.graph.weights} == {""}
    assert stages[0].name == "place-weights"
    for stage in stages:
        assert {w.name: w.layout for w in stage.graph.weights} == LAYOUTS, stage.name
        assert parse(str(stage.graph)) == stage.graph
    assert "@long: q4_k.tiles[992, 2048]" in str(stages[-1].graph)
    assert "@g: f32[2048]" in str(stages[-1].graph)


def test_one_weight_has_one_layout() -> None:
    text = str(PlaceWeights().run(mixed(), TILED)[0])
    twice = text.replace(
        "  return", "  %y: f32[1, 992] = matvec(%0, @long: q4_k[992, 2048])\n  return"
    )
    with pytest.raises(FusecError, match="@long"):
        driver.compile(parse(twice))


def test_the_plan_says_it_and_json_keeps_it() -> None:
    plan = driver.compile(mixed(), target="sm_90a").plan
    assert {name: tensor.layout for name, tensor in plan.weights.items()} == LAYOUTS
    assert from_json(plan.to_json()) == plan
    others = (*plan.inputs.values(), *plan.states.values(), *plan.outputs.values())
    assert {tensor.layout for tensor in others} == {""}
    on_cpu = driver.compile(mixed()).plan
    assert {tensor.layout for tensor in on_cpu.weights.values()} == {""}


def test_layouts_tell_kernels_apart() -> None:
    """Equal but for how their matrix lies: two kernels of two names."""
    node = run_passes(mixed(), passes_of(0), TILED)[-1].graph.producers["%2"]
    (weight,) = node.weights
    assert weight.layout
    names = set()
    for layout in (TILES, ROWS, ""):
        value = replace(weight, layout=layout)
        graph = node.region.replace_nodes((replace(node, inputs=(node.inputs[0], value)),))
        names |= {kernel.name for kernel in lower(graph, "sm_90a", 0).kernels}
    assert len(names) == 3


def test_inspect_counts_layouts(tiny_model) -> None:
    shown = fusec("inspect", tiny_model, "--target", "sm_90a", "--json").json
    plan = driver.compile(tiny_model, target="sm_90a").plan
    assert shown["layouts"] == Counter(t.layout or "file" for t in plan.weights.values())
    assert fusec("inspect", tiny_model, "--json").json["layouts"] == {"file": len(plan.weights)}


def test_llama_at_every_level_on_any_target_parses_back_with_layouts() -> None:
    graph = llama_graph(layers=1, width=LONG, ffn=LONG, heads=32, kv_heads=8)
    final = run_passes(graph, passes_of(3), HOPPER)[-1].graph
    assert TILES in {w.layout for w in final.weights}
    assert parse(str(final)) == final
