"""Every box in the layer that it belongs to: that of the matrices it reads."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from fusec import driver, pictures
from fusec.ir.graph import LAYER, Node
from fusec.models.synth import synthesize
from tests.params import slow_but

SVG = "{http://www.w3.org/2000/svg}"
ARCHITECTURES = ("llama", "gemma3", "qwen3moe", "deepseek2", "phi2")


@pytest.fixture(scope="module", params=slow_but(["gemma3"], ARCHITECTURES))
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / f"{request.param}.gguf"
    return synthesize(request.param, path)


def numbers(node: Node) -> set[int]:
    """The layers of the matrices that a node reads."""
    return {int(found[1]) for v in node.matrices if (found := LAYER.search(v.name))}


@pytest.mark.parametrize(
    ("target", "level"), [("cpu", 0), ("cpu", 2), ("sm_90a", 1), ("sm_90a", 3)]
)
def test_boxes_lie_in_the_frame_of_their_layer(model: Path, target: str, level: int) -> None:
    subject = pictures.of_compiled(driver.compile(model, target=target, level=level))
    root = ET.fromstring(subject.svg(layers="all"))
    frames, labels = [], []
    for element in root:
        if element.get("class") == "frame":
            frames.append(place(element))
        elif element.tag == f"{SVG}text" and re.fullmatch(r"layer \d+", element.text or ""):
            labels.append(int((element.text or "").split()[1]))
    drawn = {group.findtext(f"{SVG}title"): place(group.find(f"{SVG}rect")) for group in
             root.iter(f"{SVG}g") if group.find(f"{SVG}rect") is not None}  # fmt: skip
    assert len(drawn) == len(subject.graph.nodes)
    assert len(frames) == len(labels) > 1
    for node in subject.graph.nodes:
        inside = {
            n for n, frame in zip(labels, frames, strict=True) if meet(drawn[node.name], frame)
        }
        assert len(inside) <= 1
        if node.matrices:
            assert inside == numbers(node)


def place(rect: ET.Element | None) -> tuple[float, float, float, float]:
    """Left, top, right, bottom."""
    assert rect is not None
    x, y, width, height = (float(rect.get(key, "")) for key in ("x", "y", "width", "height"))
    return x, y, x + width, y + height


def meet(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
