"""Prompts and options that are refused: one line, exit code 2, and nothing written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.command import fusec, refused

pytestmark = pytest.mark.xdist_group("cli")


RUN: dict[str, tuple[list[str], str]] = {
    "resident sampling": (
        ["-p", "a", "--resident"],
        "--resident chooses the likeliest token: expected --temp 0, found --temp 0.8",
    ),
    "resident on the CPU": (
        ["-p", "a", "--resident", "--temp", "0"],
        "expected a target such as sm_90a, found cpu",
    ),
    "no prompt": ([], "no prompt: give one with -p TEXT, -f FILE, "),
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
    "surrogate": (["-p", "\udcff"], "-p: expected UTF-8 text, found invalid start byte"),
    "too many new": (
        ["-p", "a", "-n", "513"],
        "1 prompt token and 513 new ones do not fit a context of 512: ask for at most ",
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
    "new tokens in words": (
        ["-p", "a", "-n", "ten"],
        "Invalid value for '-n': expected a whole number, found 'ten' (fusec run --help explains)",
    ),
    "temperature in words": (
        ["-p", "a", "--temp", "hot"],
        "Invalid value for '--temp': expected a number, found 'hot' (",
    ),
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
    "seed": (["-p", "a", "--seed", "-1"], "expected seed from 0 to 2^64 - 1, found -1"),
    "large seed": (["-p", "a", "--seed", str(1 << 64)], "expected seed from 0 to 2^64 - 1"),
    "threads": (["-p", "a", "--threads", "-1"], "threads: expected 1 to "),
    "many threads": (["-p", "a", "--threads", "100000"], "threads: expected 1 to "),
    "disable": (
        ["-p", "a", "--disable", "epilog"],
        "disable: no rule or pass 'epilog': did you mean 'epilogue'? known are add-in-l2, ",
    ),
    "option": (["-p", "a", "--frobnicate"], "No such option: --frobnicate"),
    "argument": (["-p", "a", "more"], "unexpected extra argument"),
    "value": (["-p"], "Option '-p' requires an argument"),
}


@pytest.mark.parametrize(("options", "reason"), RUN.values(), ids=RUN)
def test_run_options(tiny_model: Path, options: list[str], reason: str) -> None:
    assert reason in refused("run", tiny_model, *options)


OTHERS: dict[str, tuple[list[str], str]] = {
    "command": (["frobnicate"], "No such command 'frobnicate'"),
    "no model": (["compile"], "Missing argument 'MODEL'"),
    "dump": (
        ["compile", "MODEL", "--dump-after", "fuse-all"],
        "no pass 'fuse-all' at this level: it runs decode-graph, place-weights, split-products, ",
    ),
    "dump of another level": (
        ["compile", "MODEL", "-O1", "--dump-after", "fuse-chain-to-store"],
        "no pass 'fuse-chain-to-store' at this level",
    ),
    "dump behind the stop": (
        ["compile", "MODEL", "--stop-after", "fuse-pairs", "--dump-after", "schedule"],
        "no pass 'schedule' at this level: it runs decode-graph, place-weights, split-products, "
        "factor-norms, group-experts, fix-vectors, fuse-stack, fuse-chain-to-fixed, fuse-prologue, "
        "fuse-pairs",
    ),
    "stop": (["compile", "MODEL", "--stop-after", "last"], "no pass 'last' at this level: it runs"),
    "disable": (
        ["compile", "MODEL", "--disable", "magic"],
        "no rule or pass 'magic': known are add-in-l2, chain, ",
    ),
    "inspect disable": (
        ["inspect", "MODEL", "--disable", ""],
        "no rule or pass '': known are add-in-l2, chain, ",
    ),
    "target": (["compile", "MODEL", "--target", "tpu"], "unknown target 'tpu': known are cpu"),
    "kv": (["compile", "MODEL", "--kv", "f64"], "unknown KV cache type 'f64': known are f16, f32"),
    "context": (["compile", "MODEL", "--context", "0"], "expected a context from 1 to 512"),
    "stage": (
        ["inspect", "MODEL", "--stage", "*"],
        "no stage '*' at -O2: there are decode-graph, ",
    ),
    "verify level": (["verify", "MODEL", "-O", "5"], "unknown level -O5: known are 0, 1, 2, 3"),
    "verify disable": (["verify", "MODEL", "--disable", "magic"], "no rule or pass 'magic': known"),
    "bench disable": (["bench", "MODEL", "--disable", "magic"], "no rule or pass 'magic': known"),
    "verify kv": (["verify", "MODEL", "--kv", "f8"], "unknown KV cache type 'f8': known are f16"),
    "verify none": (
        ["verify", "MODEL", "--tokens", "0"],
        "--tokens: expected 1 to 512, the context",
    ),
    "verify more": (
        ["verify", "MODEL", "--tokens", "600"],
        "--tokens: expected 1 to 512, the context",
    ),
    "verify seed": (["verify", "MODEL", "--seed", "-1"], "--seed: expected 0 to 2^64 - 1"),
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
    "a name": (
        ["inspect", "smolm"],
        "smolm: no such file, and no model of that name: did you mean smollm2?",
    ),
    "a file": (["inspect", "smolm.gguf"], "smolm.gguf: no such file"),
    "dot over the model": (
        ["compile", "MODEL", "--dot", "MODEL"],
        "cannot write here: the file is read as well",
    ),
    "results over the model": (
        ["bench", "MODEL", "-o", "MODEL"],
        "cannot write here: the file is read as well",
    ),
    "html over a link to the model": (
        ["inspect", "LINK", "--html", "MODEL"],
        "cannot write here: the file is read as well",
    ),
    "two outputs in one": (
        ["inspect", "MODEL", "--svg", "NONE", "--html", "NONE"],
        "/none: cannot write here: the file is another output as well",
    ),
    "profile of no model": (
        ["profile", "NONE", "-o", "OTHER", "--trace", "OUT"],
        "/none: no such file",
    ),
    "bench of no model": (["bench", "NONE", "-o", "OTHER"], "/none: no such file"),
    "quantize none": (["quantize", "NONE", "OUT", "Q4_0"], "/none: no such file"),
    "quantize into itself": (
        ["quantize", "MODEL", "MODEL", "Q8_0"],
        "it is the model that is read",
    ),
    "synth long context": (
        ["synth", "tiny", "-o", "OUT", "--context", str(1 << 32)],
        "context is 4294967296, expected 1 to 4294967295",
    ),
    "no levels": (["roofline", "MODEL", "-O", ""], "-O: expected numbers like 1,2, found ''"),
    "long level": (
        ["bench", "MODEL", "-O", "9" * 5000],
        "-O: expected numbers like 1,2, found '999",
    ),
    "no target": (["inspect", "MODEL", "--target", ""], "unknown target '': known are cpu"),
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
    (tmp_path / "other").write_text("results of yesterday")
    (tmp_path / "link").symlink_to(tiny_model)
    unchanged()
    places = {word: str(tmp_path / word.lower()) for word in ("OUT", "OTHER", "LINK")}
    places["MODEL"] = str(tiny_model)
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
    for off in ("0", ""):
        monkeypatch.setenv("FUSEC_DEBUG", off)
        assert fusec("run", tiny_model, "-p", "").err.startswith("error: ")
