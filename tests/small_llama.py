"""A llama small enough to be written byte by byte, whose keys can be had in any form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFValueType as T

from tests.gguf_bytes import key, with_weights

WIDTH, FFN, VOCAB, LAYERS = 64, 96, 48, 2
KEYS: dict[str, tuple[T, Any]] = {
    "general.architecture": (T.STRING, "llama"),
    "llama.block_count": (T.UINT32, LAYERS),
    "llama.context_length": (T.UINT32, 64),
    "llama.embedding_length": (T.UINT32, WIDTH),
    "llama.feed_forward_length": (T.UINT32, FFN),
    "llama.attention.head_count": (T.UINT32, 4),
    "llama.attention.head_count_kv": (T.UINT32, 2),
    "llama.attention.layer_norm_rms_epsilon": (T.FLOAT32, 1e-5),
}


def weights() -> dict[str, np.ndarray]:
    """Random ones, the same each time."""
    random = np.random.default_rng(0)
    shapes = {"token_embd.weight": (VOCAB, WIDTH), "output_norm.weight": (WIDTH,)}
    for layer in range(LAYERS):
        matrices = {
            **{"attn_q": (WIDTH, WIDTH), "attn_k": (WIDTH // 2, WIDTH)},
            **{"attn_v": (WIDTH // 2, WIDTH), "attn_output": (WIDTH, WIDTH)},
            **{"ffn_gate": (FFN, WIDTH), "ffn_up": (FFN, WIDTH), "ffn_down": (WIDTH, FFN)},
            **{"attn_norm": (WIDTH,), "ffn_norm": (WIDTH,)},
        }
        shapes |= {f"blk.{layer}.{name}.weight": shape for name, shape in matrices.items()}
    return {
        name: random.standard_normal(shape).astype(np.float32) * np.float32(shape[-1] ** -0.5)
        if len(shape) == 2
        else np.ones(shape, np.float32)
        for name, shape in shapes.items()
    }


def content(
    changes: dict[str, tuple[T, Any] | None] | None = None,
    tensors: dict[str, np.ndarray] | None = None,
    alignment: int = 32,
) -> bytes:
    """The file's bytes; a key of None is left out. `tensors` instead of all of them."""
    keys = {name: given for name, given in (KEYS | (changes or {})).items() if given}
    if alignment != 32:
        keys["general.alignment"] = (T.UINT32, alignment)
    written = [key(name, *given) for name, given in keys.items()]
    return with_weights(written, weights() if tensors is None else tensors, alignment)


def write(path: Path, changes: dict[str, tuple[T, Any] | None] | None = None, **kw: Any) -> Path:
    path.write_bytes(content(changes, **kw))
    return path
