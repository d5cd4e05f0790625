"""DOT output, read back with a small parser: boxes, clusters, edges and what they say."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise

import pytest

from fusec.ir import Builder, Graph
from fusec.ir.graph import Node, Value, attrs
from fusec.passes.pipeline import LEVELS, passes_of, run_passes
from fusec.pictures.dot import to_dot
from fusec.pictures.view import Run, runs
from tests.graphs import Types, llama_graph
from tests.targets import ANY

TEXT = r'"((?:[^"\\]|\\.)*)"'
ATTR = rf"(\w+)=(?:{TEXT}|([\w.#-]+))"


@dataclass
class Dot:
    """`boxes`: id -> attributes; `clusters`: label -> ids; `edges`: source, target, attributes."""

    boxes: dict[str, dict[str, str]] = field(default_factory=dict)
    clusters: dict[str, list[str]] = field(default_factory=dict)
    edges: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)

    @property
    def dispatches(self) -> dict[str, dict[str, str]]:
        """Boxes of the default shape; inputs, states and outputs have shapes of their own."""
        return {name: box for name, box in self.boxes.items() if "shape" not in box}


def read(text: str) -> Dot:
    """Parse what `to_dot` writes, strictly: every line is one statement."""
    dot, depth, cluster = Dot(), 0, ""
    lines = [line.strip() for line in text.splitlines()]
    assert re.fullmatch(rf"digraph {TEXT} {{", lines[0])
    for line in lines:
        if line.endswith("{"):
            depth += 1
            assert depth <= 2
        elif line == "}":
            depth -= 1
            cluster = "" if depth < 2 else cluster
        elif found := re.fullmatch(rf"{TEXT} -> {TEXT} \[(.*)\];", line):
            dot.edges.append((unescaped(found[1]), unescaped(found[2]), attributes(found[3])))
        elif found := re.fullmatch(rf"{TEXT} \[(.*)\];", line):
            assert unescaped(found[1]) not in dot.boxes
            dot.boxes[unescaped(found[1])] = attributes(found[2])
            if depth == 2:
                dot.clusters[cluster].append(unescaped(found[1]))
        elif found := re.fullmatch(rf"(?:node|edge) \[(.*)\];|((?:{ATTR}; ?)+)", line):
            label = re.search(rf"label={TEXT}", line)
            if depth == 2 and label:
                cluster = label[1]
                dot.clusters[cluster] = []
        else:
            pytest.fail(f"not a statement: {line}")
    assert depth == 0
    return dot


def attributes(text: str) -> dict[str, str]:
    assert re.fullmatch(rf"{ATTR}(?:, {ATTR})*", text), text
    return {key: plain or unescaped(quoted) for key, quoted, plain in re.findall(ATTR, text)}


def unescaped(text: str) -> str:
    r"""The text of a label: `\l` and `\n` end lines, other escapes stand for their character."""
    return re.sub(r"\\(.)", lambda m: "\n" if m[1] in "ln" else m[1], text)


def runs_of(graph: Graph) -> list[Run]:
    return list(dict.fromkeys(runs(graph).values()))


def fused(level: int, **shape: object) -> Graph:
    return run_passes(llama_graph(**shape), passes_of(level), ANY)[-1].graph


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("layers", [1, 3])
def test_one_box_a_dispatch_one_cluster_a_layer(level: int, layers: int) -> None:
    graph = fused(level, layers=layers)
    dot = read(to_dot(graph, layers="all"))
    assert set(dot.dispatches) == {node.name for node in graph.nodes}
    assert list(dot.clusters) == [f"layer {i}" for i in range(layers)]
    for i in range(layers):
        inside = [name for name in dot.clusters[f"layer {i}"] if name in dot.dispatches]
        assert inside == [node.name for node in graph.nodes if node.layer == i]
        assert {f"$blk.{i}.k", f"$blk.{i}.v"} <= set(dot.clusters[f"layer {i}"])
    # numbered as they are launched, headed by their kind
    for place, node in enumerate(graph.nodes, start=1):
        assert dot.boxes[node.name]["label"].split("\n")[0] == f"{place}  {node.kind}"


@pytest.mark.parametrize("level", LEVELS)
def test_edges_are_the_graphs_with_names_and_types(level: int) -> None:
    graph = fused(level, layers=2, width=64, heads=4, kv_heads=2)
    dot = read(to_dot(graph, layers="all"))
    assert all(source in dot.boxes and target in dot.boxes for source, target, _ in dot.edges)
    assert max(Counter((source, target) for source, target, _ in dot.edges).values()) == 1
    found = {(s, t): a["label"].split("\n") for s, t, a in dot.edges}
    for node in graph.nodes:
        for value in node.inputs:
            if value.is_weight:
                continue
            maker = graph.producers.get(value.name)
            source = maker.name if maker else value.name
            if value in graph.inputs and node.layer is not None:
                source = f"{value.name} in layer {node.layer}"
            short = value.name[1:].removeprefix(f"blk.{node.layer}.")
            assert f"{short} {value.type}" in [x.strip() for x in found[source, node.name]]
    for value in graph.outputs:
        assert found[graph.producers[value.name].name, f"out {value.name}"]
    dashed = {(s, t) for s, t, a in dot.edges if a.get("style") == "dashed"}
    assert ("$blk.0.k", graph.users["$blk.0.k"][0].name) in dashed
    assert all("f16[32, 2, 16]" in " ".join(found[edge]) for edge in dashed)


def test_no_edge_but_activations_between_layers() -> None:
    """What all layers read would otherwise tie a drawing of many layers into one knot."""
    dot = read(to_dot(fused(2, layers=4), layers="all"))
    home = {name: layer for layer, names in dot.clusters.items() for name in names}
    for source, target, attrs_ in dot.edges:
        if home.get(source) != home.get(target):
            assert "f32[1, " in attrs_["label"] or "%token" in source, (source, target)


@pytest.mark.slow
@pytest.mark.parametrize("level", LEVELS)
def test_thirty_layers_are_drawn_like_three(level: int) -> None:
    few, many = (read(to_dot(fused(level, layers=count))) for count in (3, 30))
    assert len(many.boxes) == len(few.boxes)
    assert len(many.edges) == len(few.edges)
    (run,) = runs_of(fused(level, layers=30))
    assert run.last == 29
    count = len([n for n in fused(level, layers=30).nodes if (n.layer or 0) >= run.first])
    assert many.boxes[run.name]["label"] == f"{run.title}\n{count} nodes"
    assert few.boxes[run.name.replace("29", "2") if run.first == 1 else "layer 2"]


@pytest.mark.parametrize("level", LEVELS)
def test_folded_layers_are_tied_to_what_is_around_them(level: int) -> None:
    """Activations lead into them and out of them; their states and positions are not drawn."""
    graph = fused(level, layers=5, types=Types(**{"blk.3.ffn_down.weight": "q8_0"}))
    dot = read(to_dot(graph))
    drawn = {n.layer for n in graph.nodes} - {None} - set(runs(graph))
    assert list(dot.clusters) == [f"layer {number}" for number in sorted(drawn)]
    assert all(source in dot.boxes and target in dot.boxes for source, target, _ in dot.edges)
    assert max(Counter((source, target) for source, target, _ in dot.edges).values()) == 1
    assert runs_of(graph)
    for run in runs_of(graph):
        into = {source for source, target, _ in dot.edges if target == run.name}
        out = [a["label"].strip() for source, _, a in dot.edges if source == run.name]
        assert {graph.producers[name].layer for name in into} == {run.first - 1}
        assert out and all(f"blk.{run.last}." in label for label in out)
        assert not any(f"blk.{run.first}." in name for name in dot.boxes)


def test_one_layer_is_numbered_as_in_the_whole() -> None:
    graph = fused(2, layers=3)
    dot = read(to_dot(graph, layers=(1,)))
    assert list(dot.clusters) == ["layer 1"]
    assert [box["label"].split()[0] for box in dot.dispatches.values()] == [*map(str, range(8, 14))]


def test_early_launches_have_an_edge_also_where_layers_are_folded(compiled) -> None:
    graph = compiled.graph
    for layers in ("all", (1,)):
        text = to_dot(graph, compiled.plan.launches, layers=layers)
        edges = [line for line in text.splitlines() if "arrowhead=none" in line]
        drawn = [n.name for n in graph.nodes if layers == "all" or n.layer in layers]
        pairs = pairwise(drawn)
        early = [(a, b) for a, b in pairs if b in compiled.plan.early]
        assert len(edges) == len(early) > 0
        assert all(f'"{a}" -> "{b}" [' in line for (a, b), line in zip(early, edges, strict=True))


def test_fused_boxes_list_their_ops_and_weights() -> None:
    graph = fused(2, layers=1)
    dot = read(to_dot(graph))
    (ffn,) = (n for n in graph.nodes if n.kind == "norm_matvec_silu_mul")
    assert dot.boxes[ffn.name]["label"].split("\n")[1:-1] == [
        "· rms_norm ffn_norm:  ffn_norm.weight f32[64]",
        "· matvec gate:  ffn_gate.weight iq4_nl[96, 64]",
        "· matvec up:  ffn_up.weight iq4_nl[96, 64]",
        "· silu silu",
        "· mul swiglu",
    ]
    for node in graph.nodes:
        label = dot.boxes[node.name]["label"]
        assert label.count("· ") == len(node.body)
        for weight in node.weights:
            assert weight.type in label
    assert "token_embd.weight iq4_nl[64, 64]" in dot.boxes["%embed"]["label"]


def test_odd_names_are_escaped() -> None:
    odd = ['%quo"te', "%back\\slash", "%line\nbreak", "%\\", "%<b>&amp;{x|y}", "%ünï", "%\\n\\l"]
    x = Value('%in"put\\', "f32", (1, 8))
    nodes, last = [], x
    for name in odd:
        value = Value(name, "f32", (1, 8))
        weight = Value('@w"\\N', "f32", (8,))
        nodes.append(Node("mul", (last, weight), (value,)))
        last = value
    body = (Node("silu", (last,), (Value('%b"1', "f32", (1, 8)),)),)
    nodes.append(Node("fused", (last,), body[0].outputs, attrs(kind='ki"nd'), body))
    graph = Graph('na"me\\', (x,), (), tuple(nodes), (nodes[-1].outputs[0],))
    text = to_dot(graph)
    dot = read(text)
    assert set(odd) <= set(dot.boxes)
    assert len(dot.dispatches) == len(odd) + 1
    assert '\\"te' in text
    assert 'ki"nd' in dot.boxes['%b"1']["label"]
    if shutil.which("dot"):
        assert render(text)


def test_a_graph_without_layers() -> None:
    b = Builder("toy")
    x = b.input("x", (1, 32))
    dot = read(to_dot(b.build(b.add(b.silu(x), x))))
    assert dot.clusters == {}
    assert len(dot.dispatches) == 2
    assert {(s, t) for s, t, _ in dot.edges} == {
        ("%x", "%0"),
        ("%x", "%1"),
        ("%0", "%1"),
        ("%1", "out %1"),
    }


def test_the_same_graph_gives_the_same_text() -> None:
    assert to_dot(fused(2)) == to_dot(fused(2))


def render(text: str) -> str:
    """The drawing as SVG; graphviz complains on standard error."""
    done = subprocess.run(
        ["dot", "-Tsvg"], input=text, capture_output=True, text=True, check=True, encoding="utf-8"
    )
    assert done.stderr == ""
    return done.stdout


@pytest.mark.skipif(not shutil.which("dot"), reason="graphviz is not installed")
@pytest.mark.parametrize("level", LEVELS)
def test_graphviz_draws_it(level: int) -> None:
    graph = fused(level, layers=2)
    for layers, clusters in (("all", 2), (None, 2 - len(runs(graph)))):
        text = to_dot(graph, layers=layers)
        svg = render(text)
        boxes = re.findall(r'<g id="node\d+" class="node">', svg)
        assert len(boxes) == len(read(text).boxes)
        assert svg.count('class="cluster"') == clusters
