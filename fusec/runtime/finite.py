"""Logits that are not finite are an error that says where and what may help, not a token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fusec.errors import FusecError
from fusec.ir.plan import LaunchPlan

Array = np.ndarray[Any, Any]


def check_finite(plan: LaunchPlan, logits: Array, ids: Sequence[int], first: int) -> None:
    """Raise FusecError unless tokens can be chosen by these float32[len(ids), vocabulary] logits.

    They stand behind the tokens `ids` at the positions from `first` on. None may be NaN, and the
    largest has to be finite; others may be minus infinity, which rules a token out.
    """
    largest = logits.max(axis=-1)  # NaN where there is one
    if not np.isfinite(largest).all():
        row = int(np.flatnonzero(~np.isfinite(largest))[0])
        raise not_finite(plan, ids[row], first + row, str(largest[row]))


def not_finite(plan: LaunchPlan, token: int, position: int, found: str = "") -> FusecError:
    """What to tell of the logits behind a token; `found` is the value that gave them away."""
    kinds = {tensor.dtype for tensor in plan.states.values()}
    advice = "some weight of the model, or a product of them, is not"
    if "f16" in kinds:
        advice = (
            'the KV cache may hold values beyond what f16 can: try --kv f32 (kv="f32"); if that '
            "changes nothing, " + advice
        )
    what = f": found {found}" if found else ""
    return FusecError(
        f"{plan.name}: the logits behind token {token} at position {position} are not finite"
        f"{what}: {advice}"
    )
