"""Tuning over a driver with a clock: every kernel takes what its choice is made to take."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fusec import driver
from fusec.backends import Plans, cuda
from fusec.bench import tune, tune_report
from fusec.bench import variants as machine_code
from fusec.bench.tune import plan_of
from fusec.bench.tune_gpu import GRAPHS, STEPS, WARM, StepBench
from fusec.bench.variants import Variants
from fusec.codegen.cuda import arch, tuning
from fusec.codegen.cuda.candidates import default_of, variants
from fusec.codegen.cuda.toolchain import Cubin, CudaKernel
from fusec.errors import FusecError
from fusec.ir.choice import Choice
from fusec.ir.plan import Arg, from_json
from fusec.report import summary
from fusec.runtime.cuda.driver import Driver, Executable
from tests.command import fusec, refused
from tests.runtime.cuda import fake
from tests.runtime.cuda.here import without_a_gpu
from tests.runtime.cuda.timed import TimedDriver, Times

pytestmark = pytest.mark.slow  # searches

ARCH, GPU = "sm_90a", "Fake GPU"
LEVEL, CONTEXT = 2, 64  # the fake knows no attention that is split


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FUSEC_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("FUSEC_TUNING", raising=False)
    return tmp_path


@pytest.fixture(scope="module")
def compiled(tiny_model):
    return tune.prepare(tiny_model, ARCH, LEVEL, CONTEXT, "f16")


def code(name: str, choice: Choice) -> bytes:
    return f"{name} as {choice}".encode()


WIDTHS = (1, 2)


class Gpu(TimedDriver):
    """Its code is a kernel's name and choice, and computes nothing; `times` that are not 1 us.

    `wrong`: code that writes to its last argument.
    """

    def __init__(self, compiled, times: dict[bytes, float], wrong: bytes = b""):
        super().__init__({}, Times())
        self.loaded: list[str] = []
        for data in all_code(compiled):
            self.kernels[data.decode()] = scribble if data == wrong else lambda *_: None
            self.times.kernels[data.decode()] = constant(times.get(data, 1.0))
        self.kernels |= fake.CONTROL

    def _cuLibraryGetKernel(self, library, name):
        assert library.decode().split(" as ")[0] == name.decode()
        self.loaded.append(library.decode())
        return library.decode()


class Assembled(Variants):
    """Without a compiler: the code of a variant is what it is. `spilt`: those that are left out."""

    spilt: frozenset[bytes] = frozenset()

    def ready(self, asked, note=None) -> int:
        for name, choice in asked:
            data, rows = code(name, choice), self._kernels[name].rows
            made = Executable(name, ARCH, data, 1, 32, rows=choice.width or rows)
            self._found[name, choice] = None if data in self.spilt else made
        return len(self._found)


def constant(us: float):
    return lambda *_: us


def scribble(*pointers: int) -> None:
    fake._words(pointers[-1])[0] = 12345


def all_kernels(compiled) -> dict[str, tuple]:
    """Name -> kernel and the rows of a step that it is tuned for, of all widths."""
    found = {k.name: (k, w) for w in WIDTHS for k in plan_of(compiled, w).kernels}
    wider = compiled.backend.variants(compiled.plans)
    return found | {k.name: (k, p.tokens) for p in wider for k in p.kernels if k.name not in found}


def all_code(compiled) -> list[bytes]:
    every = all_kernels(compiled).values()
    return [code(k.name, c) for k, width in every for c in variants(k, width=width)]


@pytest.fixture
def on(compiled, monkeypatch):
    """Put a `Gpu` into this machine."""

    def install(times: dict[bytes, float], wrong: bytes = b"", spilt: bytes = b"") -> Gpu:
        api = Gpu(compiled, times, wrong)
        monkeypatch.setattr(cuda, "Driver", lambda: Driver(api))
        monkeypatch.setattr(tune_report, "machine", lambda _: {"gpu": GPU})
        monkeypatch.setattr(cuda, "build", lambda *_: {})
        monkeypatch.setattr(cuda, "PACKING", fake.UNPACKED)
        monkeypatch.setattr(cuda, "executables", lambda *_: default_code(compiled))
        monkeypatch.setattr(tune, "Variants", Assembled)
        monkeypatch.setattr(Assembled, "spilt", frozenset({spilt}))
        return api

    return install


def default_code(compiled) -> dict[str, Executable]:
    every = [kernel for kernel, _ in all_kernels(compiled).values()]
    found = {
        k.name: Executable(k.name, ARCH, code(k.name, default_of(k)), 1, 32, rows=k.rows)
        for k in every
    }
    return found | {name: Executable(name, ARCH, name.encode(), 1, 32) for name in fake.CONTROL}


def kernel_like(plan, start: str):
    return next(k for k in plan.kernels if k.name.startswith(start))


def fast_ones(plan, width: int) -> tuple[dict[str, Choice], dict[bytes, float]]:
    """Choices of two kernels of a plan that take less than their defaults, and all their times."""
    one, other = kernel_like(plan, "norm_matvec_silu"), kernel_like(plan, "matvec_add")
    slow = {code(k.name, c): 2.0 for k in (one, other) for c in variants(k, width=width)}
    best = {one.name: variants(one, width=width)[2], other.name: variants(other, width=width)[-1]}
    return best, slow | {code(name, choice): 1.5 for name, choice in best.items()}


@pytest.mark.slow
@pytest.mark.parametrize("width", WIDTHS)
def test_the_fastest_choices_are_found_and_what_they_gain(compiled, on, width):
    """Two kernels have better choices than their defaults; all others are as they are."""
    plan = plan_of(compiled, width)
    best, times = fast_ones(plan, width)
    api = on(times)
    gpu, (tuned,) = tune.run(compiled, (width,), 1e9)
    usual = {k.name: default_of(k) for k in plan.kernels}
    assert {n: c for n, c in tuned.found.choices.items() if c != usual[n]} == best
    launches = [x.kernel for x in plan.launches]
    saved = 0.5 * sum(launches.count(name) for name in best)
    assert tuned.before - tuned.after == pytest.approx(saved)
    (data,) = tune_report.as_data(compiled, gpu, [tuned])["widths"]
    for row in data["kernels"]:
        count, us = launches.count(row["kernel"]), 2.0 if row["kernel"] in best else 1.0
        assert row["launches"] == count
        assert row["us_before"] == pytest.approx(us * count)
        assert row["us_after"] == pytest.approx((1.5 if us == 2.0 else 1.0) * count)
    assert tuned.subjects[0].share == max(s.share for s in tuned.subjects)
    assert api.used == 0  # everything was given back


@pytest.mark.slow
def test_a_gpu_that_makes_no_difference_keeps_the_defaults(compiled, on):
    on({})
    _, (tuned,) = tune.run(compiled, (1,), 1e9)
    assert tuned.before == tuned.after
    assert set(tuned.entries.values()) == {None}
    others = {k.name: len(variants(k)) - 1 for k in compiled.plan.kernels}
    assert tuned.found.tried == {name: count for name, count in others.items() if count}


@pytest.mark.slow
def test_a_variant_that_spills_is_not_tried(compiled, on):
    kernel = kernel_like(compiled.plan, "norm_matvec_silu")
    fast = code(kernel.name, variants(kernel)[2])
    api = on({fast: 0.1}, spilt=fast)
    _, (tuned,) = tune.run(compiled, (1,), 1e9)
    assert tuned.entries[tuning.key(kernel)] is None
    assert fast.decode() not in api.loaded


@pytest.mark.parametrize(
    ("registers", "spilt", "is_usable"), [(64, 0, True), (65, 0, False), (64, 8, False)]
)
def test_what_was_given_more_registers_than_asked_is_not_tried(registers, spilt, is_usable):
    """That happens to what would spill: `toolchain` assembles it again."""
    kernel = CudaKernel("k", "", (), threads=512, min_blocks=2)
    cubin = Cubin("k", ARCH, b"", "", registers, spilt, 0, 0)
    assert machine_code.is_as_asked(kernel, cubin) == is_usable


def test_other_outputs_stop_everything_by_name(compiled, on):
    kernel = kernel_like(compiled.plan, "norm_matvec")
    wrong = code(kernel.name, variants(kernel)[-1])
    api = on({wrong: 0.1}, wrong)
    with pytest.raises(FusecError, match=rf"other outputs .*: {kernel.name} \(.*\): nothing"):
        tune.run(compiled, (1,), 1e9)
    assert api.used == 0


def test_a_context_too_short_to_measure_in(tiny_model, on):
    short = tune.prepare(tiny_model, ARCH, LEVEL, 16, "f16")
    on({})
    with pytest.raises(FusecError, match="tuning needs a context of 37 positions, found 16"):
        tune.run(short, (1,), 1.0)


@pytest.mark.parametrize("width", [0, 3, 128])
def test_a_width_that_no_step_has_is_refused(compiled, width):
    with pytest.raises(FusecError, match=rf"--width: .* powers of two up to {CONTEXT}.* {width}$"):
        tune.run(compiled, (1, width), 1.0)


def test_a_search_goes_on_where_a_file_says_that_another_ended(compiled, on, cache):
    plan = plan_of(compiled, 2)
    best, times = fast_ones(plan, 2)
    on(times)
    file = cache / "search.json"
    gpu, first = tune.run(compiled, (2,), 1e9)
    file.write_text(json.dumps(tune_report.as_data(compiled, gpu, first)))
    before = tune_report.read(file, compiled, (1, 2))
    assert before[2].choices == first[0].found.choices
    assert before[2].looks.keys() == first[0].found.looks.keys() and before.keys() == {2}
    on(times)
    _, (again,) = tune.run(compiled, (2,), 1e9, before)
    assert again.found.tried == first[0].found.tried  # there is nothing left to look at
    assert best.items() <= again.found.choices.items()
    assert again.entries == first[0].entries


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda text: "{", "expected a file that fusec tune -o wrote"),
        (lambda text: text.replace('"widths"', '"width"'), "expected a file that fusec tune"),
        (lambda text: text.replace(ARCH, "sm_80"), f"expected a search on {ARCH}"),
        (lambda text: text.replace(tuning.digest(), "0" * 16), "found one on sm_90a by another"),
        (lambda text: text.replace('"k"', '"other"'), "expected kernels of this model, found "),
    ],
    ids=["torn", "none", "another", "stale", "kernels"],
)
def test_no_search_goes_on_with_another_file(compiled, cache, damage, reason):
    table = tuning.Tuning(GPU, ARCH).as_dict()
    row = {"kernel": "k", "tried": 1, "default": {"warps": 4}, "chosen": {"warps": 8}}
    file = cache / "search.json"
    text = json.dumps({**table, "widths": [{"width": 1, "kernels": [row], "looks": []}]})
    file.write_text(damage(text))
    with pytest.raises(FusecError, match=f"search.json: .*{reason}"):
        tune_report.read(file, compiled, (1,))


# --- the command ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_command_saves_what_the_next_compilation_takes(
    compiled, on, tiny_model, cache, monkeypatch
):
    """Of steps of two rows: no other step takes it."""
    plan = plan_of(compiled, 2)
    kernel = kernel_like(plan, "norm_matvec_silu")
    fast = next(c for c in variants(kernel, width=2) if c.width == 2)
    on({code(kernel.name, fast): 0.1})
    monkeypatch.setattr(cuda, "native_arch", lambda: arch.ARCHS[ARCH])
    monkeypatch.setattr(cuda, "native_name", lambda: GPU)
    file = cache / "tuned.json"
    given = ("-O", LEVEL, "--context", CONTEXT)
    ran = fusec("tune", tiny_model, *given, "--width", "2", "-o", file)
    assert ran.code == 0, ran.err
    assert kernel.name in ran.out.replace("\n", "")
    assert "us a step of 2 rows with every default" in ran.out
    assert ran.err == f"written to {file}\nwritten to {tuning.place(GPU, ARCH)}\n"
    data = json.loads(file.read_text())
    assert data["choices"] == {tuning.key(kernel, 2): vars(fast)}
    (found,) = data["widths"]
    assert found["step_us"]["before"] - found["step_us"]["after"] == pytest.approx(
        0.9 * next(row["launches"] for row in found["kernels"] if row["kernel"] == kernel.name)
    )
    tuned = driver.compile(tiny_model, target="native", level=LEVEL, context=CONTEXT)
    two, *wider = tuned.backend.variants(tuned.plans)
    assert (two.tokens, tuned.plan) == (2, compiled.plan)
    assert {k.name: k.choice for k in two.kernels if k.choice} == {f"{kernel.base}_2_of2": fast}
    assert not any(k.choice for other in wider for k in other.kernels)
    assert {f"{kernel.base}_2_of2"} == tuned.kernels.keys() - compiled.kernels.keys()
    shown = driver.compile(tiny_model, target="native", level=LEVEL, context=CONTEXT, width=2)
    assert summary(shown)["tuned"] == {f"{kernel.base}_2_of2": str(fast)}
    kept = {name: from_json(plan.to_json()) for name, plan in tuned.plans.wider.items()}
    assert tuned.backend.variants(Plans.of(tuned.plan, kept)) == (two, *wider)
    monkeypatch.setenv("FUSEC_TUNING", str(file))
    taken = driver.compile(tiny_model, target=ARCH, level=LEVEL, context=CONTEXT)
    assert taken.backend.variants(taken.plans) == (two, *wider)


@pytest.mark.slow
def test_candidates_are_compiled_ahead_for_another_machine(compiled, tiny_model, monkeypatch):
    """All but those that spill are ready; a default is, whatever it does."""
    spilt, usual = compiled.plan.kernels[0], compiled.plan.kernels[1]

    def compile_many(kernels, name, _note):
        assert name == ARCH
        spills = [(usual.name == k.name) or (spilt.name == k.name and k.threads == 128)
                  for k in kernels]  # fmt: skip
        return [Cubin(k.name, ARCH, b"", "", 32, 8 * bad, 0, 0)
                for k, bad in zip(kernels, spills, strict=True)]  # fmt: skip

    ready = []
    monkeypatch.setattr(machine_code, "compile_many", compile_many)
    monkeypatch.setattr(cuda, "build", lambda kernels, *_: ready.extend(kernels))
    kernels = compiled.plan.kernels
    count = sum(len(variants(k)) for k in kernels) - (len(variants(usual)) - 1)
    count -= sum(c.warps == 4 and c != default_of(spilt) for c in variants(spilt))
    assert tune.build(compiled, (1,)) == (count, len(kernels))
    assert {"advance", "feed", *(k.name for k in kernels)} <= set(ready)
    ran = fusec("tune", tiny_model, "--build-only", "--target", ARCH, "-O", LEVEL)
    assert ran.out == f"{count} variants of {len(kernels)} kernels are ready\n", ran.err
    more, every = tune.build(compiled, WIDTHS)
    assert more > count and every > len(kernels)


@pytest.mark.slow
def test_only_what_a_greedy_token_launches_is_tuned(tiny_model):
    """At -O3 that is all but the launch that `advance_best` does as well."""
    compiled = tune.prepare(tiny_model, ARCH, 3, CONTEXT, "f16")
    left = {k.name for k in compiled.plan.kernels} - {k.name for k in plan_of(compiled, 1).kernels}
    assert left == {compiled.plan.launches[-1].kernel}


def test_a_machine_without_a_gpu(tiny_model, cache):
    without_a_gpu()
    file = cache / "tuned.json"
    message = refused("tune", tiny_model, "-o", file)
    assert message.startswith("tuning measures on the GPU of this machine: ")
    assert "--build-only --target sm_90a" in message
    assert not file.exists()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--target", ARCH], "leave out --target, or add --build-only"),
        (["--target", "cpu", "--build-only"], "expected a GPU's architecture, found 'cpu'"),
        (["--target", "sm_1", "--build-only"], "unknown target 'sm_1': known are"),
        (
            ["--width", "3", "--target", ARCH, "--build-only"],
            "--width: expected 1 or powers of two",
        ),
        (["--width", "two"], "--width: expected numbers like 1,2, found 'two'"),
        (["--seconds", "nan"], "--seconds: expected a number above 0, found nan"),
        (["--seconds", "0"], "--seconds: expected a number above 0, found 0"),
        (["-O", "9", "--target", ARCH, "--build-only"], "unknown level -O9"),
    ],
)
def test_what_the_command_refuses(options, reason, tiny_model):
    assert reason in refused("tune", tiny_model, *options)


def bench_of(compiled, width=1, engine=None):
    plan = plan_of(compiled, width)
    every = Assembled(plan.kernels, ARCH)
    bench = StepBench(engine or compiled.engine(), plan, width, every)
    default = {k.name: default_of(k) for k in plan.kernels}
    every.ready(default.items())
    bench.settle(default)
    return bench, default


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(("us", "steps"), [(1.0, STEPS), (500.0, 4)])
def test_a_run_has_fewer_steps_where_they_take_longer(compiled, on, us, steps, width):
    api = on(dict.fromkeys(all_code(compiled), us))
    bench, default = bench_of(compiled, width)
    before = api.log.count("cuGraphLaunch")
    found = bench.measure(default)
    assert api.log.count("cuGraphLaunch") - before == WARM + steps
    launches = us * len(bench.plan.launches)
    control = api.times.boundary if width == 1 else 0.0
    assert found == pytest.approx(launches + api.times.gap + control)


@pytest.mark.parametrize("width", WIDTHS)
def test_memory_for_logits_is_there_when_a_step_is_captured(compiled, on, width):
    """Those of a few rows may take more than all of what a prompt makes."""
    on({})
    engine = compiled.engine()
    engine.workspace._arena_bytes = 0
    bench_of(compiled, width, engine)


@pytest.mark.parametrize("width", WIDTHS)
def test_every_run_has_the_same_positions(compiled, on, width):
    on({})
    bench, default = bench_of(compiled, width)
    place = bench.workspace.address(Arg("input", "%pos"))
    ends = []
    for _ in range(2):
        bench.measure(default)
        ends.append(fake.view(place, "i32", (width,)).tolist())
    # one row as far behind POSITION as the context allows, several where they were put
    assert ends[0] == ends[1] == ([CONTEXT - 1] if width == 1 else [CONTEXT - 2, CONTEXT - 1])


def test_all_rows_of_several_steps_are_compared(compiled, on):
    on({})
    bench, default = bench_of(compiled, 2)
    logits, chosen = (compiled.plan.outputs[name].shape[-1] for name in ("%logits", "%next"))
    assert len(bench.outputs(default, 5)) == 4 * 6 * (logits + chosen)
    assert len(bench.outputs(default, 10 * CONTEXT)) == 4 * CONTEXT * (logits + chosen)


def test_graphs_that_are_not_used_again_are_given_back(compiled, on):
    api = on({})
    bench, default = bench_of(compiled, 2)
    kernel = max(plan_of(compiled, 2).kernels, key=lambda k: len(variants(k, width=2)))
    for choice in variants(kernel, width=2):
        bench.variants.ready([(kernel.name, choice)])
        bench.measure(default | {kernel.name: choice})
    made = api.log.count("cuGraphInstantiate") - api.log.count("cuGraphExecDestroy")
    assert made <= GRAPHS + 1 < len(variants(kernel, width=2))
