"""Calls of the library with something else than they expect: a FusecError says what and where.

What a session, a rule and an op's registration refuse is tested with them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fusec
from fusec.models.model import Model


def toy() -> fusec.Graph:
    b = fusec.Builder("toy")
    return b.build(b.matvec(b.input("x", (1, 64)), b.weight("w", (32, 64)), name="y"))


def built(make: Callable[[fusec.Builder, fusec.Value], Any]) -> Callable[[], Any]:
    def call() -> Any:
        b = fusec.Builder("toy")
        return make(b, b.input("x", (1, 64)))

    return call


MODEL = "expected a GGUF file, the name of a model, or an opened Model"
SHAPE = r"expected a shape of whole numbers from 1, such as \(1, 64\), found"


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda: fusec.load(3), f"^model: {MODEL}, found 3$"),
        (lambda: fusec.load(None), f"^model: {MODEL}, found None$"),
        (lambda: fusec.load(toy()), f"^model: {MODEL}, found Graph$"),
        (lambda: fusec.compile(3), f"^model: {MODEL}, or a Graph, found 3$"),
        (lambda: fusec.parse(3), "^parse: expected the text of a graph, found 3$"),
        (lambda: fusec.compile(toy()).save(3), "^folder: expected a folder, found 3$"),
        (lambda: fusec.compile(toy()).session(3), "^toy: expected weights as a dict of .* found 3"),
        (lambda: fusec.compile(toy(), target=3), "^target: expected one of cpu, .* found 3$"),
        (lambda: fusec.compile(toy(), target=["cpu"]), "^target: .* found list$"),
        (lambda: fusec.compile(toy(), level="2"), "^level: expected a whole number, found '2'$"),
        (lambda: fusec.compile(toy(), level=True), "^level: expected a whole number, found True$"),
        (lambda: fusec.compile(toy(), level=1.0), "^level: expected a whole number, found 1.0$"),
        (lambda: fusec.compile(toy(), rules=3), "^rules: expected a list of fusec.Rule .* found 3"),
        (lambda: fusec.compile(toy(), disable=3), "^disable: expected names of rules .* found 3$"),
        (lambda: fusec.compile(toy(), disable=[3]), "^disable: expected names of rules .* found 3"),
        (lambda: fusec.compile(toy(), outputs=[3]), "^outputs: expected names of values, found 3$"),
        (lambda: fusec.compile(toy(), tuning={}), "^tuning: expected a fusec Tuning, found dict$"),
        (lambda: fusec.compile(toy(), width="4"), "^width: expected a number of rows, found '4'$"),
        (lambda: fusec.compile(toy(), width=4), "^graph toy: width=4 is for model files: a graph"),
        (lambda: fusec.compile(toy(), context=9), "^graph toy: context=9 is for model files"),
        (lambda: fusec.compile(toy(), kv="f32"), "^graph toy: kv='f32' is for model files"),
    ],
)
def test_of_the_library(call: Callable[[], Any], reason: str) -> None:
    with pytest.raises(fusec.FusecError, match=reason):
        call()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"level": "2"}, "^level: expected a whole number, found '2'$"),
        ({"context": "64"}, "^context: expected a number of positions, found '64'$"),
        ({"context": 64.0}, "^context: expected a number of positions, found 64.0$"),
        ({"kv": 16}, "^unknown KV cache type '16': known are f16, f32$"),
        ({"threads": "2", "context": 24}, "^threads: expected 1 to 1024, found '2'$"),
        ({"outputs": [3]}, "^outputs: expected names of values, found 3$"),
        ({"disable": [None]}, "^disable: expected names of rules and passes, found None$"),
        ({"l2": 3}, "^unknown L2 mode '3'"),
    ],
)
def test_of_load(tiny_model: Path, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(fusec.FusecError, match=reason):
        fusec.load(tiny_model, **options)


def test_whole_numbers_of_numpy_are_taken(tiny_model: Path) -> None:
    compiled = fusec.compile(tiny_model, level=np.int64(1), context=np.int32(24))
    assert (compiled.options.level, compiled.context) == (1, 24)


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (built(lambda b, _: b.input("y", 64)), f"^%y: {SHAPE} 64$"),
        (built(lambda b, _: b.input("y", "ab")), f"^%y: {SHAPE} 'ab'$"),
        (built(lambda b, _: b.input("y", (1, 2.0))), f"^%y: {SHAPE} 2.0$"),
        (built(lambda b, _: b.state("k", (0, 64))), rf"^\$k: {SHAPE} \(0, 64\)$"),
        (built(lambda b, _: b.weight("w", ())), rf"^@w: {SHAPE} \(\)$"),
        (built(lambda b, _: b.input(3, (1, 64))), "^a value: expected a name of .*, found 3$"),
        (built(lambda b, _: b.weight("q", (8, 64), "q9")), "^@q: unknown dtype 'q9': known are"),
        (
            built(lambda b, _: b.weight("q", (8, 30), "q4_0")),
            "^@q: expected rows of whole q4_0 blocks of 32 elements, found 30$",
        ),
        (built(lambda b, _: b.build()), "^graph toy: expected values of the graph .* found None$"),
        (built(lambda b, x: b.build((x, x))), "^graph toy: expected values .* found tuple$"),
        (
            built(lambda b, _: b.silu(3)),
            r"^silu: expected values of the graph \(x: f32\[T, n\]\), found 3$",
        ),
        (
            built(lambda b, x: b.add(x, np.ones((1, 64)))),
            r"^add: expected values of the graph \(a: .*, b: .*\), found ndarray$",
        ),
    ],
)
def test_of_a_builder(call: Callable[[], Any], reason: str) -> None:
    with pytest.raises(fusec.FusecError, match=reason):
        call()


def test_a_shape_is_any_sequence_of_whole_numbers() -> None:
    b = fusec.Builder("toy")
    assert b.input("x", [1, np.int64(64)]) == fusec.Value("%x", "f32", (1, 64))  # type: ignore[arg-type]


@pytest.mark.parametrize("of", ["floats", "raw"])
def test_tensors_that_a_model_has_not(tiny_model: Path, of: str) -> None:
    call = getattr(Model.open(tiny_model), of)
    assert call("token_embd.weight").size
    with pytest.raises(fusec.FusecError, match=r"\.gguf: no tensor 'nope': there are \d+, such as"):
        call("nope")
    with pytest.raises(fusec.FusecError, match=r"'token_embd': did you mean token_embd\.weight"):
        call("token_embd")


def test_of_a_tokenizer(tiny_model: Path) -> None:
    tokenizer = Model.open(tiny_model).tokenizer
    with pytest.raises(fusec.FusecError, match=r"^tokenizer: expected a text to encode, found 3$"):
        tokenizer.encode(3)  # type: ignore[arg-type]
    for ids, found in ((3, "3"), ("ab", "'a'"), ([1.0], "1.0")):
        with pytest.raises(
            fusec.FusecError, match=f"^tokenizer: expected token ids to decode, found {found}$"
        ):
            tokenizer.decode(ids)  # type: ignore[arg-type]


def test_a_weight_that_no_node_reads_is_refused() -> None:
    weights = {"w": np.zeros((32, 64), np.float32), "z": np.zeros(1, np.float32)}
    with pytest.raises(
        fusec.FusecError, match=r"^toy: it reads no weight 'z': there are 1, such as w"
    ):
        fusec.compile(toy()).session(weights)
    with pytest.raises(fusec.FusecError, match=r"^toy: it reads no weight '@w': did you mean w"):
        fusec.compile(toy()).session({"@w": weights["w"]})
