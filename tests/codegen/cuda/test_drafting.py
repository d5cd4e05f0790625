"""draft, sample_rows and accept, run by the NumPy twins, against the same written out in Python."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from fusec.codegen.cuda import control, drafting
from fusec.codegen.cuda.build import compile_many
from fusec.codegen.cuda.twins_grid import run_grid
from fusec.runtime.cuda.told import Told
from fusec.runtime.drafting.recycle import PAIR
from fusec.runtime.drafting.suffix import confidence_of
from tests.codegen.cuda.test_control import OFF, sampled, word
from tests.random_numbers import random_numbers

RNG = random_numbers(9)
CONTEXT, VOCABULARY, ROWS = 200, 50, 16
NONE = control.NO_TOKEN


@dataclass
class Device:
    """The memory that the kernels share."""

    tokens: np.ndarray
    position: int
    limit: int = CONTEXT
    suffixes: int = 15
    chained: int = drafting.MOST_CHAINED

    def __post_init__(self) -> None:
        padded = np.full(CONTEXT + 20, 7, np.uint32)
        padded[: len(self.tokens)] = self.tokens
        self.tokens = padded
        self.token, self.pos = np.full(ROWS, 99, np.uint32), np.full(ROWS, 99, np.uint32)
        self.token[0], self.pos[0] = padded[self.position], self.position
        self.rows, self.step = word(1), word(1030)
        self.state = np.zeros(drafting.STATE_WORDS, np.uint32)
        self.guess_from(self.suffixes, self.chained)
        self.pairs = np.zeros(drafting.PAIRS, np.uint64)
        self.ring, self.log, self.clock = (np.zeros(control.RING, np.uint64) for _ in range(3))
        self.next = np.zeros(ROWS, np.uint32)
        self.logits = np.zeros((ROWS, VOCABULARY), np.float32)

    def guess_from(self, suffixes: int, chained: int) -> None:
        self.state[: drafting.IDLE] = self.limit, suffixes, chained

    def draft(self, most: int = 15) -> list[int]:
        run_grid(drafting.draft(), self.tokens, self.token, self.pos, self.rows, word(most),
                 self.state, self.pairs)  # fmt: skip
        count = int(self.rows[0]) - 1
        start = int(self.pos[0])
        assert self.pos[: count + 1].tolist() == list(range(start, start + count + 1))
        assert (
            self.tokens[start + 1 : start + count + 1].tolist()
            == self.token[1 : count + 1].tolist()
        )
        return self.token[1 : count + 1].tolist()

    def accept(self, chosen: list[int]) -> Told:
        self.next[: len(chosen)] = chosen
        run_grid(drafting.accept(VOCABULARY), self.logits, self.next, self.token, self.pos,
                 self.rows, self.tokens, self.step, self.ring, self.state, self.log, self.clock,
                 self.pairs)  # fmt: skip
        graphs = int(self.state[drafting.GRAPHS])
        entry = int(self.log[(graphs - 1) % control.RING])
        assert entry >> 32 == graphs
        assert self.clock[(graphs - 1) % control.RING] > 0
        return Told.read(entry)


def guessed(tokens: list[int], most: int) -> list[int]:
    """What followed the longest match, as `draft` is documented."""
    end, best = len(tokens) - 1, (0, 0)
    for place in range(1, end + 1):
        length = 0
        while length < min(place, drafting.LONGEST) and (
            tokens[place - 1 - length] == tokens[end - length]
        ):
            length += 1
        best = max(best, (length, place)) if length else best
    length, place = best
    if not length:
        return []
    period = end + 1 - place
    return [tokens[place + n % period] for n in range(most)]


@pytest.mark.parametrize("kinds", [1, 2, 3, 30])
def test_draft_guesses_what_followed_the_longest_match(kinds: int) -> None:
    for size in (1, 2, 3, 40, 150):
        tokens = RNG.integers(0, kinds, size)
        device = Device(tokens.astype(np.uint32), size - 1)
        assert device.draft() == guessed(tokens.tolist(), 15)


def test_long_matches_and_texts_of_several_rounds_of_the_block() -> None:
    """The match crosses what a thread looks at, and is longer than is measured."""
    first = RNG.integers(0, 9, 60)
    tokens = np.concatenate([first, RNG.integers(10, 50, 3000), first[:45]]).astype(np.uint32)
    state = np.zeros(8, np.uint32)
    state[drafting.LIMIT], state[drafting.SUFFIXES] = 5000, 9
    token, pos, rows = np.zeros(16, np.uint32), np.zeros(16, np.uint32), word(0)
    pos[0] = len(tokens) - 1
    padded = np.concatenate([tokens, np.zeros(20, np.uint32)])
    pairs = np.zeros(drafting.PAIRS, np.uint64)
    run_grid(drafting.draft(), padded, token, pos, rows, word(15), state, pairs)
    assert token[1:10].tolist() == first[45:54].tolist()
    assert rows[0] == 10


def test_as_many_guesses_as_there_is_room_for() -> None:
    tokens = np.array([1, 2, 3, 4, 5] * 4, np.uint32)
    for most, limit, suffixes, wanted in (
        (3, 100, 15, 3), (15, 21, 15, 2), (15, 19, 15, 0), (15, 100, 1, 1), (0, 100, 15, 0)
    ):  # fmt: skip
        device = Device(tokens, 19, limit, suffixes)
        assert len(device.draft(most)) == wanted


def test_tokens_up_to_the_first_wrong_guess_are_taken_over() -> None:
    text = [1, 2, 3, 4, 5, 6, 7, 8] * 2
    for right in range(6):
        device = Device(np.array(text, np.uint32), 15)
        guesses = device.draft(5)
        assert guesses == [1, 2, 3, 4, 5]
        chosen = [*guesses[:right], 40, 41, 42, 43, 44, 45][:6]
        told = device.accept(chosen)
        count = right + 1
        assert (told.made, told.drafted) == (count, 5)
        wanted = chosen[:count]
        assert (device.token[0], device.pos[0], device.step[0]) == (
            wanted[-1],
            15 + count,
            1030 + count,
        )
        assert device.tokens[16 : 16 + count].tolist() == wanted
        found = [int(device.ring[n % control.RING]) for n in range(1030, 1030 + count)]
        assert found == [(1031 + n) << 32 | token for n, token in enumerate(wanted)]
        assert np.count_nonzero(device.ring) == count


def test_nothing_counts_behind_a_logit_that_is_not_finite() -> None:
    for bad in range(4):
        device = Device(np.array([1, 2, 3, 4] * 3, np.uint32), 11)
        guesses = device.draft(3)
        device.logits[bad:] = (np.nan, np.inf, -np.inf, np.nan)[bad]
        told = device.accept([*guesses, 4])
        assert told.made == bad + 1
        assert device.token[0] == device.tokens[12 + bad] == 0
        entries = [int(device.ring[n % control.RING]) & 0xFFFFFFFF for n in range(1030, 1031 + bad)]
        assert entries == [*guesses[:bad], NONE]


def test_behind_the_last_row_a_step_changes_nothing() -> None:
    device = Device(np.array([1, 2, 3] * 4, np.uint32), 11, limit=12)
    assert device.draft() == [1]
    assert device.accept([1, 2]).made == 2
    before = {name: value.copy() for name, value in vars(device).items() if hasattr(value, "copy")}
    assert device.pos[0] == 13
    for _ in range(3):
        assert device.draft() == []
        assert (device.token[0], device.pos[0]) == (1, 12)  # the last row once more
        assert device.accept([2]).made == 0
        for name in ("tokens", "ring", "step", "pairs"):
            assert getattr(device, name).tobytes() == before[name].tobytes()
        assert (device.token[0], device.pos[0]) == (2, 13)


def test_what_rows_have_chosen_is_a_guess_later_on() -> None:
    device = Device(np.array([5, 6, 5, 6], np.uint32), 3)
    assert device.draft(3) == [5, 6, 5]
    device.accept([20, 21, 22, 23])  # behind (5, 6): 20; (6, 5): 21, then 23; (5, 6): 22, the last
    other = Device(np.array([9, 8, 6, 5], np.uint32), 3)
    other.pairs = device.pairs
    assert other.draft() == [23]
    assert other.accept([23, 24]).made == 2
    third = Device(np.array([7, 7, 6, 5], np.uint32), 3, chained=0)
    third.pairs = device.pairs
    assert third.draft() == []
    chain = Device(np.array([1, 2], np.uint32), 1)
    for a, b, c in ((1, 2, 3), (2, 3, 4), (3, 4, 5), (4, 5, 6)):
        slot, tag = _slot(a, b)
        chain.pairs[slot] = c << 32 | tag
    assert chain.draft() == [3, 4, 5]
    assert chain.draft(2) == [3, 4]


def test_a_short_match_is_worth_less_than_a_pair_and_a_long_one_more() -> None:
    assert confidence_of(drafting.SURE) >= PAIR > confidence_of(drafting.SURE - 1)
    for length in (1, 2, 3, 4):
        text = [1, 2, 3, 4]
        device = Device(np.array([*text, 9, *text[-length:]], np.uint32), 4 + length)
        before, last = device.tokens[3 + length : 5 + length]
        slot, tag = _slot(int(before), int(last))
        device.pairs[slot] = 30 << 32 | tag
        assert device.draft(1) == [30 if length < drafting.SURE else 9]
        device.guess_from(0, 3)
        assert device.draft(1) == [30]
        device.guess_from(15, 0)
        assert device.draft(1) == [9]


def _slot(before: int, last: int) -> tuple[int, int]:
    mask = 0xFFFFFFFF
    mixed = (before * 0x9E3779B1 & mask) ^ (last * 0x85EBCA6B & mask)
    return mixed >> 16, ((before * 0xC2B2AE35 + last * 0x27D4EB2F) & mask) | 1


def test_a_drafted_text_is_the_text() -> None:
    """Whatever a made-up model says, steps with guesses give what single steps give."""

    def model(tokens: np.ndarray) -> int:
        return int(tokens[-1] * 3 + tokens[-2] + len(tokens) % 2) % 5

    text = [1, 2]
    while len(text) < 150:
        text.append(model(np.array(text)))
    device, steps = Device(np.array([1, 2], np.uint32), 1, limit=148), 0
    while device.pos[0] < 149:
        device.draft()
        start, rows = int(device.pos[0]), int(device.rows[0])
        device.accept([model(device.tokens[: start + 1 + n]) for n in range(rows)])
        steps += 1
    assert device.tokens[:150].tolist() == text
    assert steps < 60


@pytest.mark.slow
def test_rows_are_sampled_as_single_tokens_are() -> None:
    kernel, rows, count = drafting.sample_rows(3000), 5, 3
    logits = (RNG.normal(size=(rows, 3000)) * 4).astype(np.float32)
    tokens = RNG.integers(0, 3000, 64).astype(np.uint32)
    given = OFF | {"temperature": 0.8, "repeat_penalty": 1.3, "seed": 77, "repeat_last": 9}
    found, scores = np.full(rows, 12345, np.uint32), np.zeros_like(logits)
    places = np.arange(20, 20 + rows, dtype=np.uint32)
    run_grid(kernel, logits, scores, found, places, tokens, control.sampling_words(**given),
             word(count), layers=rows)  # fmt: skip
    wanted = [sampled(logits[n], tokens, 20 + n, given) for n in range(count)]
    assert found.tolist() == [*wanted, *[12345] * (rows - count)]


@pytest.mark.cuda
@pytest.mark.slow
@pytest.mark.parametrize("overlaps", [False, True])
def test_they_assemble_without_spills(overlaps: bool) -> None:
    for cubin in compile_many(drafting.kernels(49152, overlaps), "sm_90a"):
        assert cubin.spill_stores == cubin.spill_loads == 0


@pytest.mark.parametrize("vocabulary", [1, 50, 9000])
def test_how_likely_a_model_takes_its_token_to_be(vocabulary: int) -> None:
    logits = RNG.normal(size=vocabulary).astype(np.float32) * 4
    chosen, weights = int(logits.argmax()), np.zeros(control.RING, np.uint64)
    run_grid(drafting.weigh(vocabulary), logits, word(chosen), word(1030), weights)
    entry = int(weights[1029 % control.RING])
    assert entry >> 32 == 1030 and np.count_nonzero(weights) == 1
    share = np.uint32(entry & 0xFFFFFFFF).view(np.float32)
    assert share == pytest.approx(1 / np.exp(logits - logits[chosen]).sum(), rel=1e-5)


def test_a_token_of_logits_that_are_no_numbers_has_no_probability() -> None:
    logits, weights = np.full(50, np.nan, np.float32), np.zeros(control.RING, np.uint64)
    run_grid(drafting.weigh(50), logits, word(0), word(1), weights)
    assert np.isnan(np.uint32(int(weights[0]) & 0xFFFFFFFF).view(np.float32))
