"""Backends: a new target is a class and an entry, and everything that runs models takes it."""

from __future__ import annotations

from pathlib import Path

import pytest

import fusec
from fusec import backends, driver
from fusec.artifact import Artifact
from fusec.backends import Backend
from fusec.backends.cpu import L2_BYTES, Cpu
from fusec.bench.instruments import instruments_of
from fusec.codegen.cuda.arch import ARCHS
from fusec.codegen.formats import FORMATS
from fusec.errors import FusecError
from fusec.ir import gpus
from fusec.ir.target import Target

PROMPT = [1, 2, 3]


class Other(Cpu):
    """The CPU under another name, at another level."""

    family, level = "other", 1

    def __init__(self) -> None:
        Backend.__init__(self, Target("other", frozenset(FORMATS), L2_BYTES))


@pytest.fixture
def other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(backends.BACKENDS, "other", Other)


@pytest.mark.usefixtures("other")
def test_a_new_target_compiles_runs_and_is_kept(tiny_model: Path, tmp_path: Path) -> None:
    compiled = driver.compile(tiny_model, target="other", context=48)
    assert (compiled.plan.target, compiled.plan.level) == ("other", 1)
    with driver.load(tiny_model, context=48, level=1) as usual:
        wanted = usual.logits(PROMPT).tobytes()
    saved = Artifact.open(compiled.save(tmp_path / "folder"))
    for engine in (compiled.engine(threads=1), saved.engine(threads=1)):
        with engine:
            assert engine.logits(PROMPT).tobytes() == wanted


@pytest.mark.usefixtures("other")
def test_what_nobody_has_written_for_a_new_target_is_refused() -> None:
    with pytest.raises(FusecError, match="target other: nothing here measures it"):
        instruments_of(backends.get("other"))


def test_an_unknown_target_is_refused_with_the_known_ones() -> None:
    with pytest.raises(FusecError, match="unknown target 'other': known are cpu, native, cuda, sm"):
        fusec.compile("demo", target="other")


@pytest.mark.parametrize("name", ARCHS)
def test_every_architecture_predicts_for_the_gpu_that_stands_for_it(name: str) -> None:
    limits = backends.get(name).limits
    assert limits.gpu == gpus.for_arch(name)
    assert limits.gpu is not None and limits.gpu.arch == name
