"""`fusec bench --draft`: real prompts with drafted tokens, beside plain decoding in the same run.

The prompts are in `prompts/`: chat, code edit, JSON, story, summary and translation.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from rich.table import Table

from fusec import backends, driver
from fusec.bench.facts import machine
from fusec.drafters import check_draft_max, draft_outputs
from fusec.errors import FusecError
from fusec.models.model import Model
from fusec.report import make_table
from fusec.runtime.drafting import Drafter, renewed
from fusec.runtime.engine import Engine

Note = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """What to measure: each drafter behind each prompt, `n` greedy tokens, `repeats` times.

    Plain decoding and the drafters take turns, so that whatever else the machine does meets both.
    """

    drafters: tuple[str, ...] = ("auto",)
    n: int = 256
    most: int = 15
    target: str = "cpu"
    level: int | None = None
    repeats: int = 5
    threads: int = 0

    def __post_init__(self) -> None:
        if self.n < 2:
            raise FusecError(f"bench: expected -n from 2, found {self.n}")
        if self.repeats < 1:
            raise FusecError(f"bench: expected --repeats from 1, found {self.repeats}")
        check_draft_max(self.most)


@dataclass(frozen=True)
class Result:
    """One drafter behind one prompt. `ratio`: of the times of plain decoding and of this.

    It is the median over pairs of runs that followed one another; `low` and `high` are the least
    and the largest. The rest is of the last run: what the draft statistics of an engine say.
    `proposal_us`: what a guess of a drafter on the host takes; None where it made none.
    """

    model: str
    draft: str
    name: str
    prompt: int
    n: int
    plain_tok_s: float
    tok_s: float
    ratio: float
    low: float
    high: float
    steps: int
    drafted: int
    accepted: int
    tokens_a_step: float
    proposal_us: float | None


def prompts() -> dict[str, str]:
    """Name -> text of the prompts that come with fusec."""
    folder = resources.files("fusec.bench") / "prompts"
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".txt")), key=lambda f: f.name)
    return {file.name.removesuffix(".txt"): file.read_text(encoding="utf-8") for file in files}


def run(path: Path, plan: Plan, note: Note = lambda _: None) -> dict[str, Any]:
    """Measure a model file. Returns what `--json` writes.

    Prompts that the model's context has no room for are left out. Raises FusecError where that is
    all of them, and where a drafter changes a token, which none may.
    """
    model = Model.open(path)
    texts, left_out = texts_of(model, model.config.context, plan.n)
    context = max(len(ids) for ids in texts.values()) + plan.n
    how: dict[str, Any] = {"target": plan.target, "threads": plan.threads}
    results: list[Result] = []
    drafters = {
        name: driver.drafter_of(name, model, context, **how)
        for name in dict.fromkeys(plan.drafters)
    }
    try:
        outputs = {name for each in drafters for name in draft_outputs(each, model)}
        with driver.load(
            model, level=plan.level, context=context, outputs=outputs, **how
        ) as engine:
            engine.stop, engine.draft_max = frozenset(), plan.most
            for name, ids in texts.items():
                note(name)
                results += measure(engine, drafters, Path(path).stem, name, ids, plan)
            costs = engine.draft_costs
    finally:
        for drafter in drafters.values():
            if drafter is not None:
                drafter.close()
    return {
        **machine(backends.get(plan.target)),
        "costs": costs,
        "left_out": left_out,
        "results": [asdict(row) for row in results],
    }


def texts_of(model: Model, context: int, n: int) -> tuple[dict[str, list[int]], list[str]]:
    """Name -> tokens of the prompts with room for `n` more, and the names of the others.

    Raises FusecError where there is no room behind any.
    """
    every = {name: encode(model, text) for name, text in prompts().items()}
    texts = {name: ids for name, ids in every.items() if len(ids) + n <= context}
    if not texts:
        raise FusecError(
            f"-n {n}: expected a context of {min(map(len, every.values())) + n} tokens or more "
            f"for the shortest prompt, found {context}"
        )
    return texts, [name for name in every if name not in texts]


def encode(model: Model, text: str) -> list[int]:
    """A prompt as tokens: by the model's chat template where it has one."""
    from fusec.models.chat import ChatTemplate

    try:
        template = ChatTemplate.from_gguf(model.file)
    except FusecError:
        return model.tokenizer.encode(text)
    shown = template.render([{"role": "user", "content": text}])
    return model.tokenizer.encode(shown, eos=False)


