"""The `llama` architecture: Llama 1 to 3, SmolLM2, TinyStories models and others of that shape.

A layer is x += attention(rms_norm(x)); x += down(silu(gate(n)) * up(n)) with n = rms_norm(x).
GGUF stores the query and key rows permuted so that RoPE turns adjacent pairs of elements.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from fusec.errors import FusecError
from fusec.ir import Builder, Graph, Value
from fusec.models.gguf_file import GGUFFile

# Tables that some converters leave in the file and that the metadata already determines, and
# factors for rounding activations to four bits, which are kept in f32 here.
IGNORED_SUFFIXES = ("rotary_emb.inv_freq", "attn_rot_embd.weight", ".input_scale")


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
    def from_gguf(cls, file: GGUFFile) -> LlamaConfig:
        """Read and cross-check the metadata. Raises FusecError naming the key at fault."""

        def count(key: str, default: int | None = None) -> int:
            key = f"llama.{key}"
            value = file.get(key, int) if default is None else file.get(key, int, default)
            if value < 1:
                raise FusecError(f"{file.path}: {key} is {value}, expected at least 1")
            return value

        heads = count("attention.head_count")
        kv_heads = count("attention.head_count_kv", heads)
        width = count("embedding_length")
        if width % heads and "llama.attention.key_length" not in file.metadata:
            raise FusecError(
                f"{file.path}: embedding length {width} is not a multiple of {heads} heads"
            )
        head_dim = count("attention.key_length", width // heads)
        config = cls(
            layers=count("block_count"),
            width=width,
            ffn_width=count("feed_forward_length"),
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            vocab=_vocab(file),
            context=count("context_length"),
            norm_eps=file.get("llama.attention.layer_norm_rms_epsilon", float),
            rope_base=file.get("llama.rope.freq_base", float, 10000.0),
            rope_dims=count("rope.dimension_count", head_dim),
            rope_scale=1.0 / _linear_factor(file),
            rope_factors="rope_freqs.weight" in file.tensors,
            tied="output.weight" not in file.tensors,
            scaled=_scaled(file),
        )
        _check(file, config)
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
    needed = dict(config.tensor_shapes())
    for name, shape in needed.items():
        found = file.tensor(name, shape)
        if len(shape) == 1 and found.dtype != "f32":
            raise FusecError(f"{file.path}: tensor '{name}' should be f32, found {found.dtype}")
    for name in file.tensors:
        if name not in needed and not name.endswith(IGNORED_SUFFIXES):
            raise FusecError(f"{file.path}: tensor '{name}' is not part of a llama model")


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


def _vocab(file: GGUFFile) -> int:
    embedding = file.tensors.get("token_embd.weight")
    if embedding is not None:
        return embedding.shape[0]
    if "llama.vocab_size" in file.metadata:
        return file.get("llama.vocab_size", int)
    return len(file.get("tokenizer.ggml.tokens", list))


def _scaled(file: GGUFFile) -> frozenset[str]:
    """Matrices with a factor of their own, without `.weight`: NVFP4 files have them."""
    stems = {name.removesuffix(".weight") for name, t in file.tensors.items() if len(t.shape) == 2}
    return frozenset(s for s in stems - {"token_embd"} if f"{s}.scale" in file.tensors)


def _linear_factor(file: GGUFFile) -> float:
    """How many times the trained positions are stretched (llama.rope.scaling.*)."""
    kind = file.get("llama.rope.scaling.type", str, "none")
    if kind not in ("none", "linear"):
        raise FusecError(
            f"{file.path}: llama.rope.scaling.type '{kind}' is not supported, "
            "expected 'none' or 'linear'"
        )
    factor = file.get("llama.rope.scaling.factor", float, 1.0) if kind == "linear" else 1.0
    if not factor > 0:
        raise FusecError(f"{file.path}: llama.rope.scaling.factor is {factor}, expected above 0")
    return factor


def _check(file: GGUFFile, config: LlamaConfig) -> None:
    """Refuse metadata that contradicts itself or asks for what is not here."""
    problem = None
    if config.heads % config.kv_heads:
        problem = f"{config.heads} heads cannot share {config.kv_heads} key/value heads"
    elif config.rope_dims % 2 or config.rope_dims > config.head_dim:
        problem = (
            f"llama.rope.dimension_count is {config.rope_dims}, expected an even number "
            f"up to the head size {config.head_dim}"
        )
    elif (values := file.get("llama.attention.value_length", int, config.head_dim)) != (
        config.head_dim
    ):
        problem = f"values of {values} elements beside keys of {config.head_dim} are not supported"
    elif not config.norm_eps > 0 or not config.rope_base > 0:
        problem = (
            f"layer_norm_rms_epsilon {config.norm_eps} and rope.freq_base {config.rope_base} "
            "should be above 0"
        )
    elif file.get("llama.expert_count", int, 0):
        problem = "mixture-of-experts llama models are not supported"
    if problem:
        raise FusecError(f"{file.path}: {problem}")
