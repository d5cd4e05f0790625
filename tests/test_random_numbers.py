"""What a test draws does not depend on the tests that ran in front of it."""

from __future__ import annotations

import numpy as np
import pytest

from tests.random_numbers import random_numbers

RANDOM = random_numbers(7)


@pytest.mark.parametrize("time", ["first", "again"])
def test_each_test_draws_from_the_beginning(time: str) -> None:
    assert list(RANDOM.random(3)) == list(np.random.default_rng(7).random(3))
