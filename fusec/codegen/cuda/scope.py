"""What the parts of an emitter share: the writer, and the names of the kernel's values."""

from __future__ import annotations

from copy import copy
from dataclasses import replace

from fusec.codegen.cuda.arch import Arch
from fusec.codegen.cuda.exchange import Exchange, PhaseExchange
from fusec.codegen.cuda.interleave import of_row
from fusec.codegen.cuda.shape import WARP, Geometry
from fusec.codegen.cuda.stages import Staged
from fusec.errors import FusecError
from fusec.ir.graph import Graph, Value
from fusec.ir.op_fixed import BLOCK, WIDTHS
from fusec.ir.ops import in_place
from fusec.ir.region import KernelShape, parameters
from fusec.ir.tables import tables_of
from fusec.writer import Writer

SHARED = "shared"
ROW = "row"
PAGES = "pages"
IS_THERE = "is_there"  # whether the step has a row, where a block's rows are interleaved
ALIGNMENT = 16  # bytes: of what a lane stores or loads at most
MOST_DECLARED = 48 << 10  # bytes of shared memory that a kernel may declare
POINTERS = {
    "f32": "f32*",
    "f16": "u16*",
    "i32": "u32*",
    "i64": "u64*",
    **dict.fromkeys(WIDTHS, "u32*"),
}


