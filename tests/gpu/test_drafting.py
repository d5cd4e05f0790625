"""Drafted tokens on the GPU: the same ids as without, and no slower than plain decoding."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest

from fusec import driver
from fusec.bench import rounds
from fusec.bench.drafts import prompts
from fusec.ir.plan import HIDDEN
from fusec.runtime.drafting import DRAFTERS, Drafter, Suffix
from fusec.runtime.drafting.model import ModelDrafter
from fusec.runtime.sampling import Sampling
from tests.runtime.drafters import Nonsense, Scripted, draft_with
from tests.runtime.skilled import skilled_model

pytestmark = pytest.mark.gpu

IDS = [int(i) for i in np.random.default_rng(1).integers(0, 500, 20)]
SAMPLINGS = [
    Sampling(),
    *(Sampling(0.8, seed=seed) for seed in (1, 2, 3)),
    Sampling(0.7, repeat_penalty=1.3, seed=4),
    Sampling(repeat_penalty=1.2),
]


@pytest.fixture(scope="module", params=["tiny_model", "projecting", "smollm2"])
def engine(request: pytest.FixtureRequest):
    with driver.load(request.getfixturevalue(request.param), "native", context=512) as engine:
        engine.stop = frozenset()
        yield engine


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_no_drafter_changes_a_token(engine, sampling: Sampling) -> None:
    engine.drafter = None
    wanted = list(engine.tokens(IDS, 300, sampling))
    for name in DRAFTERS:
        engine.drafter = DRAFTERS[name]()
        for _ in range(2):
            assert list(engine.tokens(IDS, 300, sampling)) == wanted, name
    for drafter in (Scripted([*IDS, *wanted]), Nonsense(engine.vocabulary)):
        draft_with(engine, drafter)
        assert list(engine.tokens(IDS, 300, sampling)) == wanted
    engine.drafter = None
    assert list(engine.tokens(IDS, 300, sampling)) == wanted


def test_the_context_and_what_follows(engine) -> None:
    engine.drafter = None
    wanted = list(engine.tokens(IDS))
    engine.drafter = Suffix()
    assert list(engine.tokens(IDS)) == wanted
    assert engine.position == 512
    for left in (1, 5, 40):
        made = engine.tokens(IDS, 100)
        assert [next(made) for _ in range(left)] == wanted[:left]
        made.close()
        rest = list(engine.tokens([], 100 - left, append=True))
        assert rest == wanted[left:100]


def test_a_draft_model(tiny_model: Path) -> None:
    with driver.load(tiny_model, "native", context=256) as engine:
        engine.stop = frozenset()
        wanted = list(engine.tokens(IDS, 100))
        draft_with(engine, ModelDrafter(driver.load(tiny_model, "native", context=256)))
        assert list(engine.tokens(IDS, 100)) == wanted
        assert engine.draft_statistics.accepted > 20  # it is the model itself


def test_a_block_that_drafts(tmp_path: Path) -> None:
    with driver.load(skilled_model(tmp_path), "native", draft="mtp") as engine:
        engine.stop, drafter = frozenset(), engine.drafter
        for sampling in SAMPLINGS[:2]:
            engine.drafter = None
            wanted = list(engine.tokens(IDS, 60, sampling))
            draft_with(engine, drafter)
            assert list(engine.tokens(IDS, 60, sampling)) == wanted
            if sampling.is_argmax:
                assert engine.draft_statistics.acceptance == 1
        text = [*IDS, *wanted]
        states = drafter._states[: len(text) - 1].copy()
        assert np.array_equal(engine.trace(text[:-1])[HIDDEN], states)


@pytest.mark.parametrize("draft", ["auto", "suffix", "recycle"])
def test_rounds_are_taken_apart(tiny_model: Path, draft: str) -> None:
    compiled = driver.compile(tiny_model, target="native")
    found = rounds.run(compiled, draft, 15, 60)["draft"]
    steps = sum(text["steps"] for text in found["texts"])
    assert sum(each["count"] for each in found["rounds"]) == steps
    for each in found["rounds"]:
        assert each["check"] > 0
        if each["rows"] > 1:
            assert each["draft"] > 0 and each["accept"] > 0
            assert each["check"] > each["choice"] >= 0


@pytest.mark.slow
def test_real_prompts() -> None:
    """Ids and speed of six prompts; the floor is the issue's, less what a busy machine may take."""
    folder = os.environ.get("FUSEC_REAL_MODELS")
    path = Path(folder or "", "SmolLM2-135M-Instruct.Q4_1.gguf")
    if not folder or not path.exists():
        pytest.skip("FUSEC_REAL_MODELS names no folder with SmolLM2-135M-Instruct")

    def timed(drafter: Drafter | None, sampling: Sampling) -> tuple[list[int], float]:
        engine.drafter = drafter
        made = engine.tokens(ids, 500, sampling)
        found = [next(made)]
        start = time.perf_counter()
        found += made
        return found, time.perf_counter() - start

    with driver.load(path, "native", context=1024) as engine:
        engine.stop = frozenset()
        for name, text in prompts().items():
            ids = engine.encode([{"role": "user", "content": text}])
            for sampling in SAMPLINGS[:4]:
                wanted, _ = timed(None, sampling)
                for draft in DRAFTERS:
                    assert timed(DRAFTERS[draft](), sampling)[0] == wanted, (name, draft)
            plain = min(timed(None, Sampling())[1] for _ in range(5))
            drafted = min(timed(DRAFTERS["auto"](), Sampling())[1] for _ in range(5))
            assert plain / drafted > 0.95, name
