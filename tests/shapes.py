"""Decode graphs in the shapes of known models, without their files; plans of them compiled once."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np

from fusec import driver
from fusec.ir import Graph
from fusec.models.decoder_graph import decode_graph
from fusec.models.quant_mix import Mix
from fusec.models.synth import PRESETS


@cache
def graph_of(
    preset: str,
    tokens: int = 1,
    *,
    quant: str = "IQ4_XS",
    layers: int | None = None,
    context: int = 512,
) -> Graph:
    """So many tokens of a preset, with the types of a mix; `layers`: only the first ones."""
    config = PRESETS[preset]
    mix = Mix(quant, config.layers, config.heads // config.kv_heads, config.tied)
    types = {name: mix.dtype(name, shape) for name, shape in config.tensor_shapes()}
    eps = float(np.float32(config.norm_eps))  # as a file keeps it: part of a kernel's name
    shown = replace(config, layers=config.layers if layers is None else layers, norm_eps=eps)
    return decode_graph(shown, types, tokens, context, "f16")


@cache
def compiled_135m(level: int) -> driver.Compiled:
    """SmolLM2-135M for an H100 or H200."""
    return driver.compile(graph_of("smollm2-135m"), target="sm_90a", level=level)
