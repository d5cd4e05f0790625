"""Machine code of kernels in the shapes that a search asks for, compiled when it does."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from fusec.backends.cuda import executable
from fusec.bench.search import Choices
from fusec.codegen.cuda.arch import find_arch
from fusec.codegen.cuda.build import compile_many
from fusec.codegen.cuda.candidates import default_of
from fusec.codegen.cuda.emit import emit
from fusec.codegen.cuda.toolchain import Cubin, CudaKernel
from fusec.codegen.pool import Progress
from fusec.errors import FusecError
from fusec.ir.choice import AnyChoice
from fusec.ir.plan import Kernel
from fusec.runtime.cuda.driver import Executable

REGISTERS = 1 << 16  # of an SM

Variant = tuple[str, AnyChoice]
"""A kernel's name, and a choice for it."""


class Variants:
    """Those of some kernels, for an architecture.

    What would spill registers, or was given more than its choice says because of that, and what
    fits no block is not among them; a kernel's default is.
    """

    def __init__(self, kernels: Iterable[Kernel], target: str) -> None:
        self.arch = find_arch(target)
        self._kernels = {kernel.name: kernel for kernel in kernels}
        self._found: dict[Variant, Executable | None] = {}

    def __getitem__(self, variant: Variant) -> Executable:
        """Of one that is ready."""
        found = self._found[variant]
        assert found is not None
        return found

    def ready(self, asked: Iterable[Variant], note: Progress | None = None) -> int:
        """Compile what is missing, all of it in parallel. How many of them there are."""
        wanted = list(dict.fromkeys(asked))
        new = {v: self._emitted(*v) for v in wanted if v not in self._found}
        made = {variant: kernel for variant, kernel in new.items() if kernel is not None}
        cubins = compile_many(list(made.values()), self.arch.name, note)
        self._found |= dict.fromkeys(new)
        for (variant, kernel), cubin in zip(made.items(), cubins, strict=True):
            if is_as_asked(kernel, cubin) or self._is_usual(*variant):
                self._found[variant] = executable(kernel, cubin)
        return sum(self._found[variant] is not None for variant in wanted)

    def usable(self, options: Sequence[Choices]) -> Sequence[Choices]:
        """Those of some choices whose kernels are all among these; they are ready then."""
        self.ready(variant for option in options for variant in option.items())
        return [o for o in options if all(self._found[v] is not None for v in o.items())]

    def _emitted(self, name: str, choice: AnyChoice) -> CudaKernel | None:
        try:
            return emit(replace(self._kernels[name], choice=choice), self.arch)
        except FusecError:
            if self._is_usual(name, choice):
                raise
            return None

    def _is_usual(self, name: str, choice: AnyChoice) -> bool:
        usual = default_of(self._kernels[name], self.arch)
        return replace(choice, release=usual.release) == usual


def is_as_asked(kernel: CudaKernel, cubin: Cubin) -> bool:
    """Whether nothing spills, with as many blocks on an SM as the kernel was to leave room for."""
    lanes = kernel.threads * kernel.min_blocks
    return cubin.spill_stores + cubin.spill_loads == 0 and cubin.registers * lanes <= REGISTERS
