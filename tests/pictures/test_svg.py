"""Graphs as SVG, read back as XML; one layer, and layers that are alike."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest

from fusec.errors import FusecError
from fusec.ir import Graph
from fusec.ir.verify import verify
from fusec.passes.pipeline import LEVELS, passes_of, run_passes
from fusec.pictures.dot import edge_width
from fusec.pictures.style import EARLY
from fusec.pictures.svg import to_svg
from fusec.pictures.view import alike, read_layers, runs, some_layers, span
from tests.graphs import Types, llama_graph
from tests.targets import ANY

SVG = "{http://www.w3.org/2000/svg}"


def fused(level: int = 2, **shape: object) -> Graph:
    return run_passes(llama_graph(**shape), passes_of(level), ANY)[-1].graph


def boxes(svg: str) -> dict[str, list[str]]:
    """Title of each box -> its other lines."""
    found = {}
    for group in ET.fromstring(svg).iter(f"{SVG}g"):
        texts = ["".join(t.itertext()) for t in group.findall(f"{SVG}text")]
        if texts:
            found[texts[0]] = texts[1:]
    return found


def edges(svg: str) -> dict[str, ET.Element]:
    """Tooltip -> the path drawn, for each arrow."""
    found = {}
    for group in ET.fromstring(svg).iter(f"{SVG}g"):
        paths = group.findall(f"{SVG}path")
        if len(paths) == 2:
            found[group.find(f"{SVG}title").text] = paths[0]
    return found


def test_a_box_a_dispatch_with_its_weights_and_results():
    graph = fused(layers=1)
    drawn = boxes(to_svg(graph))
    assert list(drawn) == [f"{i}  {n.kind}" for i, n in enumerate(graph.nodes, start=1)]
    assert drawn["2  norm_matvec"] == [
        "rms_norm, 3 matvec",
        "@ attn_norm f32[64]",
        "@ attn_q iq4_nl[64, 64]",
        "@ attn_k iq4_nl[32, 64]",
        "@ attn_v iq4_nl[32, 64]",
        "> q f32[1, 64]",
        "> k f32[1, 32]",
        "> v f32[1, 32]",
    ]
    assert drawn["3  rope_kv"][1] == "state $k $v"


def test_layers_like_an_earlier_one_are_one_box():
    graph = fused(layers=5)
    drawn = boxes(to_svg(graph))
    assert drawn["layers 1 to 4: each as layer 0"] == [
        f"24 nodes, {layer_bytes(graph, 1, 4) / 1e6:,.1f} MB of weights"
    ]
    assert len(drawn) == 1 + 6 + 1 + 2
    assert len(boxes(to_svg(graph, layers="all"))) == len(graph.nodes)


def layer_bytes(graph: Graph, low: int, high: int) -> int:
    return sum(v.nbytes for v in graph.weights if (m := re.search(r"blk\.(\d+)\.", v.name))
               and low <= int(m[1]) <= high)  # fmt: skip


def test_a_layer_of_other_weight_types_is_drawn():
    types = Types(**{"blk.2.ffn_down.weight": "q8_0"})
    graph = fused(layers=4, types=types)
    assert alike(graph) == {0: 0, 1: 0, 2: 2, 3: 0}
    assert runs(graph) == {1: (1, 1, 0), 3: (3, 3, 0)}
    titles = list(boxes(to_svg(graph)))
    assert titles[7:8] == ["layer 1: as layer 0"]
    assert "layer 3: as layer 0" in titles


def test_positions_lead_nowhere_also_where_a_kernel_embeds():
    for level in LEVELS:
        assert "%pos" not in to_svg(fused(level, layers=2))
        assert "%token i32[1]" in to_svg(fused(level, layers=2))


def test_notes_get_the_nodes_of_a_box():
    graph = fused(layers=3)
    drawn = boxes(to_svg(graph, notes=lambda nodes: [f"{len(nodes)} here"]))
    assert drawn["1  embed"][-1] == "1 here"
    assert drawn["layers 1 to 2: each as layer 0"][-1] == "12 here"


def test_edges_are_as_wide_as_their_bytes_and_dashed_for_state():
    graph = fused(0, layers=1, ffn=4096)
    drawn = edges(to_svg(graph))
    wide = drawn["%blk.0.swiglu f32[1, 4096]: 16,384 bytes"]
    thin = drawn["%blk.0.down f32[1, 64]: 256 bytes"]
    assert float(wide.get("stroke-width")) == pytest.approx(edge_width(16384), abs=0.05)
    assert float(wide.get("stroke-width")) > 2 * float(thin.get("stroke-width"))
    cache = next(path for tip, path in drawn.items() if tip.startswith("$blk.0.k'"))
    assert cache.get("stroke-dasharray")
    assert not wide.get("stroke-dasharray")


def test_launches_that_start_early_are_marked():
    graph = fused(layers=1)
    assert EARLY not in to_svg(graph)
    svg = to_svg(graph, early={"%blk.0.attn"})
    marked = [tip for tip, path in edges(svg).items() if path.get("stroke") == EARLY]
    assert len(marked) == 1
    assert "%blk.0.q_rope" in marked[0]
    assert "starts early" in svg


def test_one_layer_is_a_graph_of_its_own():
    graph = fused(layers=3)
    layer = some_layers(graph, [1])
    verify(layer)
    assert [n.layer for n in layer.nodes] == [1] * 6
    assert [v.name for v in layer.outputs] == ["%blk.1.ffn_residual"]
    assert [v.name for v in layer.inputs] == ["%blk.0.ffn_residual", "%pos"]
    assert some_layers(graph, [2]).outputs[0].name == "%blk.2.ffn_residual"
    assert next(iter(boxes(to_svg(graph, (1,))))) == "8  norm_matvec"


def test_layers_that_are_not_there():
    with pytest.raises(FusecError, match="no layer 3: it has layers 0 to 2"):
        some_layers(fused(layers=3), [3])


@pytest.mark.parametrize(
    ("text", "layers"),
    [(None, None), ("all", "all"), ("4", (4,)), ("0-3", (0, 1, 2, 3)), ("0, 7-8,0", (0, 7, 8))],
)
def test_layers_as_the_command_line_has_them(text, layers):
    assert read_layers(text) == layers


@pytest.mark.parametrize("text", ["", "x", "-1", "1-", "3-1", "1,,2", "all,1", "1-2-3", "²"])
def test_no_layers(text):
    with pytest.raises(FusecError, match=f"^--layers: expected .*, found '{text}'$"):
        read_layers(text)


def test_several_layers_are_a_graph_of_their_own():
    graph = fused(layers=4)
    part = some_layers(graph, (1, 2))
    verify(part)
    assert [n.layer for n in part.nodes] == [1] * 6 + [2] * 6
    assert [v.name for v in part.outputs] == ["%blk.2.ffn_residual"]
    assert len(boxes(to_svg(graph, (1, 2)))) == 12


def test_spans_of_layers():
    graph = fused(layers=6)
    assert span(graph.nodes) == "0-5"
    assert span([n for n in graph.nodes if n.layer in (0, 1, 3, 5)]) == "0-1, 3, 5"
    assert span(graph.nodes[:1]) == ""


def test_dark_colours_are_there_for_whoever_wants_them():
    """Each class that a shape has, and no other, has a rule; lights are the shapes' own."""
    svg = to_svg(fused(layers=2), early={"%blk.0.attn"})
    rules = set(re.findall(r"svg \.([\w-]+)\{", svg))
    used = {name for found in re.findall(r' class="([^"]+)"', svg) for name in found.split()}
    assert used <= rules
    assert svg.count("prefers-color-scheme:dark") == 1
    for element in ET.fromstring(svg).iter():
        if element.tag in (f"{SVG}rect", f"{SVG}text"):
            assert element.get("fill")


def test_names_are_escaped():
    graph = fused(layers=1)
    svg = to_svg(graph, title="a < b & c", notes=lambda _: ["x <y> & 'z'"])
    assert boxes(svg)["1  embed"][-1] == "x <y> & 'z'"


def test_notebooks_show_it():
    assert llama_graph(layers=1)._repr_svg_().startswith("<svg ")
