"""The CUDA driver with every status checked: a failure is a sentence that says what to do.

Only this module, `growing.py` and `window.py` know the bindings' structures. `api` is
`cuda.bindings.driver`, or what stands in for it in tests: functions that return a status and then
their results.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fusec.codegen.cuda.arch import NoGpu, arch_for, find_arch, missing_extra
from fusec.errors import FusecError
from fusec.ir.plan import layers
from fusec.writer import brief

Handle = Any
"""A stream, function, graph or event of the driver."""

NEEDED = 13000
"""Cubins are built by CUDA 13.0's ptxas; a driver of an older major version refuses them."""

_INSTEAD = "or use --target cpu"

_initialized: set[int] = set()
"""The process that initialised CUDA; what a child forked from it finds here is not itself."""


class CudaError(FusecError):
    """The driver refused a call or a kernel failed; `status` is the driver's name for it."""

    def __init__(self, message: str, status: str) -> None:
        super().__init__(message)
        self.status = status


class OutOfMemory(CudaError, MemoryError):
    """The GPU has too little memory left for what was asked of it."""


@dataclass(frozen=True)
class Executable:
    """A kernel as machine code, and the grid (blocks) and block (threads) it is launched with.

    `dynamic`: bytes of shared memory that a launch adds for each block. `rows`, `spare`: see
    `fusec.ir.plan.layers`.
    """

    name: str
    arch: str
    data: bytes
    grid: int
    threads: int
    dynamic: int = 0
    rows: int = 0
    spare: int = 0

    def __repr__(self) -> str:
        return brief(self, f"{self.name}: {self.arch}, {len(self.data):,} bytes")


@dataclass(frozen=True)
class Function:
    """A kernel loaded on the GPU."""

    name: str
    handle: Handle
    grid: int
    threads: int
    dynamic: int = 0
    rows: int = 0
    spare: int = 0


