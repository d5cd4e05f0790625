"""Matrices with long rows in tiles for the tensor cores, and which matrices those are.

A tile is 16 rows. A record is what these rows have in `chunk` neighbouring spans of 32 elements,
and one warp multiplies a record at a time. Records lie one behind the other, first along the rows,
so that a warp can copy one as it lies. Lane 4g + t multiplies word t of each half of a span in rows
g and g + 8 (the fragments of `mma.m16n8k32`, PTX ISA).

The order inside a record avoids bank conflicts of shared memory. In planes of 16 bytes a span, a
lane's words of two spans lie side by side, and the next lane's follow. All other fields have 16
bytes or less of each row side by side, so that lanes of eight rows read them without conflict.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from fusec.codegen.formats.coding import PLANES
from fusec.codegen.formats.parts import LOADS, Bytes, Parts
from fusec.ir.target import TILE_ROWS, Tiles

SIZES = Tiles(frozenset(), multiple=2048, least=1056)
"""Rows of which each of 16 warps has as many chunks; tiles for half of the SMs of an H200."""
PLANE_NAMES = frozenset(name for names in PLANES.values() for name in names)
CHUNK = 4  # spans of a record
WORDS = {4: "_u32", 8: "_u32x2", 16: "_u32x4", 1: "_u8", 2: "_u16"}


@dataclass(frozen=True, eq=False)
class Tile:
    """The records of a format whose lane layout is `parts`.

    `byte_of`: the part of which half a span has one of two bytes (see `Halves`).
    """

    name: str
    parts: Parts
    byte_of: str = ""

    @property
    def record_bytes(self) -> int:
        """Size of a record."""
        return sum(TILE_ROWS * row_bytes for _, _, row_bytes in self._places())

    def repack(self, rows: int) -> Bytes:
        """The parts of `rows` rows of blocks as records."""
        found = []
        for part, _, row_bytes in self._places():
            array = self.parts.arrays[part]
            if array.ndim == 2:  # what a block of several chunks has, they all have
                array = np.repeat(array, self.parts.spans // CHUNK, axis=0)
            tiles = array.reshape(rows // TILE_ROWS, TILE_ROWS, -1, row_bytes)
            count, _, chunks, _ = tiles.shape
            if self._is_wide(part):
                words = tiles.reshape(count, TILE_ROWS, chunks, CHUNK // 2, 2, 4, 4)
                made = words.transpose(0, 2, 3, 1, 5, 4, 6)
            else:
                unit = min(row_bytes, 16)
                made = tiles.reshape(count, TILE_ROWS, chunks, -1, unit).transpose(0, 2, 3, 1, 4)
            found.append(made.reshape(count, chunks, TILE_ROWS * row_bytes))
        return np.concatenate(found, axis=-1).reshape(-1)

    # --- what is written into kernels ------------------------------------------------------------

    def functions(self, levels: str) -> dict[str, str]:
        """Name -> source; `levels` is an expression of the levels of one lane (see `coding`).

        `load_tile_F` gives the planes that a lane multiplies of a pair of spans of a record in
        shared memory, in rows g and g + 8; `tile_levels_F` a span's levels out of them;
        `tile_fields_F` what `fetch_F` gives beside the planes of one span of a row, or of half of
        it; `gather_F` all of it, out of memory.
        """
        return {
            f"load_tile_{self.name}": self._load_text(),
            f"tile_fields_{self.name}": self._fields_text(),
            f"gather_{self.name}": self._gather_text(),
            f"tile_levels_{self.name}": (
                f"@inline\ndef tile_levels_{self.name}(w, t):\n"
                f'    """Words t of both halves."""\n'
                f"    return {self._with_parts(levels)}\n"
            ),
        }

    def of_span(self, loaded: str, half: int, span: int) -> str:
        """Expression of the planes of the pair's `span`, of what `load_tile_F` gave."""
        return f"({', '.join(self._of_span(loaded, half, span))},)"

    def _of_span(self, loaded: str, half: int, span: int) -> Iterator[str]:
        for n, (part, _, row_bytes) in enumerate(self._planes()):
            words = f"{loaded}[{n}][{half}]"
            each = 1 if self._is_wide(part) else row_bytes // CHUNK // 4
            found = [f"{words}[{w}]" for w in range(span * each, (span + 1) * each)]
            yield found[0] if each == 1 else f"({', '.join(found)})"

    def _load_text(self) -> str:
        lines = ["row = uint32(lane >> uint32(2))"]
        for part, start, row_bytes in self._planes():
            if self._is_wide(part):
                own, apart, index, pair = 8, 256, "lane", 512
            else:
                unit = min(row_bytes, 16)
                own, apart, index = unit, 8 * unit, "row"
                pair = 16 * TILE_ROWS if row_bytes > 16 else unit // 2
            load = f"load_shared{WORDS[8 if self._is_wide(part) else row_bytes // 2]}"
            where = f"record + {index} * {own} + {start} + pair * {pair}"
            lines += [f"{part} = (", *(f"    {load}(uint32({where} + {row * apart})),"
                                       for row in (0, 1)), ")"]  # fmt: skip
        lines.append(f"return {', '.join(part for part, _, _ in self._planes())},")
        body = textwrap.indent("\n".join(lines), "    ")
        head = f"@inline\ndef load_tile_{self.name}(record, lane, pair):\n"
        return f'{head}    """A lane\'s planes of two spans, in rows g and g + 8."""\n{body}\n'

    def _fields_text(self) -> str:
        loads = []
        for part, start, row_bytes in self._places():
            nbytes = self.parts.arrays[part].shape[-1]
            if self._is_plane(part):
                loads.append(f"uint32(0),  # {part}")
                continue
            unit = min(row_bytes, 16)
            lane, behind = f"row * {unit}", f"{start} + more * {unit}"
            if nbytes < row_bytes:
                lane, behind = f"{lane} + span * {nbytes}", f"{behind} + ahead * {nbytes}"
            if part == self.byte_of:
                nbytes, lane = 1, f"{lane} + half"
            load = f"load_shared{WORDS[nbytes]}(uint32(record + {lane} + ({behind})))"
            loads.append(f"{load if nbytes > 1 else f'below({load}, 256)'},  # {part}")
        body = textwrap.indent("\n".join(["return (", *(f"    {x}" for x in loads), ")"]), "    ")
        head = f"@inline\ndef tile_fields_{self.name}(record, row, more, span, ahead, half):\n"
        what = "What span `span + ahead` of row `row + more` has beside its planes."
        return f'{head}    """{what}"""\n{body}\n'

    def _gather_text(self) -> str:
        shift = CHUNK.bit_length() - 1
        lines = [
            f"chunk = uint32(block >> uint32({shift}))",
            f"span = uint32(block & uint32({CHUNK - 1}))",
            f"tile = uint32(uint32(row >> uint32(4)) * (blocks // {CHUNK}) + chunk)",
            f"record = uint32(tile * {self.record_bytes})",
            "row = uint32(row & uint32(15))",
        ]
        loads = []
        for part, start, row_bytes in self._places():
            nbytes = self.parts.arrays[part].shape[-1]
            if self._is_wide(part):
                pair = "span // 2 * 512 + span % 2 * 4"
                words = [f"record + (row * 4 + {t}) * 8 + {pair} + {start}" for t in range(4)]
                found = [f"load_weight_u32(at(w, uint32({word})))" for word in words]
                loads.append(f"({', '.join(found)})")
                continue
            inside = self._in_row(nbytes, row_bytes)
            offset = f"record + row * {min(row_bytes, 16)} + {start}{inside}"
            loads.append(f"load_weight_{LOADS[nbytes]}(at(w, uint32({offset})))")
        lines += ["return (", *(f"    {load}," for load in loads), ")"]
        body = textwrap.indent("\n".join(lines), "    ")
        head = f"@inline\ndef gather_{self.name}(w, rows, blocks, row, block):\n"
        return f'{head}    """What `fetch` loads of one span."""\n{body}\n'

    @staticmethod
    def _in_row(nbytes: int, row_bytes: int) -> str:
        """Where a span's bytes are among those of a row, which come in units of 16."""
        if nbytes == row_bytes:
            return ""
        if row_bytes <= 16:
            return f" + span * {nbytes}"
        each = 16 // nbytes
        return f" + span // {each} * {16 * TILE_ROWS} + span % {each} * {nbytes}"

    def _with_parts(self, expression: str) -> str:
        planes = enumerate(part for part, _, _ in self._planes())
        return expression.format(**{part: f"w[{n}]" for n, part in planes})

    # --- layout ----------------------------------------------------------------------------------

    def _is_wide(self, part: str) -> bool:
        """Whether a plane has a word of each half for each lane."""
        return self.parts.arrays[part].shape[-1] == 16

    def _is_plane(self, part: str) -> bool:
        return part in PLANE_NAMES

    def _planes(self) -> Iterator[tuple[str, int, int]]:
        return (place for place in self._places() if self._is_plane(place[0]))

    def _places(self) -> Iterator[tuple[str, int, int]]:
        """Part, where it begins in a record, and the bytes of one row."""
        start = 0
        for part, array in self.parts.arrays.items():
            row_bytes = array.shape[-1] * (CHUNK if array.ndim == 3 else 1)
            yield part, start, row_bytes
            start += TILE_ROWS * row_bytes
