"""place-weights: which launch brings which weights into the L2 cache, ahead of who reads them.

The layers' weights and the vocabulary's together are more than L2 holds, so by the time a layer
runs again its weights have gone. A layer reads its share of them within microseconds, later than
memory could have delivered it. So with a layer's first launch the next layer's weights are asked
for, if they are few; the copy runs beside the layer and nothing waits for it. A launch is of the
layer whose values it writes first: at -O3 the one that makes a layer's q, k and v writes the
residual of the layer in front as well, and counts as the last of that.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from fusec.ir.dtypes import dtype
from fusec.ir.plan import Launch, LaunchPlan

MOST_BYTES = 8 << 20
"""Of a layer's weights: a copy that takes longer than the layer would only compete with it."""


def prefetch(plan: LaunchPlan) -> LaunchPlan:
    """The plan with `Launch.prefetch` set on the first launch of every layer but the last."""
    first: dict[int, int] = {}
    weights: dict[int, dict[str, None]] = {}
    for i, launch in enumerate(plan.launches):
        if launch.layer is not None:
            first.setdefault(launch.layer, i)
            weights.setdefault(launch.layer, {}).update(dict.fromkeys(_weights(launch)))
    launches = list(plan.launches)
    layers = sorted(first, key=first.__getitem__)
    for layer, following in pairwise(layers):
        i = first[layer]
        names = tuple(weights[following])
        if sum(_nbytes(plan, name) for name in names) <= MOST_BYTES:
            launches[i] = replace(launches[i], prefetch=names)
    return replace(plan, launches=tuple(launches))


def _nbytes(plan: LaunchPlan, weight: str) -> int:
    tensor = plan.weights[weight]
    return dtype(tensor.dtype).nbytes(tensor.shape)


def _weights(launch: Launch) -> list[str]:
    return [arg.name for arg in launch.args if arg.kind == "weight"]
