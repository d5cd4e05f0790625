"""Clusters that make their head's rows and attend with them: the bytes of one kernel an op."""

from __future__ import annotations

import pytest

from fusec.codegen.cuda.build import compile_many
from fusec.ir import Graph
from tests.codegen.cuda.levels import check_level
from tests.codegen.cuda.twin_session import TwinSession, random_weights
from tests.graphs import Types, block_graph, llama_graph
from tests.targets import HOPPER

pytestmark = pytest.mark.slow  # compiles many kernels


def model(weights: str = "iq4_nl", heads: int = 3, head_dim: int = 64, **sizes: object) -> Graph:
    names = ("attn_q", "attn_k", "attn_v", "attn_output")
    types = Types("q8_0", **{f"blk.{n}.{name}.weight": weights for name in names for n in (0, 1)})
    shape = {"width": heads * head_dim, "ffn": 32, "kv_heads": 1, "vocab": 32, "layers": 2}
    return llama_graph(types=types, heads=heads, head_dim=head_dim, **(shape | sizes))


def check(graph: Graph, position: int) -> TwinSession:
    """One kernel for QKV, attention and projection gives the bytes of one kernel an op."""
    session = check_level(graph, position, 4)
    kernels = [name for name in session.kernels if "attention" in name]
    assert all("matvec" in name and "kv_attention_project" in name for name in kernels)
    return session


@pytest.mark.parametrize("position", [0, 17, 255])
def test_one_span(position: int) -> None:
    session = check(model(context=256), position)
    grids = {(k.grid, k.cluster) for k in session.kernels.values() if "attention" in k.name}
    assert grids == {(24, 8)}


@pytest.mark.parametrize("position", [256, 599])
def test_several_spans(position: int) -> None:
    check(model(context=600), position)


@pytest.mark.parametrize("kv", ["f16", "f32"])
@pytest.mark.parametrize("weights", ["q8_0", "q4_1", "q6_k", "mxfp4"])
def test_formats(weights: str, kv: str) -> None:
    check(model(weights, heads=4, kv_heads=2, context=300, kv=kv), 270)


@pytest.mark.parametrize(("head_dim", "heads"), [(32, 6), (128, 2), (64, 16)])
def test_heads_of_any_size(head_dim: int, heads: int) -> None:
    check(model(head_dim=head_dim, heads=heads, width=256, context=300), 257)


@pytest.mark.parametrize("pairing", ["adjacent", "halves"])
def test_biases_and_norms_of_heads_come_in_between(pairing: str) -> None:
    sizes = {"heads": 2, "kv_heads": 1, "head_dim": 64, "width": 128, "ffn": 32, "vocab": 32}
    blocks = {"head_norms": True, "biases": True, "pairing": pairing}
    check(block_graph(**sizes, **blocks, layers=1, context=300, matrix="q8_0"), 258)


def test_it_is_assembled_without_spills() -> None:
    graph = model(context=300)
    session = TwinSession(graph, random_weights(graph), 4, target=HOPPER)
    sources = [k for k in session.kernels.values() if "attention" in k.name]
    for cubin in compile_many(sources, "sm_90a"):
        assert cubin.spill_stores == cubin.spill_loads == 0
