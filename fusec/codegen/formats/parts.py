"""A matrix repacked for the GPU: parts one behind the other, each aligned for its loads.

A part holds one field (codes, scales, ...) of the whole matrix, ordered by row: a fixed number of
bytes for every span of 32 elements, or for every block. So neighbouring lanes load neighbouring
bytes.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]

LOADS = {16: "v4", 8: "v2", 4: "u32", 2: "u16", 1: "u8"}


@dataclass(frozen=True, eq=False)
class Parts:
    """The parts of some blocks in the order of the buffer, by name, and the spans of a block."""

    arrays: dict[str, Bytes]
    spans: int

    @classmethod
    def of(cls, arrays: dict[str, Bytes], spans: int) -> Parts:
        """Sort so that every part starts aligned: spans' parts first, wide ones before narrow."""
        order = sorted(arrays.items(), key=lambda item: (-item[1].ndim, -item[1].shape[-1]))
        return cls(dict(order), spans)

    @property
    def block_bytes(self) -> int:
        """Bytes of a block in all parts together."""
        return sum(array[0].size for array in self.arrays.values())

    def buffer(self) -> Bytes:
        """The parts one after the other."""
        return np.concatenate([array.reshape(-1) for array in self.arrays.values()])

    def fetch_text(self, name: str) -> str:
        """Source of `fetch_F(w, rows, blocks, row, block)`: a tuple of what was loaded."""
        loads, before = [], 0
        for part, array in self.arrays.items():
            nbytes = array.shape[-1]
            if array.ndim == 3:
                start, size = f"rows * blocks * {before}", f"span * {nbytes}"
                before += nbytes
            else:
                spans_bytes = sum(a.shape[-1] for a in self.arrays.values() if a.ndim == 3)
                start, size = f"rows * blocks * {spans_bytes}", f"whole * {nbytes}"
                if inner := before - spans_bytes:
                    start += f" + rows * (blocks // {self.spans}) * {inner}"
                before += nbytes
            offset = size if start.endswith("* 0") else f"{start} + {size}"
            loads.append(f"load_weight_{LOADS[nbytes]}(at(w, uint32({offset}))),  # {part}")
        lines = ["span = uint32(row * blocks + block)"]
        if any(array.ndim == 2 for array in self.arrays.values()):
            shift = self.spans.bit_length() - 1
            inside = f"(block >> uint32({shift}))" if shift else "block"
            lines.append(f"whole = uint32(row * (blocks // {self.spans}) + {inside})")
        lines += ["return (", *(f"    {load}" for load in loads), ")"]
        body = textwrap.indent("\n".join(lines), "    ")
        head = f"@inline\ndef fetch_{name}(w, rows, blocks, row, block):\n"
        return f'{head}    """What a lane loads of one span."""\n{body}\n'

    def function_text(self, name: str, expression: str, more: str = "") -> str:
        """Source of a function of what was loaded; the expression names parts as `{part}`.

        `more`: its further parameters.
        """
        places = {part: f"w[{n}]" for n, part in enumerate(self.arrays)}
        return f"@inline\ndef {name}(w{more}):\n    return {expression.format(**places)}\n"
