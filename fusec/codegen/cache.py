"""The kernel cache on disk: one folder per content key, complete or absent.

An entry is built in a staging folder of its own, sealed with a manifest that names every file and
its SHA-256, and moved into place at once, so processes that build the same entry do not meet. An
entry whose files differ from its manifest is deleted and built again. `FUSEC_CACHE_DIR` moves the
cache.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path

import platformdirs

from fusec.errors import FusecError

MANIFEST = "manifest.json"


def cache_root() -> Path:
    """Folder of all entries, created if need be."""
    root = Path(os.environ.get("FUSEC_CACHE_DIR") or platformdirs.user_cache_dir("fusec"))
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FusecError(
            f"{root}: expected a writable cache folder, found: {error.strerror}; "
            f"set FUSEC_CACHE_DIR to another one"
        ) from None
    return root


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
    """A new folder beside the entry, to build it in."""
    entry.parent.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix=f"{entry.name}.", dir=entry.parent))


def publish(staging: Path, entry: Path) -> None:
    """Seal a staging folder and move it to its entry, unless an intact one is there already."""
    _seal(staging)
    if not intact(entry):
        shutil.rmtree(entry, ignore_errors=True)
        with contextlib.suppress(OSError):  # another process was quicker: its entry is as good
            staging.rename(entry)
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
    return hashlib.sha256(path.read_bytes()).hexdigest()
