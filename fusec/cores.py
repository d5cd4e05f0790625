"""How many CPU cores this process may use: for threads that compute, and for workers that compile.

A container is often given less than the machine has, by an affinity (cpuset) or by a quota of its
control group: `cpu.max` of cgroup v2, `cpu.cfs_quota_us` of v1 (Linux' Documentation/admin-guide,
cgroup-v2.rst and scheduler/sched-bwc.rst). A group's quota holds for all groups inside it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path


def cores(root: Path = Path("/")) -> int:
    """The cores of this process's affinity, or less if a quota gives it less time; at least 1.

    A quota of half a core more counts as one more. `root`: where /proc and /sys are.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    allowed = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, min([allowed, *(math.ceil(quota) for quota in _quotas(root))]))


def _quotas(root: Path) -> Iterator[float]:
    """Cores' worth of time that each control group around this process may use."""
    for group in _groups(root):
        try:
            if (group / "cpu.max").exists():
                quota, period = (group / "cpu.max").read_text().split()
            else:
                quota = (group / "cpu.cfs_quota_us").read_text()
                period = (group / "cpu.cfs_period_us").read_text()
            if quota != "max" and int(quota) > 0 and int(period) > 0:  # v1 writes -1 for none
                yield int(quota) / int(period)
        except (OSError, ValueError):  # a root group has no such file
            continue


def _groups(root: Path) -> Iterator[Path]:
    """The folders of the groups that this process is in and that limit CPU time, and those above.

    Where a container sees only its own group, that is the root of what is mounted, and the name
    that /proc gives the group may be the host's.
    """
    mounts = dict(_mounts(root))
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, name = line.split(":", 2)
        kind = "cgroup2" if not controllers else "cgroup"
        if (controllers and "cpu" not in controllers.split(",")) or kind not in mounts:
            continue
        mounted, folder = mounts[kind]
        try:
            inside = Path(name).relative_to(mounted)
        except ValueError:
            inside = Path()
        yield from (folder / part for part in (inside, *inside.parents))


def _mounts(root: Path) -> Iterator[tuple[str, tuple[str, Path]]]:
    """Kind -> group at the root of the mount, folder; of cgroup v2, and of v1's for CPU time."""
    for line in _lines(root / "proc/self/mountinfo"):
        # 36 35 98:0 /group /folder rw,noatime shared:1 - cgroup2 source rw,cpu
        before, _, behind = line.partition(" - ")
        kind, _, options = (behind.split() + [""] * 3)[:3]
        if kind == "cgroup2" or (kind == "cgroup" and "cpu" in options.split(",")):
            group, folder = before.split()[3:5]
            yield kind, (group, root / folder.lstrip("/"))


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
