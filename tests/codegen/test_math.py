"""exp, f16 conversion and fma of the CPU target."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

from fusec.codegen.cpu import simd
from fusec.codegen.cpu.function import llvm_function
from fusec.codegen.cpu.simd import Features
from fusec.codegen.cpu.vector import (
    exp_f32,
    exp_row,
    f16_bits_to_f32,
    f32_to_f16_bits,
    fma_f32,
    ptr_f32,
)


@njit
def _exp(x, out):
    for i in range(x.size):
        out[i] = exp_f32(x[i])


def exp(x: NDArray[np.float32]) -> NDArray[np.float32]:
    out = np.empty_like(x)
    _exp(x, out)
    return out


def test_exp_is_within_about_one_ulp() -> None:
    x = np.linspace(-104, 89, 3_000_000).astype(np.float32)
    exact = np.exp(x.astype(np.float64))
    got = exp(x)
    with np.errstate(over="ignore", invalid="ignore"):
        ulp = np.spacing(exact.astype(np.float32)).astype(np.float64)
        finite = exact < np.finfo(np.float32).max
        assert (np.abs(got - exact)[finite] / ulp[finite]).max() <= 1.01
    assert np.isinf(got[exact > 3.4029e38]).all()


def test_exp_of_special_values() -> None:
    x = np.array([0, -0.0, 1e-40, np.inf, -np.inf, np.nan, 89, 1e30, -104, -1e30], np.float32)
    expected = np.array([1, 1, 1, np.inf, 0, np.nan, np.inf, np.inf, 0, 0], np.float32)
    assert np.array_equal(exp(x), expected, equal_nan=True)


def test_exp_row_has_the_bits_of_exp_f32() -> None:
    @njit
    def call(x, shift, n):
        exp_row(ptr_f32(x), shift, n)

    for n in (1, 12, 16, 17, 100):
        x = np.random.default_rng(n).normal(size=n + 1).astype(np.float32) * 20
        out = x.copy()
        call(out.ctypes.data, np.float32(3.25), n)
        assert np.array_equal(out[:n], exp(x[:n] - np.float32(3.25)))
        assert out[n] == x[n]


def conversions(features: Features | None) -> Any:
    """Nopython loops over the conversions as this machine does them, or without its shortcuts."""
    widen, narrow = f16_bits_to_f32, f32_to_f16_bits
    if features is not None:
        widen = llvm_function(
            "plain_widen",
            types.float32,
            {"bits": types.uint16},
            lambda b, bits: simd.widen_f16(b, bits, features),
            "",
        )
        narrow = llvm_function(
            "plain_narrow",
            types.uint16,
            {"x": types.float32},
            lambda b, x: simd.narrow_f16(b, x, features),
            "",
        )

    @njit
    def widen_all(bits, out):
        for i in range(bits.size):
            out[i] = widen(bits[i])

    @njit
    def narrow_all(x, out):
        for i in range(x.size):
            out[i] = narrow(x[i])

    return widen_all, narrow_all


def test_f16_conversions_are_numpys_bits() -> None:
    halves = np.arange(1 << 16, dtype=np.uint16)
    rng = np.random.default_rng(0)
    x = rng.integers(0, 1 << 32, 1_000_000, dtype=np.uint32).view(np.float32)
    middle = halves.view(np.float16).astype(np.float32).view(np.uint32)
    ties = np.concatenate([middle + np.uint32(d) for d in (0xFFF, 0x1000, 0x1001)])
    x = np.concatenate([x, ties.view(np.float32), rng.normal(size=100_000).astype(np.float32)])
    with np.errstate(over="ignore"):
        narrow = x.astype(np.float16).view(np.uint16)
    wide = halves.view(np.float16).astype(np.float32)
    for features in None, Features():
        widen_all, narrow_all = conversions(features)
        got_wide = np.empty_like(wide)
        widen_all(halves, got_wide)
        assert np.array_equal(np.isnan(got_wide), np.isnan(wide))
        number = ~np.isnan(wide)
        assert np.array_equal(got_wide.view(np.uint32)[number], wide.view(np.uint32)[number])
        got = np.empty_like(narrow)
        narrow_all(x, got)
        number = ~np.isnan(x)
        assert np.array_equal(got[number], narrow[number])
        assert ((got[~number] & 0x7FFF) > 0x7C00).all()


def test_fma_rounds_once_and_nopython_code_twice() -> None:
    @njit
    def separate(x, y, z):
        return x * y + z

    @njit
    def fused(x, y, z):
        return fma_f32(x, y, z)

    x = np.float32(1 + 2**-12)
    z = -np.float32(1 + 2**-11)
    assert fused(x, x, z) == np.float32(2**-24)
    assert separate(x, x, z) == 0
