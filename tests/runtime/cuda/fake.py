"""A driver without a GPU: device memory is host memory, kernels are Python functions.

It stands in for `cuda.bindings.driver`, so everything above it is the code that runs on a GPU.
A "cubin" is the kernel's name; `kernels` says what the name does with its pointers.
"""

from __future__ import annotations

import ctypes
import enum
from collections import deque
from collections.abc import Callable, Collection, Mapping
from functools import partial
from types import SimpleNamespace

import numpy as np

from fusec.codegen.cuda import drafting
from fusec.codegen.cuda.control import NO_TOKEN
from fusec.codegen.cuda.phases import CONTROL_WORDS, COUNT, END, GAVE_UP, GOING, MOST_BODIES
from fusec.codegen.cuda.resident import Resident
from fusec.codegen.cuda.shape import PARTS
from fusec.codegen.cuda.toolchain import CudaKernel
from fusec.codegen.cuda.twins_grid import run_grid
from fusec.codegen.formats import FORMATS
from fusec.ir.dtypes import dtype
from fusec.ir.graph import Value
from fusec.ir.op import results_of
from fusec.ir.op_fixed import WIDTHS
from fusec.ir.ops import OPS
from fusec.ir.pages import PAGE
from fusec.ir.plan import Kernel, LaunchPlan, Tensor
from fusec.ir.region import parameters
from fusec.ir.tables import tables_of
from fusec.ir.text import parse
from fusec.runtime.cuda.driver import Executable
from fusec.runtime.cuda.workspace import Packing

RING = 1024
GRANULE = 1 << 16  # of memory that grows
VOCABULARY = 512  # of the models these kernels are for
Kernels = dict[str, Callable[..., None]]

Status = enum.Enum(
    "Status",
    "CUDA_SUCCESS CUDA_ERROR_NO_DEVICE CUDA_ERROR_OUT_OF_MEMORY CUDA_ERROR_INVALID_IMAGE "
    "CUDA_ERROR_NO_BINARY_FOR_GPU CUDA_ERROR_NOT_READY CUDA_ERROR_ILLEGAL_ADDRESS "
    "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED",
)
OK = Status.CUDA_SUCCESS
NOT_WHILE_CAPTURING = (
    "cuMemAlloc", "cuMemFree", "cuMemHostAlloc", "cuMemFreeHost", "cuMemCreate", "cuMemMap",
    "cuMemUnmap", "cuLibraryLoadData", "cuLibraryUnload", "cuStreamSynchronize", "cuStreamQuery",
    "cuMemcpyHtoDAsync", "cuMemcpyDtoHAsync",
)  # fmt: skip
"""Calls that a graph would not repeat, or not with what the host has by then."""


class _Names:
    """An enumeration of the driver: every member is its own name."""

    def __getattr__(self, name: str) -> str:
        return name


