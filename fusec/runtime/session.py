"""What every backend offers: a plan that can be stepped, with memory of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np

from fusec.errors import FusecError
from fusec.ir.dtypes import dtype
from fusec.ir.ops import op
from fusec.ir.plan import LaunchPlan
from fusec.ir.region import parameters
from fusec.ir.text import parse

Array = np.ndarray[Any, Any]

STATELESS_POSITIONS = 4096  # length of the tables of angles where no state sets it


class Session(Protocol):
    """A plan bound to memory. Names are the graph's without '%', '$' or '@'."""

    plan: LaunchPlan

    def step(self, **inputs: Array) -> dict[str, Array]:
        """Run one step over up to `plan.tokens` tokens; results are valid until the next step."""

    def reset(self) -> None:
        """Empty the states."""

    def close(self) -> None:
        """Give back memory and threads."""


def positions(plan: LaunchPlan) -> int:
    """How many positions a plan can be run for: what its smallest state holds."""
    return min((state.shape[0] for state in plan.states.values()), default=STATELESS_POSITIONS)


def limits(plan: LaunchPlan) -> dict[str, int]:
    """Input name -> how many values it may take, for inputs that kernels index memory with.

    A token id is bounded by the rows of the table it looks up, a position by `positions(plan)` and
    by the spans there are to combine.
    """
    regions = {kernel.name: parse(kernel.region) for kernel in plan.kernels}
    found: dict[str, int] = {}
    for launch in plan.launches:
        region = regions[launch.kernel]
        args = {v.name: a for v, a in zip(parameters(region), launch.args, strict=False)}
        for node in region.nodes:
            for place, bound in op(node.op).indices.items():
                arg = args.get(node.inputs[place].name)
                if bound is not None and arg is not None and arg.kind == "input":
                    most = bound(node) or positions(plan)
                    found[arg.name] = min(most, found.get(arg.name, most))
    return found


def bound_weight(plan: LaunchPlan, name: str, weight: Callable[[str], Array]) -> Array:
    """A weight's memory, contiguous; `weight` looks it up by its name without '@'.

    It is an array of the plan's type and shape, or the bytes of one, as a model file has them.
    Raises FusecError for one that is missing or anything else.
    """
    tensor = plan.weights[name]
    kind = dtype(tensor.dtype)
    try:
        found = np.ascontiguousarray(weight(name[1:]))
    except KeyError:
        raise FusecError(f"{plan.name}: weight {name} is not given") from None
    is_bytes = found.dtype == np.uint8 and found.nbytes == kind.nbytes(tensor.shape)
    if is_bytes or (found.dtype == kind.numpy and found.shape == tensor.shape):
        return found
    wanted = f"{tensor.dtype}{list(tensor.shape)} or its {kind.nbytes(tensor.shape):,} bytes"
    raise FusecError(
        f"{plan.name}: expected weight {name} as {wanted}, found {found.dtype}{list(found.shape)}"
    )


def check_inputs(
    plan: LaunchPlan, inputs: Mapping[str, Array], limits: Mapping[str, int] | None = None
) -> int:
    """Tokens of this step. Raises FusecError if the inputs are not what the plan takes.

    `limits`, of `limits(plan)`, keeps kernels from indexing outside their memory.
    """
    if set(inputs) != {name[1:] for name in plan.inputs}:
        wanted = ", ".join(name[1:] for name in plan.inputs)
        raise FusecError(f"{plan.name}: expected inputs {wanted}, found {', '.join(inputs)}")
    for name, tensor in plan.inputs.items():
        found, kind = inputs[name[1:]], dtype(tensor.dtype).numpy
        is_array = isinstance(found, np.ndarray)
        if not is_array or found.shape[1:] != tensor.shape[1:] or found.dtype != kind:
            wanted = ", ".join(("T", *map(str, tensor.shape[1:])))
            what = f"{found.dtype}{list(found.shape)}" if is_array else type(found).__name__
            raise FusecError(f"{plan.name}: expected {name} as {kind}[{wanted}], found {what}")
    tokens = {array.shape[0] if array.shape else 0 for array in inputs.values()}
    if len(tokens) != 1 or not 1 <= min(tokens) <= plan.tokens:
        raise FusecError(
            f"{plan.name}: expected one number of tokens from 1 to {plan.tokens} for every input, "
            f"found {sorted(tokens)}"
        )
    for name, limit in (limits or {}).items():
        given = inputs[name[1:]]
        if given.min() < 0 or given.max() >= limit:
            raise FusecError(
                f"{plan.name}: expected {name} from 0 to {limit - 1}, found {given.tolist()}"
            )
    return tokens.pop()
