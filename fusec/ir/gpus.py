"""The GPUs the cost model knows: measured ones, and others by their makers' figures.

`fusec calibrate` measures a GPU and keeps the result in the user's configuration folder, which
takes precedence over what is here. What a maker does not publish (the cost of a kernel boundary,
latencies) is the H200's, as measured: boundaries in microseconds, latencies in clock cycles, L2 in
bytes a clock and SM, memory as the same share of the published bandwidth.
"""

from __future__ import annotations

import json
import os
import re
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import platformdirs

from fusec.errors import FusecError
from fusec.files import write_whole
from fusec.ir.gpu import Gpu

REFERENCE = "NVIDIA H200"
_SHIPPED = Path(__file__).parent / "calibrated"
_CLUSTERED = ("cluster_barrier",)  # what is measured only where blocks form clusters
_NUMBERS = [
    f.name for f in fields(Gpu) if f.name not in ("source", "measured", "is_measured", *_CLUSTERED)
]


@dataclass(frozen=True)
class Sheet:
    """What a maker publishes: SMs, boost clock in GHz, L2 in MiB, memory in GB/s."""

    name: str
    arch: str
    sms: int
    clock_ghz: float
    l2_mib: int
    memory_gb_s: float
    source: str


SHEETS = (
    Sheet("RTX 3090", "sm_86", 82, 1.695, 6, 936, "NVIDIA Ampere GA102 whitepaper 2.1 (2021)"),
    Sheet("RTX 4090", "sm_89", 128, 2.52, 72, 1008, "NVIDIA Ada whitepaper 2.1 (2023)"),
    Sheet(
        "RTX 5090", "sm_120a", 170, 2.407, 96, 1792, "NVIDIA RTX Blackwell whitepaper 1.1 (2025)"
    ),
    Sheet("A100", "sm_80", 108, 1.41, 40, 2039, "NVIDIA A100 80GB SXM data sheet (2022)"),
    Sheet("H100", "sm_90a", 132, 1.98, 50, 3350, "NVIDIA H100 SXM data sheet, Hopper whitepaper"),
    Sheet("H200", "sm_90a", 132, 1.98, 60, 4800, "NVIDIA H200 SXM data sheet; L2 by its driver"),
    Sheet("B200", "sm_100a", 148, 1.965, 126, 8000, "NVIDIA HGX B200 data sheet; L2 by its driver"),
)


@dataclass(frozen=True)
class Asic:
    """A chip that keeps weights on the die: its published memory, and speed where there is one."""

    name: str
    memory_bytes: float
    gb_s: float | None
    published: str
    source: str


ASICS = (
    Asic("Groq LPU", 230e6, 80e3, "", "Groq, ISCA 2022; GroqCard product brief: 230 MB, 80 TB/s"),
    Asic("Cerebras WSE-3", 44e9, 21e6, "", "cerebras.ai/chip: 44 GB, 21 PB/s"),
    Asic(
        "Taalas HC1", 0.0, None, "17,000 tok/s for Llama 3.1 8B, the one model it is made of",
        "taalas.com, February 2026",
    ),
)  # fmt: skip


def find(name: str) -> Gpu:
    """The GPU of that name, measured here or not. Raises FusecError naming the known ones."""
    known = all_gpus()
    wanted = _key(name)
    for gpu in known.values():
        if _key(gpu.name) == wanted:
            return gpu
    raise FusecError(f"unknown GPU '{name}': known are {', '.join(known)}")


def knows(name: str) -> bool:
    """Whether `find` finds it."""
    return any(_key(gpu.name) == _key(name) for gpu in all_gpus().values())


def for_arch(arch: str) -> Gpu | None:
    """The GPU that stands for an architecture: a measured one if there is one; None for the CPU."""
    fitting = [gpu for gpu in all_gpus().values() if gpu.arch == arch]
    return max(fitting, key=lambda gpu: gpu.is_measured, default=None)


def all_gpus() -> dict[str, Gpu]:
    """Name -> GPU: those of `SHEETS`, with measurements in place of sheets, and other measured."""
    measured = _measured()
    found = {}
    for sheet in SHEETS:
        own = measured.pop(_key(sheet.name), None)
        found[sheet.name] = replace(own, name=sheet.name) if own else _derived(sheet)
    return found | {gpu.name: gpu for gpu in measured.values()}


