"""What a step of a decoder-only model computes, as a graph: `models/decoder.py` has its config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fusec.ir import Builder, Graph, Value
from fusec.ir.plan import HIDDEN
from fusec.models.decoder import DecoderConfig
from fusec.models.experts import SHARED_GATE, Experts
from fusec.models.nextn import Nextn


def decode_graph(
    config: DecoderConfig, types: Mapping[str, str], tokens: int, context: int, kv: str
) -> Graph:
    """One step over `tokens` tokens: ids and positions in, logits and the greedy choice out.

    `types` gives each tensor's dtype, `kv` that of the cache of `context` positions.
    """
    return _Step(config, types, tokens, context, kv).build()


class _Step:
    """The graph, as it is written."""

    def __init__(
        self, config: DecoderConfig, types: Mapping[str, str], tokens: int, context: int, kv: str
    ) -> None:
        self.config, self.types, self.kv = config, types, kv
        self.shapes = dict(config.tensor_shapes())
        self.context = context
        self.factors = config.factors_of(context)
        kind = "nextn" if config.nextn else "decode"
        self.b = Builder(f"{config.architecture}_{kind}")
        self.tokens = tokens
        self.token = self.b.input("token", (tokens,), "i32")
        self.pos = self.b.input("pos", (tokens,), "i32")

    def build(self) -> Graph:
        """From the embedding to the greedy choice."""
        b, config = self.b, self.config
        x = b.embed(self.token, self._weight(config.embedding), name="embed")
        x = self._scaled(x, config.embedding_scale, "scaled_embed")
        if config.nextn:
            x = self._joined(x, config.nextn)
        for layer in config.blocks:
            x = self._layer(x, layer)
        n = self._norm(x, config.last_norm, HIDDEN)
        head = config.head
        later: list[tuple[str, dict[str, float]]] = []
        if config.logit_scale != 1.0:
            later.append(("scale", {"factor": config.logit_scale}))
        if config.logit_cap:
            later.append(("softcap", {"cap": config.logit_cap}))
        logits = self._matvec(n, head, "products" if later else "logits")
        for op, given in later:
            name = "logits" if op == later[-1][0] else "scaled_logits"
            logits = b.op(op, logits, name=name, **given)
        return b.build(logits, b.argmax(logits, name="next"))

    def _joined(self, x: Value, nextn: Nextn) -> Value:
        """An embedding with the hidden state in front of it, which is one more input."""
        hidden = self.b.input("hidden", (self.tokens, self.config.width), "f32")
        at, both = nextn.at, (("e", x), ("h", hidden))
        normed = (self._norm(v, f"{at}.{p}norm.weight", f"{at}.{p}norm") for p, v in both)
        e, h = (
            self._matvec(v, f"{at}.{p}_proj.weight", f"{at}.{p}_proj")
            for p, v in zip("eh", normed, strict=True)
        )
        return self.b.add(e, h, name=f"{at}.joined")

    def _layer(self, x: Value, layer: int) -> Value:
        """The residual behind a layer."""
        at = f"blk.{layer}"
        n = self._pre_norm(x, f"{at}.attn_norm")
        o = (self._latent_attention if self.config.latent else self._attention)(n, layer)
        if not self.config.parallel:
            x = self._added(x, o, f"{at}.post_attention_norm", f"{at}.attn_residual")
            n = self._pre_norm(x, f"{at}.{self.config.ffn_norm}")
        down = self._feed_forward(n, layer)
        x = self._added(x, down, f"{at}.post_ffw_norm", f"{at}.ffn_residual")
        if self.config.parallel:  # in this order the next layer's norm can add up attention's parts
            x = self._added(x, o, f"{at}.post_attention_norm", f"{at}.attn_residual")
        return x

    def _attention(self, n: Value, layer: int) -> Value:
        """A layer's first half, without what it is added to."""
        b, config, at = self.b, self.config, f"blk.{layer}"
        cache = (self.context, config.kv_heads, config.head_dim)
        k_cache, v_cache = (b.state(f"{at}.{part}", cache, self.kv) for part in "kv")
        q, k, v = (self._matvec(n, f"{at}.attn_{p}.weight", f"{at}.{p}") for p in "qkv")
        q, k = (self._turned(x, p, layer) for x, p in ((q, "q"), (k, "k")))
        q = self._tempered(q, f"{at}.q_tempered")
        keys = b.kv_append(k_cache, k, self.pos)
        values = b.kv_append(v_cache, v, self.pos)
        groups = {"heads": config.heads, "kv_heads": config.kv_heads}
        seen = {"window": config.window_of(layer), "cap": config.score_cap}
        sinks = (self._weight(f"{at}.attn_sinks.weight"),) if config.sinks else ()
        scale = config.attention_scale or config.head_dim**-0.5
        if config.angles(layer) is not None and config.is_stretched(layer) and config.turns_all:
            scale *= config.magnitude**2  # of queries and of keys
        given: dict[str, Any] = {"scale": scale, **groups, **seen}
        a = b.attention(q, keys, values, self.pos, *sinks, name=f"{at}.attn", **given)
        return self._matvec(a, f"{at}.attn_output.weight", f"{at}.attn_output")

    def _latent_attention(self, n: Value, layer: int) -> Value:
        """The same where one vector a position, and one key, are cached for all heads.

        A head's query meets the key with those of its elements that know the position (`q`), and
        the vector with the others, behind the head's matrix of keys (`p`).
        """
        b, config, latent, at = self.b, self.config, self.config.latent, f"blk.{layer}"
        assert latent is not None
        sizes = (("k", latent.turned), ("v", latent.rank))
        caches = (b.state(f"{at}.{part}", (self.context, 1, n), self.kv) for part, n in sizes)
        x = n
        if latent.query_rank:
            x = self._matvec(n, f"{at}.attn_q_a.weight", f"{at}.q_a")
            x = self._norm(x, f"{at}.attn_q_a_norm.weight", f"{at}.q_a_norm")
        q = self._matvec(x, f"{at}.attn_q_turned.weight", f"{at}.q")
        p = self._matvec(x, f"{at}.attn_q_plain.weight", f"{at}.q_plain")
        k = self._matvec(n, f"{at}.attn_k_turned.weight", f"{at}.k")
        v = self._matvec(n, f"{at}.attn_kv_a.weight", f"{at}.kv_a")
        v = self._norm(v, f"{at}.attn_kv_a_norm.weight", f"{at}.kv_a_norm")
        q, k = (self._rope(x, name, layer, latent.turned) for x, name in ((q, "q"), (k, "k")))
        p = b.head_matvec(p, self._weight(f"{at}.attn_k_b.weight"), heads=latent.heads)
        q, p = self._tempered(q, f"{at}.q_tempered"), self._tempered(p, f"{at}.p_tempered")
        made = zip(caches, (k, v), strict=True)
        keys, values = (b.kv_append(cache, x, self.pos) for cache, x in made)
        scale = config.attention_scale or config.head_dim**-0.5
        given: dict[str, Any] = {"heads": latent.heads, "kv_heads": 1, "scale": scale}
        a = b.attention(q, keys, values, self.pos, p=p, name=f"{at}.attn", **given)
        a = b.head_matvec(a, self._weight(f"{at}.attn_v_b.weight"), heads=latent.heads)
        return self._matvec(a, f"{at}.attn_output.weight", f"{at}.attn_output")

    def _tempered(self, q: Value, name: str) -> Value:
        """A query, by its position if the model does so."""
        t = self.config.temperature
        return q if t is None else self.b.temper(q, self.pos, **vars(t), name=name)

    def _turned(self, x: Value, part: str, layer: int) -> Value:
        """Queries or keys, normed and turned if the layer does so."""
        b, config, at = self.b, self.config, f"blk.{layer}"
        if config.qk_norms:
            weight, name = self._weight(f"{at}.attn_{part}_norm.weight"), f"{at}.{part}_norm"
            head = {} if config.qk_norms == "whole" else {"head_dim": config.head_dim}
            norm = NORMS[config.norm][1 if head else 0]
            x = b.op(norm, x, weight, eps=config.norm_eps, name=name, **head)
        return self._rope(x, part, layer, config.head_dim)

    def _rope(self, x: Value, part: str, layer: int, head: int) -> Value:
        """Heads of that size turned, if the layer does so."""
        config = self.config
        angles = config.angles(layer)
        if angles is None:
            return x
        factors: tuple[Value, ...] = ()
        if self.factors and config.is_stretched(layer):
            factors = (self._weight(self.factors),)
        given: dict[str, Any] = {"dims": config.rope_dims, "pairing": config.pairing, **angles}
        if config.is_stretched(layer) and not config.turns_all:
            given["magnitude"] = config.magnitude
        name = f"blk.{layer}.{part}_rope"
        return self.b.rope(x, self.pos, *factors, head_dim=head, name=name, **given)

    def _feed_forward(self, n: Value, layer: int) -> Value:
        """A layer's second half, the same."""
        at, experts = f"blk.{layer}", self.config.experts_of(layer)
        if experts is None:
            return self._gated(n, at)
        total = self._experts(n, at, experts)
        if not experts.shared:
            return total
        shared = self._gated(n, at, "_shexp")
        if experts.shared_gate:
            gate = self._matvec(n, f"{at}.{SHARED_GATE}", f"{at}.gate_inp_shexp")
            gate = self.b.sigmoid(gate, name=f"{at}.share")
            shared = self.b.mul(shared, gate, name=f"{at}.shared")
        return self.b.add(total, shared, name=f"{at}.experts_and_shared")

    def _gated(self, n: Value, at: str, kind: str = "") -> Value:
        """A feed-forward that every token goes through; `kind` ends its names."""
        parts = ("gate", "up") if self.config.gated else ("up",)
        made = (self._matvec(n, f"{at}.ffn_{p}{kind}.weight", f"{at}.{p}{kind}") for p in parts)
        h = self._activated(*made, at=at, kind=kind)
        return self._matvec(h, f"{at}.ffn_down{kind}.weight", f"{at}.down{kind}")

    def _activated(self, *made: Value, at: str, kind: str) -> Value:
        """What goes into the last matrix of a feed-forward, of gate and up or of up alone."""
        b, act = self.b, self.config.activation
        if act in OF_BOTH:
            return b.op(act, *made, name=f"{at}.{act}{kind}")
        first, *up = made
        h = b.op(act, first, name=f"{at}.{act}{kind}")
        for other in up:
            h = b.mul(h, other, name=f"{at}.{GATED[act]}{kind}")
        return h

    def _experts(self, n: Value, at: str, experts: Experts) -> Value:
        """The sum of the experts that the router chooses, by its weights.

        What goes into their last matrices is multiplied by the weights, not what comes out: a
        product is linear.
        """
        b, config = self.b, self.config
        logits = self._matvec(n, f"{at}.ffn_gate_inp.weight", f"{at}.router")
        choice = [self._weight(f"{at}.exp_probs_b.bias")] if experts.choice_bias else []
        ids, weights = b.op("route", logits, *choice, name=f"{at}.experts", **experts.routing)
        gate, up = (self._of_experts(n, ids, part, at, experts.width) for part in ("gate", "up"))
        h = self._activated(gate, up, at=at, kind="_exps")
        h = b.mul(h, weights, name=f"{at}.weighted")
        down, name = f"{at}.ffn_down_exps.weight", f"{at}.down_exps"
        if factor := config.with_factor(down):
            h = b.mul(h, self._factors(factor, ids), name=f"{at}.factored_exps")
        bias, given = config.with_bias(down), {"rows": config.width}
        product = f"{name}_product" if bias else name
        y: Value = b.expert_matvec_sum(h, self._weight(down), ids, name=product, **given)
        if bias is None:
            return y
        biases = b.expert_vector_sum(weights, ids, self._weight(bias), name=f"{name}_bias", **given)
        return b.add(y, biases, name=name)

    def _of_experts(self, n: Value, ids: Value, part: str, at: str, rows: int) -> Value:
        """The products of a vector with one matrix of each chosen expert."""
        b, tensor, name = self.b, f"{at}.ffn_{part}_exps.weight", f"{at}.{part}_exps"
        bias, factor = self.config.with_bias(tensor), self.config.with_factor(tensor)
        product = f"{name}_product" if bias or factor else name
        y: Value = b.expert_matvec(n, self._weight(tensor), ids, rows=rows, name=product)
        if factor:
            scaled = f"{name}_scaled" if bias else name
            y = b.mul(y, self._factors(factor, ids), name=scaled)
        if bias:
            biases = b.expert_vector(ids, self._weight(bias), rows=rows, name=f"{name}_bias")
            y = b.add(y, biases, name=name)
        return y

    def _factors(self, tensor: str, ids: Value) -> Value:
        """What the matrix of each chosen expert is multiplied by."""
        return self.b.expert_vector(ids, self._weight(tensor), rows=1, name=f"{tensor}s_chosen")

    # --- parts -----------------------------------------------------------------------------------

    def _weight(self, name: str) -> Value:
        return self.b.weight(name, self.shapes[name], self.types[name])

    def _matvec(self, x: Value, tensor: str, name: str) -> Value:
        factor, bias = self.config.with_factor(tensor), self.config.with_bias(tensor)
        operands = (x, self._weight(tensor), *([self._weight(factor)] if factor else ()))
        y = self.b.matvec(*operands, name=f"{name}_product" if bias else name)
        return self.b.add(y, self._weight(bias), name=name) if bias else y

    def _norm(self, x: Value, tensor: str, name: str) -> Value:
        bias = self.config.with_bias(tensor)
        weights = [self._weight(own) for own in (tensor, bias) if own]
        norm, _ = NORMS[self.config.norm]
        return self.b.op(norm, x, *weights, eps=self.config.norm_eps, name=name)

    def _pre_norm(self, x: Value, name: str) -> Value:
        return self._norm(x, f"{name}.weight", name) if self.config.pre_norms else x

    def _added(self, x: Value, more: Value, norm: str, name: str) -> Value:
        """The residual with what a half of a layer made."""
        if self.config.post_norms:
            more = self._norm(more, f"{norm}.weight", norm)
        more = self._scaled(more, self.config.residual_scale, f"{name}_scaled")
        return self.b.add(x, more, name=name)

    def _scaled(self, x: Value, factor: float, name: str) -> Value:
        return x if factor == 1.0 else self.b.scale(x, factor=factor, name=name)


NORMS = {"rms": ("rms_norm", "head_norm"), "layer": ("layer_norm", "head_layer_norm")}
"""Kind of norm -> the ops of a vector and of each head of it."""

GATED = {"silu": "swiglu", "gelu": "geglu"}
"""Activation -> what the feed-forward of a gate and an `up` is called with it."""

OF_BOTH = ("swiglu_oai",)
"""Activations of a gate and an `up` together."""
