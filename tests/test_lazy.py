"""`import fusec` is quick: what only compiling needs is imported when somebody compiles."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import fusec
from fusec.cli.commands import COMMANDS

COMMAND_LINE = """
import contextlib, io, sys
from fusec import cli
with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
    cli.main({!r})
"""


def imported(code: str) -> set[str]:
    """The modules that a new process has behind some lines of Python."""
    lines = f"{code}\nimport sys\nprint(*sorted(sys.modules))"
    root = str(Path(fusec.__file__).parents[1])
    ran = subprocess.run(
        [sys.executable, "-c", lines], check=True, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": root},
    )  # fmt: skip
    return set(ran.stdout.split())


HEAVY = {
    *("numpy", "numba", "llvmlite", "networkx", "gguf", "tokenizers", "jinja2"),
    *("matplotlib", "cuda", "platformdirs", "fusec.ir", "fusec.driver", "fusec.passes"),
}


def test_importing_fusec_imports_nothing_that_is_slow() -> None:
    assert not imported("import fusec") & {*HEAVY, "typer", "rich"}


@pytest.mark.parametrize("arguments", [["--help"], [], ["bnech"]])
def test_help_imports_no_command(arguments: list[str]) -> None:
    found = imported(COMMAND_LINE.format(arguments))
    assert "typer" in found
    assert not found & {*HEAVY, "rich"}
    ours = {name for name in found if name.startswith("fusec.")}
    command_line = {f"fusec.cli{name}" for name in ("", ".commands", ".completion", ".streams")}
    assert ours == {"fusec.errors", "fusec.version", *command_line}


def test_help_of_commands_imports_signatures_and_no_more() -> None:
    found = imported("".join(COMMAND_LINE.format([name, "--help"]) for name in COMMANDS))
    assert {f"fusec.cli.{name}" for name in COMMANDS} < found
    assert not found & HEAVY


def test_a_name_imports_what_it_needs() -> None:
    assert "fusec.runtime.sampling" in imported("import fusec; fusec.Sampling")
    assert "fusec.ir.graph" in imported("import fusec; fusec.ir.parse")
    found = imported("from fusec import load")
    assert "fusec.driver" in found
    assert not found & {"networkx", "fusec.pictures", "fusec.passes.pipeline"}


@pytest.mark.slow
def test_a_model_that_was_loaded_before_runs_without_passes(tiny_model: Path) -> None:
    load = f"import fusec; fusec.load({str(tiny_model)!r}, context=24).close()"
    imported(load)  # now plans and kernels are there
    found = imported(load)
    assert "fusec.prepared" in found
    assert not found & {"networkx", "fusec.pictures", "fusec.passes.pipeline", "fusec.passes.rule"}


def test_every_public_name_is_there() -> None:
    assert set(fusec.__all__) <= set(dir(fusec))
    assert dir(fusec) == sorted(set(dir(fusec)))
    for name in fusec.__all__:
        assert getattr(fusec, name).__module__.startswith("fusec."), name
        assert name in vars(fusec)  # found once, it is an attribute like any other
    lazy = [name for names in fusec._MODULES.values() for name in names]
    assert set(lazy) < set(fusec.__all__)


def test_dir_has_what_is_public() -> None:
    found = {name for name in dir(fusec) if not name.startswith("__")}
    assert found == {*fusec.__all__, "ir", "passes"}
    assert "__version__" in dir(fusec)


def test_types_of_weights_are_known_once_one_is_asked_for() -> None:
    b = "import fusec; b = fusec.Builder('toy'); "
    assert "fusec.codegen.formats" not in imported(b + "b.weight('w', (8, 64))")
    assert "fusec.codegen.formats" in imported(b + "b.weight('w', (8, 64), 'q4_0')")


def test_other_names_are_none() -> None:
    with pytest.raises(AttributeError, match=r"^module 'fusec' has no attribute 'nothing'$"):
        fusec.nothing  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'nothing' from 'fusec'"):
        exec("from fusec import nothing")
    assert not hasattr(fusec, "nothing")


def test_a_notebook_still_shows_graphs() -> None:
    b = fusec.Builder("toy")
    graph = b.build(b.silu(b.input("x", (1, 64))))
    assert graph._repr_svg_().startswith("<svg")
