"""`fusec verify`."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

import fusec as library
from fusec import backends, verifier
from fusec.models.synth import synthesize
from fusec.passes.pipeline import LEVELS
from tests.command import fusec

pytestmark = pytest.mark.xdist_group("cli")


@pytest.mark.slow
def test_verify_agrees(tiny_model: Path) -> None:
    ran = fusec("verify", tiny_model, "--tokens", 20, "--context", 32, "--quiet")
    assert (ran.code, ran.err) == (0, "")
    rows = re.findall(r"-O(\d) +(f16|f32) +(\S+) +(\S+) +same +same +agrees +ok", ran.out)
    wanted = [(str(level), kv) for kv in ("f16", "f32") for level in LEVELS]
    assert [(level, kv) for level, kv, _, _ in rows] == wanted
    assert all(0 < float(error) < float(bound) for _, _, error, bound in rows)


@pytest.mark.slow
def test_an_f16_cache_may_choose_other_experts(tmp_path: Path) -> None:
    """So any error is allowed there, but for what is not a number."""
    path = synthesize("glm4moe", tmp_path / "model.gguf", "Q8_0")
    data = fusec("verify", path, "--level", "1", "--json").json
    assert all(v["ok"] for v in data)
    assert [v["bound"] for v in data] == [None, None, 1e-4, 1e-4]
    assert max(v["error"] for v in data if v["kv"] == "f16") > 1e-3
    given = {"level": 0, "kv": "f16", "bound": None, "same": True, "chunked": True, "greedy": True}
    assert verifier.Verdict(error=0.5, **given).ok
    assert "any" in verifier.Verdict(error=0.5, **given).cells()
    assert not verifier.Verdict(error=float("nan"), **given).ok


def test_verify_one_level_as_json(tiny_model: Path) -> None:
    options = ("--level", "1", "--kv", "f32", "--tokens", "3", "--context", "32", "--seed", "5")
    data = fusec("verify", tiny_model, *options, "--json").json
    assert [v["level"] for v in data] == [0, 1]
    assert all(v["ok"] and v["kv"] == "f32" and v["error"] < v["bound"] for v in data)


def test_verify_fails_when_a_level_differs(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load, loaded = verifier.driver.load, []

    def last_bit(*args: object, **options: object) -> library.Engine:
        engine = load(*args, **options)
        loaded.append(engine)
        if len(loaded) % len(LEVELS) == 3:  # -O2, the third of all
            logits = engine.logits

            def changed(ids: list[int]) -> object:
                found = logits(ids)
                found.view("i4")[-1, -1] ^= 1
                return found

            monkeypatch.setattr(engine, "logits", changed)
        return engine

    monkeypatch.setattr(verifier.driver, "load", last_bit)
    options = ("verify", tiny_model, "--kv", "f32", "--tokens", 2, "--context", 32)
    ran = fusec(*options)
    assert ran.code == 1
    assert re.search(r"-O1 .* same +same +agrees +ok", ran.out)
    assert re.search(r"-O2 .* differs +differs +agrees +WRONG", ran.out)
    data = fusec(*options, "--json").out
    assert {v["level"]: v["ok"] for v in json.loads(data)} == {n: n != 2 for n in LEVELS}


def test_the_widest_step_of_a_gpu_is_compared() -> None:
    assert max(verifier.WIDTHS["cuda"]) == backends.get("sm_90a").prefill_tokens


@pytest.fixture
def widths_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than the CPU's steps take."""
    monkeypatch.setattr(verifier, "WIDTHS", {"cpu": (1, 2, 5, 16, 17)})


@pytest.mark.usefixtures("widths_on_the_cpu")
def test_verify_compares_widths(tiny_model: Path) -> None:
    options = ("verify", tiny_model, "-O2", "--kv", "f32", "--tokens", 3, "--context", 32)
    ran = fusec(*options)
    assert ran.code == 0
    assert "widths: in steps of 1, 2, 5, 16 tokens" in ran.out
    assert len(re.findall(r"-O\d +f32 .* same +same +same +agrees +ok", ran.out)) == 2
    found = fusec(*options, "--json").json
    assert [v["widths"] for v in found] == [{"1": True, "2": True, "5": True, "16": True}] * 2
    short = fusec("verify", tiny_model, "-O0", "--kv", "f32", "--context", 4, "--json").json
    assert [v["widths"] for v in short] == [{"1": True, "2": True}]  # what the context holds


@pytest.mark.usefixtures("widths_on_the_cpu")
@pytest.mark.parametrize("session", ["prefill", "absorb"])
def test_verify_fails_where_a_width_differs(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, session: str
) -> None:
    """In steps that make logits, and in those that only fill the cache."""
    load = verifier.driver.load

    def wrong(*args: object, **options: object) -> library.Engine:
        engine = load(*args, **options)
        chosen = getattr(engine, session)
        step = chosen.step

        def steps(**inputs: np.ndarray) -> dict[str, np.ndarray]:
            if len(inputs["token"]) == 5:  # its last token is taken for another
                inputs["token"] = inputs["token"] ^ np.array([0, 0, 0, 0, 1], np.int32)
            return step(**inputs)

        chosen.step = steps
        return engine

    monkeypatch.setattr(verifier.driver, "load", wrong)
    options = ("verify", tiny_model, "-O0", "--kv", "f32", "--tokens", 2, "--context", 32)
    ran = fusec(*options)
    assert ran.code == 1
    assert re.search(r"-O0 .* same +same +differs: 5 +agrees +WRONG", ran.out)
