"""Pairs of blocks that share the columns of long rows, on the GPU."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import fusec
from fusec import Builder
from fusec.codegen import formats
from fusec.codegen.cuda.shape import SPLIT
from fusec.driver import Compiled
from fusec.ir.choice import Choice
from tests.codegen.blocks import random_rows

pytestmark = pytest.mark.gpu
NAMES = ("q4_0", "q6_k", "iq4_nl")
ROWS = 2048


def compiled(name: str, choice: Choice | None, target: str = "native") -> Compiled:
    """A matvec and a residual; its one kernel as `choice` says."""
    b = Builder(f"pairs_{name}")
    y = b.matvec(b.input("x", (1, SPLIT)), b.weight("w", (ROWS, SPLIT), name))
    graph = b.build(b.add(y, b.input("residual", (1, ROWS)), name="y"))
    found = fusec.compile(graph, target=target, level=3)
    kernels = tuple(replace(kernel, choice=choice) for kernel in found.plan.kernels)
    return replace(found, plan=replace(found.plan, kernels=kernels))


@pytest.mark.parametrize("name", NAMES)
def test_pairs_make_the_bytes_of_single_blocks(name: str) -> None:
    raw = random_rows(formats.get(name), ROWS, SPLIT, seed=1)
    rng = np.random.default_rng(2)
    x = rng.standard_normal((1, SPLIT)).astype(np.float32)
    residual = rng.standard_normal((1, ROWS)).astype(np.float32)
    found = []
    for choice in (Choice(16, min_blocks=2), Choice(16, min_blocks=2, paired=True), None):
        session = compiled(name, choice).session({"w": raw})
        found += [session.step(x=x, residual=residual)["y"].tobytes() for _ in range(3)]
        session.close()
    assert len(set(found)) == 1
    wanted = formats.get(name).decode(raw).astype(np.float64) @ x[0] + residual[0]
    got = np.frombuffer(found[0], np.float32)
    assert np.linalg.norm(got - wanted) < 1e-6 * np.linalg.norm(wanted)
