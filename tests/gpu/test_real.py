"""SmolLM2 on the GPU beside llama.cpp: its text and logits, at every level."""

from __future__ import annotations

from pathlib import Path

import pytest

from fusec import driver
from fusec.models.model import Model
from fusec.passes.pipeline import LEVELS
from tests.real import check_case, golden_cases, real_model

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("level", sorted(LEVELS))
def test_smollm2_is_llama_cpps(level: int, shared_data: Path) -> None:
    model = Model.open(real_model("smollm2"))
    with driver.load(model, "native", level, context=256, kv="f32") as engine:
        for case in golden_cases(shared_data, "smollm2"):
            check_case(engine, model, case, within=1e-3)
