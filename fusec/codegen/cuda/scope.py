"""What the parts of an emitter share: the writer, and where the kernel's values lie."""

from __future__ import annotations

from fusec.codegen.cuda.shape import Geometry
from fusec.ir.graph import Graph, Value
from fusec.ir.region import parameters
from fusec.ir.tables import tables_of
from fusec.writer import Writer

WAIT = "griddep_wait()"
HOLD = "hold()"
POINTERS = {"f32": "f32*", "f16": "u16*", "i32": "u32*"}


class Scope:
    """One emission. `pointers`: value name -> the variable that points to its memory."""

    def __init__(self, region: Graph, geometry: Geometry, overlaps: bool = False) -> None:
        self.region, self.geometry, self.overlaps = region, geometry, overlaps
        self.w = Writer()
        self.outputs = {v.name for v in region.outputs}
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
        for table in tables_of(region.nodes):
            self.tables[table] = f"table{len(self.tables)}"
            self.signature.append("f32*")
            self.arguments.append((self.tables[table], table))
        self._shared: list[str] = []

    def wait(self) -> None:
        """Behind this, what the launch in front made may be read."""
        self._release("load")
        if self.overlaps:
            self.w.line(WAIT)
        self._release("wait")

    def hold(self) -> None:
        """Mark where a wait comes next that is inside a branch."""
        if self.overlaps:
            self.w.line(HOLD)

    def behind_barrier(self) -> None:
        """The first barrier behind the wait, or the wait itself where there is none."""
        self._release("barrier")

    def _release(self, where: str) -> None:
        """Let the launch behind begin, if it is to begin here."""
        if self.overlaps and self.geometry.release == where:
            self.w.line("griddep_launch()")

    def shared(self, prefix: str, nbytes: int) -> str:
        """A variable with the address of new shared memory, declared at the kernel's start."""
        name = f"{prefix}{sum(line.startswith(prefix) for line in self._shared)}"
        self._shared.append(f"{name} = shared_bytes({nbytes})")
        return name

    @property
    def declarations(self) -> tuple[str, ...]:
        """The lines that reserve shared memory."""
        return tuple(self._shared)


def identifier(value: Value) -> str:
    """The variable that stands for a value: %4 -> x4, @w0 -> w0, $s0 -> s0."""
    return {"%": "x", "$": "", "@": ""}[value.name[0]] + value.name[1:].rstrip("'")
