"""Which weights the L2 cache is asked to keep: one access-policy window over those of the layers.

The weights of layers lie in one piece of memory, in the order in which the plan reads them. Weights
that are read outside of layers (the vocabulary's matrices) lie behind it and are not kept. See "L2
Cache Control" in the CUDA programming guide.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fusec.errors import FusecError
from fusec.ir.plan import LaunchPlan
from fusec.runtime.cuda.driver import Driver

MODES = ("off", "window", "prefetch", "auto")


@dataclass(frozen=True)
class Residency:
    """The window in bytes; `carve_out`: what L2 sets aside of at most `limit`, 0 without a window.

    `hit_ratio`: the share of the window's lines that are to persist.
    """

    mode: str
    window: int
    carve_out: int
    limit: int
    hit_ratio: float

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def order_of_weights(plan: LaunchPlan) -> tuple[list[str], list[str]]:
    """Names of weights read in layers alone, in the plan's order, and of all others."""
    used: dict[str, set[bool]] = {}
    for launch in plan.launches:
        for arg in launch.args:
            if arg.kind == "weight":
                used.setdefault(arg.name, set()).add(launch.layer is not None)
    unused = [name for name in plan.weights if name not in used]
    inside = [name for name, layered in used.items() if layered == {True}]
    return inside, [name for name in used if used[name] != {True}] + unused


def check_mode(mode: str) -> None:
    """Raise FusecError for an unknown mode."""
    if mode not in MODES:
        raise FusecError(f"unknown L2 mode '{mode}': known are {', '.join(MODES)}")


def decide(driver: Driver, mode: str, nbytes: int) -> Residency:
    """Set the carve-out for a window of `nbytes` and say what it came to.

    `auto` takes the window where L2 can hold all of it: a window several times the carve-out
    takes cache from everything else and still misses. Raises FusecError for an unknown mode.
    """
    check_mode(mode)
    limit = driver.attribute("MAX_PERSISTING_L2_CACHE_SIZE")
    widest = driver.attribute("MAX_ACCESS_POLICY_WINDOW_SIZE")
    window = min(nbytes, widest)
    fits = 0 < nbytes <= limit
    if mode in ("off", "prefetch") or not limit or not window or (mode == "auto" and not fits):
        return Residency("off", 0, 0, limit, 0.0)
    carve_out = min(limit, window)
    driver.set_persisting(carve_out)
    return Residency("window", window, carve_out, limit, carve_out / window)


def attributes(driver: Driver, residency: Residency, base: int) -> Sequence[Any]:
    """Launch attributes that put the window over `base`; none where it is off."""
    if residency.mode == "off":
        return ()
    api = driver.api
    window = api.CUaccessPolicyWindow()
    window.base_ptr, window.num_bytes = base, residency.window
    window.hitRatio = residency.hit_ratio
    window.hitProp = api.CUaccessProperty.CU_ACCESS_PROPERTY_PERSISTING
    window.missProp = api.CUaccessProperty.CU_ACCESS_PROPERTY_STREAMING
    value = api.CUlaunchAttributeValue()
    value.accessPolicyWindow = window
    attribute = api.CUlaunchAttribute()
    attribute.id = api.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_ACCESS_POLICY_WINDOW
    attribute.value = value
    return (attribute,)


def offsets(sizes: Iterable[int], alignment: int = 256) -> tuple[list[int], int]:
    """Where each of some buffers starts if they follow one another, and where they end."""
    starts, end = [], 0
    for size in sizes:
        starts.append(end)
        end += -(-size // alignment) * alignment
    return starts, end
