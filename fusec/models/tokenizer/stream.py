"""Decoding one token at a time."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import Protocol


class Pieces(Protocol):
    """What a tokenizer knows of its tokens' bytes."""

    @property
    def leading_space(self) -> bool:
        """Whether a text's first token begins with a space that is not the text's."""

    def token_bytes(self, token: int, skip_special: bool = True) -> bytes:
        """The bytes of a token; none for a special one that is skipped."""


class StreamDecoder:
    """Decodes token by token: the pushed pieces and the finish join to `decode` of all the ids.

    A character spread over several tokens comes out whole with the last of them. `context` holds
    the ids that came before, whose text is not given again: after a prompt, a leading space of the
    first new token is kept.
    """

    def __init__(
        self, tokenizer: Pieces, context: Sequence[int] = (), *, skip_special: bool = True
    ) -> None:
        self._tokenizer = tokenizer
        self._skip_special = skip_special
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._at_start = tokenizer.leading_space
        for token in context:
            self.push(token)

    def push(self, token: int) -> str:
        """The text that became complete with this token, often '' inside a character."""
        return self.text(self._tokenizer.token_bytes(token, self._skip_special))

    def text(self, raw: bytes) -> str:
        """The text that became complete with these bytes."""
        return self._trim(self._utf8.decode(raw))

    def finish(self) -> str:
        """What is left: U+FFFD if the last character is incomplete, else ''."""
        return self._trim(self._utf8.decode(b"", final=True))

    def _trim(self, text: str) -> str:
        if self._at_start and text:
            self._at_start = False
            return text.removeprefix(" ")
        return text
