"""Graphs for tests: a decode graph of any size, blocks of other models, and random ones."""

from __future__ import annotations

from typing import Any

import numpy as np
from gguf import GGMLQuantizationType
from gguf.quants import dequantize
from hypothesis import strategies as st

from fusec.codegen.formats import FORMATS
from fusec.ir import Builder, Graph, Value
from fusec.models.decoder import DecoderConfig
from fusec.models.decoder_graph import decode_graph
from fusec.models.quantize import quantize


class Types(dict):
    """Weight types by name: norms f32, matrices `matrix` unless said otherwise."""

    def __init__(self, matrix: str = "iq4_nl", **given: str) -> None:
        super().__init__(given)
        self.matrix = matrix

    def __missing__(self, name: str) -> str:
        return "f32" if "norm" in name or "freqs" in name else self.matrix


def llama_graph(
    layers=2, width=64, ffn=96, heads=4, kv_heads=2, vocab=64, *, tokens=1, context=32, kv="f16",
    types=None, rope_factors=False, rope_dims=None, rope_scale=1.0, head_dim=None, tied=True,
) -> Graph:  # fmt: skip
    config = DecoderConfig(
        layers=layers,
        width=width,
        ffn_width=ffn,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim or width // heads,
        vocab=vocab,
        context=context,
        norm_eps=1e-5,
        rope_base=1e4,
        rope_dims=rope_dims or head_dim or width // heads,
        rope_scale=rope_scale,
        rope_factors=rope_factors,
        tied=tied,
    )
    return decode_graph(config, Types() if types is None else types, tokens, context, kv)


BLOCKS: dict[str, dict[str, Any]] = {
    "llama": {},
    "geglu": {"gate": "gelu"},
    "biases": {"biases": True},
    "gemma": {"gate": "gelu", "post_norms": True, "head_norms": True, "pairing": "halves"},
}
"""Name -> what `block_graph` makes otherwise than llama's block."""


def block_graph(
    layers=2, width=64, ffn=96, heads=4, kv_heads=2, head_dim=16, vocab=64, context=32, *,
    matrix="q4_0", kv="f16", gate="silu", biases=False, post_norms=False, head_norms=False,
    pairing="adjacent", tokens=1,
) -> Graph:  # fmt: skip
    """A decode graph written by hand, of blocks that differ from llama's as the options say.

    `gate`: what the feed-forward network gates with. `biases` of query, key and value; `post_norms`
    behind attention and feed-forward network, in front of the residuals; `head_norms` of query and
    key, in front of their rotations.
    """
    b = Builder("blocks")
    token, pos = (b.input(name, (tokens,), "i32") for name in ("token", "pos"))
    x = b.embed(token, b.weight("token_embd.weight", (vocab, width), matrix), name="embed")
    for layer in range(layers):
        at = f"blk.{layer}"
        sizes = {"q": heads * head_dim, "k": kv_heads * head_dim, "v": kv_heads * head_dim}

        def norm(value: Value, kind: str, n: int = width, at: str = at) -> Value:
            return b.rms_norm(value, b.weight(f"{at}.{kind}.weight", (n,)), eps=1e-5,
                              name=f"{at}.{kind}")  # fmt: skip

        def product(value: Value, kind: str, rows: int, at: str = at) -> Value:
            weight = b.weight(f"{at}.{kind}.weight", (rows, value.shape[1]), matrix)
            return b.matvec(value, weight, name=f"{at}.{kind}")

        n = norm(x, "attn_norm")
        made = {p: product(n, f"attn_{p}", size) for p, size in sizes.items()}
        if biases:
            made = {
                p: b.add(y, b.weight(f"{at}.attn_{p}.bias", (sizes[p],)), name=f"{at}.{p}_bias")
                for p, y in made.items()
            }
        for p in "qk":
            if head_norms:
                weight = b.weight(f"{at}.attn_{p}_norm.weight", (head_dim,))
                made[p] = b.head_norm(
                    made[p], weight, eps=1e-6, head_dim=head_dim, name=f"{at}.{p}_norm"
                )
            given = {"base": 1e4, "head_dim": head_dim, "dims": head_dim, "pairing": pairing}
            made[p] = b.rope(made[p], pos, name=f"{at}.{p}_rope", **given)
        keys, values = (
            b.kv_append(b.state(f"{at}.{p}", (context, kv_heads, head_dim), kv), made[p], pos)
            for p in "kv"
        )
        a = b.attention(
            made["q"], keys, values, pos, heads=heads, kv_heads=kv_heads, scale=head_dim**-0.5,
            name=f"{at}.attn",
        )  # fmt: skip
        y = product(a, "attn_output", width)
        x = b.add(x, norm(y, "post_attention_norm") if post_norms else y, name=f"{at}.attn_sum")
        n = norm(x, "ffn_norm")
        gated, up = (product(n, f"ffn_{p}", ffn) for p in ("gate", "up"))
        y = product(
            b.mul(b.op(gate, gated, name=f"{at}.act"), up, name=f"{at}.ffn"), "ffn_down", width
        )
        x = b.add(x, norm(y, "post_ffw_norm") if post_norms else y, name=f"{at}.ffn_sum")
    n = b.rms_norm(x, b.weight("output_norm.weight", (width,)), eps=1e-5, name="norm")
    logits = b.matvec(n, b.weight("output.weight", (vocab, width), matrix), name="logits")
    return b.build(logits, b.argmax(logits, name="next"))


