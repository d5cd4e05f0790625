"""The launch of a plan that chooses the next token, which a token loop may do itself instead."""

from __future__ import annotations

from dataclasses import replace

from fusec.ir.ops import op
from fusec.ir.plan import Launch, LaunchPlan


def final_choice(plan: LaunchPlan) -> Launch | None:
    """The last launch, if all it does is to make %next of the parts of an argmax."""
    last = plan.launches[-1] if plan.launches else None
    if last is None or last.writes != ("%next",):
        return None
    nodes = plan.region(last).nodes
    by_parts = len(nodes) == 1 and op(nodes[0].op).role == "scalar" and len(nodes[0].inputs) == 2
    return last if by_parts else None


def without_choice(plan: LaunchPlan) -> LaunchPlan:
    """The plan without `final_choice`, for a token loop whose own last kernel chooses."""
    if final_choice(plan) is None:
        return plan
    launches = plan.launches[:-1]
    used = {launch.kernel for launch in launches}
    kernels = tuple(kernel for kernel in plan.kernels if kernel.name in used)
    return replace(plan, kernels=kernels, launches=launches)
