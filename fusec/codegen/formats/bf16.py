"""BF16: the upper half of an IEEE binary32, little endian."""

from __future__ import annotations

from typing import Any

from fusec.codegen.formats.base import FloatFormat
from fusec.ir.dtypes import dtype


class BF16(FloatFormat):
    """Truncated floats, widened with zeros."""

    cuda_floats = "quad_of_bf16(w[0], w[1]), quad_of_bf16(w[2], w[3])"

    def widen(self, bits: Any) -> Any:
        """See `FloatFormat.widen`."""
        return (bits.to("u32") << 16).bits_as("f32")


FORMAT = BF16(dtype("bf16"))
