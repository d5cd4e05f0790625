"""`fusec info`: what is in a file, what becomes of it, and files that are refused."""

from __future__ import annotations

from math import prod
from pathlib import Path

import pytest

from fusec import driver
from fusec.models.gguf_file import open_gguf
from fusec.models.synth import synthesize
from tests.command import fusec, plain, refused
from tests.gguf_edit import edited


def test_contents_are_the_files(tiny_model: Path) -> None:
    data = fusec("info", tiny_model, "--no-plan", "--tensors", "--json").json
    file = open_gguf(tiny_model)
    assert "fusec" not in data
    assert data["files"] == [str(tiny_model)]
    assert data["bytes"] == tiny_model.stat().st_size
    assert data["architecture"] == "llama"
    assert data["parameters"] == sum(prod(t.shape) for t in file.tensors.values())
    assert list(data["metadata"]) == list(file.metadata)
    assert data["metadata"]["llama.block_count"] == file.metadata["llama.block_count"]
    tokens = file.metadata["tokenizer.ggml.tokens"]
    assert data["metadata"]["tokenizer.ggml.tokens"] == {
        "length": len(tokens), "first": tokens[:8],
    }  # fmt: skip
    listed = {t["name"]: t for t in data["tensors"]}
    assert list(listed) == list(file.tensors)
    embedding = listed["token_embd.weight"]
    assert embedding["shape"] == [file.metadata["llama.embedding_length"], len(tokens)]
    assert {g["type"] for g in data["types"]} == {t["type"] for t in listed.values()}
    for key, of_tensor in (("tensors", lambda t: 1), ("bytes", lambda t: t["bytes"])):
        for group in data["types"]:
            same = [t for t in listed.values() if t["type"] == group["type"]]
            assert group[key] == sum(map(of_tensor, same))


def test_vocabulary(tiny_model: Path) -> None:
    data = fusec("info", tiny_model, "--no-plan", "--json").json
    found, metadata = data["vocabulary"], open_gguf(tiny_model).metadata
    tokens = metadata["tokenizer.ggml.tokens"]
    assert (found["model"], found["refused"]) == (metadata["tokenizer.ggml.model"], None)
    assert found["tokens"] == len(tokens) == sum(found["types"].values())
    eos = metadata["tokenizer.ggml.eos_token_id"]
    assert found["special"]["eos"] == {"id": eos, "text": tokens[eos]}
    assert found["special"]["eos"] in found["ends"]


def test_dispatches_are_counted_alike_everywhere(tiny_model: Path) -> None:
    launches = len(driver.compile(tiny_model).plan.launches)
    said = plain(fusec("info", tiny_model).out)
    assert f" {launches} dispatches a token (" in said
    assert "in f16 at a context of 512, of which" in said  # that it was trained for
    assert "at a context of 64 (" in plain(fusec("info", tiny_model, "--context", 64).out)
    assert f": {launches} dispatches a token (" in fusec("inspect", tiny_model).out
    compared = fusec("diff", tiny_model, tiny_model, "-O", "0,2", "--json").json
    assert compared["sizes"]["dispatches"][1] == launches
    assert f", {launches} dispatches, " in repr(driver.compile(tiny_model))


def test_plan_and_memory_are_the_compilers(tiny_model: Path) -> None:
    found = fusec("info", tiny_model, "--context", 64, "--kv", "f32", "-O1", "--json").json["fusec"]
    compiled = driver.compile(tiny_model, level=1, context=64, kv="f32")
    assert found["refused"] is None
    assert found["plan"]["dispatches"] == compiled.plan.dispatches
    assert (found["plan"]["target"], found["plan"]["level"]) == ("cpu", 1)
    config = compiled.model.config
    rows = 2 * config.layers * config.kv_width * 4  # bytes of a position's keys and values
    memory = found["memory"]
    assert memory["kv_bytes"] == memory["first_kv_bytes"] == 64 * rows  # less than a page
    assert memory["trained_kv_bytes"] == config.context * rows
    assert memory["arena_bytes"] == compiled.plans.prefill.arena_bytes
    assert memory["weights_bytes"] == compiled.plan.weights_bytes
    parts = ("weights_bytes", "kv_bytes", "arena_bytes")
    assert memory["bytes"] == sum(memory[part] for part in parts)
    assert found["shape"]["kv_heads"] == config.kv_heads