class FakeDriver:
    """`log` has the name of every call; `broken` maps a call to the status it fails with.

    `late`: what is put on the stream is done when somebody waits for it or asks whether it is done,
    and one thing at each question, as a GPU does that is far behind its host.
    """

    CUdevice_attribute = CUlimit = CUaccessProperty = CUlaunchAttributeID = _Names()
    CUstreamCaptureMode = CUmemAllocationType = CUmemAccess_flags = CUmemLocationType = _Names()
    CUmemAllocationGranularity_flags = _Names()
    CUstream_flags = SimpleNamespace(CU_STREAM_NON_BLOCKING=1)
    CU_MEMHOSTALLOC_DEVICEMAP = 2
    CUlaunchConfig = CUaccessPolicyWindow = CUlaunchAttribute = SimpleNamespace

    @staticmethod
    def CUlaunchAttributeValue():
        return SimpleNamespace(clusterDim=SimpleNamespace())

    @staticmethod
    def _located():
        return SimpleNamespace(location=SimpleNamespace())

    CUmemAllocationProp = CUmemAccessDesc = _located

    def __init__(
        self, kernels=None, *, version=13000, capability=(9, 0), memory=1 << 30, late=False
    ):
        self.kernels: Kernels = kernels or {}
        self.late, self._waiting = late, deque[Callable[[], None]]()
        self.version, self.memory = version, memory
        self.attributes = {
            "CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR": capability[0],
            "CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR": capability[1],
            "CU_DEVICE_ATTRIBUTE_MAX_PERSISTING_L2_CACHE_SIZE": 32 << 10,
            "CU_DEVICE_ATTRIBUTE_MAX_ACCESS_POLICY_WINDOW_SIZE": 1 << 20,
            "CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED": 1,
        }
        self.clusters = 16  # of whatever size
        self.log: list[str] = []
        self.launched: list[SimpleNamespace] = []
        self.broken: dict[str, Status] = {}
        self.buffers: dict[int, ctypes.Array] = {}
        self.reserved: dict[int, ctypes.Array] = {}
        self.mapped: dict[int, int] = {}  # address -> bytes
        self.created = 0  # bytes that are not released
        self.limits: dict[str, int] = {}
        self._capturing: list[Callable[[], None]] | None = None

    def __getattr__(self, name: str):
        method = object.__getattribute__(self, f"_{name}")

        def call(*args):
            self.log.append(name)
            if name in self.broken:
                return (self.broken[name],)
            if self._capturing is not None and name in NOT_WHILE_CAPTURING:
                return (Status.CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,)
            result = method(*args)
            if isinstance(result, Status):
                return (result,)
            return (OK, *(result if isinstance(result, tuple) else (result,)))

        return call

    @property
    def used(self) -> int:
        return sum(len(b) for b in self.buffers.values()) + sum(self.mapped.values())

    def _cuInit(self, _flags):
        return OK

    def _cuDriverGetVersion(self):
        return self.version

    def _cuDeviceGetCount(self):
        return 1

    def _cuDeviceGet(self, number):
        return number

    def _cuDeviceGetName(self, _length, _device):
        return b"Fake GPU\0\0"

    def _cuDeviceGetAttribute(self, which, _device):
        return self.attributes[which]

    def _cuDevicePrimaryCtxRetain(self, _device):
        return "context"

    def _nothing(self, *_args):
        return OK

    _cuCtxSetCurrent = _cuDevicePrimaryCtxRelease = _nothing
    _cuStreamDestroy = _cuLibraryUnload = _cuGraphDestroy = _cuGraphExecDestroy = _nothing
    _cuCtxResetPersistingL2Cache = _nothing

    def _cuStreamSynchronize(self, _stream):
        while self._waiting:
            self._waiting.popleft()()
        return OK

    def _cuStreamQuery(self, _stream):
        if not self._waiting:
            return OK
        self._waiting.popleft()()
        return Status.CUDA_ERROR_NOT_READY

    def _cuCtxSetLimit(self, name, value):
        self.limits[name] = value
        return OK

    def _cuMemGetInfo(self):
        return self.memory - self.used, self.memory

    def _cuMemAlloc(self, nbytes):
        if self.used + nbytes > self.memory:
            return Status.CUDA_ERROR_OUT_OF_MEMORY
        buffer = (ctypes.c_uint8 * nbytes)()
        ctypes.memset(buffer, 0xAB, nbytes)  # what nobody wrote should show
        self.buffers[ctypes.addressof(buffer)] = buffer
        return ctypes.addressof(buffer)

    def _cuMemHostAlloc(self, nbytes, _flags):
        return self._cuMemAlloc(nbytes)

    def _cuMemHostGetDevicePointer(self, address, _flags):
        return address

    def _cuMemFree(self, pointer):
        self._cuStreamSynchronize(None)
        del self.buffers[pointer]
        return OK

    _cuMemFreeHost = _cuMemFree

    def _cuMemGetAllocationGranularity(self, _properties, _which):
        return GRANULE

    def _cuMemAddressReserve(self, nbytes, *_options):
        assert nbytes % GRANULE == 0
        buffer = (ctypes.c_uint8 * nbytes)()
        ctypes.memset(buffer, 0xAB, nbytes)
        self.reserved[ctypes.addressof(buffer)] = buffer
        return ctypes.addressof(buffer)

    def _cuMemCreate(self, nbytes, properties, _flags):
        assert properties.location.type == "CU_MEM_LOCATION_TYPE_DEVICE"
        if self.used + nbytes > self.memory:
            return Status.CUDA_ERROR_OUT_OF_MEMORY
        self.created += nbytes
        return nbytes

    def _cuMemRelease(self, memory):
        self.created -= memory
        return OK

    def _cuMemMap(self, address, nbytes, _offset, memory, _flags):
        assert nbytes == memory and address not in self.mapped
        assert any(
            a <= address and address + nbytes <= a + len(b) for a, b in self.reserved.items()
        )
        self.mapped[address] = nbytes
        return OK

    def _cuMemSetAccess(self, address, nbytes, access, count):
        assert self.mapped[address] == nbytes and len(access) == count == 1
        assert access[0].flags == "CU_MEM_ACCESS_FLAGS_PROT_READWRITE"
        return OK

    def _cuMemUnmap(self, address, nbytes):
        assert self.mapped.pop(address) == nbytes
        return OK

    def _cuMemAddressFree(self, address, nbytes):
        assert len(self.reserved.pop(address)) == nbytes
        return OK

    def _copy(self, target, source, nbytes, _stream):
        self._do(lambda: ctypes.memmove(target, source, nbytes))
        return OK

    _cuMemcpyDtoHAsync = _cuMemcpyDtoDAsync = _copy

    def _cuMemcpyHtoDAsync(self, target, source, nbytes, _stream):
        data = ctypes.string_at(source, nbytes)  # the caller may change it from now on
        self._do(lambda: ctypes.memmove(target, data, nbytes))
        return OK

    def _cuMemsetD8Async(self, pointer, value, nbytes, _stream):
        self._do(lambda: ctypes.memset(pointer, value, nbytes))
        return OK

    def _cuStreamCreate(self, _flags):
        return "stream"

    def _cuLibraryLoadData(self, data, *_options):
        return data if data.decode() in self.kernels else Status.CUDA_ERROR_INVALID_IMAGE

    def _cuLibraryGetKernel(self, library, name):
        assert library == name
        return name.decode()

    def _cuKernelGetFunction(self, kernel):
        return kernel

    def _cuLaunchKernelEx(self, config, function, parameters, _extra):
        pointers, types = parameters
        assert all(kind is ctypes.c_void_p for kind in types)
        self.launched.append(SimpleNamespace(name=function, config=config))
        work = self.kernels[function]
        if any(x.id.endswith("COOPERATIVE") for x in getattr(config, "attrs", ())):
            assert self._capturing is None, "a graph forgets that a launch is cooperative"
        if isinstance(work, PlanKernel):
            work = partial(work, layers=config.gridDimY)
        self._do(lambda: work(*pointers))
        return OK

    def _cuOccupancyMaxActiveClusters(self, function, config):
        assert function in self.kernels and config.attrs[0].id.endswith("CLUSTER_DIMENSION")
        return self.clusters

    def _cuStreamBeginCapture(self, _stream, _mode):
        assert self._capturing is None
        self._capturing = []
        return OK

    def _cuStreamEndCapture(self, _stream):
        graph, self._capturing = self._capturing, None
        return (graph,)

    def _cuGraphInstantiate(self, graph, _flags):
        return (graph,)

    def _cuGraphLaunch(self, graph, _stream):
        for work in graph:
            self._do(work)
        return OK

    def _cuMemsetD32Async(self, pointer, word, count, _stream):
        self._do(lambda: _words(pointer, count).fill(word))
        return OK

    def _do(self, work: Callable[[], None]) -> None:
        if self._capturing is not None:
            self._capturing.append(work)
        elif self.late:
            self._waiting.append(work)
        else:
            work()


