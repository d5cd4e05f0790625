"""Which weights are brought into the L2 cache ahead of their readers, and beside which launch.

The weights of all layers and of the vocabulary are more than L2 holds, so when a layer runs again
its weights are no longer there, and memory, which was idle, has to deliver them within
microseconds. So the next layer's weights are fetched, if they are few, beside that launch of a
layer that reads the fewest itself. Nothing waits for the copy.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise

from fusec.ir.dtypes import dtype
from fusec.ir.plan import Launch, LaunchPlan

MOST_BYTES = 8 << 20
"""Of a layer's weights: a copy that takes longer than the layer would only compete with it."""


def prefetch(plan: LaunchPlan) -> LaunchPlan:
    """The plan with `Launch.prefetch` set on one launch of every layer but the last."""
    members: dict[int, list[int]] = {}
    for i, launch in enumerate(plan.launches):
        if launch.layer is not None:
            members.setdefault(launch.layer, []).append(i)
    launches = list(plan.launches)
    for layer, following in pairwise(members):
        names = dict.fromkeys(name for i in members[following] for name in _weights(launches[i]))
        if _nbytes(plan, names) <= MOST_BYTES:
            at = min(members[layer], key=lambda i: _nbytes(plan, _weights(launches[i])))
            launches[at] = replace(launches[at], prefetch=tuple(names))
    return replace(plan, launches=tuple(launches))


def _nbytes(plan: LaunchPlan, weights: Iterable[str]) -> int:
    tensors = (plan.weights[name] for name in weights)
    return sum(dtype(tensor.dtype).nbytes(tensor.shape) for tensor in tensors)


def _weights(launch: Launch) -> list[str]:
    return [arg.name for arg in launch.args if arg.kind == "weight"]
