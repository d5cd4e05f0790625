"""Grids: tables of eight or four small numbers that the IQ formats index, and their signs.

The tables are gguf-py's. For CUDA a row of the table becomes a word of nibbles, each of which
selects a byte of two words of values (`fusec/codegen/cuda/lib/grids.py`). Of the signs of eight
neighbours, that of element 4t + j becomes bit t of byte j.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
from gguf import quants
from numpy.typing import NDArray

from fusec.codegen.formats.base import ArrayBlock, Bytes, Halves, QuantFormat
from fusec.codegen.formats.lanes import Block, Lanes


def grid_of(name: str) -> NDArray[np.int8]:
    """gguf-py's grid of that type, `int8[rows, 8 or 4]`."""
    kind = getattr(quants, name)
    kind.init_grid()
    return np.ascontiguousarray(kind.grid.reshape(kind.grid_shape).astype(np.int8))


def full_signs(seven: Any) -> Any:
    """Seven signs a lane to eight: the eighth makes the number of minuses even."""
    folded = seven ^ seven >> 4
    folded = folded ^ folded >> 2
    return seven | (folded ^ folded >> 1) << 7


def negated(levels: Any, signs: Any) -> Any:
    """32 u8 lanes negated where a bit of four bytes of signs is set; i8 lanes."""
    spread = signs.take([i // 8 for i in range(32)])
    minus = (spread & tuple(1 << i % 8 for i in range(32))).flag(255)
    return ((levels ^ minus) - minus).bits_as("i8")


def signs_of(block: Block, offset: int) -> Any:
    """Four bytes of signs out of a word with seven of each in its lower 28 bits."""
    return full_signs((block.load("u32", offset) >> (0, 7, 14, 21) & 127).to("u8"))


def scale_of(words: Any) -> Any:
    """The scale in the upper four bits of such words, f32 lanes."""
    return (words >> 28).to("f32")


def packed_signs_and_scale(block: ArrayBlock, offset: int) -> Bytes:
    """Such a word for CUDA; the scale takes the place of the signs that follow from the others."""
    scale = (block.load("u32", offset) >> (28, 29, 30, 31) & 1).array.astype(np.uint8)
    return transposed_signs(signs_of(block, offset).array, scale)


def transposed_signs(signs: Bytes, spare: Bytes | None = None) -> Bytes:
    """Four bytes of signs `[..., 4]` to a word `[..., 4]` with bit t of byte j for element 4t + j.

    With `spare`, four bits `[..., 4]`, the sign of each eighth element, which follows from the
    other seven, gives its place to a bit of them: bits 1, 3, 5 and 7 of byte 3.
    """
    bits = np.unpackbits(signs, axis=-1, bitorder="little")
    if spare is not None:
        bits[..., 7::8] = spare
    return np.packbits(bits.reshape(*signs.shape[:-1], 8, 4).swapaxes(-1, -2), axis=-1,
                       bitorder="little")[..., 0]  # fmt: skip


class GridFormat(QuantFormat):
    """A format whose levels are rows of a grid, times a sign or with an offset."""

    def __init__(self, dtype: Any, grid: str) -> None:
        super().__init__(dtype)
        self.grid = grid_of(grid)
        self.values = np.unique(self.grid)
        self.table_name = f"grid_{grid.lower()}"

    @property
    def cuda_factor(self) -> int:
        """See `QuantFormat.cuda_factor`."""
        return 1

    def cuda_codes(self, block: ArrayBlock) -> dict[str, Bytes]:
        """All parts are in `cuda_fields`."""
        return {}

    def cuda_tables(self) -> dict[str, NDArray[np.uint32]]:
        """See `Format.cuda_tables`: a word a row, nibble j selects the value of element j."""
        places = np.searchsorted(self.values, self.grid).astype(np.uint32)
        shift = 4 * np.arange(self.grid.shape[1], dtype=np.uint32)
        return {self.table_name: np.bitwise_or.reduce(places << shift, axis=1)}

    def cuda_functions(self) -> dict[str, str]:
        """See `Format.cuda_functions`: the text names the table's contents: caches go by it."""
        (words,) = self.cuda_tables().values()
        made = super().cuda_functions()
        levels = f"levels_{self.name}"
        head, body = made[levels].split("\n    ", 1)
        made[levels] = (
            f'{head}\n    """Rows of {self.table_name}, {len(words)} words with checksum '
            f'{zlib.crc32(words.tobytes()):08x}."""\n    {body}'
        )
        return made

    def per_span(self, of_span: Any, block: ArrayBlock) -> Bytes:
        """`uint8[n, spans, k]`: for each span the bytes that `of_span(block, span)` lists."""
        spans = [np.concatenate(of_span(block, s), axis=-1) for s in range(self.spans)]
        return np.stack(spans, axis=1)

    def value_words(self, scale: int = 1, offset: int = 0) -> str:
        """The two words with the bytes of the values, times `scale` plus `offset`."""
        values = np.zeros(8, np.int8)
        values[: self.values.size] = self.values * scale + offset
        return ", ".join(f"uint32(0x{word:08X})" for word in values.view("<u4"))

    def look_up(self, indices: Lanes) -> Any:
        """32 u8 lanes: the rows of those indices."""
        return indices.rows(self.grid)


def scales_of_halves(part: str, shift: int = 0) -> Halves:
    """`cuda_scale` of formats with two 4-bit scales in a part, from bit `shift` on."""
    one = f"half_to_f32({{d}}) * (unsigned_bits({{{part}}}, $, 4) + float32(0.5)) * float32(0.25)"
    return Halves(one, shift, shift + 4)


def nibble_scales(block: Block, offset: int) -> Any:
    """Sixteen 4-bit scales in eight bytes, low nibbles first, f32 lanes."""
    packed = block.u8(offset, 8)
    both = (packed & 15).join(packed >> 4)
    return both.take([i // 2 + i % 2 * 8 for i in range(16)]).to("f32")
