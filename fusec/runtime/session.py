"""The session that every target has: a plan bound to memory, which can be run step by step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar

import numpy as np

from fusec.codegen.formats import FORMATS
from fusec.errors import FusecError
from fusec.ir.dtypes import dtype
from fusec.ir.graph import Graph
from fusec.ir.ops import op
from fusec.ir.plan import LaunchPlan
from fusec.ir.region import parameters
from fusec.ir.tables import make_table
from fusec.ir.text import parse
from fusec.runtime.cache import Cache

Array = np.ndarray[Any, Any]
Own = TypeVar("Own")

STATELESS_POSITIONS = 4096  # length of the tables of angles where no state sets it


class Session(Protocol):
    """A plan bound to memory. Names are the graph's without '%', '$' or '@'."""

    plan: LaunchPlan

    def step(self, **inputs: Array) -> dict[str, Array]:
        """Run one step over up to `plan.tokens` tokens; results are the caller's own.

        Steps of several threads take turns. Raises FusecError for inputs that the plan does not
        take, once the session is closed, and in a forked child.
        """

    def reset(self) -> None:
        """Empty the states."""

    def cached(self) -> AbstractContextManager[Cache]:
        """The KV cache, while no other thread has a call of this session.

        Steps find the rows of any positions there, and take memory for them as they need it.
        """

    def close(self) -> None:
        """Give back memory and threads, also those that other sessions share. Twice is fine."""

    def __enter__(self: Own) -> Own:
        """The session, which the end of the `with` statement closes."""

    def __exit__(self, *error: object) -> None:
        """Close it."""


def positions(plan: LaunchPlan) -> int:
    """How many positions a plan can be run for: as many as its smallest state has."""
    return min((state.shape[0] for state in plan.states.values()), default=STATELESS_POSITIONS)


def cached_positions(plan: LaunchPlan) -> set[str]:
    """Inputs, by name, that say where in the cache kernels read and write."""
    return {
        inputs[value.name][1:]
        for region, inputs in _launches(plan)
        for node in region.nodes
        if any(v.is_state for v in node.inputs)
        for value in (node.inputs[place] for place in op(node.op).indices)
        if value.name in inputs
    }


def limits(plan: LaunchPlan) -> dict[str, int]:
    """Input name -> how many values it may take, for inputs that kernels index memory with.

    A token id is bounded by the rows of the table it looks up, a position by `positions(plan)` and
    by the spans there are to combine.
    """
    found: dict[str, int] = {}
    for region, inputs in _launches(plan):
        for node in region.nodes:
            for place, bound in op(node.op).indices.items():
                name = inputs.get(node.inputs[place].name)
                if bound is not None and name is not None:
                    most = bound(node) or positions(plan)
                    found[name] = min(most, found.get(name, most))
    return found


def in_order(plan: LaunchPlan) -> set[str]:
    """Inputs that count up by one from each row of a step to the next: positions.

    Attention that makes the newest rows of its caches finds those of the step's other rows by that.
    """
    found = set()
    for region, inputs in _launches(plan):
        roles = {op(node.op).role: node for node in region.nodes}
        if plan.tokens > 1 and roles.keys() >= {"heads", "store"}:
            attention = roles["heads"]
            found |= {inputs[attention.inputs[place].name] for place in op(attention.op).indices}
    return found


def _launches(plan: LaunchPlan) -> Iterator[tuple[Graph, dict[str, str]]]:
    """The region of every launch, and which inputs its values are."""
    regions = {kernel.name: parse(kernel.region) for kernel in plan.kernels}
    for launch in plan.launches:
        region = regions[launch.kernel]
        args = zip(parameters(region), launch.args, strict=False)
        yield region, {value.name: arg.name for value, arg in args if arg.kind == "input"}


