"""How many cores a process may use, on made-up machines and in made-up containers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fusec import driver
from fusec.backends import cpu
from fusec.cores import cores
from fusec.errors import FusecError
from fusec.runtime.cpu.team import MAX_THREADS

V1 = "5:cpu,cpuacct:/{0}\n4:memory:/{0}\n0::/unified\n"
V1_MOUNT = "36 35 0:30 {0} /sys/fs/cgroup/cpu rw shared:1 - cgroup cgroup rw,cpu,cpuacct\n"
OTHER_V1 = "37 35 0:31 / /sys/fs/cgroup/cpuset rw shared:1 - cgroup cgroup rw,cpuset\n"
V2_MOUNT = "35 24 0:30 {0} /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"


@pytest.fixture(autouse=True)
def eight(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, 8)


def machine(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(count)), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 2 * count)


def container(root: Path, groups: str, mounts: str, files: dict[str, str]) -> Path:
    """A root folder with what /proc says of groups and mounts, and files under /sys/fs/cgroup."""
    for name, text in {"proc/self/cgroup": groups, "proc/self/mountinfo": mounts}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_without_control_groups_the_affinity_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cores(tmp_path) == 8
    monkeypatch.delattr(os, "sched_getaffinity")
    assert cores(tmp_path) == 16
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cores(tmp_path) == 1


@pytest.mark.parametrize(
    ("quota", "wanted"),
    [("max 100000", 8), ("200000 100000", 2), ("250000 100000", 3), ("5000 100000", 1),
     ("50000 25000", 2), ("6400000 100000", 8), ("nonsense", 8), ("", 8)],
)  # fmt: skip
def test_a_quota_of_version_2(tmp_path: Path, quota: str, wanted: int) -> None:
    root = container(tmp_path, "0::/\n", V2_MOUNT.format("/"), {"cpu.max": f"{quota}\n"})
    assert cores(root) == wanted


@pytest.mark.parametrize(("quota", "wanted"), [(-1, 8), (150000, 2), (400000, 4), (1000, 1)])
def test_a_quota_of_version_1(tmp_path: Path, quota: int, wanted: int) -> None:
    files = {"cpu/a/cpu.cfs_quota_us": f"{quota}\n", "cpu/a/cpu.cfs_period_us": "100000\n"}
    root = container(tmp_path, V1.format("a"), OTHER_V1 + V1_MOUNT.format("/"), files)
    assert cores(root) == wanted


def test_the_smallest_of_nested_quotas_counts(tmp_path: Path) -> None:
    files = {
        "cpu.max": "700000 100000",
        "a/cpu.max": "300000 100000",
        "a/b/cpu.max": "max 100000",
        "a/b/c/cpu.max": "500000 100000",
        "other/cpu.max": "100000 100000",
    }
    root = container(tmp_path, "0::/a/b/c\n", V2_MOUNT.format("/"), files)
    assert cores(root) == 3


@pytest.mark.parametrize("mounted", ["/", "/docker/0123", "/elsewhere"])
def test_a_container_that_sees_only_its_own_group(tmp_path: Path, mounted: str) -> None:
    """/proc may name the group as the host does, while its files are at the root of the mount."""
    version_2 = container(
        tmp_path / "2", "0::/docker/0123\n", V2_MOUNT.format(mounted), {"cpu.max": "200000 100000"}
    )
    files = {"cpu/cpu.cfs_quota_us": "200000", "cpu/cpu.cfs_period_us": "100000"}
    version_1 = container(tmp_path / "1", V1.format("docker/0123"), V1_MOUNT.format(mounted), files)
    assert cores(version_2) == cores(version_1) == 2


@pytest.mark.parametrize(("count", "wanted"), [(1, 1), (62, 62), (64, 64), (65, 64), (4096, 64)])
def test_threads_by_default_on_any_machine(
    monkeypatch: pytest.MonkeyPatch, count: int, wanted: int
) -> None:
    monkeypatch.delenv("FUSEC_THREADS", raising=False)
    monkeypatch.setattr(cpu, "cores", lambda: count)
    assert cpu.default_threads() == wanted


@pytest.mark.parametrize("given", ["0", "many", "-1", "4000", "99999999999999999999"])
def test_fusec_threads_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv("FUSEC_THREADS", given)
    with pytest.raises(FusecError, match=f"FUSEC_THREADS: expected .*found '?{given}"):
        cpu.default_threads()


@pytest.mark.parametrize("threads", [-1, MAX_THREADS + 1])
def test_a_number_of_threads_is_refused_before_anything_is_compiled(
    monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    monkeypatch.setattr("fusec.codegen.cpu.build.build", lambda *_: pytest.fail("compiled"))
    with pytest.raises(FusecError, match=f"threads: expected 1 to 1024, found {threads}"):
        driver.load("demo", context=8, threads=threads)


def test_workers_that_compile_are_as_many_as_the_cores(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from fusec.codegen import pool
    from fusec.codegen.cpu import build

    started: list[object] = []
    monkeypatch.setattr(build, "cores", lambda: 3)
    monkeypatch.setattr(pool._Crew, "work", lambda _: started.append(None))
    kernels = [build.KernelSource(f"k{i}", "", 0) for i in range(9)]
    build.compile_kernels(kernels, {kernel.name: tmp_path / kernel.name for kernel in kernels})
    assert len(started) == 3
