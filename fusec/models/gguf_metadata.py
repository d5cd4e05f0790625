"""The keys of a GGUF file, decoded when somebody looks at them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
from gguf.constants import GGUFValueType

from fusec.errors import FusecError
from fusec.models.gguf_scan import SCALARS, Span, decode_text

Kind = TypeVar("Kind", str, int, float, bool, list[Any])

MISSING: Final[Any] = object()


class Metadata(Mapping[str, Any]):
    """A file's keys and values; a value is decoded when first looked at."""

    def __init__(self, path: Path, view: memoryview, spans: dict[str, Span]) -> None:
        self._path = path
        self._view = view
        self._spans = spans
        self._decoded: dict[str, Any] = {}

    def __getitem__(self, key: str) -> Any:
        if key not in self._decoded:
            values = self._decode(key, self._spans[key])
            self._decoded[key] = values if self._spans[key].is_array else values[0]
        return self._decoded[key]

    def __contains__(self, key: object) -> bool:
        return key in self._spans  # Mapping's own would decode the value

    def __iter__(self) -> Iterator[str]:
        return iter(self._spans)

    def __len__(self) -> int:
        return len(self._spans)

    def type_of(self, key: str) -> tuple[GGUFValueType, bool]:
        """The type of a value, or of an array's items, and whether it is an array."""
        span = self._spans[key]
        return span.type, span.is_array

    def typed(self, key: str, kind: type[Kind], default: Kind = MISSING) -> Kind:
        """The value of `key` as `kind` (str, int, float, bool or list).

        Whole numbers may be of any width. They are accepted where a float is wanted, and 0 and 1
        where a truth value is. Raises FusecError for a value of another type, and for a missing key
        unless a default is given.
        """
        if key not in self:
            if default is MISSING:
                raise FusecError(f"{self._path}: metadata key {key!r} is missing")
            return default
        if self._spans[key].is_array and kind is not list:  # an array may take long to decode
            raise self._mistyped(key, kind, "list")
        value = self[key]
        if kind is float and type(value) is int:
            value = float(value)
        elif kind is bool and type(value) is int and value in (0, 1):
            value = bool(value)
        if type(value) is not kind:
            raise self._mistyped(key, kind, type(value).__name__)
        return value

    def array_length(self, key: str) -> int:
        """How many items the array has, 0 if the key is missing. Nothing is decoded for it."""
        if key not in self:
            return 0
        if not self._spans[key].is_array:
            raise self._mistyped(key, list, type(self[key]).__name__)
        return self._spans[key].count

    def head(self, key: str, count: int) -> list[Any]:
        """The first items of an array, up to `count`, without decoding the rest."""
        span = self._spans[key]
        return self._decode(key, replace(span, count=min(count, span.count)))

    def same_value(self, key: str, other: Metadata) -> bool:
        """Whether `other` has the same bytes as the value of `key`."""
        return self.type_of(key) == other.type_of(key) and self._raw(key) == other._raw(key)

    def _raw(self, key: str) -> memoryview:
        return self._view[self._spans[key].start : self._spans[key].end]

    def _mistyped(self, key: str, kind: type, found: str) -> FusecError:
        return FusecError(
            f"{self._path}: metadata key {key!r} should be {kind.__name__}, found {found}"
        )

    def _decode(self, key: str, span: Span) -> list[Any]:
        if span.type is GGUFValueType.STRING:
            places = list(span.strings(self._view))
            try:  # tens of thousands of tokens
                return [str(self._view[start:end], "utf-8") for start, end in places]
            except UnicodeDecodeError:
                what = f"a string of {key!r}"
                return [decode_text(self._path, self._view[s:e], what) for s, e in places]
        raw = np.frombuffer(self._view, SCALARS[span.type], span.count, span.start)
        if span.type is GGUFValueType.BOOL and raw.view(np.uint8).max(initial=0) > 1:
            raise FusecError(f"{self._path}: metadata key {key!r} is neither true nor false")
        return raw.tolist()
