"""What expressions of registered ops call on the CPU, by the names that all targets have."""

from __future__ import annotations

import math

from numba import njit

from fusec.codegen.cpu.elementary import cos_f32, log_f32, sin_f32, tan_f32
from fusec.codegen.cpu.experts import softplus
from fusec.codegen.cpu.lib import tanh as tanh_f32
from fusec.codegen.cpu.math import exp_f32

__all__ = [
    "abs_f32",
    "cos_f32",
    "div_f32",
    "exp_f32",
    "log_f32",
    "max_f32",
    "min_f32",
    "select_f32",
    "sin_f32",
    "softplus",
    "sqrt_f32",
    "tan_f32",
    "tanh_f32",
]


@njit
def abs_f32(x: float) -> float:
    """x without its sign."""
    return abs(x)


@njit(error_model="numpy")
def div_f32(x: float, y: float) -> float:
    """x / y; by 0 it is infinite or NaN, and no error."""
    return x / y


@njit
def min_f32(x: float, y: float) -> float:
    """The smaller one; of a NaN and a number, the number."""
    return y if y < x or math.isnan(x) else x


@njit
def max_f32(x: float, y: float) -> float:
    """The larger one; of a NaN and a number, the number."""
    return y if y > x or math.isnan(x) else x


@njit
def select_f32(condition: bool, yes: float, no: float) -> float:
    """One of two values."""
    return yes if condition else no


@njit
def sqrt_f32(x: float) -> float:
    """The square root; NaN below 0."""
    return math.sqrt(x)
