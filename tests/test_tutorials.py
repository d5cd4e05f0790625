"""Every page of docs/tutorials runs from top to bottom and prints what it shows."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fusec.ir.ops import OPS
from fusec.models import ARCHITECTURES
from tests import pages

FOLDER = pages.ROOT / "docs" / "tutorials"
PAGES = sorted(path.name for path in FOLDER.glob("*.md") if path.name != "README.md")
NOTEBOOKS = sorted(path.name for path in FOLDER.glob("*.ipynb"))


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A page writes its files into a folder of its own; what it adds to tables goes with it."""
    monkeypatch.chdir(tmp_path)
    tables: tuple[dict[str, Any], ...] = (OPS, ARCHITECTURES)
    before = [dict(table) for table in tables]
    yield
    for table, entries in zip(tables, before, strict=True):
        table.clear()
        table.update(entries)


@pytest.mark.slow
@pytest.mark.parametrize("name", PAGES)
def test_a_page_prints_what_it_shows(name: str) -> None:
    if "matplotlib" in pages.page(f"docs/tutorials/{name}"):
        pytest.importorskip("matplotlib")
    pages.run(f"docs/tutorials/{name}", whole=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs(name: str) -> None:
    notebook = json.loads((FOLDER / name).read_text(encoding="utf-8"))
    names: dict[str, Any] = {}
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] or cell["execution_count"] for cell in cells)
    shown = [value for cell in cells if (value := last_value("".join(cell["source"]), names))]
    pictures = [getattr(value, f"_repr_{kind}_")() for value in shown
                for kind in ("svg", "html") if hasattr(value, f"_repr_{kind}_")]  # fmt: skip
    assert len(pictures) == len(shown)
    assert all("<svg" in picture for picture in pictures)


def last_value(source: str, names: dict[str, Any]) -> Any:
    """Run a cell; what it shows: the value of an expression at its end, else None."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    return last and eval(compile(ast.Expression(last.value), "cell", "eval"), names)


def test_the_index_has_every_page() -> None:
    index = pages.page("docs/tutorials/README.md")
    assert not [name for name in (*PAGES, *NOTEBOOKS) if f"({name})" not in index]


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        ("1\n2\n", "1  \n2\n", True),
        ("1 of ...\n", "1 of 20\n", True),
        ("1 of ...\n", "2 of 20\n", False),
        ("1\n", "", False),
        ("", "1\n", False),
    ],
)
def test_what_is_shown_is_compared(shown: str, printed: str, same: bool) -> None:
    if same:
        pages.compare(shown, printed, "page")
        return
    with pytest.raises(AssertionError, match="page shows"):
        pages.compare(shown, printed, "page")
