"""`fusec ablate`: what is left out, counted, measured, predicted and refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import fusec as library
from fusec import ablation, backends, driver
from fusec.errors import FusecError
from fusec.passes import cost
from tests.command import fusec, plain, refused

CONTEXT = 48
BRIEF: dict[str, Any] = {"context": CONTEXT, "tokens": 4, "repeats": 1}


@pytest.fixture(scope="module")
def rows(tiny_model: Path) -> list[library.Ablation]:
    return library.ablate(tiny_model, only=["vectors", "fuse-epilogue", "chain"], **BRIEF)


@pytest.mark.slow
def test_a_row_for_each_rule_in_the_pipelines_order(rows: list[library.Ablation]) -> None:
    assert [row.name for row in rows] == ["none", "chain", "epilogue", "vectors", "all"]
    assert rows[0].disabled == ()
    assert rows[-1].disabled == ("chain", "epilogue", "vectors")


@pytest.mark.slow
def test_dispatches_are_those_of_the_model_compiled_without(
    rows: list[library.Ablation], tiny_model: Path
) -> None:
    whole = driver.compile(tiny_model, context=CONTEXT)
    for row in rows:
        alone = driver.compile(tiny_model, context=CONTEXT, disable=row.disabled)
        assert row.dispatches == len(alone.plan.launches)
        assert row.changed == (alone.plans != whole.plans)
    assert {row.name: row.changed for row in rows} == {
        **{"none": False, "chain": False, "epilogue": True, "vectors": False, "all": True}
    }
    hits = {stage.name.removeprefix("fuse-"): stage.hits for stage in whole.stages}
    assert [row.hits for row in rows[1:-1]] == [hits[row.name] for row in rows[1:-1]]
    assert rows[-1].hits == sum(row.hits for row in rows[1:-1])


@pytest.mark.slow
def test_bytes_stay_and_times_are_measured(rows: list[library.Ablation]) -> None:
    for row in rows:
        assert row.measured
        assert row.us > 0
        assert row.ratio > 0
        assert (row.difference, row.same) == (0.0, True)
        if not row.changed:
            assert (row.us, row.ratio, row.spread) == (rows[0].us, 1.0, 0.0)


def test_a_logit_that_differs_is_told(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make = ablation._engine

    def engine(compiled: driver.Compiled, subject: ablation.Subject) -> library.Engine:
        made = make(compiled, subject)
        if compiled.options.disable:
            step = made.step
            monkeypatch.setattr(made, "step", lambda token: step(token) + 0.5 * (token % 2))
        return made

    monkeypatch.setattr(ablation, "_engine", engine)
    _, row = library.ablate(tiny_model, only="epilogue", **BRIEF)
    assert row.difference == pytest.approx(0.5, rel=1e-5)
    assert row.same is False
    assert row.cells()[-1] == "differ"


def test_times_are_taken_in_turns() -> None:
    pairs = [(1.0, 3.0), (2.0, 8.0), (1.0, 1.0)]
    row = ablation.Ablation("x", ("x",), 1, 1, True, 0.0, 1.0, True)
    found = ablation._with_times(row, pairs)
    assert (found.us, found.ratio, found.spread) == (3e6, 3.0, 3.0)


@pytest.mark.parametrize(
    ("ratios", "clear", "cell"),
    [
        ((1.1, 1.2, 1.3, 1.2, 1.2), True, "1.200 ± 0.100"),
        ((0.9, 0.8, 0.9, 0.9, 0.9), True, "0.900 ± 0.050"),
        ((1.1, 1.2, 1.3, 1.2, 0.9), False, "1.200 ± 0.200 ?"),
        ((1.5, 1.5, 1.5, 1.5), False, "1.500 ?"),
    ],
)
def test_a_difference_that_turns_do_not_agree_on_is_in_doubt(
    ratios: tuple[float, ...], clear: bool, cell: str
) -> None:
    row = ablation.Ablation("x", ("x",), 1, 1, True, 0.0, 1.0, True)
    found = ablation._with_times(row, [(1.0, ratio) for ratio in ratios])
    assert found.clear is clear
    assert found.cells()[4] == cell


@pytest.mark.slow
def test_a_row_has_one_engine_for_all_its_turns(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[tuple[str, ...]] = []
    make = ablation._engine

    def engine(compiled: driver.Compiled, subject: ablation.Subject) -> library.Engine:
        opened.append(compiled.options.disable)
        return make(compiled, subject)

    monkeypatch.setattr(ablation, "_engine", engine)
    library.ablate(tiny_model, only=["epilogue", "stack"], **{**BRIEF, "repeats": 3})
    assert opened == [(), ("stack",), ("epilogue",), ("stack", "epilogue")]


@pytest.mark.slow
def test_turns_of_a_row_are_spread_over_the_run(tiny_model: Path) -> None:
    told: list[str] = []
    options = {**BRIEF, "repeats": 2}
    library.ablate(tiny_model, only="epilogue", **options, note=lambda name, *_: told.append(name))
    library.ablate(
        tiny_model,
        only=["epilogue", "stack"],
        **options,
        note=lambda name, *_: told.append(name),
    )
    assert told == ["epilogue"] * 2 + ["stack", "epilogue", "all"] * 2


def test_a_rule_of_ones_own_is_ablated(tiny_model: Path) -> None:
    mine = library.Rule(
        "rows -> pair | store => rows",
        library.pattern("product -> work", product="rows", work="pair store"),
        named="mine",
    )
    none, row = library.ablate(tiny_model, rules=[mine], only=["mine"], **BRIEF)
    assert row.hits == row.dispatches - none.dispatches > 0  # a launch more for each
    assert row.same


@pytest.mark.slow
def test_without_its_gpu_times_are_predicted(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = backends.get("sm_90a")
    monkeypatch.setattr(type(backend), "is_here", lambda _self: False)
    rows = library.ablate(tiny_model, "sm_90a", 2, only=["rules"], **BRIEF)
    assert "epilogue" in [row.name for row in rows]
    assert "factor-norms" not in [row.name for row in rows]
    gpu = backend.limits.gpu
    assert gpu is not None
    for row in rows:
        plan = driver.compile(
            tiny_model, target="sm_90a", level=2, context=CONTEXT, disable=row.disabled
        ).plan
        assert row.us == cost.token_us(plan, gpu)
        assert row.ratio == row.us / rows[0].us
        assert (row.measured, row.spread, row.difference, row.same) == (False, None, None, None)
    assert rows[-1].us > rows[0].us


def test_a_cpu_is_here_and_a_gpu_of_another_architecture_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert backends.get("cpu").is_here()
    hopper = backends.get("sm_90a")
    monkeypatch.setattr("fusec.backends.cuda.native_arch", lambda: hopper.arch)
    assert hopper.is_here()
    assert not backends.get("sm_80").is_here()

    def none() -> None:
        raise FusecError("no driver")

    monkeypatch.setattr("fusec.backends.cuda.native_arch", none)
    assert not hopper.is_here()


@pytest.mark.slow
def test_the_command(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ["--context", CONTEXT, "-n", 2, "--repeats", 1, "--rules", "epilogue,vectors"]
    ran = fusec("ablate", tiny_model, *options)
    assert ran.code == 0, ran.err
    text = plain(ran.out)
    assert "left out hits dispatches us/token ratio largest difference bytes" in text
    assert " vectors 0 " in text
    assert " = = 0 same" in text
    data = fusec("ablate", tiny_model, *options, "--json").json
    assert [row["name"] for row in data] == ["none", "epilogue", "vectors", "all"]
    assert all(row["same"] for row in data)
    monkeypatch.setattr("fusec.backends.cuda.native_arch", lambda: None)
    ran = fusec("ablate", tiny_model, "--target", "sm_90a", "--rules", "epilogue")
    assert "left out hits dispatches predicted us ratio" in plain(ran.out)
    assert "predicted by the cost model for H200" in plain(ran.out)


REFUSED = {
    "rule": (["--rules", "epilog"], "ablate: -O2 runs no rule or pass 'epilog': did you mean "),
    "another level's": (["-O1", "--rules", "epilogue"], "-O1 runs no rule or pass 'epilogue'"),
    "tokens": (["-n", "1"], "ablate: expected tokens from 2, found 1"),
    "repeats": (["--repeats", "0"], "ablate: expected repeats from 1, found 0"),
    "context": (["--context", "20"], "ablate: expected a context of at least 24 tokens, found 20"),
    "level": (["-O7"], "unknown level -O7"),
    "target": (["--target", "tpu"], "unknown target 'tpu'"),
}


@pytest.mark.parametrize(("options", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused(tiny_model: Path, options: list[str], reason: str) -> None:
    assert reason in refused("ablate", tiny_model, *options)
