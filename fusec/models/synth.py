"""Synthetic models: full-size GGUF files with seeded random weights, for tests and measurements.

Shapes, tensor types and metadata are those of the real models, so speed and memory are too; only
the text is nonsense. Each tensor has a random stream of its own, keyed by the seed and its name, so
that it does not depend on the order or the presence of the others.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_VERSION, GGUFWriter, RopeScalingType

from fusec.cores import cores
from fusec.errors import FusecError
from fusec.ir.op_experts import GATINGS
from fusec.models import small
from fusec.models.architectures.deepseek import STORED
from fusec.models.decoder import EMBEDDING, IN_A_LAYER, YARN, DecoderConfig
from fusec.models.experts import Experts
from fusec.models.gguf_write import Planned, Progress, gguf_file, write_tensors
from fusec.models.nextn import JOINED, OWN, Nextn
from fusec.models.presets import PRESETS
from fusec.models.quant_mix import Mix, factor_name, factors_of
from fusec.models.synth_vocab import Vocabulary, byte_vocabulary, padded, read_vocabulary
from fusec.models.synth_weights import joined, spread_of

FARTHEST = 6  # standard deviations that a matrix's factor leaves room for


def synthesize(
    preset: str | DecoderConfig,
    path: str | Path,
    quant: str = "IQ4_XS",
    seed: int = 0,
    *,
    tokenizer: Path | None = None,
    context: int | None = None,
    quick: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Write a model of random weights to `path` and return it.

    `preset` is a name in PRESETS, that of an architecture, which stands for the small model of it
    in `models/small.py`, or a shape of your own. `tokenizer` is a tokenizer.json or a GGUF file to
    take the vocabulary from; without one it is byte-level. A vocabulary smaller than the model's is
    padded, and a larger one enlarges the model. `context` replaces the trained context. `quick`:
    large matrices are drawn from few blocks, so that billions of weights take seconds. Nothing is
    left behind if writing fails. Raises FusecError for unknown names and unusable paths.
    """
    # No name of an architecture: "phi3" in it changes how vocabularies are read.
    name = preset if isinstance(preset, str) and preset in PRESETS else "custom"
    config = _known(preset) if isinstance(preset, str) else preset
    mix = Mix(quant, config.layers, config.heads // config.kv_heads, config.tied)
    if context is not None:
        if not 1 <= context < 1 << 32:  # the file has 32 bits for it
            raise FusecError(f"context is {context}, expected 1 to {(1 << 32) - 1}")
        config = replace(config, context=context)
    vocabulary = read_vocabulary(Path(tokenizer)) if tokenizer else byte_vocabulary(config.vocab)
    vocabulary = padded(vocabulary, config.vocab)
    config = replace(config, vocab=len(vocabulary["tokenizer.ggml.tokens"]))
    if mix.name == "NVFP4":  # whose factors are of whole matrices
        config = replace(config, packed=frozenset())
    path = Path(path)
    with gguf_file(path, config.architecture) as (writer, part):
        _add_metadata(writer, f"{name} synthetic {mix.name} seed {seed}", config, mix)
        _add_vocabulary(writer, vocabulary)
        tensors = list(_tensors(config, mix, seed, quick))
        write_tensors(writer, part, tensors, progress, workers=cores())
    return path


def _known(name: str) -> DecoderConfig:
    if name in PRESETS:
        return PRESETS[name]
    if name in small.TRAITS:
        return small.config_of(name)
    raise FusecError(
        f"unknown preset '{name}', known: {', '.join(PRESETS)}, "
        f"and small models of {', '.join(small.TRAITS)}"
    )


def _add_metadata(writer: GGUFWriter, name: str, config: DecoderConfig, mix: Mix) -> None:
    writer.add_type("model")
    writer.add_name(name)
    writer.add_file_type(mix.file_type)
    writer.add_quantization_version(GGML_QUANT_VERSION)
    writer.add_vocab_size(config.vocab)
    writer.add_context_length(config.context)
    writer.add_embedding_length(config.width)
    writer.add_block_count(config.layers + config.skipped)
    writer.add_feed_forward_length(config.ffn_width)
    writer.add_head_count(config.heads)
    writer.add_head_count_kv(config.kv_heads)
    _add_lengths(writer, config)
    if config.norm == "layer":
        writer.add_layer_norm_eps(config.norm_eps)
    else:
        writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_rope_freq_base(config.rope_base)
    writer.add_rope_dimension_count(config.rope_dims)
    if config.window:
        writer.add_sliding_window(config.window)
        windowed = [config.window_of(layer) > 0 for layer in range(config.layers)]
        if not all(windowed):
            writer.add_sliding_window_pattern(windowed)
    if config.score_cap:
        writer.add_attn_logit_softcapping(config.score_cap)
    if config.logit_cap:
        writer.add_final_logit_softcapping(config.logit_cap)
    if config.experts:
        _add_experts(writer, config.experts)
    if config.architecture == "ernie4_5-moe":  # every layer behind the dense ones
        writer.add_uint32(f"{writer.arch}.interleave_moe_layer_step", 1)
    if config.skipped:
        writer.add_nextn_predict_layers(config.skipped)
    _add_stretch(writer, config)
    if config.architecture.startswith("granite"):
        writer.add_embedding_scale(config.embedding_scale)
        writer.add_residual_scale(config.residual_scale)
        writer.add_logit_scale(1 / config.logit_scale)
        writer.add_attention_scale(config.attention_scale)
    elif config.logit_scale != 1.0:
        writer.add_logit_scale(config.logit_scale)


def _add_experts(writer: GGUFWriter, experts: Experts) -> None:
    writer.add_expert_count(experts.count)
    writer.add_expert_used_count(experts.used)
    writer.add_expert_feed_forward_length(experts.width)
    code = GATINGS.index(experts.gating) + 1
    writer.add_uint32(f"{writer.arch}.expert_gating_func", code)  # gguf-py knows of two
    writer.add_expert_weights_norm(experts.normalised)
    writer.add_expert_weights_scale(experts.scale)
    if experts.dense:
        writer.add_leading_dense_block_count(experts.dense)
    if experts.groups > 1:
        writer.add_expert_group_count(experts.groups)
        writer.add_expert_group_used_count(experts.groups_used)
    if experts.shared:  # files have one of the two
        writer.add_expert_shared_feed_forward_length(experts.shared)
        writer.add_expert_shared_count(experts.shared // experts.width)


def _add_lengths(writer: GGUFWriter, config: DecoderConfig) -> None:
    """Keys of the sizes of heads; with latent attention, of what is cached, and of heads."""
    latent = config.latent
    if latent is None:
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
        return
    writer.add_key_length(latent.rank + latent.turned)
    writer.add_value_length(latent.rank)
    writer.add_kv_lora_rank(latent.rank)
    if latent.query_rank:
        writer.add_q_lora_rank(latent.query_rank)
    writer.add_key_length_mla(latent.plain + latent.turned)
    writer.add_value_length_mla(latent.values)


def _add_stretch(writer: GGUFWriter, config: DecoderConfig) -> None:
    """Keys of what stretches the context."""
    if yarn := config.yarn:
        writer.add_rope_scaling_type(RopeScalingType.YARN)
        writer.add_rope_scaling_factor(yarn.factor)
        writer.add_rope_scaling_orig_ctx_len(yarn.original)
        writer.add_rope_scaling_yarn_beta_fast(yarn.fast)
        writer.add_rope_scaling_yarn_beta_slow(yarn.slow)
        writer.add_rope_scaling_yarn_log_mul(yarn.multiplier * (STORED if config.latent else 1))
    if config.temperature:
        writer.add_attn_temperature_scale(config.temperature.slope)
        if config.latent:
            writer.add_attn_temperature_length(config.temperature.length)


def _add_vocabulary(writer: GGUFWriter, vocabulary: Vocabulary) -> None:
    for key, value in vocabulary.items():
        match value:
            case bool():
                writer.add_bool(key, value)
            case int():
                writer.add_uint32(key, value)
            case str():
                writer.add_string(key, value)
            case list():
                writer.add_array(key, value)


def _tensors(config: DecoderConfig, mix: Mix, seed: int, quick: bool = False) -> Iterator[Planned]:
    """Every tensor of the file. A packed one has the rows that its parts have by themselves."""
    parts: dict[str, list[tuple[str, tuple[int, ...]]]] = defaultdict(list)
    for name, shape in config.tensor_shapes():
        if name == YARN:
            continue  # computed, in no file
        parts[_place(name, config)].append((name, shape))
    for name, shape in _of_drafting_blocks(config):
        parts[_place(name, config)].append((name, shape))
    for place, found in parts.items():
        (_, shape), *_ = found
        shape = (sum(rows for _, (rows, *_) in found), *shape[1:])
        dtype = mix.dtype(place, shape)
        factor = mix.factor(dtype, spread_of(place, shape, config.layers) * FARTHEST)
        make = partial(joined, found, dtype, config.layers, seed, factor, quick=quick)
        there = config.shape_in_file(place, shape)
        yield Planned(place, dtype, there, make)
        if factor is not None:
            stored = np.full(factors_of(there), factor, np.float32)
            kept = partial(np.copy, stored.view(np.uint8))
            yield Planned(factor_name(place), "f32", stored.shape, kept)


def _of_drafting_blocks(config: DecoderConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    """What a file has of blocks that draft, each of which has a last norm of its own."""
    for block in range(config.layers, config.layers + config.skipped):
        at = f"blk.{block}.nextn"
        yield f"{at}.{JOINED}.weight", (config.width, 2 * config.width)
        nextn = Nextn(at, EMBEDDING, f"{at}.{OWN['norm']}.weight", config.head)
        for name, shape in replace(config, layers=block, nextn=nextn).tensor_shapes():
            if name.startswith(f"blk.{block}.") and name not in nextn.projections:
                yield name, shape


def _place(tensor: str, config: DecoderConfig) -> str:
    """The tensor of the file that holds one of the graph's."""
    found = IN_A_LAYER.fullmatch(tensor)
    wholes = {packed: tuple(dict(config.parts_of(packed))) for packed in config.packed}
    wholes |= config.latent.packed if config.latent else {}
    for packed, parts in wholes.items():
        if found and found["name"] in parts:
            return f"{found['layer']}.{packed}.{found['kind']}"
    return tensor
