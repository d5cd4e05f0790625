"""Steps of several rows: each row has the bytes that it has in a step of its own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fusec.codegen.cuda.arch import ARCHS
from fusec.codegen.cuda.candidates import default_of
from fusec.codegen.cuda.rows import rows_of_block
from fusec.ir import Builder, Graph
from tests.codegen.cuda.twin_session import TwinSession, random_weights
from tests.graphs import Types, llama_graph
from tests.targets import HOPPER

pytestmark = pytest.mark.slow  # compiles many kernels

SHAPE = {"width": 64, "ffn": 96, "heads": 4, "kv_heads": 2, "layers": 1, "context": 40}


def one_by_one(graph: Graph, weights: dict, ids: list[int], level: int) -> np.ndarray:
    """[len(ids), vocabulary] logits of steps of one row."""
    session = TwinSession(graph, weights, level, target=HOPPER)
    given = [{"token": np.array([t]), "pos": np.array([p])} for p, t in enumerate(ids)]
    return np.concatenate([session.step(**inputs)["logits"] for inputs in given])


CASES = {
    "a layer a row, deep": (3, "f16", "iq4_nl", 5),
    "a layer a row, naive": (0, "f32", "q8_0", 5),
    "parts of two rows": (3, "f16", "q4_1", 2),
    "parts of four rows, of which one is not there": (3, "f32", "q5_0", 3),
    "plain floats": (2, "f16", "f32", 12),
    "in tiles, deep": (3, "f16", "iq4_nl", 12),
    "in tiles, naive": (0, "f32", "q4_1", 12),
}


@pytest.mark.parametrize(("level", "kv", "matrix", "tokens"), CASES.values(), ids=CASES)
def test_rows_of_a_step_are_those_of_steps_of_one(
    level: int, kv: str, matrix: str, tokens: int
) -> None:
    given = {"kv": kv, "types": Types(matrix, unused="f32")}
    one, several = (llama_graph(**SHAPE, **given, tokens=t) for t in (1, tokens))
    weights = random_weights(one)
    ids = np.random.default_rng(2).integers(0, 64, tokens + 2)
    wanted = one_by_one(one, weights, ids.tolist(), level)
    session = TwinSession(several, weights, level, target=HOPPER)
    for first, rows in ((0, tokens), (tokens, 2)):
        places = np.resize(np.arange(first, first + rows), tokens)  # those behind are not read
        session.memory["rows"][:] = rows
        found = session.step(token=ids[places], pos=places)["logits"][:rows]
        assert found.tobytes() == wanted[first : first + rows].tobytes()


def router_and_experts(tokens: int) -> Graph:
    """A matrix of floats, and one that is multiplied by the same vector in fixed point."""
    b = Builder("g")
    x = b.rms_norm(b.input("x", (tokens, 96)), b.weight("gain", (96,)), eps=1e-5)
    floats = b.matvec(x, b.weight("router", (40, 96), "f32"), name="floats")
    return b.build(floats, b.matvec(x, b.weight("w", (64, 96), "q5_1"), name="y"))


@pytest.mark.parametrize("rows", [0, 2, 8], ids="{} rows a block".format)
def test_rows_of_floats_beside_fixed_point(rows: int) -> None:
    """Four at a time if nothing was measured; each has the facts of its own digits."""
    one, several = router_and_experts(1), router_and_experts(11)
    weights, x = random_weights(one), np.random.default_rng(4).standard_normal((11, 96), np.float32)
    alone = TwinSession(one, weights, 3, target=HOPPER)
    wanted = [alone.step(x=row[None]) for row in x]
    session = TwinSession(
        several, weights, 3, target=HOPPER,
        choose=lambda k: replace(default_of(k), width=rows) if rows and "fix" in k.name else None,
    )  # fmt: skip
    fixes = {k.name: k.rows for k in session.kernels.values() if "norm_fix_matvec" in k.name}
    assert list(fixes.values()) == [rows or 4]
    found = session.step(x=x)
    for name in ("floats", "y"):
        assert found[name].tobytes() == b"".join(row[name].tobytes() for row in wanted)


@pytest.mark.parametrize(
    ("columns", "matrix", "tokens", "rows"),
    [
        (2048, "f16", 9, 4),
        (8192, "f32", 9, 2),
        (1 << 15, "f32", 9, 1),
        (2048, "f16", 8, 1),
    ],
)
def test_rows_of_plain_floats_that_share_weights(
    columns: int, matrix: str, tokens: int, rows: int
) -> None:
    """As many as two blocks of an SM have memory for."""
    b = Builder("g")
    x, w = b.input("x", (1, columns)), b.weight("w", (64, columns), matrix)
    arch = ARCHS["sm_90a"]
    assert rows_of_block(b.build(b.matvec(x, w)), tokens, arch.shared, arch.sms) == rows
