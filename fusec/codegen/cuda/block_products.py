"""A lane's block of 32 quantised weights, and its product with a block of activations."""

from __future__ import annotations

from fusec.codegen.formats import QuantFormat
from fusec.writer import Writer


def decode(w: Writer, fmt: QuantFormat, loaded: str, levels: str) -> None:
    """Emit what needs no activations.

    `loaded`: the variable that has what `fetch_F` returned; `levels`: the one for its levels.
    """
    w.line(f"{levels} = levels_{fmt.name}({loaded})")
    w.line(f"{loaded}_scale = scale_{fmt.name}({loaded})")
    if fmt.has_min:
        w.line(f"{loaded}_min = min_{fmt.name}({loaded})")


def accumulate(
    w: Writer,
    fmt: QuantFormat,
    s: str,
    loaded: str,
    levels: str,
    digits: str,
    scale: str,
    total: str,
) -> None:
    """Emit the sum `s` with the block's product added to it.

    `digits`, `scale` and `total` (the digits' sum, for minima) are the activations in fixed point.
    """
    if fmt.group == 16:
        w.line(f"low, high = {loaded}_scale")
        w.line(f"{s} = fma(dot_low({levels}, {digits}), low * {scale}, {s})")
        w.line(f"{s} = fma(dot_high({levels}, {digits}), high * {scale}, {s})")
        if fmt.has_min:
            w.line(f"low, high = {loaded}_min")
            w.line(f"{s} = fma(sum_low({digits}), -low * {scale}, {s})")
            w.line(f"{s} = fma(sum_high({digits}), -high * {scale}, {s})")
        return
    w.line(f"{s} = fma(dot({levels}, {digits}), {loaded}_scale * {scale}, {s})")
    if fmt.has_min:
        w.line(f"{s} = fma({total}, -{loaded}_min * {scale}, {s})")
