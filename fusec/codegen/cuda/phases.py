"""The source of a resident kernel: the functions that are its phases, and the loop over them.

`fusec.codegen.cuda.resident` says what such a kernel does, and chooses what it is made of.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fusec.codegen.cuda.exchange import MAILBOX
from fusec.codegen.cuda.shape import WARP
from fusec.writer import Writer

WARPS = 16
"""Of a block: what attention and products in tiles have, whose sums' order depends on it."""

THREADS = WARPS * WARP
LINE = 128  # bytes

MOST_BODIES = 256
"""A table's first word of a phase is its body's number, and so many times its first cluster's."""

COUNT, GOING, END, GAVE_UP, CONTROL_WORDS = 0, 32, 33, 34, 64
"""Words of the kernel's control memory: the count, alone in its line; whether to go on; what the
counter of tokens is when all are made; and whether somebody has ever waited too long."""

PARAMETERS = "table control tops places next_token token pos step tokens ring stop"


@dataclass(frozen=True)
class Body:
    """A kernel of the plan as a function of the resident kernel.

    `arguments`: name and meaning of each pointer, `pointers`: by their names, the statements that
    take them from the table. `grid` blocks in clusters of `cluster`;
    `declared` and `added`: bytes of shared memory that a launch of its own would declare and add.
    """

    name: str
    lines: tuple[str, ...]
    arguments: tuple[tuple[str, str], ...]
    pointers: dict[str, str]
    grid: int
    cluster: int
    declared: int
    added: int
    boxes: int

    @property
    def clusters(self) -> int:
        """How many of them there are."""
        return self.grid // self.cluster


