"""Memory of one GPU, owned in one place and given back at once."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from fusec.runtime.cuda.driver import Driver, Handle
from fusec.runtime.cuda.growing import SUPPORTED, GrowingMemory
from fusec.runtime.session import Array


class Memory:
    """Device and pinned host memory on one stream; copies are ordered with the kernels there."""

    def __init__(self, driver: Driver, stream: Handle) -> None:
        self.driver, self.stream = driver, stream
        self._device: list[int] = []
        self._pinned: list[int] = []
        self._ranges: list[GrowingMemory] = []
        self._asked = 0

    @property
    def nbytes(self) -> int:
        """Bytes of device memory that were taken."""
        return self._asked + sum(memory.nbytes for memory in self._ranges)

    @property
    def grows(self) -> bool:
        """Whether the GPU has memory that grows (`range`)."""
        return bool(self.driver.attribute(SUPPORTED))

    def range(self, nbytes: int, what: str) -> GrowingMemory:
        """Addresses without memory; `what` names it if there is not enough."""
        self._ranges.append(GrowingMemory(self.driver, self.stream, nbytes, what))
        return self._ranges[-1]

    def empty(self, nbytes: int, what: str) -> int:
        """Uninitialised device memory; `what` names it if there is not enough."""
        pointer = self.driver.allocate(nbytes, what)
        self._device.append(pointer)
        self._asked += nbytes
        return pointer

    def zeros(self, nbytes: int, what: str) -> int:
        """Device memory filled with zeros."""
        pointer = self.empty(nbytes, what)
        self.driver.zero(pointer, max(nbytes, 1), self.stream)
        return pointer

    def upload(self, array: Array, what: str) -> int:
        """Device memory with an array's contents."""
        pointer = self.empty(array.nbytes, what)
        self.write(pointer, array)
        return pointer

    def write(self, pointer: int, array: Array) -> None:
        """Copy an array to device memory."""
        array = np.ascontiguousarray(array)
        if array.nbytes:
            self.driver.to_device(pointer, array.ctypes.data, array.nbytes, self.stream)

    def copy(self, target: int, source: int, nbytes: int) -> None:
        """Copy device memory to device memory."""
        if nbytes:
            self.driver.copy(target, source, nbytes, self.stream)

    def fill(self, pointer: int, word: int, count: int = 1) -> None:
        """Set so many words of 32 bits of device memory."""
        self.driver.fill(pointer, word, count, self.stream)

    def release(self, pointer: int) -> None:
        """Give back what `empty` returned before the end, if the end has not come."""
        if pointer in self._device:
            self._device.remove(pointer)
            self.driver.free(pointer)

    def read(self, pointer: int, shape: tuple[int, ...], kind: np.dtype[Any]) -> Array:
        """Device memory as a new array, once the stream has come this far."""
        array = np.empty(shape, kind)
        self.driver.to_host(array.ctypes.data, pointer, array.nbytes, self.stream)
        return array

    def pinned(self, count: int, kind: np.dtype[Any]) -> tuple[Array, int]:
        """Zeroed host memory that kernels write: as an array here, and its device address."""
        nbytes = count * kind.itemsize
        address, pointer = self.driver.allocate_pinned(nbytes)
        self._pinned.append(address)
        raw = (ctypes.c_uint8 * nbytes).from_address(address)
        array = np.frombuffer(memoryview(raw), kind)
        array[:] = 0
        return array, pointer

    def close(self) -> None:
        """Give everything back."""
        for pointer in self._device:
            self.driver.free(pointer)
        for address in self._pinned:
            self.driver.free_pinned(address)
        for memory in self._ranges:
            memory.close()
        self._ranges.clear()
        self._device.clear()
        self._pinned.clear()
