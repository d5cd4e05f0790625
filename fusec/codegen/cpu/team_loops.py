"""The loops of the thread team. They run without the GIL; `team_words` has their protocol."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import binding, ir
from numba import cfunc, njit, types

from fusec.codegen.cpu import simd
from fusec.codegen.cpu.function import i64, llvm_function
from fusec.codegen.cpu.team_words import (
    ARGS,
    ARRIVED,
    BASE,
    COUNT,
    EPOCH,
    GATE,
    KERNELS,
    RUNNING,
    STOP,
    STOPPED,
    WIDTH,
    YIELD,
)

# A thread that waits pauses this often (some 3 us) before it asks the scheduler each time: the one
# it waits for may need this very CPU.
SPINS = 100

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


def _call_yield(b: ir.IRBuilder, function: ir.Value) -> None:
    signature = ir.FunctionType(ir.IntType(32), [])
    b.call(b.inttoptr(function, signature.as_pointer()), [])


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
call_yield = _function(
    "call_yield", "Let other threads run.", types.void, ["function"], _call_yield
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


@njit
def run_launches(state, kernels, args, count, width, thread, threads):  # type: ignore[no-untyped-def]
    """This thread's part of every launch, with a barrier after each. Addresses and sizes."""
    arrived, scheduler = state + 8 * ARRIVED, atomic_load(state + 8 * YIELD)
    expected = atomic_load(state + 8 * BASE)
    for launch in range(count):
        kernel = atomic_load(kernels + 8 * launch)
        call_kernel(kernel, args + 8 * width * launch, thread, threads)
        if threads == 1:
            continue
        expected += threads
        atomic_add(arrived, 1)
        spins = 0
        while atomic_load(arrived) < expected:
            spins += 1
            if spins < SPINS:
                pause()
            else:
                call_yield(scheduler)


@cfunc(i64(i64, i64, i64, i64, i64))
def serve(state, thread, threads, epoch, idle_spins):  # type: ignore[no-untyped-def]
    """A worker: take part in runs until none has come for `idle_spins`.

    Returns the epoch it has seen, to be handed in again when woken, or STOPPED.
    """
    gate, bit = state + 8 * GATE, 1 << thread
    scheduler = atomic_load(state + 8 * YIELD)
    seen = atomic_load(gate)
    while seen & bit:
        seen = atomic_swap(gate, seen, seen & ~bit)
    spins = 0
    while True:
        if atomic_load(state + 8 * EPOCH) != epoch:
            epoch = atomic_load(state + 8 * EPOCH)
            if atomic_load(state + 8 * STOP):
                return STOPPED
            kernels, args = atomic_load(state + 8 * KERNELS), atomic_load(state + 8 * ARGS)
            count, width = atomic_load(state + 8 * COUNT), atomic_load(state + 8 * WIDTH)
            run_launches(state, kernels, args, count, width, thread, threads)
            spins = 0
        spins += 1
        if spins < idle_spins:
            pause()
            if spins % SPINS == 0:
                call_yield(scheduler)
        else:
            seen = atomic_load(gate)
            if seen & RUNNING == 0 and atomic_swap(gate, seen, seen | bit) == seen:
                return epoch


@cfunc(i64(i64, i64, i64, i64, i64, i64, i64))
def try_run(state, kernels, args, count, width, threads, patience):  # type: ignore[no-untyped-def]
    """Run all launches with the caller as thread 0 and return 0, or return GATE if workers sleep.

    :param patience: how many times to yield to workers that are waking up.
    """
    gate = state + 8 * GATE
    asleep = atomic_swap(gate, 0, RUNNING)
    while asleep != 0 and patience > 0:
        patience -= 1
        call_yield(atomic_load(state + 8 * YIELD))
        asleep = atomic_swap(gate, 0, RUNNING)
    if asleep != 0:
        return asleep
    atomic_store(state + 8 * KERNELS, kernels)
    atomic_store(state + 8 * ARGS, args)
    atomic_store(state + 8 * COUNT, count)
    atomic_store(state + 8 * WIDTH, width)
    atomic_store(state + 8 * BASE, atomic_load(state + 8 * ARRIVED))
    atomic_add(state + 8 * EPOCH, 1)
    run_launches(state, kernels, args, count, width, 0, threads)
    atomic_store(gate, 0)
    return 0


@cfunc(types.void(i64))
def stop(state):  # type: ignore[no-untyped-def]
    """Tell the workers to leave; those asleep must be woken."""
    atomic_store(state + 8 * STOP, 1)
    atomic_add(state + 8 * EPOCH, 1)


@cfunc(types.void(i64))
def pauses(count):  # type: ignore[no-untyped-def]
    """Pause that often, to learn how long a pause is."""
    for _ in range(count):
        pause()
