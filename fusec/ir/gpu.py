"""What the cost model knows of a machine: plain data. `fusec.ir.gpus` has the known ones."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    """Sizes, rates and latencies of one GPU. Times are microseconds, rates are 1e9 a second.

    `boundary`: from one kernel's end to the next one's start in a captured graph, measured with
    kernels that do nothing and have as many blocks as there are SMs; `block`: what one
    more adds. `touch`: the boundary of kernels that load and store a vector. `early` and
    `early_touch`: the same two with dependent launch. `gap`: from one graph to the
    next. `load`: a load that hits L2, `far_load`: one that goes to memory. `tree`: a
    sum over the lanes of a warp. `barrier`: of a block; `cluster_barrier`: of a cluster of blocks,
    0 where there are none. `instruction`: one more instruction in code
    that runs once. `memory_bytes`, `cache_bytes`, `sm_bytes`: bytes read from memory, from L2, and
    by one SM. `instructions`: integer instructions of single threads.
    `source`: where sizes come from; `measured`: where times and rates do, or which GPU lent them.
    """

    name: str
    arch: str
    sms: int
    clock_ghz: float
    l2_bytes: int
    memory_bytes: float
    cache_bytes: float
    sm_bytes: float
    instructions: float
    boundary: float
    block: float
    touch: float
    early: float
    early_touch: float
    gap: float
    load: float
    far_load: float
    tree: float
    barrier: float
    instruction: float
    source: str
    measured: str
    is_measured: bool = True
    cluster_barrier: float = 0.0
