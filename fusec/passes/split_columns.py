"""Whether the columns of a matrix may be dealt to thread blocks as parts, and how.

Sizes, formats and layouts alone decide it, the same for any step, context and level, because how a
row is summed up depends on it (see `split_products`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fusec.ir.graph import Value
from fusec.ir.op_parts import parts_of
from fusec.ir.target import TILES, ColumnSums, Target

MOST_PARTS = 8  # of a vector that rows make, all of which every block of the next launch reads


def head_branch(weight: Value, heads: int, sums: ColumnSums) -> int:
    """Lanes that have a head's columns."""
    return weight.shape[1] // heads // sums.block


def rows_branch(weight: Value, sums: ColumnSums) -> int:
    """Lanes of a part: a power of two, and no more blocks in them than a cluster; 0 if none are."""
    rounds = -(-weight.shape[1] // (sums.block * sums.lanes))
    most = sums.cluster // rounds
    return 1 << (most.bit_length() - 1) if most else 0


def unfit_for_heads(weight: Value, heads: int, blocks: int, sums: ColumnSums) -> str | None:
    """Why heads do not multiply their columns of a matrix, each in `blocks` thread blocks."""
    rows, columns = weight.shape
    branch, rest = divmod(columns // heads, sums.block)
    return _first_of(
        {
            f"no blocks of {sums.block}: {weight.name} is {weight.dtype}": (
                weight.dtype not in sums.formats
            ),
            f"too many spans: {blocks}, of which {sums.cluster} can exchange": (
                blocks > sums.cluster
            ),
            f"no branch of a sum: heads of {columns // heads}, expected {sums.block} times a power "
            "of 2": rest or branch & (branch - 1),
            f"too long a row: {heads * branch} blocks for {sums.lanes} lanes": (
                heads * branch > sums.lanes
            ),
            f"not whole quads: {weight.name} has {rows} rows": rows % 4,
            f"too many weights: {rows * branch} blocks for a head, whose thread blocks hold "
            f"{blocks * sums.held}": rows * branch > blocks * sums.held,
        }
    )


def unfit_for_rows(weight: Value, first: Sequence[Value], target: Target) -> str | None:
    """Why blocks that make rows of the `first` matrices do not multiply them by their columns."""
    sums = target.column_sums
    assert sums is not None
    rows, columns = weight.shape
    tiled = next((w for w in (weight, *first) if w.layout == TILES), weight)
    other = next((w for w in (weight, *first) if w.dtype not in sums.formats), None)
    own = sum(sums.block * -(-w.shape[1] // (sums.block * sums.lanes)) * sums.lanes for w in first)
    branch = rows_branch(weight, sums)
    reason = _first_of(
        {
            f"in tiles of rows: {tiled.name}": tiled.layout == TILES,
            f"no blocks of {sums.block}: {(other or weight).name} is {(other or weight).dtype}": (
                other is not None
            ),
            f"no whole blocks: {weight.name} has rows of {columns}": columns % sums.block,
            f"too long a row: {columns} elements for {sums.lanes} lanes and {sums.cluster} blocks "
            f"of {sums.block}": not branch,
            f"not whole quads: {weight.name} has {rows} rows": rows % 4,
            f"too many weights: {own} and {rows} blocks for a thread block, which holds "
            f"{sums.held}": own > sums.held or rows > sums.held,
        }
    )
    if reason:
        return reason
    count = parts_of(columns, sums.block, sums.lanes, branch)
    return f"too many parts: {count}, expected at most {MOST_PARTS}" if count > MOST_PARTS else None


def _first_of(reasons: Mapping[str, object]) -> str | None:
    """The first reason that holds."""
    return next((reason for reason, holds in reasons.items() if holds), None)
