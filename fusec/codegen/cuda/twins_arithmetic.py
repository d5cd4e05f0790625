"""NumPy twins of the instructions that touch no memory.

A warp is 32 consecutive threads of the last axis.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

Lanes = npt.NDArray[Any]


def _as(kind: type[np.generic], value: Any) -> Lanes:
    """The value as it is where it is of that kind: who gives it on has to copy it."""
    if type(value) is np.ndarray and value.dtype == kind:
        return value
    return np.asarray(value).astype(kind)


_u32 = partial(_as, np.uint32)
_s32 = partial(_as, np.int32)
_f32 = partial(_as, np.float32)


def fma(a: Any, b: Any, c: Any) -> Lanes:
    """`a * b + c` rounded once.

    The product of two f32 is exact in f64. The sum is rounded to odd there, which makes the second
    rounding, to f32, the correct one (Boldo and Melquiond, 2008).
    """
    product = _f32(a).astype(np.float64) * _f32(b).astype(np.float64)
    addend = _f32(c).astype(np.float64)
    total = product + addend
    virtual = total - product
    error = (product - (total - virtual)) + (addend - virtual)
    even = (total.view(np.int64) & 1) == 0
    nudged = np.nextafter(total, np.where(error > 0, np.inf, -np.inf))
    return np.where(np.isfinite(total) & (error != 0) & even, nudged, total).astype(np.float32)


_NIBBLES = np.arange(0, 16, 4, dtype=np.uint32)
_BITS = np.arange(8)


def prmt(a: Any, b: Any, selector: Any) -> Lanes:
    """Each nibble of the selector picks one of eight bytes; its top bit asks for the sign alone."""
    low, high, selector = np.broadcast_arrays(_u32(a), _u32(b), _u32(selector))
    pool = np.stack([low, high], axis=-1).astype("<u4", copy=False).view(np.uint8)
    nibbles = selector[..., None] >> _NIBBLES
    found = np.take_along_axis(pool, (nibbles & np.uint32(7)).astype(np.intp), axis=-1)
    signs = (nibbles & np.uint32(8)) != 0
    if signs.any():
        found = np.where(signs, (found.view(np.int8) >> 7).view(np.uint8), found)
    return np.ascontiguousarray(found).view("<u4")[..., 0].astype(np.uint32)


def _bytes(word: Any, kind: type[np.generic]) -> Lanes:
    return np.ascontiguousarray(_u32(word))[..., None].view(kind).astype(np.int64)


def _dp4a(second: type[np.generic]) -> Callable[..., Lanes]:
    def dp4a(a: Any, b: Any, c: Any) -> Lanes:
        products = (_bytes(a, np.int8) * _bytes(b, second)).sum(axis=-1)
        return _s32(products + np.asarray(c, np.int64))

    return dp4a


def _warps(value: Any) -> Lanes:
    value = np.asarray(value)
    return value.reshape(*value.shape[:-1], -1, 32)


def _shuffle(value: Any, place: Callable[[Lanes], Lanes]) -> Lanes:
    """Lane `n` of each warp receives lane `place(n)`; beyond the warp it keeps its own."""
    value = np.asarray(value)
    lanes = np.broadcast_to(np.arange(32), _warps(value).shape)
    source = place(lanes)
    source = np.where((source >= 0) & (source < 32), source, lanes)
    return np.take_along_axis(_warps(value), source, axis=-1).reshape(value.shape)


def _operand(value: Any, like: Any) -> Lanes:
    return _warps(np.broadcast_to(np.asarray(value, np.int64), np.asarray(like).shape))


def shuffle_xor(value: Any, mask: Any) -> Lanes:
    """`shfl.sync.bfly` over all 32 lanes."""
    return _shuffle(value, lambda lane: lane ^ _operand(mask, value))


def shuffle_down(value: Any, delta: Any) -> Lanes:
    """`shfl.sync.down` over all 32 lanes."""
    return _shuffle(value, lambda lane: lane + _operand(delta, value))


def shuffle_of_four(value: Any, source: Any) -> Lanes:
    """The value of that one of a lane's four neighbours."""
    return _shuffle(value, lambda lane: (lane & 28) + (_operand(source, value) & 3))