def aligned(nbytes: int) -> int:
    """So many bytes, in whole lines."""
    return -(-nbytes // LINE) * LINE


@dataclass(frozen=True)
class Room:
    """Shared memory in front of what bodies have: the table, mailboxes, and what threads are told.

    A body has at least 256 bytes behind it.
    """

    table: int
    mailboxes: int

    @property
    def boxes(self) -> int:
        """Where mailboxes begin."""
        return aligned(self.table)

    @property
    def told(self) -> int:
        """Where two words are: see `fusec.codegen.cuda.lib.resident`."""
        return self.boxes + self.mailboxes * MAILBOX

    @property
    def end(self) -> int:
        """Where a body's memory begins."""
        return aligned(self.told + 8)


@dataclass(frozen=True)
class Share:
    """How the clusters of a phase lie in those of the launch: some of them, side by side, in each.

    A launched cluster has `launched` blocks, a grid `usual` clusters. `rank` is a block's in its
    launched cluster.
    """

    body: Body
    launched: int
    usual: int

    @property
    def needed(self) -> int:
        """Clusters of the launch that have room for all of the phase's at once."""
        return -(-self.body.clusters // self.each)

    @property
    def has_turns(self) -> bool:
        """Whether the phase may need several turns: a grid may have fewer clusters than usual."""
        return self.needed > self.usual * 3 // 4

    @property
    def each(self) -> int:
        """Clusters of the phase in one of the launch."""
        return self.launched // self.body.cluster

    @property
    def within(self) -> str:
        """Expression of which of them a block belongs to; behind the last: to none."""
        return "uint32(0)" if self.each == 1 else f"uint32(rank // uint32({self.body.cluster}))"

    @property
    def takes_part(self) -> str:
        """The condition of a block that belongs to one, which is number `mine` of the phase."""
        inside = f"mine < uint32({self.body.clusters})"
        if self.each * self.body.cluster == self.launched:
            return inside
        return f"({inside}) & (rank < uint32({self.each * self.body.cluster}))"

    @property
    def block(self) -> str:
        """Expression of a block's number in the phase."""
        size = self.body.cluster
        return f"uint32(mine * {size} + rank - within * {size})"


def write_body(w: Writer, body: Body) -> None:
    """The function that is a phase's body."""
    w.line("@inline")
    own = "block, first_rank, shared, added, boxes, arrived, told, entry"
    with w.block(f"def {body.name}({own}):"):
        for name, what in body.arguments:
            w.line(body.pointers[name], what)
        w.line(f"thread = below(thread_index(), {THREADS})")
        w.line("lane, warp = uint32(thread & uint32(31)), uint32(thread >> uint32(5))")
        for line in body.lines:
            w.line(line)
    w.line()
    w.line()


def write_phase(w: Writer, share: Share) -> None:
    """The function that has the blocks which take part run the body."""
    body = share.body
    w.line("@inline")
    with w.block(f"def phase_{body.name}(entry, arrived, told, room, boxes):"):
        w.line("cluster, rank = cluster_of_phase(entry), cluster_rank_again()")
        w.line(f"within = {share.within}")
        w.line(f"here = uint32(cluster * {share.each})", "the launched cluster's first")
        w.line("mine = uint32(here + within)")
        w.line(f"takes_part = {share.takes_part}")
        w.line(f"added = uint32(room + {aligned(body.declared)})")
        if not share.has_turns:
            with w.block("if takes_part:"):
                _write_call(w, share)
                w.line("arrive(arrived, True)")
        else:
            _write_turns(w, share)
    w.line()
    w.line()


def _write_turns(w: Writer, share: Share) -> None:
    """The same of a phase with more clusters than the grid may have room for at once."""
    more = f"here < uint32({share.body.clusters})"
    w.line(f"stride = uint32(cluster_count() * uint32({share.each}))")
    with w.block(f"while {more}:"):
        w.line("mine = uint32(here + within)")
        with w.block(f"if {share.takes_part}:"):
            _write_call(w, share)
        w.line("here = uint32(here + stride)")
        if share.body.boxes:  # what is sent in a turn must not meet the one in front
            with w.block(f"if {more}:"):
                w.line("cluster_arrive()")
                w.line("cluster_wait()")
    w.line("arrive(arrived, takes_part)")


def _write_call(w: Writer, share: Share) -> None:
    """Block `mine` of the phase runs the body."""
    body = share.body
    given = f"{share.block}, uint32(within * {body.cluster}), room, added, boxes"
    w.line(f"{body.name}({given}, arrived, told, entry)")
    w.line(f"end_turn(boxes, {body.boxes})")


def write_kernel(
    w: Writer, name: str, bodies: Sequence[Body], entry: int, room: Room, parts: int
) -> None:
    """The kernel itself."""
    choosing = len(bodies)
    with w.block(f"def {name}({', '.join(PARAMETERS.split())}):"):
        w.line("memory = dynamic_shared()")
        w.line(f"boxes, told = uint32(memory + {room.boxes}), uint32(memory + {room.told})")
        w.line(f"room = uint32(memory + {room.end})")
        w.line(f"arrived = at(control, uint32({COUNT}))")
        w.line(f"copy_phases(table, memory, {room.table // 8}, {THREADS})")
        w.line(f"begin(told, boxes, {room.mailboxes})")
        w.line("barrier()")
        w.line("arrive(arrived, True)")
        with w.block("while goes_on(arrived, control, told) != uint32(0):"):
            w.line("entry, kind = memory, uint32(0)")
            with w.block(f"while kind != uint32({choosing}):"):
                w.line("kind = body_of_phase(entry)")
                for n, body in enumerate(bodies):
                    with w.block(f"{'elif' if n else 'if'} kind == uint32({n}):"):
                        w.line(f"phase_{body.name}(entry, arrived, told, room, boxes)")
                with w.block(f"elif kind == uint32({choosing}):"):
                    with w.block("if block_index() == uint32(0):"):
                        with w.block("choose_best("):
                            w.line(f"arrived, entry, told, tops, places, {parts}, {THREADS}, room,")
                            w.line("control, next_token, token, pos, step, tokens, ring, stop,")
                        w.line(")")
                        w.line("end_turn(boxes, 0)")
                        w.line("arrive(arrived, True)")
                    w.line("end_token(entry, told)")
                with w.block("else:"):
                    w.line(f"prefetch_phase(entry, arrived, told, {THREADS})")
                w.line(f"entry = uint32(entry + uint32({entry}))")
