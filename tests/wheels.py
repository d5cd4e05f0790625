"""Wheels that pip takes for packages, for tests that need no package index."""

from __future__ import annotations

import zipfile
from pathlib import Path


def write_wheel(folder: Path, package: str, version: str, member: str, content: bytes) -> Path:
    """A wheel that holds one file."""
    stem = f"{package.replace('-', '_')}-{version}"
    info = f"{stem}.dist-info"
    path = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as files:
        files.writestr(member, content)
        files.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n"
        )
        files.writestr(
            f"{info}/WHEEL",
            "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        files.writestr(f"{info}/RECORD", "")
    return path
