"""Tuning over a driver with a clock: every kernel takes what its choice is made to take."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fusec import driver
from fusec.backends import cuda
from fusec.bench import tune
from fusec.bench.tune_gpu import TOKENS, WARM, TokenBench
from fusec.codegen.cuda import arch, tuning
from fusec.codegen.cuda.candidates import default_of, variants
from fusec.codegen.cuda.toolchain import Cubin
from fusec.errors import FusecError
from fusec.ir.plan import Arg, Choice
from fusec.runtime.cuda.driver import Driver, Executable
from tests.command import fusec, refused
from tests.runtime.cuda import fake
from tests.runtime.cuda.here import without_a_gpu
from tests.runtime.cuda.timed import TimedDriver, Times

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


def constant(us: float):
    return lambda *_: us


def scribble(*pointers: int) -> None:
    fake._words(pointers[-1])[0] = 12345


def all_code(compiled) -> list[bytes]:
    return [code(k.name, c) for k in compiled.plan.kernels for c in variants(k)]


@pytest.fixture
def on(compiled, monkeypatch):
    """Put a `Gpu` into this machine; returns what `tune.run` is to be given as built."""

    def install(times: dict[bytes, float], wrong: bytes = b"") -> tuple[Gpu, tune.Variants]:
        api = Gpu(compiled, times, wrong)
        monkeypatch.setattr(cuda, "Driver", lambda: Driver(api))
        monkeypatch.setattr(tune, "machine", lambda _: {"gpu": GPU})
        monkeypatch.setattr(cuda, "build", lambda *_: {})
        monkeypatch.setattr(cuda, "PACKING", fake.UNPACKED)
        monkeypatch.setattr(cuda, "executables", lambda *_: default_code(compiled))
        return api, {
            (k.name, c): Executable(k.name, ARCH, code(k.name, c), 1, 32)
            for k in compiled.plan.kernels
            for c in variants(k)
        }

    return install


def default_code(compiled) -> dict[str, Executable]:
    ours = {k.name: code(k.name, default_of(k)) for k in compiled.plan.kernels}
    ours |= {name: name.encode() for name in fake.CONTROL}
    return {name: Executable(name, ARCH, data, 1, 32) for name, data in ours.items()}


def kernel_like(compiled, start: str):
    return next(k for k in compiled.plan.kernels if k.name.startswith(start))


@pytest.mark.slow
def test_the_fastest_choices_are_found_and_what_they_gain(compiled, on):
    """Two kernels have better choices than their defaults; all others are as they are."""
    one, other = kernel_like(compiled, "norm_matvec_silu"), kernel_like(compiled, "matvec_add")
    slow = {code(k.name, c): 2.0 for k in (one, other) for c in variants(k)}
    best = {one.name: variants(one)[2], other.name: variants(other)[-1]}
    slow |= {code(name, choice): 1.5 for name, choice in best.items()}
    api, built = on(slow)
    tuned = tune.run(compiled, built, 1e9)
    chosen = {n: c for n, c in tuned.found.choices.items() if c != default_of_name(compiled, n)}
    assert chosen == best
    launches = [x.kernel for x in compiled.plan.launches]
    saved = 0.5 * sum(launches.count(name) for name in best)
    assert tuned.before - tuned.after == pytest.approx(saved)
    for row in tuned.as_data()["kernels"]:
        count, us = launches.count(row["kernel"]), 2.0 if row["kernel"] in best else 1.0
        assert row["launches"] == count
        assert row["us_before"] == pytest.approx(us * count)
        assert row["us_after"] == pytest.approx((1.5 if us == 2.0 else 1.0) * count)
    assert tuned.subjects[0].share == max(s.share for s in tuned.subjects)
    assert api.used == 0  # everything was given back


def default_of_name(compiled, name: str) -> Choice:
    return default_of(next(k for k in compiled.plan.kernels if k.name == name))


@pytest.mark.slow
def test_a_gpu_that_makes_no_difference_keeps_the_defaults(compiled, on):
    _, built = on({})
    tuned = tune.run(compiled, built, 1e9)
    assert tuned.before == tuned.after
    assert set(tuned.entries.values()) == {None}
    assert sum(tuned.found.tried.values()) == len(built) - len(compiled.plan.kernels)


@pytest.mark.slow
def test_a_variant_that_spills_is_not_tried(compiled, on):
    kernel = kernel_like(compiled, "norm_matvec_silu")
    fast = variants(kernel)[2]
    api, built = on({code(kernel.name, fast): 0.1})
    without = {key: value for key, value in built.items() if key != (kernel.name, fast)}
    tuned = tune.run(compiled, without, 1e9)
    assert tuned.entries[tuning.key(kernel)] is None
    assert code(kernel.name, fast).decode() not in api.loaded


def test_other_logits_stop_everything_by_name(compiled, on):
    kernel = kernel_like(compiled, "norm_matvec")
    wrong = code(kernel.name, variants(kernel)[-1])
    api, built = on({wrong: 0.1}, wrong)
    with pytest.raises(FusecError, match=rf"other logits .*: {kernel.name} \(.*\): nothing"):
        tune.run(compiled, built, 1e9)
    assert api.used == 0


def test_a_context_too_short_to_measure_in(tiny_model, on):
    short = tune.prepare(tiny_model, ARCH, LEVEL, 16, "f16")
    _, built = on({})
    with pytest.raises(FusecError, match="tuning needs a context of 37 positions, found 16"):
        tune.run(short, built, 1.0)


# --- the command ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_command_saves_what_the_next_compilation_takes(
    compiled, on, tiny_model, cache, monkeypatch
):
    kernel = kernel_like(compiled, "norm_matvec_silu")
    fast = variants(kernel)[2]
    _, built = on({code(kernel.name, fast): 0.1})
    monkeypatch.setattr(cuda, "native_arch", lambda: arch.ARCHS[ARCH])
    monkeypatch.setattr(cuda, "native_name", lambda: GPU)
    monkeypatch.setattr(tune, "build", lambda *_: built)
    file = cache / "tuned.json"
    ran = fusec("tune", tiny_model, "-O", LEVEL, "--context", CONTEXT, "-o", file)
    assert ran.code == 0, ran.err
    assert kernel.name in ran.out.replace("\n", "")
    assert "us a token with every default" in ran.out
    assert ran.err == f"written to {file}\nwritten to {tuning.place(GPU, ARCH)}\n"
    data = json.loads(file.read_text())
    assert data["choices"] == {kernel.name: vars(fast)}
    assert data["token_us"]["before"] - data["token_us"]["after"] == pytest.approx(
        0.9 * next(row["launches"] for row in data["kernels"] if row["kernel"] == kernel.name)
    )
    plan = driver.compile(tiny_model, target="native", level=LEVEL).plan
    assert {k.name: k.choice for k in plan.kernels if k.choice} == {kernel.name: fast}
    monkeypatch.setenv("FUSEC_TUNING", str(file))
    assert driver.compile(tiny_model, target=ARCH, level=LEVEL).plan == plan


@pytest.mark.slow
def test_candidates_are_compiled_ahead_for_another_machine(compiled, tiny_model, monkeypatch):
    """All but those that spill are left; a default is, whatever it does."""
    spilt, usual = compiled.plan.kernels[0].name, compiled.plan.kernels[1].name

    def compile_many(kernels, name, _note):
        assert name == ARCH
        spills = [(usual == k.name) or (spilt == k.name and k.threads == 128) for k in kernels]
        return [Cubin(k.name, ARCH, b"", "", 32, 8 * bad, 0, 0)
                for k, bad in zip(kernels, spills, strict=True)]  # fmt: skip

    ready = []
    monkeypatch.setattr(tune, "compile_many", compile_many)
    monkeypatch.setattr(cuda, "build", lambda kernels, *_: ready.extend(kernels))
    built = tune.build(compiled)
    assert {"advance", "feed", *(k.name for k in compiled.plan.kernels)} <= set(ready)
    left = {name: {c for n, c in built if n == name} for name, _ in built}
    for kernel in compiled.plan.kernels:
        wanted = set(variants(kernel))
        if kernel.name == spilt:
            wanted = {c for c in wanted if c.warps != 4}
        if kernel.name == usual:
            wanted = {default_of(kernel)}
        assert left[kernel.name] == wanted
    ran = fusec("tune", tiny_model, "--build-only", "--target", ARCH, "-O", LEVEL)
    assert ran.out == f"{len(built)} variants of {len(left)} kernels are ready\n", ran.err


@pytest.mark.slow
def test_only_what_a_greedy_token_launches_is_tuned(tiny_model, monkeypatch):
    """At -O3 that is all but the launch that `advance_best` does as well."""
    compiled = tune.prepare(tiny_model, ARCH, 3, CONTEXT, "f16")
    monkeypatch.setattr(
        tune, "compile_many",
        lambda kernels, *_: [Cubin(k.name, ARCH, b"", "", 32, 0, 0, 0) for k in kernels],
    )  # fmt: skip
    monkeypatch.setattr(cuda, "build", lambda *_: {})
    built = tune.build(compiled)
    assert tune.count_of(compiled) == len(compiled.kernels) + len(built)
    left = {k.name for k in compiled.plan.kernels} - {name for name, _ in built}
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
        (["--seconds", "nan"], "--seconds: expected a number above 0, found nan"),
        (["--seconds", "0"], "--seconds: expected a number above 0, found 0"),
        (["-O", "9", "--target", ARCH, "--build-only"], "unknown level -O9"),
    ],
)
def test_what_the_command_refuses(options, reason, tiny_model):
    assert reason in refused("tune", tiny_model, *options)


def bench_of(compiled, built):
    bench = TokenBench(compiled.engine(), built)
    return bench, {k.name: default_of(k) for k in compiled.plan.kernels}


@pytest.mark.parametrize(("us", "tokens"), [(1.0, TOKENS), (500.0, 4)])
def test_a_run_has_fewer_tokens_where_they_take_longer(compiled, on, us, tokens):
    api, built = on(dict.fromkeys(all_code(compiled), us))
    bench, default = bench_of(compiled, built)
    before = api.log.count("cuGraphLaunch")
    found = bench.measure(default)
    assert api.log.count("cuGraphLaunch") - before == WARM + tokens
    launches = us * len(compiled.plan.launches)
    assert found == pytest.approx(launches + api.times.gap + api.times.boundary)


def test_every_run_has_the_same_positions(compiled, on):
    _, built = on({})
    bench, default = bench_of(compiled, built)
    place = bench.workspace.address(Arg("input", "%pos"))
    ends = []
    for _ in range(2):
        bench.measure(default)
        ends.append(int(fake.view(place, "i32", (1,))[0]))
    assert ends[0] == ends[1] == CONTEXT - 1  # as far behind POSITION as the context allows
