"""What drafters would gain, played against recorded texts: no GPU, and no step is computed.

    python benchmarks/play_drafts.py MODEL.gguf [-n 500] [--texts FILE.json] [--temperature T]
        [--costs 1,1.39,2.08,4.10,4.91]

Texts are what the model makes of fusec's six prompts on the CPU; they are recorded once, in
FILE.json. What rows behind a wrong guess would choose is not known, so they teach nobody anything.
`--costs`: of steps of 1, 2, 4, 8 and 16 rows on a GPU, in steps with guesses of one row.

The GPU's line of time has the graphs; `GUESSING` is what guessing and accepting add to each. The
host's has what it does between a result and the next graph. How many rows a graph has is decided by
`Pace`, and what is guessed by the same tables as on the device. Prints how many times plain
decoding that is, and the graphs by their rows. The CPU's steps follow one another, at `CPU`.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections import Counter, deque
from pathlib import Path

from fusec import Sampling, load
from fusec.bench.drafts import encode, prompts
from fusec.models.model import Model
from fusec.runtime.cuda.drafted import AHEAD, AHEAD_DRAFTED
from fusec.runtime.cuda.pace import GraphCost, Pace, width_of
from fusec.runtime.drafting import MOST_DRAFTED, Auto, Drafting, Suffix
from fusec.runtime.drafting.depth import Cost, Depth

GUESSING = 0.1  # of a plain step
REACTS, STARTS = 0.08, 0.04  # the host behind a result, and the GPU behind the host
CPU = (1, 1.35, 1.55, 2.0, 2.6, 3.1, 3.6, 4.2, 4.8, 5.3, 5.9, 6.4, 7.0, 7.5, 8.1, 8.6)


class Text:
    """`tokens[first]` is the last one of the prompt."""

    def __init__(self, prompt: list[int], made: list[int]) -> None:
        self.tokens, self.first = prompt + made, len(prompt) - 1

    @property
    def count(self) -> int:
        """Tokens whose time counts: all behind the first new one."""
        return len(self.tokens) - self.first - 2

    def right(self, at: int, guesses: list[int]) -> int:
        """How many of the guesses behind a place are right."""
        real = self.tokens[at + 1 : at + 1 + len(guesses)]
        pairs = zip(guesses, real, strict=False)
        return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(guesses), len(real)))


def record(path: Path, n: int, temperature: float) -> dict[str, dict[str, list[int]]]:
    """Name -> the prompt's tokens, and `n` new ones."""
    model = Model.open(path)
    ids = {name: encode(model, text) for name, text in prompts().items()}
    sampling = Sampling(temperature, seed=1) if temperature else Sampling()
    with load(model, context=max(map(len, ids.values())) + n) as engine:
        engine.stop = frozenset()
        return {
            name: {"prompt": given, "made": list(engine.tokens(given, n, sampling))}
            for name, given in ids.items()
        }


def play(text: Text, pace: Pace, costs: dict[int, float]) -> tuple[float, Counter[int]]:
    """Times plain decoding, and the graphs by their rows."""
    tokens, end = text.tokens, len(text.tokens) - 1
    there = seen = text.first + 1  # what the device and the host know
    device, host = Suffix(), 0.0
    device.begin(tokens[: there + 1])
    pace.begin(tokens[:there])
    pace.seen(tokens[there : there + 1])
    pace.learn(plain=True)
    done, graphs = 0.0, Counter[int]()
    ahead: deque[tuple[int, float, int]] = deque()  # rows, when it is done, what is made then
    while seen < end:
        while len(ahead) < (AHEAD_DRAFTED if any(w > 1 for w, *_ in ahead) else AHEAD):
            if seen + sum(max(1, w) for w, *_ in ahead) > end and ahead:
                break
            if (width := pace.width([w for w, *_ in ahead])) is None:
                break
            guesses = [guess.token for guess in device.propose(width - 1)] if width > 1 else []
            made = min(end - there, 1 + text.right(there, guesses))
            device.seen(tokens[there + 1 : there + 1 + made], ())
            there += made
            cost = 1.0 if not width else costs[width] * (1 + GUESSING)
            done = max(done, host + STARTS) + cost
            ahead.append((width, done, made))
            graphs[width] += 1
        width, ended, made = ahead.popleft()
        host = max(host, ended) + REACTS
        if width:
            pace.ended(width, int(1e9 * ended))
        if made:
            pace.seen(tokens[seen + 1 : seen + 1 + made])
            pace.learn(plain=not width)
        seen += made
    return text.count / done, graphs


def play_cpu(text: Text, costs: tuple[float, ...] = CPU) -> tuple[float, Counter[int]]:
    """The same where one step follows the other, at costs that are known."""
    drafting = Drafting(Auto(), MOST_DRAFTED, Depth(Cost(costs)))
    tokens, at, end = text.tokens, text.first + 1, len(text.tokens) - 1
    drafting.begin(tokens[: at + 1])
    took, steps = 0.0, Counter[int]()
    while at < end:
        guesses = drafting.guesses(min(MOST_DRAFTED, end - at - 1))
        took += costs[len(guesses)]
        steps[len(guesses) + 1] += 1
        made = tokens[at + 1 : at + 2 + text.right(at, guesses)]
        drafting.stepped(tokens[at : at + len(made)], made, 0.0)
        at += len(made)
        for token in made:
            drafting.takes(token)
    return text.count / took, steps


def show(title: str, found: dict[str, tuple[float, Counter[int]]]) -> None:
    """The mean, and each text."""
    ratios = {name: ratio for name, (ratio, _) in found.items()}
    each = ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items())
    print(f"{title}: {statistics.mean(ratios.values()):.3f} of plain decoding on average; {each}")
    for name, (_, rows) in found.items():
        print(f"  {name}: {', '.join(f'{count} of {w}' for w, count in sorted(rows.items()))}")


def main() -> None:
    """Record, unless that was done, and play."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("-n", type=int, default=500)
    parser.add_argument("--texts", type=Path, default=Path("out/texts.json"))
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--costs", default="1,1.39,2.08,4.10,4.91")
    given = parser.parse_args()
    if not given.texts.exists():
        given.texts.parent.mkdir(parents=True, exist_ok=True)
        given.texts.write_text(json.dumps(record(given.model, given.n, given.temperature)))
    recorded = json.loads(given.texts.read_text())
    texts = {name: Text(x["prompt"], x["made"][: given.n]) for name, x in recorded.items()}
    costs = {1 << n: float(cost) for n, cost in enumerate(given.costs.split(","))}
    in_plain = [costs[width_of(rows)] * (1 + GUESSING) for rows in range(1, 17)]
    show("GPU, costs not known at first", {n: play(t, Pace(15), costs) for n, t in texts.items()})
    known = {n: play(t, Pace(15, cost=GraphCost(in_plain)), costs) for n, t in texts.items()}
    show("GPU, costs known", known)
    show("CPU", {name: play_cpu(text) for name, text in texts.items()})


if __name__ == "__main__":
    main()
