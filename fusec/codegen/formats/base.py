"""What a weight format is: one description of its blocks, from which all readers are made.

A quantised row is a sequence of blocks. A block holds groups of elements that share a scale:

    weight = scale[group] * level - min[group]        (min only where the format has one)

`level` is a small integer. A format says how levels, scales and minima are found in a block as it
lies in the file, in the operations of `lanes`: NumPy decodes with them, and the CPU target emits
LLVM vectors from the same text. For CUDA a matrix is repacked, without loss, into parts that lanes
load aligned; the functions that read them are written into each kernel (`cuda_functions`).
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fusec.codegen.formats.coding import Coding
from fusec.codegen.formats.lanes import ArrayBlock, ArrayLanes, Block
from fusec.codegen.formats.parts import Parts
from fusec.codegen.formats.tiles import CHUNK, Tile
from fusec.errors import FusecError
from fusec.ir.dtypes import DType, register
from fusec.ir.target import ROWS, TILE_ROWS, TILES

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]


class Format(ABC):
    """A storage format of weights. One instance per format lives in the registry."""

    dtype: DType
    quantized: bool

    def __init__(self, dtype: DType):
        self.dtype = register(dtype)

    @property
    def name(self) -> str:
        """The GGML type name in lower case."""
        return self.dtype.name

    def row_bytes(self, columns: int) -> int:
        """Bytes of a row of `columns` elements; a row is whole blocks."""
        if columns % self.dtype.block:
            raise FusecError(
                f"{self.name}: a row must be a multiple of {self.dtype.block} elements, "
                f"found {columns}"
            )
        return self.dtype.nbytes((columns,))

    def decode(self, data: Bytes) -> Floats:
        """Bytes `uint8[rows, row_bytes]` to `float32[rows, columns]`, bit-equal to gguf-py's."""
        rows, row_bytes = data.shape
        if row_bytes % self.dtype.block_bytes:
            raise FusecError(
                f"{self.name}: a row must be a multiple of {self.dtype.block_bytes} bytes, "
                f"found {row_bytes}"
            )
        blocks = np.ascontiguousarray(data).reshape(-1, self.dtype.block_bytes)
        # infinite scales and overflow are the file's business: the result says what it says
        with np.errstate(invalid="ignore", over="ignore"):
            return self.decode_blocks(blocks).reshape(rows, -1)

    @abstractmethod
    def decode_blocks(self, blocks: Bytes) -> Floats:
        """`uint8[n, block_bytes]` to float32 with n * block elements in order."""

    @abstractmethod
    def cuda_repack(self, data: Bytes, layout: str = ROWS) -> Bytes:
        """Bytes `uint8[rows, row_bytes]` of the file to one flat buffer for the CUDA kernels."""

    @abstractmethod
    def cuda_bytes(self, rows: int, columns: int, layout: str = ROWS) -> int:
        """Size of that buffer."""

    @abstractmethod
    def cuda_functions(self) -> dict[str, str]:
        """Name -> source of the device functions that read the buffer."""

    def cuda_tables(self) -> dict[str, NDArray[np.uint32]]:
        """Name -> words of the tables that those functions read."""
        return {}


