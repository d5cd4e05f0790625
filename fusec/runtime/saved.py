"""A sequence with its KV cache, apart from the engine: kept in memory or in a file.

The file is NumPy's .npz: `meta`, a JSON text, `ids`, and an array for each state of the model.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from fusec.errors import FusecError, reason
from fusec.files import write_whole
from fusec.runtime.job import Array

FORMAT = 2


@dataclass(frozen=True)
class Origin:
    """What has to be the same where a saved sequence goes on.

    `model`: the file's fingerprint; empty for an engine without a file.
    """

    target: str
    model: str
    context: int


@dataclass(frozen=True)
class Saved:
    """`ids`: the sequence, of which the cache holds the first `position`.

    `states`: name -> the rows of the KV cache up to there, [rows, heads, head size]: all, or of a
    layer with a window the last ones, which the next token can see.
    """

    origin: Origin
    ids: tuple[int, ...]
    position: int
    states: Mapping[str, Array]

    @property
    def nbytes(self) -> int:
        """Bytes of the states."""
        return sum(array.nbytes for array in self.states.values())

    def __repr__(self) -> str:
        return f"<Saved {len(self.ids)} tokens, {self.nbytes:,} bytes, {self.origin.target}>"

    def write(self, path: str | Path) -> Path:
        """Write a file, whole or not at all. Raises FusecError where that cannot be."""
        meta = {"format": FORMAT, "position": self.position, **asdict(self.origin)}
        arrays: dict[str, Any] = {f"state {name}": array for name, array in self.states.items()}
        stream = BytesIO()
        np.savez(stream, meta=json.dumps(meta), ids=np.asarray(self.ids, np.int32), **arrays)
        write_whole(Path(path), stream.getvalue())
        return Path(path)

    @classmethod
    def read(cls, path: str | Path) -> Saved:
        """Read a file. Raises FusecError for one that cannot be read or was not written here."""
        try:
            with np.load(path, allow_pickle=False) as file:
                meta = json.loads(str(file["meta"]))
                if meta.pop("format") != FORMAT:
                    raise ValueError("another format")
                ids = tuple(int(i) for i in file["ids"])
                states = {
                    key.removeprefix("state "): file[key]
                    for key in file.files
                    if key.startswith("state ")
                }
                return cls(_origin(meta), ids, int(meta["position"]), states)
        except OSError as error:
            raise FusecError(f"{path}: cannot be read: {reason(error)}") from None
        except (ValueError, KeyError, TypeError, zipfile.BadZipFile, EOFError):
            raise FusecError(
                f"{path}: expected a sequence that Engine.save wrote, found another file"
            ) from None


def _origin(meta: Mapping[str, Any]) -> Origin:
    return Origin(str(meta["target"]), str(meta["model"]), int(meta["context"]))


def check_origin(found: Origin, wanted: Origin) -> None:
    """Raise FusecError unless a sequence can go on in an engine of this origin."""
    for name, what in (("model", "model file"), ("target", "target"), ("context", "context")):
        there, here = getattr(found, name), getattr(wanted, name)
        if there != here:
            raise FusecError(
                f"the saved sequence is of another {what}: expected {here}, found {there}"
            )
