"""NVIDIA GPUs: kernels compiled to cubins, plans captured as CUDA graphs.

One class is the backend of every architecture in `fusec.codegen.cuda.arch`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fusec.backends.base import Backend, Facts, Plans, Progress
from fusec.codegen.cuda import tuning
from fusec.codegen.cuda.arch import NATIVE, Arch, native_arch, native_name
from fusec.codegen.cuda.build import cached, compile_many
from fusec.codegen.cuda.rows import (
    FIXED,
    LARGE_ROWS_OF_SM,
    MANY,
    OWN_FIXED_TO,
    OWN_ROOM,
    OWN_ROWS_OF_SM,
    TOGETHER,
    for_fewer,
    rows_of_block,
)
from fusec.codegen.cuda.shape import MOST_MADE, MOST_ROWS_MADE, PARTS, SPAN, column_sums, tiles
from fusec.codegen.cuda.toolchain import Cubin, CudaKernel
from fusec.codegen.cuda.tuning import Tuning
from fusec.codegen.formats import FORMATS
from fusec.errors import FusecError
from fusec.ir import gpus
from fusec.ir.choosing import final_choice
from fusec.ir.graph import Graph
from fusec.ir.plan import GENERATING, Kernel, LaunchPlan, Size, Tensor, layers
from fusec.ir.remember import remembered
from fusec.ir.target import WIDEST, Target
from fusec.models.model import Model
from fusec.runtime.cuda import chained, checked_steps
from fusec.runtime.cuda.drafted import DraftedLoop
from fusec.runtime.cuda.driver import Driver, Executable
from fusec.runtime.cuda.engine import CudaEngine
from fusec.runtime.cuda.loop import TokenLoop
from fusec.runtime.cuda.session import CudaSession
from fusec.runtime.cuda.workspace import Executables, Packing, Workspace
from fusec.runtime.session import positions

if TYPE_CHECKING:
    from fusec.codegen.cuda.resident import Resident

Array = np.ndarray[Any, Any]

MOST_SPILLED = 64
"""Bytes of a thread's registers that a resident kernel may keep in memory: what it seldom uses."""

EMITTED = 256  # kernels whose source is kept: a model's come up again at other levels
STATIC_SHARED = 48 << 10  # bytes that a block may declare, where its prologue is kept


@remembered(EMITTED)
def _emit(kernel: Kernel, arch: Arch, sms: int) -> CudaKernel:
    """Emitters are imported here: a model that was compiled before needs none."""
    from fusec.codegen.cuda.emit import emit

    return emit(kernel, arch, sms)


