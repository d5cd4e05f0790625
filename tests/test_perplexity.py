"""Perplexity against a plain float64 computation by the reference interpreter."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest

from fusec import driver, perplexity
from fusec.backends.cpu import Cpu
from fusec.ir import Reference
from fusec.models.model import Model
from fusec.passes.pipeline import LEVELS
from fusec.perplexity import Perplexity, chunk_scores, measure
from fusec.runtime.engine import Engine
from tests.command import fusec, refused
from tests.gguf_edit import edited

CONTEXT = 32
TEXT = "A fox ran over the hill. \u00c4pfel, 12 of them, lay there: <|im_end|> said nobody!\n" * 3


def by_hand(path: Path, ids: list[int], context: int, bos: int | None = None) -> tuple[float, int]:
    """Mean negative log-likelihood in nats, token by token, and the number of tokens scored."""
    model = Model.open(path)
    graph = model.graph(tokens=1, context=context)
    losses = []
    for start in range(0, len(ids) - context + 1, context):
        reference = Reference(graph, model.floats)
        for position in range(context - 1):
            token = bos if bos is not None and position == 0 else ids[start + position]
            logits = reference.step(token=np.array([token]), pos=np.array([position]))["logits"][0]
            if position >= context // 2:
                total = sum(math.exp(x) for x in logits.tolist())
                losses.append(math.log(total) - logits[ids[start + position + 1]])
    return sum(losses) / len(losses), len(losses)


def distances(path: Path, base: Path, ids: list[int], context: int) -> tuple[float, float]:
    """Mean divergence and share of equal likeliest tokens, by sums over probabilities."""
    logits = []
    for file in (path, base):
        model = Model.open(file)
        graph = model.graph(tokens=context, context=context)
        rows = []
        for start in range(0, len(ids) - context + 1, context):
            part = np.array(ids[start : start + context])
            step = Reference(graph, model.floats).step(token=part, pos=np.arange(context))
            rows += list(step["logits"][context // 2 : context - 1])
        logits.append(rows)
    total, same = 0.0, 0
    for found, wanted in zip(*logits, strict=True):
        p, q = (np.exp(x) / np.exp(x).sum() for x in (wanted, found))
        total += sum(a * math.log(a / b) for a, b in zip(p.tolist(), q.tolist(), strict=True))
        same += int(p.argmax() == q.argmax())
    return total / len(logits[0]), same / len(logits[0])


def check(found: Perplexity, nll: float, scored: int) -> None:
    assert found.scored == scored
    assert found.nll == pytest.approx(nll, rel=1e-4)
    assert found.value == pytest.approx(math.exp(nll), rel=1e-3)


@pytest.fixture
def unsure(tiny_model: Path, tmp_path: Path) -> Path:
    """The tiny model with smaller embeddings: as they are tied, it would only repeat its input."""
    model = Model.open(tiny_model)
    embedding = 0.6 * model.floats("token_embd.weight")
    return edited(tiny_model, tmp_path / "m.gguf", tensors={"token_embd.weight": embedding})


@pytest.mark.slow
def test_against_the_reference(unsure: Path) -> None:
    ids = Model.open(unsure).tokenizer.encode(TEXT[:-1], special=False)
    nll, scored = by_hand(unsure, ids, CONTEXT)
    found = measure(unsure, TEXT, context=CONTEXT, kv="f32")
    check(found, nll, scored)
    assert found.chunks == len(ids) // CONTEXT > 2
    assert abs(nll - math.log(512)) > 0.1  # not what guessing gives


def test_the_error_is_that_of_the_mean(unsure: Path) -> None:
    """Two measurements of disjoint halves differ by about their errors, not by ten times that."""
    parts = [measure(unsure, TEXT[at:], context=CONTEXT, chunks=2) for at in (0, 100)]
    apart = abs(parts[0].value - parts[1].value)
    assert 0 < apart < 5 * max(part.error for part in parts)


@pytest.mark.slow
def test_bos_takes_the_place_of_a_chunks_first_token(unsure: Path, tmp_path: Path) -> None:
    keys = {"tokenizer.ggml.add_bos_token": True}
    path = edited(unsure, tmp_path / "bos.gguf", keys=keys)
    tokenizer = Model.open(path).tokenizer
    ids = tokenizer.encode(TEXT[:-1], special=False)
    assert ids[0] == tokenizer.bos is not None
    nll, scored = by_hand(path, ids, CONTEXT, tokenizer.bos)
    check(measure(path, TEXT, context=CONTEXT, kv="f32"), nll, scored)


@pytest.mark.slow
def test_control_tokens_are_text_unless_asked_for(unsure: Path) -> None:
    tokenizer = Model.open(unsure).tokenizer
    text, special = (tokenizer.encode(TEXT[:-1], special=flag) for flag in (False, True))
    assert len(text) > len(special)
    found = measure(unsure, TEXT, context=CONTEXT, kv="f32", special=True)
    check(found, *by_hand(unsure, special, CONTEXT))


@pytest.mark.slow
def test_divergence_from_a_base_model(unsure: Path, tmp_path: Path) -> None:
    coarse = np.round(Model.open(unsure).floats("token_embd.weight"), 1)
    path = edited(unsure, tmp_path / "b.gguf", tensors={"token_embd.weight": coarse})
    ids = Model.open(path).tokenizer.encode(TEXT[:-1], special=False)
    found = measure(path, TEXT, base=unsure, context=CONTEXT, kv="f32")
    divergence, same = distances(path, unsure, ids, CONTEXT)
    assert found.divergence == pytest.approx(divergence, rel=1e-3)
    assert found.same_top == pytest.approx(same)
    assert divergence > 1e-4
    assert 0 < same < 1
    itself = measure(path, TEXT, base=path, context=CONTEXT)
    assert (itself.divergence, itself.same_top) == (0, 1)


def test_a_base_with_another_vocabulary_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    tokens = Model.open(tiny_model).file.get("tokenizer.ggml.tokens", list)
    keys = {"tokenizer.ggml.tokens": [*tokens[:-1], "other"]}
    path = edited(tiny_model, tmp_path / "other.gguf", keys=keys)
    text = tmp_path / "text.txt"
    text.write_text(TEXT, encoding="utf-8")
    said = refused("perplexity", tiny_model, text, "-c", CONTEXT, "--base", path)
    assert said.startswith(f"{path}: expected the vocabulary of {tiny_model}")


@pytest.mark.slow
def test_levels_agree_to_the_last_bit(tiny_model: Path) -> None:
    values = {measure(tiny_model, TEXT, context=CONTEXT, level=level).value for level in LEVELS}
    assert len(values) == 1


@pytest.mark.parametrize("vocabulary", [7, 600, perplexity.BLOCK + 1])
def test_scores_are_those_of_float64(vocabulary: int) -> None:
    """In blocks of many rows, of which the last is not full, and of one."""
    random = np.random.default_rng(2)
    length = 300 if vocabulary < 1000 else 6
    ids = [int(i) for i in random.integers(0, vocabulary, length)]
    model = 9 * random.standard_normal((length - 1 - length // 2, vocabulary), dtype=np.float32)
    base = model + 0.05 * random.standard_normal(model.shape, dtype=np.float32)
    p, q = (np.exp(x.astype(np.float64)) for x in (base, model))
    p, q = (x / x.sum(axis=-1, keepdims=True) for x in (p, q))
    losses, divergences, same = chunk_scores([model, base], ids)
    wanted = [-math.log(row[i]) for row, i in zip(q, ids[length // 2 + 1 :], strict=True)]
    assert losses == pytest.approx(wanted, rel=1e-6, abs=1e-6)
    assert divergences == pytest.approx((p * np.log(p / q)).sum(axis=-1), rel=1e-4, abs=1e-7)
    assert same.tolist() == [float(a == b) for a, b in zip(p.argmax(-1), q.argmax(-1), strict=True)]
    assert chunk_scores([model], ids).tolist() == [losses.tolist()]


def test_a_token_that_is_ruled_out() -> None:
    logits = np.array([[0, -np.inf, 0, 0]], np.float32)
    assert chunk_scores([logits], [0, 0, 0, 1]).tolist() == [[math.inf]]
    assert chunk_scores([logits], [0, 0, 0, 2])[0] == pytest.approx(math.log(3))


def test_a_chunk_is_one_step_where_it_can_be(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plan for as many tokens as a chunk has: no step of fewer, and none of decode's."""
    load, taken = driver.load, []

    def counted(*args: object, **options: object) -> Engine:
        engine = load(*args, **options)  # type: ignore[arg-type]
        for name in ("decode", "prefill", "absorb"):
            session = getattr(engine, name)

            def step(*, name=name, step=session.step, **inputs):
                taken.append((name, len(inputs["token"])))
                return step(**inputs)

            session.step = step
        return engine

    wanted = measure(tiny_model, TEXT, context=CONTEXT).value
    monkeypatch.setattr(Cpu, "prefill_tokens", CONTEXT)
    monkeypatch.setattr(driver, "load", counted)
    found = measure(tiny_model, TEXT, context=CONTEXT)
    assert taken == [("prefill", CONTEXT)] * found.chunks
    assert found.value == wanted


