"""A model whose logits are no numbers: commands say so, give no tokens, and fail."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fusec.errors import FusecError
from fusec.models.gguf_file import open_gguf
from fusec.models.shipped import SHIPPED
from fusec.perplexity import perplexity_of
from tests.command import fusec, refused

pytestmark = pytest.mark.xdist_group("demo")

NOT_FINITE = "are not finite: found nan"


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model with a weight that is not a number."""
    good = SHIPPED["demo"]
    content = bytearray(good.read_bytes())
    start = open_gguf(good).tensors["output_norm.weight"].offset
    content[start : start + 4] = np.float32(np.nan).tobytes()
    path = tmp_path_factory.mktemp("models") / "broken.gguf"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("temperature", [0, 0.8])
def test_run(broken: Path, temperature: float) -> None:
    options = ("--prompt-ids", "1,2,3", "-n", 6, "--temp", temperature)
    found = refused("run", broken, *options, "--json")
    assert f"the logits behind token 3 at position 2 {NOT_FINITE}" in found
    assert "try --kv f32" in found
    plain = fusec("run", broken, *options)
    assert (plain.code, plain.out) == (2, "")


def test_a_compiled_folder(broken: Path, tmp_path: Path) -> None:
    folder = tmp_path / "broken"
    assert fusec("compile", broken, "-o", folder, "--context", 64).code == 0
    assert NOT_FINITE in refused("run", folder, "--prompt-ids", "1", "-n", 1)


def test_perplexity(broken: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("once upon a time there was " * 60)
    assert NOT_FINITE in refused("perplexity", broken, text, "-c", 32, "--chunks", 1)


def test_bench(broken: Path) -> None:
    assert NOT_FINITE in refused("bench", broken, "-n", 4, "-O", 2, "--repeats", 1)


@pytest.mark.slow
def test_verify(broken: Path) -> None:
    assert NOT_FINITE in refused("verify", broken, "--level", 2, "--tokens", 4, "--kv", "f16")


def test_a_perplexity_that_no_number_is_large_enough_for() -> None:
    assert perplexity_of(0.0) == 1.0
    for loss in (float("inf"), float("nan"), 710.0, 1e9):
        with pytest.raises(FusecError, match=r"the perplexity is not finite: .* mean loss of"):
            perplexity_of(loss)