def shuffle_from(value: Any, source: Any) -> Lanes:
    """`shfl.sync.idx` over all 32 lanes."""
    return _shuffle(value, lambda _lane: _operand(source, value) & 31)


def _warp_reduce(combine: Any, kind: Any) -> Callable[[Any], Lanes]:
    def reduce(value: Any) -> Lanes:
        value = np.asarray(value).astype(kind)
        best = combine.reduce(_warps(value), axis=-1, keepdims=True, dtype=kind)
        return np.broadcast_to(best, _warps(value).shape).reshape(value.shape)

    return reduce


def warp_ballot(condition: Any) -> Lanes:
    """`vote.sync.ballot` over all 32 lanes."""
    lanes = _warps(np.asarray(condition, np.bool_))
    votes = (lanes.astype(np.uint32) << np.arange(32, dtype=np.uint32)).sum(
        axis=-1, keepdims=True, dtype=np.uint32
    )
    return np.broadcast_to(votes, lanes.shape).reshape(np.shape(condition))


def mma(kind: Any, k: int, *operands: Any) -> tuple[Lanes, ...]:
    """D = A B + C per warp: A 16xk of int8, B kx8 of int8 or uint8, C and D 16x8 of int32.

    Fragments as the PTX reference draws them: lane 4g+t holds rows g and g+8 of A, column g of B,
    and columns 2t, 2t+1 of C.
    """
    shape = np.broadcast_shapes(*(np.shape(operand) for operand in operands))
    words = [_warps(np.broadcast_to(operand, shape)) for operand in operands]
    lane = np.arange(32)
    group, third = lane // 4, lane % 4
    outer = words[0].shape[:-1]
    a = np.zeros((*outer, 16, k), np.int64)
    b = np.zeros((*outer, k, 8), np.int64)
    of_a, of_b = k // 8, k // 16  # words
    for byte in range(4):
        for n in range(of_a):
            row, column = group + 8 * (n % 2), third * 4 + byte + 16 * (n // 2)
            a[..., row, column] = _bytes(words[n], np.int8)[..., byte]
        for n in range(of_b):
            b[..., third * 4 + byte + 16 * n, group] = _bytes(words[of_a + n], kind)[..., byte]
    product = a @ b
    return tuple(
        _s32(
            product[..., group + 8 * (n // 2), third * 2 + n % 2] + words[of_a + of_b + n]
        ).reshape(shape)
        for n in range(4)
    )


def _half(bits: Any) -> Lanes:
    return _f32(_u32(bits).astype(np.uint16).view(np.float16))


def _half_bits(value: Any) -> Lanes:
    with np.errstate(over="ignore"):
        return _u32(_f32(value).astype(np.float16).view(np.uint16))


def _to_s32(value: Any) -> Lanes:
    """Nearest integer, ties to even, saturating; NaN gives zero, as `cvt.rni.s32.f32` does."""
    wide = np.rint(np.nan_to_num(_f32(value).astype(np.float64), nan=0.0))
    return _s32(np.clip(wide, -(2**31), 2**31 - 1))


def _select(cast: Callable[[Any], Lanes]) -> Callable[..., Lanes]:
    return lambda condition, yes, no: np.where(condition, cast(yes), cast(no))


ARITHMETIC: dict[str, Callable[..., Any]] = {
    "fma": fma,
    "add_f32": lambda a, b: _f32(a) + _f32(b),
    "sub_f32": lambda a, b: _f32(a) - _f32(b),
    "mul_f32": lambda a, b: _f32(a) * _f32(b),
    "div_f32": lambda a, b: _f32(a) / _f32(b),
    "sqrt_f32": lambda a: np.sqrt(_f32(a)),
    "rcp_f32": lambda a: np.float32(1) / _f32(a),
    "rcp_approx": lambda a: np.float32(1) / _f32(a),
    "rsqrt_approx": lambda a: _f32(1 / np.sqrt(_f32(a).astype(np.float64))),
    "min_f32": lambda a, b: np.fmin(_f32(a), _f32(b)),
    "max_magnitude": lambda a, b: np.maximum(np.abs(_f32(a)), np.abs(_f32(b))),
    "max_f32": lambda a, b: np.fmax(_f32(a), _f32(b)),
    "min_u32": lambda a, b: np.minimum(_u32(a), _u32(b)),
    "max_u32": lambda a, b: np.maximum(_u32(a), _u32(b)),
    "min_s32": lambda a, b: np.minimum(_s32(a), _s32(b)),
    "max_s32": lambda a, b: np.maximum(_s32(a), _s32(b)),
    "add_u32": lambda a, b: _u32(_u32(a).astype(np.uint64) + _u32(b)),
    "mul_u32": lambda a, b: _u32(_u32(a).astype(np.uint64) * _u32(b)),
    "mul_high_u32": lambda a, b: _u32(_u32(a).astype(np.uint64) * _u32(b) >> np.uint64(32)),
    "mad_u32": lambda a, b, c: _u32(_u32(a).astype(np.uint64) * _u32(b) + _u32(c)),
    "mad_s32": lambda a, b, c: _s32(_s32(a).astype(np.int64) * _s32(b) + _s32(c)),
    "s32_to_f32": lambda a: _f32(_s32(a)),
    "f32_to_s32": _to_s32,
    "bits_f32": lambda a: _u32(a).view(np.float32).copy(),
    "bits_u32": lambda a: _f32(a).view(np.uint32).copy(),
    "half_to_f32": lambda a: _half(_u32(a) & np.uint32(0xFFFF)),
    "high_half_to_f32": lambda a: _half(_u32(a) >> np.uint32(16)),
    "f32_to_half": _half_bits,
    "pack_halves": lambda a, b: _half_bits(a) | (_half_bits(b) << np.uint32(16)),
    "dp4a_ss": _dp4a(np.int8),
    "dp4a_su": _dp4a(np.uint8),
    "prmt": prmt,
    "bit_select": lambda mask, yes, no: (_u32(mask) & _u32(yes)) | (~_u32(mask) & _u32(no)),
    "and_or": lambda a, b, c: (_u32(a) & _u32(b)) | _u32(c),
    "shuffle_xor_u32": shuffle_xor,
    "shuffle_xor_f32": shuffle_xor,
    "shuffle_down_u32": shuffle_down,
    "shuffle_down_f32": shuffle_down,
    "shuffle_of_four_f32": shuffle_of_four,
    "shuffle_from_u32": shuffle_from,
    "shuffle_from_f32": shuffle_from,
    "warp_max_u32": _warp_reduce(np.maximum, np.uint32),
    "warp_min_u32": _warp_reduce(np.minimum, np.uint32),
    "warp_max_s32": _warp_reduce(np.maximum, np.int32),
    "warp_add_s32": _warp_reduce(np.add, np.int32),
    "warp_ballot": warp_ballot,
    "count_ones": lambda a: _u32(_bytes(a, np.uint8)[..., None] >> _BITS & 1).sum(axis=(-2, -1)),
    "mma_s8_16x8x32": partial(mma, np.int8, 32),
    "mma_su_16x8x32": partial(mma, np.uint8, 32),
    "mma_s8_16x8x16": partial(mma, np.int8, 16),
    "mma_su_16x8x16": partial(mma, np.uint8, 16),
    "select_u32": _select(_u32),
    "select_s32": _select(_s32),
    "select_f32": _select(_f32),
}
