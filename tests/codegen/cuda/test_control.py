"""advance, feed and sample, run by the NumPy twins, against the same written out in Python."""

from __future__ import annotations

import numpy as np
import pytest

from fusec.codegen.cuda import control
from fusec.codegen.cuda.twins import Launch, Pointer
from fusec.codegen.cuda.twins_grid import run_grid
from fusec.errors import FusecError
from fusec.runtime.sampling import Sampler, Sampling
from tests.random_numbers import random_numbers

RNG = random_numbers(3)
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_equal_scores_are_cut_by_token_number() -> None:
    logits, tokens = np.ones(9000, np.float32), np.zeros(8, np.uint32)
    seen = {sampled(logits, tokens, 3, OFF | {"top_k": 5, "seed": seed}) for seed in range(16)}
    assert seen == {0, 1, 2, 3, 4}


@pytest.mark.parametrize(
    ("count", "top_p", "kept"),
    [(2, 0.5, 1), (10, 0.8, 8), (20, 0.55, 11), (100, 0.15, 16)],  # as float32 0.15 is more
)
def test_top_p_at_the_very_mass_is_as_on_the_host(count: int, top_p: float, kept: int) -> None:
    """The token that makes the mass equal to top_p is the last one kept."""
    options = OFF | {"top_p": top_p, "top_k": 0}
    on_host = Sampler(Sampling(**options))._candidates(np.zeros(count))
    assert on_host.tolist() == list(range(kept))
    last = next(pos for pos in range(10**4) if (philox(0, pos + 1) >> 8) * kept >> 24 == kept - 1)
    logits, tokens = np.zeros(count, np.float32), np.zeros(last + 1, np.uint32)
    assert sampled(logits, tokens, last, options) == kept - 1
    top = next(pos for pos in range(10**4) if (philox(0, pos + 1) >> 8) / 2**24 > 0.998)
    assert sampled(logits, np.zeros(top + 1, np.uint32), top, options) == kept - 1, "and no more"


@pytest.mark.slow
@pytest.mark.parametrize("best", [3.0, 1e-30])
def test_the_cut_among_equal_scores_is_found_from_above_and_from_below(best: float) -> None:
    """More equal scores than there is room for, below one or a few that are far from them."""
    logits, tokens = np.zeros(9000, np.float32), np.zeros(64, np.uint32)
    for above in (1, 30):
        logits[-above:] = best
        given = OFF | {"temperature": 5.0, "top_k": 40}
        wanted = [choose(logits, tokens, pos, given) for pos in range(30)]
        places = {pos for pos, token in enumerate(wanted) if token in (min(wanted), max(wanted))}
        places |= set(range(3))
        assert min(wanted) < 40 - above
        assert all(sampled(logits, tokens, pos, given) == wanted[pos] for pos in places)


@pytest.mark.slow
def test_draws_follow_the_probabilities_and_the_seed() -> None:
    logits, tokens = np.log(np.array([0.6, 0.3, 0.1], np.float32)), np.zeros(600, np.uint32)
    drawn = [sampled(logits, tokens, pos, OFF) for pos in range(40)]
    assert drawn[:9] == [sampled(logits, tokens, pos, OFF) for pos in range(9)]
    counts = np.bincount(drawn, minlength=3) / len(drawn)
    assert np.abs(counts - [0.6, 0.3, 0.1]).max() < 0.15
    assert drawn[:20] != [sampled(logits, tokens, pos, OFF | {"seed": 1}) for pos in range(20)]


