"""Blocks that attend make their head's query and newest rows: the bytes of one kernel an op."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from fusec.codegen.cuda import head_prologue, twins
from fusec.codegen.cuda.build import compile_many
from fusec.codegen.cuda.twins_grid import run_grid
from fusec.errors import FusecError
from fusec.ir import Builder, Graph
from fusec.ir.graph import Value
from fusec.ir.target import Target
from tests import targets
from tests.codegen.cuda.test_attention import cache_for, put
from tests.codegen.cuda.twin_session import TwinSession, random_weights
from tests.random_numbers import random_numbers
from tests.targets import ANY

pytestmark = pytest.mark.slow  # compiles many kernels

RNG = random_numbers(15)
NORMS = ("head_norm", "rope")
HOPPER = replace(targets.HOPPER, makes_heads=256)  # no size is too much here
AMPERE = replace(targets.AMPERE, makes_heads=256)
WHOLE = replace(ANY, name="whole", makes_heads=256)


@dataclass(frozen=True)
class Shape:
    """Attention behind `ops` on the query and the key, and others on the value."""

    ops: tuple[str, ...] = NORMS
    of_value: tuple[str, ...] = ()
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 16
    kv: str = "f16"
    context: int = 300
    besides: dict[str, Any] = field(default_factory=dict)
    turn: dict[str, Any] = field(default_factory=dict)
    rows: int = 0  # of a projection, in formats that clusters multiply

    def made(self, b: Builder, x: Value, pos: Value, ops: tuple[str, ...]) -> Value:
        """The ops behind `x`, one after the other."""
        size, n = self.head_dim, x.shape[-1]
        for k, op in enumerate(ops):
            gain = {"head_norm": (size,), "own_norm": (n,), "layer_norm": (size,)}.get(op, (n,))
            weight = None if op in ("rope", "temper") else b.weight(f"{x.name[1:]}.w{k}", gain)
            if op == "rope":
                given = {"base": 1e3, "head_dim": size, "dims": size, "pairing": "halves"}
                x = b.rope(x, pos, **given | self.turn)
            elif op == "temper":
                x = b.temper(x, pos, slope=0.1, length=100, offset=1)
            elif op == "add":
                x = b.add(x, weight)
            elif op == "rms_norm":
                x = b.rms_norm(x, weight, eps=1e-5)
            else:
                name = "head_layer_norm" if op == "layer_norm" else "head_norm"
                x = b.op(name, x, weight, eps=1e-5, head_dim=size)
        return x

    def graph(self, tokens: int = 1) -> Graph:
        b, size = Builder("own"), self.head_dim
        pos = b.input("pos", (tokens,), "i32")
        counts = {"q": self.heads, "k": self.kv_heads, "v": self.kv_heads}
        x = {name: b.input(name, (tokens, count * size)) for name, count in counts.items()}
        q, k = (self.made(b, x[name], pos, self.ops) for name in "qk")
        v = self.made(b, x["v"], pos, self.of_value)
        caches = [
            b.kv_append(b.state(f"c{name}", (self.context, self.kv_heads, size), self.kv),
                        value, pos)
            for name, value in zip("kv", (k, v), strict=True)
        ]  # fmt: skip
        a = b.attention(q, *caches, pos, heads=self.heads, kv_heads=self.kv_heads,
                        scale=size**-0.5, **self.besides)  # fmt: skip
        if not self.rows:
            return b.build(a)
        y = b.matvec(a, b.weight("o", (self.rows, self.heads * size), "q4_0"))
        x = b.add(y, b.input("r", (tokens, self.rows)))
        n = b.rms_norm(x, b.weight("g", (self.rows,)), eps=1e-5)
        return b.build(b.matvec(n, b.weight("u", (32, self.rows), "q4_0")))


def inputs(graph: Graph, first: int) -> dict[str, np.ndarray]:
    found = {v.name[1:]: RNG.normal(size=v.shape).astype(np.float32) for v in graph.inputs}
    return found | {"pos": np.arange(first, first + graph.tokens)}


def check(shape: Shape, position: int, tokens: int = 1, target: Target = HOPPER) -> TwinSession:
    """Result and caches behind steps from a position on, some rows at once or one a step.

    What a cache has behind the rows of earlier steps is not to be read.
    """
    one, several = shape.graph(), shape.graph(tokens)
    weights, caches, given = (
        random_weights(one),
        cache_for(one, position),
        inputs(several, position),
    )
    plain = TwinSession(one, weights, 0, target=target)
    deep = TwinSession(several, weights, 3, target=target)
    for session in (plain, deep):
        put(session, caches)
    rows = [{name: x[t : t + 1] for name, x in given.items()} for t in range(tokens)]
    wanted = np.concatenate([next(iter(plain.step(**row).values())) for row in rows])
    (found,) = deep.step(**given).values()
    assert np.isfinite(wanted).all()
    assert found.tobytes() == wanted.tobytes()
    for name in caches:
        assert deep.memory[name].tobytes() == plain.memory[name].tobytes()
    kinds = [node.kind for node in deep.graph.nodes]
    assert not any(kind.endswith(("rope", "kv", "norm")) for kind in kinds), kinds
    return deep


# --- the bytes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head_dim", "kv"),
    [
        *((6, "f16"), (8, "f32"), (64, "f32"), (80, "f16")),
        *((128, "f16"), (250, "f32"), (256, "f16"), (256, "f32")),
    ],
)
def test_heads_of_any_even_size(head_dim: int, kv: str) -> None:
    """Kept in registers or not, of whole quads or not, and of more than a quad a lane."""
    check(Shape(head_dim=head_dim, kv=kv), 270)


@pytest.mark.parametrize("position", [0, 1, 15, 16, 17, 255, 256, 299])
def test_positions_around_chunks_and_spans(position: int) -> None:
    check(Shape(), position)


@pytest.mark.parametrize("position", [0, 3, 255, 256, 299])
@pytest.mark.parametrize("heads", [2, 4])
def test_with_the_projection(position: int, heads: int) -> None:
    """A cluster a head: while there is one span, all its blocks attend, and one writes."""
    session = check(Shape(heads=heads, head_dim=32, rows=64), position)
    assert any("attention_project" in name for name in session.kernels)


CHAINS = {
    "a rotation alone": Shape(("rope",)),
    "a norm alone": Shape(("head_norm",)),
    "weights for each head": Shape(("own_norm", "rope")),
    "a LayerNorm of heads": Shape(("layer_norm", "rope")),
    "a norm of all heads": Shape(("rms_norm", "rope")),
    "a bias in front": Shape(("add", "head_norm", "rope")),
    "a norm behind the rotation": Shape(("rope", "head_norm")),
    "two norms": Shape(("head_norm", "own_norm", "rope")),
    "a bias behind": Shape(("head_norm", "rope", "add")),
    "temperature": Shape(("rope", "temper")),
    "values normed as well": Shape(of_value=("head_norm",)),
    "neighbours turn": Shape(turn={"pairing": "adjacent"}),
    "some of a head's elements turn": Shape(turn={"dims": 8}),
    "a head for each of the caches": Shape(heads=2),
    "one head": Shape(heads=1, kv_heads=1),
}


@pytest.mark.parametrize("shape", CHAINS.values(), ids=CHAINS)
def test_whatever_is_done_to_a_head(shape: Shape) -> None:
    check(shape, 20)


@pytest.mark.parametrize(("position", "tokens"), [(0, 1), (15, 2), (270, 1), (270, 2)])
@pytest.mark.parametrize("target", [AMPERE, WHOLE], ids=lambda target: target.name)
def test_where_launches_do_not_overlap_and_spans_are_not_apart(
    target: Target, position: int, tokens: int
) -> None:
    for head_dim in (16, 256):
        check(Shape(head_dim=head_dim), position, tokens, target)


@pytest.mark.parametrize("position", [0, 10, 39, 40, 255, 256, 290])
def test_windows(position: int) -> None:
    """At 256 a page begins, with nothing older in it than the row that the block makes."""
    check(Shape(besides={"window": 40}), position)


# --- steps of several rows -----------------------------------------------------------------------


@pytest.mark.parametrize("tokens", [2, 4, 8])
@pytest.mark.parametrize("position", [0, 14, 254])
def test_rows_see_those_in_front_of_them(tokens: int, position: int) -> None:
    check(Shape(), position, tokens)


@pytest.mark.parametrize(
    "shape",
    [
        *(
            Shape(kv="f32"),
            Shape(head_dim=256),
            Shape(("rms_norm", "rope", "add")),
            Shape(("rope",)),
        ),
        *(Shape(besides={"window": 3}), Shape(head_dim=32, rows=64)),
        Shape(("rope", "head_norm"), ("head_norm",)),
    ],
)
def test_of_any_kind(shape: Shape) -> None:
    check(shape, 30, 3)


def test_more_rows_than_a_block_has_warps_for_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """`benchmarks/with_few.py` raises the limit, and the last row would be made by nobody."""
    monkeypatch.setattr(head_prologue, "MOST_ROWS", 16)
    with pytest.raises(FusecError, match=r"fewer rows than a block's 16 warps, .* found 16"):
        check(Shape(), 0, tokens=2)


def test_many_rows_read_what_was_made_once() -> None:
    session = TwinSession(Shape().graph(9), random_weights(Shape().graph()), 3, target=HOPPER)
    assert [node.op for node in session.graph.nodes][-1] == "attention"
    assert not session.graph.nodes[-1].body


# --- in front of the wait, and machine code ------------------------------------------------------


@pytest.mark.parametrize("position", [0, 5, 250])
@pytest.mark.parametrize("rows", [0, 64])
def test_what_the_launch_in_front_makes_is_read_behind_the_wait(
    monkeypatch: pytest.MonkeyPatch, position: int, rows: int
) -> None:
    shape = Shape(heads=2, kv_heads=1, head_dim=32, rows=rows)
    graph = shape.graph()
    session = TwinSession(graph, random_weights(graph), 3, target=HOPPER)
    put(session, cache_for(graph, position))
    given = inputs(graph, position)
    session.step(**given)
    launch = session.plan.launches[0]
    results = [name for name in launch.writes if name[0] == "%"]
    wanted = {name: session.memory[name].copy() for name in results}
    put(session, cache_for(graph, 0) if position == 0 else {})
    for name in ("%q", "%k", "%v", *results):
        session.memory[name][:] = np.nan

    def appear(*_: object) -> None:
        for name in ("%q", "%k", "%v"):
            session.memory[name][:] = given[name[1:]]

    monkeypatch.setattr(twins, "_SILENT", [n for n in twins._SILENT if n != "griddep_wait"])
    monkeypatch.setitem(twins.ARITHMETIC, "griddep_wait", appear)
    run_grid(session.kernels[launch.kernel], *(session.memory[a.name] for a in launch.args))
    for name in results:
        assert session.memory[name].tobytes() == wanted[name].tobytes()


@pytest.mark.cuda
def test_it_assembles_without_spills() -> None:
    """The largest heads of one row and of several, and some of the others."""
    kernels = {}
    for tokens, kv, head_dim, rows in (
        (1, "f16", 256, 0), (1, "f32", 256, 0), (4, "f16", 256, 0), (4, "f32", 256, 0),
        (1, "f32", 128, 0), (4, "f16", 64, 512),
    ):  # fmt: skip
        graph = Shape(head_dim=head_dim, kv=kv, rows=rows).graph(tokens)
        session = TwinSession(graph, random_weights(graph), 3, target=HOPPER)
        kernels |= {n: kernel for n, kernel in session.kernels.items() if "rope_kv" in n}
    assert len(kernels) == 6
    for cubin in compile_many([*kernels.values()], "sm_90a"):
        assert cubin.spill_stores == cubin.spill_loads == 0
        assert ".f64" not in cubin.ptx
