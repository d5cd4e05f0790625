"""Files that are no model, or a damaged one: one line, exit code 2, and nothing written."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fusec.models.gguf_file import open_gguf
from tests.command import fusec, refused
from tests.gguf_edit import edited

pytestmark = pytest.mark.xdist_group("cli")

Damage = Callable[[Path, Path], None]


def patched(at: bytes, skip: int, new: bytes) -> Damage:
    """Overwrite bytes `skip` behind the first place that holds `at`."""

    def damage(good: Path, bad: Path) -> None:
        content = bytearray(good.read_bytes())
        start = content.index(at) + len(at) + skip
        content[start : start + len(new)] = new
        bad.write_bytes(content)

    return damage


def cut(share: float) -> Damage:
    def damage(good: Path, bad: Path) -> None:
        content = good.read_bytes()
        bad.write_bytes(content[: int(len(content) * share)])

    return damage


def changed(**changes: dict) -> Damage:
    def damage(good: Path, bad: Path) -> None:
        edited(good, bad, **changes)

    return damage


HUGE = struct.pack("<Q", 1 << 60)
# behind a tensor's name: u32 rank, u64 sizes, u32 type, u64 offset
NORM, MATRIX = b"output_norm.weight", b"blk.0.attn_q.weight"
ONES = np.ones((4, 4), np.float32)
FILES: dict[str, tuple[Damage, str]] = {
    "truncated header": (cut(0.01), "truncated"),
    "truncated weights": (cut(0.9), "past the end of the file"),
    "empty": (cut(0), "the file is empty"),
    "wrong magic": (
        lambda good, bad: bad.write_bytes(b"GGML" + good.read_bytes()[4:]) and None,
        "not a GGUF file: it starts with b'GGML', expected b'GGUF'",
    ),
    "offset past the end": (patched(NORM, 16, HUGE), "'output_norm.weight' takes bytes"),
    "huge tensor count": (patched(b"GGUF\3\0\0\0", 0, HUGE), "tensor count is 1152921504606846976"),
    "huge key count": (patched(b"GGUF\3\0\0\0", 8, HUGE), "key count is 1152921504606846976"),
    "huge array": (patched(b"tokenizer.ggml.tokens", 8, HUGE), "'tokenizer.ggml.tokens' is 11529"),
    "huge shape": (patched(MATRIX, 4, HUGE), "'blk.0.attn_q.weight' takes bytes"),
    "unknown type": (
        patched(MATRIX, 20, b"\xff"),
        "tensor 'blk.0.attn_q.weight' has unknown type 255",
    ),
    "known type without an emitter": (
        patched(NORM, 12, struct.pack("<I", 28)),  # f64: twice the bytes, but the last tensor
        "output_norm.weight",
    ),
    "unsupported type": (
        changed(tensors={"blk.0.attn_q.weight": np.zeros((96, 96), np.float64)}),
        "tensor 'blk.0.attn_q.weight' is f64; supported are bf16, f16, f32, ",
    ),
    "missing key": (
        changed(keys={"llama.block_count": None}),
        "metadata key 'llama.block_count' is missing",
    ),
    "key of another type": (
        changed(keys={"llama.block_count": "eight"}),
        "metadata key 'llama.block_count' should be int, found str",
    ),
    "missing tensor": (
        changed(tensors={"blk.3.ffn_up.weight": None}),
        "tensor 'blk.3.ffn_up.weight' is missing",
    ),
    "wrong shape": (
        changed(tensors={"blk.3.ffn_up.weight": ONES}),
        "tensor 'blk.3.ffn_up.weight' should have shape (256, 96), found (4, 4)",
    ),
    "tensor too many": (
        changed(tensors={"blk.0.attn_q.gain": ONES[0]}),
        "tensor 'blk.0.attn_q.gain' is not part of a llama model",
    ),
    "unknown architecture": (
        changed(keys={"general.architecture": "mamba"}),
        "architecture 'mamba' is not supported, known: ",
    ),
    "fewer tokens than rows": (
        changed(
            keys={
                "tokenizer.ggml.tokens": ["a", "b"],
                "tokenizer.ggml.token_type": [1, 1],
            }
        ),
        "tokenizer.ggml.tokens has 2 tokens, expected 512 as token_embd.weight has rows",
    ),
}


@pytest.mark.parametrize(("damage", "reason"), FILES.values(), ids=FILES)
def test_damaged_models(
    tiny_model: Path,
    tmp_path: Path,
    unchanged: Callable[[], None],
    damage: Damage,
    reason: str,
) -> None:
    path = tmp_path / "bad.gguf"
    damage(tiny_model, path)
    unchanged()
    message = refused("compile", path, "-o", tmp_path / "out", "--dot", tmp_path / "x.dot")
    assert message.startswith(f"{path}: ")
    assert reason in message
    for command in (["run", path, "-p", "a"], ["inspect", path, "--json"], ["verify", path]):
        assert refused(*command) == message


def test_paths_that_are_no_model(tmp_path: Path) -> None:
    assert refused("run", tmp_path / "none.gguf", "-p", "a").endswith("none.gguf: no such file")
    folder = f"{tmp_path}: expected a GGUF file, found a folder (those of fusec compile -o can be"
    assert refused("compile", tmp_path).startswith(folder)
    device = f"{os.devnull}: expected a GGUF file, found something that is no file"
    assert refused("run", os.devnull, "-p", "a") == device
    message = refused("run", tmp_path, "-p", "a")
    assert message == (
        f"{tmp_path}: expected a folder written by 'fusec compile -o', found no fusec.json"
    )


def test_a_file_without_a_vocabulary(tiny_model: Path, tmp_path: Path) -> None:
    keys = {key: None for key in open_gguf(tiny_model).metadata if key.startswith("tokenizer.")}
    path = edited(tiny_model, tmp_path / "mute.gguf", keys)
    assert "mute.gguf: the file has no vocabulary" in refused("run", path, "-p", "hello")
    assert "no chat template" in refused("run", path, "--chat")
    found = fusec("run", path, "--prompt-ids", "3", "-n", "4", "--json").json
    assert found["text"] is None
    assert len(found["ids"]) == 4
    ran = fusec("run", path, "--prompt-ids", "3", "-n", "4")
    assert ran.out == " ".join(map(str, found["ids"])) + "\n"


def test_a_file_whose_tokenizer_is_unknown_still_runs_on_ids(
    tiny_model: Path, tmp_path: Path
) -> None:
    path = edited(tiny_model, tmp_path / "odd.gguf", {"tokenizer.ggml.pre": "martian"})
    assert "pre-tokenizer 'martian' is not supported" in refused("run", path, "-p", "hello")
    ran = fusec("run", path, "--prompt-ids", "3", "-n", "4", "--json")
    assert ran.json["text"] is None
    assert ran.err.startswith("note: ")
    assert "'martian'" in ran.err
