"""What the driver does for a CUDA target: kernels to cubins, and engines over the GPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from rich.table import Table

from fusec.codegen.cuda.build import cached, compile_many
from fusec.codegen.cuda.toolchain import Cubin, CudaKernel
from fusec.codegen.formats import FORMATS
from fusec.codegen.targets import AnyKernel
from fusec.ir.choosing import final_choice
from fusec.ir.plan import LaunchPlan, Tensor
from fusec.models.model import Model
from fusec.report import make_table
from fusec.runtime.cuda.driver import Driver, Executable
from fusec.runtime.cuda.engine import CudaEngine
from fusec.runtime.cuda.loop import TokenLoop
from fusec.runtime.cuda.session import CudaSession
from fusec.runtime.cuda.workspace import Packing, Workspace
from fusec.runtime.session import positions

Array = np.ndarray[Any, Any]


def control_kernels(plan: LaunchPlan) -> dict[str, CudaKernel]:
    """The token loop's own kernels, for a plan that chooses a token; none for another."""
    if not {"%logits", "%next"} <= set(plan.outputs):
        return {}
    from fusec.codegen.cuda import control

    vocabulary, argmax = plan.outputs["%logits"].shape[-1], final_choice(plan)
    parts = plan.region(argmax).inputs[0].shape[-1] if argmax else 0
    found = control.kernels(vocabulary, plan.overlaps, plan.prefetches, parts)
    return {kernel.name: kernel for kernel in found}


def build(
    kernels: Mapping[str, AnyKernel], arch: str, progress: Callable[[str], None] | None = None
) -> dict[str, Cubin]:
    """Name -> cubin, compiled or from the cache."""
    found = cuda_kernels(kernels)
    cubins = compile_many(list(found.values()), arch, progress)
    return dict(zip(found, cubins, strict=True))


def executables(
    kernels: Mapping[str, AnyKernel], cubins: Mapping[str, Cubin]
) -> dict[str, Executable]:
    """Name -> what a GPU needs to launch a kernel."""
    return {
        name: executable(kernel, cubins[name]) for name, kernel in cuda_kernels(kernels).items()
    }


def executable(kernel: CudaKernel, cubin: Cubin) -> Executable:
    """What a GPU needs to launch a kernel."""
    sizes = kernel.grid, kernel.threads, kernel.dynamic
    return Executable(kernel.name, cubin.arch, cubin.data, *sizes)


def describe(
    kernels: Mapping[str, AnyKernel], cubins: Mapping[str, Cubin]
) -> dict[str, dict[str, Any]]:
    """Name -> how a kernel is launched and what it takes, as a compiled folder keeps it."""
    return {
        name: {
            "arch": cubins[name].arch,
            "grid": kernel.grid,
            "cluster": kernel.cluster,
            "threads": kernel.threads,
            "registers": cubins[name].registers,
            "spill_bytes": cubins[name].spill_stores + cubins[name].spill_loads,
            "shared_bytes": cubins[name].static_shared + kernel.dynamic,
            "dynamic_bytes": kernel.dynamic,
        }
        for name, kernel in cuda_kernels(kernels).items()
    }


def registers(kernels: Mapping[str, AnyKernel], arch: str) -> dict[str, int]:
    """Name -> registers of a thread, of the kernels that were compiled before."""
    ready = cached(list(cuda_kernels(kernels).values()), arch)
    return {name: cubin.registers for name, cubin in ready.items()}


def restore(
    described: Mapping[str, dict[str, Any]], read: Callable[[str], bytes]
) -> dict[str, Executable]:
    """Name -> kernel, from `describe` and the machine code that `read` gives for a name."""
    return {
        name: Executable(name, d["arch"], read(name), d["grid"], d["threads"], d["dynamic_bytes"])
        for name, d in described.items()
    }


def cubin_table(described: Mapping[str, dict[str, Any]]) -> Table:
    """What each kernel takes of a multiprocessor."""
    found = make_table("kernels")
    found.add_column("kernel", overflow="fold")
    for title in ("blocks", "threads", "registers", "spilled", "shared"):
        found.add_column(title, justify="right")
    for name, d in described.items():
        sizes = (f"{d[key]} B" for key in ("spill_bytes", "shared_bytes"))
        found.add_row(name, str(d["grid"]), str(d["threads"]), str(d["registers"]), *sizes)
    return found


def cuda_kernels(kernels: Mapping[str, AnyKernel]) -> dict[str, CudaKernel]:
    """The kernels that are for a GPU."""
    return {name: k for name, k in kernels.items() if isinstance(k, CudaKernel)}


def session(
    plan: LaunchPlan,
    kernels: Mapping[str, Executable],
    weights: Mapping[str, Array],
    l2: str = "auto",
) -> CudaSession:
    """A plan of a graph built by hand, bound to the first GPU."""
    workspace = Workspace(Driver(), (plan,), kernels, weights.__getitem__, PACKING, l2)
    return CudaSession(plan, workspace)


def engine(
    plan: LaunchPlan,
    kernels: Mapping[str, Executable],
    model: Model,
    *,
    l2: str = "auto",
    eager: bool = False,
) -> CudaEngine:
    """A model's plan on the first GPU, ready to generate. `eager`: without captured graphs."""
    plans = plan, plan.only({"%logits"}), plan.only(set())
    workspace = Workspace(Driver(), plans, kernels, model.raw, PACKING, l2)
    decode, scores, absorb = (CudaSession(each, workspace, eager=eager) for each in plans)
    context = positions(plan)
    loop = TokenLoop(decode, scores, absorb, context)
    return CudaEngine(decode, absorb, loop, context=context, stop=model.stop_ids)


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
