"""A compiled model as a folder: `fusec compile -o DIR` writes it, `fusec run DIR` reads it.

fusec.json      what was compiled, from which model file, the report of `fusec inspect`, and the
                SHA-256 of itself and of every other file
plan.json       the launch plan of decode; prefill.json that of prompts, rows-N.json of short steps
plan.dot        the plan as a picture
kernels/*.py    the kernels' sources; for a GPU beside each its machine code, *.cubin
stages/*.ir     the graph after every pass

Plans hold memory offsets and kernels are code, so a file that is not what was written is refused.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusec import backends
from fusec.backends import Backend, NoGpu, Plans
from fusec.backends.base import WIDER, wider_files
from fusec.compiled import Compilation
from fusec.errors import FusecError, reason
from fusec.ir.plan import LaunchPlan, from_json
from fusec.ir.text import parse
from fusec.models.gguf_file import GGUFFile
from fusec.models.model import Model
from fusec.models.shipped import DATA
from fusec.passes.fuse import Refusal
from fusec.passes.pipeline import Stage, find_pass
from fusec.pictures.dot import to_dot
from fusec.pictures.subject import Subject, read_profile
from fusec.report import summary
from fusec.runtime.cuda.window import check_mode
from fusec.runtime.engine import Engine
from fusec.writer import brief

MANIFEST = "fusec.json"
VERSION = 5


def check_target(folder: Path) -> None:
    """Raise FusecError unless `save` can write there: a new or empty folder, or one of ours."""
    try:
        if folder.exists() and not folder.is_dir():
            raise FusecError(f"{folder}: expected a folder to write to, found a file")
        if foreign := _foreign(folder):
            raise FusecError(
                f"{folder}: expected a new or empty folder, or one that fusec compile wrote; "
                f"found {foreign}"
            )
        there = next(parent for parent in folder.resolve().parents if parent.exists())
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=there):
            pass
    except OSError as error:
        raise _unwritable(folder, error) from None


def _foreign(folder: Path) -> str:
    """A word for what is in a folder and would be lost with it; empty if there is nothing."""
    if not folder.exists() or not any(folder.iterdir()):
        return ""
    if not (folder / MANIFEST).is_file():
        return "other files"
    ours = (
        MANIFEST,
        "plan.json",
        *WIDER,
        "few.json",
        "plan.dot",
        "kernels/*.py",
        "kernels/*.cubin",
        "stages/*.ir",
    )  # of any version
    known = {path for pattern in ours for path in folder.glob(pattern)}
    others = (path for path in folder.rglob("*") if path not in known and not path.is_dir())
    return next((str(path.relative_to(folder)) for path in others), "")


def save(compiled: Compilation, folder: Path) -> Path:
    """Write the folder whole or not at all. An older folder of ours is replaced.

    Raises FusecError if it cannot be written or holds something else.
    """
    check_target(folder)
    try:
        target = folder.resolve()
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as staging:
            new, old = Path(staging) / "new", Path(staging) / "old"
            new.mkdir()
            for name, data in _files(compiled):
                path = new / name
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(data)
            if target.exists():
                target.rename(old)
            try:
                new.rename(target)
            except OSError:
                if old.exists():
                    old.rename(target)
                raise
    except OSError as error:
        raise _unwritable(folder, error) from None
    return folder


def _unwritable(path: Path, error: OSError) -> FusecError:
    return FusecError(f"{path}: cannot write here: {reason(error)}")


def _files(compiled: Compilation) -> Iterator[tuple[str, bytes]]:
    """Name and contents of every file, the manifest last."""
    digests = {}
    backend = compiled.backend
    built = compiled.build() if backend.suffix else {}  # a CPU's is built where it runs
    texts = ((name, text.encode()) for name, text in _texts(compiled))
    codes = ((f"kernels/{name}{backend.suffix}", code.data) for name, code in built.items())
    for name, data in (*texts, *codes):
        digests[name] = _sha256(data)
        yield name, data
    model = compiled.model
    manifest = {
        "version": VERSION,
        "model": str(_place(model.file)) if model else None,
        "fingerprint": model.file.fingerprint if model else None,
        "context": compiled.context,
        "kernels": backend.describe(compiled.kernels, built),
        "report": summary(compiled),
        "files": digests,
    }
    yield MANIFEST, json.dumps(manifest | {"sha256": _sealed(manifest)}, indent=1).encode()


def _place(model: GGUFFile) -> Path:
    """Where a model lies. Parts of a split one are found by their names, links or not."""
    if len(model.paths) == 1:
        return model.path.resolve()
    return model.path.parent.resolve() / model.path.name


def _texts(compiled: Compilation) -> Iterator[tuple[str, str]]:
    for name, kernel in compiled.kernels.items():
        yield f"kernels/{name}.py", kernel.source
    for i, stage in enumerate(compiled.stages):
        yield f"stages/{i:02d}-{stage.name}.ir", stage_text(stage)
    yield "plan.json", compiled.plan.to_json()
    if compiled.plans is not None:
        yield from ((name, plan.to_json()) for name, plan in compiled.plans.wider.items())
    yield "plan.dot", to_dot(compiled.graph, compiled.plan.launches)


def stage_text(stage: Stage) -> str:
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

    def __repr__(self) -> str:
        report = self.manifest["report"]
        return brief(
            self, f"{self.folder}: {report['name']}, {report['target']} -O{report['level']}"
        )

    @classmethod
    def open(cls, folder: Path) -> Artifact:
        """Read the manifest. Raises FusecError for a folder that is not ours or is damaged."""
        path = folder / MANIFEST
        if not path.is_file():
            raise FusecError(
                f"{folder}: expected a folder written by 'fusec compile -o', found no {MANIFEST}"
            )
        try:
            manifest = json.loads(path.read_bytes())
            version, digest = manifest["version"], manifest.pop("sha256", None)
        except OSError as error:
            raise FusecError(f"{path}: cannot be read: {reason(error)}") from None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise FusecError(f"{path}: damaged: compile again") from None
        if version != VERSION:
            raise FusecError(
                f"{path}: expected version {VERSION}, found {version!r}: compile again"
            )
        if digest != _sealed(manifest):
            raise FusecError(f"{path}: damaged: compile again")
        return cls(folder, manifest)

    def refuse(self, **options: Any) -> None:
        """Raise FusecError if any of these compiler options is given: it comes too late."""
        for name, given in options.items():
            if given is not None:
                option = "-O" if name == "level" else f"--{name}"
                raise FusecError(f"{self.folder} is compiled already: {option} comes too late")

    @property
    def context(self) -> int:
        """Positions of the KV cache."""
        return int(self.manifest["context"])

    def model(self) -> Model:
        """The model file this was compiled from: where it was then, in this folder, or beside it.

        Of a split model that is its first file, beside which the others lie. One that comes with
        the package is also found in another installation. Raises FusecError if it is gone or has
        changed.
        """
        recorded = self.manifest["model"]
        if recorded is None:
            raise FusecError(
                f"{self.folder}: compiled from a graph built by hand, not from a model"
            )
        here = self.folder.resolve()
        folders = (here, here.parent, DATA)
        places = (Path(recorded), *(place / Path(recorded).name for place in folders))
        path = next((place for place in places if place.is_file()), None)
        if path is None:
            raise FusecError(
                f"{self.folder}: its model {recorded} is gone: compile again, or "
                f"put it beside the folder"
            )
        model = Model.open(path)
        if model.file.fingerprint != self.manifest["fingerprint"]:
            raise FusecError(f"{self.folder}: its model {path} has changed since: compile again")
        return model

    def plan(self, name: str = "plan.json") -> LaunchPlan:
        """One of the plans. Raises FusecError for one of another version of fusec."""
        try:
            return from_json(self._read(name))
        except (ValueError, KeyError, TypeError) as error:
            raise FusecError(f"{self.folder / name}: {error}: compile again") from None

    def plans(self) -> Plans:
        """Those of a model."""
        names = wider_files(self.manifest["files"])
        return Plans.of(self.plan(), {name: self.plan(name) for name in names})

    @property
    def backend(self) -> Backend[Any, Any]:
        """The target's."""
        return backends.get(self.manifest["report"]["target"])

    def kernels(self) -> Any:
        """The kernels that the backend binds a session to, from the folder's files."""
        return self.backend.restore(
            self.manifest["kernels"], lambda name: self._bytes(f"kernels/{name}")
        )

    def source(self, kernel: str) -> str:
        """The source of a kernel."""
        return self._read(f"kernels/{kernel}.py")

    def stage(self, name: str | None = None) -> str:
        """The dump of a stage by its pass's name; of the last one without."""
        parts = (Path(file) for file in self.manifest["files"] if file.startswith("stages/"))
        files = {path.stem[3:]: path.as_posix() for path in parts}
        if name is None:
            name = list(files)[-1]
        return self._read(files[find_pass(name, files, f"{self.folder}: no stage", ": there are")])

    def engine(self, progress: Any = None, threads: int = 0, l2: str = "auto") -> Engine:
        """The model ready to generate, from the folder's plans and kernels."""
        check_mode(l2)
        model, plans, backend = self.model(), self.plans(), self.backend
        try:
            return backend.engine(plans, self.kernels(), model, progress, threads, l2=l2)
        except NoGpu as error:
            raise FusecError(
                f"{self.folder}: compiled for {backend.name}: {error.found}: run it where "
                f"such a GPU is, or compile the model again with --target cpu"
            ) from None

    def _read(self, name: str) -> str:
        return self._bytes(name).decode()

    def _bytes(self, name: str) -> bytes:
        path = self.folder / name
        try:
            raw = path.read_bytes()
        except FileNotFoundError:
            raise FusecError(f"{path}: missing: compile again") from None
        except OSError as error:
            raise FusecError(f"{path}: cannot be read: {reason(error)}") from None
        if _sha256(raw) != self.manifest["files"].get(name):
            raise FusecError(f"{path}: not as fusec compile wrote it: compile again")
        return raw


def pictured(saved: Artifact, profile: Path | None = None) -> Subject:
    """What there is to show of a folder. `profile`: of `fusec profile -o`, to show with it."""
    report, plan = saved.manifest["report"], saved.plan()
    stages = []
    for stage in report["stages"]:
        text = saved.stage(stage["pass"]).splitlines(keepends=True)
        graph = parse("".join(line for line in text if not line.startswith("#")))
        refused = tuple(
            Refusal(r["rule"], tuple(r["nodes"]), r["reason"]) for r in stage["refused"]
        )
        counts = stage["before"], stage["after"], stage["ms"]
        stages.append(Stage(stage["pass"], graph, *counts, stage["rule"], stage["hits"], refused))
    described = saved.manifest["kernels"]
    recorded = saved.manifest["model"]
    return Subject(
        Path(recorded).stem if recorded else plan.name,
        tuple(stages),
        plan,
        report,
        {k.name: saved.source(k.name) for k in plan.kernels},
        {n: facts["registers"] for n, facts in described.items() if "registers" in facts},
        saved.backend.limits.gpu,
        read_profile(profile, plan),
    )


def _sealed(manifest: dict[str, Any]) -> str:
    return _sha256(json.dumps(manifest, sort_keys=True).encode())


def _sha256(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()
