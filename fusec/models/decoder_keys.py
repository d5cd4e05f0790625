"""The hyperparameters that decoder models have in common, read from a file's metadata.

An architecture calls `read` with what it has of its own (`architectures/`). Keys that change what
is computed in no architecture, or while they say what all do, are known here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from fusec.errors import FusecError
from fusec.models.decoder import HEAD_NORMS, DecoderConfig, last_of
from fusec.models.gguf_file import GGUFFile
from fusec.models.hyperparameters import Hyperparameters
from fusec.models.positions import Yarn

YARN_KEYS = {
    "fast": "rope.scaling.yarn_beta_fast",
    "slow": "rope.scaling.yarn_beta_slow",
    "multiplier": "rope.scaling.yarn_log_multiplier",
}
"""Fields of `Yarn` -> the keys that have them."""

# Keys that change no logits, whatever they say; llama.cpp's `llama` graph reads none of them.
CHANGE_NOTHING = (
    "rope.scaling.finetuned",  # that the model was trained with the scaling
    # in llama.cpp, few architectures read these of YaRN: those have them in `reads`
    *("rope.scaling.yarn_ext_factor", "rope.scaling.yarn_attn_factor"),
    *YARN_KEYS.values(),
    "attention.layer_norm_rms_epsilon",  # a model has one kind of norm, which reads its own
    "attention.layer_norm_epsilon",
    "pooling_type",  # how embeddings are pooled, not logits
    # of experts, where there are none, or where `read_experts` has read or checked them
    *(f"expert_{name}feed_forward_length" for name in ("", "shared_", "chunk_")),
    *(f"expert_{name}" for name in ("gating_func", "weights_norm", "weights_scale", "group_scale")),
    *("expert_shared_count", "expert_group_used_count", "experts_per_group"),
    *("moe_every_n_layers", "interleave_moe_layer_step", "leading_dense_block_count"),
)

OF_EXPERTS = ("expert_used_count", "expert_group_count")

# Keys that change nothing while they have one of these values, which is off or what a llama does.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "attention.causal": (True,),
    "hidden_activation": ("silu",),
    "rope.scaling.attn_factor": (1.0,),  # llama.cpp multiplies cos and sin by it
    # the rows of Q and K are permuted in every llama file, named so or not
    "tensor_data_layout": ("reference", "Meta AI original pth"),
    **dict.fromkeys(("attn_logit_softcapping", "final_logit_softcapping"), (0.0,)),
    **dict.fromkeys(("logit_scale", "embedding_scale", "residual_scale"), (0.0, 1.0)),
    **dict.fromkeys(("attention.clamp_kqv", "attention.max_alibi_bias"), (0.0,)),
    **dict.fromkeys(OF_EXPERTS, (0,)),
    **dict.fromkeys(("nextn_predict_layers", "use_parallel_residual", "swin_norm"), (0,)),
}

EPSILONS = {
    "rms": "attention.layer_norm_rms_epsilon",
    "layer": "attention.layer_norm_epsilon",
}
WINDOW = "attention.sliding_window"
WINDOW_BASE = "rope.freq_base_swa"
BASE = "rope.freq_base", 10000.0  # and what it is where a file has none
ORIGINAL = "rope.scaling.original_context_length"


def read(
    keys: Hyperparameters,
    reads: Sequence[str] = (),
    *,
    packs_gate: bool = False,
    pattern: int = 0,
    default_window: int = 0,
    stretches_windows: bool = False,
    biases: Sequence[str] = (),
    **traits: Any,
) -> DecoderConfig:
    """Read and cross-check the metadata. Raises FusecError naming the key at fault.

    `traits`: fields of the config that the architecture sets; `reads`: keys of `NEUTRAL` that it
    reads itself, so that they may have any value, and those of `YARN_KEYS` that count for it.
    `packs_gate`: its files have gate and up in one matrix, unless they have been taken apart.
    `pattern`: of so many layers the last has no window, where the file does not say which; 0: all
    have one. `default_window`: its positions, where it does not say; MISSING if it has to.
    `stretches_windows`: YaRN holds for layers with a window too. `biases`: tensors, without layer
    and kind, beside which a bias has to be; beside others it may.
    """
    file = keys.file
    layers = keys.count("block_count")
    heads = keys.per_layer("attention.head_count", layers)
    kv_heads = keys.per_layer("attention.head_count_kv", layers, heads)
    width = keys.count("embedding_length")
    if width % heads and not keys.has("attention.key_length"):
        raise FusecError(
            f"{file.path}: embedding length {width} is not a multiple of {heads} heads"
        )
    head_dim = keys.count("attention.key_length", max(width // heads, 1))
    norm = traits.get("norm", "rms")
    context, window = keys.count("context_length"), keys.count(WINDOW, default_window, least=0)
    given: dict[str, Any] = {
        "layers": layers - traits.get("skipped", 0),
        "width": width,
        "ffn_width": keys.per_layer("feed_forward_length", layers),
        "heads": heads,
        "kv_heads": kv_heads,
        "head_dim": head_dim,
        "vocab": _vocab(keys),
        "context": context,
        "norm_eps": keys.real(EPSILONS[norm]),
        "rope_base": keys.real(*BASE),
        "rope_dims": keys.count("rope.dimension_count", head_dim),
        "rope_scale": 1.0,
        "rope_factors": "rope_freqs.weight" in file.tensors,
        "tied": "output.weight" not in file.tensors,
        "scaled": _beside(file, "scale"),
        "biased": _beside(file, "bias")
        | (_norm_biases(file) if norm == "layer" else set())
        | {stem for stem in _stems(file) if stem.rpartition(".")[2] in biases},
        "packed": frozenset(_packed(file, packs_gate)),
        "window": window if window < context else 0,  # else it hides nothing
        "full_layers": _full_layers(keys, layers, pattern),
        "architecture": file.architecture,
    }
    scaling = stretch(keys, reads)
    config = DecoderConfig(**(given | scaling | traits))
    if config.packed:
        config = replace(config, biased=frozenset(_parts(config.biased, config)))
    _check(keys, config, stretches_windows)
    _know(keys, config, reads)
    return config


def _full_layers(keys: Hyperparameters, layers: int, pattern: int) -> frozenset[int]:
    """Those without a window. A file says it layer by layer, or as a pattern."""
    name = "attention.sliding_window_pattern"
    if isinstance(keys.file.metadata.get(keys.key(name)), list):
        return frozenset(n for n, windowed in enumerate(keys.flags(name, layers)) if not windowed)
    pattern = keys.count(name, pattern, least=0)
    return last_of(pattern, layers)


def _vocab(keys: Hyperparameters) -> int:
    """The rows of the embedding; in a file without tensors what the metadata says."""
    file = keys.file
    keys.ignore(["vocab_size"])
    if embedding := file.tensors.get("token_embd.weight"):
        return embedding.shape[0]
    if keys.has("vocab_size"):
        return keys.count("vocab_size")
    return len(file.get("tokenizer.ggml.tokens", list))


def _beside(file: GGUFFile, what: str) -> frozenset[str]:
    """Matrices with a `scale` (as NVFP4 files have) or a `bias` beside them, without `.weight`."""
    matrices = {name for name, t in file.tensors.items() if len(t.shape) > 1}
    stems = {name.removesuffix(".weight") for name in matrices if not name.endswith(HEAD_NORMS)}
    return frozenset(s for s in stems - {"token_embd"} if f"{s}.{what}" in file.tensors)


def _norm_biases(file: GGUFFile) -> set[str]:
    """Norms with a `bias` beside them; those of heads have none."""
    norms = {n for n in file.tensors if n.endswith("_norm.weight") and not n.endswith(HEAD_NORMS)}
    stems = {name.removesuffix(".weight") for name in norms}
    return {stem for stem in stems if f"{stem}.bias" in file.tensors}


def _stems(file: GGUFFile) -> Iterator[str]:
    """Tensors of weights, without `.weight`."""
    return (n.removesuffix(".weight") for n in file.tensors if n.endswith(".weight"))


def _packed(file: GGUFFile, packs_gate: bool) -> Iterator[str]:
    """Matrices of a layer that are several in one."""
    if "blk.0.attn_qkv.weight" in file.tensors:
        yield "attn_qkv"
    if packs_gate and "blk.0.ffn_gate.weight" not in file.tensors:
        yield "ffn_up"


def _parts(stems: Iterable[str], config: DecoderConfig) -> Iterator[str]:
    """Matrices, packed ones by their parts."""
    for stem in stems:
        block, _, name = stem.rpartition(".")
        if name in config.packed:
            yield from (f"{block}.{part}" for part, _ in config.parts_of(name))
        else:
            yield stem


def stretch(keys: Hyperparameters, reads: Sequence[str]) -> dict[str, Any]:
    """How the trained positions are stretched: fields of the config.

    As llama.cpp has it: a factor without a type is linear, and so is that of the key of 2023,
    `rope.scale_linear`, which the newer one overrules; the type `none` switches either off.
    """
    kind = keys.text("rope.scaling.type", "linear")
    keys.ignore(["rope.scaling.factor", "rope.scale_linear", ORIGINAL])
    known = ("none", "linear", "yarn", "longrope")
    if kind not in known:
        raise FusecError(
            f"{keys.file.path}: {keys.key('rope.scaling.type')} {kind!r} is not supported, "
            f"expected {', '.join(map(repr, known))}"
        )
    if kind == "none":
        return {}
    name = "rope.scaling.factor"
    if not keys.has(name) and keys.has("rope.scale_linear"):
        name = "rope.scale_linear"
    factor = keys.real(name, 1.0)
    if not factor > 0:
        raise FusecError(f"{keys.file.path}: {keys.key(name)} is {factor}, expected above 0")
    if kind == "linear":
        return {"rope_scale": 1.0 / factor}
    magnitude = keys.real("rope.scaling.attn_factor", 1.0)
    original = keys.count(ORIGINAL, keys.count("context_length"))
    if kind == "longrope":
        return {"original": original, "magnitude": magnitude, "rope_scale": 1.0 / factor}
    given = {
        field: keys.real(key) for field, key in YARN_KEYS.items() if key in reads and keys.has(key)
    }
    yarn = Yarn(factor, original, **given)
    return {"yarn": yarn, "magnitude": magnitude * yarn.magnitude}


def _know(keys: Hyperparameters, config: DecoderConfig, reads: Sequence[str]) -> None:
    """Keys that files have and that change nothing here; others are refused."""
    keys.ignore(CHANGE_NOTHING)
    if config.magnitude != 1.0:
        reads = (*reads, "rope.scaling.attn_factor")
    if config.experts:
        reads = (*reads, *OF_EXPERTS)
    for name, values in NEUTRAL.items():
        if name not in reads:
            keys.only(name, *values)
    keys.only("embedding_length_out", config.width)
    if WINDOW_BASE not in reads:
        keys.only(WINDOW_BASE, config.rope_base)
    if "attention.scale" not in reads:
        keys.only("attention.scale", 0, config.head_dim**-0.5)


def _check(keys: Hyperparameters, config: DecoderConfig, stretches_windows: bool) -> None:
    """Refuse metadata that contradicts itself or asks for what is not here."""
    values = keys.count("attention.value_length", config.head_dim)
    problem = None
    if config.heads % config.kv_heads:
        problem = (
            f"{keys.key('attention.head_count_kv')}: {config.heads} heads cannot share "
            f"{config.kv_heads} key/value heads"
        )
    elif config.rope_dims % 2 or config.rope_dims > config.head_dim:
        problem = (
            f"{keys.key('rope.dimension_count')} is {config.rope_dims}, expected an even number "
            f"up to the head size {config.head_dim}"
        )
    elif values != config.head_dim and not config.latent:
        problem = (
            f"{keys.key('attention.value_length')}: values of {values} elements beside keys of "
            f"{config.head_dim} are not supported"
        )
    elif not config.norm_eps > 0 or not config.rope_base > 0:
        problem = (
            f"{keys.key(EPSILONS[config.norm])} {config.norm_eps} and rope.freq_base "
            f"{config.rope_base} should be above 0"
        )
    elif config.magnitude != 1.0 and config.latent:
        problem = (
            f"{keys.key('rope.dimension_count')} is {config.rope_dims} of {config.head_dim}, which "
            f"is not supported with YaRN without {keys.key(YARN_KEYS['multiplier'])}"
        )
    elif config.yarn and config.rope_factors:
        problem = "YaRN beside rope_freqs.weight is not supported"
    elif config.yarn and config.window and not (config.window_base or stretches_windows):
        problem = f"{keys.key('rope.scaling.type')}: YaRN in layers with windows is not supported"
    elif config.yarn and not config.rope_base > 1:
        problem = f"{keys.key('rope.freq_base')} is {config.rope_base}, expected above 1 for YaRN"
    elif not config.experts and keys.count("expert_count", 0, least=0):
        problem = (
            f"{keys.key('expert_count')}: experts are not supported in {config.architecture} models"
        )
    elif config.layers < 1:
        problem = (
            f"{keys.key('nextn_predict_layers')} is {config.skipped}, expected less than the "
            f"{config.layers + config.skipped} blocks that there are"
        )
    elif config.experts and config.experts.dense >= config.layers:
        problem = (
            f"{keys.key('leading_dense_block_count')} is {config.experts.dense}, expected some of "
            f"{config.layers} layers to have experts"
        )
    if problem:
        raise FusecError(f"{keys.file.path}: {problem}")
