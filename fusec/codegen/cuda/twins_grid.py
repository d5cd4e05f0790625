"""A whole grid in NumPy: cluster after cluster, whose blocks run beside each other.

A block is a launch of its own (see `twins`), so its number, and what `uniform` gives, are plain
numbers that a kernel may branch on and count loops by. The blocks of a cluster are threads of
Python, which meet where the kernel waits for the cluster. One of them runs at a time, up to there:
they would only take the interpreter from each other, and which comes first hides no race, because
a `History` knows of each access what it comes after.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from threading import Barrier, BrokenBarrierError, Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from fusec.codegen.cuda.instructions import TABLE
from fusec.codegen.cuda.toolchain import CudaKernel
from fusec.codegen.cuda.twins import Launch
from fusec.codegen.cuda.twins_arithmetic import Lanes
from fusec.codegen.cuda.twins_history import RaceError
from fusec.codegen.cuda.twins_memory import CLUSTER_SHIFT
from fusec.codegen.cuda.twins_order import Order, Trace

PATIENCE = 60.0  # seconds for a block to come to the barrier: longer, and it never will


def run_grid(
    kernel: CudaKernel,
    *arguments: Any,
    trace: Trace | None = None,
    early: bool | None = None,
    layers: int = 1,
) -> None:
    """Execute all blocks of a kernel; raises `RaceError` where nothing orders two accesses.

    `trace`: of the plan's launches so far. `early`: those in front may still run, so that it has to
    wait for what it needs of them; left out, it is whether the kernel waits. `layers`: of the grid.
    """
    early = "griddep_wait()" in kernel.source if early is None else early
    barrier, turn = Barrier(kernel.cluster, timeout=PATIENCE), Lock()
    blocks = [_Block(kernel, rank, barrier, turn) for rank in range(kernel.cluster)]
    for block in blocks:
        block.meet(blocks)
    trace = Trace() if trace is None else trace
    trace.begin(early, blocks[0].order.layout)
    with ThreadPoolExecutor(len(blocks)) as pool:
        for layer, first in product(range(layers), range(0, kernel.grid, kernel.cluster)):
            for block in blocks:
                block.begin(first, layer, early, trace, alone=kernel.grid * layers == 1)
            if len(blocks) == 1:
                blocks[0].run(*arguments)
                continue
            found = [pool.submit(block.run, *arguments) for block in blocks]
            errors = [e for e in (future.exception() for future in found) if e is not None]
            for error in sorted(errors, key=_rank_of):
                raise error


def _rank_of(error: BaseException) -> int:
    """What went wrong first; the others could not wait for it, or were sent too little."""
    return 0 if isinstance(error, RaceError) else 2 if isinstance(error, BrokenBarrierError) else 1


def _local(mailbox: Any) -> int:
    """Where in its block's memory the one mailbox is that all threads name, of whatever block."""
    (place,) = set((np.asarray(mailbox, np.int64) % (1 << CLUSTER_SHIFT)).reshape(-1).tolist())
    return int(place)


