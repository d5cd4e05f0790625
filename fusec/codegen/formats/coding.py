"""How stored codes become levels: in the file's order, and in the GPU's registers.

On the GPU the codes of a span are split into planes of four, two and one bits, in which the codes
of four neighbouring elements lie in the four bytes of a word. Levels come as two halves of four
words, so that word t of half h has elements 16h + 4t to 16h + 4t + 3.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]

# bits of a code -> its planes, lowest bits first
PLANES = {2: ("twos",), 3: ("twos", "ones"), 4: ("fours",), 5: ("fours", "ones"),
          6: ("fours", "twos"), 8: ("low", "high")}  # fmt: skip
WIDTH = {"fours": 4, "twos": 2, "ones": 1}


class Coding(ABC):
    """Codes to levels."""

    factor: int
    unpack: str
    """Device expression of the levels times `factor`."""
    unpack_word: str
    """The same of words `t` of both halves, of planes of which a lane has its words; with two
    `terms`, a pair of such words for each, whose sums are the levels."""
    terms = 1
    packs = True
    """Whether several codes share a byte."""

    @abstractmethod
    def levels(self, codes: Any) -> Any:
        """u8 lanes of codes to i8 lanes."""

    @abstractmethod
    def pack(self, codes: Bytes) -> dict[str, Bytes]:
        """Codes `uint8[n, spans, 32]` to the planes that `unpack` names."""


@dataclass(frozen=True)
class Linear(Coding):
    """level = code - offset, for codes of `bits` bits.

    Where the offset is half of the range, its subtraction is a flipped top bit, and the code at the
    top of a byte is a signed number.
    """

    bits: int
    offset: int = 0

    @property
    def signed(self) -> bool:
        """Whether levels are two's complement numbers of `bits` bits."""
        return self.offset == 1 << (self.bits - 1)

    @property
    def factor(self) -> int:  # type: ignore[override]
        """See `Coding.factor`."""
        return 1 << (8 - self.bits) if self.signed else 1

    @property
    def packs(self) -> bool:  # type: ignore[override]
        """See `Coding.packs`."""
        return self.bits < 8

    def levels(self, codes: Any) -> Any:
        """See `Coding.levels`."""
        return (codes - self.offset).bits_as("i8")

    def pack(self, codes: Bytes) -> dict[str, Bytes]:
        """See `Coding.pack`."""
        if self.signed:
            codes = codes ^ np.uint8(self.offset)
        if self.bits == 8:
            return {"low": codes[..., :16], "high": codes[..., 16:]}
        planes, shift = {}, 0
        for plane in PLANES[self.bits]:
            part = codes >> np.uint8(shift) & np.uint8((1 << WIDTH[plane]) - 1)
            planes[plane] = {"fours": fours, "twos": twos, "ones": ones}[plane](part)
            shift += WIDTH[plane]
        return planes

    @property
    def unpack(self) -> str:  # type: ignore[override]
        """See `Coding.unpack`."""
        if self.bits == 8:
            return "({low}, {high})"
        text = ""
        for plane, place in self._places():
            given = f"{text}, {{{plane}}}, {place}" if text else f"{{{plane}}}, {place}"
            text = f"{'plus' if text else 'from'}_{plane}({given})"
        return f"lowered({text}, {self.offset})" if self.offset and not self.signed else text

    @property
    def unpack_word(self) -> str:  # type: ignore[override]
        """See `Coding.unpack_word`."""
        text = ""
        for plane, place in self._places():
            given = [text, f"{{{plane}}}", "" if plane == "fours" else "t", str(place)]
            text = f"word_{'with' if text else 'of'}_{plane}({', '.join(filter(None, given))})"
        return f"words_lowered({text}, {self.offset})" if self.offset and not self.signed else text

    def _places(self) -> Iterator[tuple[str, int]]:
        """The planes, and the bit of a byte that each one's lowest bit goes to."""
        place = 8 - self.bits if self.signed else 0
        for plane in PLANES[self.bits]:
            yield plane, place
            place += WIDTH[plane]


