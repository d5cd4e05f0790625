"""Addresses that stay, and memory behind them that grows: CUDA's virtual memory management.

Captured graphs have the addresses of the KV cache, so it cannot move. A range of addresses costs
nothing; memory comes in granules (2 MiB on today's GPUs), each where it is first needed. What is
mapped while kernels run disturbs none of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fusec.runtime.cuda.driver import CudaError, Driver, Handle, OutOfMemory

SUPPORTED = "VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED"


class GrowingMemory:
    """A range of `nbytes` addresses from `pointer` on. `what` is named if memory is too little."""

    def __init__(self, driver: Driver, stream: Handle, nbytes: int, what: str) -> None:
        self._driver, self._stream, self._what = driver, stream, what
        api = driver.api
        self._properties = api.CUmemAllocationProp()
        self._properties.type = api.CUmemAllocationType.CU_MEM_ALLOCATION_TYPE_PINNED
        self._access = api.CUmemAccessDesc()
        self._access.flags = api.CUmemAccess_flags.CU_MEM_ACCESS_FLAGS_PROT_READWRITE
        for location in (self._properties.location, self._access.location):
            location.type = api.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
            location.id = int(driver.device)
        least = api.CUmemAllocationGranularity_flags.CU_MEM_ALLOC_GRANULARITY_MINIMUM
        self._granule = int(driver.call("cuMemGetAllocationGranularity", self._properties, least))
        self._reserved = -(-max(nbytes, 1) // self._granule) * self._granule
        self.pointer = int(driver.call("cuMemAddressReserve", self._reserved, 0, 0, 0))
        self._there: set[int] = set()  # granules with memory
        self._maps: list[tuple[int, int]] = []  # address and bytes

    @property
    def nbytes(self) -> int:
        """Bytes of memory that were taken."""
        return len(self._there) * self._granule

    def need(self, parts: Iterable[tuple[int, int]]) -> None:
        """Have memory, zeros at first, from each part's first byte to that in front of its end.

        Raises OutOfMemory where the GPU has too little.
        """
        wanted = {
            granule
            for begin, end in parts
            for granule in range(begin // self._granule, -(-end // self._granule))
        }
        for first, count in _runs(sorted(wanted - self._there)):
            self._map(self.pointer + first * self._granule, count * self._granule)
            self._there |= {*range(first, first + count)}

    def close(self) -> None:
        """Give back memory and addresses."""
        for address, nbytes in self._maps:
            self._driver.call("cuMemUnmap", address, nbytes)
        self._driver.call("cuMemAddressFree", self.pointer, self._reserved)
        self._maps.clear()

    def _map(self, address: int, nbytes: int) -> None:
        """Put new memory there, or leave everything as it is: page tables take memory as well."""
        driver = self._driver
        try:
            memory: Any = driver.call("cuMemCreate", nbytes, self._properties, 0)
            try:
                driver.call("cuMemMap", address, nbytes, 0, memory, 0)
            finally:
                driver.call("cuMemRelease", memory)  # it is there as long as it is mapped
            self._open(address, nbytes)
        except OutOfMemory as error:
            raise driver.too_little(nbytes, self._what, error) from None
        self._maps.append((address, nbytes))
        driver.zero(address, nbytes, self._stream)

    def _open(self, address: int, nbytes: int) -> None:
        """Let kernels use what is mapped there; it is mapped no more where that fails."""
        try:
            self._driver.call("cuMemSetAccess", address, nbytes, [self._access], 1)
        except CudaError:
            self._driver.call("cuMemUnmap", address, nbytes)
            raise


def _runs(numbers: list[int]) -> Iterable[tuple[int, int]]:
    """Stretches of numbers that follow one another: the first, and how many."""
    start = 0
    for k in range(1, len(numbers) + 1):
        if k == len(numbers) or numbers[k] != numbers[k - 1] + 1:
            yield numbers[start], k - start
            start = k
