"""Mixture of experts: which matrices of a stack a token is multiplied with, and the products.

The matrices of all experts are one tall weight, expert after expert: row r of expert e, which has
`rows` rows, is row `e * rows + r` of it. `route` chooses `used` of them for each token; their
numbers are indices, so a product reads only the chosen experts' rows. See Shazeer et al. 2017,
"Outrageously Large Neural Networks", Fedus et al. 2021, "Switch Transformers".
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fusec.ir.dtypes import dtype
from fusec.ir.graph import Node, Value
from fusec.ir.op import INDEX, Op
from fusec.ir.op_checks import Array, Type, activation, elements_of, matrix, want
from fusec.ir.op_elementwise import sigmoid

GATINGS = ("softmax", "sigmoid", "chosen", "softplus")  # in the order of GGUF's numbers, from 1
"""What a logit's probability is: of the softmax over all experts or over the chosen ones, its
sigmoid, or sqrt(log(1 + exp(logit)))."""
LEAST_SUM = 2.0**-14  # that normalised weights are divided by
MOST_GROUPS = MOST_USED = 32  # a warp's lanes
QUAD = 12  # instructions for four elements of a row that an index names


# --- routing -------------------------------------------------------------------------------------


def infer_route(node: Node) -> list[Type]:
    """i32[T, used], the best first, and f32[T, used]."""
    logits, *bias = node.inputs
    tokens, experts = activation(logits, "logits")
    for value in bias:
        known = value.is_weight and value.dtype == "f32" and value.shape == (experts,)
        want(known, f"bias: f32[{experts}]", value.type)
    groups, groups_used, used = (int(node[key]) for key in ("groups", "groups_used", "used"))
    want(node["gating"] in GATINGS, f"gating: {' or '.join(GATINGS)}", node["gating"])
    want(0 < groups <= MOST_GROUPS, f"1 to {MOST_GROUPS} groups", groups)
    want(experts % groups == 0, f"{groups} groups of as many experts", f"{experts} experts")
    size = experts // groups
    want(groups == 1 or size > 1, "groups of at least two experts", size)
    want(0 < groups_used <= groups, f"1 to {groups} groups used", groups_used)
    most = min(groups_used * size, MOST_USED)
    want(0 < used <= most, f"1 to {most} experts used", used)
    return [("i32", (tokens, used)), ("f32", (tokens, used))]


def route(logits: Array, bias: Array | None = None, **given: Any) -> tuple[Array, Array]:
    """The chosen experts and their weights.

    The experts with the largest probability, plus the bias if there is one, are chosen among those
    of the `groups_used` groups whose two best add up to most. Ties go to the lower number. The bias
    is not in the weights.
    """
    used, gating = given["used"], given["gating"]
    probabilities = _gated(logits, gating)
    scores = probabilities if bias is None else probabilities + bias
    groups = given["groups"]
    if groups > 1:
        apart = scores.reshape(len(scores), groups, -1)
        best = _largest(np.sort(apart, axis=-1)[..., -2:].sum(-1), given["groups_used"])
        kept = np.zeros(apart.shape[:2], bool)
        np.put_along_axis(kept, best, True, axis=-1)
        scores = np.where(kept[..., None], apart, -np.inf).reshape(scores.shape)
    ids = _largest(scores, used)
    weights = np.take_along_axis(probabilities, ids, axis=-1)
    if gating == "chosen":
        weights = _softmax(weights)
    if given["normalised"]:
        weights = weights / np.maximum(weights.sum(-1, keepdims=True), LEAST_SUM)
    return ids.astype(np.int32), weights * weights.dtype.type(given["scale"])


def _gated(logits: Array, gating: str) -> Array:
    """What experts are chosen by."""
    if gating == "softmax":
        return _softmax(logits)
    if gating == "sigmoid":
        return sigmoid(logits)
    return np.sqrt(np.logaddexp(0, logits)) if gating == "softplus" else logits


def _softmax(x: Array) -> Array:
    e = np.exp(x - x.max(-1, keepdims=True))
    return np.asarray(e / e.sum(-1, keepdims=True))


def _largest(x: Array, count: int) -> Array:
    """The places of the largest, the largest first and of equals the first."""
    return np.argsort(-x, axis=-1, kind="stable")[:, :count]


# --- products ------------------------------------------------------------------------------------


def _stacked(node: Node, length: int) -> tuple[int, int]:
    """Tokens and experts used, of a node that reads rows of `length` elements by its ids."""
    w, ids, rows = node.inputs[1], node.inputs[2], int(node["rows"])
    height, columns = matrix(w)
    want(columns == length, f"w: [experts * rows, {length}]", w.type)
    want(rows > 0 and height % rows == 0, f"whole experts of {rows} rows", w.type)
    return _ids(node, ids)


def _ids(node: Node, ids: Value) -> tuple[int, int]:
    tokens = node.inputs[0].shape[0]
    known = ids.dtype == "i32" and len(ids.shape) == 2 and ids.shape[0] == tokens
    want(known, f"ids: i32[{tokens}, used]", ids.type)
    return tokens, ids.shape[1]


def infer_expert_matvec(node: Node) -> list[Type]:
    """f32[T, used * rows]."""
    tokens, used = _stacked(node, activation(node.inputs[0])[1])
    return [("f32", (tokens, used * int(node["rows"])))]


def expert_matvec(x: Array, w: Array, ids: Array, *, rows: int) -> Array:
    """Each chosen expert's matrix times the token's vector, one after the other."""
    chosen = w.reshape(-1, rows, w.shape[1])[ids]
    return np.einsum("turn,tn->tur", chosen, x).reshape(len(x), -1)


def infer_expert_matvec_sum(node: Node) -> list[Type]:
    """f32[T, rows]."""
    ids = node.inputs[2]
    _, n = activation(node.inputs[0])
    used = ids.shape[-1]
    want(n % used == 0, f"x: f32[T, {used} * n]", node.inputs[0].type)
    tokens, _ = _stacked(node, n // used)
    return [("f32", (tokens, int(node["rows"])))]


def expert_matvec_sum(x: Array, w: Array, ids: Array, *, rows: int) -> Array:
    """The sum of the chosen experts' matrices times their parts of the token's vector."""
    chosen = w.reshape(-1, rows, w.shape[1])[ids]
    return np.einsum("turn,tun->tr", chosen, x.reshape(*ids.shape, -1))


def adds_experts(node: Node) -> bool:
    """Whether a product of chosen rows adds its experts up."""
    return node.op == "expert_matvec_sum"


def experts_read(node: Node) -> int:
    """How many rows of the stack one token's product reads."""
    return int(node.inputs[2].shape[1]) * int(node["rows"])


