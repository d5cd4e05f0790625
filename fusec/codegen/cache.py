"""The cache of kernels, plans and models on disk: one folder per content key, complete or absent.

An entry is built in a staging folder of its own, sealed with a manifest that names every file and
its SHA-256, and moved into place at once, so processes that build the same entry do not meet. An
entry whose files differ from its manifest is deleted and built again. `FUSEC_CACHE_DIR` moves the
cache. Reading it writes nothing, so a warm cache may be read-only.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import platformdirs

from fusec.errors import FusecError, reason

try:
    import fcntl
except ImportError:  # Windows: staging folders go by their age alone
    fcntl = None  # type: ignore[assignment]

MANIFEST = "manifest.json"
BLOCK = 1 << 20  # bytes read at a time
ABANDONED_S = 24 * 3600  # age of a staging folder where the file system has no locks

_held: dict[Path, int] = {}  # staging folder -> descriptor that holds its lock


def cache_root() -> Path:
    """Folder of all entries; it may not exist. Raises FusecError if there is no home to have it."""
    given = os.environ.get("FUSEC_CACHE_DIR")
    root = Path(given or platformdirs.user_cache_dir("fusec"))
    if not given and not root.is_absolute():  # "~/.cache" as it is: nobody's home is known
        raise FusecError("this user has no home folder for the cache: set FUSEC_CACHE_DIR")
    try:
        return root.absolute()  # worker processes have another working folder
    except OSError as error:  # relative to a folder that is gone
        raise _unwritable(root, reason(error)) from None


def unwritable(why: str) -> FusecError:
    """The error for a cache that cannot be written."""
    return _unwritable(cache_root(), why)


def _unwritable(root: Path, why: str) -> FusecError:
    return FusecError(
        f"{root}: expected a writable cache folder, found: {why}; "
        f"set FUSEC_CACHE_DIR to another one"
    )


def content_key(*parts: str) -> str:
    """Sixteen hex digits over all parts."""
    text = "\0".join(parts)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@cache
def digest_of_files(*paths: Path) -> str:
    """One digest over the contents of source files that generated code depends on."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def stage(entry: Path) -> Path:
    """A new folder beside the entry, to build it in. End it by `publish`, `discard` or `leave`.

    Raises FusecError if the cache cannot be written.
    """
    with writing():
        entry.parent.mkdir(parents=True, exist_ok=True)
        while True:
            staging = entry.parent / f"{entry.name}.{secrets.token_hex(3)}"
            with contextlib.suppress(FileExistsError):
                staging.mkdir()  # with the rights of any new folder: others may read the cache
                if _hold(staging):
                    return staging


def publish(staging: Path, entry: Path) -> None:
    """Seal a staging folder and move it to its entry, unless an intact one is there already.

    Raises FusecError if the cache cannot be written; the staging folder is gone in any case.
    """
    try:
        with writing():
            _seal(staging)
        if intact(entry):
            return
        shutil.rmtree(entry, ignore_errors=True)
        try:
            staging.rename(entry)
        except OSError as error:
            if not intact(entry):  # else another process was quicker: its entry is as good
                raise unwritable(reason(error)) from None
    finally:
        discard(staging)


def discard(staging: Path) -> None:
    """Delete a staging folder."""
    shutil.rmtree(staging, ignore_errors=True)
    leave(staging)


def leave(staging: Path) -> None:
    """Done with a staging folder that somebody may want to look at: `sweep` deletes it."""
    descriptor = _held.pop(staging, None)
    if descriptor is not None:
        os.close(descriptor)


def sweep(folder: Path) -> None:
    """Delete the staging folders below `folder` in which nobody works any more."""
    with contextlib.suppress(OSError):
        for path in [path for path in folder.iterdir() if path.suffix]:
            with contextlib.suppress(OSError):
                _sweep(path)


@contextlib.contextmanager
def writing() -> Iterator[None]:
    """What the system refuses inside is a FusecError about the cache."""
    try:
        yield
    except OSError as error:
        raise unwritable(reason(error)) from None


def _hold(staging: Path) -> bool:
    """Lock a new staging folder for as long as this process lives; False if it was swept before."""
    if fcntl is None:
        return True
    try:
        descriptor = os.open(staging, os.O_RDONLY)
    except FileNotFoundError:
        return False
    with contextlib.suppress(OSError):  # a file system without locks
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    if staging.exists():
        _held[staging] = descriptor
        return True
    os.close(descriptor)
    return False


def _sweep(staging: Path) -> None:
    if fcntl is None:
        _sweep_if_old(staging)
        return
    descriptor = os.open(staging, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(staging, ignore_errors=True)
    except BlockingIOError:
        return
    except OSError:
        _sweep_if_old(staging)
    finally:
        os.close(descriptor)


def _sweep_if_old(staging: Path) -> None:
    if time.time() - staging.stat().st_mtime > ABANDONED_S:
        shutil.rmtree(staging, ignore_errors=True)


def _seal(entry: Path) -> None:
    files = {
        str(path.relative_to(entry)): _sha256(path)
        for path in sorted(entry.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }
    (entry / MANIFEST).write_text(json.dumps(files, indent=1))


def intact(entry: Path) -> bool:
    """Whether the entry is sealed and every file is what the manifest says."""
    try:
        files = json.loads((entry / MANIFEST).read_text())
        return all(_sha256(entry / name) == digest for name, digest in files.items())
    except (OSError, ValueError, AttributeError):
        return False


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):  # models are kept here too
            digest.update(block)
    return digest.hexdigest()
