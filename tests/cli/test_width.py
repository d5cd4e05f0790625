"""--width of `fusec compile` and `fusec inspect`: steps of many rows, as prompts take them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fusec import driver
from fusec.errors import FusecError
from fusec.ir import parse
from tests.command import fusec, refused
from tests.graphs import llama_graph

pytestmark = pytest.mark.xdist_group("cli")
GPU = ("--target", "sm_90a", "--context", 80)


def test_inspect_shows_the_plan_of_a_prompt(tiny_model: Path) -> None:
    data = fusec("inspect", tiny_model, *GPU, "--width", 80, "--json").json
    assert (data["tokens"], data["context"], data["kv"]) == (80, 80, "f16")
    prefill = driver.compile(tiny_model, target="sm_90a", context=80).prefill
    assert prefill is not None
    assert set(data["kernels"]) == {kernel.name for kernel in prefill.kernels}
    assert {size["layers"] for size in data["sizes"].values()} == {5, 10, 80}
    hits = {stage["pass"]: stage["hits"] for stage in data["stages"]}
    assert hits["fix-vectors"] == 33 and hits["fuse-chain-to-fixed"] == 17
    text = fusec("inspect", tiny_model, *GPU, "--width", 80).out
    assert "dispatches a step of 80 rows (" in text.replace("\n", " ")
    assert "dispatches a token" in fusec("inspect", tiny_model, *GPU).out.replace("\n", " ")


@pytest.mark.parametrize(("width", "fixed"), [(2, False), (8, False), (9, True), (80, True)])
def test_a_stage_of_a_step_of_many_rows(tiny_model: Path, width: int, fixed: bool) -> None:
    shown = fusec("inspect", tiny_model, *GPU, "--width", width, "--stage", "fix-vectors").out
    graph = parse("".join(line for line in shown.splitlines(True) if line[0] != "#"))
    assert graph.tokens == width
    assert any(node.op == "fix" for node in graph.nodes) == fixed


@pytest.mark.slow
def test_pictures_predict_no_time_for_it(tiny_model: Path, tmp_path: Path) -> None:
    """The constants are those of one row."""
    page = tmp_path / "m.html"
    for width, predicted in ((40, False), (1, True)):
        ran = fusec("inspect", tiny_model, *GPU, "--width", width, "--html", page)
        assert ran.code == 0, ran.err
        assert (" us predicted" in page.read_text()) == predicted
    assert fusec("inspect", tiny_model, "--width", 40, "--dot", tmp_path / "m.dot").code == 0


def test_compile_shows_the_same(tiny_model: Path) -> None:
    ran = fusec("compile", tiny_model, "--context", 48, "--width", 20)
    assert ran.code == 0, ran.err
    assert "dispatches a step of 20 rows" in ran.out.replace("\n", " ")
    assert "kernels ready in" in ran.out


@pytest.mark.parametrize("command", ["compile", "inspect"])
@pytest.mark.parametrize("width", [0, -3, 81, 10**9])
def test_widths_that_no_step_has(tiny_model: Path, command: str, width: int) -> None:
    message = refused(command, tiny_model, *GPU, "--width", width)
    assert message == f"width: expected rows from 1 to the context, 80, found {width}"


def test_a_folder_has_every_width_already(
    tiny_model: Path, tmp_path: Path, compiled: Path, unchanged: Callable[[], None]
) -> None:
    unchanged()
    message = refused("compile", tiny_model, "--width", 4, "-o", tmp_path / "out")
    assert message == "-o: a compiled folder has the plans for every width: leave --width out"
    message = refused("inspect", compiled, "--width", 4)
    assert message == f"{compiled} is compiled already: --width comes too late"
    assert fusec("inspect", compiled, "--width", 1).code == 0


def test_the_library_takes_a_width(tiny_model: Path) -> None:
    wide = driver.compile(tiny_model, context=40, kv="f32", width=20)
    assert (wide.plan.tokens, wide.prefill, wide.context, wide.kv) == (20, None, 40, "f32")
    with pytest.raises(FusecError, match="use session"):
        wide.engine()
    of_its_own = driver.compile(llama_graph(tokens=3))  # a graph has its T
    assert of_its_own.plan.tokens == 3
