"""The import lines of a kernel: which device functions there are, and in which module."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fusec.codegen.cuda.instructions import TABLE
from fusec.codegen.formats import FORMATS, Format

PACKAGE = "fusec.codegen.cuda"
_FOLDER = Path(__file__).parent / "lib"
_BESIDE_TABLE = (
    *("at", "below", "dynamic_shared", "inline", "shared_bytes", "some"),
    *("select_f32", "select_pointer", "select_s32", "select_u32"),
    *("f32_at", "u8_at", "u16_at", "u32_at", "u64_at"),
)
LINE = 100
READ = 64  # sources whose calls are kept: kernels share the functions of formats
_TYPES = ("float32", "int32", "int64", "uint32", "uint64")


def library_files() -> list[Path]:
    """The library's modules: their text decides the machine code."""
    return sorted(_FOLDER.glob("*.py"))


@functools.cache
def tables() -> dict[str, NDArray[np.uint32]]:
    """The tables of all formats, by name."""
    return {k: words for fmt in FORMATS.values() for k, words in fmt.cuda_tables().items()}


@functools.cache
def _functions(fmt: Format) -> dict[str, tuple[str, frozenset[str]]]:
    """Source of every function of a weight format, and what it calls."""
    return {name: (text, _calls(text)) for name, text in fmt.cuda_functions().items()}


def format_functions(source: str) -> str:
    """Source of the functions of weight formats that a kernel's source calls, in order."""
    known: dict[str, tuple[str, frozenset[str]]] = {}
    for fmt in FORMATS.values():
        known |= _functions(fmt)
    needed = {*_calls(source) & known.keys()}
    needed |= {name for function in needed for name in known[function][1] & known.keys()}
    return "\n\n".join(text for name, (text, _) in known.items() if name in needed)


@functools.lru_cache(READ)
def _calls(source: str) -> frozenset[str]:
    """Names of what is called, or decorates a function."""
    tree = list(ast.walk(ast.parse(source)))
    called = [node.func for node in tree if isinstance(node, ast.Call)]
    for node in tree:
        if isinstance(node, ast.FunctionDef):
            called += node.decorator_list
    return frozenset(name.id for name in called if isinstance(name, ast.Name))


@functools.cache
def modules() -> dict[str, str]:
    """Name -> module of every function a kernel may call."""
    found = dict.fromkeys(_TYPES, "numba")
    found |= dict.fromkeys((*TABLE, *_BESIDE_TABLE, *tables()), f"{PACKAGE}.device")
    for path in library_files():
        for statement in ast.parse(path.read_text()).body:
            if isinstance(statement, ast.FunctionDef):
                if statement.name in found:
                    raise ValueError(f"{statement.name} is defined twice: {path}")
                found[statement.name] = f"{PACKAGE}.lib.{path.stem}"
    return found


def import_lines(*sources: str) -> Iterator[str]:
    """The import statements for what the parts of a kernel's source call."""
    known = modules()
    names: dict[str, list[str]] = {}
    for name in frozenset().union(*map(_calls, sources)) & known.keys():
        names.setdefault(known[name], []).append(name)
    for module in sorted(names, key=lambda m: (m != "numba", m)):
        line = f"from {module} import {', '.join(sorted(names[module]))}"
        if len(line) <= LINE:
            yield line
            continue
        yield f"from {module} import ("
        yield from (f"    {name}," for name in sorted(names[module]))
        yield ")"