def check_order(plan: LaunchPlan, inputs: Mapping[str, Array], names: Iterable[str]) -> None:
    """Raise FusecError unless the inputs `names`, as `in_order` gives them, count up by one."""
    for name in names:
        given = inputs[name[1:]]
        if (np.diff(given) != 1).any():
            raise FusecError(
                f"{plan.name}: expected {name} to count up by one from row to row, found "
                f"{given.tolist()}"
            )


def bound_weight(plan: LaunchPlan, name: str, weight: Callable[[str], Array]) -> Array:
    """A weight's memory, contiguous; `weight` looks it up by its name without '@'.

    It is an array of the plan's type and shape, or the bytes of one, in its rows as a model file
    has them or all in one. Raises FusecError for one that is missing or anything else.
    """
    tensor = plan.weights[name]
    kind = dtype(tensor.dtype)
    wanted = f"{tensor.dtype}{list(tensor.shape)} or its {kind.nbytes(tensor.shape):,} bytes"
    try:
        found = _plain_array(weight(name[1:]))
    except KeyError:
        raise FusecError(f"{plan.name}: weight {name} is not given: expected {wanted}") from None
    except (TypeError, ValueError) as error:
        raise FusecError(f"{plan.name}: expected weight {name} as {wanted}: {error}") from None
    rows = *tensor.shape[:-1], kind.nbytes(tensor.shape[-1:])
    is_bytes = found.dtype == np.uint8 and found.shape in (rows, (kind.nbytes(tensor.shape),))
    is_plain = kind.numpy is not None and found.dtype == kind.numpy
    if not is_bytes and not (is_plain and found.shape == tensor.shape):
        raise FusecError(
            f"{plan.name}: expected weight {name} as {wanted}, "
            f"found {found.dtype}{list(found.shape)}"
        )
    aligned = kind.numpy is None or found.ctypes.data % kind.numpy.alignment == 0
    return np.ascontiguousarray(found) if aligned else found.copy()


def decoded_weight(plan: LaunchPlan, name: str, weight: Callable[[str], Array]) -> Array:
    """A weight as float32 in its shape, for tables. Raises FusecError as `bound_weight` does."""
    tensor, raw = plan.weights[name], bound_weight(plan, name, weight)
    rows = raw.reshape(-1).view(np.uint8).reshape(math.prod(tensor.shape[:-1]), -1)
    return FORMATS[tensor.dtype].decode(rows).reshape(tensor.shape)


def tables(plan: LaunchPlan, weight: Callable[[str], Array]) -> dict[str, Array]:
    """The plan's tables by name, long enough for every position that `limits` lets in."""
    length = positions(plan)
    return {
        name: make_table(table, length, lambda key: decoded_weight(plan, f"@{key}", weight))
        for name, table in plan.tables.items()
    }


def _plain_array(given: Any) -> Array:
    """As an array without a subclass. Raises TypeError for a masked one, which has holes."""
    if isinstance(given, np.ma.MaskedArray):
        raise TypeError("found a masked array, whose mask kernels do not know")
    return np.asarray(given)


def check_inputs(plan: LaunchPlan, inputs: Mapping[str, Array], limits: Mapping[str, int]) -> int:
    """Tokens of this step. Raises FusecError if the inputs are not what the plan takes.

    `limits`, of `limits(plan)`, keeps kernels from indexing outside their memory.
    """
    if set(inputs) != {name[1:] for name in plan.inputs}:
        wanted = ", ".join(name[1:] for name in plan.inputs)
        given = ", ".join(inputs) or "none"
        raise FusecError(f"{plan.name}: expected inputs {wanted}, found {given}")
    for name, tensor in plan.inputs.items():
        found, kind = inputs[name[1:]], dtype(tensor.dtype).numpy
        is_array = isinstance(found, np.ndarray) and not isinstance(found, np.ma.MaskedArray)
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
    for name, limit in limits.items():
        given = inputs[name[1:]].tolist()
        if min(given) < 0 or max(given) >= limit:
            raise FusecError(f"{plan.name}: expected {name} from 0 to {limit - 1}, found {given}")
    return tokens.pop()
