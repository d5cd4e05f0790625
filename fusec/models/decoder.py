"""Decoder-only models of every architecture: one config, and the tensors it asks for.

A layer is x += attention(norm(x)); x += down(act(gate(n)) * up(n)) with n = norm(x). What differs
from that is a field of the config; an architecture (`architectures/`) says which of them it has,
and reads the rest from its file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from fusec.errors import FusecError
from fusec.models.experts import Experts, is_stack, stacked
from fusec.models.gguf_file import GGUFFile, Tensor
from fusec.models.latent import Latent, taken_apart
from fusec.models.positions import Temperature, Yarn

IN_A_LAYER = re.compile(r"(?P<layer>blk\.\d+)\.(?P<name>\w+)\.(?P<kind>\w+)")

# Tables that some converters leave in the file and that the metadata already determines, and
# factors for rounding activations to four bits, which are kept in f32 here.
IGNORED_SUFFIXES = ("rotary_emb.inv_freq", "attn_rot_embd.weight", ".input_scale")

HEAD_NORMS = ("attn_q_norm.weight", "attn_k_norm.weight")
YARN = "rope_yarn.weight"  # in no file
SHORT = "rope_factors_short.weight"


@dataclass(frozen=True)
class DecoderConfig:
    """The hyperparameters of a model, as its GGUF metadata and tensors give them."""

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
    rope_dims: int  # leading elements of each head that are turned, in pairs
    rope_scale: float  # positions are multiplied by this (1 / linear scaling factor)
    rope_factors: bool  # rope_freqs.weight divides each pair's frequency; see also `factors_of`
    tied: bool  # token_embd.weight is the output matrix too
    scaled: frozenset[str] = frozenset()  # matrices M.weight beside which lies a factor M.scale
    biased: frozenset[str] = frozenset()  # those beside which lies M.bias
    packed: frozenset[str] = frozenset()  # of a layer: attn_qkv, and ffn_up if it has the gate too
    architecture: str = "llama"
    pairing: str = "adjacent"  # elements that RoPE turns together, or "halves"
    activation: str = "silu"  # or "gelu", "relu_squared", or "swiglu_oai", of gate and up
    gated: bool = True  # the activation of ffn_gate is multiplied by ffn_up; else it is ffn_up's
    parallel: bool = False  # x + attention(n) + feed-forward(n), with one norm a layer
    norm: str = "rms"  # or "layer": LayerNorm, of which `biased` says which have a bias
    pre_norms: bool = True  # in front of attention and feed-forward
    post_norms: bool = False  # behind them, before what they make is added
    qk_norms: str = ""  # of queries and keys before RoPE: "whole", "heads", "each" by own weights
    attention_scale: float = 0.0  # of scores; 0 is 1 / sqrt(head_dim)
    embedding_scale: float = 1.0
    residual_scale: float = 1.0  # of what a half of a layer adds
    logit_scale: float = 1.0
    logit_cap: float = 0.0  # c * tanh(logit / c); 0 is none
    latent: Latent | None = None  # keys and values are made of one cached vector
    temperature: Temperature | None = None  # of queries, by their position
    unrotated: int = 0  # every so many layers, one has no RoPE; 0: all have it
    rope_in_windows: bool = False  # only window layers have RoPE
    yarn: Yarn | None = None  # what divides the frequencies, computed
    original: int = 0  # context up to which LongRoPE has its short factors; 0 is no LongRoPE
    magnitude: float = 1.0  # of turned queries and keys (YaRN, LongRoPE)
    window: int = 0  # positions that window layers attend to, the query's own among them; 0: all
    full_layers: frozenset[int] = frozenset()  # that have no window where others do
    window_base: float = 0.0  # RoPE's base in window layers, if nothing stretches theirs
    score_cap: float = 0.0  # c * tanh(score / c); 0 is none
    sinks: bool = False  # a logit of each head that has no value
    experts: Experts | None = None  # in place of a layer's feed-forward
    ffn_norm: str = "ffn_norm"  # the tensor of the norm in front of it
    skipped: int = 0  # blocks at the end of the file that only draft tokens (MTP)

    @property
    def attention_width(self) -> int:
        """Elements of one token's queries, all heads."""
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Elements of one token's keys (or values), all key/value heads."""
        return self.kv_heads * self.head_dim

    def window_of(self, layer: int) -> int:
        """The positions that a layer attends to, the query's own among them; 0: all."""
        return 0 if layer in self.full_layers else self.window

    @property
    def turns_all(self) -> bool:
        """Whether RoPE turns all of a head, so that `magnitude` can be in the scores' scale."""
        return self.rope_dims == self.head_dim

    def is_stretched(self, layer: int) -> bool:
        """Whether RoPE has what stretches the context: a scale, factors, `magnitude`."""
        return not self.window_base or layer in self.full_layers

    def factors_of(self, context: int) -> str | None:
        """The vector that divides RoPE's frequencies in such a context, if there is one."""
        if self.original:
            return "rope_factors_long.weight" if context > self.original else SHORT
        if self.yarn:
            return YARN
        return "rope_freqs.weight" if self.rope_factors else None

    def angles(self, layer: int) -> dict[str, float] | None:
        """RoPE's base and scale in a layer; None if it has no RoPE."""
        if self.unrotated and (layer + 1) % self.unrotated == 0:
            return None
        if self.rope_in_windows and layer in self.full_layers:
            return None
        if self.is_stretched(layer):
            return {"base": self.rope_base, "scale": self.rope_scale}
        return {"base": self.window_base, "scale": 1.0}

    def experts_of(self, layer: int) -> Experts | None:
        """The experts of a layer, if it has some."""
        return self.experts if self.experts and layer >= self.experts.dense else None

    def with_factor(self, matrix: str) -> str | None:
        """The name of the tensor with the factor of matrix `M.weight`, `M.scale`, if it has one."""
        stem = matrix.removesuffix(".weight")
        return f"{stem}.scale" if stem in self.scaled else None

    def with_bias(self, matrix: str) -> str | None:
        """The same of what is added to its products, `M.bias`."""
        stem = matrix.removesuffix(".weight")
        return f"{stem}.bias" if stem in self.biased else None

    def parts_of(self, packed: str) -> tuple[tuple[str, int], ...]:
        """Of which matrices the rows of a packed one are, in order, and how many of each."""
        if packed == "attn_qkv":
            queries = ("attn_q", self.attention_width)
            return queries, ("attn_k", self.kv_width), ("attn_v", self.kv_width)
        return ("ffn_gate", self.ffn_width), ("ffn_up", self.ffn_width)

    def shape_in_file(self, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        """NumPy shape of a tensor in the file: heads' own weights of a norm are rows there.

        For experts, see there.
        """
        for special in (self.experts, self.latent):
            shape = special.shape_in_file(name, shape) if special else shape
        own = self.qk_norms == "each" and name.endswith(HEAD_NORMS)
        return (shape[0] // self.head_dim, self.head_dim) if own else shape

    def tensor_shapes(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """(name, NumPy shape) of every tensor the model needs, in the order of computation."""
        for name, shape in self._matrices_and_norms():
            yield name, shape
            if factor := self.with_factor(name):
                yield factor, (self.experts.count if self.experts and is_stack(name) else 1,)
            if bias := self.with_bias(name):
                yield bias, shape[:1]

    def _matrices_and_norms(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield "token_embd.weight", (self.vocab, self.width)
        factors = {name for name in map(self.factors_of, (1, 1 << 62)) if name is not None}
        for name in sorted(factors):  # of any context
            yield name, (self.rope_dims // 2,)
        for layer in range(self.layers):
            for name, shape in self._layer():
                yield f"blk.{layer}.{name}.weight", shape
            for name, shape in self._feed_forward(layer):
                yield f"blk.{layer}.{name}", shape
        yield "output_norm.weight", (self.width,)
        if not self.tied:
            yield "output.weight", (self.vocab, self.width)

    def _layer(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        if self.pre_norms:
            yield "attn_norm", (self.width,)
        yield from self.latent.tensors(self.width) if self.latent else self._attention()
        if self.post_norms:
            yield "post_attention_norm", (self.width,)

    def _attention(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield "attn_q", (self.attention_width, self.width)
        yield "attn_k", (self.kv_width, self.width)
        yield "attn_v", (self.kv_width, self.width)
        if self.qk_norms:
            of_head = self.qk_norms == "heads"
            yield "attn_q_norm", (self.head_dim if of_head else self.attention_width,)
            yield "attn_k_norm", (self.head_dim if of_head else self.kv_width,)
        if self.sinks:
            yield "attn_sinks", (self.heads,)
        yield "attn_output", (self.width, self.attention_width)

    def _feed_forward(self, layer: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        if self.pre_norms and not self.parallel:
            yield f"{self.ffn_norm}.weight", (self.width,)
        if experts := self.experts_of(layer):
            yield from experts.tensors(self.width)
        else:
            if self.gated:
                yield "ffn_gate.weight", (self.ffn_width, self.width)
            yield "ffn_up.weight", (self.ffn_width, self.width)
            yield "ffn_down.weight", (self.width, self.ffn_width)
        if self.post_norms:
            yield "post_ffw_norm.weight", (self.width,)


def last_of(pattern: int, layers: int) -> frozenset[int]:
    """The last of every `pattern` layers, of so many; none if that is 0."""
    return frozenset(range(pattern - 1, layers, pattern)) if pattern else frozenset()


def weights_of(file: GGUFFile, config: DecoderConfig) -> GGUFFile:
    """The file with the tensors that the graph reads: parts of packed matrices, YaRN's factors.

    Experts' matrices are one tall matrix. Parts are rows of what is in the file. Raises FusecError
    where there are more or fewer of them. Norm weights of each head, which are rows there, are one
    vector.
    """
    found: dict[str, Tensor] = {}
    tensors = stacked(file, config.experts) if config.experts else file.tensors
    for name, tensor in tensors.items():
        match = IN_A_LAYER.fullmatch(name)
        if match is None or match["name"] not in config.packed:
            each = config.qk_norms == "each" and name.endswith(HEAD_NORMS)
            of_heads = each and tensor.shape[1:] == (config.head_dim,)
            found[name] = tensor.as_vector() if of_heads else tensor
            continue
        parts = config.parts_of(match["name"])
        if tensor.shape[0] != (rows := sum(count for _, count in parts)):
            raise FusecError(
                f"{file.path}: tensor {name!r} should have {rows} rows, of "
                f"{', '.join(part for part, _ in parts)}, found {tensor.shape[0]}"
            )
        first = 0
        for part, count in parts:
            own = f"{match['layer']}.{part}.{match['kind']}"
            found[own] = tensor.rows(own, first, count)
            first += count
    if config.latent:
        found = taken_apart(file, found, config.latent, config.layers)
    if config.yarn:
        factors = config.yarn.factors(config.rope_dims, config.rope_base)
        found[YARN] = Tensor(YARN, "f32", factors.shape, factors.view(np.uint8), 0)
    return file.with_tensors(found)


def check_tensors(file: GGUFFile, config: DecoderConfig) -> None:
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
    skipped = tuple(f"blk.{config.layers + k}." for k in range(config.skipped))
    for name in file.tensors:
        if name not in needed and not (name.endswith(IGNORED_SUFFIXES) or name.startswith(skipped)):
            raise FusecError(
                f"{file.path}: tensor {name!r} is not part of a {config.architecture} model"
            )
