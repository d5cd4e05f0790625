"""What the instructions mean, in NumPy: kernels run on a machine without a GPU.

A launch runs in lock step: a value is an array over (blocks, threads), or a scalar that all threads
share, and an instruction computes it for all threads at once. Emitted source runs unchanged,
because its loops have one trip count for all threads, and branches that not all threads take are
those of `some` (see `twins_branches`). The result of an asynchronous copy is there once it was
waited for. Wrong values show; races show where a launch has an `order` (see `twins_order`), as in
`run_grid`.
"""

from __future__ import annotations

import builtins
import functools
import importlib.util
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import CodeType, SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from fusec.codegen.cuda.imports import tables
from fusec.codegen.cuda.instructions import MOST_COPIES, TABLE, Instruction
from fusec.codegen.cuda.toolchain import CudaKernel
from fusec.codegen.cuda.twins_arithmetic import ARITHMETIC, Lanes
from fusec.codegen.cuda.twins_branches import compile_branches
from fusec.codegen.cuda.twins_history import RaceError
from fusec.codegen.cuda.twins_lines import TWIN
from fusec.codegen.cuda.twins_memory import CLUSTER_SHIFT, Chosen, Memory, Pointer, moved

_ELEMENT = {"u8": "u1", "s8": "i1", "u16": "u2", "u32": "u4", "s32": "i4", "u64": "u8", "f32": "f4"}
_INTO = {"u32": np.uint32, "s32": np.int32, "u64": np.uint64, "f32": np.float32}
# lock step needs no synchronisation, and caches do not show
_SILENT = (
    *("barrier", "cluster_arrive", "cluster_arrive_relaxed", "cluster_wait"),
    *("mailbox_open", "mailbox_wait", "settle", "griddep_wait", "griddep_launch"),
    *("mailbox_make_if", "mailbox_remake_if", "mailbox_expect_if", "mailbox_wait_bounded"),
    *("prefetch_l2", "prefetch_l2_bulk"),
)
_OF_A_WARP = ("shuffle_", "warp_", "mma_", "load_matrix_")  # all lanes of it come, or none
_ATOMIC = ("load_acquire_u32", "store_release_u32")  # accesses that make an order themselves