class Cuda(Backend[CudaKernel, Executables]):
    """One architecture. Shapes and predictions are for the GPU that stands for it."""

    family = "cuda"
    level = 3
    prefill_tokens = WIDEST
    between_tokens = (TOGETHER, OWN_FIXED_TO)
    launches = ("graph", "eager", "resident")
    l2_modes = True
    has_choices = True
    suffix = ".cubin"

    def __init__(self, arch: Arch) -> None:
        self.arch, gpu = arch, gpus.for_arch(arch.name)
        assert gpu is not None  # the table has one for every architecture
        self.sms = gpu.sms
        super().__init__(
            Target(
                arch.name,
                frozenset(FORMATS),
                STATIC_SHARED,
                span=SPAN,
                makes_heads=MOST_MADE,
                makes_rows=MOST_ROWS_MADE if arch.has_clusters else 0,
                parts=PARTS,
                column_sums=column_sums() if arch.has_clusters else None,
                tiles=tiles(),
                overlaps=arch.has_clusters,  # dependent launches came with the same generation
                late_norms=True,
                gpu=gpu,
                fixed_from=MANY,
                fixed_kinds=tuple(FIXED.items()),
                fixed_large=LARGE_ROWS_OF_SM * self.sms,
                own_fixed_to=OWN_FIXED_TO,
                own_fixed_bytes=arch.block_shared - OWN_ROOM,
                own_fixed_rows=OWN_ROWS_OF_SM * self.sms,
            )
        )

    def emit(self, kernel: Kernel) -> CudaKernel:
        """See `Backend`."""
        return _emit(kernel, self.arch, self.sms)

    def rows(self, region: Graph, tokens: int) -> int:
        """See `Backend`."""
        return rows_of_block(region, tokens, self.arch.shared, self.sms)

    def variants(self, plans: Plans) -> tuple[LaunchPlan, ...]:
        """See `Backend`."""
        several = plans.several
        above = (1, *(plan.tokens for plan in several))
        return tuple(
            p for n, plan in zip(above, several, strict=False) for p in for_fewer(plan, self.sms, n)
        )

    def source(self, facts: Facts) -> CudaKernel:
        """See `Backend`."""
        return CudaKernel(**{**facts, "signature": tuple(facts["signature"])})

    def size(self, kernel: Kernel, tokens: int) -> Size:
        """The grid and shared memory that the emitter chose."""
        emitted = self.emit(kernel)
        return replace(emitted.size, layers=layers(tokens, emitted.rows, emitted.spare))

    def loop_kernels(self, decode: LaunchPlan) -> dict[str, CudaKernel]:
        """The token loop's own kernels, for a plan that chooses a token; none for another."""
        from fusec.codegen.cuda import control, drafting

        if not set(decode.outputs) >= GENERATING:
            return {}
        decode = decode.generating
        vocabulary, argmax = decode.outputs["%logits"].shape[-1], final_choice(decode)
        parts = decode.region(argmax).inputs[0].shape[-1] if argmax else 0
        found = control.kernels(vocabulary, decode.overlaps, decode.prefetches, parts)
        found += drafting.kernels(vocabulary, decode.overlaps)
        return {kernel.name: kernel for kernel in found}

    def build(
        self, kernels: Mapping[str, CudaKernel], progress: Progress | None = None
    ) -> dict[str, Cubin]:
        """See `Backend`."""
        return build(kernels, self.name, progress)

    def ready(
        self, kernels: Mapping[str, CudaKernel], progress: Progress | None = None
    ) -> Executables:
        """Machine code, and how it is launched."""
        return Compiling(kernels, self.name, progress)

    def describe(
        self, kernels: Mapping[str, CudaKernel], built: Mapping[str, Cubin]
    ) -> dict[str, Facts]:
        """How each kernel is launched, and what it takes of a multiprocessor."""
        return {
            name: {
                "arch": built[name].arch,
                "grid": kernel.grid,
                "cluster": kernel.cluster,
                "threads": kernel.threads,
                "registers": built[name].registers,
                "spill_bytes": built[name].spill_stores + built[name].spill_loads,
                "shared_bytes": built[name].static_shared + kernel.dynamic,
                "dynamic_bytes": kernel.dynamic,
                "rows": kernel.rows,
                "spare": kernel.spare,
            }
            for name, kernel in kernels.items()
        }

    def restore(self, described: Mapping[str, Facts], read: Callable[[str], bytes]) -> Executables:
        """See `Backend`."""
        found = {
            name: Executable(
                name,
                facts["arch"],
                read(f"{name}{self.suffix}"),
                facts["grid"],
                facts["threads"],
                facts["dynamic_bytes"],
                facts["rows"],
                facts["spare"],
            )
            for name, facts in described.items()
        }
        return lambda names: {name: found[name] for name in names}

    def registers(self, kernels: Mapping[str, CudaKernel]) -> dict[str, int]:
        """See `Backend`."""
        ready = cached(list(kernels.values()), self.name)
        return {name: cubin.registers for name, cubin in ready.items()}

    def tuning(self, asked: str) -> Tuning:
        """What `fusec tune` chose for the GPU here, if that is asked for, or FUSEC_TUNING says."""
        return tuning.wanted(self.name, native_name() if asked in NATIVE else None)

    def session(
        self,
        plan: LaunchPlan,
        kernels: Executables,
        weights: Mapping[str, Array],
        progress: Progress | None = None,
        threads: int = 0,
        l2: str = "auto",
    ) -> CudaSession:
        """On the first GPU."""
        names = [kernel.name for kernel in plan.kernels]
        weight = weights.__getitem__
        workspace = Workspace(Driver(), (plan,), kernels, names, weight, PACKING, l2)
        return CudaSession(plan, workspace)

    def engine(
        self,
        plans: Plans,
        kernels: Executables,
        model: Model,
        progress: Progress | None = None,
        threads: int = 0,
        *,
        l2: str = "auto",
        eager: bool = False,
        resident: bool = False,
    ) -> CudaEngine:
        """On the first GPU. `eager`: without captured graphs. `resident`: see `ResidentLoop`."""
        one, several = plans.decode.generating, self.variants(plans)
        asked = plans.decode.asked
        if resident:
            made = self.resident(one)
            kernels = self.beside(kernels, made, progress)
        names = [*dict.fromkeys(launch.kernel for launch in one.launches), *self.loop_kernels(one)]
        later = checked_steps.KERNELS + chained.KERNELS  # until somebody drafts
        names = [name for name in names if name not in later]
        workspace = Workspace(
            Driver(), (one, plans.prefill.only(set())), kernels, names, model.raw, PACKING, l2
        )

        def session(outputs: Collection[str], *plans: LaunchPlan) -> CudaSession:
            found = [plan.only(outputs) for plan in plans]
            return CudaSession(found[-1], workspace, variants=found, eager=eager)

        decode = CudaSession(one, workspace, eager=eager)
        scores = session({"%logits"}, one)
        hidden = plans.decode.hidden
        steps = plans.decode.only(GENERATING | hidden), *several
        prefill, absorb = session({"%logits"} | hidden, *steps), session(hidden, *steps)
        context = positions(one)
        traced = session({"%logits", *asked}, plans.decode, *several) if asked else None
        if resident:
            from fusec.runtime.cuda.resident import ResidentLoop  # with all emitters

            loop: TokenLoop = ResidentLoop(decode, scores, absorb, context, made)
        else:
            loop = TokenLoop(decode, scores, absorb, context)
        rows = session(GENERATING | hidden, *steps)
        return CudaEngine(
            session(GENERATING | hidden, steps[0]) if hidden else decode,
            prefill,
            absorb,
            loop,
            DraftedLoop(loop, rows, prefill) if several else None,
            context=context,
            stop=model.stop_ids,
            traced=traced,
            model=model,
        )

    def resident(self, plan: LaunchPlan) -> Resident:
        """The resident kernel of a plan. Raises FusecError, with the reason, if there is none."""
        from fusec.codegen.cuda.resident import resident

        return resident(plan, self.arch, self.sms)

    def beside(
        self, kernels: Executables, made: Resident, progress: Progress | None
    ) -> Executables:
        """The kernels, and a resident one, which is compiled when it is asked for.

        Asking raises FusecError where its threads need more registers than they can have.
        """
        own = made.kernel

        def found(names: Collection[str]) -> Mapping[str, Executable]:
            ready = dict(kernels([name for name in names if name != own.name]))
            if own.name in names:
                cubin = self.build({own.name: own}, progress)[own.name]
                if cubin.spill_stores > MOST_SPILLED:
                    raise FusecError(
                        f"kernel {own.name}: not resident: {own.threads} threads a block have "
                        f"{cubin.registers} registers each, and {cubin.spill_stores} bytes find "
                        "no room in them: leave out --resident"
                    )
                ready[own.name] = executable(own, cubin)
            return ready

        return found

    def is_here(self) -> bool:
        """Whether the GPU of this machine is of this architecture."""
        try:
            return native_arch() == self.arch
        except FusecError:
            return False

    def machine(self) -> Facts:
        """See `Backend`."""
        gpu = Driver()
        found = {"gpu": gpu.name, "driver": f"{kernel_driver()} (CUDA {gpu.version})".lstrip()}
        gpu.close()
        return found


