"""The `llama` architecture: Llama 1 to 3, SmolLM2, TinyStories models and others of that shape.

A layer is x += attention(rms_norm(x)); x += down(silu(gate(n)) * up(n)) with n = rms_norm(x).
GGUF stores the query and key rows permuted so that RoPE turns adjacent pairs of elements.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fusec.errors import FusecError
from fusec.ir import Builder, Graph, Value
from fusec.models.gguf_file import GGUFFile
from fusec.models.hyperparameters import Hyperparameters

# Tables that some converters leave in the file and that the metadata already determines, and
# factors for rounding activations to four bits, which are kept in f32 here.
IGNORED_SUFFIXES = ("rotary_emb.inv_freq", "attn_rot_embd.weight", ".input_scale")

# Keys that change no logits, whatever they say; llama.cpp's `llama` graph reads none of them.
CHANGE_NOTHING = (
    "rope.scaling.finetuned",  # that the model was trained with the scaling
    # only YaRN and LongRoPE read these, and their types are refused
    "rope.scaling.original_context_length",
    *(f"rope.scaling.yarn_{name}" for name in ("ext_factor", "attn_factor", "log_multiplier")),
    *(f"rope.scaling.yarn_beta_{name}" for name in ("fast", "slow")),
    "attention.layer_norm_epsilon",  # of LayerNorm, which a llama has nowhere
    "pooling_type",  # how embeddings are pooled, not logits
    # of experts, of which there are none: `expert_count` is refused
    *(f"expert_{name}feed_forward_length" for name in ("", "shared_", "chunk_")),
    *(f"expert_{name}" for name in ("gating_func", "weights_norm", "weights_scale", "group_scale")),
    *("expert_shared_count", "expert_group_used_count", "experts_per_group"),
    *("moe_every_n_layers", "interleave_moe_layer_step", "leading_dense_block_count"),
)

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
    **dict.fromkeys(("expert_used_count", "expert_group_count"), (0,)),
    **dict.fromkeys(("nextn_predict_layers", "use_parallel_residual", "swin_norm"), (0,)),
}


@dataclass(frozen=True)
class LlamaConfig:
    """The hyperparameters of a llama model, as its GGUF metadata and tensors give them."""

    layers: int
    width: int  # embedding length
    ffn_width: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    context: int  # tokens the model was trained for
    norm_eps: float
    rope_base: float
    rope_dims: int  # leading elements of each head that are turned, in adjacent pairs
    rope_scale: float  # positions are multiplied by this (1 / linear scaling factor)
    rope_factors: bool  # rope_freqs.weight divides each pair's frequency
    tied: bool  # token_embd.weight is the output matrix too
    scaled: frozenset[str] = frozenset()  # matrices M.weight beside which lies a factor M.scale

    @property
    def attention_width(self) -> int:
        """Elements of one token's queries, all heads."""
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Elements of one token's keys (or values), all key/value heads."""
        return self.kv_heads * self.head_dim

    @classmethod
    def of(cls, keys: Hyperparameters) -> LlamaConfig:
        """Read and cross-check the metadata. Raises FusecError naming the key at fault."""
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
        config = cls(
            layers=layers,
            width=width,
            ffn_width=keys.per_layer("feed_forward_length", layers),
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            vocab=_vocab(keys),
            context=keys.count("context_length"),
            norm_eps=keys.real("attention.layer_norm_rms_epsilon"),
            rope_base=keys.real("rope.freq_base", 10000.0),
            rope_dims=keys.count("rope.dimension_count", head_dim),
            rope_scale=1.0 / _linear_factor(keys),
            rope_factors="rope_freqs.weight" in file.tensors,
            tied="output.weight" not in file.tensors,
            scaled=_scaled(file),
        )
        _check(keys, config)
        _know(keys, config)
        return config

    def with_factor(self, matrix: str) -> str | None:
        """The name of the tensor with the factor of matrix `M.weight`, `M.scale`, if it has one."""
        stem = matrix.removesuffix(".weight")
        return f"{stem}.scale" if stem in self.scaled else None

    def tensor_shapes(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """(name, NumPy shape) of every tensor the model needs, in the order of computation."""
        for name, shape in self._matrices_and_norms():
            yield name, shape
            if factor := self.with_factor(name):
                yield factor, (1,)

    def _matrices_and_norms(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield "token_embd.weight", (self.vocab, self.width)
        if self.rope_factors:
            yield "rope_freqs.weight", (self.rope_dims // 2,)
        for layer in range(self.layers):
            block = f"blk.{layer}"
            yield f"{block}.attn_norm.weight", (self.width,)
            yield f"{block}.attn_q.weight", (self.attention_width, self.width)
            yield f"{block}.attn_k.weight", (self.kv_width, self.width)
            yield f"{block}.attn_v.weight", (self.kv_width, self.width)
            yield f"{block}.attn_output.weight", (self.width, self.attention_width)
            yield f"{block}.ffn_norm.weight", (self.width,)
            yield f"{block}.ffn_gate.weight", (self.ffn_width, self.width)
            yield f"{block}.ffn_up.weight", (self.ffn_width, self.width)
            yield f"{block}.ffn_down.weight", (self.width, self.ffn_width)
        yield "output_norm.weight", (self.width,)
        if not self.tied:
            yield "output.weight", (self.vocab, self.width)


def check_tensors(file: GGUFFile, config: LlamaConfig) -> None:
    """Refuse a file whose tensors are not exactly those of the model.

    Raises FusecError for a missing tensor, a wrong shape, a vector that is not f32, and a tensor
    this architecture would leave unused, because leaving it out would change the results.
    """
    needed = set()
    for name, shape in config.tensor_shapes():  # a damaged number of layers ends at the first
        needed.add(name)
        found = file.tensor(name, shape)
        if len(shape) == 1 and found.dtype != "f32":
            raise FusecError(f"{file.path}: tensor {name!r} should be f32, found {found.dtype}")
    for name in file.tensors:
        if name not in needed and not name.endswith(IGNORED_SUFFIXES):
            raise FusecError(f"{file.path}: tensor {name!r} is not part of a llama model")


def decode_graph(
    config: LlamaConfig, types: Mapping[str, str], tokens: int, context: int, kv: str
) -> Graph:
    """One step over `tokens` tokens: ids and positions in, logits and the greedy choice out.

    `types` gives each tensor's dtype, `kv` that of the cache of `context` positions.
    """
    shapes = dict(config.tensor_shapes())
    b = Builder("llama_decode")
    token, pos = b.input("token", (tokens,), "i32"), b.input("pos", (tokens,), "i32")

    def weight(name: str) -> Value:
        return b.weight(name, shapes[name], types[name])

    def rope(x: Value, name: str) -> Value:
        factors = (weight("rope_freqs.weight"),) if config.rope_factors else ()
        angles = {"base": config.rope_base, "dims": config.rope_dims, "scale": config.rope_scale}
        return b.rope(x, pos, *factors, head_dim=config.head_dim, name=name, **angles)

    def matvec(x: Value, tensor: str, name: str) -> Value:
        factor = config.with_factor(tensor)
        return b.matvec(x, weight(tensor), *([weight(factor)] if factor else ()), name=name)

    def norm(x: Value, tensor: str, name: str) -> Value:
        return b.rms_norm(x, weight(tensor), eps=config.norm_eps, name=name)

    x = b.embed(token, weight("token_embd.weight"), name="embed")
    for layer in range(config.layers):
        at = f"blk.{layer}"
        cache = (context, config.kv_heads, config.head_dim)
        k_cache, v_cache = (b.state(f"{at}.{part}", cache, kv) for part in "kv")

        n = norm(x, f"{at}.attn_norm.weight", f"{at}.attn_norm")
        q, k, v = (matvec(n, f"{at}.attn_{p}.weight", f"{at}.{p}") for p in "qkv")
        q, k = rope(q, f"{at}.q_rope"), rope(k, f"{at}.k_rope")
        keys, values = b.kv_append(k_cache, k, pos), b.kv_append(v_cache, v, pos)
        groups = {"heads": config.heads, "kv_heads": config.kv_heads}
        scale = config.head_dim**-0.5
        a = b.attention(q, keys, values, pos, scale=scale, name=f"{at}.attn", **groups)
        o = matvec(a, f"{at}.attn_output.weight", f"{at}.attn_output")
        x = b.add(x, o, name=f"{at}.attn_residual")

        n = norm(x, f"{at}.ffn_norm.weight", f"{at}.ffn_norm")
        gate, up = (matvec(n, f"{at}.ffn_{p}.weight", f"{at}.{p}") for p in ("gate", "up"))
        h = b.mul(b.silu(gate, name=f"{at}.silu"), up, name=f"{at}.swiglu")
        down = matvec(h, f"{at}.ffn_down.weight", f"{at}.down")
        x = b.add(x, down, name=f"{at}.ffn_residual")
    n = norm(x, "output_norm.weight", "norm")
    head = "token_embd.weight" if config.tied else "output.weight"
    logits = matvec(n, head, "logits")
    return b.build(logits, b.argmax(logits, name="next"))


def _vocab(keys: Hyperparameters) -> int:
    """The rows of the embedding; in a file without tensors what the metadata says."""
    file = keys.file
    keys.ignore(["vocab_size"])
    if embedding := file.tensors.get("token_embd.weight"):
        return embedding.shape[0]
    if keys.has("vocab_size"):
        return keys.count("vocab_size")
    return len(file.get("tokenizer.ggml.tokens", list))


def _scaled(file: GGUFFile) -> frozenset[str]:
    """Matrices with a factor of their own, without `.weight`: NVFP4 files have them."""
    stems = {name.removesuffix(".weight") for name, t in file.tensors.items() if len(t.shape) == 2}
    return frozenset(s for s in stems - {"token_embd"} if f"{s}.scale" in file.tensors)


def _linear_factor(keys: Hyperparameters) -> float:
    """How many times the trained positions are stretched.

    As llama.cpp has it: a factor without a type is linear, and so is that of the key of 2023,
    `rope.scale_linear`, which the newer one overrules; the type `none` switches either off.
    """
    kind = keys.text("rope.scaling.type", "linear")
    keys.ignore(["rope.scaling.factor", "rope.scale_linear"])
    if kind not in ("none", "linear"):
        raise FusecError(
            f"{keys.file.path}: {keys.key('rope.scaling.type')} {kind!r} is not supported, "
            "expected 'none' or 'linear'"
        )
    if kind == "none":
        return 1.0
    name = "rope.scaling.factor"
    if not keys.has(name) and keys.has("rope.scale_linear"):
        name = "rope.scale_linear"
    factor = keys.real(name, 1.0)
    if not factor > 0:
        raise FusecError(f"{keys.file.path}: {keys.key(name)} is {factor}, expected above 0")
    return factor


def _know(keys: Hyperparameters, config: LlamaConfig) -> None:
    """Keys that llama files have and that change nothing here; others are refused."""
    keys.ignore(CHANGE_NOTHING)
    for name, values in NEUTRAL.items():
        keys.only(name, *values)
    keys.only("embedding_length_out", config.width)
    keys.only("attention.scale", 0, config.head_dim**-0.5)
    # llama.cpp never reads the window for llama, but whoever wrote one, as Mistral 7B 0.1 has it,
    # trained with it: it changes nothing only while no context can be longer.
    window = keys.count("attention.sliding_window", 0, least=0)
    if 0 < window < config.context:
        raise FusecError(
            f"{keys.file.path}: {keys.key('attention.sliding_window')} is {window}, which is not "
            f"supported in a context of up to {config.context}"
        )


def _check(keys: Hyperparameters, config: LlamaConfig) -> None:
    """Refuse metadata that contradicts itself or asks for what is not here."""
    values = keys.count("attention.value_length", config.head_dim)
    problem = None
    if config.heads % config.kv_heads:
        problem = f"{config.heads} heads cannot share {config.kv_heads} key/value heads"
    elif config.rope_dims % 2 or config.rope_dims > config.head_dim:
        problem = (
            f"llama.rope.dimension_count is {config.rope_dims}, expected an even number "
            f"up to the head size {config.head_dim}"
        )
    elif values != config.head_dim:
        problem = f"values of {values} elements beside keys of {config.head_dim} are not supported"
    elif not config.norm_eps > 0 or not config.rope_base > 0:
        problem = (
            f"layer_norm_rms_epsilon {config.norm_eps} and rope.freq_base {config.rope_base} "
            "should be above 0"
        )
    elif keys.count("expert_count", 0, least=0):
        problem = f"{keys.key('expert_count')}: mixture-of-experts llama models are not supported"
    if problem:
        raise FusecError(f"{keys.file.path}: {problem}")
