"""Fixtures shared by all tests."""

from pathlib import Path

import pytest

from fusec.models.synth import synthesize

SHARED_DATA = Path(__file__).parents[1] / "../shared/data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real models and tokenizers; tests that need it are skipped without it."""
    if not SHARED_DATA.is_dir():
        pytest.skip("no shared test data beside the repository")
    return SHARED_DATA.resolve()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A synthetic model in llama.cpp's IQ4_XS mix: iq4_nl, iq4_xs, q5_k, q8_0 and f32 tensors."""
    return synthesize("tiny", tmp_path_factory.mktemp("models") / "tiny.gguf")
