"""The files of a model: one, or the parts that llama-gguf-split made of it.

Part N of M is called `NAME-0000N-of-0000M.gguf`. Its keys `split.no` (from 0) and `split.count` say
so again, and `split.tensors.count` how many tensors all have together. The first has the metadata.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fusec.errors import FusecError
from fusec.models.gguf_metadata import Metadata
from fusec.models.gguf_scan import Layout, scan
from fusec.models.quant_bytes import Bytes

OWN = ("split.no", "general.alignment")  # keys in which the parts of a model may differ


@dataclass(frozen=True, eq=False)
class Part:
    """A mapped file whose structure has been checked."""

    path: Path
    mapped: Bytes
    layout: Layout
    metadata: Metadata

    @classmethod
    def open(cls, path: Path) -> Part:
        """Raises FusecError, naming the file and the fault, for what is no complete GGUF file."""
        try:
            if not path.exists():
                raise FusecError(f"{path}: no such file")
            if path.is_dir():
                raise FusecError(
                    f"{path}: expected a GGUF file, found a folder (those of fusec compile -o can "
                    f"be run, inspected and compared)"
                )
            if not path.is_file():
                raise FusecError(f"{path}: expected a GGUF file, found something that is no file")
            if path.stat().st_size == 0:
                raise FusecError(f"{path}: the file is empty")
            mapped = np.asarray(np.memmap(path, np.uint8, "r"))
        except OSError as error:
            raise FusecError(f"{path}: cannot be read: {error.strerror}") from error
        layout = scan(path, mapped.data)
        return cls(path, mapped, layout, Metadata(path, mapped.data, layout.keys))

    def number(self, key: str) -> int:
        """One of the `split.*` keys."""
        return self.metadata.typed(key, int)


def open_parts(path: Path) -> tuple[Part, ...]:
    """The file and, if it is the first part of a split model, all the others.

    Raises FusecError, naming the file and the fault, for another part than the first, and unless
    all are there and belong together.
    """
    first = Part.open(path)
    count = first.metadata.typed("split.count", int, 0)
    number = first.metadata.typed("split.no", int, 0)
    if not 0 <= number < max(count, 1):
        raise FusecError(f"{path}: split.no is {number}, expected 0 to {max(count, 1) - 1}")
    if count <= 1:  # 0 where the parts have been merged again
        return (first,)
    stem = path.name.removesuffix(_suffix(number, count))
    if stem == path.name:
        raise FusecError(
            f"{path}: it is part {number + 1} of {count} of a split model, expected a name that "
            f"ends in '{_suffix(number, count)}'"
        )
    paths = [path.with_name(stem + _suffix(i, count)) for i in range(count)]
    if number:
        raise FusecError(
            f"{path}: it is part {number + 1} of {count} of a split model: open the first, "
            f"{paths[0]}"
        )
    parts = [first]
    for i, other in enumerate(paths[1:], start=1):
        if not other.exists():
            raise FusecError(f"{path}: part {i + 1} of {count} is missing: {other}")
        parts.append(Part.open(other))
        _check(parts[-1], i, first)
    _check_tensors(parts)
    return tuple(parts)


def _suffix(number: int, count: int) -> str:
    return f"-{number + 1:05}-of-{count:05}.gguf"


def _check(part: Part, number: int, first: Part) -> None:
    """Refuse a part that has another number, or keys that are not those of the first."""
    if (found := part.number("split.no")) != number:
        raise FusecError(f"{part.path}: split.no is {found}, expected {number} as its name says")
    for key in ("split.count", "split.tensors.count"):
        if (found := part.number(key)) != (expected := first.number(key)):
            raise FusecError(
                f"{part.path}: {key} is {found}, expected {expected} as in {first.path}"
            )
    for key in part.metadata:
        shared = key in first.metadata and key not in (*OWN, "split.count", "split.tensors.count")
        if shared and not part.metadata.same_value(key, first.metadata):
            raise FusecError(f"{part.path}: metadata key {key!r} is not as in {first.path}")


def _check_tensors(parts: list[Part]) -> None:
    """Refuse parts that have a tensor twice, or fewer than there should be."""
    places: dict[str, Path] = {}
    for part in parts:
        for name in part.layout.tensors:
            if name in places:
                raise FusecError(f"{part.path}: tensor {name!r} is in {places[name]} too")
            places[name] = part.path
    expected = parts[0].number("split.tensors.count")
    if len(places) != expected:
        raise FusecError(
            f"{parts[0].path}: its {len(parts)} parts have {len(places)} tensors, "
            f"split.tensors.count is {expected}"
        )
