"""The numbers contract on the CPU: every level the same bytes, and close to the float64 reference.

Models go through `fusec.verifier.check`; graphs through `fusec.compile` and sessions.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings

import fusec
from fusec.ir import Builder, Graph, Reference
from fusec.models.synth import PRESETS, synthesize
from fusec.passes.pipeline import LEVELS
from fusec.verifier import Verdict, check
from tests.graphs import (
    Types,
    encoded,
    graph_of_every_format,
    llama_graph,
    random_graphs,
    weights_for,
)

BOUND = 1e-4  # relative error with f32 states


def error(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.linalg.norm(found - wanted) / max(np.linalg.norm(wanted), 1e-30))


# --- models --------------------------------------------------------------------------------------


def all_ok(verdicts: list[Verdict]) -> bool:
    assert {v.level for v in verdicts} == set(LEVELS)
    assert {v.kv for v in verdicts} == {"f16", "f32"}
    assert all(v.ok for v in verdicts), verdicts
    return True


@pytest.mark.slow
def test_a_trained_model(shared_data: Path) -> None:
    assert all_ok(check(shared_data / "stories260K.gguf", tokens=40, context=64))


@pytest.mark.slow
def test_the_trained_models_first_logits(shared_data: Path) -> None:
    golden = json.loads((shared_data / "stories260K.golden.json").read_text())
    for level in LEVELS:
        engine = fusec.load(shared_data / "stories260K.gguf", level=level, kv="f32", context=8)
        found = engine.logits([1])[0]
        assert np.abs(found - np.array(golden["logits0"])).max() < 1e-3
        engine.close()


def test_an_iq4_xs_model(tiny_model: Path) -> None:
    assert all_ok(check(tiny_model, tokens=35, context=40))


@pytest.mark.slow
@pytest.mark.parametrize("quant", ["F32", "Q8_0"])
def test_other_mixes(tmp_path: Path, quant: str) -> None:
    shape = replace(PRESETS["tiny"], layers=2, vocab=300)
    path = synthesize(shape, tmp_path / "m.gguf", quant=quant, seed=3)
    assert all_ok(check(path, tokens=18, context=20))


@pytest.mark.slow
def test_untied_output_and_rope_factors(tmp_path: Path) -> None:
    shape = replace(PRESETS["tiny"], layers=1, tied=False, rope_factors=True, rope_dims=8)
    path = synthesize(shape, tmp_path / "m.gguf", quant="BF16", seed=1)
    assert all_ok(check(path, tokens=18, context=20))


# --- graphs --------------------------------------------------------------------------------------


def agree(
    graph: Graph,
    steps: int = 2,
    tokens: int | None = None,
    bound: float = BOUND,
    levels: Iterable[int] = LEVELS,
) -> None:
    """Every level: same bytes in outputs and states, and near the reference.

    `tokens` of each step may be fewer than the graph's T.
    """
    random = np.random.default_rng(7)
    raw, meant = encoded(graph, weights_for(graph, seed=1))
    count = tokens or graph.tokens
    vocabulary = min((w.shape[0] for w in graph.weights if "token_embd" in w.name), default=1)

    def inputs(step: int) -> dict[str, np.ndarray]:
        made = {}
        for value in graph.inputs:
            shape = (count, *value.shape[1:])
            if value.name == "%token":
                made["token"] = random.integers(0, vocabulary, shape).astype(np.int32)
            elif value.dtype == "i32":
                first = step * count if graph.states else 0
                made[value.name[1:]] = np.arange(first, first + count, dtype=np.int32)
            else:
                made[value.name[1:]] = random.standard_normal(shape).astype(np.float32)
        return made

    given = [inputs(step) for step in range(steps)]
    reference = Reference(graph, meant)
    wanted = [reference.step(**step) for step in given]
    first: list[bytes] | None = None
    for level in levels:
        session = fusec.compile(graph, level=level).session(raw)
        results = [{k: v.copy() for k, v in session.step(**step).items()} for step in given]
        for found, exact in zip(results, wanted, strict=True):
            assert found.keys() == exact.keys()
            for name, value in found.items():
                assert value.shape == (count, *exact[name].shape[1:])
                assert error(value, exact[name]) <= bound, f"-O{level} {name}"
        with session.cached() as cache:
            states = cache.read(steps * count)
        for name, value in reference.states.items():
            exact = value[: steps * count]
            assert error(states[name].astype(np.float64), exact) <= bound, f"-O{level} {name}"
        parts = [*(v for r in results for v in r.values()), *states.values()]
        found_bytes = [np.ascontiguousarray(part).tobytes() for part in parts]
        first = first or found_bytes
        assert found_bytes == first, f"-O{level} differs"


@pytest.mark.slow
@pytest.mark.parametrize("tokens", [1, 3])
def test_norms_of_heads_of_any_size(tokens: int) -> None:
    """Whole vectors of a lane, parts of one, and heads that no lane divides."""
    b = Builder("heads")
    x, pos = b.input("x", (tokens, 48)), b.input("pos", (tokens,), "i32")
    outputs = []
    for head_dim in (6, 8, 64, 80):
        y = b.matvec(x, b.weight(f"w{head_dim}", (3 * head_dim, 48)))
        gain = b.weight(f"g{head_dim}", (head_dim,))
        y = b.head_norm(y, gain, eps=1e-5, head_dim=head_dim, name=f"normed{head_dim}")
        y = b.rope(y, pos, base=1e4, head_dim=head_dim, dims=head_dim, pairing="halves")
        b.kv_append(b.state(f"s{head_dim}", (8, 3, head_dim), "f32"), y, pos)
        outputs.append(b.head_norm(b.silu(y), gain, eps=0.5, head_dim=head_dim))
        outputs.append(b.matvec(outputs[-1], b.weight(f"o{head_dim}", (7, 3 * head_dim))))
    agree(b.build(*outputs))


def drawn(count: int, tokens: int) -> list[Graph]:
    """Random graphs, always the same: of a hundred, those with the most ops of most kinds."""
    found: list[Graph] = []

    @settings(
        max_examples=100,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),  # they look at the clock
    )
    @given(random_graphs(t=tokens))
    def collect(graph: Graph) -> None:
        found.append(graph)

    collect()
    kinds = {id(g): len({n.op for n in g.nodes}) for g in found}
    found.sort(key=lambda g: (-kinds[id(g)], -len(g.nodes), str(g)))
    return found[:count]


ONE, THREE = drawn(16, 1), drawn(10, 3)


@pytest.mark.slow
@pytest.mark.parametrize("graph", ONE[:4], ids=range(4))
def test_random_graphs(graph: Graph) -> None:
    agree(graph)


@pytest.mark.slow
@pytest.mark.parametrize("graph", THREE[:2], ids=range(2))
def test_random_graphs_of_three_tokens(graph: Graph) -> None:
    agree(graph)
    agree(graph, tokens=2)


@pytest.mark.slow
@pytest.mark.parametrize("graph", [*ONE[4:], *THREE[2:]], ids=range(20))
def test_more_random_graphs(graph: Graph) -> None:
    agree(graph)


@pytest.mark.slow
@pytest.mark.parametrize("matrix", ["f16", "bf16"])
def test_decode_graphs_of_floats(matrix: str) -> None:
    """Those of f32 are in the tests below."""
    agree(llama_graph(layers=1, types=Types(matrix), kv="f32"), steps=3)


@pytest.mark.slow
def test_every_quantised_format_in_one_model() -> None:
    """Nothing merged, and all: what is merged in between does not depend on the format."""
    agree(graph_of_every_format(), levels=(0, 3))


@pytest.mark.slow
def test_types_may_be_mixed_within_a_fused_matrix() -> None:
    mixed = {
        "blk.0.attn_q.weight": "q8_0",
        "blk.0.attn_k.weight": "f16",
        "blk.0.ffn_up.weight": "iq4_nl",
    }
    agree(llama_graph(layers=1, types=Types("f32", **mixed), kv="f32"), steps=3)


@pytest.mark.slow
def test_an_untied_output() -> None:
    types = Types("f32", **{"output.weight": "f16"})
    agree(llama_graph(layers=1, tied=False, types=types, kv="f32"), steps=2)


@pytest.mark.slow
def test_rope_of_a_part_of_each_head_with_factors_and_scale() -> None:
    graph = llama_graph(
        layers=1, types=Types("f32"), kv="f32", rope_factors=True, rope_dims=8, rope_scale=0.25
    )
    agree(graph, steps=4)


@pytest.mark.slow
def test_heads_wider_together_than_the_model() -> None:
    agree(llama_graph(layers=1, types=Types("f32"), kv="f32", head_dim=32), steps=2)


@pytest.mark.slow
@pytest.mark.parametrize("dims", [4, 16])
def test_rope_of_halves(dims: int) -> None:
    """Rotary halves, whole or in front of elements that pass, in a chain that fuses to one node."""
    b = Builder("halves")
    x, pos = b.input("x", (2, 64)), b.input("pos", (2,), "i32")
    n = b.rms_norm(x, b.weight("g", (64,)), eps=1e-5)
    angles = {"base": 100.0, "head_dim": 16, "dims": dims, "pairing": "halves"}
    q, k, v = (b.matvec(n, b.weight(f"w{p}", (64, 64))) for p in "qkv")
    q, k = b.rope(q, pos, **angles), b.rope(k, pos, **angles)
    keys, values = (
        b.kv_append(b.state(s, (16, 4, 16), "f32"), y, pos) for s, y in (("k", k), ("v", v))
    )
    a = b.attention(q, keys, values, pos, heads=4, kv_heads=4, scale=0.25)
    agree(b.build(b.add(x, a)), steps=5)


@pytest.mark.slow
@pytest.mark.parametrize("tokens", [2, 5, 16])
def test_chunks_of_several_tokens(tokens: int) -> None:
    graph = llama_graph(layers=1, tokens=tokens, kv="f32", types=Types("q8_0"), context=64)
    agree(graph, steps=3)
    agree(graph, steps=3, tokens=tokens - 1)


@pytest.mark.slow
def test_f16_states_round_once() -> None:
    """A cache in half precision: the error is that of rounding to it, the bytes still agree."""
    agree(llama_graph(layers=1, types=Types("f32"), kv="f16"), steps=4, bound=2e-3)


def test_attention_over_more_positions_than_a_chunk_of_the_softmax() -> None:
    graph = llama_graph(layers=1, tokens=16, kv="f32", types=Types("f32"), context=160)
    agree(graph, steps=10)
