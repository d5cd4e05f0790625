"""Kernels of a step that checks drafted tokens: guess, choose a token for each row, accept.

They stand around the plan of a step of several rows, in one captured graph, and read everything
they need from device memory: how many tokens to guess too. `weigh` is for a draft model's tokens.
"""

from __future__ import annotations

from fusec.codegen.cuda.control import MOST_CANDIDATES, kernel_of
from fusec.codegen.cuda.toolchain import CudaKernel

LONGEST = 31
"""Tokens that the match of a suffix is measured up to."""

SURE = 3
"""Tokens of a match that is worth more than an entry of the table of pairs."""

STATE_WORDS = 8
LIMIT, SUFFIXES, CHAINED, IDLE, GRAPHS = range(5)
"""Words of the state, as `lib/drafting.py` numbers them."""
PAIRS = 1 << 16
"""Entries of the table of pairs, two words each."""

MOST_DRAFTED = 15
MOST_CHAINED = 3
"""Guesses from the table of pairs: each waits for the one before."""


def kernels(vocabulary: int, overlaps: bool = False) -> list[CudaKernel]:
    """All of them for a vocabulary; see `control.kernels`."""
    checking = [draft(), sample_rows(vocabulary, overlaps), accept(vocabulary, overlaps)]
    return [*checking, weigh(vocabulary, overlaps)]


def draft() -> CudaKernel:
    """The kernel `draft(tokens, token, pos, rows, most, state, pairs)`: rows of a step.

    u32* but for pairs, u64[PAIRS]. The sequence is tokens[0 .. pos]. Its last tokens are looked for
    further in front, all places at once by one block; what followed the longest match (of equal
    ones the last) is guessed: state[1] tokens, at most `most` and no more than leave pos within
    state[0], the position of the last row that is wanted. Where the match is shorter than SURE, the
    table of pairs may know what was chosen behind the last two tokens: at most state[2] guesses.

    Row 0 of `token` and `pos` is the last token, the others are the guesses, which also become
    tokens[pos + 1 ...]; rows[0] is how many rows there are. A position past state[0] means that all
    is done: then the last row is computed once more, which changes nothing. The rest of `state` is
    for `accept`.
    """
    names = "tokens token pos rows most state pairs"
    lines = ["scratch = shared_bytes(128)", f"draft_tokens({', '.join(names.split())}, scratch)"]
    return kernel_of("draft", names, lines, (*("u32*",) * 6, "u64*"), 1024, overlaps=False)


def sample_rows(vocabulary: int, overlaps: bool = False) -> CudaKernel:
    """The kernel `sample_rows(logits, scores, next, pos, tokens, params, rows)`: `sample` by row.

    A layer of the grid is a row: of `logits` and `scores`, f32[rows, vocabulary], `next` and `pos`.
    """
    names = "logits scores next_token pos tokens params"
    shared = "keys, ids, scratch, lows, counter"
    lines = [
        "row = block_index_y()",
        "if row >= uniform(load_u32(rows)):",
        "    return",
        f"start = uint64(uint64(row) * uint64({vocabulary}))",
        "logits, scores = at(logits, start), at(scores, start)",
        "next_token, pos = at(next_token, row), at(pos, row)",
        "keys = shared_bytes(8192)",
        "ids = shared_bytes(8192)",
        "scratch = shared_bytes(128)",
        "lows = shared_bytes(128)",
        "counter = shared_bytes(4)",
        f"sample_token({', '.join(names.split())}, {vocabulary}, {shared})",
    ]
    kinds = ("f32*", "f32*", *("u32*",) * 5)
    return kernel_of(
        "sample_rows", f"{names} rows", lines, kinds, MOST_CANDIDATES, overlaps, rows=1
    )


def accept(vocabulary: int, overlaps: bool = False) -> CudaKernel:
    """The kernel `accept(logits, next, token, pos, rows, tokens, step, ring, state, log, clock,
    pairs)`: take over the tokens up to the first wrong guess.

    logits f32[rows, vocabulary]; ring, log, clock and pairs u64*, the rest u32*. next[r] was chosen
    behind row r. It counts if token[r + 1] was what was chosen behind row r, for all rows in front;
    nothing counts behind a logit that is not finite. What counts goes to ring and tokens as
    `control.advance` has it, and pos, token and step move on behind it.

    With g = state[4], the number of such steps: entry g % RING of `log` becomes (g + 1) << 32 |
    what `fusec.runtime.cuda.told.Told` reads, that of `clock` the time in nanoseconds; both are
    pinned host memory. What each row has chosen, those behind a wrong guess too, goes to `pairs`.
    """
    names = "logits next_token token pos rows tokens step ring state log clock pairs"
    given = names.split()
    call = f"accept_tokens({given[0]}, {vocabulary}, {', '.join(given[1:])})"
    kinds = ("f32*", *("u32*",) * 6, "u64*", "u32*", *("u64*",) * 3)
    return kernel_of("accept", names, [call], kinds, 32, overlaps)


def weigh(vocabulary: int, overlaps: bool = False) -> CudaKernel:
    """The kernel `weigh(logits, next, step, weights)`: how likely a model takes its token to be.

    logits f32[vocabulary], next and step u32*, weights u64[RING] in pinned host memory. Behind
    `control.advance`, which has made step s + 1: entry s % RING becomes (s + 1) << 32 | the bits of
    the f32 probability of the token `next`.
    """
    names = "logits next_token step weights"
    lines = [
        "scratch = shared_bytes(128)",
        f"weigh_token(logits, {vocabulary}, next_token, step, weights, scratch)",
    ]
    return kernel_of("weigh", names, lines, ("f32*", "u32*", "u32*", "u64*"), 1024, overlaps)