def experts_graph(
    width=64, ffn=32, experts=8, used=3, *, tokens=1, matrix="f32", gating="softmax", normalised=1,
    scale=1.0, groups=1, groups_used=1, choice_bias=False, biases=False, shared=False,
) -> Graph:  # fmt: skip
    """A feed-forward of experts: norm, router, and residual. `shared`: one more, with a gate.

    With `biases` the activation is that of gpt-oss, else SwiGLU.
    """
    b = Builder("experts")
    x = b.input("x", (tokens, width))
    n = b.rms_norm(x, b.weight("norm", (width,)), eps=1e-5)
    logits = b.matvec(n, b.weight("router", (experts, width)))
    choice = [b.weight("choice", (experts,))] if choice_bias else []
    ids, weights = b.route(
        logits, *choice, used=used, gating=gating, normalised=normalised, scale=scale,
        groups=groups, groups_used=groups_used, name="ids",
    )  # fmt: skip
    made = []
    for part in ("gate", "up"):
        stack = b.weight(part, (experts * ffn, width), matrix)
        y = b.expert_matvec(n, stack, ids, rows=ffn)
        if biases:
            bias = b.expert_vector(ids, b.weight(f"{part}_bias", (experts * ffn,)), rows=ffn)
            y = b.add(y, bias)
        made.append(y)
    gate, up = made
    h = b.swiglu_oai(gate, up) if biases else b.mul(b.silu(gate), up)
    stack = b.weight("down", (experts * width, ffn), matrix)
    y = b.expert_matvec_sum(b.mul(h, weights), stack, ids, rows=width)
    if biases:
        bias = b.weight("down_bias", (experts * width,))
        y = b.add(y, b.expert_vector_sum(weights, ids, bias, rows=width))
    if shared:
        other = b.matvec(n, b.weight("shared", (width, width), matrix))
        share = b.sigmoid(b.matvec(n, b.weight("share", (1, width))))
        y = b.add(y, b.mul(other, share))
    return b.build(b.add(x, y, name="y"), ids, weights)


ROUTINGS: dict[str, dict[str, Any]] = {
    "softmax": {},
    "softmax of all": {"normalised": 0, "experts": 40, "used": 6, "shared": True},
    "sigmoid": {"gating": "sigmoid", "choice_bias": True, "scale": 2.5, "shared": True},
    "groups": {
        "gating": "sigmoid", "choice_bias": True, "groups": 8, "groups_used": 3, "experts": 64,
        "used": 5,
    },
    "chosen": {"gating": "chosen", "biases": True, "normalised": 0},
    "softplus": {"gating": "softplus", "used": 1},
}  # fmt: skip
"""Name -> what `experts_graph` makes otherwise."""


