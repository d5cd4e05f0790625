"""The table of choices on disk, and which one a compilation takes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fusec import driver
from fusec.backends import cuda
from fusec.codegen.cuda import arch, tuning
from fusec.codegen.cuda.tuning import Tuning, key, load, merge, place, save
from fusec.errors import FusecError
from fusec.ir.choice import Choice
from fusec.ir.plan import from_json
from fusec.report import plan_table, summary
from tests.command import fusec, refused
from tests.graphs import llama_graph

GPU, ARCH = "NVIDIA H200 (test)", "sm_90a"
CHOICE = Choice(4, 2, 1, 1, "load")
TABLE = Tuning(GPU, ARCH, {"a+overlaps": CHOICE, "b": Choice(16)})


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FUSEC_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("FUSEC_TUNING", raising=False)
    return tmp_path


@pytest.fixture
def a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose GPU is GPU."""
    monkeypatch.setattr(cuda, "native_arch", lambda: arch.ARCHS[ARCH])
    monkeypatch.setattr(cuda, "native_name", lambda: GPU)


def compiled(target: str = ARCH, **options):
    apart = ["project-rows"]  # so that there is a kernel of several geometries
    return driver.compile(llama_graph(), target=target, level=3, disable=apart, **options)


def tuned_residual() -> tuple[str, Tuning]:
    """A kernel of `compiled`, and a table with a choice for it."""
    kernel = next(k for k in compiled().plan.kernels if k.name.startswith("matvec_add"))
    return kernel.name, Tuning(GPU, ARCH, {key(kernel): CHOICE})


# --- on disk -------------------------------------------------------------------------------------


def test_a_table_is_read_back_by_the_gpu_it_is_of() -> None:
    path = save(TABLE)
    assert path == place(GPU, ARCH)
    assert load(GPU, ARCH) == TABLE
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    for other in (("NVIDIA H100", ARCH), (GPU, "sm_80")):
        assert load(*other) == Tuning(*other)


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "[]",
        lambda text: text.replace('"warps": 4', '"warps": 4000'),
        lambda text: text.replace('"warps"', '"width"'),
        lambda text: text.replace('"load"', '"never"'),
        lambda text: text.replace(tuning.digest(), "0123456789abcdef"),
        lambda text: text.replace("H200", "H100"),
    ],
    ids=["torn", "empty", "list", "huge", "unknown", "release", "stale", "another"],
)
def test_a_table_that_is_not_what_was_written_counts_for_nothing(damage) -> None:
    path = save(TABLE)
    path.write_text(damage(path.read_text()))
    assert load(GPU, ARCH) == Tuning(GPU, ARCH)


def test_new_entries_join_the_old_and_defaults_leave_the_table() -> None:
    merged = merge(TABLE, {"b": None, "c": Choice(12)})
    assert merged.choices == {"a+overlaps": CHOICE, "c": Choice(12)}


def test_a_folder_that_cannot_be_written(cache: Path) -> None:
    (cache / "tuning").write_text("a file")
    with pytest.raises(FusecError, match="cannot write here"):
        save(TABLE)


# --- in a compilation ----------------------------------------------------------------------------


@pytest.mark.usefixtures("a_gpu")
def test_native_takes_the_table_of_this_gpu_and_names_take_none(monkeypatch) -> None:
    name, table = tuned_residual()
    save(table)
    for target, wanted in (("native", CHOICE), ("cuda", CHOICE), (ARCH, None), ("cpu", None)):
        plan = compiled(target).plan
        assert {k.name: k.choice for k in plan.kernels}.get(name) == wanted, target
    monkeypatch.setenv("FUSEC_TUNING", "off")
    assert compiled("native").plan == compiled().plan


def test_a_choice_is_in_the_source_the_plan_and_the_report() -> None:
    name, table = tuned_residual()
    tuned, usual = compiled(tuning=table), compiled()
    kernel, before = tuned.kernels[name], usual.kernels[name]
    assert (kernel.threads, before.threads) == (128, 256)
    assert f"{kernel.grid} blocks of 128 threads" in kernel.source
    assert kernel.source.index("griddep_launch()") < kernel.source.index("griddep_wait()")
    assert {n: k for n, k in tuned.kernels.items() if n != name} == {
        n: k for n, k in usual.kernels.items() if n != name
    }
    assert from_json(tuned.plan.to_json()) == tuned.plan
    assert summary(tuned)["tuned"] == {name: "4 warps, 2 rows at once, next at load"}
    columns = [column.header for column in plan_table(summary(tuned)).columns]
    assert columns == ["kernel", "launches", "size", "tuned"]
    assert len(plan_table(summary(usual)).columns) == 3


def test_a_choice_is_for_launches_that_overlap_or_for_others() -> None:
    name, table = tuned_residual()
    plan = driver.compile(llama_graph(), target=ARCH, level=2, tuning=table).plan
    assert {k.name: k.choice for k in plan.kernels}[name] is None


def test_a_file_is_taken_for_a_named_architecture(cache: Path, monkeypatch) -> None:
    name, table = tuned_residual()
    file = save(table).rename(cache / "mine.json")
    monkeypatch.setenv("FUSEC_TUNING", str(file))
    assert compiled().plan == compiled(tuning=table).plan
    assert {k.name: k.choice for k in compiled().plan.kernels}[name] == CHOICE
    assert not any(k.choice for k in compiled("cpu").plan.kernels)
    with pytest.raises(FusecError, match="was measured for sm_90a, found target sm_80"):
        compiled("sm_80")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "expected 'off' or a file of fusec tune, found"),
        ("{", "is not a file that fusec tune wrote"),
        ('{"choices": {}}', "is not a file that fusec tune wrote"),
        (json.dumps({**TABLE.as_dict(), "emitters": "0" * 16}), "is of another version of fusec"),
    ],
    ids=["absent", "torn", "short", "stale"],
)
def test_a_file_that_was_asked_for_must_be_one(text, reason, cache, monkeypatch, tiny_model):
    file = cache / "mine.json"
    if text is not None:
        file.write_text(text)
    monkeypatch.setenv("FUSEC_TUNING", str(file))
    assert reason in refused("inspect", tiny_model, "--target", ARCH)
    assert fusec("inspect", tiny_model).code == 0  # the CPU has no such table
