"""The `ARCH.*` keys of a model file: read by name; keys that nothing knows are refused.

A key that is silently ignored may change what the model computes. So an architecture reads its
hyperparameters through `Hyperparameters`, which remembers their names, and says in one of three
ways what it knows of a key:

- it reads it: `count`, `per_layer`, `real`, `flag`, `text`;
- the key changes nothing, whatever it says: `ignore`;
- the key changes nothing while it says what the graph does anyway: `only`.

`refuse_unknown` then refuses every other key of the architecture. `Architecture.read_config` calls
it, so no architecture can forget to.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from fusec.errors import FusecError
from fusec.models.gguf_file import GGUFFile
from fusec.models.gguf_metadata import MISSING

SHOWN = 60  # characters of a value in an error


class Hyperparameters:
    """A file's keys of its own architecture, by their names without `ARCH.` in front."""

    def __init__(self, file: GGUFFile) -> None:
        self.file = file
        self._prefix = f"{file.architecture}."
        self._known: set[str] = set()

    def key(self, name: str) -> str:
        """The whole key, as the file and errors have it."""
        return self._prefix + name

    def has(self, name: str) -> bool:
        """Whether the file has the key. To look is not to read."""
        return self.key(name) in self.file.metadata

    def count(self, name: str, default: int = MISSING, *, least: int = 1) -> int:
        """A whole number of at least `least`."""
        value = self.file.get(self._reading(name), int, default)
        if value < least:
            raise self._fail(f"{self.key(name)} is {value}, expected at least {least}")
        return value

    def per_layer(self, name: str, layers: int, default: int = MISSING) -> int:
        """A `count` that may be written once for each of `layers` layers, if all are the same."""
        values = self.file.metadata.get(self._reading(name))
        if not isinstance(values, list):
            return self.count(name, default)
        if len(values) != layers:
            raise self._fail(f"{self.key(name)} has {len(values)} numbers, for {layers} layers")
        for value in values:
            if type(value) is not int:
                raise self._fail(f"{self.key(name)} should hold int, found {type(value).__name__}")
            if value != values[0]:
                raise self._fail(
                    f"{self.key(name)} is {values[0]} in one layer and {value} in another, "
                    "expected the same in all"
                )
        if values[0] < 1:
            raise self._fail(f"{self.key(name)} is {values[0]}, expected at least 1")
        return int(values[0])

    def real(self, name: str, default: float = MISSING) -> float:
        """A finite number."""
        value = self.file.get(self._reading(name), float, default)
        if not math.isfinite(value):
            raise self._fail(f"{self.key(name)} is {value}, expected a finite number")
        return value

    def flag(self, name: str, default: bool) -> bool:
        """True or false."""
        return self.file.get(self._reading(name), bool, default)

    def flags(self, name: str, layers: int) -> list[bool]:
        """True or false for each of so many layers."""
        found = self.file.get(self._reading(name), list)
        if len(found) != layers or not all(type(item) in (bool, int) for item in found):
            raise self._fail(
                f"{self.key(name)} should be true or false for each of {layers} layers, "
                f"found {_short(found)}"
            )
        return [bool(item) for item in found]

    def text(self, name: str, default: str = MISSING) -> str:
        """A string."""
        return self.file.get(self._reading(name), str, default)

    def ignore(self, names: Iterable[str]) -> None:
        """Keys that change nothing that is computed, whatever they say."""
        for name in names:
            self._reading(name)

    def only(self, name: str, *values: Any) -> None:
        """A key that changes nothing while it is one of `values`. Raises FusecError for another.

        Numbers are the same up to the rounding of f32, and a truth value may be 0 or 1. In an array
        each item has to be one of `values`.
        """
        found = self.file.metadata.get(self._reading(name), values[0])
        for item in found if isinstance(found, list) else [found]:
            if not any(_same(item, value) for value in values):
                expected = " or ".join(map(repr, values))
                raise self._fail(
                    f"metadata key '{self.key(name)}' is {_short(item)}, which is not supported: "
                    f"expected {expected}"
                )

    def refuse_unknown(self) -> None:
        """Raise FusecError naming the keys of the architecture that were not mentioned."""
        unknown = [
            key
            for key in self.file.metadata
            if key.startswith(self._prefix) and key not in self._known
        ]
        if unknown:
            more = f" (and {len(unknown) - 1} more)" if len(unknown) > 1 else ""
            raise self._fail(
                f"metadata key {_short(unknown[0])}{more} is not known and may change what the "
                "model computes"
            )

    def _reading(self, name: str) -> str:
        key = self.key(name)
        self._known.add(key)
        return key

    def _fail(self, problem: str) -> FusecError:
        return FusecError(f"{self.file.path}: {problem}")


def _same(found: Any, value: Any) -> bool:
    if isinstance(found, str) or isinstance(value, str):
        return bool(found == value)
    return math.isclose(found, value, rel_tol=1e-6)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
