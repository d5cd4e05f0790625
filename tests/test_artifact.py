"""Compiled folders: what is written is what is read, whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

import fusec
from fusec import artifact
from fusec.artifact import Artifact, check_target
from fusec.errors import FusecError
from fusec.ir import Builder
from fusec.ir.plan import from_json
from tests.gguf_edit import edited

IDS = [3, 1, 4, 1, 5, 9]

pytestmark = pytest.mark.xdist_group("artifact")


@pytest.fixture(scope="module")
def compiled(tiny_model: Path) -> fusec.Compiled:
    return fusec.compile(tiny_model, context=48, kv="f32", level=1)


@pytest.fixture
def folder(compiled: fusec.Compiled, tmp_path: Path) -> Path:
    assert compiled.save(tmp_path / "dir") == tmp_path / "dir"
    return tmp_path / "dir"


def test_a_saved_plan_is_the_plan(compiled: fusec.Compiled, folder: Path) -> None:
    saved = Artifact.open(folder)
    assert saved.plan() == compiled.plan
    assert saved.plan("prefill.json") == compiled.prefill
    assert saved.kernels() == compiled.kernels
    assert saved.context == 48
    assert saved.manifest["model"] == str(compiled.model.file.path.resolve())
    for stage in compiled.stages:
        assert saved.stage(stage.name).endswith(str(stage.graph))
    assert saved.stage() == saved.stage("schedule")


def test_a_saved_engine_computes_the_same_bytes(compiled: fusec.Compiled, folder: Path) -> None:
    wanted = compiled.engine().logits(IDS)
    engine = Artifact.open(folder).engine()
    assert engine.logits(IDS).tobytes() == wanted.tobytes()
    assert engine.context == 48
    assert engine.stop == compiled.model.stop_ids


def test_saving_twice_gives_the_same_files(compiled: fusec.Compiled, tmp_path: Path) -> None:
    first, second = (compiled.save(tmp_path / name) for name in ("a", "b"))
    names = sorted(p.relative_to(first) for p in first.rglob("*"))
    assert names == sorted(p.relative_to(second) for p in second.rglob("*"))
    assert all((first / n).read_bytes() == (second / n).read_bytes() for n in names if n.suffix)


def test_plans_are_plain_json(folder: Path) -> None:
    raw = json.loads((folder / "plan.json").read_text())
    assert raw["version"] == 9
    assert {"launches", "kernels", "arena_bytes", "weights"} <= raw.keys()
    assert from_json(json.dumps(raw)).to_json() == (folder / "plan.json").read_text()
    with pytest.raises(ValueError, match="expected plan version 9, found 10"):
        from_json(json.dumps(raw | {"version": 10}))


def test_a_folder_moves_but_its_model_stays(folder: Path) -> None:
    moved = folder.rename(folder.with_name("moved"))
    assert Artifact.open(moved).engine().step(1).shape == (512,)


def test_a_model_that_changed_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    model = tmp_path / "m.gguf"
    model.write_bytes(tiny_model.read_bytes())
    folder = fusec.compile(model, context=8, level=1).save(tmp_path / "dir")
    assert Artifact.open(folder).model().config.layers == 8
    content = bytearray(tiny_model.read_bytes())
    content[-1] ^= 1  # one bit of the last weight
    model.write_bytes(content)
    with pytest.raises(FusecError, match=r"m\.gguf has changed since: compile again"):
        Artifact.open(folder).model()
    edited(tiny_model, model, {"llama.context_length": 64})
    with pytest.raises(FusecError, match="has changed since"):
        Artifact.open(folder).engine()
    model.write_bytes(tiny_model.read_bytes())
    assert Artifact.open(folder).model().config.layers == 8


def test_a_graph_by_hand_can_be_saved_but_not_run(tmp_path: Path) -> None:
    b = Builder("toy")
    x = b.input("x", (1, 32))
    compiled = fusec.compile(b.build(b.silu(b.matvec(x, b.weight("w", (64, 32))))))
    saved = Artifact.open(compiled.save(tmp_path / "toy"))
    assert saved.plan() == compiled.plan
    assert not (tmp_path / "toy" / "prefill.json").exists()
    with pytest.raises(FusecError, match="compiled from a graph built by hand, not from a model"):
        saved.engine()
    with pytest.raises(FusecError, match=r"compiled from a graph: use session\(weights\)"):
        compiled.engine()
    (found,) = compiled.session({"w": np.eye(64, 32, dtype=np.float32)}).step(
        x=np.ones((1, 32), np.float32)
    ).values()  # fmt: skip
    assert found[0, [0, 40]] == pytest.approx([1 / (1 + np.exp(-1)), 0])


# --- whole or not at all -------------------------------------------------------------------------


def listing(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize("failing", ["write_bytes", "rename"])
def test_a_failure_leaves_what_was_there(
    compiled: fusec.Compiled,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    existing: bool,
    failing: str,
) -> None:
    target = tmp_path / "dir"
    if existing:
        compiled.save(target)
    before = listing(tmp_path)
    real, calls = getattr(Path, failing), []

    def full(self: Path, *args: object) -> object:
        calls.append(self)
        # the tenth file, or the last step: the new folder into its place
        if len(calls) == 10 or (failing == "rename" and self.name == "new"):
            raise OSError(28, "No space left on device")
        return real(self, *args)

    monkeypatch.setattr(Path, failing, full)
    with pytest.raises(FusecError, match="dir: cannot write here: No space left on device"):
        compiled.save(target)
    monkeypatch.undo()
    assert listing(tmp_path) == before
    assert target.exists() == existing
    assert [p.name for p in tmp_path.iterdir()] == (["dir"] if existing else [])


def test_what_may_be_written_over(tmp_path: Path, compiled: fusec.Compiled) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes").touch()
    with pytest.raises(FusecError, match="file: expected a folder to write to, found a file"):
        check_target(tmp_path / "file")
    with pytest.raises(FusecError, match="mine: expected a new or empty folder"):
        compiled.save(tmp_path / "mine")
    with pytest.raises(FusecError, match="cannot write here: Not a directory"):
        check_target(tmp_path / "file" / "below")
    check_target(tmp_path / "new" / "deep")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "mine"]


def test_a_link_to_a_folder_is_followed(tmp_path: Path, compiled: fusec.Compiled) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    compiled.save(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "plan.json").is_file()


def test_the_working_folder_can_be_the_target(
    tmp_path: Path, compiled: fusec.Compiled, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    compiled.save(Path("out"))
    assert os.listdir() == ["out"]
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    compiled.save(Path("."))
    assert (tmp_path / "here" / "plan.json").is_file()


def test_file_names_are_portable(folder: Path) -> None:
    for path in folder.rglob("*"):
        assert path.name.isascii()
        assert len(path.name) < 120
        assert not set(path.name) & set('<>:"/\\|?*'), path.name


def test_a_manifest_edited_by_hand_is_refused(folder: Path) -> None:
    path = folder / artifact.MANIFEST
    raw = json.loads(path.read_text())
    for key in raw:
        if key not in ("version", "sha256"):
            path.write_text(json.dumps(raw | {key: {"x": 1}}))
            with pytest.raises(FusecError, match=r"fusec\.json: damaged: compile again"):
                Artifact.open(folder)
    path.write_text(json.dumps(raw))  # other white space is the same manifest
    assert Artifact.open(folder).context == 48
