"""`fusec verify`."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import fusec as library
from fusec import verifier
from tests.command import fusec

pytestmark = pytest.mark.xdist_group("cli")


def test_verify_agrees(tiny_model: Path) -> None:
    ran = fusec("verify", tiny_model, "--tokens", 20, "--context", 32)
    assert (ran.code, ran.err) == (0, "")
    rows = re.findall(r"-O(\d) +(f16|f32) +(\S+) +(\S+) +same +same +agrees +ok", ran.out)
    assert [(level, kv) for level, kv, _, _ in rows] == [
        *(("0", "f16"), ("1", "f16"), ("2", "f16"), ("3", "f16")),
        *(("0", "f32"), ("1", "f32"), ("2", "f32"), ("3", "f32")),
    ]
    assert all(0 < float(error) < float(bound) for _, _, error, bound in rows)


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
        if len(loaded) % 4 == 3:  # -O2 of -O0 to -O3
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
    assert [v["ok"] for v in json.loads(fusec(*options, "--json").out)] == [True, True, False, True]
