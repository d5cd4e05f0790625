"""llama.cpp's logits of the small models that `fusec synth ARCH` writes.

    python -m tests.golden.make_logits [ARCH ...]      # all of them without names

rewrites `logits/ARCH.npz` where llama-cpp-python of VERSION is installed, which no part of fusec
needs. Each file has `ids`, `logits` (float32[ids, columns], every fifth of the vocabulary), the
SHA-256 `model` of the tensors it is of, and `version`.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from fusec.models.gguf_file import GGUFFile, open_gguf
from fusec.models.small import TRAITS
from fusec.models.synth import synthesize

FOLDER = Path(__file__).parent / "logits"
VERSION = "0.3.36"  # of llama-cpp-python
TOKENS, EVERY = 32, 5  # more tokens than a window of the models has


def small_model(architecture: str, folder: Path) -> Path:
    """The model that the logits are of."""
    return synthesize(architecture, folder / f"{architecture}.gguf", "F32", seed=0)


def digest(file: GGUFFile) -> str:
    """The SHA-256 of all tensors."""
    found = hashlib.sha256()
    for name, tensor in sorted(file.tensors.items()):
        found.update(f"{name} {tensor.dtype} {tensor.shape}".encode())
        found.update(tensor.data.tobytes())
    return found.hexdigest()


def logits(path: Path, ids: list[int]) -> np.ndarray[Any, Any]:
    """llama.cpp's on the CPU, with keys and values in f32: float32[ids, vocabulary]."""
    import llama_cpp

    if llama_cpp.__version__ != VERSION:
        sys.exit(f"expected llama-cpp-python {VERSION}, found {llama_cpp.__version__}")
    as_the_file_says = dict.fromkeys(
        ("yarn_ext_factor", "yarn_attn_factor", "yarn_beta_fast", "yarn_beta_slow"), -1.0
    )
    model = llama_cpp.Llama(
        str(path),
        n_ctx=64,
        logits_all=True,
        type_k=llama_cpp.GGML_TYPE_F32,
        type_v=llama_cpp.GGML_TYPE_F32,
        flash_attn=False,
        verbose=False,
        **as_the_file_says,
    )
    model.eval(ids)
    return np.array(model.scores[: len(ids)], np.float32)


def main() -> None:
    for architecture in sys.argv[1:] or TRAITS:
        with tempfile.TemporaryDirectory() as folder:
            path = small_model(architecture, Path(folder))
            file = open_gguf(path)
            vocabulary, _ = file.tensor("token_embd.weight").shape
            ids = np.random.default_rng(3).integers(0, vocabulary, TOKENS)
            found = logits(path, ids.tolist())[:, ::EVERY]
            given = {"ids": ids.astype(np.int32), "logits": found, "model": digest(file)}
        np.savez(FOLDER / f"{architecture}.npz", version=VERSION, **given)
        print(f"{architecture}: {found.shape}, standard deviation {found.std():.3f}")


if __name__ == "__main__":
    main()