@pytest.mark.slow
@pytest.mark.parametrize("window", [0, 1, 5, 7, 64])
@pytest.mark.parametrize("pos", [0, 6, 30])
def test_the_penalty_is_for_the_tokens_in_the_window(window: int, pos: int) -> None:
    """tokens[pos + 1 - window .. pos]: the penalised ones are the only ones it does not take."""
    tokens = np.arange(64, dtype=np.uint32)  # each at a position of its own, also behind `pos`
    seen = set(range(max(0, pos + 1 - window), pos + 1))
    given = OFF | {"temperature": 0.0, "repeat_penalty": 4.0, "repeat_last": window}
    for token in {0, max(0, pos - window), max(0, pos + 1 - window), pos, pos + 1}:
        logits = np.zeros(64, np.float32)
        logits[token], logits[63] = 2.0, 1.0
        assert sampled(logits, tokens, pos, given) == (63 if token in seen else token)


@pytest.mark.slow
def test_a_token_just_as_likely_as_min_p_says_is_kept() -> None:
    """Two tokens of weight 1, and a third: with min_p of 1 the draw is between the two."""
    logits, tokens = np.array([1, 3, 3], np.float32), np.zeros(64, np.uint32)
    given = OFF | {"min_p": 1.0}
    assert {sampled(logits, tokens, pos, given) for pos in range(24)} == {1, 2}


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"top_p": 0.7}, {"min_p": 0.3}], ids=str)
def test_filters_come_before_the_temperature(options: dict) -> None:
    logits, tokens = np.array([2, 1, 0, -1], np.float32), np.zeros(64, np.uint32)
    for temperature in (0.7, 50.0):
        given = OFF | options | {"temperature": temperature}
        assert {sampled(logits, tokens, pos, given) for pos in range(20)} == {0, 1}


def test_both_words_of_a_seed_count() -> None:
    logits, tokens = np.zeros(1000, np.float32), np.zeros(8, np.uint32)
    seeds = [0, *(1 << bit for bit in (0, 31, 32, 63))]
    given = OFF | {"top_k": 0}
    drawn = [sampled(logits, tokens, 3, given | {"seed": seed}) for seed in seeds]
    wanted = [philox(seed, 4) >> 8 for seed in seeds]
    assert drawn == [point * 1000 >> 24 for point in wanted]
    assert len(set(drawn)) == len(seeds)
    assert control.sampling_words(**(OFF | {"seed": 5 << 64 | 7 << 32 | 3}))[6:].tolist() == [3, 7]


def test_the_words_of_sampling_are_where_the_kernel_reads_them() -> None:
    words = control.sampling_words(
        temperature=0.5, top_k=2, top_p=0.75, min_p=0.25, repeat_penalty=1.5, repeat_last=6,
        seed=(8 << 32) + 7,
    )  # fmt: skip
    assert words[[1, 5, 6, 7]].tolist() == [2, 6, 7, 8]
    assert words.view(np.float32)[[0, 2, 3, 4]].tolist() == [0.5, 0.75, 0.25, 1.5]


def test_philox_is_random123s() -> None:
    """kat_vectors of Random123: philox4x32, 10 rounds, counter and key zero."""
    assert philox(0, 0) == 0x6627E8D5
    launch = Launch(1, 32)
    draw = launch._module("fusec.codegen.cuda.lib.sampling").philox
    keys = RNG.integers(0, 2**32, (3, 32), dtype=np.uint64)
    got = draw(*(k.astype(np.uint32)[None] for k in keys))[0]
    assert got.tolist() == [philox(int(a | b << np.uint64(32)), int(c)) for a, b, c in keys.T]


INF, NAN = np.inf, np.nan