def measure(
    engine: Engine,
    drafters: dict[str, Drafter | None],
    model: str,
    name: str,
    ids: list[int],
    plan: Plan,
) -> list[Result]:
    """A row for each drafter behind one prompt. A round before the first is not counted."""
    times: dict[str, list[float]] = {draft: [] for draft in ("", *drafters)}
    found: dict[str, Any] = {}
    wanted: list[int] = []
    for turn in range(plan.repeats + 1):
        for draft, measured in times.items():
            # a new one: it should not know the text from the turn before
            engine.drafter = renewed(drafters.get(draft))
            made, seconds = generation(engine, ids, plan.n)
            wanted = wanted or made
            if made != wanted:
                raise FusecError(f"bench: {name}: draft {draft} has changed the text")
            found[draft] = engine.draft_statistics
            if turn:
                measured.append(seconds)
    engine.drafter = None
    plain = times.pop("")
    return [
        _result(model, draft, name, len(ids), plan.n, plain, drafted, found[draft])
        for draft, drafted in times.items()
    ]


def generation(engine: Engine, ids: list[int], n: int) -> tuple[list[int], float]:
    """The tokens, and seconds from the first new one to the last."""
    tokens = engine.tokens(ids, n)
    made = [next(tokens)]
    start = time.perf_counter()
    made += tokens
    return made, time.perf_counter() - start


def _result(
    model: str, draft: str, name: str, prompt: int, n: int, plain: list[float],
    drafted: list[float], found: Any,
) -> Result:  # fmt: skip
    ratios = sorted(a / b for a, b in zip(plain, drafted, strict=True))
    return Result(
        model, draft, name, prompt, n,
        plain_tok_s=(n - 1) / statistics.median(plain),
        tok_s=(n - 1) / statistics.median(drafted),
        ratio=statistics.median(ratios), low=ratios[0], high=ratios[-1],
        steps=found.steps, drafted=found.drafted, accepted=found.accepted,
        tokens_a_step=found.tokens_a_step,
        proposal_us=1e6 * found.proposing_s / found.proposed if found.proposed else None,
    )  # fmt: skip


COLUMNS: dict[str, Callable[[dict[str, Any]], str]] = {
    "draft": lambda row: row["draft"],
    "prompt": lambda row: row["name"],
    "test": lambda row: f"tg{row['n']} @ d{row['prompt']}",
    "plain t/s": lambda row: f"{row['plain_tok_s']:,.1f}",
    "t/s": lambda row: f"{row['tok_s']:,.1f}",
    "of plain": lambda row: f"{row['ratio']:.2f} ({row['low']:.2f} to {row['high']:.2f})",
    "tokens a step": lambda row: f"{row['tokens_a_step']:.2f}",
    "drafted": lambda row: f"{row['drafted']:,}",
    "us a guess": lambda row: "" if row["proposal_us"] is None else f"{row['proposal_us']:,.1f}",
    "accepted": lambda row: f"{row['accepted'] / max(1, row['drafted']):.0%}",
}
"""Title -> what a row shows there."""


def table(data: dict[str, Any]) -> Table:
    """One row a drafter and prompt."""
    found = make_table("drafted tokens, greedy, beside plain decoding: the same text")
    for title in COLUMNS:
        words = title in ("draft", "prompt", "test")
        found.add_column(title, justify="left" if words else "right", no_wrap=True)
    for row in data["results"]:
        found.add_row(*(show(row) for show in COLUMNS.values()))
    return found


def lines(data: dict[str, Any]) -> list[str]:
    """The mean of each drafter over the prompts, and the machine."""
    rows: dict[str, list[float]] = {}
    for row in data["results"]:
        rows.setdefault(row["draft"], []).append(row["ratio"])
    left_out = data["left_out"]
    where = f"{data['gpu']}, driver {data['driver']}" if data["gpu"] else f"{data['cores']} cores"
    return [
        *(
            f"{draft}: {statistics.mean(ratios):.2f} of plain decoding on average, "
            f"{min(ratios):.2f} at the least"
            for draft, ratios in rows.items()
        ),
        *([f"a step of {shown(data['costs'])} of one"] if len(data["costs"]) > 1 else []),
        *([f"longer than the context, and left out: {', '.join(left_out)}"] if left_out else []),
        f"{where}; fusec {data['versions'].get('fusec', '')} at {data['commit']}",
    ]


def shown(costs: dict[int, float]) -> str:
    """Costs of steps by their rows, in words."""
    found = [f"{rows} rows {cost:.2f}" for rows, cost in costs.items() if rows > 1]
    return ", ".join(found)
