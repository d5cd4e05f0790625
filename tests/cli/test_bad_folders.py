"""Folders that are taken, damaged or not ours: one line, exit code 2, and nothing written."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.command import fusec, refused
from tests.gguf_edit import edited

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("cli")]


def test_outputs_that_are_taken(
    tiny_model: Path, tmp_path: Path, unchanged: Callable[[], None]
) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("years of work")
    (tmp_path / "file").write_text("precious")
    unchanged()
    message = refused("compile", tiny_model, "-o", tmp_path / "other")
    assert message == (
        f"{tmp_path}/other: expected a new or empty folder, or one that fusec compile wrote; "
        f"found other files"
    )
    message = refused("compile", tiny_model, "-o", tmp_path / "file")
    assert message == f"{tmp_path}/file: expected a folder to write to, found a file"
    message = refused("compile", tiny_model, "-o", tmp_path / "file" / "below")
    assert message == f"{tmp_path}/file/below: cannot write here: Not a directory"
    message = refused("inspect", tiny_model, "--dot", tmp_path / "other")
    assert message == f"{tmp_path}/other: cannot write here: Is a directory"
    message = refused("synth", "tiny", "-o", tmp_path / "other")
    assert message == f"{tmp_path}/other: cannot be written: it is a folder"
    refused("synth", "tiny", "-o", tmp_path / "file" / "x.gguf")


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs a place nobody can write to")
def test_outputs_nobody_can_write(tiny_model: Path) -> None:
    assert refused("compile", tiny_model, "-o", "/proc/x").startswith("/proc/x: cannot write here")
    assert "cannot" in refused("synth", "tiny", "-o", "/proc/x")
    assert "cannot" in refused("inspect", tiny_model, "--dot", "/proc/x")


# --- compiled folders ----------------------------------------------------------------------------


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path) -> Path:
    """A compiled folder beside a copy of its model."""
    model = tmp_path / "m.gguf"
    model.write_bytes(tiny_model.read_bytes())
    assert fusec("compile", model, "-o", tmp_path / "dir", "--context", 32).code == 0
    return tmp_path / "dir"


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no manifest": (lambda d: (d / "fusec.json").unlink(), "found no fusec.json"),
    "manifest of bytes": (
        lambda d: (d / "fusec.json").write_bytes(b"\xff\0"),
        "fusec.json: damaged",
    ),
    "manifest cut": (lambda d: (d / "fusec.json").write_text("{"), "fusec.json: damaged"),
    "manifest a list": (lambda d: (d / "fusec.json").write_text("[1]"), "fusec.json: damaged"),
    "manifest empty": (lambda d: (d / "fusec.json").write_text("{}"), "fusec.json: damaged"),
    "manifest deep": (lambda d: (d / "fusec.json").write_text("[" * 99999), "fusec.json: damaged"),
    "another version": (
        lambda d: edit_json(d / "fusec.json", version=99),
        "fusec.json: expected version 5, found 99: compile again",
    ),
    "context edited": (lambda d: edit_json(d / "fusec.json", context=4096), "fusec.json: damaged"),
    "report gone": (lambda d: edit_json(d / "fusec.json", report=None), "fusec.json: damaged"),
    "plan cut": (
        lambda d: (d / "plan.json").write_text((d / "plan.json").read_text()[:999]),
        "plan.json: not as fusec compile wrote it: compile again",
    ),
    "plan edited": (
        lambda d: edit_json(d / "plan.json", arena_bytes=16),
        "plan.json: not as fusec",
    ),
    "plan gone": (lambda d: (d / "plan.json").unlink(), "plan.json: missing: compile again"),
    "prefill gone": (lambda d: (d / "prefill.json").unlink(), "prefill.json: missing"),
    "kernel gone": (
        lambda d: next((d / "kernels").glob("attention*")).unlink(),
        ".py: missing: compile again",
    ),
    "kernel edited": (
        lambda d: next((d / "kernels").glob("embed*")).write_text("print('surprise')"),
        ".py: not as fusec compile wrote it",
    ),
    "kernel a folder": (
        lambda d: [next((d / "kernels").glob("embed*")).unlink()] and (d / "kernels" / "x").mkdir(),
        ".py: missing",
    ),
    "model gone": (lambda d: (d.parent / "m.gguf").unlink(), "m.gguf is gone: compile again"),
    "model changed": (
        lambda d: edited(d.parent / "m.gguf", d.parent / "n", {"general.name": "x"}).replace(
            d.parent / "m.gguf"
        ),
        "m.gguf has changed since: compile again",
    ),
    "model cut": (
        lambda d: (d.parent / "m.gguf").write_bytes((d.parent / "m.gguf").read_bytes()[:5000]),
        "m.gguf: ",
    ),
}


@pytest.mark.parametrize(("damage", "reason"), DAMAGES.values(), ids=DAMAGES)
def test_damaged_folders(folder: Path, damage: Callable[[Path], object], reason: str) -> None:
    damage(folder)
    message = refused("run", folder, "-p", "a")
    assert reason in message
    assert message.startswith(str(folder.parent))


def test_damaged_folders_are_not_inspected(folder: Path) -> None:
    (last,) = (folder / "stages").glob("*-schedule.ir")
    last.write_text("graph")
    assert f"{last.name}: not as fusec compile wrote it" in refused("inspect", folder)
    assert "no stage 'none': there are decode-graph, " in refused(
        "inspect", folder, "--stage", "none"
    )
    edit_json(folder / "fusec.json", report={})
    assert "fusec.json: damaged" in refused("inspect", folder, "--json")


@pytest.mark.slow
def test_a_damaged_folder_of_ours_is_replaced(folder: Path) -> None:
    (folder / "plan.json").unlink()
    model = folder.parent / "m.gguf"
    assert fusec("compile", model, "-o", folder, "--context", 32).code == 0
    assert fusec("run", folder, "--prompt-ids", "1", "-n", 1).code == 0


def test_what_somebody_put_into_a_folder_of_ours_is_not_lost(folder: Path) -> None:
    model = folder / "m.gguf"  # where fusec run finds it
    (folder.parent / "m.gguf").rename(model)
    before = model.read_bytes()
    message = refused("compile", model, "-o", folder, "--context", 32)
    assert message.endswith("or one that fusec compile wrote; found m.gguf")
    assert model.read_bytes() == before
    assert fusec("run", folder, "--prompt-ids", "1", "-n", 1).code == 0


@pytest.mark.parametrize(
    "option",
    [
        ["-O", "1"],
        ["--context", "8"],
        ["--kv", "f16"],
        ["--target", "cpu"],
        ["--disable", "chain"],
    ],
)
def test_compiler_options_come_too_late_for_a_folder(folder: Path, option: list[str]) -> None:
    wanted = f"{folder} is compiled already: {option[0]} comes too late"
    assert refused("run", folder, "-p", "a", *option) == wanted
    assert refused("inspect", folder, *option) == wanted


def test_the_prompt_has_to_fit_a_folders_context(folder: Path) -> None:
    message = refused("run", folder, "--prompt-ids", "1,2,3", "-n", 31)
    assert "do not fit a context of 32: ask for at most 30 new tokens" in message
