"""`fusec bench`: tokens a second at every level, beside what the machine's memory could give.

New tokens behind a prompt, and tokens of prompts, in tests named as llama-bench does: `pp512`, a
prompt of 512 tokens; `tg128 @ d16`, 128 new ones behind 16.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from fusec import backends, driver
from fusec.bench.facts import machine
from fusec.bench.instruments import instruments_of
from fusec.bench.table import test_name
from fusec.bench.tokens import prompt_ids, seconds_of_prompt, seconds_per_token
from fusec.driver import Compiled
from fusec.errors import FusecError
from fusec.ir.ops import weight_bytes_read
from fusec.models.model import Model
from fusec.passes.pipeline import OVERLAPPED, check_levels, passes_of
from fusec.runtime.cuda.window import check_mode
from fusec.runtime.engine import Engine

Note = Callable[[str, int, int], None]
"""`note(what, done, total)`: what is measured next, and how many of the rows are done."""
Say = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """What to measure: every level with every L2 mode and every length, `repeats` times each.

    `lengths`: numbers of new tokens, behind a prompt of `prompt` tokens. `pp`: lengths of prompts
    whose own time is measured. `disable`: rules and passes left out at every level. `eager` adds
    the lowest level launched kernel by kernel, without a captured graph, `resident` those that may
    have a resident kernel, with one.
    """

    lengths: tuple[int, ...] = (128, 256)
    levels: tuple[int, ...] = (0, 1, 2, 3)
    l2: tuple[str, ...] = ("auto",)
    target: str = "cpu"
    prompt: int = 16
    repeats: int = 5
    eager: bool = False
    resident: bool = False
    threads: int = 0
    pp: tuple[int, ...] = ()
    disable: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, values, least in (
            ("-n", self.lengths, 2),
            ("--prompt", (self.prompt,), 1),
            ("--repeats", (self.repeats,), 1),
            ("--pp", self.pp or (1,), 1),
        ):
            if not values or min(values) < least:
                found = ",".join(map(str, values)) or "none"
                raise FusecError(f"bench: expected {name} from {least}, found {found}")
        for mode in self.l2:
            check_mode(mode)
        check_levels(self.levels)
        passes_of(min(self.levels), disable=self.disable)  # raises for a name that is not known


@dataclass(frozen=True)
class Result:
    """One row: `n` new tokens behind a prompt, or (n = 0) the tokens of the prompt itself.

    `spread`: (fastest - slowest) / median; `gb_s`: weights read a token, over time. `us_device` and
    `us_gap`: a token from its first kernel to its last, and from there to the next token's first,
    by the GPU's clock; None where nobody measured them.
    """

    model: str
    level: int | None
    launch: str  # graph | eager | resident | cpu, or a peer's name
    l2: str
    prompt: int
    n: int
    tok_s: float
    us_per_token: float
    spread: float
    dispatches: int | None = None
    gb_s: float | None = None
    share: float | None = None
    us_device: float | None = None
    us_gap: float | None = None


def run(path: Path, plan: Plan, note: Note = lambda *_: None) -> dict[str, Any]:
    """Measure a model file as `plan` says. Returns what `--json` writes."""
    backend = backends.get(plan.target)
    check_room(path, plan)
    modes = plan.l2 if backend.l2_modes else ("off",)
    cases = list(cases_of(plan, backend.launches, modes))
    rows = len(cases) * (len(plan.pp) + len(plan.lengths))
    bandwidth = read_bandwidth(plan, lambda what: note(what, 0, rows))
    results: list[Result] = []
    prompts: list[Result] = []
    residency: dict[str, Any] = {}
    for_results, for_prompts = contexts(plan)
    for level, mode, way in cases:
        case = f"-O{level} {way}"
        for context in dict.fromkeys((for_results, for_prompts)):
            compiled = driver.compile(
                path, target=plan.target, level=level, context=context, disable=plan.disable
            )

            def say(what: str, case: str = case) -> None:
                note(f"{case} {what}", len(prompts) + len(results), rows)

            say("compiling")
            launch = {"eager": way == "eager", "resident": way == "resident"}
            engine = compiled.engine(say, threads=plan.threads, l2=mode, **launch)
            try:
                if context == for_prompts:
                    for row in measure_prompts(engine, compiled, plan, mode, way, say):
                        prompts.append(row)
                if context == for_results:
                    for row in measure(engine, compiled, plan, mode, way, bandwidth, say):
                        results.append(row)
                if engine.residency is not None:
                    residency[mode] = engine.residency
            finally:
                engine.close()
    return {
        **machine(backend),
        "bandwidth_gb_s": bandwidth,
        "l2": residency,
        "prompts": [asdict(result) for result in prompts],
        "results": [asdict(result) for result in results],
    }


def cases_of(
    plan: Plan, ways: Sequence[str], modes: Sequence[str]
) -> Iterator[tuple[int, str, str]]:
    """Level, L2 mode and way to launch of all that is measured. `ways`: those that the target has.

    Raises FusecError for a resident kernel where no level can have one.
    """
    if plan.eager and "eager" in ways:
        yield min(plan.levels), modes[0], "eager"
    levels = [level for level in plan.levels if plan.resident and level >= OVERLAPPED]
    if plan.resident and not (levels and "resident" in ways):
        raise FusecError(
            f"bench: --resident is for a GPU with clusters and -O{OVERLAPPED} or more, found "
            f"--target {plan.target} and -O {','.join(map(str, plan.levels))}"
        )
    for level in plan.levels:
        for mode in modes:
            yield level, mode, ways[0]
            if level in levels:
                yield level, mode, "resident"


def default_prompts(path: Path, target: str) -> tuple[int, ...]:
    """The prompt to read where nobody says which: what its target takes well, if the model can."""
    usual = instruments_of(backends.get(target)).prompt
    return (min(usual, Model.open(path).config.context),)


def check_room(path: Path, plan: Plan) -> None:
    """Raise FusecError for more tokens than the model was trained for."""
    trained = Model.open(path).config.context
    prompt, new = plan.prompt, max(plan.lengths)
    if prompt + new > trained:
        room = trained - prompt
        wanted = f"-n up to {room}" if room > 1 else "a shorter prompt"
        raise FusecError(
            f"bench: {new} new tokens (-n) after a prompt of {prompt} (--prompt) do not fit "
            f"{path}, which was trained for a context of {trained}: expected {wanted}"
        )
    if max(plan.pp, default=0) > trained:
        raise FusecError(
            f"bench: a prompt of {max(plan.pp)} tokens (--pp) does not fit {path}, which was "
            f"trained for a context of {trained}"
        )


def contexts(plan: Plan) -> tuple[int | None, int | None]:
    """Positions to compile for, for new tokens and for prompts; None is the usual number.

    New tokens do not get more because of a longer prompt: that might make them slower.
    """
    generation, longest = plan.prompt + max(plan.lengths), max(plan.pp, default=0)
    first = generation if generation > driver.DEFAULT_CONTEXT else None
    return first, longest if longest > max(generation, driver.DEFAULT_CONTEXT) else first


def measure(
    engine: Engine,
    compiled: Compiled,
    plan: Plan,
    mode: str,
    way: str,
    bandwidth: float | None,
    say: Say,
) -> Iterator[Result]:
    """A row for each number of new tokens. A run before the first is not counted."""
    nbytes = weight_bytes_read(compiled.graph)
    engine.stop = frozenset()
    prompt = prompt_ids(engine.vocabulary, plan.prompt)
    device, gap = None, None
    device_times = instruments_of(compiled.backend).device_times
    if device_times is not None and way == compiled.backend.launches[0]:
        device, gap = device_times(engine, prompt, min(plan.lengths))
    for n in plan.lengths:
        say(test_name(len(prompt), n))
        seconds_per_token(engine, prompt, n)
        times = [seconds_per_token(engine, prompt, n) for _ in range(plan.repeats)]
        row = summarize(model_name(compiled), times, prompt=len(prompt), n=n)
        gb_s = nbytes / row.us_per_token / 1e3
        yield replace(
            row,
            level=compiled.plan.level,
            launch=way,
            l2=mode,
            dispatches=len(compiled.plan.launches),
            gb_s=gb_s,
            share=gb_s / bandwidth if bandwidth else None,
            us_device=device,
            us_gap=gap,
        )


def measure_prompts(
    engine: Engine, compiled: Compiled, plan: Plan, mode: str, way: str, say: Say
) -> Iterator[Result]:
    """A row for each prompt. A run before the first is not counted."""
    for tokens in plan.pp:
        say(test_name(tokens, 0))
        prompt = prompt_ids(engine.vocabulary, tokens)
        seconds_of_prompt(engine, prompt)
        times = [seconds_of_prompt(engine, prompt) / tokens for _ in range(plan.repeats)]
        yield replace(
            summarize(model_name(compiled), times, prompt=tokens, n=0),
            level=compiled.plan.level,
            launch=way,
            l2=mode,
        )


def model_name(compiled: Compiled) -> str:
    """What a row calls the model: its file, or what the plan is called."""
    return Path(compiled.model.file.path).stem if compiled.model else compiled.plan.name


def summarize(model: str, times: Iterable[float], *, prompt: int, n: int) -> Result:
    """A row of repeated measurements, seconds a token each."""
    times = sorted(times)
    middle = statistics.median(times)
    spread = (times[-1] - times[0]) / middle
    return Result(model, None, model, "", prompt, n, 1 / middle, 1e6 * middle, spread)


def read_bandwidth(plan: Plan, say: Say) -> float | None:
    """GB/s this target reads from memory; None where nothing measures it."""
    backend = backends.get(plan.target)
    measured = instruments_of(backend).read_bandwidth
    if measured is None:
        return None
    say("bandwidth")
    return measured(backend.name)
