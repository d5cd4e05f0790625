"""Small kernels that CUDA tests share."""

from fusec.codegen.cuda.instructions import TABLE, Instruction
from fusec.codegen.cuda.toolchain import CudaKernel

SCALE = CudaKernel(
    "scale",
    """\
from numba import float32, uint32
from fusec.codegen.cuda.device import at, block_index, load_f32, store_f32_if, thread_index


def scale(x, y, count, factor):
    i = uint32(block_index() * 64 + thread_index())
    inside = i < count
    value = load_f32(at(x, uint32(i if inside else 0)))
    store_f32_if(at(y, i), value * factor + float32(1.5), inside)
""",
    ("f32*", "f32*", "u32", "f32"),
    threads=64,
)


def tiny_kernel(entry: Instruction) -> CudaKernel:
    """A kernel that executes one instruction: operands from memory, results to memory."""
    lines, used = [], {entry.name, "at", "thread_index"}
    for n, kind in enumerate(entry.arguments):
        if kind == "ptr":
            lines.append(f"a{n} = at(memory, uint32(t * 4))")
        elif kind in ("shared", "cluster"):
            lines.append(f"a{n} = uint32(shared_bytes(1024) + t * 16)")
            used.add("shared_bytes")
        elif kind == "pred":
            lines.append(f"a{n} = t < uint32(7)")
        elif kind == "u64":
            lines.append(f"a{n} = uint64(memory[t + uint32({n})])")
        else:
            convert = {"u32": "", "s32": "int32", "f32": "bits_f32"}[kind]
            lines.append(f"a{n} = {convert}(memory[t + uint32({32 * n})])")
            used |= {convert} & set(TABLE)
    call = f"{entry.name}({', '.join(f'a{n}' for n in range(len(entry.arguments)))})"
    results = ", ".join(f"r{n}" for n in range(len(entry.returns)))
    lines.append(f"{results} = {call}" if results else call)
    for n, kind in enumerate(entry.returns):
        convert = {"f32": "bits_u32"}.get(kind, "uint32")
        used |= {convert} & set(TABLE)
        lines.append(f"out[t + uint32({32 * n})] = {convert}(r{n})")
    body = "".join(f"    {line}\n" for line in ["t = thread_index()", *lines])
    source = (
        "from numba import int32, uint32, uint64\n"
        f"from fusec.codegen.cuda.device import {', '.join(sorted(used))}\n\n\n"
        f"def kernel(memory, out):\n{body}"
    )
    return CudaKernel("kernel", source, ("u32*", "u32*"), threads=32)