class Launch(Memory):
    """A grid of blocks, and the functions its kernel calls, by name, in `functions`."""

    def __init__(self, blocks: int, threads: int, cluster: int = 1) -> None:
        super().__init__(blocks, threads, cluster)
        block, thread = np.indices((blocks, threads), dtype=np.uint32)
        self.modules: dict[str, Any] = {}
        self.functions: dict[str, Callable[..., Any]] = {
            **ARITHMETIC,
            **dict.fromkeys(_SILENT, _nothing),
            "at": moved,
            "select_pointer": Chosen,
            "shared_bytes": self._shared_bytes,
            **{name: self._table(words) for name, words in tables().items()},
            "thread_index": lambda: thread,
            "thread_again": lambda: thread,
            "block_index": lambda: block,
            "block_index_y": lambda: np.zeros_like(block),
            "block_count": lambda: np.full_like(block, blocks),
            "cluster_rank": lambda: block % np.uint32(cluster),
            "cluster_rank_again": lambda: block % np.uint32(cluster),
            "cluster_index_again": lambda: block // np.uint32(cluster),
            "cluster_count": lambda: np.full_like(block, blocks // cluster),
            "uniform": _uniform,
            "zero": lambda: np.zeros_like(block),
            "zero_of_lane": lambda: np.zeros_like(block),
            "low_word": lambda _pointer: np.zeros_like(block),
            "below": _below,
            "some": lambda condition: bool(np.any(condition)),  # see `twins_branches`
            "globaltimer": lambda: np.full(block.shape, time.monotonic_ns(), np.uint64),
            "map_shared": _map_shared,
            "policy_evict_first": lambda: np.uint64(0),
            "policy_evict_last": lambda: np.uint64(0),
            "red_release_add_u32": self._atomic_add,
            "red_release_add_u32_if": self._atomic_add_if,
            "await_count": _alone,
            "store_system_u32x2_if": self._store_pair,
            "f32_at": self._at_address,
            "u8_at": self._at_address,
            "u16_at": self._at_address,
            "u32_at": self._at_address,
            "u64_at": self._at_address,
            "atomic_add_u32": self._atomic_add,
            "red_add_u64_if": self._red_add,
            "atomic_max_u64": self._atomic_max,
            "atomic_add_shared_u32_if": self._atomic_add_shared,
            "copy_async_16": self._copy_async,
            "copy_async_16_if": self._copy_async,
            "copy_async_16_or_zeros": partial(self._copy_async, zeros=True),
            "copy_async_commit": lambda: self.copies.commit(self.active),
            "copy_async_wait": lambda: self._copy_wait(-1),
            **{f"copy_async_wait_{n}": partial(self._copy_wait, n) for n in range(MOST_COPIES)},
            "dynamic_shared": self._dynamic_shared,
            "load_matrix_x4": self._load_matrix,
            "warp_barrier": self._warp_barrier,
        }
        for entry in TABLE.values():
            if entry.name not in self.functions:
                self.functions[entry.name] = self._memory_twin(entry)
        for name, function in self.functions.items():
            if name.startswith(_OF_A_WARP):
                self.functions[name] = self._of_whole_warps(function)
        self.modules["fusec.codegen.cuda.device"] = SimpleNamespace(
            **self.functions, inline=lambda function: function
        )
        self.modules["numba"] = SimpleNamespace(
            **{kind: _cast(kind) for kind in ("float32", "uint32", "int32", "int64", "uint64")}
        )

    def run(self, kernel: CudaKernel, *arguments: Any) -> None:
        """Execute a kernel; arrays are passed by their address, and its stores change them."""
        self.dynamic = kernel.dynamic
        self._call(self._function(kernel), kernel, arguments)

    def _function(self, kernel: CudaKernel) -> Callable[..., None]:
        code = compile_branches(kernel.source, f"{TWIN}{kernel.name}>")
        function: Callable[..., None] = self._execute(code)[kernel.name]
        return function

    def _call(
        self, function: Callable[..., None], kernel: CudaKernel, arguments: tuple[Any, ...]
    ) -> None:
        names = function.__code__.co_varnames[: function.__code__.co_argcount]
        passed = [
            self._argument(kind, value, name)
            for kind, value, name in zip(kernel.signature, arguments, names, strict=True)
        ]
        with np.errstate(all="ignore"):  # idle lanes compute whatever they like
            function(*passed)
        if self.copies.under_way:
            raise RaceError(f"{kernel.name}: ends with copies under way that nobody waited for")

    def _execute(self, code: CodeType) -> dict[str, Any]:
        """The names a module defines when what it imports are the twins."""
        namespace: dict[str, Any] = {
            "__builtins__": {
                **vars(builtins),
                "__import__": lambda path, *_: self._module(path),
                "take_branch": self.branches.take,
                "leave_branch": self.branches.leave,
            }
        }
        exec(code, namespace)
        return namespace

    def _module(self, path: str) -> Any:
        if path not in self.modules:
            self.modules[path] = SimpleNamespace(**self._execute(_library_code(path)))
        return self.modules[path]

    def _argument(self, kind: str, value: Any, name: str = "") -> Any:
        if not kind.endswith("*"):
            return np.asarray(value).astype(_ELEMENT[kind])[()]
        if not value.flags.c_contiguous:
            raise ValueError("a kernel's array argument must be contiguous")
        offset = np.zeros((self.blocks, self.threads), np.int64)
        itemsize = np.dtype(_ELEMENT[kind[:-1]]).itemsize
        memory, history = value.reshape(-1).view(np.uint8), None
        if self.order is not None and itemsize > 1:  # bytes are weights, which nobody writes
            history = self.order.history(memory, itemsize, name)
        return Pointer(memory, offset, itemsize, history)

    def _table(self, words: npt.NDArray[np.uint32]) -> Callable[[], Pointer]:
        offset = np.zeros((self.blocks, self.threads), np.int64)
        return lambda: Pointer(words.view(np.uint8), offset, 4)

    def _memory_twin(self, entry: Instruction) -> Callable[..., Any]:
        """Loads and stores, from what the mnemonic says of space, width and element."""
        words = entry.mnemonic.split(".")
        element = np.dtype(_ELEMENT[words[-1]])
        width = next((int(word[1]) for word in words if word in ("v2", "v4")), 1)
        if words[0] == "ld":
            into = _INTO[entry.returns[0]]

            def load(address: Any, *_hint: Any) -> Any:
                noted = self.order is not None and entry.name not in _ATOMIC
                values = self.get(address, element, width, noted).astype(into)
                parts = tuple(values[..., n] for n in range(width))
                return parts if width > 1 else parts[0]

            return load
        guarded = entry.name.endswith("_if")

        def store(address: Any, *values: Any) -> None:
            live = self.active & values[-1] if guarded else self.active
            noted = self.order is not None and entry.name not in _ATOMIC
            self.put(address, [np.asarray(v).astype(element) for v in values[:width]], live, noted)

        return store

    def _atomic_add(self, address: Pointer, value: Any) -> Lanes:
        return self._one_by_one(address, value, np.uint32, lambda old, new: old + new)

    def _atomic_add_if(self, address: Pointer, value: Any, condition: Any) -> Lanes:
        live, shape = self.active & condition, self.active.shape
        words, before = address.memory.view(np.uint32), np.zeros(shape, np.uint32)
        values, offsets = (np.broadcast_to(x, shape) for x in (value, address.offset))
        for lane in zip(*np.nonzero(live), strict=True):
            before[lane] = words[offsets[lane] // 4]
            words[offsets[lane] // 4] += np.uint32(values[lane])
        return before

    def _store_pair(self, address: Pointer, low: Any, high: Any, condition: Any) -> None:
        pair = Pointer(address.memory, address.offset, 4)
        self.put(
            pair, [np.asarray(v).astype(np.uint32) for v in (low, high)], self.active & condition
        )

    def _at_address(self, address: Any) -> Pointer:
        raise TypeError(f"nobody knows what lies at {np.asarray(address).flat[0]:#x}")

    def _atomic_max(self, address: Pointer, value: Any) -> Lanes:
        return self._one_by_one(address, value, np.uint64, np.maximum)

    def _one_by_one(self, address: Pointer, value: Any, kind: Any, combine: Any) -> Lanes:
        offsets = np.broadcast_to(address.offset, (self.blocks, self.threads))
        values = np.broadcast_to(np.asarray(value, kind), offsets.shape)
        words = address.memory.view(kind)
        before = np.empty(offsets.shape, kind)
        for lane in np.ndindex(offsets.shape):
            place = offsets[lane] // words.itemsize
            before[lane] = words[place]
            words[place] = combine(words[place : place + 1], values[lane])[0]
        return before

    def _warp_barrier(self) -> None:
        if self.order is not None:
            self.order.warp_barrier(self.active[0])

    def _of_whole_warps(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def exchange(*given: Any) -> Any:
            if not self.branches.of_warps:
                raise RaceError("all lanes of a warp have to come to an exchange, and some do not")
            return function(*given)

        return exchange

    def _load_matrix(self, address: Lanes) -> tuple[Lanes, ...]:
        """`ldmatrix.x4`: lanes 8i..8i+7 give the row addresses of 8x8 matrix i of halves."""
        rows = np.broadcast_to(address, (self.blocks, self.threads)).reshape(self.blocks, -1, 32)
        lane = np.arange(32)
        load = self.functions["load_shared_u32"]
        shape = (self.blocks, self.threads)
        return tuple(
            load((rows[..., 8 * i + lane // 4] + 4 * (lane % 4)).reshape(shape)) for i in range(4)
        )


def _below(value: Lanes, limit: int) -> Lanes:
    """What the compiler takes for granted must be so."""
    if np.any(np.asarray(value) >= limit):
        raise ValueError(f"expected numbers below {limit}, found {np.max(value)}")
    return value


@functools.cache
def _library_code(module: str) -> CodeType:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None or ".cuda.lib." not in module:
        raise ImportError(f"a kernel imports {module}, which has no twin")
    return compile_branches(Path(spec.origin).read_text(), spec.origin)


def _uniform(value: Any) -> int:
    first = int(np.asarray(value).flat[0])
    if np.any(np.asarray(value) != first):
        raise ValueError("uniform() of a value that differs between threads")
    return first


def _nothing(*_arguments: Any) -> None:
    """The twin of what only orders or prefetches."""


def _alone(*_arguments: Any) -> Lanes:
    """The twin of a wait for blocks that do not run beside this one (see `twins_resident`)."""
    raise TypeError("a block waits for others, which a launch in lock step does not have")


def _map_shared(address: Any, rank: Any) -> Lanes:
    mapped: Lanes = np.asarray(address) | ((np.asarray(rank, np.uint32) + 1) << CLUSTER_SHIFT)
    return mapped


def _cast(kind: str) -> Callable[[Any], Any]:
    dtype = np.dtype(kind)

    def cast(value: Any) -> Any:
        if isinstance(value, int):
            return (
                np.array(value & 0xFFFFFFFF, np.uint32).view(dtype)[()]
                if (kind.endswith("int32"))
                else dtype.type(value)
            )
        return np.asarray(value).astype(dtype)

    return cast
