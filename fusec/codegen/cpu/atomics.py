"""Words that threads share, pauses, and calls of functions by their address."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import binding, ir
from numba import types

from fusec.codegen.cpu import simd
from fusec.codegen.cpu.function import i64, llvm_function

_WORD = ir.IntType(64)


def _word(b: ir.IRBuilder, address: ir.Value) -> ir.Value:
    return b.inttoptr(address, _WORD.as_pointer())


def _call_kernel(
    b: ir.IRBuilder, kernel: ir.Value, args: ir.Value, thread: ir.Value, threads: ir.Value
) -> None:
    i32 = ir.IntType(32)
    signature = ir.FunctionType(ir.VoidType(), [_WORD.as_pointer(), i32, i32])
    function = b.inttoptr(kernel, signature.as_pointer())
    b.call(function, [_word(b, args), b.trunc(thread, i32), b.trunc(threads, i32)])


def _call_futex(
    b: ir.IRBuilder,
    function: ir.Value,
    number: ir.Value,
    address: ir.Value,
    operation: ir.Value,
    value: ir.Value,
    timeout: ir.Value,
) -> None:
    signature = ir.FunctionType(_WORD, [_WORD], var_arg=True)
    call = b.inttoptr(function, signature.as_pointer())
    timespec = _word(b, timeout)
    b.call(call, [number, _word(b, address), operation, value, timespec, _WORD(0), _WORD(0)])


def _call_sleep(b: ir.IRBuilder, function: ir.Value, time: ir.Value) -> None:
    i32 = ir.IntType(32)
    signature = ir.FunctionType(i32, [i32])
    b.call(b.inttoptr(function, signature.as_pointer()), [b.trunc(time, i32)])


def _pause(b: ir.IRBuilder) -> None:
    triple = binding.get_default_triple()
    if triple.startswith(("x86_64", "i686")):
        simd.call(b, "llvm.x86.sse2.pause", ir.VoidType())
    elif triple.startswith(("aarch64", "arm64")):
        simd.call(b, "llvm.aarch64.hint", ir.VoidType(), simd.I32(1))


def _swap(b: ir.IRBuilder, address: ir.Value, old: ir.Value, new: ir.Value) -> ir.Value:
    return b.extract_value(b.cmpxchg(_word(b, address), old, new, "seq_cst", "seq_cst"), 0)


def _store(b: ir.IRBuilder, address: ir.Value, value: ir.Value) -> None:
    b.store_atomic(value, _word(b, address), "seq_cst", 8)


def _function(
    name: str, doc: str, result: Any, arguments: list[str], body: Callable[..., Any]
) -> Any:
    return llvm_function(name, result, dict.fromkeys(arguments, i64), body, doc, inline=True)


call_kernel = _function(
    "call_kernel",
    "Call the kernel at an address.",
    types.void,
    ["kernel", "args", "thread", "threads"],
    _call_kernel,
)
call_futex = _function(
    "call_futex",
    "Linux's system call: sleep while a word is `value`, or wake those who do.",
    types.void,
    ["function", "number", "address", "operation", "value", "timeout"],
    _call_futex,
)
call_sleep = _function(
    "call_sleep", "Sleep for a time.", types.void, ["function", "time"], _call_sleep
)
pause = _function("pause", "The CPU's hint that a thread waits in a loop.", types.void, [], _pause)
atomic_load = _function(
    "atomic_load",
    "Read a word another thread writes.",
    i64,
    ["address"],
    lambda b, a: b.load_atomic(_word(b, a), "seq_cst", 8, typ=_WORD),
)
atomic_store = _function(
    "atomic_store",
    "Write a word another thread reads.",
    types.void,
    ["address", "value"],
    _store,
)
atomic_add = _function(
    "atomic_add",
    "Add to a word; returns what it was.",
    i64,
    ["address", "value"],
    lambda b, a, v: b.atomic_rmw("add", _word(b, a), v, "seq_cst"),
)
atomic_swap = _function(
    "atomic_swap",
    "Replace a word if it is `old`; returns what it was.",
    i64,
    ["address", "old", "new"],
    _swap,
)
