"""A resident kernel: one launch that makes many tokens, whose blocks stay on the GPU meanwhile.

What a plan launches is a *phase* here. The body of each of its kernels is in the resident kernel
once, as a function; a table in memory says for each phase whose body it is, what its pointers are,
and how many blocks have to have arrived before it may read what phases in front of it made. All
blocks that take part in a phase add one to a count when they have ended it, and nobody else does.
So that number is a sum over the phases in front, and blocks without work skip a phase, on to the
next one that they take part in. As in a launch that overlaps the one in front (see `wrapper`), a
block loads weights before it waits.

- All blocks have `THREADS` threads, and clusters are as large as the largest of a phase. A phase of
  smaller clusters takes several of them from each (`Share`). A phase that has more of them than
  the grid has room for is gone through in several turns.
- `count` counts from the beginning of the launch: first every block, when its mailboxes are made.
  A wait ends after some two seconds (`PATIENCE`), and then all others end as well, so that nothing
  keeps the GPU for ever: numbers are wrong then, which the host is told, but no address is.
- Every token begins with a wait of all blocks for the one in front: its last phase, `choose_best`,
  has made the next input, and says whether to go on.

What a launch before the wait may read is the same here, because no block is further ahead than in
front of its next wait, within one token. Memory that threads read as plain memory is read anew
behind a wait: the thread that waits acquires what was released, and a barrier hands that on (PTX
ISA, "Memory Consistency Model", causality order).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from fusec.codegen.common import open_region
from fusec.codegen.cuda.arch import ARCHS, Arch
from fusec.codegen.cuda.defaults import SHARED, default, many_rows
from fusec.codegen.cuda.emit import emit_phase
from fusec.codegen.cuda.exchange import PhaseExchange
from fusec.codegen.cuda.imports import format_functions, import_lines
from fusec.codegen.cuda.phases import (
    THREADS,
    WARPS,
    Body,
    Room,
    Share,
    aligned,
    write_body,
    write_kernel,
    write_phase,
)
from fusec.codegen.cuda.scope import Scope
from fusec.codegen.cuda.shape import has_heads, matvecs, may_share
from fusec.codegen.cuda.toolchain import CudaKernel
from fusec.errors import FusecError
from fusec.ir.choice import Choice
from fusec.ir.choosing import final_choice, without_choice
from fusec.ir.plan import Kernel, LaunchPlan
from fusec.ir.region import KernelShape
from fusec.writer import Writer

HELD = 40  # registers that a lane may fill with weights, of 128 that a thread has

SIGNATURE = ("u32*", "u32*", "f32*", *("u32*",) * 6, "u64*", "u32*")
_ADDRESSES = {f"{kind}*": f"{kind}_at" for kind in ("f32", "u8", "u16", "u32", "u64")}


@dataclass(frozen=True)
class Resident:
    """A resident kernel and its bodies, in the order of their numbers in the table of phases.

    The body behind the last is `choose_best`, and behind that `prefetch_phase`. The table has room
    for `phases`, of `entry` bytes each. `least`: clusters that a grid must have.
    """

    kernel: CudaKernel
    bodies: tuple[Body, ...]
    phases: int
    entry: int
    least: int

    def blocks_of(self, body: Body, clusters: int) -> int:
        """How many blocks take part in a phase, if the grid has so many clusters."""
        per = self.kernel.cluster // body.cluster
        return min(body.clusters, clusters * per) * body.cluster

    def clusters_of(self, body: Body, clusters: int) -> int:
        """How many of the grid's clusters do."""
        per = self.kernel.cluster // body.cluster
        return min(-(-body.clusters // per), clusters)

    @property
    def choosing(self) -> int:
        """The number of `choose_best`."""
        return len(self.bodies)

    @property
    def prefetching(self) -> int:
        """The number of `prefetch_share`."""
        return len(self.bodies) + 1


def resident(plan: LaunchPlan, arch: Arch = ARCHS["sm_90a"], sms: int | None = None) -> Resident:
    """The resident kernel of a plan for one token, for a GPU of so many multiprocessors.

    Raises FusecError, with the reason, where there can be none.
    """
    if reason := why_not(plan, arch):
        raise FusecError(f"{plan.name}: not resident: {reason}")
    argmax = final_choice(plan)
    assert argmax is not None
    parts = plan.region(argmax).inputs[0].shape[-1]
    plan = without_choice(plan)
    sms = arch.sms if sms is None else sms
    try:
        bodies = tuple(_body(kernel, arch, sms) for kernel in plan.kernels)
    except FusecError as reason:
        raise FusecError(f"{plan.name}: not resident: {reason}") from None
    return _assembled(plan, bodies, parts, arch, sms)


def why_not(plan: LaunchPlan, arch: Arch) -> str | None:
    """The reason a plan has no resident kernel, or None if it may have one."""
    if not arch.has_clusters:
        return f"expected a GPU with clusters, found {arch.name}"
    if plan.tokens != 1:
        return f"expected a plan for one row, found {plan.tokens}"
    if not plan.overlaps:
        return f"expected kernels that wait inside, as of -O3, found those of -O{plan.level}"
    if final_choice(plan) is None:
        return "expected a plan that ends with the choice among the best of blocks (argmax)"
    for launch in plan.launches[1:-1]:
        if not launch.early:
            return f"{launch.node} may not begin before what is launched in front of it has ended"
    return None


def choice_of(kernel: Kernel, shape: KernelShape, sms: int) -> Choice:
    """The kernel's shape as a phase: of blocks of `WARPS` warps, one on a multiprocessor."""
    usual = default(shape, sms, kernel.overlaps)
    if shape.parts is not None:
        choices = [Choice(*sizes) for sizes in SHARED if sizes[0] == WARPS]
        return next((c for c in choices if may_share(shape, c)), choices[0])
    if usual.warps != WARPS and matvecs(shape) and not has_heads(shape):
        return many_rows(shape, WARPS, 1, HELD, sms)
    return Choice(WARPS, usual.rows_at_once, usual.steps)


def _body(kernel: Kernel, arch: Arch, sms: int) -> Body:
    _, shape = open_region(kernel)
    if any(s.role == "scalar" for s in shape.segments):
        raise FusecError(f"kernel {kernel.name}: expected no choice of experts")
    scope, lines = emit_phase(kernel, choice_of(kernel, shape, sms), arch, sms, _pointer)
    assert scope.geometry.threads == THREADS and isinstance(scope.exchange, PhaseExchange)
    return Body(
        kernel.name,
        tuple(lines),
        tuple(scope.arguments),
        {a[0]: _pointer(scope, n) for n, a in enumerate(scope.arguments)},
        scope.geometry.grid,
        scope.geometry.cluster,
        scope.shared_bytes,
        scope.dynamic,
        len(scope.exchange.names),
    )


def _pointer(scope: Scope, number: int) -> str:
    """The statement that takes a pointer from the table's entry."""
    kind = _ADDRESSES[scope.signature[number]]
    return (
        f"{scope.arguments[number][0]} = {kind}(load_shared_u64(uint32(entry + {8 + 8 * number})))"
    )


def _assembled(
    plan: LaunchPlan, bodies: Sequence[Body], parts: int, arch: Arch, sms: int
) -> Resident:
    """The kernel that goes through the phases again and again."""
    cluster = max(body.cluster for body in bodies)
    clusters = sms // cluster
    shares = [Share(body, cluster, clusters) for body in bodies]
    entry = 8 + 8 * max(2, *(len(body.arguments) for body in bodies))
    boxes = max(body.boxes for body in bodies)
    phases = len(plan.launches) + 1 + sum(bool(launch.prefetch) for launch in plan.launches)
    room = Room(phases * entry, boxes)
    w = Writer()
    for share in shares:
        write_body(w, share.body)
        write_phase(w, share)
    name = "resident_" + hashlib.sha256(f"{w.text}{parts}{phases}".encode()).hexdigest()[:8]
    write_kernel(w, name, bodies, entry, room, parts)
    functions = format_functions(w.text)
    text = f"{functions}\n\n{w.text}" if functions else w.text
    imports = "\n".join(import_lines(functions, w.text))
    head = f'"""{len(bodies)} kernels of {plan.name} as phases of one. Emitted by fusec."""\n\n'
    needed = room.end + max(aligned(b.declared) + b.added for b in bodies)
    if needed > arch.block_shared:
        raise FusecError(
            f"{plan.name}: not resident: expected a block with at most {arch.block_shared:,} bytes "
            f"of shared memory on {arch.name}, found {needed:,}"
        )
    kernel = CudaKernel(
        name,
        f"{head}{imports}\n\n\n{text}",
        SIGNATURE,
        THREADS,
        grid=clusters * cluster,
        cluster=cluster,
        dynamic=needed,
    )
    least = max((share.needed for share in shares if not share.has_turns), default=1)
    return Resident(kernel, tuple(bodies), phases, entry, least)
