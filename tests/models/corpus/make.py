"""Write the files that `benchmarks/fuzz_gguf.py` damages: `python -m tests.models.corpus.make`.

They are GGUF files of a few KB, kept as .bin since *.gguf is not for git.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType as Q
from gguf import GGUFValueType as T

from fusec.models.quantize import quantize
from fusec.models.tokenizer import TokenType
from tests.gguf_bytes import gguf, key, tensor_info

FOLDER = Path(__file__).parent
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['content'] }}{{ eos_token }}{% endfor %}"

Keys = dict[str, tuple[T, Any]]


def files() -> dict[str, bytes]:
    """Name -> content."""
    first, second = _split()
    return {
        "bytes.bin": _model(_hyper(8, 8) | _byte_level(), _weights(8, 8, 12)),
        "pieces.bin": _model(
            _hyper(8, 12) | _per_layer() | _pieces(), _weights(8, 12, 12, tied=False), alignment=64
        ),
        "quantised.bin": _model(
            _hyper(32, 32) | _byte_level(), _weights(32, 32, 12), ("q8_0", "iq4_nl", "q4_0")
        ),
        "types.bin": _types(),
        "split-00001-of-00002.bin": first,
        "split-00002-of-00002.bin": second,
    }


def _hyper(width: int, ffn: int) -> Keys:
    return {
        "general.architecture": (T.STRING, "llama"),
        "general.name": (T.STRING, "fuzz"),
        "llama.block_count": (T.UINT32, 1),
        "llama.context_length": (T.UINT32, 64),
        "llama.embedding_length": (T.UINT32, width),
        "llama.feed_forward_length": (T.UINT32, ffn),
        "llama.attention.head_count": (T.UINT32, 2),
        "llama.attention.layer_norm_rms_epsilon": (T.FLOAT32, 1e-5),
        "llama.rope.freq_base": (T.FLOAT32, 10000.0),
        "llama.vocab_size": (T.UINT32, 12),
    }


def _per_layer() -> Keys:
    return {
        "llama.attention.head_count_kv": (T.INT32, [2]),
        "llama.feed_forward_length": (T.UINT64, [12]),
        "llama.rope.scaling.type": (T.STRING, "linear"),
        "llama.rope.scaling.factor": (T.FLOAT64, 2.0),
        "llama.attention.causal": (T.BOOL, 1),
        "general.alignment": (T.UINT32, 64),
    }


def _byte_level() -> Keys:
    """The vocabulary of byte-level BPE: BOS is 0."""
    tokens = ["<|endoftext|>", "<|im_start|>", *"abcdeĠ", "ab", "abc", "Ġa", "Ġab"]
    return {
        "tokenizer.ggml.model": (T.STRING, "gpt2"),
        "tokenizer.ggml.pre": (T.STRING, "smollm"),
        "tokenizer.ggml.tokens": (T.STRING, tokens),
        "tokenizer.ggml.token_type": (T.INT32, [TokenType.CONTROL] * 2 + [TokenType.NORMAL] * 10),
        "tokenizer.ggml.merges": (T.STRING, ["a b", "ab c", "Ġ a", "Ġ ab"]),
        "tokenizer.ggml.bos_token_id": (T.UINT32, 0),
        "tokenizer.ggml.eos_token_id": (T.UINT32, 1),
        "tokenizer.ggml.add_bos_token": (T.BOOL, 1),
        "tokenizer.chat_template": (T.STRING, TEMPLATE),
    }


def _pieces() -> Keys:
    """The vocabulary of SentencePiece."""
    types = {0: TokenType.UNKNOWN, 1: TokenType.CONTROL, 2: TokenType.CONTROL, 3: TokenType.BYTE}
    tokens = ["<unk>", "<s>", "</s>", "<0x0A>", *"abc▁", "ab", "▁a", "▁ab", "abc"]
    return {
        "tokenizer.ggml.model": (T.STRING, "llama"),
        "tokenizer.ggml.tokens": (T.STRING, tokens),
        "tokenizer.ggml.scores": (T.FLOAT32, [-float(i) for i in range(12)]),
        "tokenizer.ggml.token_type": (T.INT32, [types.get(i, TokenType.NORMAL) for i in range(12)]),
        "tokenizer.ggml.bos_token_id": (T.UINT32, 1),
        "tokenizer.ggml.eos_token_id": (T.UINT32, 2),
        "tokenizer.ggml.unknown_token_id": (T.UINT32, 0),
        "tokenizer.ggml.add_space_prefix": (T.BOOL, 1),
    }


def _weights(width: int, ffn: int, vocab: int, tied: bool = True) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (vocab, width)}
    shapes |= {f"blk.0.attn_{name}.weight": (width, width) for name in ("q", "k", "v", "output")}
    shapes |= {f"blk.0.ffn_{name}.weight": (ffn, width) for name in ("gate", "up")}
    shapes |= {"blk.0.ffn_down.weight": (width, ffn)}
    norms = ["blk.0.attn_norm.weight", "blk.0.ffn_norm.weight", "output_norm.weight"]
    shapes |= dict.fromkeys(norms, (width,))
    if not tied:
        shapes |= {"output.weight": (vocab, width), "rope_freqs.weight": (width // 4,)}
    return {
        name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()
    }


def _model(
    keys: Keys,
    weights: dict[str, np.ndarray],
    types: tuple[str, ...] = ("f32",),
    alignment: int = 32,
) -> bytes:
    """A file with the matrices in `types` by turns."""
    infos, data = [], b""
    for i, (name, array) in enumerate(weights.items()):
        dtype = types[i % len(types)] if array.ndim == 2 else "f32"
        data += bytes(-len(data) % alignment)
        infos.append(tensor_info(name, array.shape[::-1], Q[dtype.upper()], len(data)))
        data += array.tobytes() if dtype == "f32" else quantize(array, dtype, "quick").tobytes()
    return gguf([key(name, *given) for name, given in keys.items()], infos, data, alignment)


def _types() -> bytes:
    """Every type of value, alone and in arrays, empty ones too; and no tensors."""
    kinds = [kind for kind in T if kind not in (T.ARRAY, T.STRING)]
    keys = [key(f"x.{kind.name}", kind, 1) for kind in kinds]
    keys += [key(f"x.{kind.name}.array", kind, [0, 1, 1]) for kind in kinds]
    keys += [key(f"x.{kind.name}.empty", kind, []) for kind in (*kinds, T.STRING)]
    keys += [key("x.string", T.STRING, "ä"), key("x.strings", T.STRING, ["", "a", "日本"])]
    return gguf([key("general.architecture", T.STRING, "llama"), *keys])


def _split() -> tuple[bytes, bytes]:
    """Two parts of one model."""
    weights = _weights(8, 8, 12)
    names = list(weights)
    parts = []
    for number in range(2):
        own: Keys = {
            "split.no": (T.UINT16, number),
            "split.count": (T.UINT16, 2),
            "split.tensors.count": (T.INT32, len(weights)),
        }
        share = {name: weights[name] for name in names[number::2]}
        parts.append(_model((_hyper(8, 8) if number == 0 else {}) | own, share))
    return parts[0], parts[1]


def main() -> None:
    for name, content in files().items():
        (FOLDER / name).write_bytes(content)
        print(f"{name}: {len(content)} bytes")


if __name__ == "__main__":
    main()
