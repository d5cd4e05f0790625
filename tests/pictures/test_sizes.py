"""Lengths, places and numbers in pictures: what they are drawn from, pixel by pixel."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest

from fusec import driver, pictures
from fusec.ir import Builder, gpus
from fusec.passes import cost
from fusec.passes.memory import plan_memory
from fusec.pictures import diff, memory
from fusec.pictures.report import _cards
from fusec.pictures.subject import Subject
from fusec.pictures.tally import tally
from fusec.report import size
from tests.graphs import llama_graph
from tests.pictures.conftest import profile_of
from tests.tables import row_of, rows_of

SVG = "{http://www.w3.org/2000/svg}"
LEFT, RIGHT = 92.0, 1112.0  # where the arena's first launch begins, and its last one ends


@pytest.fixture(scope="module")
def subject(compiled) -> Subject:
    return pictures.of_compiled(compiled)


@pytest.fixture(scope="module")
def profiled(compiled, subject) -> Subject:
    return replace(subject, profile=profile_of(compiled))


def boxes(svg: str) -> dict[str, tuple[float, float, float, float]]:
    """Title -> x, y, width, height of each titled rectangle."""
    found = {}
    for group in ET.fromstring(svg).iter(f"{SVG}g"):
        title, rect = group.find(f"{SVG}title"), group.find(f"{SVG}rect")
        assert title is not None and title.text and rect is not None
        found[title.text] = tuple(float(rect.get(k, "")) for k in ("x", "y", "width", "height"))
    return found


# --- the arena -----------------------------------------------------------------------------------


def test_a_value_s_box_is_where_it_lies_for_as_long_as_it_lives():
    b = Builder("g")
    x = b.input("x", (1, 64))
    a = b.silu(x, name="a")  # launches 1 to 3
    c = b.silu(a, name="c")  # launches 2 to 3
    d = b.add(a, c, name="d")  # launch 3 to the end
    graph = b.build(b.silu(d, name="e"))
    assert [n.name for n in graph.nodes] == ["%a", "%c", "%d", "%e"]
    slots = plan_memory(graph)
    offsets = sorted({s.offset for s in slots.values()})
    found = {title.split()[0]: (title, box) for title, box in boxes(memory.arena(graph)).items()}
    launch = (RIGHT - LEFT) / 4
    lives = {"%a": (1, 3), "%c": (2, 3), "%d": (3, 4), "%e": (4, 4)}
    assert set(found) == set(lives)
    for name, (first, last) in lives.items():
        title, (left, top, width, height) = found[name]
        assert f"256 bytes at {slots[name].offset:,}, dispatches {first} to {last}" in title
        assert left == pytest.approx(LEFT + (first - 1) * launch, abs=0.1)
        assert width == pytest.approx((last - first + 1) * launch - 1, abs=0.1)
        band = offsets.index(slots[name].offset)
        assert (top, height) == pytest.approx((30 + 20 * band + 1, 18), abs=0.1)


def test_boxes_of_the_arena_never_cover_one_another(compiled):
    """At one launch, of one byte, there is one value; a large one covers the bands it has."""
    graph = compiled.stages[-1].graph
    drawn = list(boxes(memory.arena(graph)).values())
    assert len(drawn) == len(plan_memory(graph))
    for n, (x, y, width, height) in enumerate(drawn):
        for other_x, other_y, other_width, other_height in drawn[:n]:
            beside = x + width <= other_x + 0.2 or other_x + other_width <= x + 0.2
            apart = y + height <= other_y or other_y + other_height <= y
            assert beside or apart


def test_a_part_of_the_launches_is_drawn_as_wide_as_all(compiled):
    graph = compiled.stages[-1].graph
    count = len(graph.nodes)
    whole, part = boxes(memory.arena(graph)), boxes(memory.arena(graph, 2, 6))
    alive = {
        title for title in whole
        if (span := re.search(r"dispatches (\d+) to (\d+)$", title))
        and int(span[1]) <= 6 and int(span[2]) >= 3
    }  # fmt: skip
    assert set(part) == alive
    for title in alive & set(part):
        span = re.search(r"dispatches (\d+) to (\d+)$", title)
        assert span
        first, last = max(int(span[1]), 3), min(int(span[2]), 6)
        left, _, width, _ = part[title]
        launch = (RIGHT - LEFT) / 4
        assert left == pytest.approx(LEFT + (first - 3) * launch, abs=0.1)
        assert width == pytest.approx((last - first + 1) * launch - 1, abs=0.1)
    assert count > 6


# --- weights -------------------------------------------------------------------------------------


@pytest.mark.parametrize("l2_share", [0.5, 2.0])
def test_weights_are_drawn_to_scale_against_l2(subject, l2_share):
    """The longer of all weights and L2 is as long as the picture."""
    total = subject.plan.weights_bytes
    gpu = replace(gpus.find("H200"), l2_bytes=int(total * l2_share))
    svg = memory.weights(replace(subject, gpu=gpu))
    scale = 1080 / max(total, gpu.l2_bytes)
    drawn = boxes(svg)
    at = 20.0
    for title, (left, _, width, _) in drawn.items():
        name = title.split(":")[0]
        own = [v for v in subject.graph.weights
               if name == (f"layer {v.name.split('.')[1]}" if ".blk." in f".{v.name[1:]}"
                           else v.name[1:].removesuffix(".weight"))]  # fmt: skip
        nbytes = sum(v.nbytes for v in own)
        assert own and title == f"{name}: {size(nbytes)}"
        assert left == pytest.approx(at, abs=0.1)
        assert width == pytest.approx(max(nbytes * scale, 0.5), abs=0.01)
        at += nbytes * scale
    assert at == pytest.approx(20 + total * scale, abs=0.1)
    (l2,) = re.findall(r'<rect class="box" x="20" y="68" width="([\d.]+)"', svg)
    assert float(l2) == pytest.approx(gpu.l2_bytes * scale, abs=0.1)
    assert f"L2 of H200: {size(gpu.l2_bytes)}" in svg.replace("NVIDIA ", "")
    assert f"{size(total)} of weights, by layer" in svg


# --- words ---------------------------------------------------------------------------------------


def test_cards_name_each_total(profiled, compiled):
    cards = _cards(profiled, tally(profiled))
    plan = compiled.plan
    states = sum(v.nbytes for v in compiled.stages[-1].graph.states)
    us = cost.token_us(plan, profiled.gpu, position=48)
    assert cards == {
        "dispatches a token": str(len(plan.launches)),
        "of them a layer": "4",
        "critical path": str(profiled.report["critical_path"]),
        "weights": size(plan.weights_bytes),
        "KV cache": f"{size(states)} at first, {size(states)} when full",  # less than a page
        "arena": size(plan.arena_bytes),
        f"predicted, {profiled.gpu.name}": f"{us:,.0f} us, {1e6 / us:,.0f} tok/s",
        "measured, NVIDIA H200": "60 us, 16,667 tok/s",
    }


def test_a_box_says_the_bytes_at_the_profile_s_position(subject, profiled):
    node = next(n for n in subject.graph.nodes if "attention" in n.kind)
    for shown, position in ((subject, 64), (profiled, 48)):
        assert shown.notes([node])[-1].startswith(f"{size(cost.moved(node, position))}, ")
    assert cost.moved(node, 64) > cost.moved(node, 48)


def test_a_box_says_the_bytes_that_are_fetched_beside_it(subject):
    launch = next(x for x in subject.plan.launches if x.prefetch)
    node = next(n for n in subject.graph.nodes if n.name == launch.node)
    nbytes = sum(v.nbytes for v in subject.graph.weights if v.name in launch.prefetch)
    assert f"fetches {size(nbytes)} of weights ahead" in subject.notes([node])


def test_a_comparison_counts_from_a_to_b():
    def of(layers):
        return pictures.of_compiled(driver.compile(llama_graph(layers=layers), level=0))

    data = diff.compare(of(1), of(3))
    sizes, _ = diff.tables(data)
    assert list(row_of(sizes, "dispatches").values()) == ["dispatches", "22", "58", "+36"]
    cache = 2 * 32 * 2 * 16 * 2
    assert list(row_of(sizes, "KV cache, bytes").values())[1:] == [
        f"{cache:,}", f"{3 * cache:,}", f"+{2 * cache:,}"
    ]  # fmt: skip
    assert not any("measured" in next(iter(row.values())) for row in rows_of(sizes))
