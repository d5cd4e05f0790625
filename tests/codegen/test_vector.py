"""Vector intrinsics of the CPU target against float64 and exact arithmetic."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from numba import njit
from numpy.typing import NDArray

from fusec.codegen import formats
from fusec.codegen.cpu import dot, lib, rows, vector
from fusec.codegen.cpu.simd import Features
from fusec.codegen.cpu.vector import (
    advance,
    ptr_f32,
    ptr_u8,
    ptr_u16,
    sum_squares,
)
from tests.codegen.blocks import random_rows

pytestmark = pytest.mark.slow  # compiles many kernels

QUANTIZED = sorted(n for n, f in formats.FORMATS.items() if f.quantized)
FLOATS = sorted(n for n, f in formats.FORMATS.items() if not f.quantized)
LENGTHS = (0, 1, 12, 16, 17, 64, 172, 576)
# no shortcut at all, and what older x86 have
FALLBACKS = {
    "plain": Features(),
    "ssse3": Features(byte_shuffle=16),
    "avx2": Features(byte_shuffle=32, native_f16=True),
}
Array = NDArray[Any]


@functools.cache
def caller(one: Any, four: Any) -> Any:
    """Nopython wrappers of a format's functions: addresses in, floats out."""

    @njit
    def call1(w, x, n):
        return one(ptr_u8(w), ptr_f32(x), n)

    @njit
    def call4(w, x, n):
        return four(ptr_u8(w), ptr_f32(x), n, n)

    return call1, call4


def functions(name: str) -> Any:
    return getattr(vector, f"dot_{name}"), getattr(vector, f"dot4_{name}")


def dots(w: Array, x: Array, calls: Any) -> Array:
    """float32[rows, 8]: each of four tokens alone, then the four at once."""
    n = x.shape[1]
    result = np.zeros((len(w), 8), np.float32)
    for r in range(len(w)):
        row = w[r].ctypes.data
        for t in range(4):
            result[r, t] = calls[0](row, x[t].ctypes.data, n)
        result[r, 4:] = calls[1](row, x.ctypes.data, n)
    return result


def fma(a: Array, b: Array, c: Array) -> Array:
    """float64 holds the product exactly; its own rounding of the sum matters once in 2**29."""
    return (np.float64(a) * np.float64(b) + c).astype(np.float32)