class Scope:
    """One emission. `pointers`: value name -> the variable that points to its memory.

    `rows`: see `Kernel`; where they are several, and each is computed as in a kernel for one, the
    kernel `interleaves` them. `registers`: as many as a thread may have; 0: as the geometry says.
    `holds`: there are some for addresses that are used behind the wait. `shared_bytes` of shared
    memory are declared, a launch adds `dynamic`. `resident`: it is a phase of a resident
    kernel, which says where its shared memory lies (see `fusec.codegen.cuda.resident`).
    """

    def __init__(
        self,
        region: Graph,
        geometry: Geometry,
        overlaps: bool,
        arch: Arch,
        rows: int = 0,
        resident: bool = False,
    ) -> None:
        self.region, self.geometry, self.overlaps, self.rows = region, geometry, overlaps, rows
        self.arch, self.room, self.resident = arch, arch.room, resident
        self.exchange = PhaseExchange() if resident else Exchange(self.shared)
        self.w = Staged()
        self.outputs = {v.name for v in region.outputs}
        self.added_to: dict[str, str] = {}  # parts -> pointer to the sums that they are added to
        self.pointers: dict[str, str] = {}
        self.tables: dict[str, str] = {}
        self.signature: list[str] = []
        self.arguments: list[tuple[str, str]] = []  # name, what it is
        for value in parameters(region):
            name = identifier(value)
            self.pointers[value.name] = name
            if value.is_state:
                self.pointers[value.name.rstrip("'") + "'"] = name
            matrix = value.is_weight and len(value.shape) > 1
            self.signature.append("u8*" if matrix else POINTERS[value.dtype])
            self.arguments.append((name, f"{value.name}: {value.type}"))
        for made, source in in_place(region.nodes).items():
            self.pointers[made] = self.pointers[source]
            parts = region.producers[made].inputs[1].name
            self.added_to[parts] = self.pointers[parts] = self.pointers[source]
        for table in tables_of(region.nodes):
            self.tables[table] = f"table{len(self.tables)}"
            self.signature.append("f32*")
            self.arguments.append((self.tables[table], table))
        if any(value.is_state for value in parameters(region)):
            self.signature.append("u32*")
            self.arguments.append((PAGES, "the first row of each page of a sequence"))
        if rows:
            self.signature.append("u32*")
            self.arguments.append(("rows", "of this step"))
        self.first_rows: dict[str, str] = {}  # pointer to a row -> variable with the first row's
        self.registers = self.dynamic = 0
        self.holds, self.interleaves = True, False
        self.shared_bytes = 0
        self._shared: dict[str, int] = {}  # variable -> where in shared memory
        self._team: Scope | None = None
        self._teams = 0

    def shared(self, prefix: str, nbytes: int) -> str:
        """A variable with the address of new shared memory, declared at the kernel's start."""
        name = f"{prefix}{sum(line.startswith(prefix) for line in self._shared)}"
        self._shared[name] = self.shared_bytes
        self.shared_bytes += -(-nbytes // ALIGNMENT) * ALIGNMENT
        return name

    def of_team(self, threads: int, teams: int, grid: int) -> Scope:
        """The scope of what so many threads make of a row, in as many blocks as `grid` says.

        A block has some `teams` of them, each with shared memory of its own; `team` is the variable
        with a thread's.
        """
        self._team, self._teams = (team := copy(self)), teams
        team.geometry = replace(self.geometry, threads=threads, grid=grid)
        team.shared_bytes, team._shared = 0, {}
        team.exchange = Exchange(team.shared)
        return team

    def pointer_of_first_row(self, value: Value) -> str:
        """The variable that points to a vector of the step's first row, whichever the block has."""
        name = self.pointers[value.name]
        return self.first_rows.setdefault(name, f"{name}_first")

    @property
    def _all_bytes(self) -> int:
        if self._team is not None:
            return self.shared_bytes + self._teams * self._team.shared_bytes
        return self.shared_bytes * (self.rows if self.interleaves else 1)

    @property
    def _is_added(self) -> bool:
        """Whether a launch adds the memory of `shared`, which is more than a kernel may declare."""
        return self._all_bytes > MOST_DECLARED and not self.dynamic

    @property
    def static_bytes(self) -> int:
        """Shared memory that the kernel declares."""
        return 0 if self._is_added else self._all_bytes

    @property
    def dynamic_bytes(self) -> int:
        """Shared memory that a launch adds for a block: of one that is alone, more than half."""
        if self._is_added:
            if self._all_bytes > self.arch.block_shared:
                raise FusecError(
                    f"kernel {self.region.name}: expected a block with at most "
                    f"{self.arch.block_shared:,} bytes of shared memory on {self.arch.name}, found "
                    f"{self._all_bytes:,}"
                )
            return self._all_bytes
        least = self.room + 1024 - self.shared_bytes
        return max(self.dynamic, least) if self.geometry.alone else self.dynamic

    @property
    def declaration(self) -> str:
        """The line that reserves shared memory; empty where there is none."""
        if self.resident:
            return ""
        reserved = "dynamic_shared()" if self._is_added else f"shared_bytes({self._all_bytes})"
        return f"{SHARED} = {reserved}" if self._shared else ""

    @property
    def added(self) -> str:
        """Expression of where the memory of `dynamic` begins."""
        return "added" if self.resident else "dynamic_shared()"

    @property
    def places(self) -> tuple[str, ...]:
        """The lines that say what lies where in it: one address in a register serves all."""
        lines = [f"{name} = uint32({SHARED} + {at})" for name, at in self._shared.items()]
        lines += self.exchange.places
        if self._team is not None and self._team._shared:
            start = f"{self.shared_bytes}"
            if self._teams > 1:
                start = f"{start} + team * {self._team.shared_bytes}"
            lines.append(f"of_team = uint32({SHARED} + {start})")
            lines += [f"{name} = uint32(of_team + {at})" for name, at in self._team._shared.items()]
        return tuple(lines)


def begin_row(w: Writer, scope: Scope) -> None:
    """Emit what turns a kernel for one row into one for this layer's row of several."""
    w.line(f"{ROW} = block_index_y()")
    with w.block(f"if {ROW} >= uniform(load_u32(rows)):"):
        w.line("return")
    for value in rows_of(scope.region):
        name = scope.pointers[value.name]
        if name in scope.first_rows:
            w.line(f"{scope.first_rows[name]} = {name}")
        w.line(f"{name} = {at_row(name, ROW, value)}")


def begin_rows(w: Writer, scope: Scope) -> list[str]:
    """Emit the same for a layer's rows, which are interleaved; returns the names that are a row's.

    A row that is not there is the last one again: it is computed twice, by the same threads.
    """
    w.line(f"first_row = uint32(block_index_y() * uint32({scope.rows}))")
    w.line("there_are = uniform(load_u32(rows))")
    with w.block("if first_row >= there_are:"):
        w.line("return")
    own = {scope.pointers[value.name]: value for value in rows_of(scope.region)}
    names = [ROW, *own, *([IS_THERE] if scope.added_to else ())]
    for k in range(scope.rows):
        row, last = of_row(ROW, k), "uint32(there_are - uint32(1))"
        w.line(f"{row} = min_u32(uint32(first_row + uint32({k})), {last})")
        if scope.added_to:  # what a row adds, it must add once
            w.line(f"{of_row(IS_THERE, k)} = uint32(first_row + uint32({k})) < there_are")
        for name, value in own.items():
            w.line(f"{of_row(name, k)} = {at_row(name, row, value)}")
    if not scope.declaration:
        return names
    w.line(scope.declaration)
    for k in range(scope.rows):
        w.line(f"{of_row(SHARED, k)} = uint32({SHARED} + {k * scope.shared_bytes})")
    return [*names, SHARED]


def at_row(name: str, row: str, value: Value) -> str:
    """Expression of a pointer to a row of what `name` points to."""
    if value.dtype in WIDTHS:
        return f"fixed_row({name}, {row}, {value.shape[-1] // BLOCK})"
    return f"at({name}, uint32({row} * uint32({words(value)})))"


def rows_of(region: Graph) -> list[Value]:
    """What a step has a row of for each of its tokens, among a kernel's parameters."""
    return [v for v in parameters(region) if not (v.is_weight or v.is_state)]


def words(value: Value) -> int:
    """How many elements a pointer to a row moves to the next one: words of 32 bits, or of 64."""
    return value.nbytes // value.shape[0] // (8 if value.dtype == "i64" else 4)


def zeros_of(w: Writer, scope: Scope, shape: KernelShape) -> None:
    """Emit what writes zeros where later kernels add: the first threads of the grid, 16 bytes each.

    It stands behind the wait, so that all that has used this memory is complete.
    """
    geometry = scope.geometry
    share = geometry.threads * geometry.grid
    for value in shape.clears:
        pairs, pointer = value.shape[-1] // 2, scope.pointers[value.name]
        for first in range(0, pairs, share):
            w.line(f"zeros = uint32(block * {geometry.threads} + thread + {first})")
            with w.block(f"if some(zeros < uint32({-(-pairs // WARP) * WARP})):"):
                w.line(f"clear_pair({pointer}, zeros, zeros < uint32({pairs}))")


def identifier(value: Value) -> str:
    """The variable that stands for a value: %4 -> x4, @w0 -> w0, $s0 -> s0."""
    return {"%": "x", "$": "", "@": ""}[value.name[0]] + value.name[1:].rstrip("'")
