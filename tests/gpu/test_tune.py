"""Tuning on the GPU: the table is used from then on and changes no byte."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fusec import driver
from fusec.bench import tune
from fusec.codegen.cuda import tuning

pytestmark = pytest.mark.gpu
IDS = [1, 5, 9, 2, 7] * 8


def logits(model: Path) -> bytes:
    engine = driver.load(model, "native", 3)
    try:
        return bytes(engine.logits(IDS).tobytes())
    finally:
        engine.close()


def test_what_is_tuned_computes_the_same(tiny_model, monkeypatch) -> None:
    monkeypatch.setenv("FUSEC_TUNING", "off")
    untuned = logits(tiny_model)
    compiled = tune.prepare(tiny_model, "native", 3, None, "f16")
    tuned = tune.run(compiled, tune.build(compiled), 5.0)
    path = tuned.save()
    try:
        monkeypatch.delenv("FUSEC_TUNING")
        plan = driver.compile(tiny_model, target="native", level=3).plan
        wanted = {name: choice for name, choice in tuned.entries.items() if choice}
        assert {tuning.key(k): k.choice for k in plan.kernels if k.choice} == wanted
        assert logits(tiny_model) == untuned
        assert tuned.after <= tuned.before
    finally:
        os.unlink(path)
