"""The demo model on the GPU writes the text that the CPU writes, at every level."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fusec import driver
from fusec.models.model import Model
from fusec.passes.pipeline import LEVELS

pytestmark = pytest.mark.gpu

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "demo.json").read_text("utf-8"))


@pytest.mark.parametrize("level", sorted(LEVELS))
def test_greedy_text_is_the_golden_one(level):
    """tests/test_demo.py shows that no choice in it is within what kernels may be off."""
    tokenizer = Model.open(Path("demo")).tokenizer
    engine = driver.load("demo", "native", level)
    for case in GOLDEN:
        ids = tokenizer.encode(case["prompt"])
        assert list(engine.tokens(ids, 400)) == case["ids"]
    engine.close()