class _Block:
    """One block of a cluster, which takes the place of such a block in all clusters in turn."""

    def __init__(self, kernel: CudaKernel, rank: int, barrier: Barrier, turn: Lock) -> None:
        self.kernel, self.rank, self.barrier, self.lock = kernel, rank, barrier, Lock()
        self.turn = turn  # held by the block that runs
        self.number = self.layer = 0
        self.wanted: Counter[int] = Counter()  # bytes, by mailbox
        self.received: Counter[int] = Counter()
        self.order = Order(kernel.name, kernel.source, kernel.threads, rank, kernel.cluster)
        self.launch = Launch(1, kernel.threads)
        self.launch.order = self.order
        self.launch.dynamic = kernel.dynamic
        device = self.launch.modules["fusec.codegen.cuda.device"]
        device.block_index = lambda: np.uint32(self.number)
        device.block_index_y = lambda: np.uint32(self.layer)
        device.block_count = lambda: np.uint32(kernel.grid)
        device.cluster_rank = lambda: np.uint32(rank)
        device.barrier = lambda: self.order.barrier(self.active)
        device.griddep_wait = self._griddep_wait
        device.cluster_arrive = lambda: self.order.arrive(self.active, relaxed=False)
        device.cluster_arrive_relaxed = lambda: self.order.arrive(self.active, relaxed=True)
        device.cluster_wait = self._cluster_wait
        device.mailbox_open = self._open
        device.mailbox_wait = self._wait

    @property
    def active(self) -> npt.NDArray[np.bool_]:
        """The threads that run what comes."""
        active: npt.NDArray[np.bool_] = self.launch.active[0]
        return active

    def meet(self, blocks: list[_Block]) -> None:
        """Let this block reach the others."""
        self.order.others = [block.order for block in blocks]
        device = self.launch.modules["fusec.codegen.cuda.device"]
        for name in TABLE:
            element = np.dtype(np.float32 if name.endswith("f32") else np.uint32)
            if name.startswith("send_"):
                setattr(device, name, self._send(blocks))
            elif name.startswith("load_cluster_"):
                setattr(device, name, self._load(blocks, element))
            elif name.startswith("store_cluster_"):
                setattr(device, name, self._store(blocks, element))
        self.function = self.launch._function(self.kernel)

    def begin(self, first: int, layer: int, early: bool, trace: Trace, *, alone: bool) -> None:
        """Become a block of the cluster that starts with block `first` of a layer.

        `alone`: the launch has no other.
        """
        self.number, self.layer = first + self.rank, layer
        self.launch.restart()
        self.order.begin(layer * self.kernel.grid + first, early, trace, alone=alone)
        self.wanted, self.received = Counter(), Counter()

    def _griddep_wait(self) -> None:
        self.launch.functions["griddep_wait"]()
        self.order.griddep_wait(self.active)

    def _all_come(self) -> None:
        """Let the other blocks run until they are here."""
        self.turn.release()
        try:
            self.barrier.wait()
        finally:
            self.turn.acquire()

    def _cluster_wait(self) -> None:
        self._all_come()
        self.order.cluster_wait(self.active)

    def _open(self, mailbox: Any, nbytes: Any, live: Any) -> None:
        opens = np.broadcast_to(live, (1, self.kernel.threads))[0] & self.active
        self.order.open_mailbox(opens, _local(mailbox))
        self.wanted[_local(mailbox)] += int(np.sum(np.where(opens, nbytes, 0)))

    def _wait(self, mailbox: Any) -> None:
        """All blocks have sent what they send once they wait themselves."""
        place = _local(mailbox)
        self.order.mailbox_wait(self.active, place)
        self._all_come()
        wanted, received = self.wanted[place], self.received[place]
        if received != wanted:
            raise ValueError(f"a mailbox for {wanted} bytes was sent {received}")

    # --- the memory of the cluster's blocks ------------------------------------------------------

    def _reached(
        self, blocks: list[_Block], address: Any, live: npt.NDArray[np.bool_]
    ) -> Iterator[tuple[_Block, npt.NDArray[np.bool_], npt.NDArray[np.int64]]]:
        """Blocks that mapped addresses name, by which threads, and where in their memory."""
        given = np.broadcast_to(np.asarray(address, np.int64), live.shape)
        ranks, local = np.divmod(given, 1 << CLUSTER_SHIFT)
        ranks = np.where(ranks == 0, self.rank + 1, ranks)  # an address that was not mapped
        for rank in np.unique(ranks[live]):
            yield blocks[rank - 1], live & (ranks == rank), np.where(ranks == rank, local, 0)

    def _load(self, blocks: list[_Block], element: np.dtype[Any]) -> Callable[[Any], Lanes]:
        def load(address: Any) -> Lanes:
            found = np.zeros((1, self.kernel.threads), element)
            for block, live, local in self._reached(blocks, address, self.launch.active):
                self.order.read(block.order, self.order.of_shared(live[0], local[0], 4))
                found = np.where(live, block.launch.get(local, element, 1)[..., 0], found)
            return found

        return load

    def _store(self, blocks: list[_Block], element: np.dtype[Any]) -> Callable[[Any, Any], None]:
        def store(address: Any, value: Any) -> None:
            for block, live, local in self._reached(blocks, address, self.launch.active):
                self.order.write(block.order, self.order.of_shared(live[0], local[0], 4))
                block.launch.put(local, [np.asarray(value).astype(element)], live)

        return store

    def _send(self, blocks: list[_Block]) -> Callable[..., None]:
        """A store to mapped addresses, which may name another block in every thread."""

        def send(address: Any, *given: Any) -> None:
            values, (mailbox, wanted) = given[:-2], given[-2:]
            away = (np.asarray(mailbox, np.int64) ^ address) >> CLUSTER_SHIFT
            if np.any(away):
                raise ValueError("data for one block of the cluster, counted in another's mailbox")
            floats = [np.asarray(value).astype(np.float32) for value in values]
            for block, live, local in self._reached(blocks, address, self.launch.active & wanted):
                nbytes = 4 * len(floats)
                access = self.order.of_shared(live[0], local[0], nbytes)
                self.order.send(block.order, access, _local(mailbox))
                block.launch.put(local, floats, live)
                with block.lock:
                    block.received[_local(mailbox)] += nbytes * int(np.sum(live))

        return send

    def run(self, *arguments: Any) -> None:
        """Execute the block."""
        try:
            with self.turn:
                self.launch._call(self.function, self.kernel, arguments)
                self.order.end()
        except BaseException:
            self.barrier.abort()
            raise
