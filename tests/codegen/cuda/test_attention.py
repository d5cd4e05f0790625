"""Attention kernels in NumPy: against the reference, and split over the context or not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fusec.codegen.cuda import twins
from fusec.codegen.cuda.build import compile_many
from fusec.codegen.cuda.emit import emit
from fusec.codegen.cuda.twins_grid import run_grid
from fusec.errors import FusecError
from fusec.ir import Builder, Graph
from fusec.ir.graph import attrs, outside
from fusec.passes.split_attention import SplitAttention
from tests.codegen.cuda import paged
from tests.codegen.cuda.twin_session import TwinSession, random_weights, reference
from tests.graphs import Types, llama_graph
from tests.random_numbers import random_numbers
from tests.targets import ANY, SPLIT

pytestmark = pytest.mark.slow  # compiles many kernels

RNG = random_numbers(5)
LENGTHS = [1, 31, 32, 33, 255, 256, 257, 600]
CONTEXT = 600


def graph_of(
    head_dim: int,
    kv: str,
    context: int,
    heads: int = 6,
    kv_heads: int = 2,
    *,
    sinks: bool = False,
    **besides: float,
) -> Graph:
    """`besides`: a window, and a cap."""
    b = Builder("attention")
    q, pos = b.input("q", (1, heads * head_dim)), b.input("pos", (1,), "i32")
    k, v = (b.state(name, (context, kv_heads, head_dim), kv) for name in "kv")
    given = {"heads": heads, "kv_heads": kv_heads, "scale": head_dim**-0.5, **besides}
    operands = (b.weight("sinks", (heads,)),) if sinks else ()
    return b.build(b.attention(q, k, v, pos, *operands, name="a", **given))


def split(graph: Graph) -> Graph:
    return SplitAttention().run(graph, SPLIT)[0]


def cache_for(graph: Graph, length: int) -> dict[str, np.ndarray]:
    """Halves for `length` rows; what lies behind them may not be read."""
    caches = {}
    for state in graph.states:
        values = np.full(state.shape, np.nan, np.float16)
        values[:length] = RNG.normal(size=(length, *state.shape[1:]))
        caches[state.name] = values
    return caches


def put(session: TwinSession, caches: dict[str, np.ndarray]) -> None:
    for name, values in caches.items():
        found = session.memory[name]
        kind = np.float16 if found.dtype == np.uint16 else np.float32
        found[:] = paged.memory(values.astype(kind))


def query(graph: Graph, factor: float = 1.0) -> np.ndarray:
    return (factor * RNG.normal(size=graph.inputs[0].shape)).astype(np.float32)


def check(graph: Graph, length: int, factor: float = 1.0, tolerance: float = 1e-6) -> None:
    """One block a head is near the reference, and its bytes are those of one block a span."""
    caches, q = cache_for(graph, length), query(graph, factor)
    checked = reference(graph, {})
    checked.states |= {name: values.astype(np.float64) for name, values in caches.items()}
    wanted = checked.step(q=q, pos=np.array([length - 1]))["a"]
    found = []
    for session in (TwinSession(graph, {}, 0), TwinSession(split(graph), {}, 0, target=SPLIT)):
        put(session, caches)
        found.append(session.step(q=q, pos=np.array([length - 1]))["a"])
    assert np.linalg.norm(found[0] - wanted) < tolerance * np.linalg.norm(wanted)
    assert found[0].tobytes() == found[1].tobytes()


@pytest.mark.parametrize("length", LENGTHS)
def test_lengths_around_chunks_and_spans(length: int) -> None:
    check(graph_of(64, "f16", CONTEXT), length)


@pytest.mark.parametrize(
    ("head_dim", "kv"),
    [
        *((2, "f16"), (6, "f32"), (8, "f16"), (12, "f32"), (64, "f32"), (80, "f16")),
        *((128, "f16"), (250, "f32"), (256, "f16"), (256, "f32")),
    ],
)
def test_heads_of_any_even_size(head_dim: int, kv: str) -> None:
    check(graph_of(head_dim, kv, 300), 270)


@pytest.mark.parametrize(("heads", "kv_heads"), [(1, 1), (9, 3), (4, 1)])
def test_heads_that_share_keys(heads: int, kv_heads: int) -> None:
    check(graph_of(16, "f16", 300, heads, kv_heads), 300)


def test_more_spans_than_are_read_at_once() -> None:
    check(graph_of(8, "f16", 2700, heads=1, kv_heads=1), 2650)


def test_scores_so_far_apart_that_weights_vanish() -> None:
    check(graph_of(16, "f32", CONTEXT), CONTEXT, factor=3e3, tolerance=1e-4)


def test_scores_beyond_bounds_count_as_the_bound() -> None:
    graph = graph_of(2, "f32", 4, heads=1, kv_heads=1)
    session = TwinSession(graph, {}, 0)
    session.memory["$k"][:, 0] = [[3e8, 0], [2e7, 0], [-1e9, 0], [1, 0]]
    session.memory["$v"][:, 0] = [[1, 2], [3, 4], [50, 60], [70, 80]]
    found = session.step(q=np.array([[1.0, 0]], np.float32), pos=np.array([3]))["a"]
    assert found.tolist() == [[2, 3]]


@pytest.mark.cuda
@pytest.mark.parametrize(("head_dim", "kv", "registers"), [(64, "f16", 64), (64, "f32", 0)])
def test_spans_leave_room_for_the_launch_behind(head_dim: int, kv: str, registers: int) -> None:
    """If that costs no spill; where launches do not overlap there is nobody to leave it to."""
    graph = split(graph_of(head_dim, kv, 256))
    found = [
        kernel
        for overlaps in (False, True)
        for kernel in TwinSession(
            graph, {}, 0, target=replace(SPLIT, overlaps=overlaps)
        ).kernels.values()
        if kernel.name.startswith("attention_spans")
    ]
    assert [kernel.registers for kernel in found] == [0, registers]
    deep = found[1]
    (cubin,) = compile_many([deep], "sm_90a")
    assert cubin.spill_stores == cubin.spill_loads == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_a_number_is_not_hidden(bad: float) -> None:
    for graph in (graph_of(16, "f32", CONTEXT), split(graph_of(16, "f32", CONTEXT))):
        session = TwinSession(graph, {}, 0)
        caches = cache_for(graph, CONTEXT)
        caches["$k"][7, 0, 3] = bad
        put(session, caches)
        found = session.step(q=query(graph), pos=np.array([CONTEXT - 1]))["a"].reshape(6, 16)
        assert np.isnan(found[:3]).all()
        assert np.isfinite(found[3:]).all()


@pytest.mark.parametrize("position", [0, 5, 15, 16, 250])
@pytest.mark.parametrize(("head_dim", "kv"), [(8, "f16"), (64, "f16"), (128, "f32")])
def test_what_the_launch_in_front_makes_is_read_behind_the_wait(
    monkeypatch: pytest.MonkeyPatch, position: int, head_dim: int, kv: str
) -> None:
    """The query, and the row that this token appends, come into being while the kernel waits."""
    graph = split(graph_of(head_dim, kv, 256, heads=1, kv_heads=1))
    session = TwinSession(graph, {}, 0, target=SPLIT)
    (kernel,) = (k for k in session.kernels.values() if k.name.startswith("attention_spans"))
    assert kernel.source.count("griddep_wait()") == 1
    put(session, cache_for(graph, position + 1))
    q = query(graph)
    wanted = session.step(q=q, pos=np.array([position]))["a"]
    late = {name: session.memory[name][session.rows[position]].copy() for name in ("$k", "$v")}

    def hide() -> None:
        for name in late:
            session.memory[name][session.rows[position]] = 0x7E00 if kv == "f16" else np.nan
        session.memory["%q"][:] = np.nan

    def appear(*_: object) -> None:
        session.memory["%q"][:] = q
        for name, row in late.items():
            session.memory[name][session.rows[position]] = row

    hide()
    monkeypatch.setattr(twins, "_SILENT", [n for n in twins._SILENT if n != "griddep_wait"])
    monkeypatch.setitem(twins.ARITHMETIC, "griddep_wait", appear)
    for launch in session.plan.launches:
        arguments = (session.memory[a.name] for a in launch.args)
        run_grid(session.kernels[launch.kernel], *arguments)
    assert session.memory["%a"].tobytes() == wanted.tobytes()


# --- where the partial results go ----------------------------------------------------------------


@pytest.mark.parametrize("matrix", ["q8_0", "f32"])
@pytest.mark.parametrize("position", [0, 255, 256, 599])
def test_a_model_gives_the_same_bytes_split_or_not(matrix: str, position: int) -> None:
    shape = {"width": 64, "ffn": 64, "heads": 4, "kv_heads": 2, "layers": 1}
    graph = llama_graph(types=Types(matrix, unused="f32"), context=CONTEXT, **shape)
    weights, caches = random_weights(graph), cache_for(graph, position)
    given = {"token": np.array([5]), "pos": np.array([position])}
    found = []
    for level, target in ((2, ANY), (3, SPLIT)):
        session = TwinSession(graph, weights, level, target=target)
        put(session, caches)
        found.append(session.step(**given)["logits"])
    assert any("combine_matvec" in name for name in session.kernels)
    assert np.isfinite(found[0]).all()
    assert found[0].tobytes() == found[1].tobytes()


@pytest.mark.parametrize("head_dim", [6, 16])
@pytest.mark.parametrize("reader", ["add", "rms_norm", "matvec", "both"])
def test_the_combination_in_front_of_other_readers(head_dim: int, reader: str) -> None:
    """One kernel for it and what reads it gives the bytes of two."""
    n, sizes = 4 * head_dim, {"heads": 4, "span": 256, "spans": 6}
    b = Builder("readers")
    values, sums = b.input("values", (1, 6 * n)), b.input("sums", (1, 6 * 8))
    a = b.attention_combine(values, sums, b.input("pos", (1,), "i32"), name="a", **sizes)
    outputs = [a]
    if reader in ("add", "both"):
        outputs.append(b.add(b.input("x", (1, n)), a))
    if reader in ("rms_norm", "both"):
        a = b.rms_norm(a, b.weight("g", (n,)), eps=1e-5)
        outputs.append(a)
    if reader in ("matvec", "both"):
        outputs.append(b.matvec(a, b.weight("w", (20, n), "f32")))
    graph = b.build(*outputs)
    inputs, results = outside(graph.nodes, graph.needed)
    node = graph.nodes[0].__class__("fused", inputs, results, attrs(kind="all"), graph.nodes)
    given = {
        v.name[1:]: RNG.uniform(0.5, 2, v.shape).round(1).astype(np.float32)
        for v in graph.inputs
        if v.name != "%pos"
    }
    given["sums"][0, ::2] = RNG.integers(-5, 5, 24)
    weights = random_weights(graph)
    for position in (255, 256, 1535):
        given["pos"] = np.array([position])
        apart, whole = (
            TwinSession(graph, weights, 0),
            TwinSession(graph.replace_nodes((node,)), weights, 0),
        )
        one, other = apart.step(**given), whole.step(**given)
        wanted = reference(graph, weights).step(**given)
        for name, value in wanted.items():
            assert one[name].tobytes() == other[name].tobytes(), name
            assert np.linalg.norm(one[name] - value) < 1e-6 * np.linalg.norm(value), name


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("head_dim", [7, 514])
def test_heads_that_no_block_makes_are_refused(head_dim: int) -> None:
    with pytest.raises(FusecError, match=f"an even number of elements up to 512, found {head_dim}"):
        TwinSession(graph_of(head_dim, "f16", 8), {}, 0)


def test_spans_of_another_length_are_refused() -> None:
    graph = graph_of(8, "f16", 64)
    other = SplitAttention().run(graph, ANY.__class__("other", ANY.formats, 1 << 20, span=32))[0]
    with pytest.raises(FusecError, match="expected spans of 256 positions, found 32"):
        TwinSession(other, {}, 0)


def test_the_cpu_target_has_no_kernels_for_them() -> None:
    from fusec.codegen.cpu.emit import emit as emit_for_cpu
    from fusec.passes.lower import lower

    for kernel in lower(split(graph_of(8, "f16", 64)), "cpu", 0).kernels:
        assert emit(kernel)
        with pytest.raises(FusecError, match="the CPU target has no kernel for it"):
            emit_for_cpu(kernel)


@pytest.mark.cuda
@pytest.mark.slow
def test_heads_of_all_sizes_assemble_without_spills() -> None:
    kernels = []
    for head_dim, kv in ((8, "f16"), (64, "f16"), (128, "f32"), (250, "f16"), (256, "f32")):
        graph = graph_of(head_dim, kv, 2048)
        for session in (TwinSession(graph, {}, 0), TwinSession(split(graph), {}, 0, target=SPLIT)):
            kernels += session.kernels.values()
    for cubin in compile_many(kernels, "sm_90a"):
        assert cubin.spill_stores == cubin.spill_loads == 0, cubin.name
        assert ".f64" not in cubin.ptx, cubin.name
