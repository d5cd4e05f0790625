"""Kernels of the token loop that are no op of the graph: choose the next token, make it the input.

They run in one block, read everything they need from device memory, and so serve every prompt and
every setting from one captured graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fusec.codegen.cuda.imports import import_lines
from fusec.codegen.cuda.toolchain import CudaKernel
from fusec.errors import FusecError

RING = 1024
"""Entries of the ring that `advance` writes."""

NO_TOKEN = 0xFFFFFFFF
"""What the ring gets in place of a token whose logit is not finite; the device goes on with 0."""

HANDED_ON, HANDED_ON_KINDS = "next_token token pos step tokens ring", (*("u32*",) * 5, "u64*")
"""Parameters of the kernels that hand a token on."""

SAMPLING_WORDS = 8
MOST_CANDIDATES = 1024


def kernels(
    vocabulary: int, overlaps: bool = False, prefetches: bool = False, parts: int = 0
) -> list[CudaKernel]:
    """`advance`, `feed` and `sample` for a vocabulary, and the others that are wanted.

    `overlaps`: they may be launched before the launch in front of them has ended, and wait inside.
    `prefetches`: with `prefetch`. `parts`: how many `advance_best` chooses among; 0 without it.
    """
    found = [advance(vocabulary, overlaps), feed(overlaps), sample(vocabulary, overlaps)]
    found += [advance_best(parts, overlaps)] if parts else []
    return [*found, prefetch()] if prefetches else found


def advance(vocabulary: int, overlaps: bool = False) -> CudaKernel:
    """The kernel `advance(logits, next, token, pos, step, tokens, ring)`: `next` is read next.

    logits f32* of `vocabulary` floats; the rest u32*, but for ring, u64[RING] in pinned host
    memory. With s = step: entry s % RING of the ring becomes (s + 1) << 32 | next, in one store, so
    that the host sees the token with its number or not at all; token and tokens[pos + 1] become
    `next`; pos and step go up by one. Where the logit of `next` is not finite, the ring gets
    NO_TOKEN, and token and tokens[pos + 1] get 0, which every vocabulary has. Nothing stops here:
    the host bounds how many steps it lets run ahead.
    """
    call = f"advance_token(logits, {vocabulary}, {', '.join(HANDED_ON.split())})"
    kinds = ("f32*", *HANDED_ON_KINDS)
    return kernel_of("advance", f"logits {HANDED_ON}", [call], kinds, 32, overlaps)


def advance_best(parts: int, overlaps: bool = False) -> CudaKernel:
    """The kernel `advance_best(tops, places, next, ...)`: `argmax_combine` and `advance` at once.

    tops f32[parts] and places u32[parts]: of `argmax_parts`, which have the logits' largest; the
    rest is as `advance` has it. `next` is written. Position and step are what the token before
    left, so they are read in front of the wait.
    """
    threads = 32 * min(32, -(-parts // 128))  # a thread takes four at once
    lines = [
        f"top, best = best_of_parts(tops, places, {parts}, {threads}, keys, indices)",
        "store_u32_if(next_token, best, thread_index() == uint32(0))",
        "hand_on(best, is_finite(top), position, made, token, pos, step, tokens, ring)",
    ]
    before = [
        "keys = shared_bytes(128)",
        "indices = shared_bytes(128)",
        "position, made = load_u32(pos), load_u32(step)",
    ]
    kinds = ("f32*", "u32*", *HANDED_ON_KINDS)
    names = f"tops places {HANDED_ON}"
    return kernel_of("advance_best", names, lines, kinds, threads, overlaps, before)


def feed(overlaps: bool = False) -> CudaKernel:
    """The kernel `feed(tokens, token, pos)`, all u32*: the prompt's next token is read next.

    pos goes up by one, token becomes tokens[pos].
    """
    call = "feed_token(tokens, token, pos)"
    return kernel_of("feed", "tokens token pos", [call], ("u32*",) * 3, 32, overlaps)


PREFETCH_BYTES = 4096
"""What one thread of `prefetch` asks for."""

PREFETCH_BLOCKS = 32


def prefetch() -> CudaKernel:
    """The kernel `prefetch(start, end)`: bring the bytes between two u8* from memory into L2.

    Both are multiples of 16. Nothing waits for it, and no value depends on it.
    """
    call = f"prefetch_bytes(start, end, {PREFETCH_BYTES}, {PREFETCH_BLOCKS})"
    kernel = kernel_of("prefetch", "start end", [call], ("u8*", "u8*"), 32, overlaps=False)
    return replace(kernel, grid=PREFETCH_BLOCKS)


def sample(vocabulary: int, overlaps: bool = False) -> CudaKernel:
    """The kernel `sample(logits, scores, next, pos, tokens, params)`: choose `next`.

    logits f32* and scores f32* (scratch) of `vocabulary` floats, the rest u32*; `params` as
    `sampling_words` packs them. llama.cpp's steps in its order:

    1. The repetition penalty on the tokens in tokens[max(0, pos + 1 - repeat_last) .. pos].
    2. Sort by score, then by lower token number, and keep top_k. No more than 1024 candidates are
       ever kept, also where top_k is 0 (off) or larger.
    3. top_p: weights w = exp(score - best); keep the first, and every one whose predecessors'
       weights sum to less than top_p times the sum of all.
    4. min_p: keep w >= min_p.
    5. temperature: weights exp((score - best) / temperature) of those left. 0 takes the best.
    6. Draw u = (r >> 8) / 2**24, r the first word of Philox4x32-10 with the seed's two words as
       key and (pos + 1, 0, 0, 0) as counter; take the first whose running sum of weights exceeds u
       times their sum.

    Scores and weights are f32. Sums run over the lanes of a warp by distances 1, 2, 4, 8, 16, then
    over warps the same way, so a choice is the same in every run.
    """
    if vocabulary < 1:
        raise FusecError(f"vocabulary: expected at least 1 token, found {vocabulary}")
    names = "logits scores next_token pos tokens params"
    room = "keys ids scratch lows counter"
    lines = [
        "keys = shared_bytes(8192)",
        "ids = shared_bytes(8192)",
        "scratch = shared_bytes(128)",
        "lows = shared_bytes(128)",
        "counter = shared_bytes(4)",
        f"sample_token({', '.join([*names.split(), str(vocabulary), *room.split()])})",
    ]
    kinds = ("f32*", "f32*", "u32*", "u32*", "u32*", "u32*")
    return kernel_of("sample", names, lines, kinds, MOST_CANDIDATES, overlaps)


def sampling_words(
    *,
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    repeat_penalty: float,
    repeat_last: int,
    seed: int,
) -> NDArray[np.uint32]:
    """The `params` of `sample`; the seed's lower 64 bits count."""
    words = np.zeros(SAMPLING_WORDS, np.uint32)
    floats = words.view(np.float32)
    floats[[0, 2, 3, 4]] = temperature, top_p, min_p, repeat_penalty
    words[[1, 5]] = top_k, repeat_last
    words[[6, 7]] = seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF
    return words


def kernel_of(
    name: str,
    names: str,
    lines: list[str],
    signature: tuple[str, ...],
    threads: int,
    overlaps: bool,
    before: Sequence[str] = (),
    rows: int = 0,
) -> CudaKernel:
    """A kernel of one block, or of one for each of so many rows of a step.

    `lines` come behind the wait, if there is one, and `before` in front of it.
    """
    wait = ["griddep_wait()", "griddep_launch()"] if overlaps else []
    statements = (*before, *wait, *lines)
    body = f"def {name}({', '.join(names.split())}):\n" + "".join(f"    {x}\n" for x in statements)
    imports = "\n".join(import_lines(body))
    return CudaKernel(name, f"{imports}\n\n\n{body}", signature, threads, rows=rows)
