"""Finding whole tokens written out in a text, before anything else is done with it."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping


class Partition:
    """Cuts a text into tokens of a set, as ids, and the strings between them.

    The leftmost token is taken, of several that begin there the longest. White space behind a
    token of `trimming` is dropped.
    """

    def __init__(self, tokens: Mapping[str, int], trimming: Collection[int] = ()) -> None:
        self._tokens = tokens
        self._trimming = trimming
        lengths: dict[str, set[int]] = defaultdict(set)
        for text in tokens:
            lengths[text[0]].add(len(text))
        self._lengths = {first: sorted(found, reverse=True) for first, found in lengths.items()}
        self._first = re.compile(f"[{''.join(map(re.escape, lengths))}]") if lengths else None

    def __call__(self, text: str) -> Iterator[str | int]:
        """The parts in order; no part is empty."""
        start = at = 0
        while self._first and (match := self._first.search(text, at)):
            at = match.start()
            found = next(
                (p for n in self._lengths[match[0]] if (p := text[at : at + n]) in self._tokens), ""
            )
            if not found:
                at += 1
                continue
            if at > start:
                yield text[start:at]
            token = self._tokens[found]
            yield token
            at += len(found)
            if token in self._trimming:
                at = len(text) - len(text[at:].lstrip(" \t\n\v\f\r"))
            start = at
        if start < len(text):
            yield text[start:]
