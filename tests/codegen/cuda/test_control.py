"""advance, feed and sample, run by the NumPy twins, against the same written out in Python."""

from __future__ import annotations

import numpy as np
import pytest

from fusec.codegen.cuda import control
from fusec.codegen.cuda.twins import Launch
from fusec.codegen.cuda.twins_grid import run_grid
from fusec.errors import FusecError

RNG = np.random.default_rng(3)
OFF = {"temperature": 1.0, "top_k": 40, "top_p": 1.0, "min_p": 0.0, "repeat_penalty": 1.0,
       "repeat_last": 64, "seed": 0}  # fmt: skip


def word(value: int) -> np.ndarray:
    return np.array([value], np.uint32)


def philox(seed: int, counter: int) -> int:
    """First word of Philox4x32-10, as in Random123's reference."""
    keys, mask = [seed & 0xFFFFFFFF, seed >> 32], 0xFFFFFFFF
    c = [counter, 0, 0, 0]
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(b >> 32) ^ c[1] ^ keys[0], b & mask, (a >> 32) ^ c[3] ^ keys[1], a & mask]
        keys = [(keys[0] + 0x9E3779B9) & mask, (keys[1] + 0xBB67AE85) & mask]
    return c[0]


def choose(logits: np.ndarray, tokens: np.ndarray, pos: int, given: dict) -> int:
    """The steps of `control.sample` in float64."""
    scores = logits.astype(np.float64)
    for token in set(tokens[max(0, pos + 1 - given["repeat_last"]) : pos + 1].tolist()):
        penalty = given["repeat_penalty"]
        scores[token] = scores[token] / penalty if scores[token] > 0 else scores[token] * penalty
    order = np.lexsort((np.arange(len(scores)), -scores))
    order = order[: min(control.MOST_CANDIDATES, given["top_k"] or len(scores))]
    if given["temperature"] == 0:
        return int(order[0])
    weights = np.exp(scores[order] - scores[order[0]])
    before = np.cumsum(weights) - weights
    kept = (before < given["top_p"] * weights.sum()) & (weights >= given["min_p"])
    kept[0] = True
    weights = np.exp((scores[order] - scores[order[0]]) / given["temperature"]) * kept
    point = (philox(given["seed"], pos + 1) >> 8) / 2**24 * weights.sum()
    place = np.searchsorted(np.cumsum(weights), point, side="right")
    return int(order[min(place, kept.sum() - 1)])


def sampled(logits: np.ndarray, tokens: np.ndarray, pos: int, given: dict) -> int:
    found = np.zeros(1, np.uint32)
    scores, params = np.zeros_like(logits), control.sampling_words(**given)
    kernel = control.sample(len(logits))
    run_grid(kernel, logits, scores, found, word(pos), tokens, params)
    return int(found[0])


@pytest.mark.parametrize("vocabulary", [1, 100, 1500, 20000])
@pytest.mark.parametrize("temperature", [0.0, 0.8, 1.5])
@pytest.mark.parametrize("top_k", [0, 1, 40, 3000])
def test_sample_takes_what_the_reference_takes(
    vocabulary: int, temperature: float, top_k: int
) -> None:
    tokens = RNG.integers(0, vocabulary, 64).astype(np.uint32)
    for n, logits in enumerate(
        (RNG.normal(size=vocabulary) * 4, np.round(RNG.normal(size=vocabulary)))
    ):
        given = {
            "temperature": temperature, "top_k": top_k, "top_p": (0.95, 0.6)[n],
            "min_p": (0.02, 0.0)[n], "repeat_penalty": (1.2, 1.0)[n], "repeat_last": 20,
            "seed": int(RNG.integers(2**63)),
        }  # fmt: skip
        single = logits.astype(np.float32)
        assert sampled(single, tokens, 50, given) == choose(single, tokens, 50, given)


