"""F16: IEEE binary16, little endian."""

from __future__ import annotations

from typing import Any

from fusec.codegen.formats.base import FloatFormat
from fusec.ir.dtypes import dtype


class F16(FloatFormat):
    """Halves, widened exactly."""

    cuda_floats = "quad_of_f16(w[0], w[1]), quad_of_f16(w[2], w[3])"

    def widen(self, bits: Any) -> Any:
        """See `FloatFormat.widen`."""
        return bits.half_to_f32()


FORMAT = F16(dtype("f16"))
