"""A panel of weights comes to shared memory as fragments (see `panels`), in front of the wait.

Threads load blocks of the panel's rows, decode them and store them. `units` multiplies them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import nullcontext

from fusec.codegen.cuda.panels import Panel
from fusec.codegen.cuda.scope import Scope
from fusec.codegen.cuda.shape import REGISTERS, WARP
from fusec.codegen.cuda.units import Units
from fusec.ir.op_fixed import BLOCK


class Fragments(ABC):
    """Emits what brings one panel there; `units` multiplies it.

    `tag`: how its variables differ from those of other panels.
    """

    def __init__(self, scope: Scope, panel: Panel, tag: str) -> None:
        self.scope, self.w, self.panel, self.tag = scope, scope.w, panel, tag
        self.fmt, self.threads = panel.fmt, scope.geometry.threads
        levels, facts, sums = panel.sizes
        self.levels = scope.shared("levels", levels)
        self.facts = scope.shared("facts", facts)
        sums_place = scope.shared("unit_sums", sums)
        self.units = Units(self.w, panel, tag, (self.levels, self.facts, sums_place))

    @abstractmethod
    def _row(self, slot: str) -> None:
        """Assign `matrix` and `row_of`: which row of which matrix is in a slot of the panel."""

    @abstractmethod
    def column(self, block: str) -> str:
        """Expression of the matrix's block of columns that is that block of the panel."""

    @property
    @abstractmethod
    def _size(self) -> tuple[int, int]:
        """Rows and blocks of the matrix."""

    # --- weights ---------------------------------------------------------------------------------

    def load(self) -> None:
        """The first weights on their way to registers."""
        for k in self._batches[0]:
            self._fetch(k)

    def decode(self) -> None:
        """All weights in shared memory."""
        for number, batch in enumerate(self._batches):
            for k in batch if number else ():
                self._fetch(k)
            for k in batch:
                self._store(k)

    @property
    def _batches(self) -> list[range]:
        """What a thread loads, as pairs of blocks, in batches that registers have room for."""
        items = -(-self.panel.items // self.threads)
        held = 2 * (1 + 8 * self.fmt.dtype.block_bytes // self.fmt.dtype.block)
        each = max(1, REGISTERS // held)
        return [range(first, min(first + each, items)) for first in range(0, items, each)]

    def _loaded(self, k: int, half: int) -> str:
        return f"{self.tag}_{k}_{half}"

    def _fetch(self, k: int) -> None:
        w, panel = self.w, self.panel
        place = f"uint32(worker + {k * self.threads})" if k else "worker"
        if (k + 1) * self.threads > panel.items:
            place = f"min_u32({place}, uint32({panel.items - 1}))"
        w.line(f"item = {place}")
        w.line(f"pair = uint32(item // uint32({panel.blocks}))")
        w.line(f"{self.tag}_block{k} = uint32(item - pair * {panel.blocks})")
        slot = f"{self.tag}_slot{k}"
        w.line(f"{slot} = uint32(pair + (pair & uint32({-8 & 0xFFFFFFFF})))")
        rows, blocks = self._size
        column = self.column(f"{self.tag}_block{k}")
        w.line(f"column = min_u32({column}, uint32({blocks - 1}))")
        for half in (0, 1):
            self._row(f"uint32({slot} + 8)" if half else slot)
            call = f"fetch_{self.fmt.name}(matrix, {rows}, {blocks}, row_of, column)"
            w.line(f"{self._loaded(k, half)} = {call}")

    def _store(self, k: int) -> None:
        """Levels and facts of a pair of blocks; threads behind the last one store it again."""
        w, panel, fmt = self.w, self.panel, self.fmt
        block, slot = f"{self.tag}_block{k}", f"{self.tag}_slot{k}"
        warps = -(-panel.items // WARP) * WARP
        mine = f"if some(uint32(worker + {k * self.threads}) < uint32({warps})):"
        with w.block(mine) if (k + 1) * self.threads > warps else nullcontext():
            loaded = [self._loaded(k, half) for half in (0, 1)]
            levels = ", ".join(f"levels_{fmt.name}({name})" for name in loaded)
            where = f"{self.levels} + {block} * {panel.levels_pitch} + {slot} * {BLOCK}"
            w.line(f"store_blocks({levels}, uint32({where}), {slot})")
            width = f"x{panel.facts}" if panel.facts > 1 else ""
            for half, name in enumerate(loaded):
                values = []
                for what in ("scale", "min") if fmt.has_min else ("scale",):
                    w.line(f"{what} = {what}_{fmt.name}({name})")
                    values += [f"{what}[0]", f"{what}[1]"] if fmt.group == 16 else [what]
                behind = f"({slot} + {8 * half}) * {4 * panel.facts}"
                where = f"{self.facts} + {block} * {panel.facts_pitch} + {behind}"
                w.line(f"store_shared_f32{width}(uint32({where}), {', '.join(values)})")
