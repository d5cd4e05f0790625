"""Caches of what follows from the op table: they are emptied when the table changes."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import ParamSpec, TypeVar, cast

P = ParamSpec("P")
R = TypeVar("R")

_clear: list[Callable[[], None]] = []


def remembered(size: int) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorate a function whose last `size` results are kept, as long as the op table stays."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        kept = lru_cache(size)(function)
        _clear.append(kept.cache_clear)
        return cast(Callable[P, R], kept)

    return decorate


def forget() -> None:
    """Empty all of them."""
    for clear in _clear:
        clear()
