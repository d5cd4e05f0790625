"""Steps of several rows over a driver without a GPU: which plan they take, and what is captured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fusec import driver
from fusec.backends.cuda import Compiling
from fusec.codegen.cuda.rows import TOGETHER
from fusec.codegen.cuda.tilings import NARROW, SLIM
from fusec.errors import FusecError
from fusec.ir.plan import ROWS, Arg
from fusec.models.synth import PRESETS, synthesize
from fusec.runtime.cuda import chained
from fusec.runtime.cuda.checked_steps import KERNELS
from fusec.runtime.sampling import Sampling
from tests.runtime.cuda import fake
from tests.runtime.cuda.machine import CONTEXT, Machine, compiled_for_a_gpu

pytestmark = pytest.mark.slow  # compiles for a fake driver

SHORT = 32  # rows up to which this model's steps are of smaller tiles
IDS = [int(i) for i in np.random.default_rng(4).integers(1, 500, CONTEXT)]


@pytest.fixture(scope="module")
def compiled(tiny_model: Path) -> driver.Compiled:
    """A step of a prompt has up to 48 rows: the context."""
    return compiled_for_a_gpu(tiny_model)


@pytest.fixture
def machine(compiled: driver.Compiled) -> Machine:
    return Machine(compiled)


def absorbed(machine: Machine, rows: int, first: int = 0) -> list[str]:
    """Names of the kernels that are captured or launched for a step of so many rows."""
    before = len(machine.api.launched)
    places = np.arange(first, first + rows, dtype=np.int32)
    machine.absorb.step(token=np.asarray(IDS, np.int32)[places], pos=places)
    return [launch.name for launch in machine.api.launched[before:]]


def rows_word(machine: Machine) -> int:
    return int(fake.view(machine.workspace.address(ROWS), "i32", (1,))[0])


def names(plan) -> list[str]:
    """Of the kernels that a plan launches when nothing wants its outputs."""
    return [launch.kernel for launch in plan.only(set()).launches]


def test_the_plans_are_those_of_the_engine(compiled, machine):
    one, variants = compiled.plan, compiled.backend.variants(compiled.plans)
    assert (one.tokens, *(plan.tokens for plan in variants)) == (1, TOGETHER, SHORT, CONTEXT)
    for session in (machine.prefill, machine.absorb):
        assert session.plan.tokens == CONTEXT
    assert (machine.decode.plan, machine.engine().prefill) == (one, machine.prefill)


@pytest.mark.parametrize(("length", "steps"), [(1, 0), (2, 1), (17, 1), (CONTEXT, 1)])
def test_a_prompt_takes_few_steps(machine, length, steps):
    machine.run(IDS[:length], 1)
    assert machine.api.log.count("cuGraphLaunch") == steps + 1  # and the token's


@pytest.mark.slow
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=0.8, seed=4)])
@pytest.mark.parametrize("eager", [False, True])
def test_tokens_are_those_behind_single_steps(compiled, machine, sampling, eager):
    other, wanted = Machine(compiled, eager=eager), Machine(compiled)
    wanted.loop._absorb = wanted.decode  # a step for each token
    for length in (2, 20):
        assert other.run(IDS[:length], 4, sampling) == wanted.run(IDS[:length], 4, sampling)
    assert ("cuGraphLaunch" in other.api.log) != eager


@pytest.mark.parametrize(
    ("rows", "width"),
    [(1, 1), (2, 2), (3, 4), (4, 4), (9, 16), (16, 16), (17, 32), (40, 64), (70, CONTEXT)],
)
def test_graphs_are_for_powers_of_two(machine, rows, width):
    absorbed(machine, rows)
    assert set(machine.absorb._graphs) == {width}
    assert rows_word(machine) == rows  # blocks of rows behind those do nothing
    taken = {name: work.rows for name, work in machine.api.kernels.items() if hasattr(work, "rows")}
    for launch in machine.api.launched:
        layers = -(-width // taken[launch.name]) if taken[launch.name] else 1
        assert launch.config.gridDimY == layers


def test_a_width_is_captured_once(machine):
    for rows in (3, 4, 3):
        absorbed(machine, rows)
    assert machine.api.log.count("cuStreamBeginCapture") == 1
    assert machine.api.log.count("cuGraphLaunch") == 3
    for rows in (8, 5, 2, 4):
        absorbed(machine, rows)
    assert machine.api.log.count("cuStreamBeginCapture") == 3  # of 4, 8 and 2
    assert set(machine.absorb._graphs) == {2, 4, 8}


def test_a_step_takes_the_plan_for_so_many_rows(compiled, machine):
    few, short, wide = compiled.backend.variants(compiled.plans)
    assert absorbed(machine, 1) == names(compiled.plan)
    assert absorbed(machine, 2) == names(few) == absorbed(machine, TOGETHER)
    assert absorbed(machine, TOGETHER + 1) == names(short) == absorbed(machine, SHORT)
    assert absorbed(machine, SHORT + 1) == names(wide)
    assert names(few) != names(short) != names(wide)


def test_blocks_that_take_all_rows_have_a_plan_for_each_width(tiny_model):
    """A feed-forward half in clusters: one kernel for two rows, one for four, one for eight."""
    compiled = driver.compile(tiny_model, target="sm_90a", context=CONTEXT)
    variants = compiled.backend.variants(compiled.plans)
    assert [plan.tokens for plan in variants] == [2, 4, 8, SHORT, CONTEXT]
    for plan in variants[:3]:
        taken = {kernel.rows for kernel in plan.kernels if "parts" in kernel.name}
        assert taken == {plan.tokens}
        assert {kernel.rows for kernel in plan.kernels if "parts" not in kernel.name} == {1}
        assert len(plan.launches) == len(compiled.plan.launches)


def test_kernels_are_wanted_when_a_step_needs_them_and_before_it_is_captured(compiled, machine):
    few, short, wide = compiled.backend.variants(compiled.plans)
    control = set(compiled.backend.loop_kernels(compiled.plan)) - {*KERNELS, *chained.KERNELS}
    (first,) = machine.asked
    assert sorted(first) == sorted({k.name for k in compiled.plan.kernels} | control)
    have = set(first)
    steps = {9: short, 6: few, 3: None, 2: None, 70: wide, 90: None, 1: None}
    for rows, plan in steps.items():
        machine.asked.clear()
        machine.api.log.clear()
        absorbed(machine, rows)
        wanted = list(
            dict.fromkeys(name for name in names(plan) if name not in have) if plan else ()
        )
        assert machine.asked == ([wanted] if wanted else [])
        log = machine.api.log
        loads = [i for i, call in enumerate(log) if call == "cuLibraryLoadData"]
        assert len(loads) == len(wanted)
        assert all(i < log.index("cuStreamBeginCapture") for i in loads)
        have |= {*wanted}
    assert {k.name for k in wide.kernels if k.rows == NARROW} & have


@pytest.mark.slow
def test_each_row_has_the_logits_of_a_step_of_its_own(compiled, machine):
    engine = machine.engine()
    engine.reset()
    wanted = np.stack([engine.step(token) for token in IDS])
    for length in (1, 2, 16, 17, CONTEXT):
        found = engine.logits(IDS[:length])
        assert found.shape == (length, engine.vocabulary)
        assert found.tobytes() == wanted[:length].tobytes(), length
        assert rows_word(machine) == length
    assert engine.logits(IDS, 5).tobytes() == wanted.tobytes()
    eager = Machine(compiled, eager=True).engine()
    assert eager.logits(IDS[:20]).tobytes() == wanted[:20].tobytes()
    assert "cuGraphLaunch" not in eager.workspace.driver.api.log


@pytest.mark.slow
def test_logits_at_level_3_are_near_those_of_single_steps(tiny_model):
    engine = Machine(driver.compile(tiny_model, target="sm_90a", context=CONTEXT)).engine()
    wanted = np.stack([engine.step(token) for token in IDS[:20]])
    found = engine.logits(IDS[:20])
    assert np.abs(found - wanted).max() < 1e-4 * np.abs(wanted).max()


@pytest.mark.parametrize("cut", [1, 9, 30])
def test_what_is_fed_in_parts_is_what_is_fed_at_once(machine, cut):
    engine = machine.engine()
    engine.feed(IDS[:40])
    wanted = engine.step(IDS[40])
    engine.reset()
    engine.feed(IDS[:cut])
    engine.feed(IDS[cut:40])
    assert engine.step(IDS[40]).tobytes() == wanted.tobytes()


def test_a_feed_of_several_rows_does_not_wait(machine):
    engine = machine.engine()
    machine.api.log.clear()
    engine.feed(IDS[:20])
    assert not {"cuStreamSynchronize", "cuMemcpyDtoHAsync"} & set(machine.api.log)


def test_more_rows_than_the_plan_has_are_refused(machine):
    places = np.zeros(CONTEXT + 1, np.int32)
    with pytest.raises(FusecError, match=f"tokens from 1 to {CONTEXT} for every input, found"):
        machine.absorb.step(token=places, pos=places)


@pytest.mark.slow
@pytest.mark.parametrize("context", [1, 2, 8, 9, 17])
def test_short_contexts(tiny_model, context):
    """Where the whole context is a narrow step there is one plan for it, or none."""
    compiled = driver.compile(tiny_model, target="sm_90a", level=2, context=context)
    assert compiled.prefill.tokens == context
    assert len(compiled.backend.variants(compiled.plans)) == (context > 1) + (context > 8)
    engine = Machine(compiled).engine()
    wanted = np.stack([engine.step(token) for token in IDS[:context]])
    assert engine.logits(IDS[:context]).tobytes() == wanted.tobytes()
    made = list(engine.tokens(IDS[:context], 1))
    assert made == [int(wanted[-1].argmax())]


# --- longer than a step --------------------------------------------------------------------------


@pytest.mark.slow
def test_a_long_prompt_is_cut(tmp_path):
    """A step has 512 rows at most."""
    sizes = {"layers": 1, "width": 32, "heads": 2, "kv_heads": 1, "ffn_width": 32, "head_dim": 16}
    config = replace(PRESETS["tiny"], context=1200, rope_dims=16, **sizes)
    path = synthesize(config, tmp_path / "long.gguf", "Q8_0")
    compiled = driver.compile(path, target="sm_90a", level=2, context=1200)
    assert compiled.prefill.tokens == 512
    machine = Machine(compiled)
    engine = machine.engine()
    ids = [7 * i % 500 for i in range(1100)]
    (token,) = engine.tokens(ids, 1)
    assert machine.api.log.count("cuGraphLaunch") == 3 + 1
    assert set(machine.absorb._graphs) == {512, 128}  # 512 twice, and 75
    assert rows_word(machine) == 75
    place = machine.workspace.address(Arg("input", "%pos"))
    assert fake.view(place, "i32", (1,))[0] == len(ids)
    found = engine.logits(ids)
    assert found.shape == (1100, engine.vocabulary)
    assert int(found[-1].argmax()) == token
    assert machine.prefill._graphs.keys() == {512, 128}


# --- the kernels' code ---------------------------------------------------------------------------


def test_kernels_are_compiled_when_they_are_wanted(compiled, monkeypatch):
    """Progress is told of the first ones alone: whoever watches does so while a model loads."""
    built: list[tuple[list[str], object]] = []

    def build(kernels, arch, progress):
        built.append((list(kernels), progress))
        assert arch == "sm_90a"
        return {name: fake.SimpleNamespace(arch=arch, data=name.encode()) for name in kernels}

    monkeypatch.setattr("fusec.backends.cuda.build", build)
    kernels = compiled.kernels
    watch = object()
    compiling = compiled.backend.ready(kernels, watch)
    assert isinstance(compiling, Compiling) and not built
    first, *others = list(kernels)
    found = compiling([first])[first]
    assert (found.name, found.data, found.rows) == (first, first.encode(), kernels[first].rows)
    assert list(compiling(others)) == others
    assert built == [([first], watch), (others, None)]
    assert {name.rows for name in compiling(others).values()} == {0, 1, SLIM, NARROW}


def test_a_saved_kernel_keeps_its_rows(compiled):
    facts = {
        name: {
            "arch": "sm_90a",
            "grid": 3,
            "threads": 64,
            "dynamic_bytes": 0,
            "rows": rows,
            "spare": rows // 2,
        }
        for name, rows in (("a", 0), ("b", 16))
    }
    give = compiled.backend.restore(facts, lambda path: path.encode())
    found = give(["b"])
    assert list(found) == ["b"]
    assert (found["b"].rows, found["b"].grid, give(["a"])["a"].rows) == (16, 3, 0)
    assert (found["b"].spare, give(["a"])["a"].spare) == (8, 0)


def test_kernels_of_every_variant_are_compiled_into_a_folder(compiled):
    variants = compiled.backend.variants(compiled.plans)
    wanted = {k.name for plan in (compiled.plan, *variants) for k in plan.kernels}
    assert wanted < set(compiled.kernels)
    slim, narrow = (
        {k.removesuffix(f"_{rows}") for k in wanted if "matvec" in k and k.endswith(f"_{rows}")}
        for rows in (SLIM, NARROW)
    )
    assert slim and narrow


def test_logits_of_many_rows_take_memory_when_they_are_asked_for(compiled, machine):
    """Narrow and wide variants may have arenas of their own, which their graphs keep."""
    absorbed(machine, 1)  # takes memory for the cache's first page
    before = machine.workspace.memory.nbytes
    absorbed(machine, 70)
    assert machine.workspace.memory.nbytes == before
    engine = machine.engine()
    few, many = engine.logits(IDS[:20]), engine.logits(IDS[:90])
    plan = compiled.prefill
    assert machine.workspace.memory.nbytes >= before + plan.outputs["%logits"].shape[0] * 4
    assert engine.logits(IDS[:20]).tobytes() == few.tobytes() == many[:20].tobytes()


def test_the_reach_of_a_plan(compiled):
    plan = compiled.prefill
    assert 0 <= plan.arena_bytes - plan.reach < 256  # whole lines
    assert 0 < plan.only(set()).reach < plan.reach
    assert 0 <= compiled.plan.arena_bytes - compiled.plan.reach < 256
