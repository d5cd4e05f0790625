"""Attention with its projection in NumPy: the bytes of one kernel an op, and who adds the parts."""

from __future__ import annotations

import numpy as np
import pytest

from fusec.codegen.cuda import twins
from fusec.codegen.cuda.build import compile_many
from fusec.codegen.cuda.emit import emit
from fusec.codegen.cuda.toolchain import CudaKernel
from fusec.codegen.cuda.twins_grid import run_grid
from fusec.errors import FusecError
from fusec.ir import Builder, Graph
from fusec.ir.plan import Kernel
from tests.codegen.cuda.levels import check_level
from tests.codegen.cuda.one_kernel import check_fused
from tests.codegen.cuda.test_attention import cache_for, put
from tests.codegen.cuda.twin_session import TwinSession, random_weights
from tests.graphs import Types, llama_graph
from tests.random_numbers import random_numbers
from tests.targets import HOPPER

pytestmark = pytest.mark.slow  # compiles many kernels

RNG = random_numbers(8)


def model(matrix: str = "iq4_nl", head_dim: int = 64, heads: int = 3, **sizes: object) -> Graph:
    types = Types("q8_0", **{"blk.0.attn_output.weight": matrix})
    shape = {"width": heads * head_dim, "ffn": 32, "kv_heads": 1, "vocab": 32, "layers": 1}
    return llama_graph(types=types, heads=heads, head_dim=head_dim, **(shape | sizes))


def check(graph: Graph, position: int) -> TwinSession:
    """One kernel for attention and projection gives the bytes of one kernel an op."""
    session = check_level(graph, position, 3)
    assert any("attention_project" in name for name in session.kernels)
    return session


# --- the bytes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("position", [0, 15, 16, 200, 255])
def test_one_span(position: int) -> None:
    check(model(context=256), position)


@pytest.mark.parametrize("position", [0, 255, 256, 511, 512, 599])
def test_spans_meet_in_a_cluster(position: int) -> None:
    session = check(model(context=600), position)
    (kernel,) = (k for k in session.kernels.values() if "attention_project" in k.name)
    assert (kernel.grid, kernel.cluster) == (9, 3)


@pytest.mark.parametrize(
    ("matrix", "kv"),
    [
        *(("q8_0", "f16"), ("q4_1", "f32"), ("q2_k", "f16")),
        *(("q6_k", "f32"), ("iq4_xs", "f32"), ("mxfp4", "f16")),
    ],
)
def test_formats_with_minima_or_groups_of_16_or_neither(matrix: str, kv: str) -> None:
    check(model(matrix, heads=4, context=300, kv=kv), 270)


@pytest.mark.parametrize(("head_dim", "heads"), [(32, 5), (128, 3), (256, 4), (64, 16), (32, 32)])
def test_heads_of_any_power_of_two_blocks(head_dim: int, heads: int) -> None:
    """The last three have as many blocks in a row as a warp has lanes."""
    check(model(head_dim=head_dim, heads=heads, width=64, context=300), 257)


def test_more_rows_than_lanes() -> None:
    check(model(heads=2, width=992, context=64), 40)


def test_rows_of_a_block_that_end_inside_a_warp() -> None:
    """331 rows a block, 256 at once, 16 a warp: the last warp has 11 of its second rows."""
    check(model(heads=2, width=992, context=600), 290)


def test_as_many_spans_as_a_cluster_takes() -> None:
    check(model(heads=1, context=2048), 2000)


@pytest.mark.parametrize("position", [0, 5, 250, 300])
def test_what_the_launch_in_front_makes_is_read_behind_the_wait(
    monkeypatch: pytest.MonkeyPatch, position: int
) -> None:
    """The query, and the row that this token appends, come into being while the kernel waits."""
    b = Builder("late")
    q, pos = b.input("q", (1, 64)), b.input("pos", (1,), "i32")
    k, v = (b.state(name, (256 if position < 256 else 512, 1, 64), "f16") for name in "kv")
    sizes = {"heads": 1, "kv_heads": 1, "span": 256, "spans": 1 if position < 256 else 2}
    w = b.weight("w", (40, 64), "q8_0")
    graph = b.build(b.attention_project(q, k, v, pos, w, scale=0.1, name="parts", **sizes))
    session = TwinSession(graph, random_weights(graph), 0, target=HOPPER)
    put(session, cache_for(graph, position + 1))
    query = RNG.normal(size=(1, 64)).astype(np.float32)
    wanted = session.step(q=query, pos=np.array([position]))["parts"]
    late = {name: session.memory[name][session.rows[position]].copy() for name in ("$k", "$v")}
    for name in late:
        session.memory[name][session.rows[position]] = 0x7E00
    session.memory["%q"][:] = np.nan

    def appear(*_: object) -> None:
        session.memory["%q"][:] = query
        for name, row in late.items():
            session.memory[name][session.rows[position]] = row

    monkeypatch.setattr(twins, "_SILENT", [n for n in twins._SILENT if n != "griddep_wait"])
    monkeypatch.setitem(twins.ARITHMETIC, "griddep_wait", appear)
    (launch,) = session.plan.launches
    run_grid(session.kernels[launch.kernel], *(session.memory[a.name] for a in launch.args))
    assert np.isfinite(wanted).all()
    assert session.memory["%parts"].tobytes() == wanted.tobytes()


