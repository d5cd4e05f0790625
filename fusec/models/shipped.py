"""Models that come with the package, found by name wherever a model file is asked for."""

from __future__ import annotations

from pathlib import Path

from fusec.errors import FusecError

DATA = Path(__file__).parents[1] / "data"
SHIPPED = {"demo": DATA / "demo.gguf"}
"""Name -> file. `demo` is the story model of examples/demo_model."""


def located(path: Path) -> Path:
    """The file a user means: the path itself where there is a file, else a shipped model's.

    A file always comes before a name: a model called `demo` in the working folder is taken. A
    folder does not, as no folder is a model file: `fusec compile demo -o demo` can be repeated.
    Raises FusecError for a bare word that is neither: it may have been meant as a name.
    """
    if path.is_file():
        return path
    found = SHIPPED.get(str(path), path)
    if not path.suffix and path.parent == Path() and not found.exists():
        raise FusecError(
            f"{path}: no such file, and no model of that name: known is {', '.join(SHIPPED)}"
        )
    return found