def test_the_command(tiny_model: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text(TEXT, encoding="utf-8")
    data = fusec("perplexity", tiny_model, text, "-c", CONTEXT, "--json").json
    assert data["scored"] == data["chunks"] * (CONTEXT // 2 - 1)
    printed = fusec("perplexity", tiny_model, text, "--ctx", CONTEXT, "--chunks", 2, "-O0").out
    assert re.fullmatch(
        r"perplexity \d+\.\d{4} \+/- \d+\.\d{5} over 30 tokens: 2 chunks of 32, \d+\.\d s\n",
        printed,
    )


@pytest.mark.parametrize(
    ("content", "options", "reason"),
    [
        (
            b"short",
            [],
            "the text has 4 tokens, expected at least 64, two chunks: take a longer text, ",
        ),
        (b"a\n\xff\xfe", [], "expected UTF-8 text, found invalid start byte in line 2, 0xff"),
        (None, [], "cannot be read: No such file or directory"),
        (TEXT.encode(), ["-c", 3], "--context: expected 4 tokens or more, found 3"),
        (TEXT.encode(), ["-c", 513], "expected a context from 1 to 512"),
        (TEXT.encode(), ["--chunks", 0], "--chunks: expected a number from 1, found 0"),
        (TEXT.encode(), ["--target", "abacus"], "abacus"),
        (TEXT.encode(), ["-O", 9], "9"),
    ],
)
def test_what_is_refused(
    tiny_model: Path, tmp_path: Path, content: bytes | None, options: list[object], reason: str
) -> None:
    text = tmp_path / "text.txt"
    if content is not None:
        text.write_bytes(content)
    assert reason in refused("perplexity", tiny_model, text, "-c", CONTEXT, *options)
