"""Files that commands write: whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fusec.errors import FusecError, reason


def write_whole(path: Path, content: str | bytes, *, make_folder: bool = False) -> None:
    """Write a file, or leave what is there as it is. Raises FusecError if that cannot be.

    A device or a pipe, such as /dev/stdout, is written to, not replaced.
    """
    data = content.encode() if isinstance(content, str) else content
    with refused(path):
        if make_folder:
            path.parent.mkdir(parents=True, exist_ok=True)
        if _is_device(path):
            with path.open("wb") as stream:
                stream.write(data)
            return
        with beside(path) as temporary:
            temporary.write_bytes(data)


def check_place(path: Path) -> None:
    """Raise FusecError if `write_whole` could not write there: before the long work, not after."""
    with refused(path):
        if not _is_device(path):
            _temporary(path).touch()
            _temporary(path).unlink()


def check_outputs(outputs: Iterable[Path | None], *inputs: Path | None) -> None:
    """Raise FusecError for an output that cannot be written, or that would replace an input."""
    taken = [(path, "read") for path in inputs if path is not None]
    for path in outputs:
        if path is None:
            continue
        check_place(path)
        for other, use in taken:
            if not _is_device(path) and _same(path, other):
                raise FusecError(f"{path}: cannot write here: the file is {use} as well")
        taken.append((path, "another output"))


def _same(path: Path, other: Path) -> bool:
    try:
        return path.resolve() == other.resolve() or path.samefile(other)
    except OSError:
        return False


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """A file to write, which takes the place of `path` unless something goes wrong."""
    temporary = _temporary(path)
    try:
        yield temporary
        temporary.replace(path.resolve())  # a link goes on pointing where it points
    finally:
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def refused(path: Path) -> Iterator[None]:
    """What the system refuses inside is a FusecError about `path`."""
    if not path.name:
        raise FusecError(f"expected the name of a file, found '{path}'")
    try:
        yield
    except OSError as error:
        raise FusecError(f"{path}: cannot write here: {reason(error)}") from None


def _temporary(path: Path) -> Path:
    target = path.resolve()
    if target.is_dir():
        raise IsADirectoryError(None, "Is a directory")
    return target.with_name(f".{path.name}.{os.getpid()}{path.suffix}")


def _is_device(path: Path) -> bool:
    return path.exists() and not path.is_file() and not path.is_dir()
