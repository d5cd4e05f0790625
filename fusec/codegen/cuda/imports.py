"""The library of device functions, seen from the emitters: which names there are, and where."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

from fusec.codegen.cuda.instructions import TABLE

PACKAGE = "fusec.codegen.cuda"
_FOLDER = Path(__file__).parent / "lib"
_BESIDE_TABLE = ("at", "shared_bytes", "select_f32", "select_s32", "select_u32", "some")
LINE = 100
_TYPES = ("float32", "int32", "uint32", "uint64")


def library_files() -> list[Path]:
    """The library's modules: their text decides the machine code."""
    return sorted(_FOLDER.glob("*.py"))


@functools.cache
def modules() -> dict[str, str]:
    """Name -> module of every function a kernel may call."""
    found = dict.fromkeys(_TYPES, "numba")
    found |= dict.fromkeys((*TABLE, *_BESIDE_TABLE), f"{PACKAGE}.device")
    for path in library_files():
        for statement in ast.parse(path.read_text()).body:
            if isinstance(statement, ast.FunctionDef):
                if statement.name in found:
                    raise ValueError(f"{statement.name} is defined twice: {path}")
                found[statement.name] = f"{PACKAGE}.lib.{path.stem}"
    return found


def import_lines(source: str) -> Iterator[str]:
    """The import statements for what a kernel's source calls."""
    known = modules()
    names: dict[str, list[str]] = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in known:
            of_module = names.setdefault(known[node.func.id], [])
            if node.func.id not in of_module:
                of_module.append(node.func.id)
    for module in sorted(names, key=lambda m: (m != "numba", m)):
        line = f"from {module} import {', '.join(sorted(names[module]))}"
        if len(line) <= LINE:
            yield line
            continue
        yield f"from {module} import ("
        yield from (f"    {name}," for name in sorted(names[module]))
        yield ")"
