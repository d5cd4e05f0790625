"""What the command line refuses: one line, exit code 2, and nothing written."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from fusec.models.gguf_file import open_gguf
from tests.command import fusec, refused
from tests.gguf_edit import edited

pytestmark = pytest.mark.xdist_group("cli")

Damage = Callable[[Path, Path], None]


def contents(folder: Path) -> dict[str, bytes | None]:
    return {
        str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None
        for p in folder.rglob("*")
    }


@pytest.fixture
def unchanged(tmp_path: Path) -> Iterator[Callable[[], None]]:
    """Call it when the folder is as it should stay; the end of the test compares."""
    before: list[dict[str, bytes | None]] = []
    yield lambda: before.append(contents(tmp_path))
    assert before == [contents(tmp_path)]


# --- files ---------------------------------------------------------------------------------------


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
        changed(tensors={"blk.0.attn_q.bias": ONES[0]}),
        "tensor 'blk.0.attn_q.bias' is not part of a llama model",
    ),
    "unknown architecture": (
        changed(keys={"general.architecture": "mamba"}),
        "architecture 'mamba' is not supported, known: llama",
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
    assert refused("compile", tmp_path).endswith(": not a file")
    assert refused("run", os.devnull, "-p", "a") == f"{os.devnull}: not a file"
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


# --- prompts and options -------------------------------------------------------------------------

RUN: dict[str, tuple[list[str], str]] = {
    "no prompt": ([], "no prompt: give one with -p TEXT, --prompt-ids 1,2,3 or --chat"),
    "empty text": (["-p", ""], "the prompt is empty: expected some text behind -p"),
    "empty ids": (["--prompt-ids", ""], "the prompt is empty: expected numbers like 1,2,3"),
    "blank ids": (["--prompt-ids", " "], "the prompt is empty: expected numbers like 1,2,3"),
    "no id": (["--prompt-ids", ","], "expected numbers like 1,2,3, found ''"),
    "an id left out": (["--prompt-ids", "1,,2"], "expected numbers like 1,2,3, found ''"),
    "word": (["--prompt-ids", "1,x"], "expected numbers like 1,2,3, found 'x'"),
    "two signs": (["--prompt-ids=--1"], "expected numbers like 1,2,3, found '--1'"),
    "odd digit": (["--prompt-ids", "²"], "expected numbers like 1,2,3, found '²'"),
    "float": (["--prompt-ids", "1.0"], "expected numbers like 1,2,3, found '1.0'"),
    "long number": (["--prompt-ids", "9" * 5000], "found '9999999999999999999999999999999999999"),
    "id too large": (
        ["--prompt-ids", "1,512"],
        "token 512 is out of vocabulary: expected 0 to 511",
    ),
    "id below 0": (["--prompt-ids=-1"], "token -1 is out of vocabulary: expected 0 to 511"),
    "text and ids": (["-p", "a", "--prompt-ids", "1"], "given twice, as --prompt-ids and as text"),
    "ids and chat": (["--chat", "--prompt-ids", "1"], "given twice, as --prompt-ids and as --chat"),
    "json conversation": (["--chat", "--json"], "--json takes one prompt"),
    "surrogate": (["-p", "\udcff"], "the text has a lone surrogate"),
    "too many new": (
        ["-p", "a", "-n", "513"],
        "prompt tokens and 513 new ones do not fit a context of 512: ask for at most ",
    ),
    "more than the context": (
        ["--prompt-ids", "1,2,3", "-n", "9", "--context", "10"],
        "3 prompt tokens and 9 new ones do not fit a context of 10: ask for at most 8 new tokens",
    ),
    "long prompt": (
        ["--prompt-ids", "1,2,3", "--context", "2"],
        "the prompt has 3 tokens, the context 2: shorten it or ask for a larger context",
    ),
    "fewer than none": (
        ["-p", "a", "-n", "-1"],
        "-n: expected a number of tokens from 0, found -1",
    ),
    "new tokens in words": (["-p", "a", "-n", "ten"], "Invalid value for '-n'"),
    "context 0": (["-p", "a", "--context", "0"], "expected a context from 1 to 512"),
    "context below 0": (["-p", "a", "--context", "-3"], "expected a context from 1 to 512"),
    "context too long": (
        ["-p", "a", "--context", "513"],
        "expected a context from 1 to 512, which the model was trained for, found 513",
    ),
    "level": (["-p", "a", "-O", "9"], "unknown level -O9: known are 0, 1, 2, 3"),
    "level in words": (["-p", "a", "-Ofast"], "Invalid value for '-O' / '--level'"),
    "target": (["-p", "a", "--target", "tpu"], "unknown target 'tpu': known are cpu"),
    "kv": (["-p", "a", "--kv", "q8_0"], "unknown KV cache type 'q8_0': known are f16, f32"),
    "temperature": (["-p", "a", "--temp", "-1"], "expected temperature at least 0, found -1.0"),
    "no temperature": (["-p", "a", "--temp", "nan"], "expected temperature at least 0, found nan"),
    "hot": (["-p", "a", "--temp", "inf"], "expected temperature at least 0, found inf"),
    "top-k": (["-p", "a", "--top-k", "-1"], "expected top_k at least 0, found -1"),
    "top-p": (["-p", "a", "--top-p", "0"], "expected top_p above 0 and up to 1, found 0.0"),
    "top-p above 1": (["-p", "a", "--top-p", "1.5"], "expected top_p above 0 and up to 1"),
    "min-p": (["-p", "a", "--min-p", "2"], "expected min_p from 0 to 1, found 2.0"),
    "penalty": (["-p", "a", "--repeat-penalty", "0"], "expected repeat_penalty above 0"),
    "seed": (["-p", "a", "--seed", "-1"], "expected seed from 0 to 2^128 - 1, found -1"),
    "large seed": (["-p", "a", "--seed", str(1 << 128)], "expected seed from 0 to 2^128 - 1"),
    "threads": (["-p", "a", "--threads", "-1"], "threads: expected 1 to "),
    "many threads": (["-p", "a", "--threads", "1000"], "threads: expected 1 to "),
    "option": (["-p", "a", "--frobnicate"], "No such option: --frobnicate"),
    "argument": (["-p", "a", "more"], "unexpected extra argument"),
    "value": (["-p"], "Option '-p' requires an argument"),
}


@pytest.mark.parametrize(("options", "reason"), RUN.values(), ids=RUN)
def test_run_options(tiny_model: Path, options: list[str], reason: str) -> None:
    assert reason in refused("run", tiny_model, *options)


OTHERS: dict[str, tuple[list[str], str]] = {
    "command": (["frobnicate"], "No such command 'frobnicate'"),
    "no model": (["compile"], "Missing argument 'MODEL.gguf'"),
    "dump": (
        ["compile", "MODEL", "--dump-after", "fuse-all"],
        "no pass 'fuse-all' at this level: it runs decode-graph, factor-norms, fuse-matvecs, ",
    ),
    "dump of another level": (
        ["compile", "MODEL", "-O1", "--dump-after", "fuse-rope-kv-write"],
        "no pass 'fuse-rope-kv-write' at this level",
    ),
    "dump behind the stop": (
        ["compile", "MODEL", "--stop-after", "fuse-ropes", "--dump-after", "schedule"],
        "no pass 'schedule' at this level: it runs decode-graph, factor-norms, fuse-matvecs, "
        "fuse-norm-matvec, fuse-ropes",
    ),
    "stop": (["compile", "MODEL", "--stop-after", "last"], "no pass 'last' at this level: it runs"),
    "disable": (
        ["compile", "MODEL", "--disable", "magic"],
        "no rule 'magic': known are combine-matvec, ",
    ),
    "inspect disable": (["inspect", "MODEL", "--disable", ""], "no rule '': known are combine-"),
    "target": (["compile", "MODEL", "--target", "tpu"], "unknown target 'tpu': known are cpu"),
    "kv": (["compile", "MODEL", "--kv", "f64"], "unknown KV cache type 'f64': known are f16, f32"),
    "context": (["compile", "MODEL", "--context", "0"], "expected a context from 1 to 512"),
    "stage": (
        ["inspect", "MODEL", "--stage", "*"],
        "no stage '*' at -O2: there are decode-graph, ",
    ),
    "verify level": (["verify", "MODEL", "-O", "5"], "unknown level -O5: known are 0, 1, 2, 3"),
    "verify kv": (["verify", "MODEL", "--kv", "f8"], "unknown KV cache type 'f8': known are f16"),
    "verify none": (["verify", "MODEL", "--tokens", "0"], "expected 1 to 512 tokens"),
    "verify more": (["verify", "MODEL", "--tokens", "600"], "expected 1 to 512 tokens"),
    "verify seed": (["verify", "MODEL", "--seed", "-1"], "expected a seed from 0 to 2^128 - 1"),
    "preset": (["synth", "gpt-5", "-o", "OUT"], "unknown preset 'gpt-5', known: smollm2-135m, "),
    "quant": (
        ["synth", "tiny", "-o", "OUT", "--quant", "Q1"],
        "unknown quantisation 'Q1', known: F",
    ),
    "quantize mix": (
        ["quantize", "MODEL", "OUT", "Q1"],
        "unknown quantisation 'Q1', known: F",
    ),
    "quantize again": (["quantize", "MODEL", "OUT", "Q4_0"], "is iq4_nl already, and to quantise"),
    "quantize none": (["quantize", "NONE", "OUT", "Q4_0"], "/none: no such file"),
    "quantize into itself": (
        ["quantize", "MODEL", "MODEL", "Q8_0"],
        "it is the model that is read",
    ),
    "synth context": (["synth", "tiny", "-o", "OUT", "--context", "0"], "context is 0, expected"),
    "tokenizer": (["synth", "tiny", "-o", "OUT", "--tokenizer", "NONE"], "/none: no such file"),
    "tokenizer json": (
        ["synth", "tiny", "-o", "OUT", "--tokenizer", "NONE.json"],
        "/none.json: cannot be read: No such file",
    ),
    "no output": (["synth", "tiny"], "Missing option '-o'"),
    "output without a folder": (
        ["synth", "tiny", "-o", "NONE/x"],
        "cannot be written: No such file",
    ),
    "dot without a folder": (["inspect", "MODEL", "--dot", "NONE/x"], "cannot write here: No such"),
    "dot without a name": (["inspect", "MODEL", "--dot", ""], "expected the name of a file"),
}


@pytest.mark.parametrize(("command", "reason"), OTHERS.values(), ids=OTHERS)
def test_options_of_other_commands(
    tiny_model: Path,
    tmp_path: Path,
    unchanged: Callable[[], None],
    command: list[str],
    reason: str,
) -> None:
    unchanged()
    places = {"MODEL": str(tiny_model), "OUT": str(tmp_path / "out")}
    none = str(tmp_path / "none")
    words = [places.get(word, word.replace("NONE", none)) for word in command]
    assert reason in refused(*words)


def test_contradictions_are_found_before_anything_is_compiled(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FUSEC_CACHE_DIR", str(tmp_path / "cache"))
    refused("run", tiny_model, "--prompt-ids", "600")
    refused("run", tiny_model, "--prompt-ids", "1", "-n", 600)
    (tmp_path / "file").touch()
    refused("compile", tiny_model, "-o", tmp_path / "file")
    refused("compile", tiny_model, "--dot", tmp_path / "none" / "x.dot")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("value", ["abc", "0", "-1", "1.5", "9999"])
def test_threads_from_the_environment(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("FUSEC_THREADS", value)
    assert "hreads" in refused("run", tiny_model, "-p", "a").replace("THREADS", "hreads")


def test_a_cache_that_cannot_be_written(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("FUSEC_CACHE_DIR", str(tmp_path / "file" / "cache"))
    for command in (["run", tiny_model, "-p", "a"], ["compile", tiny_model, "-o", tmp_path / "o"]):
        message = refused(*command)
        assert message.startswith(f"{tmp_path}/file/cache: expected a writable cache folder")
        assert "FUSEC_CACHE_DIR" in message
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_debug_shows_the_traceback(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSEC_DEBUG", "1")
    ran = fusec("run", tiny_model, "-p", "")
    assert ran.code == 2
    assert ran.err.startswith("Traceback (most recent call last):\n")
    assert "in ids\n" in ran.err
    assert ran.err.endswith("\nerror: the prompt is empty: expected some text behind -p\n")


# --- output folders ------------------------------------------------------------------------------


def test_outputs_that_are_taken(
    tiny_model: Path, tmp_path: Path, unchanged: Callable[[], None]
) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("years of work")
    (tmp_path / "file").write_text("precious")
    unchanged()
    message = refused("compile", tiny_model, "-o", tmp_path / "other")
    assert message == (
        f"{tmp_path}/other: expected a new or empty folder, or one that fusec compile wrote; "
        f"found other files"
    )
    message = refused("compile", tiny_model, "-o", tmp_path / "file")
    assert message == f"{tmp_path}/file: expected a folder to write to, found a file"
    message = refused("compile", tiny_model, "-o", tmp_path / "file" / "below")
    assert message == f"{tmp_path}/file/below: cannot write here: Not a directory"
    message = refused("inspect", tiny_model, "--dot", tmp_path / "other")
    assert message == f"{tmp_path}/other: cannot write here: Is a directory"
    message = refused("synth", "tiny", "-o", tmp_path / "other")
    assert message == f"{tmp_path}/other: cannot be written: it is a folder"
    refused("synth", "tiny", "-o", tmp_path / "file" / "x.gguf")


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs a place nobody can write to")
def test_outputs_nobody_can_write(tiny_model: Path) -> None:
    assert refused("compile", tiny_model, "-o", "/proc/x").startswith("/proc/x: cannot write here")
    assert "cannot" in refused("synth", "tiny", "-o", "/proc/x")
    assert "cannot" in refused("inspect", tiny_model, "--dot", "/proc/x")


# --- compiled folders ----------------------------------------------------------------------------


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path) -> Path:
    """A compiled folder beside a copy of its model."""
    model = tmp_path / "m.gguf"
    model.write_bytes(tiny_model.read_bytes())
    assert fusec("compile", model, "-o", tmp_path / "dir", "--context", 32).code == 0
    return tmp_path / "dir"


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no manifest": (lambda d: (d / "fusec.json").unlink(), "found no fusec.json"),
    "manifest of bytes": (
        lambda d: (d / "fusec.json").write_bytes(b"\xff\0"),
        "fusec.json: damaged",
    ),
    "manifest cut": (lambda d: (d / "fusec.json").write_text("{"), "fusec.json: damaged"),
    "manifest a list": (lambda d: (d / "fusec.json").write_text("[1]"), "fusec.json: damaged"),
    "manifest empty": (lambda d: (d / "fusec.json").write_text("{}"), "fusec.json: damaged"),
    "manifest deep": (lambda d: (d / "fusec.json").write_text("[" * 99999), "fusec.json: damaged"),
    "another version": (
        lambda d: edit_json(d / "fusec.json", version=99),
        "fusec.json: expected version 2, found 99: compile again",
    ),
    "context edited": (lambda d: edit_json(d / "fusec.json", context=4096), "fusec.json: damaged"),
    "report gone": (lambda d: edit_json(d / "fusec.json", report=None), "fusec.json: damaged"),
    "plan cut": (
        lambda d: (d / "plan.json").write_text((d / "plan.json").read_text()[:999]),
        "plan.json: not as fusec compile wrote it: compile again",
    ),
    "plan edited": (
        lambda d: edit_json(d / "plan.json", arena_bytes=16),
        "plan.json: not as fusec",
    ),
    "plan gone": (lambda d: (d / "plan.json").unlink(), "plan.json: missing: compile again"),
    "prefill gone": (lambda d: (d / "prefill.json").unlink(), "prefill.json: missing"),
    "kernel gone": (
        lambda d: next((d / "kernels").glob("attention*")).unlink(),
        ".py: missing: compile again",
    ),
    "kernel edited": (
        lambda d: next((d / "kernels").glob("embed*")).write_text("print('surprise')"),
        ".py: not as fusec compile wrote it",
    ),
    "kernel a folder": (
        lambda d: [next((d / "kernels").glob("embed*")).unlink()] and (d / "kernels" / "x").mkdir(),
        ".py: missing",
    ),
    "model gone": (lambda d: (d.parent / "m.gguf").unlink(), "m.gguf is gone: compile again"),
    "model changed": (
        lambda d: edited(d.parent / "m.gguf", d.parent / "n", {"general.name": "x"}).replace(
            d.parent / "m.gguf"
        ),
        "m.gguf has changed since: compile again",
    ),
    "model cut": (
        lambda d: (d.parent / "m.gguf").write_bytes((d.parent / "m.gguf").read_bytes()[:5000]),
        "m.gguf: ",
    ),
}


@pytest.mark.parametrize(("damage", "reason"), DAMAGES.values(), ids=DAMAGES)
def test_damaged_folders(folder: Path, damage: Callable[[Path], object], reason: str) -> None:
    damage(folder)
    message = refused("run", folder, "-p", "a")
    assert reason in message
    assert message.startswith(str(folder.parent))


def test_damaged_folders_are_not_inspected(folder: Path) -> None:
    (folder / "stages" / "10-schedule.ir").write_text("graph")
    assert "10-schedule.ir: not as fusec compile wrote it" in refused("inspect", folder)
    assert "no stage 'none': there are decode-graph, " in refused(
        "inspect", folder, "--stage", "none"
    )
    edit_json(folder / "fusec.json", report={})
    assert "fusec.json: damaged" in refused("inspect", folder, "--json")


def test_a_damaged_folder_of_ours_is_replaced(folder: Path) -> None:
    (folder / "plan.json").unlink()
    model = folder.parent / "m.gguf"
    assert fusec("compile", model, "-o", folder, "--context", 32).code == 0
    assert fusec("run", folder, "--prompt-ids", "1", "-n", 1).code == 0


@pytest.mark.parametrize(
    "option", [["-O", "1"], ["--context", "8"], ["--kv", "f16"], ["--target", "cpu"]]
)
def test_compiler_options_come_too_late_for_a_folder(folder: Path, option: list[str]) -> None:
    wanted = f"{folder} is compiled already: {option[0]} comes too late"
    assert refused("run", folder, "-p", "a", *option) == wanted
    assert refused("inspect", folder, *option) == wanted


def test_the_prompt_has_to_fit_a_folders_context(folder: Path) -> None:
    message = refused("run", folder, "--prompt-ids", "1,2,3", "-n", 31)
    assert "do not fit a context of 32: ask for at most 30 new tokens" in message
