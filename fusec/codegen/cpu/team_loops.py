"""The loops of the thread team. They run without the GIL; `team_words` has their protocol."""

from __future__ import annotations

from numba import cfunc, njit, types

from fusec.codegen.cpu.atomics import (
    atomic_add,
    atomic_load,
    atomic_store,
    atomic_swap,
    call_futex,
    call_kernel,
    call_sleep,
    pause,
)
from fusec.codegen.cpu.function import i64
from fusec.codegen.cpu.team_words import (
    ARGS,
    ARRIVED,
    BASE,
    BENCH_BELL,
    CALL,
    CLAIMS,
    COUNT,
    EPOCH,
    FIRST,
    FUTEX,
    KERNELS,
    LAUNCH_BELL,
    LINE,
    NAP,
    PARTS,
    REST,
    RUN_BELL,
    SLEEPERS,
    STALLS,
    STOP,
    TAKEN,
    TIMEOUT,
    WIDTH,
)

# Pauses (some 30 ns each) that a thread waits before it does the part of one that is late, and
# before it sleeps: to be woken takes longer than two quiet threads are ever apart.
LATE, LONG = 100, 3000
WAIT, WAKE = 128, 129  # of futex, between threads of one process
EVERYBODY = 0x7FFFFFFF


@njit
def ring(state, bell):  # type: ignore[no-untyped-def]
    """Wake who sleeps at a bell."""
    if atomic_load(state + 8 * (bell + SLEEPERS)) == 0:
        return
    atomic_add(state + 8 * bell, 1)
    number, call = atomic_load(state + 8 * FUTEX), atomic_load(state + 8 * CALL)
    if number != 0:
        call_futex(call, number, state + 8 * bell, WAKE, EVERYBODY, 0)


@njit
def sleep(state, bell, word, since):  # type: ignore[no-untyped-def]
    """Sleep at a bell for a while, or until it rings, if the word still is what it was `since`.

    Between runs there is no end to the while, but where a bell cannot wake anybody.
    """
    sleepers = state + 8 * (bell + SLEEPERS)
    atomic_add(sleepers, 1)
    rung = atomic_load(state + 8 * bell)
    if atomic_load(state + 8 * word) == since:
        number, call = atomic_load(state + 8 * FUTEX), atomic_load(state + 8 * CALL)
        between = bell != LAUNCH_BELL
        if number != 0:
            timeout = 0 if between else state + 8 * TIMEOUT
            call_futex(call, number, state + 8 * bell, WAIT, rung, timeout)
        else:
            call_sleep(call, atomic_load(state + 8 * (REST if between else NAP)))
    atomic_add(sleepers, -1)


@njit
def execute(state, part, thread, parts, number, kernel, args, target):  # type: ignore[no-untyped-def]
    """Do a part of a launch, if nobody has taken it."""
    claim = state + 8 * (CLAIMS + LINE * part)
    last = atomic_load(claim)
    if last >= number or atomic_swap(claim, last, number) != last:
        return
    if part != thread:
        atomic_add(state + 8 * TAKEN, 1)
    call_kernel(atomic_load(kernel), args, part, parts)
    if atomic_add(state + 8 * ARRIVED, 1) + 1 == target:
        ring(state, LAUNCH_BELL)


@njit
def run_launches(state, kernels, args, count, width, parts, first, base, thread):  # type: ignore[no-untyped-def]
    """This thread's part of every launch, and late ones of others, with a barrier after each."""
    arrived = state + 8 * ARRIVED
    target = base
    for launch in range(count):
        target += parts
        number, kernel, row = first + launch, kernels + 8 * launch, args + 8 * width * launch
        execute(state, thread, thread, parts, number, kernel, row, target)
        spins, part = 0, thread
        while True:
            done = atomic_load(arrived)
            if done >= target:
                break
            spins += 1
            if spins < LATE:
                pause()
            elif spins < LATE + parts:
                part = part + 1 if part + 1 < parts else 0
                execute(state, part, thread, parts, number, kernel, row, target)
            elif spins < LONG:
                pause()
            else:
                atomic_add(state + 8 * STALLS, 1)
                sleep(state, LAUNCH_BELL, ARRIVED, done)


@cfunc(types.void(i64, i64, i64))
def serve(state, thread, idle_spins):  # type: ignore[no-untyped-def]
    """A worker's life: take part in every run that has a part for it, until `stop`."""
    epoch = state + 8 * EPOCH
    seen, spins, bell = 0, 0, RUN_BELL
    while atomic_load(state + 8 * STOP) == 0:
        now = atomic_load(epoch)
        if now == seen or now & 1:
            spins += 1
            if spins < idle_spins or now & 1:
                pause()
            else:
                sleep(state, bell, EPOCH, seen)
            continue
        kernels, args = atomic_load(state + 8 * KERNELS), atomic_load(state + 8 * ARGS)
        count, width = atomic_load(state + 8 * COUNT), atomic_load(state + 8 * WIDTH)
        parts, first = atomic_load(state + 8 * PARTS), atomic_load(state + 8 * FIRST)
        base = atomic_load(state + 8 * BASE)
        if atomic_load(epoch) != now:
            continue
        seen, spins, bell = now, idle_spins, BENCH_BELL
        if thread < parts:
            run_launches(state, kernels, args, count, width, parts, first, base, thread)
            spins, bell = 0, RUN_BELL


@cfunc(types.void(i64, i64, i64, i64, i64, i64))
def run(state, kernels, args, count, width, parts):  # type: ignore[no-untyped-def]
    """Run all launches, each in so many parts, with the caller as thread 0."""
    first = atomic_load(state + 8 * FIRST) + atomic_load(state + 8 * COUNT)
    base, before = atomic_load(state + 8 * ARRIVED), atomic_load(state + 8 * PARTS)
    atomic_add(state + 8 * EPOCH, 1)
    atomic_store(state + 8 * KERNELS, kernels)
    atomic_store(state + 8 * ARGS, args)
    atomic_store(state + 8 * COUNT, count)
    atomic_store(state + 8 * WIDTH, width)
    atomic_store(state + 8 * PARTS, parts)
    atomic_store(state + 8 * FIRST, first)
    atomic_store(state + 8 * BASE, base)
    atomic_add(state + 8 * EPOCH, 1)
    if parts > 1:
        ring(state, RUN_BELL)
    if parts > before:
        ring(state, BENCH_BELL)
    run_launches(state, kernels, args, count, width, parts, first, base, 0)


@cfunc(types.void(i64))
def stop(state):  # type: ignore[no-untyped-def]
    """Tell the workers to leave."""
    atomic_store(state + 8 * STOP, 1)
    atomic_add(state + 8 * EPOCH, 2)
    ring(state, RUN_BELL)
    ring(state, BENCH_BELL)


@cfunc(types.void(i64))
def pauses(count):  # type: ignore[no-untyped-def]
    """Pause that often, to learn how long a pause is."""
    for _ in range(count):
        pause()
