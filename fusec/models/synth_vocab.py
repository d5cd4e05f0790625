"""Vocabularies for synthetic models, as GGUF metadata: `tokenizer.*` keys and their values."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from string import ascii_lowercase
from typing import Any

from fusec.errors import FusecError, reason
from fusec.models.gguf_file import open_gguf
from fusec.models.tokenizer import TokenType, byte_alphabet

Vocabulary = dict[str, Any]

CONTROLS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHATML = """\
{% for message in messages %}<|im_start|>{{ message['role'] }}
{{ message['content'] }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def byte_vocabulary(size: int) -> Vocabulary:
    """A byte-level BPE vocabulary of `size` tokens.

    Three control tokens, the 256 bytes, then pairs of lower-case letters (each letter also after a
    space) as merges while there is room; `padded` fills up what is left.
    """
    alphabet = byte_alphabet()
    space = alphabet[ord(" ")]
    room = max(size - len(CONTROLS) - len(alphabet), 0)
    pairs = [*product(space, ascii_lowercase), *product(ascii_lowercase, repeat=2)][:room]
    tokens = [*CONTROLS, *alphabet, *("".join(pair) for pair in pairs)]
    types = [TokenType.CONTROL] * len(CONTROLS)
    types += [TokenType.NORMAL] * (len(tokens) - len(CONTROLS))
    merges = [" ".join(pair) for pair in pairs]
    return padded(_byte_level("gpt-2", tokens, [int(kind) for kind in types], merges), size)


def read_vocabulary(path: Path) -> Vocabulary:
    """The vocabulary of a `tokenizer.json` or of a GGUF file. Raises FusecError if it has none."""
    if path.suffix == ".json":
        return _from_json(path)
    metadata = open_gguf(path).metadata
    vocabulary = {key: metadata[key] for key in metadata if key.startswith("tokenizer.")}
    if "tokenizer.ggml.tokens" not in vocabulary:
        raise FusecError(f"{path}: the file has no vocabulary (tokenizer.ggml.tokens is missing)")
    return vocabulary


def padded(vocabulary: Vocabulary, size: int) -> Vocabulary:
    """The vocabulary with unused tokens added up to `size`; a larger one stays as it is."""
    tokens = vocabulary["tokenizer.ggml.tokens"]
    extra = range(len(tokens), size)
    filled = {
        "tokenizer.ggml.tokens": [f"<|unused_{token}|>" for token in extra],
        "tokenizer.ggml.token_type": [int(TokenType.UNUSED)] * len(extra),
        "tokenizer.ggml.scores": [-1e9] * len(extra),
    }
    added = {key: vocabulary[key] + more for key, more in filled.items() if key in vocabulary}
    return {**vocabulary, **added}


def _byte_level(pre: str, tokens: list[str], types: list[int], merges: list[str]) -> Vocabulary:
    ids = {text: token for token, text in enumerate(tokens)}
    vocabulary: Vocabulary = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.ggml.add_space_prefix": False,
    }
    document, start, end = (ids.get(text) for text in CONTROLS)
    named = {
        "bos": document if start is None else start,
        "eos": document if end is None else end,
        "unknown": document,
        "padding": end,
    }
    for name, token in named.items():
        if token is not None:
            vocabulary[f"tokenizer.ggml.{name}_token_id"] = token
    if start is not None and end is not None:
        vocabulary["tokenizer.chat_template"] = CHATML
    return vocabulary


def _from_json(path: Path) -> Vocabulary:
    """The Hugging Face `tokenizers` form of a byte-level BPE vocabulary."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        model = data["model"]
        ids = {
            **model["vocab"],
            **{token["content"]: token["id"] for token in data["added_tokens"]},
        }
        special = {token["id"]: token["special"] for token in data["added_tokens"]}
        merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
        pre = _pre_name(path, data["pre_tokenizer"])
    except OSError as error:
        raise FusecError(f"{path}: cannot be read: {reason(error)}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FusecError(f"{path}: not a BPE tokenizer.json ({type(error).__name__})") from error
    by_id = {token: text for text, token in ids.items()}
    tokens, types = [], []
    for token in range(max(by_id, default=-1) + 1):
        tokens.append(by_id.get(token, f"<|unused_{token}|>"))
        kind = TokenType.NORMAL if token in by_id else TokenType.UNUSED
        if token in special:
            kind = TokenType.CONTROL if special[token] else TokenType.USER_DEFINED
        types.append(int(kind))
    return _byte_level(pre, tokens, types, merges)


def _pre_name(path: Path, pre: dict[str, Any]) -> str:
    """The GGUF name of a `tokenizers` pre-tokenizer."""
    steps = pre["pretokenizers"] if pre["type"] == "Sequence" else [pre]
    match steps:
        case [{"type": "ByteLevel", "use_regex": True}]:
            return "gpt-2"
        case [
            {"type": "Digits", "individual_digits": True},
            {"type": "ByteLevel", "use_regex": True},
        ]:
            return "smollm"
    kinds = ", ".join(step["type"] for step in steps)
    raise FusecError(f"{path}: pre-tokenizer ({kinds}) is not supported, expected byte-level BPE")
