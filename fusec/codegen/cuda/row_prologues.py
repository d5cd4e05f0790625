"""Prologues of several rows of a step: their vectors as digits in the shared memory of a block.

There are two ways. Either some warps each, a team, make the prologue of a row, in every thread
block (`Teams`). Or a block makes that of one row, and sends the digits to all blocks of its cluster
(`Exchanged`): an exchange more, but no block reads more than the kernel for one row.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from fusec.codegen.cuda.columns import BLOCK, Columns
from fusec.codegen.cuda.forms import Form, Pending, behind
from fusec.codegen.cuda.panels import PIECE, PIECES, records_bytes
from fusec.codegen.cuda.parts_sizes import EXCHANGED, TEAMS
from fusec.codegen.cuda.prologue import Prologue
from fusec.codegen.cuda.scope import Scope
from fusec.codegen.cuda.shape import anchors
from fusec.codegen.cuda.sources import Source
from fusec.codegen.formats import Format, QuantFormat
from fusec.ir.graph import Value
from fusec.ir.op_fixed import OWN_RECORD
from fusec.ir.op_matvec import inverse_of
from fusec.ir.region import KernelShape
from fusec.writer import Writer


class RowPrologues(ABC):
    """Emits what brings digits and factors of `scope.rows` rows to a block's shared memory.

    `records`: vector -> the variable with the place of its digits, known behind `prologue.emit`.
    `factors`: value that scales a product -> the one with the place of a float for each row.
    """

    def __init__(self, scope: Scope, shape: KernelShape, columns: Columns) -> None:
        self.scope, self.w, self.width, self.columns = scope, scope.w, scope.rows, columns
        self.prologue = _Rows(self, shape)
        self.records: dict[str, str] = {}
        inverses = [inverse_of(a) for a in anchors(shape.segments[0])]
        names = dict.fromkeys(v.name for v in inverses if v is not None)
        self.factors = {name: scope.shared("of_rows", 4 * self.width) for name in names}

    @property
    @abstractmethod
    def own(self) -> Scope:
        """The scope of what makes one row."""

    @abstractmethod
    def begin(self, w: Writer) -> None:
        """Emit which row it is that these threads make, `row`, and count them in `thread`."""

    @abstractmethod
    def form(self, blocks: int, records: str, sums: bool) -> Form:
        """What a row's vector of so many blocks becomes, whose digits go to `records`."""

    def open(self) -> None:  # noqa: B027  one of two needs it
        """Emit what comes in front of the wait."""

    def gather(self) -> None:  # noqa: B027  the same
        """Emit what brings all digits here, behind the prologue."""

    @abstractmethod
    def keep_factors(self) -> None:
        """Emit what makes each row's factors, and writes them where elements are made."""

    def await_factors(self) -> None:  # noqa: B027  the same
        """Emit what lets a warp read them, behind a barrier."""

    def _make_factors(self) -> None:
        for squares in self.prologue.late.values():
            self.w.line(squares.made_of(f"warp_sum({squares.of_lane})"))


class Teams(RowPrologues):
    """Some warps each make a row."""

    @property
    def own(self) -> Scope:
        """See `RowPrologues`."""
        return self.scope.of_team(self.threads, self.width, self.scope.geometry.grid)

    @property
    def threads(self) -> int:
        """Of a team."""
        return self.scope.geometry.threads // self.width

    def begin(self, w: Writer) -> None:
        """See `RowPrologues`."""
        w.line(f"team = uint32(worker // uint32({self.threads}))")
        w.line(f"thread = uint32(worker - team * {self.threads})")
        w.line("row = min_u32(uint32(first_row + team), uint32(there_are - 1))")

    def form(self, blocks: int, records: str, sums: bool) -> Form:
        """See `RowPrologues`."""
        return _Records(records, sums)

    def keep_factors(self) -> None:
        """See `RowPrologues`."""
        self._make_factors()
        for name, address in self.factors.items():
            where, factor = f"uint32({address} + team * 4)", self.prologue.factors[name]
            self.w.line(f"store_shared_f32_if({where}, {factor}, thread == uint32(0))")


