"""The CPU's logits beside llama.cpp's: `tests/golden/make_logits.py` writes what is expected."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fusec import driver
from fusec.models.gguf_file import open_gguf
from fusec.models.small import TRAITS, config_of
from tests.golden.make_logits import EVERY, FOLDER, VERSION, digest, small_model

BOUND = 5e-5  # of the norm of the logits
TABLE_BOUND = 1e-3  # where llama.cpp reads GELU from a table of f16
MAKE = "python -m tests.golden.make_logits"


def test_there_are_logits_of_every_architecture() -> None:
    missing = TRAITS.keys() - {path.stem for path in FOLDER.glob("*.npz")}
    assert not missing, f"make them with: {MAKE} {' '.join(missing)}"


@pytest.mark.slow
@pytest.mark.parametrize("architecture", TRAITS)
def test_logits_are_those_of_llama_cpp(architecture: str, tmp_path: Path) -> None:
    given = FOLDER / f"{architecture}.npz"
    if not given.exists():
        pytest.skip("no logits")
    path = small_model(architecture, tmp_path)
    with np.load(given) as golden:
        ids, wanted = golden["ids"], golden["logits"]
        assert golden["version"] == VERSION
        assert golden["model"] == digest(open_gguf(path)), f"another model; {MAKE} {architecture}"
    with driver.load(path, "cpu", kv="f32") as engine:
        found = engine.logits(ids.tolist())[:, ::EVERY]
    bound = TABLE_BOUND if config_of(architecture).activation == "gelu" else BOUND
    assert np.linalg.norm(found - wanted) < bound * np.linalg.norm(wanted)
