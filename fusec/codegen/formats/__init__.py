"""The registry of weight formats: one file each, found here by GGML name in lower case."""

from __future__ import annotations

from fusec.codegen.formats import bf16, f16, f32, iq4_nl, iq4_xs, q5_k, q6_k, q8_0
from fusec.codegen.formats.base import FloatFormat, Format, QuantFormat
from fusec.errors import FusecError

FORMATS: dict[str, Format] = {
    module.FORMAT.name: module.FORMAT
    for module in (f32, f16, bf16, q8_0, q5_k, q6_k, iq4_nl, iq4_xs)
}


def get(name: str) -> Format:
    """The format of that name."""
    try:
        return FORMATS[name]
    except KeyError:
        raise FusecError(
            f"unsupported weight format '{name}': supported are {', '.join(sorted(FORMATS))}"
        ) from None


__all__ = ["FORMATS", "FloatFormat", "Format", "QuantFormat", "get"]
