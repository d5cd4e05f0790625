"""What is published: the wheel is the package and no more, the source distribution everything."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_string
from email.message import Message
from pathlib import Path

import pytest

import fusec
from tests import pages


@pytest.fixture(scope="module")
def checkout() -> set[str]:
    """The files of the repository, with those that are not committed yet."""
    if not (pages.ROOT / ".git").exists():
        pytest.skip("no git checkout")
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    ran = subprocess.run(command, cwd=pages.ROOT, check=True, capture_output=True, text=True)
    return {name for name in ran.stdout.splitlines() if (pages.ROOT / name).exists()}


@pytest.fixture(scope="module")
def built(checkout: set[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both distributions."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(folder)]
    subprocess.run(command, cwd=pages.ROOT, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> dict[str, str]:
    """The wheel's files; the text of those of its metadata."""
    (path,) = built.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        return {n: archive.read(n).decode() if ".dist-info/" in n else "" for n in names}


@pytest.fixture(scope="module")
def metadata(wheel: dict[str, str]) -> Message:
    return message_from_string(wheel[f"fusec-{fusec.__version__}.dist-info/METADATA"])


@pytest.mark.slow
def test_the_source_distribution_has_every_file(built: Path, checkout: set[str]) -> None:
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        found = {name.partition("/")[2] for name in archive.getnames()}
    assert found == checkout | {"PKG-INFO"}


@pytest.mark.slow
def test_the_wheel_has_the_package_and_no_more(wheel: dict[str, str], checkout: set[str]) -> None:
    package = {name for name in checkout if name.startswith("fusec/")}
    assert {name for name in wheel if ".dist-info/" not in name} == package
    assert {"fusec/py.typed", "fusec/data/demo.gguf", "fusec/pictures/page.css"} <= package
    (licence,) = (text for name, text in wheel.items() if name.endswith("/licenses/LICENSE"))
    assert licence == pages.page("LICENSE")


def test_the_version_is_one(metadata: Message) -> None:
    assert metadata["Version"] == fusec.__version__
    assert f"\nversion: {fusec.__version__}\n" in pages.page("CITATION.cff")
    assert f"\n## [{fusec.__version__}] - " in pages.page("CHANGELOG.md")


def test_the_description_needs_no_other_file(metadata: Message) -> None:
    assert metadata["Description-Content-Type"] == "text/markdown"
    shown = str(metadata.get_payload())
    assert shown.startswith("# fusec\n")
    assert "docs/architecture.md" in pages.page("README.md")
    assert not re.findall(r"\]\((?!https?://|#).*?\)|<img|<a ", shown)
    assert pages.blocks(shown) == pages.blocks(pages.page("README.md"))


def test_every_supported_python_is_named(metadata: Message) -> None:
    named = re.findall(r"Python :: 3\.(\d+)", "\n".join(metadata.get_all("Classifier", [])))
    oldest = re.fullmatch(r">=3\.(\d+)", metadata["Requires-Python"])
    assert oldest is not None
    assert [int(minor) for minor in named] == list(range(int(oldest[1]), int(named[-1]) + 1))
