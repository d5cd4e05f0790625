"""Launches a layer of every architecture and preset at each level, as tables in Markdown.

    python benchmarks/launches.py

Nothing is run: plans are made for sm_90a. The architectures are the small models of `fusec synth`,
as wide as a model of 360M; of a preset it is the layers that all have in common.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace

from fusec import driver
from fusec.models.decoder import DecoderConfig
from fusec.models.decoder_graph import decode_graph
from fusec.models.presets import PRESETS
from fusec.models.quant_mix import Mix
from fusec.models.small import TRAITS, config_of

LEVELS = (0, 1, 2, 3, 4)
SHAPE = {"width": 960, "ffn_width": 2560, "vocab": 4096, "context": 2048, "window": 0}
HEADS = {"heads": 15, "kv_heads": 5, "head_dim": 64}
FEW = 7  # layers of a preset: enough for every kind of layer


def widened(config: DecoderConfig) -> DecoderConfig:
    """A small model with the sizes of a larger one; latent attention keeps its own heads."""
    if config.latent is None:
        whole = config.rope_dims == config.head_dim
        config = replace(config, **HEADS, rope_dims=64 if whole else 16)
    return replace(config, **SHAPE, full_layers=frozenset())


def shortened(config: DecoderConfig) -> DecoderConfig:
    """The first layers."""
    config = replace(config, layers=min(FEW, config.layers))
    names = {name.removesuffix(".weight") for name, _ in config.tensor_shapes()}
    return replace(config, biased=config.biased & names)


def launches(config: DecoderConfig, kind: str, levels: Iterable[int] = LEVELS) -> list[int]:
    """Of the kind of layer that there is most of, at each level."""
    mix = Mix(kind, config.layers, config.heads // config.kv_heads, config.tied)
    types = {name: mix.dtype(name, shape) for name, shape in config.tensor_shapes()}
    graph = decode_graph(config, types, 1, 512, "f16")
    found = []
    for level in levels:
        plan = driver.compile(graph, target="sm_90a", level=level).plan
        layers = Counter(launch.layer for launch in plan.launches if launch.layer is not None)
        found.append(Counter(layers.values()).most_common(1)[0][0])
    return found


def kind_of(name: str) -> str:
    """The quantisation that a model of this name comes in."""
    return "MXFP4_MOE" if name.startswith("gpt-oss") else "Q4_K_M"


def configs() -> tuple[dict[str, DecoderConfig], dict[str, DecoderConfig]]:
    """Small models of all architectures, and the presets."""
    small = {name: widened(config_of(name)) for name in TRAITS}
    presets = {name: shortened(config) for name, config in PRESETS.items() if name != "tiny"}
    return small, presets


def table(configs: dict[str, DecoderConfig], what: str) -> Iterator[str]:
    yield f"| {what} | " + " | ".join(f"-O{level}" for level in LEVELS) + " |"
    yield "|---" * (1 + len(LEVELS)) + "|"
    for name, config in configs.items():
        yield f"| {name} | " + " | ".join(map(str, launches(config, kind_of(name)))) + " |"


def main() -> None:
    small, presets = configs()
    for line in (*table(small, "architecture"), "", *table(presets, "preset")):
        print(line, flush=True)


if __name__ == "__main__":
    main()
