"""Sums of parts: whole numbers of 2**-30, whatever the order, and NaN where a part is too large."""

from __future__ import annotations

import numpy as np
import pytest

from fusec.codegen.cuda.twins import Launch
from tests.random_numbers import random_numbers

RNG = random_numbers(22)
LIMIT = 2.0**22
LARGEST = np.nextafter(np.float32(LIMIT), np.float32(0))
UNFIT = [LIMIT, -LIMIT, 3e6 * LIMIT, -3e38, np.inf, -np.inf, np.nan]


def call(name, *given):
    """A function of `lib.exact`, over lanes."""
    module = Launch(1, 32)._module("fusec.codegen.cuda.lib.exact")
    with np.errstate(all="ignore"):
        return getattr(module, name)(*given)


def lanes(values):
    return np.asarray(values, np.float32).reshape(1, -1)


def number_of(part):
    return call("whole", call("words_of", lanes([part] * 32)))[0, 0]


def sum_of(parts, exponent=0):
    """What each lane has of a warp's sum."""
    padded = np.zeros(32, np.float32)
    padded[: len(parts)] = parts
    found = call("sum_of_branches", lanes(padded), exponent)[0]
    assert len(set(found.view(np.uint32).tolist())) == 1
    return found[0]


@pytest.mark.parametrize("scale", [1e-9, 1e-4, 0.02, 1, 1e3, 4e6])
def test_a_part_is_rounded_to_the_nearest_whole_number(scale):
    parts = np.clip(RNG.standard_normal(32 * 200) * scale, -LARGEST, LARGEST).astype(np.float32)
    found = call("whole", call("words_of", lanes(parts)))[0]
    assert np.array_equal(found, np.rint(parts.astype(np.float64) * 2**30).astype(np.int64))


@pytest.mark.parametrize(
    ("part", "number"),
    [
        (2.0**-31, 0), (3 * 2.0**-31, 2), (-(2.0**-31), 0), (-3 * 2.0**-31, -2),  # ties to even
        (0.0, 0), (-0.0, 0), (16.0, 2**34), (-48.0, -3 * 2**34),  # ties of high words
        (2.0**-14, 2**16), (-(2.0**-14) * 3, -3 * 2**16),  # and of middle ones
        (LARGEST, 2**52 - 2**28), (-LARGEST, 2**28 - 2**52),
    ],
)  # fmt: skip
def test_limits_of_a_part(part, number):
    assert number_of(part) == number


def test_a_sum_does_not_depend_on_the_order():
    for scale in (1e-6, 1.0, 1e5):
        parts = (RNG.standard_normal(32) * scale * 2.0 ** RNG.integers(-9, 5, 32)).astype("f4")
        wanted = np.float32(np.rint(parts.astype("f8") * 2**30).astype("i8").sum() / 2**30)
        for _ in range(3):
            assert sum_of(RNG.permutation(parts)) == wanted


def test_the_largest_sums_there_are():
    for sign in (1, -1):
        assert sum_of([sign * LARGEST] * 32) == np.float32(sign * 32 * float(LARGEST))


@pytest.mark.parametrize("unfit", UNFIT)
@pytest.mark.parametrize("others", [0.0, LARGEST, -LARGEST])
@pytest.mark.parametrize("count", [1, 2, 31, 32])
def test_parts_that_are_too_large_make_nan(unfit, others, count):
    """No other parts hide them, and they do not hide each other."""
    assert np.isnan(sum_of([unfit] * count + [others] * (32 - count)))


def test_too_large_parts_of_both_signs_make_nan():
    assert np.isnan(sum_of([np.inf, -np.inf])) and np.isnan(sum_of([LIMIT, -LIMIT]))
    assert np.isnan(sum_of(UNFIT * 4))


@pytest.mark.parametrize("exponent", [0, 1, 3, 5])
def test_lanes_that_have_the_same_part_count_once(exponent):
    parts = RNG.standard_normal(32 >> exponent).astype(np.float32)
    wanted = np.float32(np.rint(parts.astype("f8") * 2**30).sum() / 2**30)
    assert sum_of(np.repeat(parts, 1 << exponent), exponent) == wanted
    parts[0] = np.inf
    assert np.isnan(sum_of(np.repeat(parts, 1 << exponent), exponent))


def test_a_sum_of_nothing_is_a_positive_zero():
    assert not np.signbit(sum_of([-0.0] * 32))
