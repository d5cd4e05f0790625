"""A compiled model as a folder: `fusec compile -o DIR` writes it, `fusec run DIR` reads it.

fusec.json      what was compiled, from which model file, and the report of `fusec inspect`
plan.json       the launch plan of decode; prefill.json that of prompt steps
plan.dot        the plan as a picture
kernels/*.py    the kernels' sources
stages/*.ir     the graph after every pass
"""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusec.codegen.kernel import KernelSource
from fusec.driver import Compiled, bind
from fusec.errors import FusecError
from fusec.ir.dot import to_dot
from fusec.ir.plan import LaunchPlan, from_json
from fusec.models.model import Model
from fusec.report import summary
from fusec.runtime.engine import Engine

MANIFEST = "fusec.json"
VERSION = 1


def save(compiled: Compiled, folder: Path) -> Path:
    """Write the folder whole or not at all. An older folder of ours is replaced.

    Raises FusecError if it cannot be written or holds something else.
    """
    ours = (folder / MANIFEST).is_file()
    if folder.exists() and not ours and not (folder.is_dir() and not any(folder.iterdir())):
        raise FusecError(
            f"{folder}: expected a new or empty folder, or one that fusec compile wrote; "
            f"found other files"
        )
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as staging:
            _write(compiled, Path(staging) / "new")
            if folder.exists():
                os.rename(folder, Path(staging) / "old")
            os.rename(Path(staging) / "new", folder)
    except OSError as error:
        raise FusecError(f"{folder}: cannot write here: {error.strerror}") from None
    return folder


def _write(compiled: Compiled, folder: Path) -> None:
    for part in ("kernels", "stages"):
        (folder / part).mkdir(parents=True)
    for name, kernel in compiled.kernels.items():
        (folder / "kernels" / f"{name}.py").write_text(kernel.source)
    for i, stage in enumerate(compiled.stages):
        (folder / "stages" / f"{i:02d}-{stage.name}.ir").write_text(stage_text(stage))
    (folder / "plan.json").write_text(compiled.plan.to_json())
    if compiled.prefill is not None:
        (folder / "prefill.json").write_text(compiled.prefill.to_json())
    (folder / "plan.dot").write_text(to_dot(compiled.graph))
    model = compiled.model
    manifest = {
        "version": VERSION,
        "model": str(model.file.path.resolve()) if model else None,
        "fingerprint": model.file.fingerprint if model else None,
        "context": compiled.context,
        "scratch_bytes": {name: k.scratch_bytes for name, k in compiled.kernels.items()},
        "report": summary(compiled),
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1))


def stage_text(stage: Any) -> str:
    """A stage dump: the pass, node counts and time as comments, then the graph."""
    head = f"# after {stage.name}: {stage.before} -> {stage.after} nodes, {stage.ms:.1f} ms\n"
    rule = f"# {stage.equation}: {stage.hits} hits\n" if stage.equation else ""
    refused = "".join(f"# refused {' + '.join(r.nodes)}: {r.reason}\n" for r in stage.refused)
    return head + rule + refused + str(stage.graph)


@dataclass(frozen=True)
class Artifact:
    """A folder written by `fusec compile -o`."""

    folder: Path
    manifest: dict[str, Any]

    @classmethod
    def open(cls, folder: Path) -> Artifact:
        """Read the manifest. Raises FusecError for a folder that is not ours or is damaged."""
        path = folder / MANIFEST
        if not path.is_file():
            raise FusecError(
                f"{folder}: expected a folder written by 'fusec compile -o', found no {MANIFEST}"
            )
        try:
            manifest = json.loads(path.read_text())
            if manifest["version"] != VERSION:
                raise FusecError(
                    f"{path}: expected version {VERSION}, found {manifest['version']}: "
                    f"compile again"
                )
            return cls(folder, manifest)
        except (ValueError, KeyError, TypeError):
            raise FusecError(f"{path}: damaged: compile again") from None

    def model(self) -> Model:
        """The model file this was compiled from. Raises FusecError if it is gone or has changed."""
        path = self.manifest["model"]
        if path is None:
            raise FusecError(
                f"{self.folder}: compiled from a graph built by hand, not from a model"
            )
        if not Path(path).is_file():
            raise FusecError(f"{self.folder}: its model {path} is gone: compile again")
        model = Model.open(Path(path))
        if model.file.fingerprint != self.manifest["fingerprint"]:
            raise FusecError(f"{self.folder}: its model {path} has changed since: compile again")
        return model

    def plan(self, name: str = "plan.json") -> LaunchPlan:
        """One of the plans."""
        path = self.folder / name
        try:
            return from_json(path.read_text())
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise FusecError(f"{path}: damaged ({type(error).__name__}): compile again") from None

    def kernels(self) -> dict[str, KernelSource]:
        """Name -> kernel, sources read from the folder."""
        found = {}
        for name, scratch in self.manifest["scratch_bytes"].items():
            path = self.folder / "kernels" / f"{name}.py"
            try:
                found[name] = KernelSource(name, path.read_text(), scratch)
            except OSError:
                raise FusecError(f"{path}: missing: compile again") from None
        return found

    def stage(self, name: str) -> str:
        """The dump of a stage by its pass's name."""
        found = sorted((self.folder / "stages").glob(f"[0-9][0-9]-{name}.ir"))
        if not found:
            names = ", ".join(p.stem[3:] for p in sorted((self.folder / "stages").glob("*.ir")))
            raise FusecError(f"{self.folder}: no stage '{name}': there are {names}")
        return found[0].read_text()

    def engine(self, progress: Any = None, threads: int = 0) -> Engine:
        """The model ready to generate, from the folder's plans and sources."""
        model, decode, prefill = self.model(), self.plan(), self.plan("prefill.json")
        plans = (decode, prefill, prefill.only(set()))
        sessions = bind(self.kernels(), plans, model.raw, model.floats, progress, threads)
        return Engine(*sessions, context=self.manifest["context"], stop=model.stop_ids)
