"""From a hidden state to logits: the part of a model's graph behind its last layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from fusec.errors import FusecError
from fusec.ir.graph import Graph, Value
from fusec.ir.reference import Reference

Array = np.ndarray[Any, Any]


def head_of(graph: Graph) -> tuple[Graph, Value]:
    """The nodes behind the last layer up to the logits, as a graph of the hidden state.

    Norm, output matrix, and what a model has besides: caps, scales. Also the value that they read.
    """
    last = max(i for i, node in enumerate(graph.nodes) if node.layer is not None)
    (logits,) = (value for value in graph.outputs if value.name == "%logits")
    end = next(i for i, n in enumerate(graph.nodes) if logits in n.outputs)
    nodes = graph.nodes[last + 1 : end + 1]
    made = {value.name for node in nodes for value in node.outputs}
    (hidden,) = {
        value
        for node in nodes
        for value in node.inputs
        if not value.is_weight and value.name not in made
    }
    return replace(graph, inputs=(hidden,), states=(), nodes=nodes, outputs=(logits,)), hidden


def unembedded(graph: Graph, weights: Callable[[str], Array], hidden: Array) -> Array:
    """float32[..., vocabulary] logits of float[..., width] hidden states, computed in float32.

    `weights` gives a decoded weight by its name. Raises FusecError for another width.
    """
    head, value = head_of(graph)
    states = np.asarray(hidden)
    width = value.shape[-1]
    if states.shape[-1:] != (width,) or states.dtype.kind != "f":
        raise FusecError(
            f"expected hidden states as float[..., {width}], "
            f"found {states.dtype}{list(states.shape)}"
        )
    reference = Reference(head, weights, np.float32)
    found = reference.step(**{value.name[1:]: states.reshape(-1, width)})["logits"]
    return found.reshape(*states.shape[:-1], -1).astype(np.float32)