@pytest.mark.parametrize("logit", [0.0, -0.0, 3.5, -3e38, 1e-40, INF, -INF, NAN, -NAN])
def test_advance_hands_the_token_on(logit: float) -> None:
    logits = np.full(100, NAN, np.float32)
    logits[77] = logit
    token, pos, step = word(5), word(6), word(1030)
    tokens, ring = np.full(20, 9, np.uint32), np.zeros(control.RING, np.uint64)
    run_grid(control.advance(100), logits, word(77), token, pos, step, tokens, ring)
    good = np.isfinite(logit)
    kept, told = (77, 77) if good else (0, control.NO_TOKEN)
    assert (token[0], pos[0], step[0], tokens[7]) == (kept, 7, 1031, kept)
    assert ring[6] == 1031 << 32 | told
    assert np.count_nonzero(ring) == 1
    assert np.count_nonzero(tokens != 9) == 1


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
        kept, told = (best, best) if np.isfinite(values.max()) else (0, control.NO_TOKEN)
        chosen, token, pos, step = word(999), word(999), word(6), word(1030)
        tokens, ring = np.full(20, 99_999, np.uint32), np.zeros(control.RING, np.uint64)
        run_grid(kernel, tops, index, chosen, token, pos, step, tokens, ring)
        found = chosen[0], token[0], pos[0], step[0], tokens[7], ring[6]
        assert found == (best, kept, 7, 1031, kept, 1031 << 32 | int(told))
        assert np.count_nonzero(ring) == np.count_nonzero(tokens != 99_999) == 1


def test_parts_of_nan_hand_no_token_on() -> None:
    tops, places = np.full(40, NAN, np.float32), np.arange(40, dtype=np.uint32)
    ring, tokens = np.zeros(control.RING, np.uint64), np.zeros(2, np.uint32)
    words = (word(0) for _ in range(4))
    run_grid(control.advance_best(40), tops, places, *words, tokens, ring)
    assert ring[0] == 1 << 32 | control.NO_TOKEN


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize(
    "logits", [[NAN] * 5, [-INF] * 5, [1, INF, 2, 3, 4], [INF] * 5, [0, 1, NAN, 2, 3]]
)
def test_a_sampled_token_of_no_finite_logit_is_not_handed_on(
    logits: list[float], temperature: float
) -> None:
    """`sample` chooses one of those that are not finite, and `advance` looks at its logit."""
    single = np.abs(np.array(logits, np.float32)) * np.where(np.isneginf(logits), -1, 1)
    single = single.astype(np.float32)  # a GPU's NaN has no sign
    tokens = np.zeros(8, np.uint32)
    chosen = sampled(single, tokens, 3, OFF | {"temperature": temperature})
    assert not np.isfinite(single[chosen])


def test_feed_reads_the_prompt() -> None:
    token, pos = word(0), word(2)
    run_grid(control.feed(), np.arange(10, 20, dtype=np.uint32), token, pos)
    assert (token[0], pos[0]) == (13, 3)


ROUND = control.PREFETCH_BLOCKS * 32 * control.PREFETCH_BYTES  # of all threads together


@pytest.mark.parametrize("count", [16, 4096, 4112, 70_000 // 16 * 16, ROUND, 2 * ROUND + 48])
def test_prefetch_asks_for_every_byte_once(count: int) -> None:
    """In pieces of multiples of 16 bytes, and for none behind the end; also across 4 GiB."""
    kernel = control.prefetch()
    launch = Launch(kernel.grid, kernel.threads)
    device = launch.modules["fusec.codegen.cuda.device"]
    asked, first = np.zeros(count + control.PREFETCH_BYTES, np.uint8), 2**32 - 32

    def low_word(pointer: Pointer) -> np.ndarray:
        return np.asarray((first + (0 if pointer.memory.size > 1 else count)) % 2**32, np.uint32)

    def ask(pointer: Pointer, nbytes: np.ndarray) -> None:
        for start, size in zip(pointer.offset.ravel(), nbytes.ravel(), strict=True):
            if start < count:  # the others do not get here on a GPU
                assert size % 16 == 0 and 0 < size <= control.PREFETCH_BYTES
                asked[start : start + int(size)] += 1

    device.low_word, device.prefetch_l2_bulk = low_word, ask
    launch.run(kernel, np.zeros(count, np.uint8), np.zeros(1, np.uint8))
    assert (asked[:count] == 1).all() and not asked[count:].any()


def test_a_vocabulary_without_tokens_is_refused() -> None:
    with pytest.raises(FusecError, match="at least 1 token, found 0"):
        control.sample(0)
