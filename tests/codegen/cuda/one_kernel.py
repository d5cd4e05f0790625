"""A graph as one kernel, run by the twins beside one kernel a node."""

from __future__ import annotations

import numpy as np

from fusec.ir import Graph
from fusec.ir.graph import Node, attrs, outside
from fusec.ir.target import Target
from tests.codegen.cuda.twin_session import TwinSession, random_weights, reference
from tests.random_numbers import random_numbers
from tests.targets import ANY

RNG = random_numbers(11)


def distance(got: np.ndarray, wanted: np.ndarray) -> float:
    apart = np.linalg.norm(got - wanted)
    return float(apart / np.linalg.norm(wanted)) if apart else 0.0  # zeros may be what is wanted


def fused(graph: Graph) -> Graph:
    """The whole graph as one node: one kernel, where `analyse` can split it."""
    inputs, outputs = outside(graph.nodes, graph.needed)
    node = Node("fused", inputs, outputs, attrs(kind="all"), graph.nodes)
    return graph.replace_nodes((node,))


def inputs_of(graph: Graph, position: int = 0) -> dict[str, np.ndarray]:
    return {
        v.name[1:]: np.array([position if v.name == "%pos" else 3])
        if v.dtype == "i32"
        else RNG.normal(size=v.shape).astype(np.float32)
        for v in graph.inputs
    }


def check_fused(
    graph: Graph, tolerance: float = 1e-6, position: int = 0, target: Target = ANY
) -> None:
    """One kernel for all nodes gives the bytes of one kernel a node, near the reference."""
    weights = random_weights(graph)
    given = inputs_of(graph, position)
    apart, whole = (TwinSession(g, weights, 0, target=target) for g in (graph, fused(graph)))
    assert len(whole.kernels) == 1
    one, other = apart.step(**given), whole.step(**given)
    wanted = reference(graph, weights).step(**given)
    for name, value in wanted.items():
        assert one[name].tobytes() == other[name].tobytes(), name
        assert distance(one[name], value) < tolerance, name
    for state in apart.plan.states:
        assert apart.memory[state].tobytes() == whole.memory[state].tobytes()
