"""Compile time grows with the number of layers, not with its square."""

from __future__ import annotations

import gc
import time
from dataclasses import replace

import pytest

from fusec.codegen import targets
from fusec.ir import Graph
from fusec.passes import gpus
from fusec.passes.pipeline import passes_of, run_passes
from tests.graphs import llama_graph

TRIES = 5
MOST = 9  # times as long for eight times the layers
HOPPER = targets.get("sm_90a").limits
TARGET = replace(HOPPER, gpu=gpus.for_arch(HOPPER.name))  # merges are predicted as well


@pytest.fixture
def uncollected():
    """What the collector walks through is mostly what other tests left."""
    gc.disable()
    yield
    gc.enable()


def cpu_seconds(graph: Graph) -> float:
    """Of this process: others on the machine do not count."""
    start = time.process_time()
    run_passes(graph, passes_of(3), TARGET)
    return time.process_time() - start


@pytest.mark.usefixtures("uncollected")
def test_eighty_layers_take_at_most_nine_times_as_long_as_ten() -> None:
    """In turn, the best of several: what disturbs one is soon over."""
    few, many = llama_graph(layers=10), llama_graph(layers=80)
    cpu_seconds(few)  # what is kept of a region counts for neither
    short, long = [], []
    while len(long) < TRIES:
        short += [cpu_seconds(few) for _ in range(4)]
        long.append(cpu_seconds(many))
        if min(long) <= MOST * min(short):
            return
    pytest.fail(f"80 layers: {min(long):.2f} s, {min(long) / min(short):.1f} times those of 10")
