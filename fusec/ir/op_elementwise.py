"""Element-wise ops. Their expressions call `silu`, `gelu`, ...: functions that each target has."""

from __future__ import annotations

import math

import numpy as np

from fusec.ir.graph import Node, Value
from fusec.ir.op import Op
from fusec.ir.op_checks import Array, Type, activation, elements_of, want


def infer_binary(node: Node) -> list[Type]:
    """f32[T, n], as a."""
    a, b = node.inputs
    tokens, n = activation(a, "a")
    if b.is_weight:
        fits = b.shape == (n,)
    else:
        fits = len(b.shape) == 2 and b.shape[0] == tokens and n % b.shape[1] == 0
    wanted = f"b: f32[{tokens}, {n}], or of fewer that divide {n}, or a weight f32[{n}]"
    want(fits and b.dtype == "f32", wanted, b.type)
    return [("f32", a.shape)]


def is_spread(node: Node, value: Value) -> bool:
    """Whether each element of an operand is for several neighbours of the result."""
    per_token = len(value.shape) == 2 and value.dtype == "f32" and not value.is_weight
    return per_token and value.shape[-1] < node.outputs[0].shape[-1]


def spread(a: Array, b: Array) -> Array:
    """`b` with each element as often as `a` has elements for it."""
    return b.repeat(a.shape[-1] // b.shape[-1], axis=-1)


def infer_unary(node: Node) -> list[Type]:
    """f32[T, n], as x."""
    return [("f32", activation(node.inputs[0]))]


def silu(x: Array) -> Array:
    """x * sigmoid(x), Elfwing et al. 2017."""
    with np.errstate(over="ignore"):  # exp(-x) is infinite far below zero, and the result -0
        return x / (1 + np.exp(-x))


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x))."""
    with np.errstate(over="ignore"):
        return np.asarray(1 / (1 + np.exp(-x)))


def swiglu_oai(gate: Array, up: Array) -> Array:
    """g * sigmoid(1.702 g) * (u + 1) with g up to 7 and u within 7 (gpt-oss)."""
    g = np.minimum(gate, 7)
    return g * sigmoid(g.dtype.type(1.702) * g) * (np.clip(up, -7, 7) + 1)


def gelu(x: Array) -> Array:
    """Tanh form, Hendrycks & Gimpel 2016."""
    cubic = x + x.dtype.type(0.044715) * x**3
    return x.dtype.type(0.5) * x * (1 + np.tanh(x.dtype.type(math.sqrt(2 / math.pi)) * cubic))


def relu_squared(x: Array) -> Array:
    """max(x, 0)^2, So et al. 2021 (Primer)."""
    return np.square(np.maximum(x, 0))


def softcap(x: Array, cap: float) -> Array:
    """cap * tanh(x / cap), Gemma 2."""
    limit = x.dtype.type(cap)
    return limit * np.tanh(x / limit)


OPS = (
    Op(
        "add", "element", "a: f32[T, n], b: f32[T, n]", (2, 2), infer_binary,
        lambda a, b: a + spread(a, b), elements_of,
        expression=lambda n, x: f"{x[0]} + {x[1]}", doc="a + b.",
    ),
    Op(
        "mul", "element", "a: f32[T, n], b: f32[T, n]", (2, 2), infer_binary,
        lambda a, b: a * spread(a, b), elements_of, expression=lambda n, x: f"{x[0]} * {x[1]}",
        doc="a * b.",
    ),
    Op(
        "silu", "element", "x: f32[T, n]", (1, 1), infer_unary, silu,
        lambda n: 4 * elements_of(n), expression=lambda n, x: f"silu({x[0]})", work=40,
    ),
    Op(
        "gelu", "element", "x: f32[T, n]", (1, 1), infer_unary, gelu,
        lambda n: 8 * elements_of(n), expression=lambda n, x: f"gelu({x[0]})", work=50,
    ),
    Op(
        "relu_squared", "element", "x: f32[T, n]", (1, 1), infer_unary, relu_squared,
        lambda n: 2 * elements_of(n), expression=lambda n, x: f"relu_squared({x[0]})",
    ),
    Op(
        "sigmoid", "element", "x: f32[T, n]", (1, 1), infer_unary, sigmoid,
        lambda n: 4 * elements_of(n), expression=lambda n, x: f"sigmoid({x[0]})", work=40,
    ),
    Op(
        "swiglu_oai", "element", "gate: f32[T, n], up: f32[T, n]", (2, 2), infer_binary,
        lambda gate, up: swiglu_oai(gate, spread(gate, up)),
        lambda n: 9 * elements_of(n), expression=lambda n, x: f"swiglu_oai({x[0]}, {x[1]})",
        work=50, doc="g * sigmoid(1.702 g) * (u + 1) with g up to 7 and u within 7 (gpt-oss).",
    ),
    Op(
        "scale", "element", "x: f32[T, n]", (1, 1), infer_unary,
        lambda x, factor: x * x.dtype.type(factor), elements_of, {"factor": float},
        expression=lambda n, x: f"{x[0]} * float32({n['factor']!r})", doc="x * factor.",
    ),
    Op(
        "softcap", "element", "x: f32[T, n]", (1, 1), infer_unary, softcap,
        lambda n: 6 * elements_of(n), {"cap": float},
        expression=lambda n, x: f"softcap({x[0]}, float32({n['cap']!r}))", work=45,
    ),
)  # fmt: skip
