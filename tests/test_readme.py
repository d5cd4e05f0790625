"""README.md shows what the compiler makes of the demo model, and its Python runs."""

from __future__ import annotations

import re

import pytest

import fusec
from fusec.ir import Node
from tests import pages

SHOWN = {  # the command that the README names -> what it compiles, and the stage it prints
    "fusec inspect demo --stage decode-graph": ({}, 0),
    "fusec inspect demo -O2 --stage schedule": ({"level": 2}, -1),
    "fusec inspect demo --target sm_90a --stage schedule": ({"target": "sm_90a"}, -1),
}


def shortened(node: Node) -> str:
    """A node of the second layer as the README has it: names alone, without what all share."""

    def names(values: tuple[fusec.Value, ...]) -> str:
        listed = ", ".join(v.name for v in values)
        return listed.replace("blk.1.", "").replace(".weight", "")

    op = f"fused {node.kind}" if node.body else node.op
    return f"{names(node.outputs)} = {op}({names(node.inputs)})"


@pytest.mark.parametrize("command", SHOWN)
def test_the_layer_is_what_the_command_prints(command: str) -> None:
    text = pages.page("README.md")
    shown = re.search(rf"^`{re.escape(command)}`.*?```\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert shown is not None
    options, stage = SHOWN[command]
    graph = fusec.compile("demo", **options).stages[stage].graph
    layer = [shortened(node) for node in graph.nodes if node.layer == 1]
    assert re.sub(r"\n +", " ", shown[1]).splitlines() == layer
    after = shown[0][: shown[0].index("```")]
    assert (
        f"{len(layer)} dispatches\na layer" in after or f"{len(layer)} dispatches a layer" in after
    )


def test_the_python_tells_a_story(capsys: pytest.CaptureFixture[str]) -> None:
    pages.run("README.md")
    *story, dispatches, first, second, third, fourth, _ = capsys.readouterr().out.split("\n")
    launches = first, second, third, fourth
    assert "'forward': 25" in dispatches
    assert all(" -> " in launch for launch in launches)
    assert len(" ".join(story).split()) > 20
