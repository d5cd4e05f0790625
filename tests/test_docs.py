"""The code in docs/library.md and drafting.md runs, and architecture.md says what there is."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from fusec.ir import parse
from fusec.ir.ops import OPS
from fusec.passes.pipeline import LEVELS
from tests import pages

ARCHITECTURE = pages.page("docs/architecture.md")
FOLDERS = [p for p in (pages.ROOT / "fusec").rglob("*") if p.is_dir()]


@pytest.fixture(scope="module")
def library_page() -> tuple[str, dict[str, Any]]:
    return pages.page("docs/library.md"), pages.run("docs/library.md")


@pytest.mark.slow
def test_the_printed_graph_is_the_one_on_the_page(library_page: tuple[str, dict[str, Any]]) -> None:
    text, names = library_page
    shown = next(block for block in pages.blocks(text, "") if block.startswith("graph toy"))
    assert shown == str(names["graph"])
    assert parse(shown) == names["graph"]


@pytest.mark.slow
def test_the_rule_of_the_page_is_what_merges(library_page: tuple[str, dict[str, Any]]) -> None:
    (stage,) = [s for s in library_page[1]["compiled"].stages if s.name == "fuse-capped-head"]
    assert stage.hits == 1


def test_the_model_example_generates(
    library_page: tuple[str, dict[str, Any]], tiny_model: Path
) -> None:
    assert len(library_page[1]["model_example"](tiny_model)) == 8


@pytest.mark.slow
def test_the_ablation_example_prints_a_row_for_each(
    library_page: tuple[str, dict[str, Any]], tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    library_page[1]["ablation_example"](tiny_model)
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert names == ["none", "prologue", "epilogue", "all"]


def test_the_page_of_drafters_runs() -> None:
    assert "Same" in pages.run("docs/drafting.md", whole=True)


def rows(first: str) -> list[list[str]]:
    """The cells of the table of the architecture page whose first heading is `first`."""
    table = ARCHITECTURE[ARCHITECTURE.index(f"| {first} |") :].split("\n\n")[0]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]


def test_every_op_is_in_the_table_of_roles() -> None:
    ops: dict[str, set[str]] = defaultdict(set)
    for entry in OPS.values():
        ops[f"`{entry.role}`"].add(entry.name)
    assert {role: set(listed.split(", ")) for role, _, listed in rows("role")} == ops


def test_every_pass_is_in_the_table_of_levels() -> None:
    wanted: list[str] = []
    listed = list(rows("from"))
    for level, passes in LEVELS.items():
        parts = listed[level][1].partition("in front of")
        more, _, behind = (re.findall(r"`([\w-]+)`", part) for part in parts)
        at = wanted.index(behind[0]) if behind else len(wanted)
        wanted[at:at] = more
        assert [step.name.removeprefix("fuse-") for step in passes] == wanted


@pytest.mark.parametrize("name", ["architecture", "library", "numbers", "extending", "formats"])
def test_files_that_a_page_names_are_there(name: str) -> None:
    named = set(re.findall(r"`([\w/]+\.py)`", pages.page(f"docs/{name}.md")))
    places = (pages.ROOT, pages.ROOT / "fusec", *FOLDERS)
    assert not {path for path in named if not any((at / path).is_file() for at in places)}


PAGES = sorted(
    str(path.relative_to(pages.ROOT))
    for path in (*pages.ROOT.glob("*.md"), *(pages.ROOT / "docs").rglob("*.md"))
)


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name: str) -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", pages.page(name))
    folder = (pages.ROOT / name).parent
    assert not [link for link in links if not (folder / link).exists()]