def test_a_score_that_is_not_a_number_is_not_hidden() -> None:
    graph = model(heads=2, context=600, kv_heads=2)
    session = TwinSession(graph, random_weights(graph), 3, target=HOPPER, disable=("add-in-l2",))
    caches = cache_for(graph, 550)
    caches["$blk.0.k"][7, 1, 3] = np.nan
    put(session, caches)
    session.step(token=np.array([5]), pos=np.array([550]))
    parts = session.memory["%blk.0.attn_residual.parts"].reshape(2, 128)
    assert np.isfinite(parts[0]).all()
    assert np.isnan(parts[1]).all()


# --- who adds the parts up -----------------------------------------------------------------------


@pytest.mark.parametrize("heads", [1, 2, 3, 9, 15, 16])
@pytest.mark.parametrize("n", [96, 30])
def test_parts_added_up_for_a_norm_and_kept(heads: int, n: int) -> None:
    b = Builder("kept")
    x = b.add_parts(b.input("parts", (1, heads * n)), b.input("r", (1, n)), name="x")
    norm, inverse = b.rms_factors(x, b.weight("g", (n,)), eps=1e-5)
    matrix = "q8_0" if n % 32 == 0 else "f32"
    check_fused(b.build(x, b.matvec(norm, b.weight("w", (24, n), matrix), inverse)))


@pytest.mark.parametrize("reader", ["nobody", "add", "rms_norm", "matvec", "long"])
def test_parts_added_up_for_other_readers(reader: str) -> None:
    b, n = Builder("readers"), 5024 if reader == "long" else 96
    x = b.add_parts(b.input("parts", (1, 5 * n)), b.input("r", (1, n)), name="x")
    outputs = [x]
    if reader == "add":
        outputs = [b.add(x, b.input("y", (1, n)))]
    elif reader == "rms_norm":
        norm = b.rms_norm(x, b.weight("g", (n,)), eps=1e-5)
        outputs += [b.matvec(norm, b.weight("w", (24, n), "q8_0"))]
    elif reader in ("matvec", "long"):
        outputs += [b.matvec(x, b.weight("w", (9, n), "q8_0"))]
    check_fused(b.build(*outputs))


def test_parts_are_added_in_the_order_of_lanes() -> None:
    """Neighbours first: floats of very different size show any other order."""
    b = Builder("order")
    graph = b.build(b.add_parts(b.input("parts", (1, 5 * 4)), b.input("r", (1, 4)), name="x"))
    session = TwinSession(graph, {}, 0)
    parts = (RNG.normal(size=(5, 4)) * 10.0 ** RNG.integers(-6, 6, (5, 4))).astype(np.float32)
    r = RNG.normal(size=(1, 4)).astype(np.float32)
    wanted = r + (((parts[0] + parts[1]) + (parts[2] + parts[3])) + parts[4])
    assert (session.step(parts=parts.reshape(1, -1), r=r)["x"] == wanted).all()


# --- refusals ------------------------------------------------------------------------------------


def projection(matrix: str = "q8_0", head_dim: int = 32, heads: int = 2, span: int = 256) -> Graph:
    b = Builder("g")
    q, pos = b.input("q", (1, heads * head_dim)), b.input("pos", (1,), "i32")
    k, v = (b.state(name, (64, 1, head_dim), "f16") for name in "kv")
    sizes = {"heads": heads, "kv_heads": 1, "span": span, "spans": 1}
    w = b.weight("w", (64, heads * head_dim), matrix)
    return b.build(b.attention_project(q, k, v, pos, w, scale=0.1, **sizes))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"matrix": "f16"}, "expected quantised weights, found f16"),
        ({"head_dim": 48}, "expected heads of 32 elements times a power of two"),
        ({"heads": 33}, "in rows of at most 1024, found 33 heads in 1056"),
        ({"span": 128}, "expected spans of 256 positions, found 128"),
    ],
    ids=str,
)
def test_what_no_block_can_project_is_refused(change: dict, message: str) -> None:
    with pytest.raises(FusecError, match=message):
        TwinSession(projection(**change), {}, 0)


