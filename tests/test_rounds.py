"""`fusec profile --draft`: rounds on a made-up GPU and on this CPU, and what is shown of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import fusec
from fusec import loop_times
from fusec.bench import drafts, rounds_cpu, rounds_gpu
from fusec.bench.drafted_texts import Texts, counted
from fusec.bench.stopwatch import Watch
from fusec.ir.plan import ROWS
from fusec.runtime.cuda.pace import GraphCost, Pace
from fusec.runtime.drafting import Suffix
from tests.command import fusec as command
from tests.command import refused
from tests.runtime.cuda import fake
from tests.runtime.cuda.machine import Machine, compiled_for_a_gpu
from tests.runtime.cuda.timed import TimedDriver, Times
from tests.runtime.drafters import FREE, Nonsense, Scripted, draft_with

IDS = [5, 6, 7, 5, 6, 7, 5, 6]
DRAFT, ACCEPT, OTHERS = 5.0, 3.0, 1.0

pytestmark = pytest.mark.xdist_group("drafted")


class Once(Watch):
    """A made-up clock has no noise."""

    def graph(self, enqueue, replays=1, repeats=1):
        return super().graph(enqueue, 1, 1)


@pytest.fixture
def engine(tiny_model: Path, monkeypatch: pytest.MonkeyPatch):
    """Of a GPU where every launch takes 1 us, but `draft` 5 and `accept` 3."""
    compiled = compiled_for_a_gpu(tiny_model)
    durations = dict.fromkeys([*compiled.kernels, "advance"], OTHERS)
    durations |= {"draft": DRAFT, "accept": ACCEPT}
    times = Times(kernels={name: lambda *_, us=us: us for name, us in durations.items()})
    monkeypatch.setattr(
        fake, "FakeDriver", lambda kernels, **options: TimedDriver(kernels, times, **options)
    )
    monkeypatch.setattr(rounds_gpu, "executables", lambda _driver: {})
    monkeypatch.setattr(rounds_gpu, "Watch", Once)
    engine = Machine(compiled).built
    engine.stop = frozenset()
    return engine


def test_the_parts_of_a_round_on_a_made_up_gpu(engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def sample(logits, scores, chosen, pos, tokens, params):
        fake._words(chosen)[0] = 20 + int(fake._words(pos)[0]) % 3

    monkeypatch.setattr(fake, "sample", sample)
    engine.drafter = Suffix()
    engine._pace = Pace(15, recycle=False, cost=GraphCost(FREE))
    engine._paced = engine._drafting, engine.draft_max
    texts = Texts(engine, {"one": IDS, "two": IDS * 2}, 24, lambda _: None)
    rounds, generations = rounds_gpu.measure(engine, texts)
    counts = counted(generations)
    assert {each.rows: each.count for each in rounds} == counts
    assert sum(counts.values()) == sum(one.steps for one in generations)
    assert [one.prompt for one in generations] == [len(IDS), 2 * len(IDS)]
    several = [each for each in rounds if each.rows > 1]
    assert several
    for each in several:
        assert (each.draft, each.accept) == pytest.approx((DRAFT, ACCEPT))
        steps = engine.drafted.steps
        logits, whole = (
            len(steps._sessions[kind]._prepare(each.rows)) for kind in ("sampled", "greedy")
        )
        assert each.check == pytest.approx(logits * OTHERS)
        assert each.choice == pytest.approx((whole - logits) * OTHERS)
    plain = next(each for each in rounds if each.rows == 1)
    assert (plain.draft, plain.choice, plain.accept) == (0, 0, 0)
    launches = len(engine.loop.greedy.plan.launches) + 1
    assert plain.check == pytest.approx(launches * OTHERS)


def test_measuring_leaves_the_state_where_it_was(engine) -> None:
    bench = rounds_gpu._Bench(engine, engine.drafted.steps, drafts=True)
    position, last = bench.position, bench.ids[bench.position]
    for rows in (1, 2, 16):
        bench.round(rows, 1)
        bench._restore()
        assert fake._words(engine.loop.pos)[0] == position
        assert fake._words(engine.loop.token)[0] == last
    # the guesses were those of a match, as many as there are rows
    assert fake._words(engine.workspace.address(ROWS))[0] == 16


def test_a_drafter_of_the_host_is_timed_there(engine) -> None:
    draft_with(engine, Nonsense(512))
    texts = Texts(engine, {"one": IDS}, 12, lambda _: None)
    rounds, _ = rounds_gpu.measure(engine, texts)
    several = [each for each in rounds if each.rows > 1]
    assert several and all(each.draft > 0 for each in several)
    assert all(each.accept == pytest.approx(ACCEPT) for each in several)


def test_the_parts_of_a_round_on_the_cpu(tiny_model: Path) -> None:
    with fusec.load(tiny_model, context=96) as engine:
        engine.stop = frozenset()
        wanted = list(engine.tokens(IDS, 40))
        draft_with(engine, Scripted([*IDS, *wanted]))
        texts = Texts(engine, {"known": IDS}, 40, lambda _: None)
        rounds, (generation,) = rounds_cpu.measure(engine, texts)
        assert list(engine.tokens(IDS, 40)) == wanted  # and nobody watches any more
    assert {each.rows: each.count for each in rounds} == generation.by_rows
    assert generation.tokens == 40 == generation.steps + generation.accepted
    assert max(generation.by_rows) == 16
    for each in rounds:
        assert each.check > each.choice > 0
        assert each.draft > 0 and each.accept > 0


PROFILE = {
    "gpu": "A GPU",
    "model": "a-model",
    "level": 3,
    "draft": {
        "drafter": "auto",
        "left_out": ["code"],
        "rounds": [
            {"rows": 1, "count": 10, "draft": 0, "check": 100, "choice": 0, "accept": 0},
            {"rows": 4, "count": 6, "draft": 8, "check": 180, "choice": 4, "accept": 8},
            {"rows": 16, "count": 2, "draft": 8, "check": 400, "choice": 8, "accept": 12},
        ],
        "texts": [
            {
                "name": "chat", "tokens": 50, "steps": 18, "drafted": 48, "accepted": 32,
                "us": 64.0,
            }
        ],
    },
}  # fmt: skip


def test_what_is_said_of_rounds() -> None:
    assert loop_times.line(PROFILE) == (
        "a-model at -O3 on A GPU, draft auto: 50 tokens in 18 rounds (2.78 a round), 32 of 48 "
        "guesses accepted (67%); the parts of all rounds sum to 96% of the time of the texts; no "
        "room for code"
    )
    assert loop_times.share(PROFILE["draft"]) == pytest.approx(
        (10 * 100 + 6 * 200 + 2 * 428) / (50 * 64)
    )
    assert loop_times.means(PROFILE["draft"]) == pytest.approx(
        {"draft": 8, "check": 235, "choice": 5, "accept": 9}
    )
    alone = {**PROFILE["draft"], "rounds": PROFILE["draft"]["rounds"][:1]}
    assert loop_times.means(alone) == {}
    rounds, texts = loop_times.tables(PROFILE)
    assert [*rounds.columns[-1].cells] == ["1.00", "2.00", "4.28"]
    assert [*texts.columns[0].cells] == ["chat"]


def test_the_command(tiny_model: Path, tmp_path: Path) -> None:
    found = tmp_path / "rounds.json"
    options = ("--draft", "auto", "--draft-max", 3, "-n", 4, "-o", found)
    ran = command("profile", tiny_model, *options)
    assert ran.code == 0
    assert "rounds of the loop" in ran.out and "draft auto" in ran.out
    data = json.loads(found.read_text())
    assert data["draft"]["most"] == 3
    names = {text["name"] for text in data["draft"]["texts"]} | set(data["draft"]["left_out"])
    assert names == set(drafts.prompts())
    assert max(each["rows"] for each in data["draft"]["rounds"]) <= 4


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--draft", "off"), "draft: expected auto, suffix, recycle, mtp or a model, found off"),
        (
            ("--draft", "nobody"),
            "draft: expected off, auto, suffix, recycle, mtp or a model: nobody",
        ),
        (("--draft", "auto", "--draft-max", 0), "draft_max: expected a number of tokens from 1"),
        (("--draft", "auto", "-n", 1), "-n: expected at least 2 tokens, found 1"),
        (("--draft", "auto", "-n", 4000), "-n 4000: expected a context of 4"),
        (("--draft", "auto", "--trace", "t.json"), "--draft: its rounds are no launches"),
        (("--draft", "auto", "--chart", "t.svg"), "--draft: its rounds are no launches"),
    ],
)
def test_what_cannot_be_profiled(tiny_model: Path, options: tuple, said: str) -> None:
    assert refused("profile", tiny_model, *options).startswith(said)
