"""GPU tests are skipped where the driver finds no GPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fusec.errors import FusecError
from fusec.models.synth import PRESETS, synthesize
from fusec.runtime.cuda.driver import Driver


def why_not() -> str | None:
    try:
        Driver().close()
    except FusecError as error:
        return str(error)
    return None


@pytest.fixture(scope="session", autouse=True)
def gpu() -> None:
    if reason := why_not():
        pytest.skip(reason)


@pytest.fixture(scope="session")
def stories(shared_data: Path) -> Path:
    return shared_data / "stories260K.gguf"


@pytest.fixture(scope="session")
def projecting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with heads that project what they attend to at -O3."""
    sizes = {"width": 192, "heads": 3, "kv_heads": 1, "head_dim": 64, "rope_dims": 64}
    config = replace(PRESETS["tiny"], layers=2, context=2048, **sizes)
    return synthesize(config, tmp_path_factory.mktemp("models") / "projecting.gguf")


@pytest.fixture(scope="session")
def tiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose rows are long enough for tiles; neighbouring launches share processors."""
    sizes = {"width": 2048, "heads": 32, "kv_heads": 8, "head_dim": 64, "rope_dims": 64}
    config = replace(PRESETS["tiny"], layers=2, context=512, ffn_width=4096, **sizes)
    return synthesize(config, tmp_path_factory.mktemp("models") / "tiled.gguf")


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthesize("smollm2-135m", tmp_path_factory.mktemp("models") / "smollm2-135m.gguf")