class Driver:
    """One GPU, its primary context held until `close`.

    Raises FusecError where the bindings, the driver or the GPU is missing or too old.
    """

    def __init__(self, api: Any = None, device: int = 0) -> None:
        self.api = api if api is not None else _bindings()
        self._libraries: list[Handle] = []
        if _initialized and os.getpid() not in _initialized:
            raise FusecError(
                "CUDA was used before this process was forked, so it cannot be used here: start "
                "processes with 'spawn'"
            )
        try:
            status = self.api.cuInit(0)[0]
        except RuntimeError:  # the bindings raise this when libcuda.so cannot be loaded
            raise NoGpu("no NVIDIA driver on this machine", f"install one, {_INSTEAD}") from None
        version = int(self.api.cuDriverGetVersion()[1])
        if version < NEEDED:
            raise NoGpu(
                f"the NVIDIA driver supports CUDA {_dotted(version)}, expected "
                f"{_dotted(NEEDED)} or later",
                f"update the driver, {_INSTEAD}",
            )
        if status.name != "CUDA_SUCCESS" or not self.call("cuDeviceGetCount"):
            raise NoGpu(f"the NVIDIA driver finds no GPU ({status.name})", _INSTEAD[3:])
        _initialized.add(os.getpid())
        self.version = _dotted(version)
        self.device = self.call("cuDeviceGet", device)
        name: bytes = self.call("cuDeviceGetName", 256, self.device)
        self.name = name.split(b"\0")[0].decode()
        self.capability = (
            self.attribute("COMPUTE_CAPABILITY_MAJOR"),
            self.attribute("COMPUTE_CAPABILITY_MINOR"),
        )
        self._context = self.call("cuDevicePrimaryCtxRetain", self.device)
        self.activate()

    def call(self, function: str, *args: Any) -> Any:
        """Call a driver function: its result, a tuple of several, or None.

        Raises CudaError unless it succeeds.
        """
        status, *results = getattr(self.api, function)(*args)
        if status.name != "CUDA_SUCCESS":
            error = OutOfMemory if status.name == "CUDA_ERROR_OUT_OF_MEMORY" else CudaError
            raise error(
                f"{function}: the GPU or its driver reports {status.name}: run again with "
                f"--target cpu to tell a kernel's fault from the machine's",
                status.name,
            )
        return results[0] if len(results) == 1 else tuple(results) or None

    def activate(self) -> None:
        """Make the context current in this thread. Every entry from outside begins with it."""
        self.call("cuCtxSetCurrent", self._context)

    def attribute(self, name: str) -> int:
        """A number about the device: `name` without CU_DEVICE_ATTRIBUTE_."""
        which = getattr(self.api.CUdevice_attribute, f"CU_DEVICE_ATTRIBUTE_{name}")
        return int(self.call("cuDeviceGetAttribute", which, self.device))

    # -- memory -----------------------------------------------------------------------------------

    def allocate(self, nbytes: int, what: str) -> int:
        """Device memory. Raises OutOfMemory naming `what` was asked for and how much is free."""
        try:
            return int(self.call("cuMemAlloc", max(nbytes, 1)))
        except OutOfMemory as error:
            raise self.too_little(nbytes, what, error) from None

    def too_little(self, nbytes: int, what: str, error: OutOfMemory) -> OutOfMemory:
        """The same error, which names what was asked for and how much is free."""
        free, total = self.call("cuMemGetInfo")
        return OutOfMemory(
            f"not enough memory on {self.name}: {what} needs {_mib(nbytes)}, "
            f"{_mib(free)} of {_mib(total)} are free: take a smaller --context, end what else "
            f"uses the GPU, {_INSTEAD}",
            error.status,
        )

    def free(self, pointer: int) -> None:
        """Give back what `allocate` returned."""
        self.call("cuMemFree", pointer)

    def allocate_pinned(self, nbytes: int) -> tuple[int, int]:
        """Host memory that kernels can write: its address here and its address on the device."""
        address = int(self.call("cuMemHostAlloc", nbytes, self.api.CU_MEMHOSTALLOC_DEVICEMAP))
        return address, int(self.call("cuMemHostGetDevicePointer", address, 0))

    def free_pinned(self, address: int) -> None:
        """Give back what `allocate_pinned` returned."""
        self.call("cuMemFreeHost", address)

    def to_device(self, pointer: int, address: int, nbytes: int, stream: Handle) -> None:
        """Copy host memory to the device, after what the stream holds already.

        Pageable memory has been read when this returns, so the caller may change it.
        """
        self.call("cuMemcpyHtoDAsync", pointer, address, nbytes, stream)

    def to_host(self, address: int, pointer: int, nbytes: int, stream: Handle) -> None:
        """Copy device memory to the host, after what the stream holds already; waits for it."""
        self.call("cuMemcpyDtoHAsync", address, pointer, nbytes, stream)
        self.synchronize(stream)

    def copy(self, target: int, source: int, nbytes: int, stream: Handle) -> None:
        """Copy device memory to device memory, after what the stream holds already."""
        self.call("cuMemcpyDtoDAsync", target, source, nbytes, stream)

    def zero(self, pointer: int, nbytes: int, stream: Handle) -> None:
        """Fill device memory with zeros."""
        self.call("cuMemsetD8Async", pointer, 0, nbytes, stream)

    def fill(self, pointer: int, word: int, count: int, stream: Handle) -> None:
        """Set so many words of 32 bits, after what the stream holds already."""
        self.call("cuMemsetD32Async", pointer, word, count, stream)

    # -- streams, kernels, graphs -----------------------------------------------------------------

    def stream(self) -> Handle:
        """A new stream that does not wait for the default one."""
        return self.call("cuStreamCreate", int(self.api.CUstream_flags.CU_STREAM_NON_BLOCKING))

    def synchronize(self, stream: Handle) -> None:
        """Wait until the stream is empty. A kernel that failed is reported here."""
        self.call("cuStreamSynchronize", stream)

    def load(self, executable: Executable) -> Function:
        """Load a kernel. Raises CudaError if it was built for another GPU."""
        arch = find_arch(executable.arch)
        here = f"{self.name}, compute capability {'.'.join(map(str, self.capability))}"
        wrong = CudaError(
            f"kernel {executable.name} was compiled for {arch.name}, this GPU is {here}: "
            f"compile again with --target {arch_for(*self.capability).name}",
            "CUDA_ERROR_NO_BINARY_FOR_GPU",
        )
        if not arch.runs_on(*self.capability):
            raise wrong
        try:
            library = self.call("cuLibraryLoadData", executable.data, [], [], 0, [], [], 0)
            self._libraries.append(library)
            kernel = self.call("cuLibraryGetKernel", library, executable.name.encode())
        except CudaError as error:
            if error.status == wrong.status:
                raise wrong from None
            if error.status in ("CUDA_ERROR_INVALID_IMAGE", "CUDA_ERROR_NOT_FOUND"):
                raise CudaError(
                    f"kernel {executable.name}: its machine code is damaged: compile again",
                    error.status,
                ) from None
            raise
        handle = self.call("cuKernelGetFunction", kernel)
        if executable.dynamic:
            self._set(handle, "MAX_DYNAMIC_SHARED_SIZE_BYTES", executable.dynamic)
        if self.takes_all_shared(executable):
            self._set(handle, "PREFERRED_SHARED_MEMORY_CARVEOUT", 100)
        sizes = executable.grid, executable.threads, executable.dynamic
        return Function(executable.name, handle, *sizes, executable.rows, executable.spare)

    def _set(self, function: Handle, attribute: str, value: int) -> None:
        which = getattr(self.api.CUfunction_attribute, f"CU_FUNC_ATTRIBUTE_{attribute}")
        self.call("cuFuncSetAttribute", function, which, value)

    @staticmethod
    def takes_all_shared(executable: Executable) -> bool:
        """Whether SMs are to have as much shared memory as can be, and less L1, for a kernel.

        Else there would be as much as it needs, and none for the one behind.
        """
        return executable.dynamic > 0

    def launch(
        self,
        function: Function,
        pointers: Sequence[int],
        stream: Handle,
        attributes: Sequence[Any],
        rows: int = 1,
    ) -> None:
        """Enqueue a kernel whose parameters are all pointers, for so many rows of a step."""
        config = self._config(function, stream, attributes, rows)
        parameters = (tuple(pointers), (ctypes.c_void_p,) * len(pointers))
        self.call("cuLaunchKernelEx", config, function.handle, parameters, 0)

    def _config(
        self, function: Function, stream: Handle, attributes: Sequence[Any], rows: int = 1
    ) -> Any:
        config = self.api.CUlaunchConfig()
        config.gridDimX, config.gridDimZ = function.grid, 1
        config.gridDimY = layers(rows, function.rows, function.spare)
        config.blockDimX, config.blockDimY, config.blockDimZ = function.threads, 1, 1
        config.sharedMemBytes, config.hStream = function.dynamic, stream
        config.numAttrs = len(attributes)
        if attributes:
            config.attrs = list(attributes)
        return config

    def clusters_at_once(self, function: Function, cluster: int, stream: Handle) -> int:
        """How many clusters of so many blocks the GPU has room for at once: the grid's, at most."""
        size = self.api.CUlaunchAttributeValue()
        size.clusterDim.x, size.clusterDim.y, size.clusterDim.z = cluster, 1, 1
        config = self._config(function, stream, [self._attribute("CLUSTER_DIMENSION", size)])
        found = int(self.call("cuOccupancyMaxActiveClusters", function.handle, config))
        return min(found, function.grid // cluster)

    def early(self) -> Any:
        """The launch attribute of a kernel that may start while the one in front of it runs."""
        value = self.api.CUlaunchAttributeValue()
        value.programmaticStreamSerializationAllowed = 1
        return self._attribute("PROGRAMMATIC_STREAM_SERIALIZATION", value)

    def cooperative(self) -> Any:
        """The launch attribute of a kernel whose blocks wait for one another.

        The driver refuses a launch of more of them than the GPU has room for at once.
        """
        value = self.api.CUlaunchAttributeValue()
        value.cooperative = 1
        return self._attribute("COOPERATIVE", value)

    def _attribute(self, name: str, value: Any) -> Any:
        attribute = self.api.CUlaunchAttribute()
        attribute.id = getattr(self.api.CUlaunchAttributeID, f"CU_LAUNCH_ATTRIBUTE_{name}")
        attribute.value = value
        return attribute

    def capture(self, stream: Handle, enqueue: Callable[[], None]) -> Handle:
        """What `enqueue` puts on the stream, as a graph that can be launched again and again."""
        mode = self.api.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self.call("cuStreamBeginCapture", stream, mode)
        try:
            enqueue()
        finally:
            graph = self.call("cuStreamEndCapture", stream)
        executable = self.call("cuGraphInstantiate", graph, 0)
        self.call("cuGraphDestroy", graph)
        return executable

    def replay(self, graph: Handle, stream: Handle) -> None:
        """Enqueue a captured graph."""
        self.call("cuGraphLaunch", graph, stream)

    def release(self, graph: Handle) -> None:
        """Give back a captured graph."""
        self.call("cuGraphExecDestroy", graph)

    def event(self) -> Handle:
        """A mark that can be put on a stream."""
        return self.call("cuEventCreate", int(self.api.CUevent_flags.CU_EVENT_DEFAULT))

    def forget(self, event: Handle) -> None:
        """Give back a mark."""
        self.call("cuEventDestroy", event)

    def record(self, event: Handle, stream: Handle) -> None:
        """Put a mark on the stream."""
        self.call("cuEventRecord", event, stream)

    def seconds_between(self, start: Handle, end: Handle) -> float:
        """Time the stream took from one mark to the other, once it has passed both."""
        return float(self.call("cuEventElapsedTime", start, end)) / 1e3

    def follow(self, stream: Handle, leader: Handle) -> None:
        """What `stream` is given from now on comes behind what `leader` holds already."""
        event = self.call("cuEventCreate", int(self.api.CUevent_flags.CU_EVENT_DISABLE_TIMING))
        self.call("cuEventRecord", event, leader)
        self.call("cuStreamWaitEvent", stream, event, 0)
        self.call("cuEventDestroy", event)

    def idle(self, stream: Handle) -> bool:
        """Whether everything on the stream is done. Raises CudaError if a kernel failed."""
        try:
            self.call("cuStreamQuery", stream)
        except CudaError as error:
            if error.status != "CUDA_ERROR_NOT_READY":
                raise
            return False
        return True

    def set_persisting(self, nbytes: int) -> None:
        """Set aside that much of L2 for lines that persist; 0 gives it back and frees the lines."""
        self.call("cuCtxSetLimit", self.api.CUlimit.CU_LIMIT_PERSISTING_L2_CACHE_SIZE, nbytes)
        if not nbytes:
            self.call("cuCtxResetPersistingL2Cache")

    def close(self) -> None:
        """Give back the kernels and the context."""
        for library in self._libraries:
            self.call("cuLibraryUnload", library)
        self._libraries.clear()
        self.call("cuDevicePrimaryCtxRelease", self.device)


def _bindings() -> Any:
    try:
        from cuda.bindings import driver
    except ImportError:
        raise missing_extra() from None
    return driver


def _dotted(version: int) -> str:
    return f"{version // 1000}.{version % 1000 // 10}"


def _mib(nbytes: int) -> str:
    return f"{nbytes / 2**20:,.1f} MiB"