def save(data: dict[str, Any]) -> Path:
    """Keep what `fusec calibrate` measured. Raises FusecError if it cannot be written."""
    folder = _user_folder()
    if folder is None:
        raise FusecError("this user has no home folder to keep it in: set FUSEC_CONFIG_DIR")
    path = folder / f"{re.sub(r'[^a-z0-9]+', '-', data['name'].lower())}.json"
    _gpu(data, path)
    write_whole(path, json.dumps(data, indent=1) + "\n", make_folder=True)
    return path


def _measured() -> dict[str, Gpu]:
    """Key -> GPU, the user's measurements before those that come with the package."""
    found: dict[str, Gpu] = {}
    for folder in (_SHIPPED, _user_folder()):
        for path in _files(folder):
            with suppress(OSError):  # what may not be read counts as absent
                gpu = _read(path)
                found[_key(gpu.name)] = gpu
    return found


def _files(folder: Path | None) -> list[Path]:
    """The measurements in a folder; none in one that is not there or may not be read."""
    if folder is None:
        return []
    try:
        return sorted(path for path in folder.iterdir() if path.suffix == ".json")
    except OSError:
        return []


def _read(path: Path) -> Gpu:
    try:
        return _gpu(json.loads(path.read_text()), path)
    except (ValueError, RecursionError):
        raise FusecError(f"{path}: damaged: run fusec calibrate again, or delete it") from None


def _gpu(data: Any, path: Path) -> Gpu:
    missing = [n for n in _NUMBERS if not isinstance(data, dict) or n not in data]
    if missing:
        raise FusecError(f"{path}: no '{missing[0]}' in it: run fusec calibrate again")
    there = [*_NUMBERS, *(n for n in _CLUSTERED if n in data)]
    wrong = [
        name for name in there[2:] if not isinstance(data[name], (int, float)) or not data[name] > 0
    ]
    if wrong:
        raise FusecError(f"{path}: expected {wrong[0]} above 0, found {data[wrong[0]]!r}")
    what = f"{data.get('command', 'fusec calibrate')}, {data.get('date', 'no date')}"
    return Gpu(**{n: data[n] for n in there}, source="its driver", measured=what)


@cache
def _reference() -> Gpu:
    return _read(_SHIPPED / "nvidia-h200.json")


def _derived(sheet: Sheet) -> Gpu:
    like = _reference()
    published = next(s for s in SHEETS if _key(s.name) == _key(like.name))
    slower = like.clock_ghz / sheet.clock_ghz
    wider = sheet.sms * sheet.clock_ghz / (like.sms * like.clock_ghz)
    return replace(
        like,
        name=sheet.name,
        arch=sheet.arch,
        sms=sheet.sms,
        clock_ghz=sheet.clock_ghz,
        l2_bytes=sheet.l2_mib << 20,
        memory_bytes=like.memory_bytes / published.memory_gb_s * sheet.memory_gb_s,
        cache_bytes=like.cache_bytes * wider,
        sm_bytes=like.sm_bytes / slower,
        instructions=like.instructions * wider,
        load=like.load * slower,
        far_load=like.far_load * slower,
        tree=like.tree * slower,
        barrier=like.barrier * slower,
        cluster_barrier=like.cluster_barrier * slower,
        instruction=like.instruction * slower,
        source=sheet.source,
        measured=f"not measured: times after the {like.name}",
        is_measured=False,
    )


def _key(name: str) -> str:
    """Names compare without the maker and the product line: 'NVIDIA GeForce RTX 4090'."""
    words = re.sub(r"[^a-z0-9]+", " ", name.lower()).split()
    return " ".join(w for w in words if w not in ("nvidia", "geforce"))


def _user_folder() -> Path | None:
    """Where this user's measurements are kept; None for one without a home folder."""
    if given := os.environ.get("FUSEC_CONFIG_DIR"):
        return Path(given) / "gpus"
    folder = Path(platformdirs.user_config_dir("fusec"))
    return folder / "gpus" if folder.is_absolute() else None  # else it is "~/.config" as it is
