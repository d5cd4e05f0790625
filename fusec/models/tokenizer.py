"""Text to token ids and back, from the vocabulary inside a GGUF file.

Encoding is done by the Hugging Face `tokenizers` library, set up from the metadata. Two kinds of
vocabulary are known, under the names of the GGUF specification:

- `gpt2`: byte-level BPE. The merges are in the file; `tokenizer.ggml.pre` names how text is cut
  into words first.
- `llama`: SentencePiece BPE with byte fallback. The file has a score per piece and no merges: the
  pair whose merged piece scores highest is merged first. Every way to cut a piece into two others
  is therefore a merge, ranked by the score of the piece.

Decoding joins the bytes each token stands for, so it can be done one token at a time.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Sequence
from enum import IntEnum
from functools import cached_property
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, normalizers, pre_tokenizers
from tokenizers.models import BPE

from fusec.errors import FusecError
from fusec.models.gguf_file import GGUFFile

SPACE = "\u2581"  # SentencePiece writes a space as this lower block

# Texts of tokens that end a turn or a document; llama.cpp stops at them whatever the metadata says.
STOP_TEXTS = {
    *("<|im_end|>", "<|endoftext|>", "<|end_of_text|>", "<|end|>", "<|return|>"),
    *("<|eot_id|>", "<|eom_id|>", "<end_of_turn>", "<end_of_utterance>", "<EOT>", "_<EOT>"),
}

GPT2_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"

# How text is cut before byte-level BPE: each expression in turn cuts what the last one left. The
# names and expressions are those of llama.cpp (src/llama-vocab.cpp).
PRE_TOKENIZERS: dict[str, tuple[str, ...]] = {
    "gpt-2": (GPT2_WORDS,),
    "smollm": (r"\p{N}", GPT2_WORDS),
    "default": (r"[\p{P}\$\+<=>\^~\|]+", GPT2_WORDS, r"\p{N}+", r"[0-9][0-9][0-9]"),
}


class TokenType(IntEnum):
    """The values of `tokenizer.ggml.token_type`."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


SPECIAL = (TokenType.CONTROL, TokenType.UNKNOWN)


