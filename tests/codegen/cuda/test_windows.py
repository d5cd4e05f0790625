"""Attention with windows, caps and sinks by the NumPy twins, and what windows hide."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fusec.codegen.cuda.arch import ARCHS
from fusec.codegen.cuda.build import compile_many
from fusec.codegen.cuda.emit import emit
from fusec.codegen.cuda.twins_grid import run_grid
from fusec.ir import Graph
from fusec.models.decoder_graph import decode_graph
from fusec.models.small import config_of
from tests.codegen.cuda import paged
from tests.codegen.cuda.test_attention import graph_of, put, query, split
from tests.codegen.cuda.test_attention_rows import kernel_of
from tests.codegen.cuda.twin_session import TwinSession, random_weights, reference
from tests.random_numbers import random_numbers
from tests.targets import HOPPER, SPLIT

pytestmark = pytest.mark.slow  # compiles many kernels

RNG = random_numbers(29)
CONTEXT = 900
SINKS = np.linspace(-1.0, 3.0, 6, dtype=np.float32)
BESIDES: dict[str, dict[str, Any]] = {
    "window": {"window": 40},
    "long window": {"window": 300},
    "one position": {"window": 1},
    "cap": {"cap": 2.0},
    "sinks": {"sinks": True},
    "all": {"window": 257, "cap": 5.0, "sinks": True},
}


def weights_of(graph: Graph) -> dict[str, np.ndarray]:
    return {"@sinks": SINKS[: int(graph.nodes[0]["heads"])]} if graph.weights else {}


def caches_of(graph: Graph, places: list[int]) -> dict[str, np.ndarray]:
    """Rows for all that is seen from `places`; NaN where nobody may look."""
    node = graph.nodes[0]
    window = int(node["window"])
    first = max(0, min(places) + 1 - window) if window else 0
    seen = np.arange(first, max(places) + 1)
    found = {}
    for state in graph.states:
        kind = np.float16 if state.dtype == "f16" else np.float32
        found[state.name] = values = np.full(state.shape, np.nan, kind)
        rows = RNG.normal(size=(len(seen), *state.shape[1:]))
        values[seen] = rows.astype(np.float16)
    return found


@pytest.mark.parametrize("position", [0, 39, 40, 255, 256, 447, 448, 600, 899])
@pytest.mark.parametrize("besides", BESIDES)
def test_one_row_is_near_the_reference_split_or_not(besides: str, position: int) -> None:
    graph = graph_of(8, "f32", CONTEXT, **BESIDES[besides])
    weights, caches, q = weights_of(graph), caches_of(graph, [position]), query(graph)
    checked = reference(graph, weights)
    checked.states |= {name: values.astype(np.float64) for name, values in caches.items()}
    given = {"q": q, "pos": np.array([position])}
    wanted = checked.step(**given)["a"]
    found = []
    for each, target in ((graph, None), (split(graph), SPLIT)):
        session = TwinSession(each, weights, 0, **({"target": target} if target else {}))
        put(session, caches)
        found.append(session.step(**given)["a"])
    assert np.linalg.norm(found[0] - wanted) < 1e-6 * np.linalg.norm(wanted)
    assert found[0].tobytes() == found[1].tobytes()


PLACES = {
    "the start": list(range(20)),
    "the middle of a span": list(range(437, 460)),
    "the end of a span": [*range(505, 520), 700],
    "in no order": [int(n) for n in RNG.integers(400, 700, 13)],
}


class Rows:
    """Rows of a step, one by one and together."""

    def __init__(self, graph: Graph, places: list[int]) -> None:
        self.graph, self.places = graph, np.array(places, np.uint32)
        self.caches = list(caches_of(graph, places).values())
        shape = (len(places), graph.inputs[0].shape[1])
        self.q = RNG.normal(size=shape).astype(np.float32)

    def run(self, rows: int, of: slice) -> np.ndarray:
        out = np.zeros_like(self.q[of])
        caches, table = map(paged.memory, self.caches), paged.table(CONTEXT)
        weights = weights_of(self.graph).values()
        given = [self.q[of].copy(), *caches, self.places[of].copy(), *weights, out, table]
        kernel = emit(kernel_of(self.graph, rows))
        if rows:
            count = np.array([len(out)], np.uint32)
            run_grid(kernel, *given, count, layers=-(-len(out) // rows))
        else:
            run_grid(kernel, *given)
        return out

    def one_by_one(self) -> np.ndarray:
        rows = range(len(self.places))
        return np.concatenate([self.run(0, slice(row, row + 1)) for row in rows])


@pytest.mark.parametrize(
    ("besides", "places"),
    [
        *((besides, places) for besides in ("long window", "all") for places in PLACES),
        *(("window", "the start"), ("window", "the end of a span")),
        *(("long window", "the end of a span"), ("long window", "in no order")),
        *(("one position", "the start"), ("one position", "in no order")),
        *(("cap", "the start"), ("cap", "in no order"), ("sinks", "the end of a span")),
    ],
)
def test_rows_have_the_bytes_of_one(besides: str, places: str) -> None:
    rows = Rows(graph_of(16, "f16", CONTEXT, 2, 1, **BESIDES[besides]), PLACES[places])
    wanted = rows.one_by_one()
    assert np.isfinite(wanted).all()
    for each in (8, 24):
        assert rows.run(each, slice(None)).tobytes() == wanted.tobytes(), each


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("place", [430, 441])
def test_what_is_not_finite_reaches_no_row_whose_window_has_left_it(bad: float, place: int) -> None:
    """A row that is too late for it does not even multiply it by 0."""
    rows = Rows(graph_of(10, "f32", CONTEXT, 1, 1, window=20), list(range(420, 470)))
    rows.caches[1][place, 0, 3] = bad
    found, wanted = rows.run(32, slice(None)), rows.one_by_one()
    sees = (rows.places >= place) & (rows.places < place + 20)
    assert found[~sees].tobytes() == wanted[~sees].tobytes()
    assert np.isfinite(found[~sees]).all()
    assert not np.isfinite(found[sees]).all(axis=1).any()


@pytest.mark.parametrize("position", [0, 100, 299, 300, 830, 1300])
def test_heads_that_project_see_a_window(position: int) -> None:
    """Blocks of a cluster have the spans of the window, wherever it is."""
    sizes = {"width": 192, "heads": 3, "kv_heads": 1, "head_dim": 64, "rope_dims": 64, "vocab": 32}
    config = replace(config_of("llama"), layers=1, ffn_width=96, biased=frozenset(), **sizes)
    config = replace(config, window=300, sinks=True, score_cap=3.0, context=4096)
    shapes = dict(config.tensor_shapes())
    types = {name: "f32" if len(shape) == 1 else "q8_0" for name, shape in shapes.items()}
    graph = decode_graph(config, types, 1, 4096, "f16")
    weights, found = random_weights(graph), []
    rows = RNG.normal(size=(2, 4096, 1, 64)).astype(np.float16)
    sizes_of_launches = []
    for level in (0, 3, 4):
        session = TwinSession(graph, weights, level, target=HOPPER)
        attends = [k for name, k in session.kernels.items() if "attention_project" in name]
        sizes_of_launches.append([(k.grid, k.cluster) for k in attends])
        for state, values in zip(graph.states, rows, strict=True):
            session.memory[state.name][:] = paged.memory(values)
        found.append(session.step(token=np.array([5]), pos=np.array([position]))["logits"])
    assert sizes_of_launches == [[], [(9, 3)], [(24, 8)]]  # at -O4 the cluster makes the rows too
    assert np.isfinite(found[0]).all()
    assert found[0].tobytes() == found[1].tobytes() == found[2].tobytes()


@pytest.mark.cuda
@pytest.mark.slow
def test_kernels_with_all_of_it_assemble_without_spills() -> None:
    sizes = [(64, "f16", 64), (64, "f16", 16), (128, "f16", 16), (256, "f16", 16), (256, "f32", 8)]
    given = {"window": 512, "cap": 50.0, "sinks": True}
    kernels = []
    for head_dim, kv, rows in sizes:
        graph = graph_of(head_dim, kv, 4096, **given)
        of_one = [0] if (head_dim, rows) in ((64, 64), (256, 8)) else []
        kernels += [emit(kernel_of(graph, n), ARCHS["sm_90a"]) for n in (*of_one, rows)]
    for kernel, cubin in zip(kernels, compile_many(kernels, "sm_90a"), strict=True):
        assert cubin.spill_stores == cubin.spill_loads == 0, (kernel.name, kernel.rows)
