"""A model whose drafting block guesses right: both make the next token of the last one alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from fusec import Engine, Sampling
from fusec.models.gguf_file import open_gguf
from fusec.models.small import config_of
from fusec.models.synth import synthesize
from tests.gguf_edit import edited

LAYERS = 2


def skilled_model(folder: Path) -> Path:
    """Layers add nothing to the residual, and the block takes the embedding as it is."""
    sizes = {"layers": LAYERS, "skipped": 1, "vocab": 512, "context": 96}
    config = replace(config_of("glm4moe"), biased=frozenset(), **sizes)
    plain = synthesize(config, folder / "plain.gguf", "F32")
    tensors = open_gguf(plain).tensors
    adds = (
        "attn_output.weight",
        "ffn_down.weight",
        "ffn_down_exps.weight",
        "ffn_down_shexp.weight",
    )
    found = {
        name: np.zeros(tensor.shape, np.float32)
        for name, tensor in tensors.items()
        if name.endswith(adds)
    }
    at, width = f"blk.{LAYERS}.nextn", config.width
    embedding = tensors["token_embd.weight"]
    found["output.weight"] = np.random.default_rng(0).standard_normal(embedding.shape, np.float32)
    found[f"{at}.eh_proj.weight"] = np.eye(width, 2 * width, dtype=np.float32)
    found[f"{at}.enorm.weight"] = np.ones(width, np.float32)
    found[f"{at}.shared_head_norm.weight"] = None
    return edited(plain, folder / "skilled.gguf", {"general.architecture": "glm4moe"}, found)


def check_fewer_steps(engine: Engine, ids: list[int], wanted: list[int], how: Sampling) -> None:
    """The block's guesses give the wanted text, in fewer steps, all right where it is greedy."""
    assert list(engine.tokens(ids, len(wanted), how)) == wanted
    found = engine.draft_statistics
    assert found is not None
    assert found.drafted and found.tokens == len(wanted) == found.steps + found.accepted
    if how.is_argmax:
        assert found.acceptance == 1 and found.steps < len(wanted) / 3


def check_going_on(
    engine: Engine, ids: list[int], wanted: list[int], how: Sampling, last: int
) -> None:
    """Text that is made in two pieces is the wanted one."""
    assert list(engine.tokens(ids, len(wanted) - last, how)) == wanted[:-last]
    assert list(engine.tokens([], last, how, append=True)) == wanted[-last:]
