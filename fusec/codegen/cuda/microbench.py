"""Kernels that measure what a GPU's launches, memory and exchanges cost: see `fusec calibrate`.

Each isolates one thing. `params` are u32 words that say how often it is done, so that one cubin
serves every size.
"""

from __future__ import annotations

from fusec.codegen.cuda.arch import find_arch
from fusec.codegen.cuda.imports import import_lines
from fusec.codegen.cuda.toolchain import CudaKernel

THREADS = 256  # of most of them: what the kernels of a plan have
WIDEST = 1024
CLUSTER = 8
LINE_SHORT, LINE_LONG = 128, 512
CHAINS = 8
VECTOR = 576  # floats that an exchange hands to every block

_LAST = "store_u32_if(out, total, total == uint32(0xDEADBEEF))"  # the result must look needed


def kernels(arch: str) -> dict[str, CudaKernel]:
    """Every kernel that `fusec calibrate` and `fusec profile` launch on an architecture, by name.

    Build them ahead where the machine with the GPU has no compiler.
    """
    made = [nothing(), touch(), stream(), chase(), tree(), block_barrier(), arithmetic()]
    made += [line(LINE_SHORT), line(LINE_LONG), grid_barrier(), exchange()]
    if find_arch(arch).number >= 90:
        made += [early(), early_touch(), cluster_barrier(), cluster_exchange()]
    return {kernel.name: kernel for kernel in made}


def nothing() -> CudaKernel:
    """`nothing(p)`: returns at once. What is left is the launch."""
    return _kernel("nothing", "p", ["return"], ("u32*",), WIDEST)


def touch() -> CudaKernel:
    """`touch(source, target)`: each thread loads a float, adds one and stores it."""
    lines = [_INDEX, "store_f32(at(target, i), load_f32(at(source, i)) + float32(1))"]
    return _kernel("touch", "source target", lines, ("f32*", "f32*"))


def early() -> CudaKernel:
    """`nothing` that is launched while the kernel before runs, waits for it, lets the next start.

    As `fusec.passes.overlap` has it: the next one begins when this one has waited.
    """
    return _kernel("early", "p", _OVERLAP, ("u32*",), WIDEST)


def early_touch() -> CudaKernel:
    """`touch` that is launched like `early`."""
    lines = [
        _INDEX,
        *_OVERLAP,
        "store_f32(at(target, i), load_f32(at(source, i)) + float32(1))",
    ]
    return _kernel("early_touch", "source target", lines, ("f32*", "f32*"))


