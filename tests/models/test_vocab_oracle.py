"""llama.cpp's own vocabularies, with the ids that it expects for some fifty texts each.

They are in its repository and in the source distribution of llama-cpp-python, in llama.cpp's folder
`models`: ggml-vocab-*.gguf with texts in .inp and ids in .out. FUSEC_LLAMA_VOCABS names the folder;
without it these tests are skipped.
"""

import os
from pathlib import Path

import pytest

from fusec.models.gguf_file import open_gguf
from fusec.models.tokenizer import Tokenizer
from fusec.models.tokenizer.tokenizer import KINDS

FOLDER = Path(os.environ.get("FUSEC_LLAMA_VOCABS") or "none")
FILES = sorted(FOLDER.glob("ggml-vocab-*.gguf"))

pytestmark = pytest.mark.skipif(not FILES, reason="FUSEC_LLAMA_VOCABS names no vocabularies")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem.removeprefix("ggml-vocab-"))
def test_the_ids_are_llama_cpps(path: Path) -> None:
    file = open_gguf(path)
    if file.get("tokenizer.ggml.model", str) not in KINDS:
        pytest.skip("a vocabulary of another kind")
    tokenizer = Tokenizer.from_gguf(file)
    given, wanted = (path.with_name(f"{path.name}.{end}") for end in ("inp", "out"))
    if not given.exists():
        pytest.skip("a vocabulary without texts")
    texts = given.read_bytes().decode().split("\n__ggml_vocab_test__\n")
    lines = wanted.read_text().splitlines()
    assert len(texts) >= len(lines) > 40
    for text, line in zip(texts, lines, strict=False):
        ids = [int(word) for word in line.split()]
        assert tokenizer.encode(text, bos=False, special=False) == ids, repr(text)
        assert tokenizer.decode(ids, skip_special=False) == text
