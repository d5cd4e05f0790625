"""The nopython functions that emitted CPU kernels call, by name.

Fixed names are imported below. For every weight format there are, made on first use:

- `dot_<format>`, `dot2_<format>`, ... `dot8_<format>`: one row of weights times one token's
  activations, or those of several tokens: see `dot.row_dot`. `dot_f16` and `dot_f32` also serve
  attention scores: their rows may be given by any pointer.
- `axpy_<format>` for float formats: see `rows.axpy`. `dot_rows_<format>` and `axpy_rows_<format>`
  are loops over them with the same bits, and faster: see `many_rows`.
- `decode_row_<format>`: see `rows.decode_row`.
"""

from __future__ import annotations

import re
from typing import Any

from fusec.codegen import formats
from fusec.codegen.cpu.dot import row_dot
from fusec.codegen.cpu.many_rows import axpy_rows, dot_rows
from fusec.codegen.cpu.math import (
    exp_f32,
    exp_row,
    f16_bits_to_f32,
    f32_to_f16_bits,
    fma_f32,
)
from fusec.codegen.cpu.pointers import (
    advance,
    ptr_f32,
    ptr_i16,
    ptr_i32,
    ptr_i64,
    ptr_u8,
    ptr_u16,
)
from fusec.codegen.cpu.rows import axpy, decode_row, sum_row, sum_squares

__all__ = [
    "advance",
    "exp_f32",
    "exp_row",
    "f16_bits_to_f32",
    "f32_to_f16_bits",
    "fma_f32",
    "ptr_f32",
    "ptr_i16",
    "ptr_i32",
    "ptr_i64",
    "ptr_u8",
    "ptr_u16",
    "sum_row",
    "sum_squares",
]

_FORMAT_FUNCTION = re.compile(r"(decode_row|(?:axpy|dot)_rows|axpy|dot([2-8]?))_([a-z0-9_]+)")


def __getattr__(name: str) -> Any:
    """Make the function of a format that is asked for by name, and keep it."""
    match = _FORMAT_FUNCTION.fullmatch(name)
    weights = formats.FORMATS.get(match[3]) if match else None
    made = _make(match[1], int(match[2] or 1), weights) if match and weights else None
    if made is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = made
    return made


def _make(kind: str, tokens: int, weights: formats.Format) -> Any:
    """The function of that kind, or None if the format has none."""
    if kind == "decode_row":
        return decode_row(weights)
    if kind.startswith("dot") and kind != "dot_rows":
        return row_dot(weights, tokens)
    makers = {"axpy": axpy, "axpy_rows": axpy_rows, "dot_rows": dot_rows}
    return makers[kind](weights) if isinstance(weights, formats.FloatFormat) else None
