"""What a second load takes from the cache and what it does not; either way tokens are the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fusec import backends, driver, load, prepared
from fusec.backends import Backend
from fusec.backends.cpu import Cpu
from fusec.codegen.formats import FORMATS
from fusec.errors import FusecError
from fusec.ir import gpus
from fusec.ir.ops import OPS
from fusec.ir.target import Target
from fusec.models.model import Model
from fusec.passes.rule import Rule, pattern
from tests.params import slow_but

PROMPT = [1, 2, 3]
CONTEXT = 40  # of no other test: an entry of this one's is not there yet


class Theirs(Cpu):
    """A user's own target, which might emit anything."""

    def __init__(self) -> None:
        Backend.__init__(self, Target("theirs", frozenset(FORMATS), 1 << 20))


def forbid(monkeypatch: pytest.MonkeyPatch) -> None:
    def compile_graph(*_args: Any, **_options: Any) -> None:
        raise AssertionError("compiled again")

    monkeypatch.setattr(driver, "compile_graph", compile_graph)


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty folder for entries; kernels stay in the tests' own cache."""
    monkeypatch.setattr(prepared, "cache_root", lambda: tmp_path)
    return tmp_path / "plans"


def tokens(path: Path | Model, **options: Any) -> list[int]:
    with load(path, context=CONTEXT, **options) as engine:
        return list(engine.tokens(PROMPT, 8))


def test_a_second_load_makes_no_pass(
    plans: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = tokens(tiny_model)
    assert len(list(plans.iterdir())) == 1
    forbid(monkeypatch)
    assert tokens(tiny_model) == first
    assert tokens(Model.open(tiny_model)) == first
    with pytest.raises(AssertionError, match="compiled again"):
        tokens(tiny_model, level=1)
    with pytest.raises(AssertionError, match="compiled again"):
        tokens(tiny_model, kv="f32")
    with pytest.raises(AssertionError, match="compiled again"):
        tokens(tiny_model, disable=["epilogue"])


def test_a_load_without_a_rule_launches_more_and_gives_the_same(
    plans: Path, tiny_model: Path
) -> None:
    with load(tiny_model, context=CONTEXT) as usual:
        wanted = usual.logits(PROMPT)
    for disable in (["epilogue"], ["fuse-epilogue"], "epilogue"):
        with load(tiny_model, context=CONTEXT, disable=disable) as engine:
            assert len(engine.decode.plan.launches) > len(usual.decode.plan.launches)
            assert engine.logits(PROMPT).tobytes() == wanted.tobytes()
    with pytest.raises(FusecError, match="no rule or pass 'epilog': did you mean 'epilogue'"):
        load(tiny_model, context=CONTEXT, disable=["epilog"])
    with pytest.raises(FusecError, match=r"rules: expected fusec\.Rule objects, found str"):
        load(tiny_model, context=CONTEXT, rules=["epilogue"])  # type: ignore[list-item]


def test_what_is_damaged_is_made_again(plans: Path, tiny_model: Path) -> None:
    first = tokens(tiny_model)
    (entry,) = plans.iterdir()
    path = entry / "decode.json"
    text = path.read_text()
    path.write_text(text.replace("forward", "sideways"))
    assert tokens(tiny_model) == first
    assert path.read_text() == text


def test_a_cache_that_cannot_be_written_is_no_reason_to_fail(
    plans: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stage(_entry: Path) -> Path:
        raise FusecError("read-only")

    monkeypatch.setattr(prepared, "stage", stage)
    assert len(tokens(tiny_model)) == 8
    assert not plans.exists()


@pytest.mark.parametrize("target", slow_but(["cpu"], ["cpu", "sm_80", "sm_90a"]))
def test_plans_and_kernels_come_back_as_they_were(
    target: str, plans: Path, tiny_model: Path
) -> None:
    compiled = driver.compile(tiny_model, target=target, context=CONTEXT)
    assert compiled.prefill is not None
    made = compiled.prepared
    prepared.keep(plans / "entry", made)
    found = prepared.find(plans / "entry", target)
    assert found is not None
    assert found.plans == made.plans
    assert found.kernels == made.kernels
    tokens = {"cpu": 16, "sm_80": CONTEXT, "sm_90a": CONTEXT}[target]
    assert (found.plans.decode.tokens, found.plans.prefill.tokens) == (1, tokens)
    assert list(found.kernels) == list(made.kernels)  # the order they are built in


def entry(path: Path, target: str = "sm_90a", **options: Any) -> Path | None:
    wanted = driver.options_of(target, **options)
    graphs = driver.graphs_of(Model.open(path), wanted, CONTEXT, "f16")
    return prepared.entry_of(graphs, wanted)


def test_every_option_has_an_entry_of_its_own(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {entry(tiny_model, **{"level": level}) for level in range(4)}
    found |= {entry(tiny_model, disable=["prologue"]), entry(tiny_model, target="cpu", level=3)}
    h200 = gpus.for_arch("sm_90a")
    monkeypatch.setattr(gpus, "for_arch", lambda _arch: replace(h200, barrier=h200.barrier * 2))
    found.add(entry(tiny_model, level=3))
    assert len(found) == 7
    assert None not in found
    assert entry(tiny_model) == entry(tiny_model, level=3)


def test_code_of_a_user_s_own_is_never_taken_from_the_cache(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert entry(tiny_model) is not None
    rule = Rule("silu -> mul => mine", pattern("a -> b", a="silu", b="mul"))
    assert entry(tiny_model, rules=[rule]) is None
    with monkeypatch.context() as patch:
        patch.setitem(OPS, "silu", replace(OPS["silu"], work=1))
        assert entry(tiny_model) is None
    with monkeypatch.context() as patch:
        other = type(FORMATS["q8_0"])(FORMATS["q8_0"].dtype)
        patch.setitem(FORMATS, "q8_0", other)
        assert entry(tiny_model) is None
    with monkeypatch.context() as patch:
        patch.setitem(backends.BACKENDS, "theirs", Theirs)
        assert entry(tiny_model, target="theirs") is None


def test_a_source_file_of_fusec_changes_the_key(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = entry(tiny_model)
    (tmp_path / "rule.py").write_text("# another fusec\n")
    monkeypatch.setattr(prepared, "PACKAGE", tmp_path)
    assert entry(tiny_model) != before
