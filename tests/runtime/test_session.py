"""What a session takes: checked before a kernel sees it."""

from __future__ import annotations

import numpy as np
import pytest

from fusec.errors import FusecError
from fusec.ir import Builder, Graph
from fusec.ir.plan import LaunchPlan
from fusec.passes.lower import lower
from fusec.passes.pipeline import LEVELS, passes_of, run_passes
from fusec.runtime.session import (
    STATELESS_POSITIONS,
    bound_weight,
    check_inputs,
    limits,
    positions,
)
from tests.graphs import Types, llama_graph
from tests.targets import ANY


def planned(graph: Graph, level: int = 2) -> LaunchPlan:
    return lower(run_passes(graph, passes_of(level), ANY)[-1].graph, "any", level)


PLAN = planned(llama_graph(tokens=4, vocab=64, context=32))


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


@pytest.mark.parametrize("count", [1, 3, 4])
def test_up_to_the_plans_tokens(count: int) -> None:
    given = ints(*range(count))
    assert check_inputs(PLAN, {"token": given, "pos": given}, limits(PLAN)) == count


@pytest.mark.parametrize(
    ("inputs", "reason"),
    [
        ({"token": ints(1)}, "expected inputs token, pos, found token"),
        ({"token": ints(1), "pos": ints(0), "x": ints(0)}, "expected inputs token, pos, found "),
        ({"token": ints(1, 2), "pos": ints(0)}, r"one number of tokens .* found \[1, 2\]"),
        ({"token": ints(), "pos": ints()}, r"from 1 to 4 for every input, found \[0\]"),
        ({"token": ints(*[1] * 5), "pos": ints(*[1] * 5)}, r"from 1 to 4 .*, found \[5\]"),
        ({"token": [1], "pos": ints(0)}, r"expected %token as int32\[T\], found list"),
        ({"token": 1, "pos": ints(0)}, r"expected %token as int32\[T\], found int"),
        ({"token": np.int32(1), "pos": ints(0)}, r"expected %token as int32\[T\], found int32"),
        ({"token": np.array(1, np.int32), "pos": ints(0)}, "one number of tokens"),
        ({"token": np.array([1]), "pos": ints(0)}, r"found int64\[1\]"),
        ({"token": np.array([1.0]), "pos": ints(0)}, r"found float64\[1\]"),
        ({"token": ints(1)[None], "pos": ints(0)}, r"found int32\[1, 1\]"),
        ({"token": ints(64), "pos": ints(0)}, r"expected %token from 0 to 63, found \[64\]"),
        ({"token": ints(1, -1), "pos": ints(0, 1)}, r"%token from 0 to 63, found \[1, -1\]"),
        ({"token": ints(1), "pos": ints(32)}, r"expected %pos from 0 to 31, found \[32\]"),
        ({"token": ints(1), "pos": ints(-1)}, r"expected %pos from 0 to 31, found \[-1\]"),
    ],
)
def test_inputs_that_are_refused(inputs: dict, reason: str) -> None:
    with pytest.raises(FusecError, match=reason) as caught:
        check_inputs(PLAN, inputs, limits(PLAN))
    assert str(caught.value).startswith("llama_decode: ")


@pytest.mark.parametrize("level", LEVELS)
def test_limits_are_those_of_the_memory_indexed(level: int) -> None:
    plan = planned(llama_graph(vocab=96, context=7), level)
    assert limits(plan) == {"%token": 96, "%pos": 7}


def test_limits_of_graphs_by_hand() -> None:
    b = Builder("toy")
    x, at, id_ = b.input("x", (1, 32)), b.input("at", (1,), "i32"), b.input("id", (1,), "i32")
    angles = {"base": 1e4, "head_dim": 16, "dims": 16}
    turned = b.rope(x, at, **angles)
    small, large = (b.embed(id_, b.weight(name, (rows, 32))) for name, rows in (("s", 5), ("l", 9)))
    plan = planned(b.build(turned, b.add(small, large)), 0)
    assert positions(plan) == STATELESS_POSITIONS
    assert limits(plan) == {"%at": STATELESS_POSITIONS, "%id": 5}
    for length in (12, 6):
        b.kv_append(b.state(f"s{length}", (length, 2, 16), "f32"), x, at)
    plan = planned(b.build(turned, b.add(small, large)), 0)
    assert limits(plan) == {"%at": 6, "%id": 5}


def test_limits_of_spans_to_combine() -> None:
    b = Builder("spans")
    values, sums = b.input("values", (1, 3 * 32)), b.input("sums", (1, 3 * 2 * 2))
    at = b.input("at", (1,), "i32")
    plan = planned(b.build(b.attention_combine(values, sums, at, heads=2, span=256, spans=3)), 0)
    assert limits(plan) == {"%at": 768}


def test_whole_numbers_that_index_nothing_have_no_limits() -> None:
    b = Builder("places")
    best, places = b.input("best", (1, 8)), b.input("places", (1, 8), "i32")
    plan = planned(b.build(b.argmax_combine(best, places)), 0)
    assert limits(plan) == {}


ROWS = np.zeros((64, 64), np.float32)
NAME = "blk.0.attn_q.weight"


@pytest.mark.parametrize("level", [0, 2, 3])
def test_weights_are_arrays_or_bytes(level: int) -> None:
    types = Types("f32", **{"blk.0.attn_k.weight": "iq4_nl"})
    plan = planned(llama_graph(layers=1, types=types), level)
    raw = ROWS.view(np.uint8)
    assert bound_weight(plan, f"@{NAME}", {NAME: ROWS}.__getitem__) is ROWS
    assert bound_weight(plan, f"@{NAME}", {NAME: raw}.__getitem__).nbytes == ROWS.nbytes
    strided = np.zeros((64, 128), np.float32)[:, ::2]
    assert bound_weight(plan, f"@{NAME}", lambda _: strided).flags.c_contiguous
    blocks = np.zeros((32, 36), np.uint8)  # 64 weights are two blocks of 18 bytes
    assert bound_weight(plan, "@blk.0.attn_k.weight", lambda _: blocks) is blocks


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({}, f"weight @{NAME} is not given"),
        ({NAME: ROWS.astype(np.float64)}, "found float64"),
        ({NAME: ROWS.astype(np.float16)}, "found float16"),
        ({NAME: ROWS[:63]}, r"found float32\[63, 64\]"),
        ({NAME: ROWS.reshape(32, 128)}, r"found float32\[32, 128\]"),
        ({NAME: ROWS.view(np.uint8)[:, :-4]}, r"found uint8\[64, 252\]"),
        ({NAME: 1.0}, r"found float64\[1\]"),
    ],
)
def test_weights_that_are_refused(given: dict, found: str) -> None:
    plan = planned(llama_graph(layers=1, types=Types("f32")))
    with pytest.raises(FusecError, match=found) as caught:
        bound_weight(plan, f"@{NAME}", given.__getitem__)
    assert str(caught.value).startswith("llama_decode: ")
