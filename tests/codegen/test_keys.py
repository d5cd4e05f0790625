"""What the keys of the kernel cache are made of: all that decides a kernel's machine code."""

from __future__ import annotations

import ast
import importlib.metadata
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from llvmlite import binding

from fusec.codegen.cache import digest_of_files
from fusec.codegen.cpu import build as cpu
from fusec.codegen.cuda import build as cuda
from fusec.codegen.cuda import toolchain
from fusec.codegen.cuda.imports import tables
from tests.codegen.cuda.kernels import SCALE

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Nothing remembered, before and behind."""
    remembered = (cpu.toolchain, toolchain.versions, toolchain.find_ptxas)
    for function in remembered:
        function.cache_clear()
    yield
    for function in remembered:
        function.cache_clear()


Patch = pytest.MonkeyPatch


def other_python(patch: Patch) -> None:
    patch.setattr(sys, "version", "3.99")


def other_release(package: str) -> Callable[[Patch], None]:
    known = importlib.metadata.version
    return lambda patch: patch.setattr(
        importlib.metadata, "version", lambda name: "0.0" if name == package else known(name)
    )


def other_cpu(patch: Patch) -> None:
    patch.setattr(binding, "get_host_cpu_name", lambda: "z80")


def other_features(patch: Patch) -> None:
    class Features(dict[str, bool]):
        def flatten(self) -> str:
            return "-avx2"

    patch.setattr(binding, "get_host_cpu_features", Features)


def other_ptxas(patch: Patch) -> None:
    patch.setattr(toolchain, "find_ptxas", lambda: "/elsewhere/ptxas")


@pytest.mark.parametrize(
    "change",
    [other_python, other_cpu, other_features, other_release("numba"), other_release("llvmlite")],
)
def test_a_cpu_kernel_s_key_has(change: Callable[[Patch], None], monkeypatch: Patch) -> None:
    before = cpu.toolchain()
    cpu.toolchain.cache_clear()
    change(monkeypatch)
    assert cpu.toolchain() != before


GPU_PACKAGES = ("numba", "numba-cuda", "llvmlite", "nvidia-nvvm", "nvidia-cuda-nvcc")


@pytest.mark.parametrize("change", [other_python, other_ptxas, *map(other_release, GPU_PACKAGES)])
def test_a_gpu_kernel_s_key_has(change: Callable[[Patch], None], monkeypatch: Patch) -> None:
    before = cuda.entry_of(SCALE, "sm_90a")
    toolchain.versions.cache_clear()
    change(monkeypatch)
    assert cuda.entry_of(SCALE, "sm_90a") != before


def test_a_gpu_kernel_s_key_has_all_that_is_asked_for() -> None:
    changes = {
        "name": "k", "source": "pass", "signature": ("u8*",), "threads": 99, "min_blocks": 9,
        "grid": 9, "cluster": 9, "registers": 9, "dynamic": 9, "shared": 9, "rows": 9,
        "spare": 9,
    }  # fmt: skip
    assert changes.keys() == {*SCALE.__dataclass_fields__}
    kernels = [SCALE, *(replace(SCALE, **{field: value}) for field, value in changes.items())]
    keys = {cuda.entry_of(kernel, "sm_90a") for kernel in kernels}
    assert len(keys | {cuda.entry_of(SCALE, "sm_100a")}) == len(kernels) + 1


def test_an_assembler_without_a_package_is_asked_for_its_release(
    tmp_path: Path, monkeypatch: Patch
) -> None:
    ptxas = tmp_path / "ptxas"
    monkeypatch.setattr(toolchain, "find_ptxas", lambda: str(ptxas))
    monkeypatch.setattr(shutil, "which", lambda _: str(ptxas))
    keys = set()
    for release in "12":
        ptxas.write_text(f"#!/bin/sh\necho release {release}\n")
        ptxas.chmod(0o755)
        keys.add(cuda.entry_of(SCALE, "sm_90a"))
        toolchain.versions.cache_clear()
    assert len(keys) == 2


@pytest.mark.parametrize("module", [cpu, cuda])
def test_every_support_file_is_in_the_key(module: object, monkeypatch: Patch) -> None:
    seen: list[Path] = []
    monkeypatch.setattr(module, "digest_of_files", lambda *paths: seen.extend(paths) or "new")
    key = cpu.toolchain() if module is cpu else str(cuda.entry_of(SCALE, "sm_90a"))
    assert seen == module.support_files()  # type: ignore[attr-defined]
    monkeypatch.setattr(module, "digest_of_files", lambda *_: "other")
    cpu.toolchain.cache_clear()
    assert key != (cpu.toolchain() if module is cpu else str(cuda.entry_of(SCALE, "sm_90a")))


def test_a_digest_is_of_names_and_contents(tmp_path: Path) -> None:
    digests = set()
    for number, (name, text) in enumerate([("a", "1"), ("a", "2"), ("b", "1")]):
        path = tmp_path / str(number) / name
        path.parent.mkdir()
        path.write_text(text)
        digests |= {digest_of_files(path), digest_of_files(path, Path(__file__))}
    assert len(digests) == 6


# Emitters alone use these, and what they emit is in the key: the source.
EMITTERS_ONLY = (
    "fusec/arguments.py",
    "fusec/errors.py",
    "fusec/files.py",
    "fusec/writer.py",
    "fusec/ir/",
)


@pytest.mark.parametrize(
    ("folder", "start", "support"),
    [
        ("cpu", ("function", "lib", "simd", "team_words", "vector", "objects"), cpu.support_files),
        ("cuda", ("device", "toolchain", "lib/*"), cuda.support_files),
    ],
)
def test_what_kernels_import_is_a_support_file(
    folder: str, start: tuple[str, ...], support: Callable[[], list[Path]]
) -> None:
    here = ROOT / "fusec" / "codegen" / folder
    found = closure([path for name in start for path in here.glob(f"{name}.py")])
    decided_elsewhere = {ROOT / "fusec/codegen/cuda/arch.py"}  # the architecture is in the key
    missing = {
        str(path.relative_to(ROOT))
        for path in found - {*support()} - decided_elsewhere
        if path.name != "__init__.py" or path.read_text().count("import") > 0
    }
    assert {name for name in missing if not name.startswith(EMITTERS_ONLY)} == set()
    assert len(found) > 15


def test_the_formats_tables_are_in_the_key() -> None:
    assert tables()
    assert {*(ROOT / "fusec/codegen/formats").glob("*.py")} <= {*cuda.support_files()}


def closure(start: list[Path]) -> set[Path]:
    """Files of the package that these import, and so on."""
    seen: set[Path] = set()
    while start:
        path = start.pop()
        if path not in seen:
            seen.add(path)
            start += imported(path)
    return seen


def imported(path: Path) -> Iterator[Path]:
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("fusec"):
            continue
        names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            file = ROOT.joinpath(*str(name).split("."))
            yield from (p for p in (file.with_suffix(".py"), file / "__init__.py") if p.is_file())
