"""A whole grid in NumPy: cluster after cluster, whose blocks run beside each other.

A block is a launch of its own (see `twins`), so its number, and what `uniform` gives, are plain
numbers that a kernel may branch on and count loops by. The blocks of a cluster are threads of
Python, which meet where the kernel waits for the cluster.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, BrokenBarrierError, Lock
from typing import Any

import numpy as np

from fusec.codegen.cuda.instructions import TABLE
from fusec.codegen.cuda.toolchain import CudaKernel
from fusec.codegen.cuda.twins import CLUSTER_SHIFT, Launch

PATIENCE = 60.0  # seconds for a block to come to the barrier: longer, and it never will


def run_grid(kernel: CudaKernel, *arguments: Any) -> None:
    """Execute all blocks of a kernel."""
    barrier = Barrier(kernel.cluster, timeout=PATIENCE)
    blocks = [_Block(kernel, rank, barrier) for rank in range(kernel.cluster)]
    for block in blocks:
        block.meet(blocks)
    for first in range(0, kernel.grid, kernel.cluster):
        for block in blocks:
            block.begin(first)
        if len(blocks) == 1:
            blocks[0].run(*arguments)
            continue
        with ThreadPoolExecutor(len(blocks)) as pool:
            found = [pool.submit(block.run, *arguments) for block in blocks]
        errors = [e for e in (future.exception() for future in found) if e is not None]
        for error in sorted(errors, key=lambda e: isinstance(e, BrokenBarrierError)):
            raise error  # the one that the others could not wait for


class _Block:
    """One block of a cluster, which takes the place of such a block in all clusters in turn."""

    def __init__(self, kernel: CudaKernel, rank: int, barrier: Barrier) -> None:
        self.kernel, self.rank, self.barrier, self.lock = kernel, rank, barrier, Lock()
        self.number = self.wanted = self.received = 0
        self.launch = Launch(1, kernel.threads)
        self.launch.dynamic = kernel.dynamic
        device = self.launch.modules["fusec.codegen.cuda.device"]
        device.block_index = lambda: np.uint32(self.number)
        device.block_count = lambda: np.uint32(kernel.grid)
        device.cluster_rank = lambda: np.uint32(rank)
        device.cluster_wait = barrier.wait
        device.mailbox_open = self._open
        device.mailbox_wait = self._wait

    def meet(self, blocks: list[_Block]) -> None:
        """Let this block write to the others."""
        device = self.launch.modules["fusec.codegen.cuda.device"]
        for name in TABLE:
            if name.startswith("send_"):
                setattr(device, name, _send(blocks, name))
        self.function = self.launch._function(self.kernel)

    def begin(self, first: int) -> None:
        """Become a block of the cluster that starts with block `first`."""
        self.number = first + self.rank
        self.launch.shared = np.zeros((1, 0), np.uint8)
        self.wanted = self.received = 0

    def _open(self, _mailbox: Any, nbytes: Any, live: Any) -> None:
        self.wanted += int(np.sum(np.where(live, nbytes, 0)))

    def _wait(self, _mailbox: Any) -> None:
        """All blocks have sent what they send once they wait themselves."""
        self.barrier.wait()
        if self.received != self.wanted:
            raise ValueError(f"a mailbox for {self.wanted} bytes was sent {self.received}")

    def receive(self, name: str, address: Any, values: Any, live: Any) -> None:
        """What a block of the cluster sends to this one."""
        self.launch.functions[name](address, *values, live)
        with self.lock:
            self.received += 4 * len(values) * int(np.sum(live))

    def run(self, *arguments: Any) -> None:
        """Execute the block."""
        try:
            self.launch._call(self.function, self.kernel, arguments)
        except BaseException:
            self.barrier.abort()
            raise


def _send(blocks: list[_Block], name: str) -> Callable[..., None]:
    """The twin of a store to mapped addresses, which may name another block in every thread."""
    own = name.replace("send", "store_shared")

    def send(address: Any, *given: Any) -> None:
        values, (mailbox, live) = given[:-2], given[-2:]
        ranks, local = np.divmod(np.asarray(address, np.int64), 1 << CLUSTER_SHIFT)
        if np.any((np.asarray(mailbox, np.int64) >> CLUSTER_SHIFT) != ranks):
            raise ValueError("data for one block of the cluster, counted in another's mailbox")
        for rank in np.unique(ranks):
            blocks[rank - 1].receive(own, local, values, live & (ranks == rank))

    return send
