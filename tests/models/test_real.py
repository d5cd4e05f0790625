"""Real models on the CPU beside llama.cpp: their text, their logits, their perplexity."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fusec import driver
from fusec.models.model import Model
from fusec.passes.pipeline import LEVELS
from fusec.perplexity import measure
from fusec.texts import read_text
from tests.real import check_case, golden_cases, real_model

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("real")]

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.mark.parametrize("level", sorted(LEVELS))
def test_smollm2_is_llama_cpps(level: int, shared_data: Path) -> None:
    """Whole texts at the default level; the others have its bytes, and begin them."""
    model = Model.open(real_model("smollm2"))
    most = None if level == 2 else 20
    with driver.load(model, "cpu", level, context=256, kv="f32") as engine:
        for case in golden_cases(shared_data, "smollm2"):
            check_case(engine, model, case, 1e-3, most)


def test_gemma3_is_llama_cpps(shared_data: Path) -> None:
    """One of its texts is longer than its window. llama.cpp reads GELU from a table of f16."""
    model = Model.open(real_model("gemma3-270m", fetch=False))
    with driver.load(model, "cpu", context=1024, kv="f32") as engine:
        for case in golden_cases(shared_data, "gemma3-270m"):
            windowed = len(case["greedy"]) > 512
            check_case(engine, model, case, 1e-2, most=None if windowed else 20)


@pytest.mark.parametrize(("name", "fetch"), [("smollm2", True), ("gemma3-270m", False)])
def test_perplexity_is_llama_cpps(name: str, fetch: bool) -> None:
    """To four digits. tests/golden/make_perplexity.py made the value, on weights in F32."""
    wanted = json.loads((GOLDEN / "perplexity.json").read_text())[name]
    text = read_text(GOLDEN / "text.txt")
    found = measure(real_model(name, fetch=fetch), text, context=wanted["context"], kv="f32")
    assert found.scored == wanted["scored"]
    assert found.value == pytest.approx(wanted["perplexity"], rel=5e-5)
