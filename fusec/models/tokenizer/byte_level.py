"""BPE by a table of merges: over letters that stand for bytes (GPT-2's), or over UTF-8 as it is.

The `tokenizers` library does the work.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import tokenizers
from tokenizers import Regex, pre_tokenizers
from tokenizers.models import BPE

from fusec.models.tokenizer.pre import Pre
from fusec.models.tokenizer.sentencepiece import SPACE
from fusec.models.tokenizer.vocabulary import TokenType


def byte_alphabet() -> list[str]:
    """The character that byte-level BPE writes for each byte value, from the GPT-2 encoder.

    Printable Latin-1 bytes stand for themselves; the others, in order, are U+0100 and up.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


_BYTE_OF = {char: byte for byte, char in enumerate(byte_alphabet())}


class MergeTable:
    """`merges` as the file writes them, two parts and a space between, best first.

    Raises ValueError for a merge of tokens that do not exist.
    """

    def __init__(self, texts: Sequence[str], merges: Sequence[str], pre: Pre) -> None:
        vocab: dict[str, int] = {}
        for token, text in enumerate(texts):
            vocab.setdefault(text, token)
        parts = []
        for merge in merges:
            left, _, right = merge[1:].partition(" ")  # a part is never empty, but may be a space
            parts.append((merge[:1] + left, right))
        try:
            model = BPE(vocab, parts, ignore_merges=pre.ignores_merges, byte_fallback=pre.is_raw)
        # The library raises plain Exception.
        except Exception as error:
            raise ValueError(str(error)) from error
        cuts = [pre_tokenizers.Split(Regex(cut), "isolated") for cut in pre.cuts]
        letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        self._backend = tokenizers.Tokenizer(model)
        self._backend.pre_tokenizer = pre_tokenizers.Sequence(
            [*cuts, *([] if pre.is_raw else [letters])]
        )
        self._is_raw = pre.is_raw
        # Gemma 4: line breaks that are a token are that token
        self._line_breaks = {
            text: token for text, token in vocab.items() if pre.is_raw and not text.strip("\n")
        }

    def encode(self, text: str) -> list[int]:
        """The ids of a text without special tokens; characters without a token are left out."""
        if not self._is_raw:
            return list(self._backend.encode(text, add_special_tokens=False).ids)
        ids: list[int] = []
        for line in re.findall(r"\n+|[^\n]+", text.replace(" ", SPACE)):
            token = self._line_breaks.get(line)
            if token is None:
                ids += self._backend.encode(line, add_special_tokens=False).ids
            else:
                ids.append(token)
        return ids


def letters_to_bytes(text: str, kind: int) -> bytes:
    """The bytes of a byte-level BPE token; special and user-defined ones are written out."""
    if kind == TokenType.UNUSED:
        return b""
    if kind == TokenType.NORMAL:
        values = [_BYTE_OF.get(char, -1) for char in text]
        if -1 not in values:
            return bytes(values)
    return text.encode()
