"""The code generators there are, and what the passes and the driver need to know of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fusec.codegen.formats import FORMATS
from fusec.codegen.kernel import KernelSource
from fusec.errors import FusecError
from fusec.ir.plan import Kernel
from fusec.ir.target import Target


@dataclass(frozen=True)
class CodeTarget:
    """`prefill_tokens`: how many tokens of a prompt one step takes."""

    limits: Target
    emit: Callable[[Kernel], KernelSource]
    prefill_tokens: int


def _emit_cpu(kernel: Kernel) -> KernelSource:
    from fusec.codegen.cpu.emit import emit

    return emit(kernel)


def get(name: str) -> CodeTarget:
    """The target of that name. Raises FusecError naming the known ones."""
    if name != "cpu":
        raise FusecError(f"unknown target '{name}': known are cpu")
    # a thread's prologue should stay in its L2 cache, of which a megabyte is common
    limits = Target("cpu", frozenset(FORMATS), block_bytes=1 << 20)
    return CodeTarget(limits, _emit_cpu, prefill_tokens=16)
