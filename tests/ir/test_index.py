"""Operands that kernels index memory with: named in the op table, bounded, never forgotten."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import fusec
from fusec.errors import FusecError
from fusec.ir import Builder, Value
from fusec.ir.op import bound_by_positions
from fusec.ir.ops import OPS
from fusec.ir.verify import verify
from fusec.passes.pipeline import LEVELS, passes_of, run_passes
from tests.graphs import Types, llama_graph, weights_for
from tests.targets import ANY


def test_the_ops_that_index_memory() -> None:
    found = {
        name: [i for i, bound in entry.indices.items() if bound] for name, entry in OPS.items()
    }
    assert {name: places for name, places in found.items() if places} == {
        "embed": [0], "rope": [1], "temper": [1], "kv_append": [2], "attention": [3],
        "attention_spans": [3], "attention_combine": [2], "attention_project": [3],
        "expert_matvec": [2], "expert_matvec_sum": [2], "expert_vector": [0],
        "expert_vector_sum": [1], "group": [0], "grouped_matvec": [2, 3],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("embed", {"indices": {}}),
        ("rope", {"indices": {0: bound_by_positions}}),
        ("add", {"indices": {1: bound_by_positions}}),
        ("silu", {"operands": "x: f32[T, n], at: i32[T]", "arity": (1, 2)}),
        ("attention", {"operands": "q: f32[T, n], k: i32[T], v: state, pos: i32[T]"}),
    ],
)
def test_an_entry_that_does_not_name_its_index_is_refused(name: str, change: dict) -> None:
    with pytest.raises(TypeError, match=f"'{name}' is incomplete: it lacks indices"):
        replace(OPS[name], **change)


def test_an_integer_that_is_not_the_index_is_refused_even_by_a_lax_type_rule() -> None:
    """An entry whose text and type rule both forget the index still cannot be given one."""
    b = Builder("g")
    x, at = b.input("x", (1, 32)), b.input("at", (1,), "i32")
    lax = replace(
        OPS["silu"],
        arity=(1, 2),
        operands="x: f32[T, n], at: f32[T]",
        infer=lambda n: [("f32", n.inputs[0].shape)],
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(OPS, "silu", lax)
        b.silu(x)
        with pytest.raises(FusecError, match=r"silu making .*: expected operands .*i32\[1\]"):
            b.op("silu", x, at)


def test_a_weight_is_no_index() -> None:
    b = Builder("g")
    with pytest.raises(FusecError, match=r"embed making .*: expected operands"):
        b.embed(Value("@id", "i32", (1,)), b.weight("rows", (4, 32)))


def looked_up(row: int, rows: int, tokens: int = 1):
    """The embedding, of `rows` rows, of the largest of `row` elements."""
    b = Builder("toy")
    chosen = b.argmax(b.matvec(b.input("x", (tokens, 64)), b.weight("w", (row, 64))))
    return b.build(b.embed(chosen, b.weight("rows", (rows, 32))))


@pytest.mark.parametrize("level", LEVELS)
def test_an_index_the_graph_makes_itself_stays_inside(level: int) -> None:
    run_passes(looked_up(64, 64), passes_of(level), ANY)
    with pytest.raises(
        FusecError,
        match=r"embed making %2: its index .* may leave its memory: expected an input, or an "
        "argmax of 63 elements, found argmax of 64 elements",
    ):
        fusec.compile(looked_up(64, 63), level=level)


def test_an_index_made_of_what_is_not_known_is_refused() -> None:
    b = Builder("toy")
    chosen = b.argmax_combine(b.input("best", (1, 8)), b.input("at", (1, 8), "i32"))
    with pytest.raises(FusecError, match=r"may leave its memory: .*, found argmax_combine"):
        verify(b.build(b.embed(chosen, b.weight("rows", (64, 32)))))
    b = Builder("toy")
    x = b.input("x", (1, 32))
    angles = {"base": 1e4, "head_dim": 16, "dims": 16}
    with pytest.raises(FusecError, match="expected an input, found argmax of 32 elements"):
        verify(b.build(b.rope(x, b.argmax(x), **angles)))


@pytest.mark.slow
@pytest.mark.parametrize("level", [0, 2])
def test_indices_outside_of_memory_reach_no_kernel(level: int) -> None:
    graph = llama_graph(layers=1, vocab=64, context=8, types=Types("f32"))
    weights = weights_for(graph)
    with fusec.compile(graph, level=level).session(weights, threads=1) as session:
        for token, pos, reason in (
            (10_000_000, 0, "expected %token from 0 to 63, found"),
            (0, 900_000_000, "expected %pos from 0 to 7, found"),
            (-1, 0, "%token"),
            (0, -1, "%pos"),
            (64, 0, "%token"),
            (0, 8, "%pos"),
        ):
            with pytest.raises(FusecError, match=reason):
                session.step(token=np.array([token], np.int32), pos=np.array([pos], np.int32))
        session.step(token=np.array([63], np.int32), pos=np.array([7], np.int32))