def test_equal_scores_are_cut_by_token_number() -> None:
    logits, tokens = np.ones(9000, np.float32), np.zeros(8, np.uint32)
    seen = {sampled(logits, tokens, 3, OFF | {"top_k": 5, "seed": seed}) for seed in range(25)}
    assert seen == {0, 1, 2, 3, 4}


def test_draws_follow_the_probabilities_and_the_seed() -> None:
    logits, tokens = np.log(np.array([0.6, 0.3, 0.1], np.float32)), np.zeros(600, np.uint32)
    drawn = [sampled(logits, tokens, pos, OFF) for pos in range(40)]
    assert drawn[:9] == [sampled(logits, tokens, pos, OFF) for pos in range(9)]
    counts = np.bincount(drawn, minlength=3) / len(drawn)
    assert np.abs(counts - [0.6, 0.3, 0.1]).max() < 0.15
    assert drawn[:20] != [sampled(logits, tokens, pos, OFF | {"seed": 1}) for pos in range(20)]


def test_philox_is_random123s() -> None:
    """kat_vectors of Random123: philox4x32, 10 rounds, counter and key zero."""
    assert philox(0, 0) == 0x6627E8D5
    launch = Launch(1, 32)
    draw = launch._module("fusec.codegen.cuda.lib.sampling").philox
    keys = RNG.integers(0, 2**32, (3, 32), dtype=np.uint64)
    got = draw(*(k.astype(np.uint32)[None] for k in keys))[0]
    assert got.tolist() == [philox(int(a | b << np.uint64(32)), int(c)) for a, b, c in keys.T]


def test_advance_hands_the_token_on() -> None:
    token, pos, step = word(0), word(6), word(1030)
    tokens, ring = np.zeros(20, np.uint32), np.zeros(control.RING, np.uint64)
    run_grid(control.advance(), word(77), token, pos, step, tokens, ring)
    assert (token[0], pos[0], step[0], tokens[7]) == (77, 7, 1031, 77)
    assert ring[6] == 1031 << 32 | 77
    assert np.count_nonzero(ring) == np.count_nonzero(tokens) == 1


@pytest.mark.parametrize("count", [1, 5, 129, 1024, 5000])
@pytest.mark.parametrize("overlaps", [False, True])
def test_advance_best_hands_the_best_on(count: int, overlaps: bool) -> None:
    """Of parts in any order: ties, zeros of both signs, -inf, and nothing but -inf."""
    kernel = control.advance_best(count, overlaps)
    index = RNG.permutation(50_000)[:count].astype(np.uint32)
    for values in (
        RNG.normal(size=count),
        RNG.integers(-1, 1, count),
        np.where(RNG.random(count) < 0.5, -0.0, 0.0),
        np.where(RNG.random(count) < 0.5, -np.inf, -3.0),
        np.full(count, -np.inf),
        np.where(index == index.min(), np.inf, 1.0),
    ):
        tops = values.astype(np.float32)
        best = index[values == values.max()].min()
        chosen, token, pos, step = word(999), word(0), word(6), word(1030)
        tokens, ring = np.zeros(20, np.uint32), np.zeros(control.RING, np.uint64)
        run_grid(kernel, tops, index, chosen, token, pos, step, tokens, ring)
        found = chosen[0], token[0], pos[0], step[0], tokens[7], ring[6]
        assert found == (best, best, 7, 1031, best, 1031 << 32 | int(best))
        assert np.count_nonzero(ring) == 1
        assert np.count_nonzero(tokens) == (best > 0)


def test_feed_reads_the_prompt() -> None:
    token, pos = word(0), word(2)
    run_grid(control.feed(), np.arange(10, 20, dtype=np.uint32), token, pos)
    assert (token[0], pos[0]) == (13, 3)


def test_a_vocabulary_without_tokens_is_refused() -> None:
    with pytest.raises(FusecError, match="at least 1 token, found 0"):
        control.sample(0)