class FloatFormat(Format):
    """A format of plain floats."""

    quantized = False
    cuda_floats: str  # the two quads of `w`, a chunk of four words

    @abstractmethod
    def widen(self, bits: Any) -> Any:
        """f32 lanes from the elements' bits, lanes of unsigned integers of the element's size."""

    def decode_blocks(self, blocks: Bytes) -> Floats:
        """See `Format.decode_blocks`."""
        bits = ArrayBlock(blocks.reshape(1, -1)).load(
            f"u{8 * self.dtype.block_bytes}", 0, len(blocks)
        )
        return np.asarray(self.widen(bits).array)

    @property
    def cuda_chunk(self) -> int:
        """Elements in the 16 bytes that a lane loads at a time."""
        return 16 // self.dtype.block_bytes

    def cuda_repack(self, data: Bytes, layout: str = ROWS) -> Bytes:
        """See `Format.cuda_repack`: rows are padded with zeros to whole chunks."""
        return np.pad(data, ((0, 0), (0, -data.shape[1] % 16))).reshape(-1)

    def cuda_bytes(self, rows: int, columns: int, layout: str = ROWS) -> int:
        """See `Format.cuda_bytes`."""
        return rows * -(-columns // self.cuda_chunk) * 16

    def cuda_functions(self) -> dict[str, str]:
        """See `Format.cuda_functions`: `fetch_F` loads a chunk, `floats_F` gives its quads."""
        fetch = (
            f"@inline\ndef fetch_{self.name}(w, rows, chunks, row, chunk):\n"
            f'    """16 bytes of a row."""\n'
            "    return load_weight_v4(at(w, uint32((row * chunks + chunk) * 16)))\n"
        )
        floats = (
            f"@inline\ndef floats_{self.name}(w):\n"
            f'    """A chunk\'s two quads (the same twice where it has one)."""\n'
            f"    return {self.cuda_floats}\n"
        )
        return {f"fetch_{self.name}": fetch, f"floats_{self.name}": floats}


class QuantFormat(Format):
    """A format of integer levels and scales.

    Elements come in spans of 32. `group` of them, 32 or 16, share a scale (and a minimum). A
    format gives `codes`, from which its `coding` makes levels, or `levels` and `cuda_levels` of its
    own.
    """

    quantized = True
    has_min = False
    group = 32
    coding: Coding
    cuda_scale: str | Halves
    """Device expression of the levels' f32 factor, of `{part}`s; `Halves` for groups of 16."""
    cuda_min: str | Halves = ""
    """The same for what is taken off, where `has_min`."""

    @property
    def spans(self) -> int:
        """Spans in a block."""
        return self.dtype.block // 32

    def codes(self, block: Block, span: int) -> Any:
        """The stored integers of elements `32 * span` to `32 * span + 31`, u8 lanes in order."""
        raise TypeError(f"{self.name} has no codes")

    def levels(self, block: Block, span: int) -> Any:
        """The levels of the same elements, 32 i8 lanes."""
        return self.coding.levels(self.codes(block, span))

    @abstractmethod
    def scales(self, block: Block) -> Any:
        """One f32 lane a group. Formats of one span may be given several blocks at once."""

    def mins(self, block: Block) -> Any:
        """The minima, one f32 lane a group, where `has_min`."""
        raise TypeError(f"{self.name} has no minima")

    def decode_blocks(self, blocks: Bytes) -> Floats:
        """See `Format.decode_blocks`."""
        block = ArrayBlock(blocks)
        levels = self._spans(lambda span: self.levels(block, span))
        grouped = levels.reshape(len(blocks), -1, self.group).astype(np.float32)
        weights: Floats = np.asarray(self.scales(block).array)[:, :, None] * grouped
        return weights - self.mins(block).array[:, :, None] if self.has_min else weights

    def _spans(self, of_span: Any) -> NDArray[Any]:
        return np.stack([of_span(span).array for span in range(self.spans)], axis=1)

    # --- CUDA ------------------------------------------------------------------------------------

    @abstractmethod
    def cuda_fields(self, block: ArrayBlock) -> dict[str, Bytes]:
        """The parts that `cuda_scale` and `cuda_min` name.

        `uint8[n, spans, k]` has k bytes for each span, `uint8[n, k]` k bytes for each block.
        """

    def cuda_codes(self, block: ArrayBlock) -> dict[str, Bytes]:
        """The parts that `cuda_levels` names, like `cuda_fields`."""
        return self.coding.pack(self._spans(lambda span: self.codes(block, span)))

    @property
    def cuda_levels(self) -> str:
        """The levels, times `cuda_factor`, as two halves of four words, a signed byte each."""
        return self.coding.unpack

    @property
    def cuda_factor(self) -> int:
        """A power of two that makes levels fill their byte, so that it is their sign's."""
        return self.coding.factor

    def _parts(self, blocks: Bytes) -> Parts:
        block = ArrayBlock(blocks)
        return Parts.of(self.cuda_codes(block) | self.cuda_fields(block), self.spans)

    @functools.cached_property
    def cuda_parts(self) -> Parts:
        """The parts of one block."""
        return self._parts(np.zeros((1, self.dtype.block_bytes), np.uint8))

    def cuda_repack(self, data: Bytes, layout: str = ROWS) -> Bytes:
        """See `Format.cuda_repack`."""
        parts = self._parts(data.reshape(-1, self.dtype.block_bytes))
        return Tile(self.name, parts).repack(len(data)) if layout == TILES else parts.buffer()

    @property
    def has_tiles(self) -> bool:
        """Whether a matrix may be laid out in tiles: if a `coding` makes its levels.

        Where there is nothing to unpack they gain nothing (docs/performance-log.md, Q8_0).
        """
        own = type(self).cuda_levels is not QuantFormat.cuda_levels
        return hasattr(self, "coding") and not own and self.coding.packs

    @functools.cached_property
    def tile(self) -> Tile:
        """The layout of a tiled matrix."""
        byte_of = self.cuda_scale.byte_of if isinstance(self.cuda_scale, Halves) else ""
        return Tile(self.name, self.cuda_parts, byte_of)

    def cuda_bytes(self, rows: int, columns: int, layout: str = ROWS) -> int:
        """See `Format.cuda_bytes`."""
        if layout == TILES:
            return rows // TILE_ROWS * (columns // 32 // CHUNK) * self.tile.record_bytes
        return rows * (columns // self.dtype.block) * self.cuda_parts.block_bytes

    def cuda_functions(self) -> dict[str, str]:
        """See `Format.cuda_functions`.

        `fetch_F` loads what a lane needs of one span; of that, `levels_F` makes the levels,
        `scale_F` the factor (a pair for groups of 16) and `min_F` what is taken off; `decode_F`
        makes the weights of quad k. A matrix has `rows` rows of `blocks` spans.
        """
        factor = f" * float32({1 / self.cuda_factor!r})" if self.cuda_factor != 1 else ""
        found = {"levels": self.cuda_levels, "scale": _listed(self.cuda_scale, factor)}
        if self.has_min:
            found["min"] = _listed(self.cuda_min)
        made = {f"fetch_{self.name}": self.cuda_parts.fetch_text(self.name)}
        for kind, text in found.items():
            made[f"{kind}_{self.name}"] = self.cuda_parts.function_text(f"{kind}_{self.name}", text)
        made[f"decode_{self.name}"] = self._decode_text()
        if self.has_tiles and isinstance(self.cuda_scale, Halves):
            half = "0" if self.cuda_scale.byte_of else "half"
            name, own = f"own_scale_{self.name}", self.cuda_scale.of(half) + factor
            made[name] = self.cuda_parts.function_text(name, own, ", half")
        if self.has_tiles:
            made |= self.tile.functions(self.coding.unpack_word)
        return made

    def _decode_text(self) -> str:
        def of_quad(kind: str) -> str:
            value = f"{kind}_{self.name}(w)"
            return f"of_half({value}, k)" if self.group == 16 else value

        weights = f"times({of_quad('scale')}, quad_of(levels_{self.name}(w), k))"
        if self.has_min:
            weights = f"less({weights}, {of_quad('min')})"
        return f'@inline\ndef decode_{self.name}(w, k):\n    """Quad k."""\n    return {weights}\n'


class Halves(NamedTuple):
    """A device expression for each half of a span: its `$` stands for one number or the other.

    `byte_of`: the part that has a byte for each half, if these are their numbers.
    """

    expression: str
    first: int
    second: int
    byte_of: str = ""

    def of(self, half: str) -> str:
        """The expression for half 0 or 1, as `half` says."""
        return self.expression.replace("$", f"({half} * {self.second - self.first} + {self.first})")


def _listed(value: str | Halves, suffix: str = "") -> str:
    if isinstance(value, str):
        return value + suffix
    expressions = (value.expression.replace("$", str(n)) for n in (value.first, value.second))
    return "(\n" + "".join(f"        {one}{suffix},\n" for one in expressions) + "    )"


__all__ = ["ArrayBlock", "ArrayLanes", "Block", "Bytes", "FloatFormat", "Floats", "Format",
           "Halves", "QuantFormat"]  # fmt: skip
