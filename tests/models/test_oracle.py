"""Models of several architectures beside llama.cpp's logits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fusec import driver
from tests.params import slow_but

ORACLE = Path(__file__).parents[3] / "shared" / "oracle"
BOUND = 5e-5  # of the norm of the logits
MODELS = (
    *("llama-bias", "qwen2-untied", "qwen3-tied", "gemma-plain", "granite-untied", "ernie4_5-tied"),
    *("exaone4-freqs", "smollm3-nope4", "gemma3-pattern6", "gemma2-caps", "llama-packed"),
    *("phi3-packed", "glm4-bias", "llama-yarn", "llama-longrope", "phi3-long", "llama-moe"),
    *("stablelm-parallel", "starcoder2-untied", "command-r-plain", "cohere2-window"),
    *("nemotron-bias", "phi2-split"),
    *("qwen2moe-shared", "qwen3moe-plain", "granitemoe-shared", "ernie4_5-moe-shared"),
    *("glm4moe-plain", "gpt-oss-full", "mistral3-yarn", "olmo2-window"),
    "deepseek2-v3",
)

QUICK = ("gemma2-caps",)


def oracle(name: str) -> tuple[Path, np.ndarray, np.ndarray]:
    """The model, ids, and logits [ids, vocabulary]."""
    path = ORACLE / f"{name}.gguf"
    if not path.exists():
        pytest.skip(f"no {path}")
    with np.load(path.with_suffix(".npz")) as given:
        return path, given["ids"], given["logits"]


def distance(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


@pytest.mark.parametrize("name", slow_but(QUICK, MODELS))
def test_logits_are_those_of_llama_cpp(name: str) -> None:
    path, ids, wanted = oracle(name)
    with driver.load(path, "cpu", kv="f32") as engine:
        there = min(len(ids), engine.context)
        single = np.stack([engine.step(int(token)) for token in ids[:there]])
        assert distance(single, wanted[:there]) < BOUND
        assert engine.logits(ids[:there].tolist()).tobytes() == single.tobytes()
