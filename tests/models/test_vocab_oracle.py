"""llama.cpp's own vocabularies, with the ids that it expects for some fifty texts each.

They are in the source distribution of llama-cpp-python, in llama.cpp's folder `models`:
ggml-vocab-*.gguf with texts in .inp and ids in .out.
"""

from pathlib import Path

import pytest

from fusec.errors import FusecError
from fusec.models.gguf_file import open_gguf
from fusec.models.tokenizer import Tokenizer
from tests.package_index import from_source

NAMES = (
    *("command-r", "deepseek-coder", "deepseek-llm", "falcon", "gemma-4", "gpt-2", "llama-bpe"),
    *("llama-spm", "mpt", "phi-3", "qwen2", "qwen35", "refact", "starcoder"),
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("llama.cpp's vocabularies"),  # one process fetches them
]


@pytest.fixture(scope="module")
def vocabularies() -> Path:
    """Their folder."""
    return from_source(
        "llama-cpp-python==0.3.36",
        "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e",
        "*/vendor/llama.cpp/models/ggml-vocab-*",
        "llama.cpp-0.3.36-vocabularies",
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_ids_are_llama_cpps(name: str, vocabularies: Path) -> None:
    path = vocabularies / f"ggml-vocab-{name}.gguf"
    tokenizer = Tokenizer.from_gguf(open_gguf(path))
    given, wanted = (path.with_name(f"{path.name}.{end}") for end in ("inp", "out"))
    texts = given.read_bytes().decode().split("\n__ggml_vocab_test__\n")
    lines = wanted.read_text().splitlines()
    assert len(texts) >= len(lines) > 40
    for text, line in zip(texts, lines, strict=False):
        ids = [int(word) for word in line.split()]
        assert tokenizer.encode(text, bos=False, special=False) == ids, repr(text)
        assert tokenizer.decode(ids, skip_special=False) == text


def test_no_vocabulary_with_expected_ids_is_left_out(vocabularies: Path) -> None:
    found = {p.name.split(".")[0].removeprefix("ggml-vocab-") for p in vocabularies.glob("*.out")}
    assert found == {*NAMES, "bert-bge"}


@pytest.mark.parametrize(("name", "kind"), [("bert-bge", "bert"), ("nomic-bert-moe", "t5")])
def test_vocabularies_of_models_that_do_not_write_are_refused(
    name: str, kind: str, vocabularies: Path
) -> None:
    path = vocabularies / f"ggml-vocab-{name}.gguf"
    with pytest.raises(FusecError, match=rf"{name}.gguf: tokenizer model '{kind}' is not suppor"):
        Tokenizer.from_gguf(open_gguf(path))