class Tokenizer:
    """A model's vocabulary. `bos`, `eos` and `eot` are ids, or None where the file has none.

    `adds_bos`: whether a text begins with BOS unless told otherwise.
    """

    def __init__(self, file: GGUFFile) -> None:
        self.path = file.path
        self.kind = _kind(file)
        self.tokens: list[str] = _checked(file, "tokens", str)
        self.types: list[int] = _per_token(file, "token_type", int, self.tokens, TokenType.NORMAL)
        self.bos = self._id(file, "bos_token_id")
        self.eos = self._id(file, "eos_token_id")
        self.eot = self._id(file, "eot_token_id")
        sentencepiece = self.kind == "llama"
        self.adds_bos = file.get("tokenizer.ggml.add_bos_token", bool, sentencepiece)
        self._add_eos = file.get("tokenizer.ggml.add_eos_token", bool, False)
        self._add_space = file.get("tokenizer.ggml.add_space_prefix", bool, sentencepiece)
        self._model = self._sentencepiece(file) if sentencepiece else self._byte_level(file)
        self._cut = None if sentencepiece else _pre_tokenizer(file)
        to_bytes = _piece_bytes if sentencepiece else _byte_level_bytes
        try:
            self._bytes = [to_bytes(*token) for token in zip(self.tokens, self.types, strict=True)]
        except ValueError as error:
            raise FusecError(f"{file.path}: tokenizer.ggml.tokens: {error}") from error

    @classmethod
    def from_gguf(cls, file: GGUFFile) -> Tokenizer:
        """The tokenizer of a model file.

        Raises FusecError when the file has no vocabulary, or one that is damaged or of a kind that
        is not known.
        """
        return cls(file)

    @property
    def vocab_size(self) -> int:
        """The number of token ids."""
        return len(self.tokens)

    @cached_property
    def stop_ids(self) -> frozenset[int]:
        """The ids that end an answer: EOS, EOT, and any token whose text says so."""
        named = {token for token, text in enumerate(self.tokens) if text in STOP_TEXTS}
        return frozenset(named | {token for token in (self.eos, self.eot) if token is not None})

    def encode(self, text: str, *, special: bool = True, bos: bool | None = None) -> list[int]:
        """The ids of `text`.

        With `special`, control tokens written out in the text become their ids; without, they are
        ordinary text. `bos` None adds a beginning (and end) token where the file says so, False
        adds neither, True adds the beginning token anyway.
        """
        try:
            text.encode()
        except UnicodeEncodeError:
            raise FusecError("the text has a lone surrogate and is not valid Unicode") from None
        backend = self._parsing if special else self._literal
        ids: list[int] = backend.encode(text, add_special_tokens=False).ids
        if (self.adds_bos if bos is None else bos) and self.bos is not None:
            ids.insert(0, self.bos)
        if self._add_eos and bos is not False and self.eos is not None:
            ids.append(self.eos)
        return ids

    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
        """The text of `ids`; bytes that are not UTF-8 become U+FFFD."""
        stream = StreamDecoder(self, skip_special=skip_special)
        raw = b"".join(self.token_bytes(token, skip_special) for token in ids)
        return stream.text(raw) + stream.finish()

    def token_bytes(self, token: int, skip_special: bool = True) -> bytes:
        """The bytes one token adds to the text. Raises FusecError for an id out of range."""
        if not 0 <= token < len(self.tokens):
            raise FusecError(
                f"token id {token} is out of range: {self.path} has {len(self.tokens)} tokens"
            )
        if skip_special and self.types[token] in SPECIAL:
            return b""
        return self._bytes[token]

    @property
    def leading_space(self) -> bool:
        """Whether encoding puts a space before the text, which decoding takes away."""
        return self.kind == "llama" and self._add_space

    @cached_property
    def _parsing(self) -> tokenizers.Tokenizer:
        return self._backend(TokenType.USER_DEFINED, *SPECIAL)

    @cached_property
    def _literal(self) -> tokenizers.Tokenizer:
        return self._backend(TokenType.USER_DEFINED)

    def _backend(self, *whole: TokenType) -> tokenizers.Tokenizer:
        """A tokenizer that finds tokens of the types `whole` in the text before all else."""
        backend = tokenizers.Tokenizer(self._model)
        if self._cut is not None:
            backend.pre_tokenizer = self._cut
        else:
            prefix = [normalizers.Prepend(SPACE)] if self._add_space else []
            backend.normalizer = normalizers.Sequence([*prefix, normalizers.Replace(" ", SPACE)])
        # `special` only means that decoding may skip the token, and decoding is done here.
        backend.add_tokens(
            [
                AddedToken(text, normalized=False, special=False)
                for text, kind in zip(self.tokens, self.types, strict=True)
                if kind in whole and text
            ]
        )
        return backend

    def _byte_level(self, file: GGUFFile) -> BPE:
        merges = []
        for merge in _checked(file, "merges", str):
            left, _, right = merge[1:].partition(" ")  # a part is never empty, but may be a space
            merges.append((merge[:1] + left, right))
        return self._bpe(merges)

    def _sentencepiece(self, file: GGUFFile) -> BPE:
        scores = _per_token(file, "scores", float, self.tokens)
        unknown = self._id(file, "unknown_token_id")
        return self._bpe(
            score_merges(self.tokens, scores, self.types),
            unk_token=None if unknown is None else self.tokens[unknown],
            fuse_unk=True,
            byte_fallback=True,
        )

    def _bpe(self, merges: list[tuple[str, str]], **options: Any) -> BPE:
        vocab: dict[str, int] = {}
        for token, text in enumerate(self.tokens):
            vocab.setdefault(text, token)
        try:
            return BPE(vocab, merges, **options)
        # The library raises plain Exception for a merge of tokens that do not exist.
        except Exception as error:
            raise FusecError(f"{self.path}: tokenizer.ggml.merges: {error}") from error

    def _id(self, file: GGUFFile, name: str) -> int | None:
        key = f"tokenizer.ggml.{name}"
        if key not in file.metadata:
            return None
        token = file.get(key, int)
        if not 0 <= token < len(self.tokens):
            raise FusecError(f"{file.path}: {key} is {token}, out of {len(self.tokens)} tokens")
        return token


