"""A block of 32 quantised weights, and its product with blocks of activations.

A lane has a block of its own and one of a vector; or, in tiles, a warp has blocks of 16 rows and of
eight rows of the step, of which a lane has two each: `upper` and `lower`, `first` and `second`.
"""

from __future__ import annotations

from collections.abc import Sequence

from fusec.codegen.formats import QuantFormat
from fusec.ir.op_fixed import BLOCK
from fusec.writer import Writer

FLOATS = {1: "f32", 2: "f32x2", 4: "f32x4"}  # how many -> the suffix of what loads them


def halves_of(fmt: QuantFormat) -> int:
    """Groups of a block with a scale of their own."""
    return BLOCK // fmt.group


def facts_of(fmt: QuantFormat) -> int:
    """Floats that are known of a block beside its levels: scales, then minima."""
    return halves_of(fmt) * (2 if fmt.has_min else 1)


def make_facts(w: Writer, fmt: QuantFormat, loaded: str) -> list[str]:
    """Emit these floats; their expressions. `loaded`: what `fetch_F` returned."""
    values = []
    for what in ("scale", "min") if fmt.has_min else ("scale",):
        w.line(f"{what} = {what}_{fmt.name}({loaded})")
        values += [f"{what}[0]", f"{what}[1]"] if halves_of(fmt) > 1 else [what]
    return values


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


def accumulate_tile(
    w: Writer,
    fmt: QuantFormat,
    s: str,
    products: Sequence[str],
    weights: tuple[str, str],
    vectors: tuple[str, str],
) -> None:
    """Emit the four sums `s` with a block's products added, in the order of `accumulate`.

    `products`: of each half of the block that has a scale. `weights`: the variables with the facts
    of both rows of the matrix; `vectors`: with those of both rows of the step.
    """
    halves = halves_of(fmt)

    def facts(k: int) -> str:
        return ", ".join(f"{name}[{k}]" if facts_of(fmt) > 1 else name for name in weights)

    def known(k: int) -> str:
        return ", ".join(f"{name}[{k}]" if fmt.has_min else name for name in vectors)

    for half, product in enumerate(products):
        w.line(f"{s} = add_scaled({s}, joined({product}), {facts(half)}, {known(0)})")
    for half in range(halves if fmt.has_min else 0):
        totals = known(half + halves)
        w.line(f"{s} = less_minima({s}, {facts(halves + half)}, {known(0)}, {totals})")