def product_bytes(node: Node) -> int:
    """The chosen experts' rows (of several tokens, all of them at most), and the vectors."""
    x, w, *others = node.inputs
    row = dtype(w.dtype).nbytes(w.shape[1:])
    read = min(x.shape[0] * experts_read(node), w.shape[0]) * row
    return read + sum(v.nbytes for v in (x, *others, *node.outputs))


def product_flops(node: Node) -> int:
    """Two for each weight that is read, for each token."""
    return 2 * node.inputs[0].shape[0] * experts_read(node) * node.inputs[1].shape[1]


# --- vectors -------------------------------------------------------------------------------------


def _vectors(node: Node, ids: Value) -> tuple[int, int]:
    v, rows = node.inputs[-1], int(node["rows"])
    known = v.is_weight and v.dtype == "f32" and len(v.shape) == 1
    want(rows > 0 and known and v.shape[0] % rows == 0, f"v: f32[experts * {rows}]", v.type)
    return _ids(node, ids)


def infer_expert_vector(node: Node) -> list[Type]:
    """f32[T, used * rows]."""
    tokens, used = _vectors(node, node.inputs[0])
    return [("f32", (tokens, used * int(node["rows"])))]


def expert_vector(ids: Array, v: Array, *, rows: int) -> Array:
    """The chosen experts' vectors, such as biases, one after the other."""
    return v.reshape(-1, rows)[ids].reshape(len(ids), -1)


def infer_expert_vector_sum(node: Node) -> list[Type]:
    """f32[T, rows]."""
    weights, ids = node.inputs[:2]
    tokens, used = _vectors(node, ids)
    want(activation(weights, "weights")[1] == used, f"weights: f32[T, {used}]", weights.type)
    return [("f32", (tokens, int(node["rows"])))]


def expert_vector_sum(weights: Array, ids: Array, v: Array, *, rows: int) -> Array:
    """The sum of the chosen experts' vectors, times their weights."""
    return np.einsum("tu,tur->tr", weights, v.reshape(-1, rows)[ids])


def vector_bytes(node: Node) -> int:
    """The chosen experts' vectors, and the activations."""
    read = 4 * math.prod(node.inputs[-2].shape) * int(node["rows"])
    return read + sum(v.nbytes for v in (*node.inputs[:-1], *node.outputs))


def _experts_of(place: int) -> Any:
    """How many experts a stack at that place of a node's operands has."""
    return lambda node: node.inputs[place].shape[0] // int(node["rows"])


def _vector_work(node: Node, threads: int, position: int) -> float:
    """Of one quad: element-wise work reads them, and makes what it reads."""
    terms = node.inputs[0].shape[-1] if len(node.inputs) > 2 else 1
    return INDEX + QUAD * terms


OPS = (
    Op(
        "route", "scalar", "logits: f32[T, experts], bias: f32[experts]", (1, 2), infer_route,
        route, lambda n: 8 * math.prod(n.inputs[0].shape),
        {"used": int, "gating": str, "normalised": 1, "scale": 1.0, "groups": 1, "groups_used": 1},
        outputs=("", ".weights"), points="into row",
    ),
    Op(
        "expert_matvec", "rows",
        "x: f32[T, n], w: weight[experts * rows, n], ids: i32[T, used]", (3, 3),
        infer_expert_matvec, expert_matvec, product_flops, {"rows": int}, bytes=product_bytes,
        indices={2: _experts_of(1)}, label="experts", rows_read=experts_read,
    ),
    Op(
        "expert_matvec_sum", "rows",
        "x: f32[T, used * n], w: weight[experts * rows, n], ids: i32[T, used]", (3, 3),
        infer_expert_matvec_sum, expert_matvec_sum, product_flops, {"rows": int},
        bytes=product_bytes, indices={2: _experts_of(1)}, label="experts_sum",
        rows_read=experts_read,
    ),
    Op(
        "expert_vector", "vector", "ids: i32[T, used], v: f32[experts * rows]", (2, 2),
        infer_expert_vector, expert_vector, lambda n: 0, {"rows": int}, bytes=vector_bytes,
        indices={0: _experts_of(1)}, loads=1, work_whole=_vector_work,
    ),
    Op(
        "expert_vector_sum", "vector",
        "weights: f32[T, used], ids: i32[T, used], v: f32[experts * rows]", (3, 3),
        infer_expert_vector_sum, expert_vector_sum,
        lambda n: 2 * elements_of(n) * n.inputs[0].shape[1], {"rows": int}, bytes=vector_bytes,
        indices={1: _experts_of(2)}, loads=1, work_whole=_vector_work,
    ),
)  # fmt: skip
