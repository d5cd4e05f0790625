"""Vocabularies of a few tokens, as GGUF files."""

from pathlib import Path

from gguf import GGUFWriter

from fusec.models.gguf_file import GGUFFile, open_gguf
from fusec.models.tokenizer import TokenType


def write_vocabulary(path: Path, **changes: object) -> GGUFFile:
    """A byte-level vocabulary of three tokens; a change to None leaves the key out.

    A name without a dot is one of `tokenizer.ggml`.
    """
    keys: dict[str, object] = {"model": "gpt2", "pre": "gpt-2", "tokens": ["a", "b", "ab"]}
    keys |= {"merges": ["a b"], "token_type": [1, 1, 1]}
    writer = GGUFWriter(path, "llama")
    for name, value in {**keys, **changes}.items():
        key = name if "." in name else f"tokenizer.ggml.{name}"
        match value:
            case str():
                writer.add_string(key, value)
            case bool():
                writer.add_bool(key, value)
            case int():
                writer.add_uint32(key, value)
            case list():
                writer.add_array(key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    return open_gguf(path)


def pieces(*scored: tuple[str, float], special: str = "", bytes: str = "") -> dict[str, object]:
    """Changes that make a SentencePiece vocabulary: special tokens first, then byte tokens."""
    control = special.split()
    raw = [f"<0x{byte:02X}>" for byte in bytes.encode()]
    tokens = [*control, *raw, *(text for text, _ in scored)]
    kinds = [TokenType.CONTROL] * len(control) + [TokenType.BYTE] * len(raw)
    kinds += [TokenType.NORMAL] * len(scored)
    return {
        "model": "llama",
        "pre": None,
        "merges": None,
        "tokens": tokens,
        "token_type": [int(kind) for kind in kinds],
        "scores": [0.0] * (len(control) + len(raw)) + [score for _, score in scored],
    }
