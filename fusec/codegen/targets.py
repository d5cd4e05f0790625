"""The code generators there are, and what the passes and the driver need to know of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial

from fusec.codegen.cuda.arch import ARCHS, Arch, native_arch, native_name
from fusec.codegen.cuda.shape import PARTS, SPAN, column_sums, tiles
from fusec.codegen.cuda.toolchain import CudaKernel
from fusec.codegen.formats import FORMATS
from fusec.codegen.kernel import KernelSource
from fusec.errors import FusecError
from fusec.ir.plan import Kernel, LaunchPlan, Size
from fusec.ir.target import Target

AnyKernel = KernelSource | CudaKernel

EMITTED = 256  # kernels whose source is kept: a model's come up again at other levels
NATIVE = ("native", "cuda")
"""Names for the GPU of this machine, whichever it is."""


@dataclass(frozen=True)
class CodeTarget:
    """`prefill_tokens`: how many tokens of a prompt one step takes.

    `scalars`: what every launch is passed beside pointers.
    """

    limits: Target
    emit: Callable[[Kernel], AnyKernel]
    prefill_tokens: int
    scalars: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """`cpu`, or the GPU architecture."""
        return self.limits.name

    @property
    def is_cuda(self) -> bool:
        """Whether its kernels run on an NVIDIA GPU."""
        return self.name in ARCHS

    def sized(self, plan: LaunchPlan) -> LaunchPlan:
        """The plan with the size of every launch, as the kernels' emitter lays them out."""

        def size(kernel: Kernel) -> Size | None:
            made = self.emit(kernel)
            return made.size if isinstance(made, CudaKernel) else None

        sizes = {kernel.name: size(kernel) for kernel in plan.kernels}
        launches = (
            replace(launch, size=sizes[launch.kernel], scalars=self.scalars)
            for launch in plan.launches
        )
        return replace(plan, launches=tuple(launches))


def gpu_of(name: str) -> str | None:
    """The GPU that a target's name asks for, which is the one here; None for an architecture."""
    return native_name() if name in NATIVE else None


@lru_cache(EMITTED)
def _emit_cpu(kernel: Kernel) -> KernelSource:
    from fusec.codegen.cpu.emit import emit

    return emit(kernel)


@lru_cache(EMITTED)
def _emit_cuda(arch: Arch, kernel: Kernel) -> CudaKernel:
    from fusec.codegen.cuda.emit import emit

    return emit(kernel, arch)


def get(name: str) -> CodeTarget:
    """The target of that name; `native` and `cuda` ask for this machine's GPU.

    Raises FusecError for an unknown name, naming the known ones, and where there is no GPU to ask.
    """
    if name == "cpu":
        # a thread's prologue should stay in its L2 cache, of which a megabyte is common
        limits = Target(name, frozenset(FORMATS), 1 << 20)
        return CodeTarget(limits, _emit_cpu, 16, ("tokens", "scratch", "scratch_bytes"))
    if name not in (*NATIVE, *ARCHS):
        known = ", ".join(("cpu", *NATIVE, *ARCHS))
        raise FusecError(f"unknown target '{name}': known are {known}")
    arch = native_arch() if name in NATIVE else ARCHS[name]
    # a block keeps its prologue in static shared memory
    overlaps = arch.has_clusters  # dependent launches came with the same generation
    limits = Target(
        arch.name,
        frozenset(FORMATS),
        48 << 10,
        span=SPAN,
        parts=PARTS,
        column_sums=column_sums() if arch.has_clusters else None,
        tiles=tiles(),
        overlaps=overlaps,
        late_norms=True,
        most_tokens=1,
    )
    return CodeTarget(limits, partial(_emit_cuda, arch), prefill_tokens=1)