def native() -> Cuda:
    """The backend of this machine's GPU. Raises FusecError where there is none."""
    return Cuda(native_arch())


class Compiling:
    """Kernels that are compiled when somebody needs them, all that he needs at once in parallel."""

    def __init__(
        self, kernels: Mapping[str, CudaKernel], arch: str, progress: Progress | None
    ) -> None:
        self._kernels, self._arch, self._progress = kernels, arch, progress

    def __call__(self, names: Collection[str]) -> dict[str, Executable]:
        """Name -> what a GPU needs to launch it."""
        wanted = {name: self._kernels[name] for name in names}
        progress, self._progress = self._progress, None  # who watches does so while a model loads
        return executables(wanted, build(wanted, self._arch, progress))


def build(
    kernels: Mapping[str, CudaKernel], arch: str, progress: Progress | None = None
) -> dict[str, Cubin]:
    """Name -> cubin, compiled or from the cache."""
    cubins = compile_many(list(kernels.values()), arch, progress)
    return dict(zip(kernels, cubins, strict=True))


def executables(
    kernels: Mapping[str, CudaKernel], cubins: Mapping[str, Cubin]
) -> dict[str, Executable]:
    """Name -> what a GPU needs to launch a kernel."""
    return {name: executable(kernel, cubins[name]) for name, kernel in kernels.items()}


def executable(kernel: CudaKernel, cubin: Cubin) -> Executable:
    """What a GPU needs to launch a kernel."""
    sizes = kernel.grid, kernel.threads, kernel.dynamic, kernel.rows, kernel.spare
    return Executable(kernel.name, cubin.arch, cubin.data, *sizes)


def pack(tensor: Tensor, raw: Array) -> Array:
    """A weight's bytes as its kernels read them: vectors as they are, matrices in their layout."""
    if len(tensor.shape) == 1:
        return raw.reshape(-1)
    return FORMATS[tensor.dtype].cuda_repack(raw, tensor.layout)


def packed_bytes(tensor: Tensor) -> int:
    """How many bytes `pack` makes of a weight."""
    fmt = FORMATS[tensor.dtype]
    if len(tensor.shape) == 1:
        return fmt.dtype.nbytes(tensor.shape)
    rows, columns = tensor.shape
    return fmt.cuda_bytes(rows, columns, tensor.layout)


PACKING = Packing(packed_bytes, pack)


def kernel_driver() -> str:
    """The version of the NVIDIA kernel driver, as the kernel module tells it."""
    try:
        words = Path("/proc/driver/nvidia/version").read_text().split()
    except OSError:
        return ""
    return next((word for word in words if word.count(".") == 2 and word[0].isdigit()), "")
