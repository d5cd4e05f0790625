"""A model's tokenizer: whole tokens first, then what lies between by the kind of vocabulary.

Three kinds are known, under the names of the GGUF specification (`tokenizer.ggml.model`):

- `gpt2`: byte-level BPE. The merges are in the file; `tokenizer.ggml.pre` names how text is cut
  into words first.
- `llama`: SentencePiece BPE with byte fallback. The file has a score per piece and no merges.
- `gemma4`: merges as in `gpt2`, over text as `llama` writes it.

Decoding joins the bytes each token stands for, so it can be done one token at a time.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Any

from fusec.arguments import mistaken, whole
from fusec.errors import FusecError
from fusec.models.gguf_file import GGUFFile
from fusec.models.tokenizer.byte_level import MergeTable, letters_to_bytes
from fusec.models.tokenizer.partition import Partition
from fusec.models.tokenizer.pre import PRE_TOKENIZERS, Pre
from fusec.models.tokenizer.sentencepiece import SentencePiece, byte_of, piece_to_bytes
from fusec.models.tokenizer.stream import StreamDecoder
from fusec.models.tokenizer.vocabulary import TokenType, Vocabulary, key_of
from fusec.writer import brief, count

KINDS = ("gpt2", "llama", "gemma4")
SPECIAL = (TokenType.CONTROL, TokenType.UNKNOWN)


class Tokenizer:
    """A model's vocabulary. `bos`, `eos` and `eot` are ids, or None where the file has none.

    `adds_bos` and `adds_eos`: whether a text begins and ends with them unless told otherwise.
    """

    def __init__(self, file: GGUFFile) -> None:
        self.path = file.path
        self.kind = _kind(file)
        self.tokens: list[str] = _checked(file, "tokens", str)
        _per_token(file, "token_type", int, self.tokens, TokenType.NORMAL)
        self._vocabulary = Vocabulary(file)
        self.types = self._vocabulary.types
        self.bos, self.eos, self.eot = (self._id(file, name) for name in ("bos", "eos", "eot"))
        self._pre = None if self.kind == "llama" else _pre(file)
        has_bos = self._pre.adds_bos if self._pre else True
        self.adds_bos = file.get("tokenizer.ggml.add_bos_token", bool, has_bos)
        self.adds_eos = file.get("tokenizer.ggml.add_eos_token", bool, False)
        if self.kind == "gemma4":  # files converted early say it does not, and it does
            self.adds_bos = True
        self._add_space = file.get("tokenizer.ggml.add_space_prefix", bool, self.kind == "llama")
        self._is_letters = self._pre is not None and not self._pre.is_raw
        self._model: MergeTable | SentencePiece
        self._model = self._merge_table(file, self._pre) if self._pre else self._pieces(file)

    @classmethod
    def from_gguf(cls, file: GGUFFile) -> Tokenizer:
        """The tokenizer of a model file.

        Raises FusecError when the file has no vocabulary, or one that is damaged or of a kind that
        is not known.
        """
        return cls(file)

    def __repr__(self) -> str:
        return brief(self, f"{self.path}: {self.kind}, {count(len(self.tokens), 'token')}")

    @property
    def vocab_size(self) -> int:
        """The number of token ids."""
        return len(self.tokens)

    @property
    def stop_ids(self) -> frozenset[int]:
        """The ids that end an answer: see `Vocabulary`."""
        return self._vocabulary.ends

    def encode(
        self, text: str, *, special: bool = True, bos: bool | None = None, eos: bool | None = None
    ) -> list[int]:
        """The ids of `text`.

        With `special`, control tokens written out in the text become their ids; without, they are
        ordinary text. `bos` None adds a beginning token where the file says so, False adds none,
        True adds it anyway; never a second one to a text that begins with it. The same for `eos`
        and the end, but that without BOS there is no end either unless asked for. Raises FusecError
        for what is no text, and for text that is not valid Unicode.
        """
        if not isinstance(text, str):
            raise mistaken("tokenizer", "a text to encode", text)
        try:
            text.encode()
        except UnicodeEncodeError:
            raise FusecError("the text has a lone surrogate and is not valid Unicode") from None
        ids: list[int] = []
        for part in (self._parsing if special else self._literal)(text):
            if isinstance(part, int):
                ids.append(part)
            else:
                prefix = " " if self.leading_space else ""
                ids += self._model.encode(prefix + part)
        eos = (self.adds_eos and bos is not False) if eos is None else eos
        if (self.adds_bos if bos is None else bos) and self.bos is not None:
            ids = ids if ids[:1] == [self.bos] else [self.bos, *ids]
        if eos and self.eos is not None:
            ids = ids if ids[-1:] == [self.eos] else [*ids, self.eos]
        return ids

    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
        """The text of `ids`; bytes that are not UTF-8 become U+FFFD.

        Raises FusecError for what are no ids, and for an id out of range.
        """
        if not isinstance(ids, Iterable):
            raise mistaken("tokenizer", "token ids to decode", ids)
        stream = StreamDecoder(self, skip_special=skip_special)
        raw = b"".join(self.token_bytes(token, skip_special) for token in ids)
        return stream.text(raw) + stream.finish()

    def token_bytes(self, token: int, skip_special: bool = True) -> bytes:
        """The bytes one token adds to the text. Raises FusecError for an id out of range."""
        token = whole("tokenizer", token, "token ids to decode")
        if not 0 <= token < len(self.tokens):
            raise FusecError(
                f"token id {token} is out of range: {self.path} has {len(self.tokens)} tokens"
            )
        kind = self.types[token]
        if skip_special and kind in SPECIAL:
            return b""
        to_bytes = letters_to_bytes if self._is_letters else piece_to_bytes
        return to_bytes(self.tokens[token], kind)

    @property
    def leading_space(self) -> bool:
        """Whether encoding puts a space before the text, which decoding takes away."""
        return self.kind == "llama" and self._add_space

    @cached_property
    def _parsing(self) -> Partition:
        return self._partition(TokenType.USER_DEFINED, *SPECIAL)

    @cached_property
    def _literal(self) -> Partition:
        return self._partition(TokenType.USER_DEFINED)

    def _partition(self, *whole: TokenType) -> Partition:
        """Finds tokens of the types `whole`."""
        tokens = {
            text: token
            for token, (text, kind) in enumerate(zip(self.tokens, self.types, strict=True))
            if kind in whole and text
        }
        return Partition(tokens, self._vocabulary.trimming)

    def _merge_table(self, file: GGUFFile, pre: Pre) -> MergeTable:
        needed = pre.has_merges or "tokenizer.ggml.merges" in file.metadata
        merges = _checked(file, "merges", str) if needed else []
        self._byte_ids(file)
        try:
            return MergeTable(self.tokens, merges, pre)
        except ValueError as error:
            raise FusecError(f"{self.path}: tokenizer.ggml.merges: {error}") from error

    def _pieces(self, file: GGUFFile) -> SentencePiece:
        scores = _per_token(file, "scores", float, self.tokens)
        unknown = self._id(file, "unknown")
        return SentencePiece(self.tokens, self.types, scores, self._byte_ids(file), unknown)

    def _byte_ids(self, file: GGUFFile) -> dict[int, int]:
        """The ids of the byte tokens by their value."""
        try:
            return {
                byte_of(text): token
                for token, (text, kind) in enumerate(zip(self.tokens, self.types, strict=True))
                if kind == TokenType.BYTE and not self._is_letters
            }
        except ValueError as error:
            raise FusecError(f"{file.path}: tokenizer.ggml.tokens: {error}") from error

    def _id(self, file: GGUFFile, name: str) -> int | None:
        given = file.get(key_of(name), int, 0)
        if not 0 <= given < len(self.tokens):
            raise FusecError(
                f"{file.path}: {key_of(name)} is {given}, out of {len(self.tokens)} tokens"
            )
        return self._vocabulary.id_of(name)


def check_kind(file: GGUFFile) -> None:
    """Raise FusecError for a file whose texts cannot become tokens: it has no vocabulary, or one
    of a kind or with a pre-tokenizer that is not known. Nothing is decoded for it."""
    if _kind(file) != "llama":
        _pre(file)


def _kind(file: GGUFFile) -> str:
    kind = file.get("tokenizer.ggml.model", str, "none")
    if kind in ("none", "no_vocab"):
        raise FusecError(f"{file.path}: the file has no vocabulary (tokenizer.ggml.model)")
    if kind not in KINDS:
        raise FusecError(
            f"{file.path}: tokenizer model '{kind}' is not supported, "
            f"expected one of {', '.join(map(repr, KINDS))}"
        )
    return kind


def _pre(file: GGUFFile) -> Pre:
    is_gemma4 = file.get("tokenizer.ggml.model", str) == "gemma4"
    name = "gemma4" if is_gemma4 else file.get("tokenizer.ggml.pre", str, "default")
    if name not in PRE_TOKENIZERS:
        raise FusecError(
            f"{file.path}: pre-tokenizer '{name}' is not supported, "
            f"known: {', '.join(sorted(PRE_TOKENIZERS))}"
        )
    return PRE_TOKENIZERS[name]


def _checked(file: GGUFFile, name: str, *kinds: type) -> list[Any]:
    """The list `tokenizer.ggml.<name>`, every item of one of the types `kinds`."""
    key = f"tokenizer.ggml.{name}"
    items = file.get(key, list)
    if not items or not {*map(type, items)} <= {*kinds}:
        found = f"{len(items)} items of {type(items[0]).__name__}" if items else "an empty array"
        raise FusecError(f"{file.path}: {key} should hold {kinds[0].__name__}, found {found}")
    return items


def _per_token(
    file: GGUFFile, name: str, kind: type, tokens: list[str], default: Any = None
) -> list[Any]:
    """`_checked`, with one item for each token; `default` repeated when the key is missing."""
    key = f"tokenizer.ggml.{name}"
    if default is not None and key not in file.metadata:
        return [default] * len(tokens)
    items = _checked(file, name, *((float, int) if kind is float else (kind,)))
    if len(items) != len(tokens):
        raise FusecError(f"{file.path}: {key} has {len(items)} items for {len(tokens)} tokens")
    return items
