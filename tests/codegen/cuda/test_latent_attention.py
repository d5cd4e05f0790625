"""Attention with a second query, of values: keys and values have sizes of their own."""

from __future__ import annotations

import numpy as np
import pytest

from fusec.codegen.cuda.build import compile_many
from fusec.codegen.cuda.rows import rows_of_block
from fusec.errors import FusecError
from fusec.ir import Builder, Graph
from fusec.passes.project_heads import ProjectHeads
from fusec.passes.split_attention import SplitAttention
from tests.codegen.cuda.test_attention import cache_for, put, query
from tests.codegen.cuda.twin_session import TwinSession, reference
from tests.targets import HOPPER, SPLIT

pytestmark = pytest.mark.slow  # compiles many kernels

CONTEXT = 600


def graph_of(
    keys: int, values: int, kv: str, heads: int = 3, tokens: int = 1, context: int = CONTEXT
) -> Graph:
    b = Builder("latent")
    q, p = (b.input(name, (tokens, heads * n)) for name, n in (("q", keys), ("p", values)))
    k, v = (b.state(name, (context, 1, n), kv) for name, n in (("k", keys), ("v", values)))
    pos = b.input("pos", (tokens,), "i32")
    return b.build(b.attention(q, k, v, pos, p, heads=heads, kv_heads=1, scale=0.2, name="a"))


def split(graph: Graph) -> Graph:
    return SplitAttention().run(graph, SPLIT)[0]


@pytest.mark.parametrize(
    ("length", "kv"), [(1, "f16"), (17, "f32"), (256, "f32"), (600, "f16"), (600, "f32")]
)
@pytest.mark.parametrize(("keys", "values"), [(8, 32), (64, 512), (6, 10), (64, 32), (32, 130)])
def test_split_or_not_it_is_near_the_reference(
    keys: int, values: int, kv: str, length: int
) -> None:
    graph = graph_of(keys, values, kv)
    caches = cache_for(graph, length)
    given = {"q": query(graph), "pos": np.array([length - 1])}
    given["p"] = np.random.default_rng(length).normal(size=(1, 3 * values)).astype(np.float32)
    checked = reference(graph, {})
    checked.states |= {name: rows.astype(np.float64) for name, rows in caches.items()}
    wanted = checked.step(**given)["a"]
    found = []
    for session in (TwinSession(graph, {}, 0), TwinSession(split(graph), {}, 0, target=SPLIT)):
        put(session, caches)
        found.append(session.step(**given)["a"])
    assert np.linalg.norm(found[0] - wanted) < 1e-6 * np.linalg.norm(wanted)
    assert found[0].tobytes() == found[1].tobytes()


def test_blocks_take_one_row_of_a_step_each() -> None:
    assert rows_of_block(graph_of(8, 32, "f16", tokens=64), 64, 228 << 10, 132) == 1


def test_its_projection_stays_apart() -> None:
    b = Builder("projected")
    q, p = b.input("q", (1, 2 * 32)), b.input("p", (1, 2 * 32))
    k, v = (b.state(name, (256, 1, 32), "f16") for name in "kv")
    pos = b.input("pos", (1,), "i32")
    a = b.attention(q, k, v, pos, p, heads=2, kv_heads=1, scale=0.2)
    y = b.add(b.matvec(a, b.weight("w", (64, 64), "q8_0")), b.input("x", (1, 64)))
    graph = b.build(b.matvec(b.rms_norm(y, b.weight("g", (64,)), eps=1e-5), b.weight("v", (8, 64))))
    _, count, refused = ProjectHeads().run(SplitAttention().run(graph, HOPPER)[0], HOPPER)
    assert count == 0
    assert refused[0].reason == "a second query: %0.spans also multiplies values, by %p"


@pytest.mark.parametrize(("keys", "values"), [(7, 8), (8, 514), (514, 8)])
def test_heads_that_no_block_makes_are_refused(keys: int, values: int) -> None:
    size = keys if keys != 8 else values
    with pytest.raises(FusecError, match=f"an even number of elements up to 512, found {size}"):
        TwinSession(graph_of(keys, values, "f16"), {}, 0)


@pytest.mark.cuda
def test_it_assembles_without_spills() -> None:
    """As DeepSeek has it: a key of 64 elements beside a vector of 512."""
    kernels = []
    for kv in ("f16", "f32"):
        graph = graph_of(64, 512, kv, context=2048)
        for session in (TwinSession(graph, {}, 0), TwinSession(split(graph), {}, 0, target=SPLIT)):
            kernels += session.kernels.values()
    for cubin in compile_many(kernels, "sm_90a"):
        assert cubin.spill_stores == cubin.spill_loads == 0, cubin.name
        assert ".f64" not in cubin.ptx, cubin.name