def graph_of_every_format() -> Graph:
    """A decode graph in which each matrix has another quantised type, and all types are."""
    kinds = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    places = [f"blk.{layer}.{kind}.weight" for layer in range(3) for kind in kinds]
    quantized = sorted(name for name, fmt in FORMATS.items() if fmt.quantized)
    types = dict(zip([*places, "token_embd.weight", "output.weight"], quantized, strict=True))
    return llama_graph(
        types=Types("f32", **types), kv="f32", width=256, ffn=256, kv_heads=1, layers=3, vocab=24,
        tied=False,
    )  # fmt: skip


def weights_for(graph: Graph, seed: int = 0) -> dict[str, np.ndarray]:
    """Random float32 weights of sane size for every weight of a graph of f32 weights."""
    random = np.random.default_rng(seed)
    return {
        w.name[1:]: (random.standard_normal(w.shape) / np.sqrt(w.shape[-1])).astype(np.float32)
        for w in graph.weights
    }


def encoded(graph: Graph, weights: dict[str, np.ndarray]) -> tuple[dict, dict]:
    """Weights in the types the graph says: what sessions take, and what they stand for.

    The second is decoded again by gguf-py, for the reference.
    """
    raw, meant = {}, {}
    for weight in graph.weights:
        name, values = weight.name[1:], weights[weight.name[1:]]
        if weight.dtype != "f32":
            raw[name] = quantize(values, weight.dtype, "quick")
            kind = GGMLQuantizationType[weight.dtype.upper()]
            values = dequantize(raw[name], kind).reshape(weight.shape)
        raw.setdefault(name, values)
        meant[name] = values
    return raw, meant


@st.composite
def random_graphs(draw, t=1, max_nodes=12):
    """Small graphs of every op but embed and attention, over vectors of a few widths."""
    b = Builder("random")
    widths = (32, 64, 96)
    pos = b.input("pos", (t,), "i32")
    values = [b.input(f"x{i}", (t, draw(st.sampled_from(widths)))) for i in range(2)]
    for i in range(draw(st.integers(1, max_nodes))):
        x = draw(st.sampled_from(values))
        n = x.shape[1]
        op = draw(
            st.sampled_from(
                ["rms_norm", "head_norm", "layer_norm", "head_layer_norm", "matvec", "matvec",
                 "add", "mul", "silu", "gelu", "relu_squared", "scale", "rope", "softcap",
                 "kv_append"]
            )
        )  # fmt: skip
        if op == "rms_norm":
            y = b.rms_norm(x, b.weight(f"g{i}", (n,)), eps=1e-5)
        elif op == "layer_norm":
            weights = [b.weight(f"l{i}{k}", (n,)) for k in range(draw(st.sampled_from([1, 2])))]
            y = b.layer_norm(x, *weights, eps=1e-5)
        elif op in ("head_norm", "head_layer_norm"):
            head_dim = draw(st.sampled_from([8, 16, n]))
            gain = b.weight(f"h{i}", (draw(st.sampled_from([head_dim, n])),))
            y = b.op(op, x, gain, eps=1e-5, head_dim=head_dim)
        elif op == "matvec":
            y = b.matvec(x, b.weight(f"w{i}", (draw(st.sampled_from(widths)), n)))
        elif op in ("add", "mul"):
            others = [v for v in values if v.shape == x.shape]
            y = b.op(op, x, draw(st.sampled_from(others)))
        elif op == "scale":
            y = b.scale(x, factor=0.5)
        elif op == "softcap":
            y = b.softcap(x, cap=3.0)
        elif op == "rope":
            pairing = draw(st.sampled_from(["adjacent", "halves"]))
            dims = draw(st.sampled_from([8, 16]))
            y = b.rope(x, pos, base=1e4, head_dim=16, dims=dims, pairing=pairing)
        elif op == "kv_append":
            b.kv_append(b.state(f"s{i}", (8, n // 16, 16), "f32"), x, pos)
            continue
        else:
            y = b.op(op, x)
        values.append(y)
    outputs = [v for v in values if v.name not in ("%x0", "%x1")][-2:]
    if not outputs:
        outputs = [b.silu(values[0])]
    return b.build(*outputs)