class Exchanged(RowPrologues):
    """The block of a number in its cluster makes the row of this number, if there are so many."""

    def __init__(self, scope: Scope, shape: KernelShape, columns: Columns) -> None:
        super().__init__(scope, shape, columns)
        self.digits_mailbox = scope.shared("mailbox", 8)
        self.factors_mailbox = scope.shared("mailbox", 8) if self.factors else ""
        self.sent: list[tuple[int, str, str]] = []  # blocks, where they are, where they go
        vectors = {a.inputs[0].name: a.inputs[0] for a in anchors(shape.segments[0])}
        self.blocks = sum(v.shape[-1] // BLOCK for v in vectors.values())

    @property
    def own(self) -> Scope:
        """See `RowPrologues`."""
        return self.scope.of_team(self.scope.geometry.threads, 1, self.columns.parts)

    def begin(self, w: Writer) -> None:
        """See `RowPrologues`; of blocks that make the same row, one a cluster, `part` is which."""
        w.line("block = part")
        w.line("row = min_u32(uint32(first_row + rank), uint32(there_are - 1))")
        w.line(f"sends = rank < uint32({self.width})")

    def form(self, blocks: int, records: str, sums: bool) -> Form:
        """See `RowPrologues`."""
        place = self.scope.shared("made", blocks * PIECES * PIECE)
        self.sent.append((blocks, place, records))
        return _Blocks(place, sums)

    def open(self) -> None:
        """See `RowPrologues`."""
        nbytes = self.width * self.blocks * PIECES * PIECE
        self._open(self.digits_mailbox, nbytes)
        if self.factors:
            self._open(self.factors_mailbox, 4 * self.width * len(self.factors))

    def _open(self, mailbox: str, nbytes: int) -> None:
        self.w.line(f"mailbox_open({mailbox}, uint32({nbytes}), worker == uint32(0))")

    def gather(self) -> None:
        """See `RowPrologues`."""
        w, ranks, threads = self.w, self.columns.ranks, self.scope.geometry.threads
        w.line("cluster_wait()", "all mailboxes are open")
        for blocks, place, records in self.sent:
            count = blocks * PIECES
            with w.block(f"for step in range({-(-count * ranks // threads)}):"):
                w.line(f"k = uint32(uint32(step * {threads}) + worker)")
                w.line(f"other = uint32(k // uint32({count}))")
                w.line(f"k = uint32(k - other * {count})")
                w.line(f"of_block = uint32(k // uint32({PIECES}))")
                w.line(f"piece = uint32(k - of_block * {PIECES})")
                given = f"piece, uint32({place} + of_block * {PIECES * PIECE})"
                to = f"uint32({records} + of_block * {OWN_RECORD}), rank, {self.digits_mailbox}"
                live = f"sends & (other < uint32({ranks}))"
                w.line(f"send_piece({given}, {to}, min_u32(other, uint32({ranks - 1})), {live})")
        w.line(f"mailbox_wait({self.digits_mailbox})")

    def keep_factors(self) -> None:
        """See `RowPrologues`."""
        ranks = self.columns.ranks
        self._make_factors()
        for name, address in self.factors.items():
            self.w.line(f"to_rank = min_u32(worker, uint32({ranks - 1}))")
            where = f"map_shared(uint32({address} + rank * 4), to_rank)"
            counted = f"map_shared({self.factors_mailbox}, to_rank)"
            live = f"sends & (worker < uint32({ranks}))"
            self.w.line(f"send_f32_if({where}, {self.prologue.factors[name]}, {counted}, {live})")

    def await_factors(self) -> None:
        """See `RowPrologues`."""
        if self.factors:
            self.w.line(f"mailbox_wait({self.factors_mailbox})")


ROW_PROLOGUES: dict[str, type[RowPrologues]] = {TEAMS: Teams, EXCHANGED: Exchanged}
"""By the name of a way (`parts_sizes.ways`)."""


class _Rows(Prologue):
    """The prologue of one row, whose vectors become records of all rows."""

    def __init__(self, rows: RowPrologues, shape: KernelShape) -> None:
        super().__init__(rows.own, shape)
        self.rows = rows

    def _as_fixed_point(self, x: Value, source: Source, users: list[Format]) -> list[Pending]:
        """See `Prologue`."""
        rows, blocks = self.rows, source.n // BLOCK
        if x.name in rows.records:
            return []
        records = rows.records[x.name] = rows.scope.shared("records", records_bytes(blocks))
        sums = any(isinstance(fmt, QuantFormat) and fmt.has_min for fmt in users)
        return [Pending(source, 8 * blocks, rows.form(blocks, records, sums))]


@dataclass(frozen=True)
class _Records(Form):
    """Fixed point in shared memory, as fragments are multiplied by it: of all teams together.

    `sums`: whether the sums of blocks are wanted.
    """

    address: str
    sums: bool

    def store(self, quad: str, i: str, inside: str, first: int) -> str:
        """See `Form.store`."""
        records = behind(self.address, first // 8 * OWN_RECORD)
        return f"store_record_fixed24({quad}, {i}, {inside}, {records}, team, {self.sums})"


@dataclass(frozen=True)
class _Blocks(Form):
    """The same of one row, block after block, as it is sent."""

    address: str
    sums: bool

    def store(self, quad: str, i: str, inside: str, first: int) -> str:
        """See `Form.store`."""
        address = behind(self.address, first // 8 * PIECES * PIECE)
        return f"store_block({quad}, {i}, {inside}, {address}, {self.sums})"