def test_clusters_have_a_kernel_of_their_own() -> None:
    b, (node,) = Builder("two"), projection().nodes
    region = projection()
    x = b.input("x", (1, 64))
    silu = b.build(b.silu(x, name="s")).nodes[0]
    both = Graph(
        "both", (*region.inputs, x), region.states, (node, silu),
        (*node.outputs, *silu.outputs),
    )  # fmt: skip
    with pytest.raises(FusecError, match="kernel both: expected attention_project alone"):
        emit(Kernel("both", str(both)))


def test_the_cpu_target_has_no_kernel_for_it() -> None:
    from fusec.codegen.cpu.emit import emit as emit_for_cpu
    from fusec.passes.lower import lower

    (kernel,) = lower(projection(), "cpu", 0).kernels
    with pytest.raises(FusecError, match="the CPU target has no kernel for it"):
        emit_for_cpu(kernel)


# --- the twins of a cluster ----------------------------------------------------------------------

EXCHANGE = """\
from numba import float32, uint32
from fusec.codegen.cuda.device import at, block_index, cluster_arrive_relaxed, cluster_wait
from fusec.codegen.cuda.device import load_shared_f32, mailbox_open, mailbox_wait, map_shared
from fusec.codegen.cuda.device import send_f32x2_if, shared_bytes, store_f32, thread_index


def exchange(out):
    thread, block = thread_index(), block_index()
    room, mailbox = shared_bytes(256), shared_bytes(8)
    mailbox_open(mailbox, uint32({nbytes}), thread == uint32(0))
    cluster_arrive_relaxed()
    cluster_wait()
    other = uint32((block & uint32(1)) ^ uint32(1))
    value = float32(uint32(block * 100 + thread))
    to = map_shared(uint32(room + thread * 8), other)
    send_f32x2_if(to, value, value, map_shared(mailbox, {rank}), thread < uint32(32))
    mailbox_wait(mailbox)
    store_f32(at(out, uint32(block * 32 + thread)), load_shared_f32(uint32(room + thread * 8)))
"""


def exchange(nbytes: int = 256, rank: str = "other") -> CudaKernel:
    source = EXCHANGE.format(nbytes=nbytes, rank=rank)
    return CudaKernel("exchange", source, ("f32*",), 32, grid=4, cluster=2)


def test_blocks_of_a_cluster_exchange() -> None:
    out = np.zeros(128, np.float32)
    run_grid(exchange(), out)
    assert out.reshape(4, 32)[:, 3].tolist() == [103, 3, 303, 203]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nbytes": 128}, "a mailbox for 128 bytes was sent 256"),
        ({"rank": "uint32(0)"}, "counted in another's mailbox"),
    ],
)
def test_what_would_wait_for_ever_is_caught(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run_grid(exchange(**change), np.zeros(128, np.float32))


# --- machine code --------------------------------------------------------------------------------


@pytest.mark.cuda
@pytest.mark.slow
def test_kernels_assemble_without_spills() -> None:
    kernels = {}
    for matrix, head_dim, heads, context, kv in (
        ("iq4_nl", 64, 15, 256, "f16"), ("q2_k", 64, 8, 2048, "f32"), ("q4_1", 256, 2, 700, "f16"),
    ):  # fmt: skip
        graph = model(matrix, head_dim, heads, context=context, kv=kv)
        session = TwinSession(graph, random_weights(graph), 3, target=HOPPER)
        kernels |= {n: k for n, k in session.kernels.items() if "_project" in n}
    assert len(kernels) == 3
    for kernel, cubin in zip(
        kernels.values(), compile_many([*kernels.values()], "sm_90a"), strict=True
    ):
        assert cubin.spill_stores == cubin.spill_loads == 0, cubin.name
        assert ".f64" not in cubin.ptx, cubin.name
        size = f".reqnctapercluster {kernel.cluster}, 1, 1"
        assert (size in cubin.ptx) == (kernel.cluster > 1)
