"""What a draft model costs: a guess, and a step that checks k of them. Weights may be random.

    python benchmarks/draft_costs.py MODEL.gguf DRAFT.gguf [--target native] [--guesses 1,3,7]
        [-n 64] [--context 512] [--on-host] [-o FILE.json]

Every round makes k guesses and checks all of them, whatever they are worth: few are right where
weights are random. Times are of whole generations, in microseconds: `guess`, one of the draft
model's tokens; `check`, the rest of a round; `pays from`, the tokens that a round has to make so
that it is no slower than plain decoding. `--on-host`: also with a step and its softmax on the host
for each guess, as on the CPU, where a GPU makes them by its own loop.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fusec import backends, load
from fusec.bench.drafts import generation
from fusec.bench.facts import machine
from fusec.runtime.drafting import Drafting, Guess, chain
from fusec.runtime.drafting.depth import Depth
from fusec.runtime.engine import Engine

PROMPT = 8  # tokens: rows of the same kernels that check guesses


class Always(Depth):
    """Every round has guesses, and all are checked."""

    def asks(self) -> bool:
        """See `Depth`."""
        return True

    def wanted(self, most: int) -> int:
        """See `Depth`."""
        return most

    def worth(self, guesses: Sequence[Guess], seconds: float) -> int:
        """See `Depth`."""
        return len(guesses)


def measured(engine: Engine, guesses: Sequence[int], n: int, repeats: int) -> dict[str, Any]:
    """Medians over generations of `n` tokens."""
    drafter, ids = engine.drafter, np.random.default_rng(0).integers(0, engine.vocabulary, PROMPT)
    found: dict[str, Any] = {"rounds": []}

    def times(prepare: Callable[[], None]) -> list[tuple[float, ...]]:
        every: list[tuple[float, ...]] = []
        for turn in range(repeats + 1):
            prepare()
            _, seconds = generation(engine, ids.tolist(), n)
            stats = engine.draft_statistics
            asked = max(1, stats.proposed)
            rounds = max(1, stats.steps - 1)  # the first made the token that the clock starts at
            each = seconds - stats.proposing_s
            if turn:
                every.append((stats.proposing_s / asked, each / rounds, seconds / (n - 1)))
        return every

    def plain() -> None:
        engine.drafter = None

    one = statistics.median(each for *_, each in times(plain))
    found["plain_us"] = 1e6 * one
    for k in guesses:

        def drafted(k: int = k) -> None:
            engine.drafter, engine.draft_max = drafter, k
            engine._drafting = Drafting(drafter, k, Always())

        guess, check, token = (
            statistics.median(part) for part in zip(*times(drafted), strict=True)
        )
        stats = engine.draft_statistics
        found["rounds"].append({
            "k": k, "guess_us": 1e6 * guess, "check_us": 1e6 * check, "token_us": 1e6 * token,
            "check_of_plain": check / one, "pays_from": (k * guess + check) / one,
            "tokens_a_round": stats.tokens_a_step,
        })  # fmt: skip
    engine.drafter = drafter
    return found


def shown(found: dict[str, Any]) -> str:
    """A line for each number of guesses."""
    lines = [f"plain: {found['plain_us']:,.1f} us a token"]
    for row in found["rounds"]:
        lines.append(
            f"k = {row['k']}: guess {row['guess_us']:,.1f} us, check {row['check_us']:,.1f} us "
            f"({row['check_of_plain']:.2f} of a plain token); pays from {row['pays_from']:.2f} "
            f"tokens a round"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure, print, and write JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("draft", type=Path)
    parser.add_argument("--target", default="native")
    parser.add_argument("--guesses", default="1,3,7")
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("-n", type=int, default=64)
    parser.add_argument("--on-host", action="store_true")
    parser.add_argument("-o", type=Path)
    given = parser.parse_args()
    chain.LEAST = 0.0  # of random weights no guess is likely
    how: dict[str, Any] = {"target": given.target, "context": given.context}
    with load(given.model, draft=given.draft, **how) as engine:
        engine.stop = frozenset()
        counts = [int(k) for k in given.guesses.split(",")]
        found = measured(engine, counts, given.n, given.repeats)
        print(shown(found))
        if given.on_host:
            engine.drafter._engine.__dict__["chain"] = None  # type: ignore[union-attr]
            found["on_host"] = measured(engine, counts, given.n, given.repeats)
            print("guesses on the host", shown(found["on_host"]), sep="\n")
    if given.o:
        facts = machine(backends.get(given.target))
        names = {"model": given.model.stem, "draft": given.draft.stem}
        given.o.write_text(json.dumps({**facts, **names, **found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