def view(pointer: int, kind: str, shape: tuple[int, ...]) -> np.ndarray:
    """Memory as an array: plain types in their shape, quantised ones as uint8[rows, row bytes]."""
    plain, nbytes = dtype(kind).numpy, dtype(kind).nbytes(shape)
    raw = np.frombuffer((ctypes.c_uint8 * nbytes).from_address(pointer), np.uint8)
    return raw.view(plain).reshape(shape) if plain else raw.reshape(int(np.prod(shape[:-1])), -1)


class PlanKernel:
    """What a plan's kernel computes, by the reference operations in float32, row after row.

    A canonical region does not say how many positions its states have: `context`. Their rows are
    found by the table of pages. `fixed`: where vectors in fixed point lie, as the floats that they
    stand for, since NumPy has no such type.
    """

    def __init__(self, kernel: Kernel, context: int, fixed: dict[tuple[int, int], np.ndarray]):
        self.rows, self.context, self.fixed = kernel.rows, context, fixed
        self.region = parse(kernel.region)
        self.bound = parameters(self.region)
        self.tables = len(tables_of(self.region.walk()))

    def __call__(self, *pointers: int, layers: int = 1) -> None:
        """`layers` of the grid, each of as many rows as a block takes, as far as there are rows."""
        at = dict(zip((v.name for v in self.bound), pointers, strict=False))
        if any(v.is_state for v in self.bound):
            positions = np.arange(self.context)
            table = _words(pointers[len(self.bound) + self.tables], -(-self.context // PAGE))
            self.place = table[positions // PAGE].astype(int) + positions % PAGE
        given = {v.name: self._weight(v, at[v.name]) for v in self.bound if v.is_weight}
        rows = min(int(_words(pointers[-1])[0]), layers * self.rows) if self.rows else 1
        for row in range(rows):
            self._row(row, at, dict(given))

    def _row(self, row: int, at: dict[str, int], values: dict[str, np.ndarray]) -> None:
        for value in self.bound:
            if value.name not in values and value.name not in self.region.producers:
                found = self._load(value, at[value.name], row)
                values[value.name] = found if value.dtype == "i32" else found.astype(np.float32)
        for node in self.region.walk():
            operands = [values[v.name] for v in node.inputs]
            results = results_of(OPS[node.op].reference(*operands, **dict(node.attrs)))
            for made, array in zip(node.outputs, results, strict=True):
                values[made.name] = array
                place = made.buffer if made.is_state else made.name
                if made.is_state:
                    self._append(made, at[place], array, values[node.inputs[2].name])
                elif place in at:
                    self._store(made, at[place], row, array)

    def _weight(self, value: Value, pointer: int) -> np.ndarray:
        array = view(pointer, value.dtype, value.shape)
        if value.dtype not in FORMATS:
            return array.astype(np.float32)
        rows = array.view(np.uint8).reshape(int(np.prod(value.shape[:-1])), -1)
        return FORMATS[value.dtype].decode(rows).reshape(value.shape)

    def _load(self, value: Value, pointer: int, row: int) -> np.ndarray:
        if value.dtype in WIDTHS:
            return self.fixed[pointer, row]
        found = self._view(value, pointer, row)
        return found[self.place] if value.is_state else found

    def _store(self, value: Value, pointer: int, row: int, array: np.ndarray) -> None:
        if value.dtype in WIDTHS:
            self.fixed[pointer, row] = array
        else:
            self._view(value, pointer, row)[...] = array

    def _append(self, value: Value, pointer: int, array: np.ndarray, pos: np.ndarray) -> None:
        """Nothing but the rows at `pos`: others may lie in pages that nobody has yet."""
        self._view(value, pointer, 0)[self.place[pos]] = array[pos]

    def _view(self, value: Value, pointer: int, row: int) -> np.ndarray:
        if value.is_state:
            return view(pointer, value.dtype, (self.place.max() + 1, *value.shape[1:]))
        return view(
            pointer + row * dtype(value.dtype).nbytes(value.shape), value.dtype, value.shape
        )


def advance(logits: int, chosen: int, *rest: int) -> None:
    """The control kernel of that name, as `fusec.codegen.cuda.control` describes it."""
    choice = int(_words(chosen)[0])
    row = view(logits, "f32", (VOCABULARY,))
    hand_on(choice, row[min(choice, VOCABULARY - 1)], *rest)


def hand_on(choice: int, logit: float, token: int, pos: int, counter: int, tokens: int, ring: int):
    """What both kernels that advance do for a token."""
    good = np.isfinite(logit)
    step, p = (int(_words(a)[0]) for a in (counter, pos))
    slots = np.frombuffer((ctypes.c_uint64 * RING).from_address(ring), np.uint64)
    slots[step % RING] = (step + 1) << 32 | (choice if good else NO_TOKEN)
    choice = choice if good else 0
    _words(token)[0], _words(pos)[0], _words(counter)[0] = choice, p + 1, step + 1
    _words(tokens, p + 2)[p + 1] = choice


def advance_best(tops: int, places: int, chosen: int, *rest: int) -> None:
    """The control kernel of that name."""
    best, where = view(tops, "f32", (1, PARTS)), view(places, "i32", (1, PARTS))
    choice = int(OPS["argmax_combine"].reference(best, where)[0]) & 0xFFFFFFFF
    _words(chosen)[0] = choice
    hand_on(choice, best.max(), *rest)


class ResidentKernel:
    """A resident kernel: the plan's kernels in the order of its table, token after token.

    `kernels`: what its bodies do. `made`: how many tokens each launch has made; `hangs`: as if
    blocks waited for one another in vain.
    """

    def __init__(self, resident: Resident, kernels: Kernels) -> None:
        self.resident, self.hangs = resident, False
        self.bodies = [kernels[body.name] for body in resident.bodies]
        self.made: list[int] = []

    def __call__(self, table: int, control: int, tops: int, places: int, *handed: int) -> None:
        (*passed, stop), words = handed, _words(control, CONTROL_WORDS)
        assert words[COUNT] == 0 and words[GOING] == 1
        words[GAVE_UP] = self.hangs
        self.made.append(0)
        while words[GOING] and not self.hangs:
            self._token(table)
            advance_best(tops, places, *passed)
            self.made[-1] += 1
            counter = int(_words(passed[3])[0])
            words[GOING] = counter != words[END] and not _words(stop)[0]

    def _token(self, table: int) -> None:
        size, arrived = self.resident.entry // 4, 0
        for number in range(self.resident.phases):
            what, so_far, *pairs = _words(table + 4 * size * number, size).tolist()
            kind = what % MOST_BODIES
            assert so_far == arrived
            if kind == self.resident.choosing:
                return
            if kind == self.resident.prefetching:
                continue
            body = self.resident.bodies[kind]
            addresses = [
                low | high << 32 for low, high in zip(pairs[::2], pairs[1::2], strict=True)
            ]
            self.bodies[kind](*addresses[: len(body.arguments)])
            arrived += body.grid
        raise AssertionError("the table has no end")


def feed(tokens: int, token: int, pos: int) -> None:
    """The control kernel of that name."""
    p = int(_words(pos)[0]) + 1
    _words(pos)[0], _words(token)[0] = p, _words(tokens, p + 1)[p]


def sample(logits: int, scores: int, chosen: int, pos: int, tokens: int, params: int) -> None:
    """Not the sampler's mathematics: seed and position decide, as they must on the device."""
    seed = int(_words(params, 8)[6])
    _words(chosen)[0] = (seed * 31 + int(_words(pos)[0]) * 7) % 500


def _words(pointer: int, count: int = 1) -> np.ndarray:
    return np.frombuffer((ctypes.c_uint32 * count).from_address(pointer), np.uint32)


def sample_rows(logits: int, scores: int, chosen: int, pos: int, tokens: int, params: int, rows):
    """`sample` for each row of a step."""
    for row in range(int(_words(rows)[0])):
        at = logits + 4 * VOCABULARY * row
        sample(at, scores, chosen + 4 * row, pos + 4 * row, tokens, params)


def by_twins(kernel: CudaKernel, sizes: list[int]) -> Callable[..., None]:
    """A control kernel as the NumPy twins run it, over pointers to so many elements each."""
    kinds = {"f32*": "f4", "u32*": "u4", "u64*": "u8"}

    def work(*pointers: int) -> None:
        arrays = []
        for pointer, kind, size in zip(pointers, kernel.signature, sizes, strict=True):
            plain = np.dtype(kinds[kind])
            raw = (ctypes.c_uint8 * (size * plain.itemsize)).from_address(pointer)
            arrays.append(np.frombuffer(raw, plain))
        run_grid(kernel, *arrays)

    return work


def drafting_kernels(context: int) -> Kernels:
    """The kernels of `fusec.codegen.cuda.drafting` themselves, but for the sampler."""
    tokens, state = context + 1, drafting.STATE_WORDS
    draft = [tokens, 16, 16, 1, 1, state, drafting.PAIRS]
    accept = [16 * VOCABULARY, 16, 16, 16, 1, tokens, 1, RING, state, RING, RING, drafting.PAIRS]
    return {
        "draft": by_twins(drafting.draft(), draft),
        "accept": by_twins(drafting.accept(VOCABULARY), accept),
        "sample_rows": sample_rows,
        "weigh": by_twins(drafting.weigh(VOCABULARY), [VOCABULARY, 1, 1, RING]),
    }


CONTROL: Kernels = {
    "advance": advance, "advance_best": advance_best, "feed": feed, "sample": sample,
}  # fmt: skip


def fake_for(*plans: LaunchPlan, **options) -> FakeDriver:
    """A fake driver that knows the kernels of some plans and the control kernels."""
    fixed: dict[tuple[int, int], np.ndarray] = {}
    known = {}
    for plan in plans:
        context = min((s.shape[0] for s in plan.states.values()), default=1)
        known |= {kernel.name: PlanKernel(kernel, context, fixed) for kernel in plan.kernels}
    return FakeDriver(known | CONTROL | drafting_kernels(context), **options)


def executables(*plans: LaunchPlan, arch: str = "sm_90a") -> dict[str, Executable]:
    """What a compiler would have made of the plans' kernels and the control kernels."""
    control = {**dict.fromkeys([*CONTROL, "draft", "accept", "weigh"], 0), "sample_rows": 1}
    rows = control | {k.name: k.rows for plan in plans for k in plan.kernels}
    return {
        name: Executable(name, arch, name.encode(), 1, 32, rows=taken)
        for name, taken in rows.items()
    }


def by_name(
    kernels: Mapping[str, Executable], asked: list[list[str]] | None = None
) -> Callable[[Collection[str]], dict[str, Executable]]:
    """What a workspace asks for its kernels, which are noted in `asked`.

    It does not get what is not there, such as the kernel that fetches weights ahead.
    """

    def give(names: Collection[str]) -> dict[str, Executable]:
        if asked is not None:
            asked.append(list(names))
        return {name: kernels[name] for name in names if name in kernels}

    return give


def _file_bytes(tensor: Tensor) -> int:
    return dtype(tensor.dtype).nbytes(tensor.shape)


UNPACKED = Packing(_file_bytes, lambda _, raw: raw.reshape(-1))
"""Weights as they lie in the file."""
