"""The reference interpreter: any graph, fused or not, in NumPy at float64 or float32.

It is the meaning of a graph. It keeps state unrounded, in its own float type, so what a compiled
plan loses by an f16 KV cache shows as error against it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from fusec.errors import FusecError
from fusec.ir.graph import Graph
from fusec.ir.op import results_of
from fusec.ir.ops import op
from fusec.writer import brief, count

Array = np.ndarray[Any, Any]
Weights = Mapping[str, Array] | Callable[[str], Array]


class Reference:
    """Runs a graph step by step, keeping its states.

    `weights` gives the decoded float array of a weight by its GGUF name (without '@'). A step
    raises FusecError for one that is missing, for other inputs and for an unknown op.
    """

    def __init__(self, graph: Graph, weights: Weights, dtype: type = np.float64) -> None:
        self.graph, self.dtype = graph, np.dtype(dtype)
        self._weight = weights if callable(weights) else partial(_given, graph, weights)
        self.reset()

    def __repr__(self) -> str:
        return brief(
            self, f"{self.graph.name}: {self.dtype}, {count(len(self.graph.nodes), 'node')}"
        )

    def reset(self) -> None:
        """Empty every state."""
        self.states = {v.name: np.zeros(v.shape, self.dtype) for v in self.graph.states}

    def step(self, **inputs: Array) -> dict[str, Array]:
        """Run one step; inputs and results by name without '%'. T may differ from the graph's."""
        missing = {v.name[1:] for v in self.graph.inputs} ^ set(inputs)
        if missing:
            raise FusecError(f"graph {self.graph.name}: inputs differ in {', '.join(missing)}")
        values: dict[str, Array] = dict(self.states)
        for value in self.graph.inputs:
            given = np.asarray(inputs[value.name[1:]])
            values[value.name] = given if value.dtype == "i32" else given.astype(self.dtype)
        for node in self.graph.walk():
            operands = [
                self._weight(v.name[1:]).astype(self.dtype, copy=False)
                if v.is_weight
                else values[v.name]
                for v in node.inputs
            ]
            made = results_of(op(node.op).reference(*operands, **dict(node.attrs)))
            values |= {v.name: array for v, array in zip(node.outputs, made, strict=True)}
        for node in self.graph.walk():
            for value in node.outputs:
                if value.is_state:
                    self.states[value.buffer] = values[value.name]
        return {v.name[1:]: values[v.name] for v in self.graph.outputs}


def _given(graph: Graph, weights: Mapping[str, Array], name: str) -> Array:
    if name not in weights:
        raise FusecError(f"graph {graph.name}: weight @{name} is not given")
    return weights[name]