def test_a_gpus_plan_needs_no_gpu(tiny_model: Path) -> None:
    found = fusec("info", tiny_model, "--target", "sm_90a", "--json").json["fusec"]
    assert (found["plan"]["target"], found["plan"]["level"]) == ("sm_90a", 3)


@pytest.mark.slow
def test_windows_and_experts(tmp_path: Path) -> None:
    windowed = synthesize("gemma3", tmp_path / "g.gguf")
    shape = fusec("info", windowed, "--json").json["fusec"]["shape"]
    said = plain(fusec("info", windowed).out)
    assert 0 < shape["windowed_layers"] < shape["layers"]
    assert f" window {shape['window']} positions in {shape['windowed_layers']} layers" in said
    moe = synthesize("qwen3moe", tmp_path / "q.gguf")
    data = fusec("info", moe, "--json").json["fusec"]
    experts = data["shape"]["experts"]
    said = plain(fusec("info", moe).out)
    assert f" experts {experts['used']} of {experts['count']} of width {experts['width']}, " in said
    assert data["plan"]["weights_read_bytes"] < data["memory"]["weights_bytes"]


def test_a_file_that_is_refused_is_shown_with_the_reason(tiny_model: Path, tmp_path: Path) -> None:
    keys = {"general.architecture": "abacus"}
    path = edited(tiny_model, tmp_path / "m.gguf", keys=keys)
    ran = fusec("info", path)
    assert (ran.code, ran.err) == (0, "")
    said = plain(ran.out)
    assert " general.architecture abacus" in said
    reason = f"{path}: architecture 'abacus' is not supported, known: "
    assert f"fusec refuses it: {reason}" in said
    data = fusec("info", path, "--json").json
    assert data["fusec"]["refused"].startswith(reason)
    assert data["metadata"]["general.architecture"] == "abacus"


def test_a_vocabulary_that_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    keys = {"tokenizer.ggml.pre": "abacus"}
    data = fusec("info", edited(tiny_model, tmp_path / "m.gguf", keys=keys), "--json").json
    assert "pre-tokenizer 'abacus' is not supported, known: " in data["vocabulary"]["refused"]
    assert data["vocabulary"]["tokens"] > 0
    assert data["fusec"]["refused"] is None


def test_metadata_alone_takes_no_compiler(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "compile", None)
    assert " llama.block_count " in fusec("info", tiny_model, "--no-plan").out


def test_what_a_file_says_cannot_write_to_the_terminal(tiny_model: Path, tmp_path: Path) -> None:
    keys = {"general.name": "a\x1b[2Jb\nc", "tokenizer.chat_template": "{{ '\x07' }}" * 40}
    ran = fusec("info", edited(tiny_model, tmp_path / "m.gguf", keys=keys))
    assert r"a\x1b[2Jb\nc" in ran.out
    assert "\x1b" not in ran.out
    assert "\x07" not in ran.out
    assert "default (360 characters)" in ran.out


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--context", 10**6], "expected a context from 1 to 512"),
        (["--target", "abacus"], "abacus"),
        (["-O", 9], "9"),
        (["--kv", "q8"], "unknown KV cache type 'q8'"),
    ],
)
def test_wrong_options(tiny_model: Path, options: list[object], reason: str) -> None:
    assert reason in refused("info", tiny_model, "--json", *options)


def test_no_model_file(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_text("not a model")
    assert refused("info", path).startswith(f"{path}: not a GGUF file")
