"""Decoder-only models of every architecture: one config, and the tensors it asks for.

A layer is x += attention(norm(x)); x += down(act(gate(n)) * up(n)) with n = norm(x). What differs
from that is a field of the config; an architecture (`architectures/`) says which of them it has,
and reads the rest from its file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from fusec.errors import FusecError
from fusec.models.experts import Experts, is_stack
from fusec.models.gguf_file import GGUFFile
from fusec.models.latent import Latent
from fusec.models.nextn import Nextn
from fusec.models.positions import Temperature, Yarn

IN_A_LAYER = re.compile(r"(?P<layer>blk\.\d+)\.(?P<name>\w+)\.(?P<kind>\w+)")


HEAD_NORMS = ("attn_q_norm.weight", "attn_k_norm.weight")
EMBEDDING = "token_embd.weight"
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
    nextn: Nextn | None = None  # the first of them, which is the whole model then

    @property
    def blocks(self) -> range:
        """The blocks of the file that the graph has: all layers, or the one that drafts."""
        return range(self.layers, self.layers + 1) if self.nextn else range(self.layers)

    @property
    def embedding(self) -> str:
        """The table of embeddings."""
        return self.nextn.embedding if self.nextn else EMBEDDING

    @property
    def last_norm(self) -> str:
        """The norm in front of the output matrix."""
        return self.nextn.norm if self.nextn else "output_norm.weight"

    @property
    def head(self) -> str:
        """The output matrix."""
        if self.nextn:
            return self.nextn.head
        return EMBEDDING if self.tied else "output.weight"

    def drafting(self, file: GGUFFile) -> DecoderConfig:
        """The block that drafts tokens as a model. Raises FusecError where the file has none."""
        if not self.skipped:
            raise FusecError(
                f"{file.path}: draft mtp: the file has no block that drafts tokens: expected "
                f"{self.architecture}.nextn_predict_layers from 1, found none"
            )
        return replace(self, nextn=Nextn.of(file, self.layers, self.head))

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
        yield self.embedding, (self.vocab, self.width)
        factors = {name for name in map(self.factors_of, (1, 1 << 62)) if name is not None}
        for name in sorted(factors):  # of any context
            yield name, (self.rope_dims // 2,)
        if self.nextn:
            yield from self.nextn.tensors(self.width)
        for layer in self.blocks:
            for name, shape in self._layer():
                yield f"blk.{layer}.{name}.weight", shape
            for name, shape in self._feed_forward(layer):
                yield f"blk.{layer}.{name}", shape
        yield self.last_norm, (self.width,)
        if self.head != self.embedding:
            yield self.head, (self.vocab, self.width)

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
