"""F32: IEEE binary32, little endian."""

from __future__ import annotations

from typing import Any

from fusec.codegen.formats.base import FloatFormat
from fusec.ir.dtypes import dtype


class F32(FloatFormat):
    """Floats as they are."""

    cuda_floats = "quad_of_f32(w), quad_of_f32(w)"

    def widen(self, bits: Any) -> Any:
        """See `FloatFormat.widen`."""
        return bits.bits_as("f32")


FORMAT = F32(dtype("f32"))