class StreamDecoder:
    """Decodes token by token: the pushed pieces and the finish join to `decode` of all the ids.

    A character spread over several tokens comes out whole with the last of them. `context` holds
    the ids that came before, whose text is not given again: after a prompt, a leading space of the
    first new token is kept.
    """

    def __init__(
        self, tokenizer: Tokenizer, context: Sequence[int] = (), *, skip_special: bool = True
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


def score_merges(
    tokens: Sequence[str], scores: Sequence[float], types: Sequence[int]
) -> list[tuple[str, str]]:
    """The BPE merges that pieces with scores stand for, best first.

    Control, unknown and byte pieces take no part, as in SentencePiece. Pieces of equal score are
    ranked by id.
    """
    mergeable = {TokenType.NORMAL, TokenType.UNUSED}
    pieces = {
        text: (-score, token)
        for token, (text, score, kind) in enumerate(zip(tokens, scores, types, strict=True))
        if kind in mergeable
    }
    ranked = sorted(pieces, key=pieces.__getitem__)
    return [
        (piece[:cut], piece[cut:])
        for piece in ranked
        for cut in range(1, len(piece))
        if piece[:cut] in pieces and piece[cut:] in pieces
    ]


def byte_alphabet() -> list[str]:
    """The character that byte-level BPE writes for each byte value, from the GPT-2 encoder.

    Printable Latin-1 bytes stand for themselves; the others, in order, are U+0100 and up.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


_BYTE_OF = {char: bytes([byte]) for byte, char in enumerate(byte_alphabet())}


def _byte_level_bytes(text: str, kind: int) -> bytes:
    """The bytes of a byte-level BPE token; special and user-defined ones are written out."""
    if kind == TokenType.UNUSED:
        return b""
    if kind == TokenType.NORMAL:
        pieces = [_BYTE_OF.get(char) for char in text]
        if None not in pieces:
            return b"".join(piece for piece in pieces if piece is not None)
    return text.encode()


def _piece_bytes(text: str, kind: int) -> bytes:
    """The bytes of a SentencePiece token."""
    if kind == TokenType.UNUSED:
        return b""
    if kind == TokenType.BYTE:
        if not re.fullmatch("<0x[0-9A-Fa-f]{2}>", text):
            raise ValueError(f"byte token {text!r} is not of the form '<0xE2>'")
        return bytes([int(text[1:-1], 16)])
    return text.replace(SPACE, " ").encode()


def _kind(file: GGUFFile) -> str:
    kind = file.get("tokenizer.ggml.model", str, "none")
    if kind in ("none", "no_vocab"):
        raise FusecError(f"{file.path}: the file has no vocabulary (tokenizer.ggml.model)")
    if kind not in ("gpt2", "llama"):
        raise FusecError(
            f"{file.path}: tokenizer model '{kind}' is not supported, expected 'gpt2' or 'llama'"
        )
    return kind


def _pre_tokenizer(file: GGUFFile) -> pre_tokenizers.PreTokenizer:
    name = file.get("tokenizer.ggml.pre", str, "default")
    if name not in PRE_TOKENIZERS:
        raise FusecError(
            f"{file.path}: pre-tokenizer '{name}' is not supported, "
            f"known: {', '.join(sorted(PRE_TOKENIZERS))}"
        )
    cuts = [pre_tokenizers.Split(Regex(cut), "isolated") for cut in PRE_TOKENIZERS[name]]
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([*cuts, to_bytes])


def _checked(file: GGUFFile, name: str, kind: type) -> list[Any]:
    """The list `tokenizer.ggml.<name>`, every item of the type `kind`."""
    key = f"tokenizer.ggml.{name}"
    items = file.get(key, list)
    if not items or not all(type(item) is kind for item in items):
        found = f"{len(items)} items of {type(items[0]).__name__}" if items else "an empty array"
        raise FusecError(f"{file.path}: {key} should hold {kind.__name__}, found {found}")
    return items


def _per_token(
    file: GGUFFile, name: str, kind: type, tokens: list[str], default: Any = None
) -> list[Any]:
    """`_checked`, with one item for each token; `default` repeated when the key is missing."""
    key = f"tokenizer.ggml.{name}"
    if default is not None and key not in file.metadata:
        return [default] * len(tokens)
    items = _checked(file, name, kind)
    if len(items) != len(tokens):
        raise FusecError(f"{file.path}: {key} has {len(items)} items for {len(tokens)} tokens")
    return items
