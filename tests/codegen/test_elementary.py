"""log, sin, cos and tan: near float64's for any f32, and the same bits on both targets."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numba import njit
from numpy.typing import NDArray

from fusec.codegen.cpu import elementary
from fusec.codegen.cuda.toolchain import CudaKernel
from fusec.codegen.cuda.twins import Launch
from tests.random_numbers import random_numbers

pytestmark = pytest.mark.slow  # many arguments

Floats = NDArray[np.float32]
RANDOM = random_numbers(4)
MEANT: dict[str, tuple[Callable[[Any], Any], float]] = {
    "log_f32": (np.log, 1),
    "sin_f32": (np.sin, 2),
    "cos_f32": (np.cos, 2),
    "tan_f32": (np.tan, 4),
}
"""What each function is in float64, and by how many units in the last place it may be off."""
QUARTERS = np.arange(1, 20_000) * (math.pi / 2)
SAMPLES: dict[str, Floats] = {
    "any": RANDOM.integers(0, 1 << 32, 400_000, dtype=np.uint32).view(np.float32),
    "usual": (10 * RANDOM.standard_normal(400_000)).astype(np.float32),
    "near multiples of pi/2": np.concatenate([-QUARTERS, QUARTERS]).astype(np.float32),
    # no f32 is nearer to one (Muller, Elementary Functions, table 11.1)
    "nearest": np.float32([16367173 * 2.0**72, -16367173 * 2.0**72]),
    "special": np.float32([0.0, -0.0, 1, -1, 1e-45, -1e-45, 1e-38, np.inf, -np.inf, np.nan]),
    "ends": np.float32([np.pi / 4, np.nextafter(np.float32(np.pi / 4), np.float32(0)), 3.4e38]),
}


def on_the_cpu(name: str, x: Floats) -> Floats:
    function = getattr(elementary, name)

    @njit
    def each(x, y):
        for i in range(x.size):
            y[i] = function(x[i])

    y = np.empty_like(x)
    each(x, y)
    return y


def by_the_twins(name: str, x: Floats) -> Floats:
    source = (
        "from fusec.codegen.cuda.device import at, load_f32, store_f32, thread_index\n"
        f"from fusec.codegen.cuda.lib.elementary import {name}\n"
        "def each(x, y):\n"
        "    i = thread_index()\n"
        f"    store_f32(at(y, i), {name}(load_f32(at(x, i))))\n"
    )
    filled = np.resize(x, -(-x.size // 32) * 32)
    y = np.zeros_like(filled)
    kernel = CudaKernel("each", source, ("f32*", "f32*"), filled.size)
    Launch(1, filled.size).run(kernel, filled, y)
    return y[: x.size]


@pytest.mark.parametrize("sample", SAMPLES)
@pytest.mark.parametrize("name", MEANT)
def test_it_is_near_what_it_means(name: str, sample: str) -> None:
    meant, bound = MEANT[name]
    x = SAMPLES[sample]
    found = on_the_cpu(name, x)
    with np.errstate(all="ignore"):
        exact = meant(x.astype(np.float64))
        wanted = exact.astype(np.float32)
        off = np.abs(found - exact) / np.spacing(np.abs(wanted)).astype(np.float64)
    finite = np.isfinite(exact)
    assert np.array_equal(found[~finite], wanted[~finite], equal_nan=True)
    assert np.array_equal(np.signbit(found[finite]), np.signbit(wanted[finite]))
    assert off[finite].max() <= bound


@pytest.mark.parametrize("name", MEANT)
def test_the_cuda_target_has_the_same_bits(name: str) -> None:
    x = np.concatenate([values[:20_000] for values in SAMPLES.values()])
    found, wanted = by_the_twins(name, x), on_the_cpu(name, x)
    numbers = ~np.isnan(wanted)
    assert np.isnan(found[~numbers]).all()
    assert found[numbers].tobytes() == wanted[numbers].tobytes()
