"""No warp of a kernel races with another, and each barrier is why: without it, one does."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fusec.codegen.cuda import control, twins
from fusec.codegen.cuda.toolchain import CudaKernel
from fusec.codegen.cuda.twins_grid import run_grid
from fusec.ir import Graph
from fusec.ir.plan import Choice
from fusec.ir.target import Target
from tests.codegen.cuda import twin_session
from tests.codegen.cuda.one_kernel import inputs_of
from tests.codegen.cuda.races import Race, watched
from tests.codegen.cuda.test_pairs import PAIRS, with_residual
from tests.codegen.cuda.test_tiles import feed_forward, matvec
from tests.codegen.cuda.twin_session import TwinSession, random_weights
from tests.graphs import Types, llama_graph
from tests.targets import AMPERE, ANY, HOPPER, TILED

BARRIER = "    barrier()\n"


def without_one(source: str) -> Iterator[str]:
    """The source with each of its barriers left out in turn."""
    parts = source.split(BARRIER)
    for n in range(1, len(parts)):
        yield "    pass\n".join((BARRIER.join(parts[:n]), BARRIER.join(parts[n:])))


def llama(**given: object) -> Graph:
    return llama_graph(layers=1, context=600, types=Types("q4_0"), **given)


CASES: dict[str, tuple[Graph, int, Target, Choice | None]] = {
    "a launch a node": (llama(), 0, HOPPER, None),
    "fused": (llama(), 2, ANY, None),
    "split": (llama(), 3, AMPERE, None),
    "clusters": (llama(heads=2, kv_heads=1), 3, HOPPER, None),
    "tiles": (feed_forward(), 3, HOPPER, None),
    "tiles in turn": (matvec("q4_k", 16 * 7, 6144), 0, TILED, Choice(16, 3, 2)),
    "pairs": (with_residual("q5_k", 64), 3, HOPPER, PAIRS),
}


@pytest.mark.parametrize("case", CASES)
def test_emitted_kernels_need_their_barriers(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, level, target, choice = CASES[case]
    seen: set[str] = set()

    def check(kernel: CudaKernel, *given: np.ndarray) -> None:
        several = kernel.threads > 32
        for source in without_one(kernel.source) if several and kernel.name not in seen else ():
            with pytest.raises(Race):
                run_grid(replace(kernel, source=source), *(array.copy() for array in given))
        seen.add(kernel.name)
        run_grid(kernel, *given)

    monkeypatch.setattr(twin_session, "run_grid", check)
    session = TwinSession(
        graph, random_weights(graph), level, target=target, choose=lambda _: choice
    )
    with watched():
        session.step(**inputs_of(graph, position=300))
    assert seen == set(session.kernels)


def sample() -> None:
    logits, scores = np.random.default_rng(1).normal(size=(2, 20_000)).astype(np.float32)
    params = control.sampling_words(
        temperature=0.8, top_k=40, top_p=0.9, min_p=0.01, repeat_penalty=1.2, repeat_last=64, seed=5
    )
    chosen, pos = np.zeros((2, 1), np.uint32)
    tokens = np.arange(64, dtype=np.uint32)
    run_grid(control.sample(len(logits)), logits, scores, chosen, pos + 50, tokens, params)


def advance_best() -> None:
    pairs = np.random.default_rng(2).normal(size=(5000, 2)).astype(np.float32)
    pairs[:, 1] = np.arange(5000)
    chosen, token, pos, step = np.zeros((4, 1), np.uint32)
    tokens, ring = np.zeros(20, np.uint32), np.zeros(control.RING, np.uint64)
    kernel = control.advance_best(len(pairs), overlaps=True)
    run_grid(kernel, pairs, chosen, token, pos, step, tokens, ring)


def barriers_of(module: str) -> int:
    return source_of(module).count(BARRIER)


def source_of(module: str) -> str:
    found = importlib.import_module(f"fusec.codegen.cuda.lib.{module}").__file__
    assert found
    return Path(found).read_text()


@pytest.mark.parametrize("run", [sample, advance_best])
def test_kernels_of_the_token_loop_do_not_race(run) -> None:
    with watched():
        run()


@pytest.mark.parametrize(
    ("module", "run", "n"),
    [("sampling", sample, n) for n in range(barriers_of("sampling"))]
    + [("reduce", advance_best, n) for n in range(barriers_of("reduce"))],
)
def test_device_functions_need_their_barriers(module: str, run, n: int, monkeypatch) -> None:
    changed = compile(list(without_one(source_of(module)))[n], module, "exec")
    code = twins._library_code

    def library_code(path: str):
        return changed if path.endswith(f".{module}") else code(path)

    monkeypatch.setattr(twins, "_library_code", library_code)
    with watched(), pytest.raises(Race):
        run()
