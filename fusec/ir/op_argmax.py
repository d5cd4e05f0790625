"""The index of a row's largest element, at once or by parts.

Ties go to the lowest index. Indices are kept as floats beside the elements they belong to, so a row
has at most 2**24 of them.
"""

from __future__ import annotations

import numpy as np

from fusec.ir.graph import Node
from fusec.ir.op_checks import Array, Type, activation, want

MOST = 1 << 24  # elements of a row: whole numbers up to here are f32


def infer_argmax(node: Node) -> list[Type]:
    """i32[T]."""
    return [("i32", (activation(node.inputs[0])[0],))]


def argmax(x: Array) -> Array:
    """The index of each row's largest element."""
    return np.argmax(x, axis=-1).astype(np.int32)


def infer_argmax_parts(node: Node) -> list[Type]:
    """A pair for each part."""
    tokens, n = activation(node.inputs[0])
    parts = int(node["parts"])
    want(parts > 0, "at least one part", parts)
    want(n <= MOST, f"x of at most {MOST:,} elements", node.inputs[0].type)
    return [("f32", (tokens, 2 * parts))]


def argmax_parts(x: Array, *, parts: int) -> Array:
    """[parts, 2] of each row: the largest element of a part, and its index.

    Together the parts have every element. Which part has which is up to who computes this, and two
    may have the same. A part of nothing, or of -inf, is a pair of -inf and 0.
    """
    tokens, n = x.shape
    size = -(-n // parts)
    padded = np.full((tokens, parts * size), -np.inf, x.dtype)
    padded[:, :n] = x
    index = padded.reshape(tokens, parts, size).argmax(-1) + size * np.arange(parts)
    best = np.take_along_axis(padded, index, axis=1)
    index[best == -np.inf] = 0
    return np.stack([best, index], axis=-1).reshape(tokens, -1)


def infer_argmax_combine(node: Node) -> list[Type]:
    """i32[T], as the argmax itself."""
    (pairs,) = node.inputs
    tokens, n = activation(pairs, "pairs")
    want(n > 0 and n % 2 == 0, "pairs: f32[T, 2 parts]", pairs.type)
    return [("i32", (tokens,))]


def argmax_combine(pairs: Array) -> Array:
    """The index that the pairs of `argmax_parts` come to."""
    best, index = pairs[:, 0::2], pairs[:, 1::2]
    order = np.lexsort((-index, best), axis=-1)
    return np.take_along_axis(index, order[:, -1:], axis=-1)[:, 0].astype(np.int32)