def documented_order(name: str, row: Array, x: Array) -> np.float32:
    """A row's dot product, its canonical order written out."""
    acc = np.zeros(16, np.float32)
    spans = x.reshape(-1, 2, 16)
    if name == "q8_0":
        for block, span in zip(row.reshape(-1, 34), spans, strict=True):
            levels = block[2:].view(np.int8).astype(np.float32).reshape(2, 16)
            p = fma(levels[1], span[1], levels[0] * span[0])
            acc = fma(p, block[:2].view(np.float16)[0].astype(np.float32), acc)
    else:  # minima, or a scale for each half: weights first, with one rounding each
        weights = formats.get(name).decode(row[None])[0].reshape(-1, 2, 16)
        for values, span in zip(weights, spans, strict=True):
            acc = acc + fma(values[1], span[1], values[0] * span[0])
    while acc.size > 1:
        acc = acc[: acc.size // 2] + acc[acc.size // 2 :]
    return acc[0]


@pytest.mark.parametrize("n", [512, 1536])
@pytest.mark.parametrize("name", QUANTIZED)
def test_quantised_dot_against_float64(name: str, n: int) -> None:
    weights = formats.get(name)
    w = random_rows(weights, 6, n)
    x = np.random.default_rng(5).normal(size=(4, n)).astype(np.float32)
    got = dots(w, x, caller(*functions(name)))[:, :4]
    exact_w = weights.decode(w).astype(np.float64)
    size = np.abs(exact_w) @ np.abs(x.astype(np.float64)).T
    assert (np.abs(got - exact_w @ x.T) <= 4e-7 * size).all()


@pytest.mark.parametrize("n", LENGTHS)
@pytest.mark.parametrize("name", FLOATS)
def test_float_dot_against_float64(name: str, n: int) -> None:
    weights = formats.get(name)
    w = random_rows(weights, 5, n)
    x = np.random.default_rng(6).normal(size=(4, n)).astype(np.float32)
    got = dots(w, x, caller(*functions(name)))
    exact_w = weights.decode(w).astype(np.float64)
    size = np.abs(exact_w) @ np.abs(x.astype(np.float64)).T
    assert (np.abs(got[:, :4] - exact_w @ x.T) <= 4e-7 * size).all()
    assert np.array_equal(got[:, :4], got[:, 4:])


@pytest.mark.parametrize("name", QUANTIZED)
def test_four_tokens_have_the_bits_of_one(name: str) -> None:
    w = random_rows(formats.get(name), 8, 768, seed=7)
    x = np.random.default_rng(7).normal(size=(4, 768)).astype(np.float32)
    got = dots(w, x, caller(*functions(name)))
    assert np.array_equal(got[:, :4].view(np.uint32), got[:, 4:].view(np.uint32))
    assert len(np.unique(got[:, :4])) == 32


@pytest.mark.parametrize("name", ["q4_1", "q6_k", "iq4_xs", "f16"])
def test_any_number_of_tokens_has_the_bits_of_one(name: str) -> None:
    """Groups of four, and what is left."""
    one, several = getattr(vector, f"dot_{name}"), lib.dots(name)

    @njit
    def call(w, x, n, tokens, alone, together):
        for t in range(tokens):
            ptr_f32(alone)[t] = one(ptr_u8(w), advance(ptr_f32(x), t * n), n)
        several(ptr_u8(w), ptr_f32(x), n, n, tokens, ptr_f32(together))

    w = random_rows(formats.get(name), 1, 768, seed=9)
    x = np.random.default_rng(9).normal(size=(7, 768)).astype(np.float32)
    for tokens in range(1, 8):
        alone, together = np.zeros((2, 8), np.float32)
        call(w.ctypes.data, x.ctypes.data, 768, tokens, alone.ctypes.data, together.ctypes.data)
        assert np.count_nonzero(alone) == tokens
        assert alone.tobytes() == together.tobytes()


@pytest.mark.parametrize("name", ["q8_0", "q6_k"])
def test_the_order_is_the_documented_one(name: str) -> None:
    w = random_rows(formats.get(name), 4, 1024, seed=8)
    x = np.random.default_rng(8).normal(size=(4, 1024)).astype(np.float32)
    got = dots(w, x, caller(*functions(name)))[:, :4]
    for r in range(4):
        for t in range(4):
            assert got[r, t] == documented_order(name, w[r], x[t])


@pytest.mark.parametrize("fallback", FALLBACKS)
@pytest.mark.parametrize("name", sorted(formats.FORMATS))
def test_shortcuts_do_not_change_a_bit(name: str, fallback: str) -> None:
    weights, features = formats.get(name), FALLBACKS[fallback]
    if features.byte_shuffle and platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("x86 only")
    slow = [dot.row_dot(weights, k, features, f"{fallback}{k}_{name}") for k in (1, 4)]
    w = random_rows(weights, 3, 512, seed=9)
    x = np.random.default_rng(9).normal(size=(4, 512)).astype(np.float32)
    assert np.array_equal(dots(w, x, caller(*functions(name))), dots(w, x, caller(*slow)))


def test_nan_and_infinity_come_through() -> None:
    w = random_rows(formats.get("iq4_nl"), 1, 96)
    x = np.ones((4, 96), np.float32)
    x[0, 5], x[1, 40], x[2, 95] = np.nan, np.inf, -np.inf
    got = dots(w, x, caller(*functions("iq4_nl")))[0]
    assert not np.isfinite(got[:3]).any()
    assert np.isfinite(got[3])


@pytest.mark.parametrize("n", LENGTHS)
def test_sum_squares(n: int) -> None:
    @njit
    def call(x, n):
        return sum_squares(ptr_f32(x), n)

    x = np.random.default_rng(11).normal(size=n + 1).astype(np.float32)
    x[n] = np.nan  # not to be read
    exact = float((x[:n].astype(np.float64) ** 2).sum())
    assert call(x.ctypes.data, n) == pytest.approx(exact, rel=3e-7)


@pytest.mark.parametrize("name", FLOATS)
def test_axpy_is_an_fma_and_stays_inside(name: str) -> None:
    weights, function = formats.get(name), getattr(vector, f"axpy_{name}")
    fallback = rows.axpy(weights, Features(), f"plain_axpy_{name}")

    def wrapped(axpy: Any) -> Any:
        @njit
        def call(acc, v, p, n):
            axpy(ptr_f32(acc), ptr_u16(v), p, n)

        return call

    calls = wrapped(function), wrapped(fallback)
    for n in LENGTHS:
        v = random_rows(weights, 1, n, seed=12)
        start = np.random.default_rng(12).normal(size=n + 1).astype(np.float32)
        p = np.float32(0.7310586)
        product = weights.decode(v)[0].astype(np.float64) * np.float64(p)  # exact
        expected = (product + start[:n]).astype(np.float32)
        for call in calls:
            acc = start.copy()
            call(acc.ctypes.data, v.ctypes.data, p, n)
            assert np.abs(acc[:n] - expected).max(initial=0) <= 1e-7 * np.abs(start).max()
            assert (acc[:n] != expected).sum() <= n // 1000
            assert acc[n] == start[n]


@pytest.mark.parametrize("name", FLOATS)
def test_loops_over_rows_have_the_bits_of_dot_and_axpy(name: str) -> None:
    weights = formats.get(name)
    kinds = ("dot", "dot_rows", "axpy", "axpy_rows")
    dot_, dot_rows, axpy, axpy_rows = (getattr(vector, f"{kind}_{name}") for kind in kinds)

    @njit
    def many(w, stride, count, x, n, out, acc):
        dot_rows(ptr_f32(out), ptr_u8(w), stride, count, ptr_f32(x), n)
        axpy_rows(ptr_f32(acc), ptr_u8(w), stride, count, ptr_f32(out), n)

    @njit
    def single(w, row_bytes, count, x, n, out, acc):
        for j in range(count):
            row = ptr_u8(w + j * row_bytes)
            ptr_f32(out)[j] = dot_(row, ptr_f32(x), n)
            axpy(ptr_f32(acc), row, ptr_f32(out)[j], n)

    stride = 200
    for n, count in (64, 9), (172, 4), (12, 7), (1, 1), (17, 2), (128, 0), (150, 5):
        w = random_rows(weights, max(count, 1), stride, seed=n)
        rng = np.random.default_rng(n)
        x, start = (rng.normal(size=n + 1).astype(np.float32) for _ in range(2))
        outs, accs = np.full((2, count + 1), 99, np.float32), np.stack([start, start])
        addresses = [
            (out.ctypes.data, acc.ctypes.data) for out, acc in zip(outs, accs, strict=True)
        ]
        many(w.ctypes.data, stride, count, x.ctypes.data, n, *addresses[0])
        single(w.ctypes.data, weights.row_bytes(stride), count, x.ctypes.data, n, *addresses[1])
        assert np.array_equal(outs[0], outs[1])
        assert np.array_equal(accs[0], accs[1])
        assert (outs[0, -1], accs[0, -1]) == (99, start[-1])


@pytest.mark.parametrize("name", sorted(formats.FORMATS))
def test_decode_row_has_the_bits_of_decode(name: str) -> None:
    weights = formats.get(name)

    def wrapped(decode: Any) -> Any:
        @njit
        def call(w, out, first, count):
            decode(ptr_u8(w), ptr_f32(out), first, count)

        return call

    row = random_rows(weights, 1, 768, seed=13)
    expected = weights.decode(row)[0]
    plain = rows.decode_row(weights, Features(), f"plain_decode_{name}")
    for call in wrapped(getattr(vector, f"decode_row_{name}")), wrapped(plain):
        for first, count in (0, 768), (0, 0), (5, 1), (31, 2), (250, 300), (767, 1), (256, 256):
            out = np.full(count + 2, 99, np.float32)
            call(row.ctypes.data, out[1:].ctypes.data, first, count)
            part = expected[first : first + count]
            assert np.array_equal(out[1:-1].view(np.uint32), part.view(np.uint32))
            assert out[0] == out[-1] == 99


def test_pointers_advance_by_elements() -> None:
    @njit
    def call(x, h):
        halves = advance(ptr_u16(h), 2)
        halves[1] = 7
        return advance(ptr_f32(x), 3)[2], advance(ptr_u8(h), 6)[0]

    x, h = np.arange(8, dtype=np.float32), np.zeros(8, np.uint16)
    assert call(x.ctypes.data, h.ctypes.data) == (5.0, 7)
    assert h.tolist() == [0, 0, 0, 7, 0, 0, 0, 0]


@pytest.mark.parametrize(
    "name", ["dot_q9_9", "dot9_q8_0", "axpy_q8_0", "dot_rows_q8_0", "decode_q8_0", "nothing"]
)
def test_names_that_do_not_exist(name: str) -> None:
    with pytest.raises(AttributeError, match=name):
        getattr(vector, name)


@pytest.mark.skipif(Features.of_target().byte_shuffle < 32, reason="needs AVX2")
def test_the_inner_loop_is_made_of_vector_instructions() -> None:
    calls = caller(*functions("iq4_nl"))
    w = random_rows(formats.get("iq4_nl"), 1, 64)
    dots(w, np.ones((4, 64), np.float32), calls)
    (assembly,) = calls[0].inspect_asm().values()
    lookup = "vperm" if Features.of_target().float_permute else "vpshufb"
    assert lookup in assembly
    assert "vfmadd" in assembly


DECODED_APART = (
    *("f16", "bf16", "q8_0", "q4_1", "q5_0", "q2_k", "q3_k", "q6_k"),
    *("iq4_nl", "mxfp4", "nvfp4", "iq1_m", "iq2_s", "iq3_s", "tq1_0"),
)
"""A format of each kind of code that decodes one."""


def digest() -> str:
    """A hash of dot products, for comparison between machines."""
    total = hashlib.sha256()
    for name in DECODED_APART:
        weights = formats.get(name)
        x = np.random.default_rng(14).normal(size=(4, 256)).astype(np.float32)
        w = random_rows(weights, 2, 256, seed=14)
        total.update(dots(w, x, caller(*functions(name))).tobytes())
    return total.hexdigest()


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="x86 only")
def test_an_x86_without_extensions_gives_the_same_bits() -> None:
    generic = {"NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": ""}
    code = "from tests.codegen.test_vector import digest; print(digest())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | generic,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == digest(), done.stderr