def stream() -> CudaKernel:
    """`stream(data, out, params)`: read params[1] turns of 64 bytes a thread.

    Word i of the data is read as i & params[0], so a mask makes the footprint.
    """
    loads = [
        f"{x} = load_weight_v4(at(data, uint32(uint32(first + step * uint32({k})) & mask)))"
        for k, x in enumerate("abcd")
    ]
    lines = [
        "mask, turns = load_u32(params), load_u32(at(params, uint32(1)))",
        f"step = uint32(block_count() * uint32({WIDEST // 2 * 4}))",
        f"place = uint32(block_index() * uint32({WIDEST // 2}) + thread_index())",
        "first = uint32(place * uint32(4))",
        "total = uint32(0)",
        "for turn in range(uniform(turns)):",
        *(f"    {load}" for load in loads),
        "    total = uint32(total ^ a[0] ^ b[1] ^ c[2] ^ d[3])",
        "    first = uint32(first + step * uint32(4))",
        _LAST,
    ]
    return _kernel("stream", "data out params", lines, ("u32*",) * 3, WIDEST // 2, 2)


def chase() -> CudaKernel:
    """`chase(table, out, params)`: follow params[0] links, past L1, from where the last run ended.

    Going on keeps a chase through memory from finding the last one's links in the cache.
    """
    lines = [
        "total = load_u32(out)",
        "for turn in range(uniform(load_u32(params))):",
        "    total = load_weight_u32(at(table, total))",
        "store_u32_if(out, total, thread_index() == uint32(0))",
    ]
    return _kernel("chase", "table out params", lines, ("u32*",) * 3, 32)


def tree() -> CudaKernel:
    """`tree(x, params)`: a warp sums its lanes params[0] times, each on the last one's result."""
    lines = [
        "value = load_f32(at(x, thread_index()))",
        "for turn in range(uniform(load_u32(params))):",
        "    value = warp_sum(value)",
        "store_f32(at(x, thread_index()), value)",
    ]
    return _kernel("tree", "x params", lines, ("f32*", "u32*"), 32)


def block_barrier() -> CudaKernel:
    """`block_barrier(params)`: a block synchronises params[0] times."""
    lines = ["for turn in range(uniform(load_u32(params))):", "    barrier()"]
    return _kernel("block_barrier", "params", lines, ("u32*",))


def line(count: int) -> CudaKernel:
    """`line_N(x)`: N multiply-adds in a straight line, four under way: code that runs once."""
    step = "a, b, c, d = fma(a, p, q), fma(b, p, q), fma(c, p, q), fma(d, p, q)"
    lines = [
        _INDEX,
        "p, q = load_f32(at(x, i)), float32(0.5)",
        "a, b, c, d = p, p + q, p - q, p * q",
        *[step] * (count // 4),
        "store_f32(at(x, i), a + b + c + d)",
    ]
    return _kernel(f"line_{count}", "x", lines, ("f32*",))


def arithmetic() -> CudaKernel:
    """`arithmetic(out, params)`: params[0] times eight independent dot products of four bytes."""
    chains = [f"s{k}" for k in range(CHAINS)]
    lines = [
        "word = uint32(thread_index() + block_index())",
        *(f"{s} = int32({k})" for k, s in enumerate(chains)),
        "for turn in range(uniform(load_u32(params))):",
        *(f"    {s} = dp4a_ss(word, word, {s})" for s in chains),
        f"total = uint32({' ^ '.join(chains)})",
        _LAST,
    ]
    return _kernel("arithmetic", "out params", lines, ("u32*", "u32*"), WIDEST, 2)


def grid_barrier() -> CudaKernel:
    """`grid_barrier(counter, params)`: all blocks meet params[0] times; counter is zero before."""
    lines = ["for turn in range(uniform(load_u32(params))):", *_MEET]
    return _kernel("grid_barrier", "counter params", lines, ("u32*", "u32*"))


def exchange() -> CudaKernel:
    """`exchange(counter, params, data, out)`: blocks hand each other VECTOR words, params[0] times.

    `data`: two halves of VECTOR words that take turns.
    """
    reads = [
        f"    total = uint32(total ^ load_acquire_u32(at(data, uint32(half + {place}))))"
        for place in ("thread", f"min_u32(uint32(thread + uint32({THREADS})), uint32(575))")
    ]
    lines = [
        "thread, total = thread_index(), uint32(0)",
        "share = uint32((uint32(575) + block_count()) // block_count())",
        "mine = uint32(block_index() * share + thread)",
        f"live = (thread < share) & (mine < uint32({VECTOR}))",
        "for turn in range(uniform(load_u32(params))):",
        f"    half = uint32(uint32(turn & 1) * uint32({VECTOR}))",
        "    store_u32_if(at(data, uint32(half + mine)), total, live)",
        *_MEET,
        *reads,
        _LAST,
    ]
    return _kernel("exchange", "counter params data out", lines, ("u32*",) * 4)


def cluster_barrier() -> CudaKernel:
    """`cluster_barrier(params)`: the blocks of a cluster meet params[0] times."""
    lines = [
        "for turn in range(uniform(load_u32(params))):",
        "    cluster_arrive()",
        "    cluster_wait()",
    ]
    return _kernel("cluster_barrier", "params", lines, ("u32*",))


def cluster_exchange() -> CudaKernel:
    """`cluster_exchange(params, out)`: a cluster's blocks read each other's shared memory."""
    share = VECTOR // CLUSTER
    lines = [
        f"mine = shared_bytes({8 * share})",
        "thread, total = thread_index(), uint32(0)",
        "for turn in range(uniform(load_u32(params))):",
        f"    half = uint32(mine + uint32(turn & 1) * uint32({4 * share}))",
        f"    store_shared_u32_if(uint32(half + thread * uint32(4)), total, thread < {share})",
        "    cluster_arrive()",
        "    cluster_wait()",
        f"    for k in range({-(-VECTOR // THREADS)}):",
        f"        i = min_u32(uint32(thread + uint32(k * {THREADS})), uint32({VECTOR - 1}))",
        f"        rank = uint32(i // uint32({share}))",
        f"        place = uint32(half + (i - rank * uint32({share})) * uint32(4))",
        "        total = uint32(total ^ load_cluster_u32(map_shared(place, rank)))",
        "cluster_arrive()",  # nobody leaves while others read its memory
        "cluster_wait()",
        _LAST,
    ]
    return _kernel("cluster_exchange", "params out", lines, ("u32*", "u32*"))


_INDEX = f"i = uint32(block_index() * uint32({THREADS}) + thread_index())"
_OVERLAP = ["griddep_wait()", "griddep_launch()"]
_MEET = [
    "    barrier()",
    "    if thread_index() == uint32(0):",
    "        red_release_add_u32(counter, uint32(1))",
    "        goal = uint32(block_count() * uint32(turn + 1))",
    "        while load_acquire_u32(counter) < goal:",
    "            pass",
    "    barrier()",
]


def _kernel(
    name: str,
    names: str,
    lines: list[str],
    signature: tuple[str, ...],
    threads: int = THREADS,
    min_blocks: int = 1,
) -> CudaKernel:
    body = f"def {name}({', '.join(names.split())}):\n" + "".join(f"    {x}\n" for x in lines)
    imports = "\n".join(import_lines(body))
    head = f"{imports}\n\n\n" if imports else ""
    return CudaKernel(name, head + body, signature, threads, min_blocks)
