"""Tuning on the GPU: the table is used from then on and changes no byte."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fusec import driver
from fusec.bench import tune, tune_report
from fusec.codegen.cuda import tuning

pytestmark = pytest.mark.gpu
IDS = [1, 5, 9, 2, 7] * 8
WIDTHS = (1, 2)


def logits(model: Path) -> list[bytes]:
    """By steps of each width."""
    with driver.load(model, "native", 3) as engine:
        return [engine.logits(IDS, width).tobytes() for width in WIDTHS]


def test_what_is_tuned_computes_the_same(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FUSEC_TUNING", "off")
    untuned = logits(tiny_model)
    compiled = tune.prepare(tiny_model, "native", 3, None, "f16")
    gpu, found = tune.run(compiled, WIDTHS, 10.0)
    file = tmp_path / "tuned.json"
    file.write_text(json.dumps(tune_report.as_data(compiled, gpu, found)))
    monkeypatch.setenv("FUSEC_TUNING", str(file))
    taken = driver.compile(tiny_model, target="native", level=3)
    for each, plan in zip(found, (taken.plan, taken.backend.variants(taken.plans)[0]), strict=True):
        wanted = {key: choice for key, choice in each.entries.items() if choice}
        assert {tuning.key(k, each.width): k.choice for k in plan.kernels if k.choice} == wanted
        assert each.after <= each.before
    assert logits(tiny_model) == untuned
