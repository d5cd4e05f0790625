"""What tests of single passes ask: one by name, why it left nodes alone, how far a stage is off."""

from functools import cache

import numpy as np

from fusec.ir import Graph, Reference
from fusec.ir.plan import LaunchPlan
from fusec.ir.target import Target
from fusec.passes.lower import lower
from fusec.passes.pipeline import Pass, Stage, passes_of, run_passes
from tests.graphs import llama_graph, weights_for
from tests.random_numbers import random_numbers

RANDOM = random_numbers(5)


@cache
def thirty_layers(level: int, target: Target, *disable: str) -> LaunchPlan:
    """The plan of a model of 30 small layers, compiled once for all tests that count launches."""
    graph = llama_graph(layers=30, heads=2, kv_heads=1)
    graph = run_passes(graph, passes_of(level, disable=disable), target)[-1].graph
    return lower(graph, "any", level)


def pass_of(name: str, level: int = 3) -> Pass:
    """The pass of a level that has this name."""
    return next(p for p in passes_of(level) if p.name == name)


def through(graph: Graph, target: Target, *names: str) -> Graph:
    """The graph behind these passes, one after another."""
    for name in names:
        graph = pass_of(name).run(graph, target)[0]
    return graph


def reasons_of(step: Pass, graph: Graph, target: Target) -> tuple[int, list[str]]:
    """How often a pass applied, and the reasons where it did not; it changes nothing else."""
    after, hits, refused = step.run(graph, target)
    assert (after == graph) == (hits == 0)
    return hits, [r.reason for r in refused]


def distance(one: Stage, other: Stage) -> float:
    """Largest difference of logits behind filled caches, in units of the largest logit."""
    graph = one.graph
    weights = weights_for(graph)
    caches = {s.name: RANDOM.standard_normal(s.shape) for s in graph.states}
    results = []
    for stage in (one, other):
        checked = Reference(stage.graph, weights)
        checked.states |= {name: values.copy() for name, values in caches.items()}
        results.append(checked.step(token=np.array([3]), pos=np.array([280]))["logits"])
    return float(np.abs(results[1] - results[0]).max() / np.abs(results[0]).max())
