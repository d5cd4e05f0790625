"""Choosing tokens: the filters against their definitions, and the draws against probabilities."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusec.errors import FusecError
from fusec.runtime.sampling import Sampler, Sampling, uniform
from tests.params import slow_but

OFF = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
DRAWS = 20_000


def draws(logits: list[float], count: int = DRAWS, **given: float) -> Counter[int]:
    sampler = Sampler(Sampling(**(OFF | given)))
    scores = np.array(logits, np.float32)
    return Counter(sampler.choose(scores, position) for position in range(count))


def expected(logits: list[float], *, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0) -> list[float]:
    """Probabilities by the definitions, one filter after the other, in plain Python."""
    order = sorted(range(len(logits)), key=lambda i: (-logits[i], i))
    kept = order[:top_k] if top_k else order
    total = math.fsum(math.exp(logits[i] - logits[order[0]]) for i in kept)
    share = {i: math.exp(logits[i] - logits[order[0]]) / total for i in kept}
    nucleus, mass = [], 0.0
    for i in kept:
        nucleus.append(i)
        mass += share[i]
        if mass >= top_p:
            break
    nucleus = [i for i in nucleus if share[i] >= min_p * share[order[0]]]
    weights = {i: math.exp((logits[i] - logits[order[0]]) / temperature) for i in nucleus}
    return [weights.get(i, 0.0) / math.fsum(weights.values()) for i in range(len(logits))]


LOGITS = [2.0, -1.0, 0.5, 3.0, 1.5, -4.0, 2.9, 0.0]


DRAWN: tuple[dict[str, Any], ...] = (
    {},
    {"top_k": 3},
    {"top_p": 0.6},
    {"min_p": 0.2},
    {"top_k": 5, "top_p": 0.8, "min_p": 0.3, "temperature": 2.0},
    {"temperature": 0.5},
    {"temperature": 3.0},
    {"top_k": 1},
    {"top_k": 100},
    {"top_p": 0.99},
    {"min_p": 1.0},
)


@pytest.mark.parametrize("options", slow_but(DRAWN[3:5], DRAWN), ids=str)
def test_draws_follow_the_definitions(options: dict) -> None:
    wanted = expected(LOGITS, **options)
    found = draws(LOGITS, **options)
    assert set(found) <= {i for i, p in enumerate(wanted) if p > 0}
    for token, probability in enumerate(wanted):
        tolerance = 5 * math.sqrt(probability * (1 - probability) / DRAWS) + 1e-9
        assert found[token] / DRAWS == pytest.approx(probability, abs=tolerance)


# eighths, so that sums of logits are exact; small differences, so that no share rounds to nothing
eighths = st.integers(-40, 40).map(lambda i: i / 8)


@given(
    st.lists(eighths, min_size=1, max_size=12),
    st.integers(0, 14),
    st.sampled_from([0.1, 0.35, 0.55, 0.85, 0.97, 1.0]),
    st.sampled_from([0.0, 0.03, 0.3, 0.7]),
)
@settings(max_examples=150, deadline=None)
def test_what_the_filters_keep(logits: list[float], top_k: int, top_p: float, min_p: float) -> None:
    options = {"top_k": top_k, "top_p": top_p, "min_p": min_p}
    wanted = expected(logits, **options)
    sampler = Sampler(Sampling(**(OFF | options)))
    kept = sampler._candidates(np.array(logits, np.float64))
    assert sorted(kept.tolist()) == [i for i, p in enumerate(wanted) if p > 0]
    assert kept.tolist() == sorted(kept.tolist(), key=lambda i: (-logits[i], i))


def test_ties_go_to_the_lowest_ids() -> None:
    even = [1.0, 1.0, 1.0, 1.0, 0.0]
    assert set(draws(even, 500, top_k=2)) == {0, 1}
    assert set(draws(even, 500, top_p=0.5)) == {0, 1, 2}  # of 0.92: two are 0.46
    assert Sampler(Sampling()).choose(np.array([0, 3, 3], np.float32), 1) == 1


@pytest.mark.parametrize("count", [2, 3, 5, 7, 10, 20, 64])
def test_top_p_at_the_very_mass(count: int) -> None:
    """The token that makes the mass equal to top_p is the last one kept."""
    for kept in range(1, count):
        sampler = Sampler(Sampling(**(OFF | {"top_p": kept / count})))
        assert len(sampler._candidates(np.zeros(count))) == kept, f"{kept} of {count}"


def test_a_seed_fixes_the_choices() -> None:
    random = np.random.default_rng(0)
    steps = random.standard_normal((50, 100)).astype(np.float32)

    def choices(**given: float) -> list[int]:
        sampler = Sampler(Sampling(**(OFF | given)))
        return [sampler.choose(logits, position) for position, logits in enumerate(steps)]

    assert choices(seed=1) == choices(seed=1)
    assert choices(seed=1) != choices(seed=2)
    assert choices(seed=2**64 - 1) != choices(seed=0)
    single = [choices(seed=1 << bit) for bit in (0, 31, 32, 63)]
    assert len(set(map(tuple, single))) == len(single)  # both words of a seed counts


def test_uniform_is_random123s_philox() -> None:
    """The first of kat_vectors of Random123: philox4x32, 10 rounds, counter and key zero."""
    assert uniform(0, 0) == (0x6627E8D5 >> 8) / 2**24
    numbers = [uniform(seed, place) for seed in (0, 7, 2**64 - 1) for place in range(2000)]
    assert min(numbers) >= 0 and max(numbers) < 1 and len(set(numbers)) > 5990
    assert abs(np.mean(numbers) - 0.5) < 0.02 and abs(np.std(numbers) - 12**-0.5) < 0.01


def test_no_more_candidates_than_a_gpu_keeps() -> None:
    flat = np.zeros(40)
    assert len(Sampler(Sampling(**OFF), 8)._candidates(flat)) == 8
    assert len(Sampler(Sampling(**(OFF | {"top_k": 5})), 8)._candidates(flat)) == 5
    assert len(Sampler(Sampling(**OFF))._candidates(flat)) == 40


def test_a_filter_does_not_shift_later_choices() -> None:
    """One random number a token: where a filter changes nothing, the choice is the same."""
    steps = np.random.default_rng(0).standard_normal((40, 30)).astype(np.float32)
    plain, filtered = (Sampler(Sampling(**(OFF | {"seed": 5, "top_k": k}))) for k in (0, 30))
    narrow = Sampler(Sampling(**(OFF | {"seed": 5, "top_k": 1})))
    for i, logits in enumerate(steps):
        if i % 2:
            assert filtered.choose(logits, i) == plain.choose(logits, i)
        else:
            filtered.sampling = narrow.sampling
            filtered.choose(logits, i)
            plain.choose(logits, i)
            filtered.sampling = plain.sampling


def test_temperature_0_is_greedy_whatever_the_filters() -> None:
    logits = np.array(LOGITS, np.float32)
    for options in ({}, {"top_k": 2}, {"top_p": 0.01}, {"min_p": 1.0}, {"seed": 9}):
        assert Sampler(Sampling(temperature=0, **options)).choose(logits, 0) == 3


@pytest.mark.parametrize("temperature", [1e-9, 1e-300, 5e-324])
def test_a_tiny_temperature_is_greedy(temperature: float) -> None:
    assert set(draws(LOGITS, 50, temperature=temperature)) == {3}


def test_a_huge_temperature_is_even() -> None:
    found = draws(LOGITS, temperature=1e30)
    assert min(found.values()) > 0.9 * DRAWS / len(LOGITS)


def test_the_repetition_penalty() -> None:
    logits = np.array([2.0, 1.9, -1.0, -1.1], np.float32)
    penal = Sampling(temperature=0, repeat_penalty=1.5)
    assert not penal.is_argmax
    sampler = Sampler(penal)
    assert sampler.choose(logits, 0) == 0
    sampler.accept(0)
    sampler.accept(0)  # a token seen twice is penalised once
    scores = sampler._penalised(logits.astype(np.float64))
    assert scores.tolist() == pytest.approx([2.0 / 1.5, 1.9, -1.0, -1.1])
    assert sampler.choose(logits, 0) == 1
    sampler.accept(2)  # below 0 it is multiplied
    assert sampler._penalised(logits.astype(np.float64))[2] == pytest.approx(-1.5)
    assert logits.tolist() == pytest.approx([2.0, 1.9, -1.0, -1.1])  # the caller's are left alone


@pytest.mark.parametrize("window", [1, 3, 64])
def test_the_penalty_reaches_back_as_far_as_its_window(window: int) -> None:
    sampler = Sampler(Sampling(repeat_penalty=2, repeat_last=window))
    for token in range(70):
        sampler.accept(token)
    scores = sampler._penalised(np.ones(80))
    assert np.flatnonzero(scores == 0.5).tolist() == list(range(70 - window, 70))
    assert set(scores.tolist()) == {0.5, 1.0}


def test_a_token_just_as_likely_as_min_p_says_is_kept() -> None:
    """Weights are 1 and 1/2 exactly: two tokens share what one has twice."""
    half = float(np.exp(-0.75) / np.exp(0))
    sampler = Sampler(Sampling(**(OFF | {"min_p": half})))
    assert sampler._candidates(np.array([0.75, 0.0, -1e-9])).tolist() == [0, 1]
    above = Sampler(Sampling(**(OFF | {"min_p": math.nextafter(half, 1)})))
    assert above._candidates(np.array([0.75, 0.0])).tolist() == [0]


@pytest.mark.slow
def test_filters_come_before_the_temperature() -> None:
    """Heat spreads what they have left, and brings back nothing; cold cuts nothing off."""
    logits = [2.0, 1.0, 0.0, -1.0]
    for options, kept in (
        ({"top_p": 0.7}, {0, 1}), ({"min_p": 0.3}, {0, 1}), ({"min_p": 0.1}, {0, 1, 2})
    ):  # fmt: skip
        for temperature in (0.4, 1.0, 50.0):
            assert set(draws(logits, 3000, temperature=temperature, **options)) == kept


def test_the_penalty_comes_before_the_filters() -> None:
    """What it takes down no longer counts among the likeliest."""
    sampler = Sampler(Sampling(**(OFF | {"top_k": 1, "repeat_penalty": 3.0})))
    sampler.accept(0)
    assert {sampler.choose(np.array([2.0, 1.0, 0.5], np.float32), i) for i in range(20)} == {1}


def test_the_penalty_forgets() -> None:
    logits = np.array([2.0, 1.0, 0.0, 0.0], np.float32)
    sampler = Sampler(Sampling(repeat_penalty=9, repeat_last=2))
    sampler.accept(0)
    assert sampler.choose(logits, 0) == 1
    sampler.accept(2)
    sampler.accept(3)
    assert sampler.choose(logits, 0) == 0
    blind = Sampler(Sampling(repeat_penalty=9, repeat_last=0))
    blind.accept(0)
    assert blind.choose(logits, 0) == 0


INF, NAN = math.inf, math.nan


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("logits", "chosen"),
    [
        ([-INF, 1.0, -INF], {1}),
        ([-INF, 1.0, -INF, 1.0], {1, 3}),
        ([3e38, -3e38, -INF], {0}),
        ([7.0], {0}),
    ],
)
def test_logits_of_minus_infinity_are_never_chosen(logits: list[float], chosen: set[int]) -> None:
    assert set(draws(logits, 200)) == chosen
    assert set(draws(logits, 50, top_k=40, top_p=0.95, min_p=0.05, repeat_penalty=2)) <= chosen
    assert set(draws(logits, 3, temperature=0)) == {min(chosen)}


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("temperature", -0.1),
        ("temperature", NAN),
        ("temperature", INF),
        ("top_k", -1),
        ("top_p", 0),
        ("top_p", 1.1),
        ("top_p", NAN),
        ("min_p", -0.1),
        ("min_p", 1.1),
        ("min_p", NAN),
        ("repeat_penalty", 0),
        ("repeat_penalty", NAN),
        ("repeat_last", -1),
        ("seed", -1),
        ("seed", 2**64),
    ],
)
def test_values_out_of_range(option: str, value: float) -> None:
    with pytest.raises(FusecError, match=f"sampling: expected {option} "):
        Sampling(**{option: value})


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("temperature", "0.8"),
        ("temperature", None),
        ("temperature", 1j),
        ("top_k", 2.5),
        ("top_k", "40"),
        ("top_p", [0.9]),
        ("repeat_last", 64.0),
        ("seed", None),
    ],
)
def test_what_is_no_such_number(option: str, value: object) -> None:
    with pytest.raises(FusecError, match=f"sampling: expected {option} as (int|float), found "):
        Sampling(**{option: value})


def test_numbers_of_numpy_and_whole_ones() -> None:
    one = Sampling(np.float32(1), np.int64(3), 1, np.float64(0.05), seed=np.uint64(7))
    assert Sampler(one).choose(np.arange(8, dtype=np.float32), 0) in (5, 6, 7)
    Sampler(Sampling(repeat_last=10**30)).accept(1)
