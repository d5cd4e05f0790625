"""What every backend offers: a plan that can be stepped, with memory of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from fusec.errors import FusecError
from fusec.ir.dtypes import dtype
from fusec.ir.plan import LaunchPlan

Array = np.ndarray[Any, Any]


class Session(Protocol):
    """A plan bound to memory. Names are the graph's without '%', '$' or '@'."""

    plan: LaunchPlan

    def step(self, **inputs: Array) -> dict[str, Array]:
        """Run one step over up to `plan.tokens` tokens; results are valid until the next step."""

    def reset(self) -> None:
        """Empty the states."""

    def close(self) -> None:
        """Give back memory and threads."""


def check_inputs(plan: LaunchPlan, inputs: Mapping[str, Array]) -> int:
    """Tokens of this step. Raises FusecError if the inputs are not what the plan takes."""
    if set(inputs) != {name[1:] for name in plan.inputs}:
        wanted = ", ".join(name[1:] for name in plan.inputs)
        raise FusecError(f"{plan.name}: expected inputs {wanted}, found {', '.join(inputs)}")
    tokens = {len(array) for array in inputs.values()}
    if len(tokens) != 1 or not 1 <= min(tokens) <= plan.tokens:
        raise FusecError(
            f"{plan.name}: expected one number of tokens from 1 to {plan.tokens} for every input, "
            f"found {sorted(tokens)}"
        )
    for name, tensor in plan.inputs.items():
        found, kind = inputs[name[1:]], dtype(tensor.dtype).numpy
        if found.shape[1:] != tensor.shape[1:] or found.dtype != kind:
            wanted = ", ".join(("T", *map(str, tensor.shape[1:])))
            raise FusecError(
                f"{plan.name}: expected {name} as {kind}[{wanted}], "
                f"found {found.dtype}{list(found.shape)}"
            )
    return tokens.pop()
