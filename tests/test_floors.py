"""Who imports whom, at module level or inside functions: no circles, and only what lies below."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import networkx as nx
import pytest

import fusec

ROOT = Path(fusec.__file__).parent
FLOORS: tuple[tuple[str, ...], ...] = (
    ("errors", "cores", "version", "writer"),
    ("arguments", "files", "texts"),
    ("ir",),
    ("codegen", "passes"),
    ("models",),  # weights' formats are codegen's
    ("runtime",),
    ("backends",),
    ("compiled",),
    ("report",),
    ("walls", "loop_times"),
    ("pictures",),
    ("artifact", "prepared"),
    ("drafters",),
    ("driver",),
    ("answer", "bench", "info", "perplexity"),
    ("generate",),
    ("ablation", "roofline", "verifier"),
    ("cli",),
    ("__main__",),
)
"""From the ground up. Those of one floor do not import one another; a package's modules do."""


def modules(root: Path) -> dict[str, Path]:
    """Dotted name -> file, of a package."""
    found = {}
    for path in sorted(root.rglob("*.py")):
        name = ".".join(path.relative_to(root.parent).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = path
    return found


def imports(known: dict[str, Path]) -> nx.DiGraph:
    """Module -> module, wherever in the file the import stands, for type checkers alone or not."""
    graph = nx.DiGraph()
    for name, path in known.items():
        graph.add_node(name)
        for node in ast.walk(ast.parse(path.read_text())):
            package = name if path.name == "__init__.py" else name.rpartition(".")[0]
            graph.add_edges_from((name, other) for other in _named(node, package, known))
    graph.remove_edges_from(list(nx.selfloop_edges(graph)))
    return graph


def _named(node: ast.AST, package: str, known: dict[str, Path]) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if alias.name in known)
    elif isinstance(node, ast.ImportFrom):
        above = package.split(".")[: len(package.split(".")) - node.level + 1]
        module = ".".join([*(above if node.level else ()), *filter(None, [node.module])])
        for alias in node.names:
            whole = f"{module}.{alias.name}"
            if whole in known or module in known:
                yield whole if whole in known else module


def part_of(module: str) -> str:
    """The folder or file below the package that a module belongs to."""
    return module.split(".")[1] if "." in module else ""


def circles(graph: nx.DiGraph) -> list[list[str]]:
    return sorted(sorted(c) for c in nx.strongly_connected_components(graph) if len(c) > 1)


def upward(graph: nx.DiGraph) -> list[str]:
    """Every import of a part that does not lie below the importing one."""
    floor = {part: height for height, parts in enumerate(FLOORS) for part in parts}
    floor[""] = len(FLOORS)  # the package itself shows what there is
    return sorted(
        f"{a} imports {b}"
        for a, b in graph.edges
        if part_of(a) != part_of(b) and floor[part_of(a)] <= floor[part_of(b)]
    )


@pytest.fixture(scope="module")
def graph() -> nx.DiGraph:
    return imports(modules(ROOT))


def test_every_part_has_a_floor(graph: nx.DiGraph) -> None:
    assert {part_of(m) for m in graph} - {""} == {part for parts in FLOORS for part in parts}


def test_imports_go_in_no_circle(graph: nx.DiGraph) -> None:
    assert circles(graph) == []


def test_each_floor_imports_what_lies_below(graph: nx.DiGraph) -> None:
    assert upward(graph) == []


def test_a_circle_and_a_way_up_are_noticed(tmp_path: Path) -> None:
    """Inside functions, between a package and its modules, and by relative names too."""
    files = {
        "__init__": "from fusec.ir import graph",
        "ir/__init__": "",
        "ir/graph": "def draw():\n    from fusec.pictures.svg import to_svg",
        "pictures/__init__": "",
        "pictures/svg": "from ..ir import graph\nfrom . import box",
        "pictures/box": "import fusec.errors\nif TYPE_CHECKING:\n    from fusec.ir.graph import G",
        "errors": "",
    }
    for name, text in files.items():
        path = tmp_path / "fusec" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    graph = imports(modules(tmp_path / "fusec"))
    assert circles(graph) == [["fusec.ir.graph", "fusec.pictures.box", "fusec.pictures.svg"]]
    assert upward(graph) == ["fusec.ir.graph imports fusec.pictures.svg"]
    assert graph.has_edge("fusec.pictures.box", "fusec.errors")
