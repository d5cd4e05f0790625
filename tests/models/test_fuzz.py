"""Damaged GGUF files: read or refused, in time, in bounded memory.

benchmarks/fuzz_gguf.py damages many more.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from gguf import GGUFValueType as T
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from fusec.errors import FusecError
from fusec.models import gguf_scan
from fusec.models.gguf_file import open_gguf
from tests import gguf_fuzz
from tests.gguf_bytes import gguf, string, tensor_info, u32, u64
from tests.models.corpus import make

SEEDS = gguf_fuzz.corpus()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A place for damaged files."""
    folder = tmp_path_factory.mktemp("fuzz")
    gguf_fuzz.warm_up(folder, SEEDS)
    return folder


def test_the_corpus_is_as_it_is_made() -> None:
    assert {name: content for name, (content, _) in SEEDS.items()} == make.files()
    assert sum(len(content) for content, _ in SEEDS.values()) < 32_000


def test_undamaged_files_are_models(folder: Path) -> None:
    for name, (content, _) in SEEDS.items():
        good = gguf_fuzz.read(gguf_fuzz.place(folder, name, content, SEEDS))
        assert good == (name != "types.bin")


@pytest.mark.slow
@settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],
)
@given(st.integers(0, 1 << 32))
def test_damaged_files(folder: Path, seed: int) -> None:
    for i in range(20):  # hypothesis itself takes longer than a file
        random = Random(f"{seed}:{i}")
        name = random.choice(list(SEEDS))
        content = gguf_fuzz.damaged(random, SEEDS, name)
        gguf_fuzz.read(gguf_fuzz.place(folder, name, content, SEEDS))


def hang(path: Path) -> bool:
    while True:
        pass


def crash(path: Path) -> bool:
    raise ZeroDivisionError


def hog(path: Path) -> bool:
    return len(bytearray(1_000_000)) > 0


@pytest.mark.parametrize(
    ("wrong", "finding"),
    [(hang, "not done after"), (crash, "ZeroDivisionError"), (hog, "bytes of memory, expected")],
)
def test_what_the_fuzz_finds(
    folder: Path, monkeypatch: pytest.MonkeyPatch, wrong: Callable[[Path], bool], finding: str
) -> None:
    monkeypatch.setattr(gguf_fuzz, "_everything", wrong)
    monkeypatch.setattr(gguf_fuzz, "SECONDS", 0.1)
    path = gguf_fuzz.place(folder, "types.bin", SEEDS["types.bin"][0], SEEDS)
    with pytest.raises(gguf_fuzz.Finding, match=finding):
        gguf_fuzz.read(path)


N = 20_000
LARGE = {
    "strings": gguf([string("a") + u32(T.ARRAY) + u32(T.STRING) + u64(N) + string("ab") * N]),
    "empty strings": gguf([string("a") + u32(T.ARRAY) + u32(T.STRING) + u64(N) + string("") * N]),
    "bytes": gguf([string("a") + u32(T.ARRAY) + u32(T.UINT8) + u64(N * 8) + bytes(N * 8)]),
    "text": gguf([string("a") + u32(T.STRING) + string("a" * N * 8)]),
}


@pytest.mark.parametrize("content", LARGE.values(), ids=LARGE)
def test_opening_takes_no_memory_for_values(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "large.gguf"
    path.write_bytes(content)
    tracemalloc.start()
    file = open_gguf(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert list(file.metadata) == ["a"]
    assert peak < 60_000 < len(content)


def test_counts_that_take_memory_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert gguf_scan.MAX_KEYS >= 65536 and gguf_scan.MAX_TENSORS >= 65536
    monkeypatch.setattr(gguf_scan, "MAX_KEYS", 9)
    monkeypatch.setattr(gguf_scan, "MAX_TENSORS", 9)
    keys = [string(f"{i}") + u32(T.BOOL) + b"\0" for i in range(10)]
    tensors = [tensor_info(f"{i}", (8,), offset=32 * i) for i in range(10)]
    path = tmp_path / "many.gguf"
    for content, what in (
        (gguf(keys), "the metadata key count"),
        (gguf(tensors=tensors, data=bytes(320)), "the tensor count"),
    ):
        path.write_bytes(content)
        with pytest.raises(FusecError, match=f"{what} is 10, expected at most 9"):
            open_gguf(path)
    path.write_bytes(gguf(keys[:9], tensors[:9], bytes(320)))
    assert len(open_gguf(path).tensors) == 9
