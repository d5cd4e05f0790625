"""Every line of today's kernels that synchronises is missed when it is gone, or is named here."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fusec.codegen.cuda import control, microbench, twins
from fusec.codegen.cuda.toolchain import CudaKernel
from fusec.codegen.cuda.twins_branches import compile_branches
from fusec.codegen.cuda.twins_grid import run_grid
from fusec.ir import Graph
from fusec.ir.choice import Choice
from fusec.ir.target import Target
from tests.codegen.cuda.mutants import of_session, unnoticed
from tests.codegen.cuda.one_kernel import inputs_of
from tests.codegen.cuda.test_argmax import head
from tests.codegen.cuda.test_attention import cache_for, put
from tests.codegen.cuda.test_attention_project import model
from tests.codegen.cuda.test_emit import SMALL, types
from tests.codegen.cuda.test_head_prologue import Shape
from tests.codegen.cuda.test_matvec_parts import network
from tests.codegen.cuda.test_pairs import PAIRS, with_residual
from tests.codegen.cuda.test_tiles import matvec
from tests.codegen.cuda.twin_session import TwinSession, random_weights
from tests.graphs import llama_graph
from tests.targets import ANY, HOPPER, SPLIT

pytestmark = pytest.mark.slow  # compiles many kernels

# Rings in front of the wait ask for one copy at a time (`ring.pace`), which is about time: a later
# wait covers the same copies, and a group more or less in front of a wait for all is the same.
PACED = ["copy_async_commit()", "copy_async_wait_0()"]
# A warp makes the digits of its own columns, and waits for its ring before it reads them: of two
# barriers in a row either is enough.
OWN_DIGITS = ["warp_barrier()"]
# Keeps the compiler from computing what follows too early.
REGISTERS = ["warp_barrier()  # what follows would take registers earlier"]


def small(level: int, target: Target, position: int, **sizes: object) -> TwinSession:
    return filled(llama_graph(types=types("q8_0"), **(SMALL | sizes)), level, target, position)


def filled(graph: Graph, level: int, target: Target, position: int) -> TwinSession:
    session = TwinSession(graph, random_weights(graph), level, target=target)
    put(session, cache_for(graph, position))
    session.put({"pos": position + np.arange(graph.tokens)})
    return session


def shaped(graph: Graph, choice: Choice | None = None, target: Target = HOPPER) -> TwinSession:
    return TwinSession(graph, random_weights(graph), 3, target=target, choose=lambda _: choice)


def own_heads(tokens: int = 1, *ops: tuple[str, ...], **sizes: int) -> TwinSession:
    """Attention whose blocks make what they read of this step."""
    return filled(Shape(*ops, **sizes).graph(tokens), 3, HOPPER, 290)


THREE_TILES = replace(PAIRS, rows_at_once=3)
SESSIONS: dict[str, tuple[Callable[[], TwinSession], list[str]]] = {
    "an op a kernel, two spans": (lambda: small(0, ANY, 300, context=512), []),
    "pairs of ops": (lambda: small(1, ANY, 300, context=512), []),
    "spans in blocks of their own": (lambda: small(3, SPLIT, 300, context=512), []),
    "parts of the feed-forward network": (lambda: small(3, HOPPER, 20), []),
    "attention with its projection": (lambda: filled(model(context=600), 3, HOPPER, 300), []),
    "a head's query and newest rows": (lambda: own_heads(context=600), []),
    "those of three rows, twice normed": (
        lambda: own_heads(3, ("head_norm", "own_norm", "rope"), ("head_norm",)), [],
    ),
    "parts that are added up": (lambda: shaped(network(160)), []),
    "parts of two rows": (lambda: shaped(network(160, tokens=2)), []),
    "parts of eight rows": (lambda: shaped(network(160, tokens=8)), []),
    "argmax in blocks": (lambda: shaped(head(300), None, SPLIT), []),
    "tiles in one step": (
        lambda: shaped(matvec("q4_k")), ["copy_async_wait_0()", *OWN_DIGITS],
    ),
    "tiles in steps": (
        lambda: shaped(matvec("q4_k", 80), Choice(16, 2, 2)), [*PACED, *PACED, *OWN_DIGITS],
    ),
    "pairs of blocks": (
        lambda: shaped(with_residual("q4_0", 48), PAIRS),
        [*PACED, *PACED, "copy_async_wait_3()", *OWN_DIGITS, *REGISTERS],
    ),
    "pairs that refill their rings": (
        lambda: shaped(with_residual("q5_1", 96), THREE_TILES),
        ["copy_async_wait_0()", "copy_async_wait_0()", *OWN_DIGITS, *REGISTERS],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SESSIONS)
def test_kernels_of_plans(name: str) -> None:
    make, expected = SESSIONS[name]
    session = make()
    given = inputs_of(session.graph)
    if "pos" in given:
        given["pos"] = session.memory["%pos"].copy()
    found = of_session(session, given)
    assert [line for lines in found.values() for line in lines] == expected


def test_a_row_that_is_read_too_early_is_poison() -> None:
    """The newest row of the caches, where the attention does not read it again."""
    session = small(3, SPLIT, 0)
    name = next(name for name in session.kernels if name.startswith("attention_spans"))
    kernel, again = session.kernels[name], "if some(last < uint32(start + uint32(16))):"
    assert again in kernel.source
    given = {"token": np.array([1]), "pos": np.array([0])}
    assert np.isfinite(session.step(**given)["logits"]).all()
    source = kernel.source.replace(again, "if some(last < uint32(0)):")
    session.kernels[name] = replace(kernel, source=source)
    assert np.isnan(session.step(**given)["logits"]).all()


def test_a_cluster_that_reads_its_shared_memory() -> None:
    """A barrier of it between writing and reading, and one before a block leaves."""
    kernel = replace(microbench.cluster_exchange(), grid=8, cluster=microbench.CLUSTER)
    arguments = np.full(1, 2, np.uint32), np.zeros(8 * kernel.threads, np.uint32)
    assert not unnoticed(
        kernel.source, lambda source: run_grid(replace(kernel, source=source), *arguments)
    )


VOCABULARY = 100


@pytest.mark.parametrize(
    "kernel", [control.advance(VOCABULARY, True), control.advance_best(1024, True)]
)
def test_kernels_that_wait_for_the_plan(kernel: CudaKernel) -> None:
    """They store nothing in front of the wait that they have where launches overlap."""

    def run(source: str) -> None:
        advanced(replace(kernel, source=source), early=True)

    assert unnoticed(kernel.source, run) == []


# --- what the token loop's kernels call ----------------------------------------------------------


def sampled(kernel: CudaKernel) -> None:
    rng = np.random.default_rng(3)
    logits, tokens = rng.normal(size=3000).astype(np.float32), np.arange(64, dtype=np.uint32)
    words = control.sampling_words(
        temperature=0.8, top_k=40, top_p=0.9, min_p=0.0, repeat_penalty=1.3, repeat_last=20, seed=1
    )
    found, pos = np.zeros(1, np.uint32), np.full(1, 30, np.uint32)
    run_grid(kernel, logits, np.zeros_like(logits), found, pos, tokens, words)


def advanced(kernel: CudaKernel, early: bool = False) -> None:
    parts = np.zeros(1024, np.float32), np.zeros(1024, np.uint32)
    front = parts if kernel.name == "advance_best" else (np.zeros(VOCABULARY, np.float32),)
    words = [np.zeros(1, np.uint32) for _ in range(4)]
    tokens, ring = np.zeros(64, np.uint32), np.zeros(control.RING, np.uint64)
    run_grid(kernel, *front, *words, tokens, ring, early=early)


@pytest.mark.parametrize(
    ("module", "run", "kernel"),
    [
        ("sampling", sampled, control.sample(3000)),
        ("reduce", advanced, control.advance_best(1024)),
    ],
    ids=["sample", "advance_best"],
)
def test_kernels_of_the_token_loop(
    monkeypatch: pytest.MonkeyPatch,
    module: str,
    run: Callable[[CudaKernel], None],
    kernel: CudaKernel,
) -> None:
    path = f"fusec.codegen.cuda.lib.{module}"
    spec, others = importlib.util.find_spec(path), twins._library_code
    assert spec is not None and spec.origin is not None

    def changed(source: str) -> None:
        code = compile_branches(source, spec.origin)
        monkeypatch.setattr(twins, "_library_code", lambda p: code if p == path else others(p))
        run(kernel)

    assert unnoticed(Path(spec.origin).read_text(), changed) == []
