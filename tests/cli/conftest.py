"""A compiled folder, and the check that a command left everything as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.command import fusec


@pytest.fixture(scope="module")
def compiled(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model as a folder."""
    folder = tmp_path_factory.mktemp("compiled") / "tiny"
    ran = fusec("compile", tiny_model, "-o", folder, "--context", 64, "--kv", "f32")
    assert ran.code == 0, ran.err
    assert f"fusec run {folder}" in ran.out
    return folder


def contents(folder: Path) -> dict[str, bytes | None]:
    return {
        str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None
        for p in folder.rglob("*")
    }


@pytest.fixture
def unchanged(tmp_path: Path) -> Iterator[Callable[[], None]]:
    """Call it when the folder is as it should stay; the end of the test compares."""
    before: list[dict[str, bytes | None]] = []
    yield lambda: before.append(contents(tmp_path))
    assert before == [contents(tmp_path)]
