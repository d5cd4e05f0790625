"""SentencePiece BPE: any two neighbours that together are a piece may merge, best score first.

This is `llm_tokenizer_spm_session` of llama.cpp (src/llama-vocab.cpp), and SentencePiece's own
bpe_model.cc: a queue of neighbours by score, then by place. A table of merges cannot say it: which
of two equal scores is merged depends on where they stand, and a piece of high score may only come
about by merges of lower ones.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from heapq import heapify, heappop, heappush
from itertools import groupby

from fusec.errors import FusecError
from fusec.models.tokenizer.vocabulary import TokenType

SPACE = "\u2581"  # SentencePiece writes a space as this lower block

REMEMBERED = 1 << 16  # words; text repeats them

NEVER_MERGED = (TokenType.CONTROL, TokenType.UNKNOWN, TokenType.BYTE)


class SentencePiece:
    """The merges of a vocabulary whose pieces have `scores`.

    Control, unknown and byte tokens never come from merging. `byte_ids` are the ids of `<0x00>` and
    so on, for characters that are no piece; where some are missing such a character is the token
    `unknown`.
    """

    def __init__(
        self,
        texts: Sequence[str],
        types: Sequence[int],
        scores: Sequence[float],
        byte_ids: dict[int, int],
        unknown: int | None,
    ) -> None:
        self._pieces = {
            text: (-score, token)
            for token, (text, kind, score) in enumerate(zip(texts, types, scores, strict=True))
            if kind not in NEVER_MERGED
        }
        self._byte_ids = byte_ids
        self._unknown = unknown
        self._word_ids = lru_cache(REMEMBERED)(self._merge)
        # No piece reaches over a place between a character and a space behind it, unless such a
        # place lies within some piece: then words are merged apart, and each only once.
        before = {
            text[at - 1]
            for text in self._pieces
            if SPACE in text
            for at in range(1, len(text))
            if text[at] == SPACE
        }
        inside = "".join(map(re.escape, sorted(before)))
        self._cut = re.compile(f"(?<=[^{inside}])(?={SPACE})" if inside else f"(?!^)(?={SPACE})")

    def encode(self, text: str) -> list[int]:
        """The ids of a text without special tokens. Neighbouring unknown characters are one.

        Raises FusecError for a character that no token stands for.
        """
        escaped = text.replace(" ", SPACE)
        ids = [token for word in self._cut.split(escaped) for token in self._word_ids(word)]
        if self._unknown is None or self._unknown not in ids:
            return ids
        groups = ((token, list(run)) for token, run in groupby(ids))
        return [t for token, run in groups for t in (run[:1] if token == self._unknown else run)]

    def _merge(self, word: str) -> tuple[int, ...]:
        pieces, count = self._pieces, len(word)
        size = [1] * count  # characters of the symbol that begins here; 0: merged into another
        before, behind = list(range(-1, count - 1)), list(range(1, count + 1))

        def bigram(left: int, right: int) -> list[tuple[float, int, int, int]]:
            length = size[left] + size[right]
            piece = pieces.get(word[left : left + length])
            return [] if piece is None else [(piece[0], left, right, length)]

        queue = [pair for left in range(count - 1) for pair in bigram(left, left + 1)]
        heapify(queue)
        while queue:
            _, left, right, length = heappop(queue)
            if not size[left] or not size[right] or size[left] + size[right] != length:
                continue  # one of them has grown or is gone
            size[left], size[right] = length, 0
            follower = behind[left] = behind[right]
            if follower < count:
                before[follower] = left
                for pair in bigram(left, follower):
                    heappush(queue, pair)
            if before[left] >= 0:
                for pair in bigram(before[left], left):
                    heappush(queue, pair)
        ids: list[int] = []
        at = 0
        while at < count:
            ids += self._symbol_ids(word[at : at + size[at]])
            at = behind[at]
        return tuple(ids)

    def _symbol_ids(self, symbol: str) -> list[int]:
        if (piece := self._pieces.get(symbol)) is not None:
            return [piece[1]]
        raw = symbol.encode()
        if all(byte in self._byte_ids for byte in raw):
            return [self._byte_ids[byte] for byte in raw]
        if self._unknown is not None:
            return [self._unknown]
        raise FusecError(f"the text has {symbol!r}, for which the vocabulary has no token")


def byte_of(text: str) -> int:
    """The value of a byte token. Raises ValueError for one that is none."""
    if not re.fullmatch("<0x[0-9A-Fa-f]{2}>", text):
        raise ValueError(f"byte token {text!r} is not of the form '<0xE2>'")
    return int(text[1:-1], 16)


def piece_to_bytes(text: str, kind: int) -> bytes:
    """The bytes of a SentencePiece token."""
    if kind == TokenType.UNUSED:
        return b""
    if kind == TokenType.BYTE:
        return bytes([byte_of(text)])
    return text.replace(SPACE, " ").encode()