@dataclass(frozen=True)
class Table(Coding):
    """level = values[code], sixteen of them."""

    values: tuple[int, ...]
    factor: int = 1

    def levels(self, codes: Any) -> Any:
        """See `Coding.levels`."""
        return codes.lookup(self.values)

    def pack(self, codes: Bytes) -> dict[str, Bytes]:
        """See `Coding.pack`: codes are paired so that the words are selectors of `prmt`.

        Of codes with the same value, the first stands for all. Low half of word t: elements 4t to
        4t + 3; high half: 16 + 4t to 16 + 4t + 3.
        """
        first = np.array([self.values.index(value) for value in self.values], np.uint8)
        if len({*self.values}) < len(self.values):
            codes = first[codes]
        words = np.ascontiguousarray(codes).view("<u2")  # codes 2i and 2i + 1
        pairs = (words | words >> np.uint16(4)).astype(np.uint8).view(np.uint16)
        halves = pairs.reshape(*codes.shape[:-1], 2, 4).swapaxes(-2, -1)
        return {"fours": np.ascontiguousarray(halves).view(np.uint8).reshape(*codes.shape[:-1], 16)}

    @property
    def unpack(self) -> str:  # type: ignore[override]
        """See `Coding.unpack`."""
        return f"lookup_fours({{fours}}, {self._words})"

    @property
    def unpack_word(self) -> str:  # type: ignore[override]
        """See `Coding.unpack_word`."""
        if self._halves is None:
            return f"lookup_eight({{fours}}, {self._words})"
        return f"terms_of_fours({{fours}}, {_words(self._halves)})"

    @property
    def terms(self) -> int:  # type: ignore[override]
        """See `Coding.unpack_word`."""
        return 1 if self._halves is None else 2

    @property
    def _halves(self) -> tuple[int, ...] | None:
        """Values of two tables of eight, of which one is looked up where bit 3 says, for `prmt`.

        Where it is not, `prmt` gives the sign of an entry, which must be that of all: the entries
        of one table are negative, and -1 is what the other, not negative, has too much. The second
        is backwards (see `terms_of_fours`).
        """
        known = [value if self.values.index(value) == at else -1
                 for at, value in enumerate(self.values)]  # fmt: skip
        low, high = known[:8], known[8:]
        for lower, upper in ((low, high), (high, low)):
            if max(lower) < 0 <= min(upper) and max(upper) < 127:
                more = [value + 1 for value in upper]
                first, second = (lower, more) if lower is low else (more, lower)
                return (*first, *second[::-1])
        return None

    @property
    def _words(self) -> str:
        return _words(self.values)


def _words(values: tuple[int, ...]) -> str:
    words = np.array(values, np.int8).view("<u4")
    return ", ".join(f"uint32(0x{word:08X})" for word in words)


def fours(x: Bytes) -> Bytes:
    """Nibbles `[..., 32]` to `[..., 16]`: element i low, element 16 + i high."""
    return x[..., :16] | x[..., 16:] << np.uint8(4)


def twos(x: Bytes) -> Bytes:
    """Two bits `[..., 32]` to `[..., 8]`: bits 2t of byte 4h + j have element 16h + 4t + j."""
    quads = x.reshape(*x.shape[:-1], 2, 4, 4)
    shift = np.arange(0, 8, 2, dtype=np.uint8)[:, None]
    return np.bitwise_or.reduce(quads << shift, axis=-2).reshape(*x.shape[:-1], 8)


def ones(x: Bytes) -> Bytes:
    """Single bits `[..., 32]` to `[..., 4]`: bit t of byte j has element 4t + j."""
    quads = x.reshape(*x.shape[:-1], 8, 4)
    return np.bitwise_or.reduce(quads << np.arange(8, dtype=np.uint8)[:, None], axis=-2)
