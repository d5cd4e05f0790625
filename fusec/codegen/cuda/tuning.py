"""What `fusec tune` chose, kept beside the compiled kernels: one table for each GPU.

A kernel's name has a digest of its region, so an entry is for one computation of one shape in one
set of formats, in steps of so many rows. A table that an earlier version of the emitters wrote is
ignored: its choices may mean something else now.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from fusec.codegen.cache import cache_root, digest_of_files
from fusec.errors import FusecError, reason
from fusec.files import write_whole
from fusec.ir.choice import AnyChoice, choice_of
from fusec.ir.plan import Kernel, LaunchPlan

VARIABLE = "FUSEC_TUNING"
"""`off`: use no table; a file: use that one, for any GPU of its architecture."""


@dataclass(frozen=True)
class Tuning:
    """Choices by `key` of a kernel, measured on one GPU; empty for one that nobody measured."""

    gpu: str = ""
    arch: str = ""
    choices: Mapping[str, AnyChoice] = field(default_factory=dict)

    def apply(self, plan: LaunchPlan) -> LaunchPlan:
        """The plan with its kernels' choices filled in, where there are any.

        A plan for several rows also has those for fewer.
        """
        if plan.tokens == 1:
            chosen = tuple(replace(k, choice=self.choices.get(key(k))) for k in plan.kernels)
            return replace(plan, kernels=chosen)
        found = (replace(k, measured=self._measured(k, plan.tokens)) for k in plan.kernels)
        return plan.with_kernels([k.taking(k.rows, plan.tokens) for k in found], plan.tokens)

    def _measured(self, kernel: Kernel, tokens: int) -> tuple[tuple[int, AnyChoice], ...]:
        """Choices for steps of up to so many rows, by how many."""
        widths = {1 << n for n in range(1, tokens.bit_length())} | {tokens}
        found = ((width, self.choices.get(key(kernel, width))) for width in sorted(widths))
        return tuple((width, choice) for width, choice in found if choice is not None)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        choices = {name: asdict(choice) for name, choice in sorted(self.choices.items())}
        return {"gpu": self.gpu, "arch": self.arch, "emitters": digest(), "choices": choices}


def key(kernel: Kernel, width: int = 1) -> str:
    """What a kernel's choice for steps of `width` rows is found by.

    Where its launches overlap, another one may be best.
    """
    rows = f"@{width}" if width > 1 else ""
    return f"{kernel.base}{'+overlaps' if kernel.overlaps else ''}{rows}"


def digest() -> str:
    """Sixteen hex digits over the code that decides what a choice means."""
    here = Path(__file__).parent
    files = (*here.rglob("*.py"), *(here.parent / "formats").glob("*.py"))
    return digest_of_files(*sorted(files))[:16]


def place(gpu: str, arch: str) -> Path:
    """The file of a GPU's table."""
    name = re.sub(r"[^A-Za-z0-9]+", "-", gpu).strip("-")
    return cache_root() / "tuning" / f"{name}-{arch}.json"


def load(gpu: str, arch: str) -> Tuning:
    """The table of a GPU; an empty one where there is none, or a stale or damaged one."""
    nothing = Tuning(gpu, arch)
    try:
        raw = json.loads(place(gpu, arch).read_text())
        found = parse(raw)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return nothing
    same = (found.gpu, found.arch) == (gpu, arch) and raw["emitters"] == digest()
    return found if same else nothing


def save(tuning: Tuning) -> Path:
    """Write a GPU's table whole or not at all. Raises FusecError if it cannot be written."""
    path = place(tuning.gpu, tuning.arch)
    text = json.dumps(tuning.as_dict(), indent=1) + "\n"
    write_whole(path, text, make_folder=True)
    return path


def merge(old: Tuning, tuned: Mapping[str, AnyChoice | None]) -> Tuning:
    """`old` with new entries; None takes one out, since the default is best."""
    choices = {name: c for name, c in old.choices.items() if name not in tuned}
    return replace(old, choices=choices | {n: c for n, c in tuned.items() if c is not None})


def wanted(arch: str, gpu: str | None) -> Tuning:
    """The table to compile with for an architecture, on this machine's `gpu` if that is meant.

    Raises FusecError if FUSEC_TUNING names a file that is no table of this architecture and of
    these emitters.
    """
    given = os.environ.get(VARIABLE, "")
    if given == "off" or (gpu is None and not given):
        return Tuning()
    if not given:
        assert gpu is not None
        return load(gpu, arch)
    try:
        raw = json.loads(Path(given).read_text())
        found = parse(raw)
    except OSError as error:
        raise FusecError(
            f"{VARIABLE}: expected 'off' or a file of fusec tune, found '{given}': {reason(error)}"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise FusecError(f"{VARIABLE}: {given} is not a file that fusec tune wrote") from None
    if found.arch != arch:
        raise FusecError(f"{VARIABLE}: {given} was measured for {found.arch}, found target {arch}")
    if raw["emitters"] != digest():
        raise FusecError(f"{VARIABLE}: {given} is of another version of fusec: tune again")
    return found


def parse(raw: dict[str, Any]) -> Tuning:
    """A table from its JSON. Raises ValueError, KeyError, TypeError or AttributeError."""
    choices = {str(name): choice_of(choice) for name, choice in raw["choices"].items()}
    return Tuning(str(raw["gpu"]), str(raw["arch"]), choices)
