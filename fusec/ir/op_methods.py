"""Builder's methods, one for each op of the table, for people, `help` and type checkers.

Written by `UPDATE_GOLDEN=1 pytest tests/ir/test_build.py` from the op table: do not edit.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from fusec.ir.graph import Attr, Value


class OpMethods:
    """Each appends a node and returns its result; `name` is the result's."""

    @abstractmethod
    def op(self, op: str, *inputs: Value, name: str | None = None, **given: Attr) -> Any:
        """Append a node of any op of the table, by name."""

    def embed(self, token: Value, table: Value, *, name: str | None = None) -> Value:
        """Row `token` of a table.

        token: i32[T]
        table: weight[vocabulary, n]
        -> f32[T, n], a row of the table each
        """
        return self.op("embed", token, table, name=name)

    def matvec(
        self,
        x: Value,
        w: Value,
        factor: Value | None = None,
        inverse: Value | None = None,
        *,
        name: str | None = None,
    ) -> Value:
        """x @ w.T, times a factor of the whole matrix, times a factor of each token, if given.

        x: f32[T, n]
        w: weight[rows, n]
        factor: f32[1]
        inverse: f32[T, 1]
        -> f32[T, rows]
        """
        return self.op("matvec", x, w, *_given(factor, inverse), name=name)

    def split_matvec(self, x: Value, w: Value, *, branch: int, name: str | None = None) -> Value:
        """x @ w.T: a row's columns are dealt to lanes, and `branch` of them have a part's.

        x: f32[T, n]
        w: weight[rows, n]
        -> f32[T, rows], each the sum of parts over `branch` lanes
        """
        return self.op("split_matvec", x, w, branch=branch, name=name)

    def head_matvec(self, x: Value, w: Value, *, heads: int, name: str | None = None) -> Value:
        """Each head's part of x times that head's rows.

        x: f32[T, heads * n]
        w: weight[heads * rows, n]
        -> f32[T, rows], head after head
        """
        return self.op("head_matvec", x, w, heads=heads, name=name)

    def rms_norm(self, x: Value, w: Value, *, eps: float, name: str | None = None) -> Value:
        """x / sqrt(mean(x^2) + eps) * w.

        x: f32[T, n]
        w: f32[n]
        -> f32[T, n], as x
        """
        return self.op("rms_norm", x, w, eps=eps, name=name)

    def rms_factors(
        self, x: Value, w: Value, *, eps: float, name: str | None = None
    ) -> tuple[Value, Value]:
        """The two factors of an RMS norm: x * w and 1 / sqrt(mean(x^2) + eps).

        x: f32[T, n]
        w: f32[n]
        -> f32[T, n], and a factor for each token
        """
        return self.op("rms_factors", x, w, eps=eps, name=name)

    def layer_norm(
        self, x: Value, w: Value, bias: Value | None = None, *, eps: float, name: str | None = None
    ) -> Value:
        """(x - mean(x)) / sqrt(mean((x - mean(x))^2) + eps) * w, plus a bias if there is one.

        x: f32[T, n]
        w: f32[n]
        bias: f32[n]
        -> f32[T, n], as x
        """
        return self.op("layer_norm", x, w, *_given(bias), eps=eps, name=name)

    def head_norm(
        self, x: Value, w: Value, *, eps: float, head_dim: int, name: str | None = None
    ) -> Value:
        """`rms_norm` of each head of `head_dim` elements, all by the same weights or by their own.

        x: f32[T, heads * head_dim]
        w: f32[head_dim] or of all heads
        -> f32[T, n], as x
        """
        return self.op("head_norm", x, w, eps=eps, head_dim=head_dim, name=name)

    def head_layer_norm(
        self, x: Value, w: Value, *, eps: float, head_dim: int, name: str | None = None
    ) -> Value:
        """`layer_norm` of each head, in the same way.

        x: f32[T, heads * head_dim]
        w: f32[head_dim] or of all heads
        -> f32[T, n], as x
        """
        return self.op("head_layer_norm", x, w, eps=eps, head_dim=head_dim, name=name)

    def rope(
        self,
        x: Value,
        pos: Value,
        factors: Value | None = None,
        *,
        base: float,
        head_dim: int,
        dims: int,
        pairing: str = "adjacent",
        scale: float = 1.0,
        magnitude: float = 1.0,
        name: str | None = None,
    ) -> Value:
        """Each head's first `dims` elements rotated by pairs: neighbours, or halves (GPT-NeoX).

        x: f32[T, n]
        pos: i32[T]
        factors: f32[dims/2]
        -> f32[T, n], as x
        """
        return self.op(
            "rope",
            x,
            pos,
            *_given(factors),
            base=base,
            head_dim=head_dim,
            dims=dims,
            pairing=pairing,
            scale=scale,
            magnitude=magnitude,
            name=name,
        )

    def temper(
        self,
        x: Value,
        pos: Value,
        *,
        slope: float,
        length: int,
        offset: int = 0,
        name: str | None = None,
    ) -> Value:
        """x times its position's factor.

        x: f32[T, n]
        pos: i32[T]
        -> f32[T, n], as x
        """
        return self.op("temper", x, pos, slope=slope, length=length, offset=offset, name=name)

    def kv_append(self, state: Value, x: Value, pos: Value) -> Value:
        """Rows `pos` of a copy of the state become x.

        state: state[context, kv_heads, head_dim]
        x: f32[T, n]
        pos: i32[T]
        -> The state, appended to
        """
        return self.op("kv_append", state, x, pos)

    def attention(
        self,
        q: Value,
        k: Value,
        v: Value,
        pos: Value,
        sinks: Value | None = None,
        p: Value | None = None,
        *,
        heads: int,
        kv_heads: int,
        scale: float,
        window: int = 0,
        cap: float = 0.0,
        name: str | None = None,
    ) -> Value:
        """Causal grouped-query attention (Ainslie et al. 2023): token t sees positions 0..pos[t].

        q: f32[T, n]
        k: state
        v: state
        pos: i32[T]
        sinks: weight f32[heads]
        p: f32[T, heads * m]
        -> f32[T, n], as the query, or as that of the values
        """
        return self.op(
            "attention",
            q,
            k,
            v,
            pos,
            *_given(sinks, p),
            heads=heads,
            kv_heads=kv_heads,
            scale=scale,
            window=window,
            cap=cap,
            name=name,
        )

    def attention_spans(
        self,
        q: Value,
        k: Value,
        v: Value,
        pos: Value,
        p: Value | None = None,
        *,
        heads: int,
        kv_heads: int,
        scale: float,
        span: int,
        spans: int,
        window: int = 0,
        cap: float = 0.0,
        name: str | None = None,
    ) -> tuple[Value, Value]:
        """Attention over each `span` positions, not divided by the sum of weights yet.

        q: f32[T, n]
        k: state
        v: state
        pos: i32[T]
        p: f32[T, heads * m]
        -> Values, and (top, sum of weights) of each head, for every span
        """
        return self.op(
            "attention_spans",
            q,
            k,
            v,
            pos,
            *_given(p),
            heads=heads,
            kv_heads=kv_heads,
            scale=scale,
            window=window,
            cap=cap,
            span=span,
            spans=spans,
            name=name,
        )

    def attention_combine(
        self,
        values: Value,
        sums: Value,
        pos: Value,
        sinks: Value | None = None,
        *,
        heads: int,
        span: int,
        spans: int,
        window: int = 0,
        name: str | None = None,
    ) -> Value:
        """The attention that the partial results of `attention_spans` add up to.

        values: f32[T, spans * n]
        sums: f32[T, spans * 2 heads]
        pos: i32[T]
        sinks: weight f32[heads]
        -> f32[T, n], as the attention itself
        """
        return self.op(
            "attention_combine",
            values,
            sums,
            pos,
            *_given(sinks),
            heads=heads,
            span=span,
            spans=spans,
            window=window,
            name=name,
        )

    def attention_project(
        self,
        q: Value,
        k: Value,
        v: Value,
        pos: Value,
        w: Value,
        sinks: Value | None = None,
        *,
        heads: int,
        kv_heads: int,
        scale: float,
        span: int,
        spans: int,
        window: int = 0,
        cap: float = 0.0,
        name: str | None = None,
    ) -> Value:
        """Each head's attention times its columns of w: [T, heads, rows], head after head.

        q: f32[T, n]
        k: state
        v: state
        pos: i32[T]
        w: weight[rows, n]
        sinks: weight f32[heads]
        -> As many parts of the projection as there are heads
        """
        return self.op(
            "attention_project",
            q,
            k,
            v,
            pos,
            w,
            *_given(sinks),
            heads=heads,
            kv_heads=kv_heads,
            scale=scale,
            window=window,
            cap=cap,
            span=span,
            spans=spans,
            name=name,
        )

    def add(self, a: Value, b: Value, *, name: str | None = None) -> Value:
        """a + b.

        a: f32[T, n]
        b: f32[T, n]
        -> f32[T, n], as a
        """
        return self.op("add", a, b, name=name)

    def mul(self, a: Value, b: Value, *, name: str | None = None) -> Value:
        """a * b.

        a: f32[T, n]
        b: f32[T, n]
        -> f32[T, n], as a
        """
        return self.op("mul", a, b, name=name)

    def silu(self, x: Value, *, name: str | None = None) -> Value:
        """x * sigmoid(x), Elfwing et al. 2017.

        x: f32[T, n]
        -> f32[T, n], as x
        """
        return self.op("silu", x, name=name)

    def gelu(self, x: Value, *, name: str | None = None) -> Value:
        """Tanh form, Hendrycks & Gimpel 2016.

        x: f32[T, n]
        -> f32[T, n], as x
        """
        return self.op("gelu", x, name=name)

    def relu_squared(self, x: Value, *, name: str | None = None) -> Value:
        """max(x, 0)^2, So et al. 2021 (Primer).

        x: f32[T, n]
        -> f32[T, n], as x
        """
        return self.op("relu_squared", x, name=name)

    def sigmoid(self, x: Value, *, name: str | None = None) -> Value:
        """1 / (1 + exp(-x)).

        x: f32[T, n]
        -> f32[T, n], as x
        """
        return self.op("sigmoid", x, name=name)

    def swiglu_oai(self, gate: Value, up: Value, *, name: str | None = None) -> Value:
        """g * sigmoid(1.702 g) * (u + 1) with g up to 7 and u within 7 (gpt-oss).

        gate: f32[T, n]
        up: f32[T, n]
        -> f32[T, n], as a
        """
        return self.op("swiglu_oai", gate, up, name=name)

    def scale(self, x: Value, *, factor: float, name: str | None = None) -> Value:
        """x * factor.

        x: f32[T, n]
        -> f32[T, n], as x
        """
        return self.op("scale", x, factor=factor, name=name)

    def softcap(self, x: Value, *, cap: float, name: str | None = None) -> Value:
        """cap * tanh(x / cap), Gemma 2.

        x: f32[T, n]
        -> f32[T, n], as x
        """
        return self.op("softcap", x, cap=cap, name=name)

    def matvec_parts(
        self, x: Value, w: Value, *, block: int, lanes: int, branch: int, name: str | None = None
    ) -> Value:
        """Each part's columns of w times those of x: [T, parts, rows], part after part.

        x: f32[T, n]
        w: weight[rows, n]
        -> f32[T, parts * rows], part after part
        """
        return self.op("matvec_parts", x, w, block=block, lanes=lanes, branch=branch, name=name)

    def add_parts(self, parts: Value, residual: Value, *, name: str | None = None) -> Value:
        """The residual plus the sum of the parts of a product.

        parts: f32[T, parts * n]
        residual: f32[T, n]
        -> f32[T, n], as the residual
        """
        return self.op("add_parts", parts, residual, name=name)

    def sum_parts(self, x: Value, *, parts: int, name: str | None = None) -> Value:
        """The sum of the parts of a product.

        x: f32[T, parts * n]
        -> f32[T, n] of so many parts
        """
        return self.op("sum_parts", x, parts=parts, name=name)

    def clear_sums(self, like: Value, *, n: int, name: str | None = None) -> Value:
        """Zeros for each token of a vector, of which nothing is read.

        like: f32[T, m]
        -> i64[T, n], for as many tokens as the operand has
        """
        return self.op("clear_sums", like, n=n, name=name)

    def add_into(self, sums: Value, parts: Value, *, name: str | None = None) -> Value:
        """Sums, and what each part adds to them: a whole number of 2**-30.

        sums: i64[T, n]
        parts: f32[T, parts * n]
        -> i64[T, n], as the sums
        """
        return self.op("add_into", sums, parts, name=name)

    def sum_experts(self, x: Value, *, parts: int, name: str | None = None) -> Value:
        """The sum of what chosen experts made, in their order.

        x: f32[T, parts * n]
        -> f32[T, n] of what so many experts made
        """
        return self.op("sum_experts", x, parts=parts, name=name)

    def argmax(self, x: Value, *, name: str | None = None) -> Value:
        """The index of each row's largest element.

        x: f32[T, n]
        -> i32[T]
        """
        return self.op("argmax", x, name=name)

    def argmax_parts(self, x: Value, *, parts: int, name: str | None = None) -> tuple[Value, Value]:
        """The largest element of each part of a row, and its index.

        x: f32[T, n]
        -> The best of each part, and where it is
        """
        return self.op("argmax_parts", x, parts=parts, name=name)

    def argmax_combine(self, best: Value, places: Value, *, name: str | None = None) -> Value:
        """The index that the parts of `argmax_parts` come to.

        best: f32[T, parts]
        places: i32[T, parts]
        -> i32[T], as the argmax itself
        """
        return self.op("argmax_combine", best, places, name=name)

    def fix(self, x: Value, *, kind: str, name: str | None = None) -> Value:
        """The vector in fixed point, which products of many rows read.

        x: f32[T, n]
        -> The same vector in the type `kind`
        """
        return self.op("fix", x, kind=kind, name=name)

    def route(
        self,
        logits: Value,
        bias: Value | None = None,
        *,
        used: int,
        gating: str,
        normalised: int = 1,
        scale: float = 1.0,
        groups: int = 1,
        groups_used: int = 1,
        name: str | None = None,
    ) -> tuple[Value, Value]:
        """The chosen experts and their weights.

        logits: f32[T, experts]
        bias: f32[experts]
        -> i32[T, used], the best first, and f32[T, used]
        """
        return self.op(
            "route",
            logits,
            *_given(bias),
            used=used,
            gating=gating,
            normalised=normalised,
            scale=scale,
            groups=groups,
            groups_used=groups_used,
            name=name,
        )

    def expert_matvec(
        self, x: Value, w: Value, ids: Value, *, rows: int, name: str | None = None
    ) -> Value:
        """Each chosen expert's matrix times the token's vector, one after the other.

        x: f32[T, n]
        w: weight[experts * rows, n]
        ids: i32[T, used]
        -> f32[T, used * rows]
        """
        return self.op("expert_matvec", x, w, ids, rows=rows, name=name)

    def expert_matvec_sum(
        self, x: Value, w: Value, ids: Value, *, rows: int, name: str | None = None
    ) -> Value:
        """The sum of the chosen experts' matrices times their parts of the token's vector.

        x: f32[T, used * n]
        w: weight[experts * rows, n]
        ids: i32[T, used]
        -> f32[T, rows]
        """
        return self.op("expert_matvec_sum", x, w, ids, rows=rows, name=name)

    def expert_vector(self, ids: Value, v: Value, *, rows: int, name: str | None = None) -> Value:
        """The chosen experts' vectors, such as biases, one after the other.

        ids: i32[T, used]
        v: f32[experts * rows]
        -> f32[T, used * rows]
        """
        return self.op("expert_vector", ids, v, rows=rows, name=name)

    def expert_vector_sum(
        self, weights: Value, ids: Value, v: Value, *, rows: int, name: str | None = None
    ) -> Value:
        """The sum of the chosen experts' vectors, times their weights.

        weights: f32[T, used]
        ids: i32[T, used]
        v: f32[experts * rows]
        -> f32[T, rows]
        """
        return self.op("expert_vector_sum", weights, ids, v, rows=rows, name=name)

    def group(self, ids: Value, *, experts: int, name: str | None = None) -> tuple[Value, Value]:
        """The step's pairs, sorted by expert; where each expert's first is, and how many there are.

        ids: i32[T, used]
        -> i32[T, used], the pairs in order, and i32[1, experts + 1], where each expert's begin
        """
        return self.op("group", ids, experts=experts, name=name)

    def grouped_matvec(
        self, x: Value, w: Value, order: Value, starts: Value, *, rows: int, name: str | None = None
    ) -> Value:
        """Each pair's expert times the row's vector, or its part of it; slot after slot.

        x: fixed[T, n]
        w: weight[experts * rows, n]
        order: i32[T, used]
        starts: i32[1, experts + 1]
        -> f32[T, used * rows], slot after slot
        """
        return self.op("grouped_matvec", x, w, order, starts, rows=rows, name=name)


def _given(*values: Value | None) -> list[Value]:
    """The operands that are there."""
    return [value for value in values if value is not None]
