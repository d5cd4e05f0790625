"""What a table of the command line shows, cell by cell."""

from __future__ import annotations

from rich.table import Table


def rows_of(table: Table) -> list[dict[str, str]]:
    """Heading -> cell, for every row; a heading that appears again has its number behind it."""
    heads: list[str] = []
    for column in table.columns:
        head = str(column.header)
        heads.append(f"{head} {count + 1}" if (count := heads.count(head)) else head)
    cells = (map(str, column.cells) for column in table.columns)
    return [dict(zip(heads, row, strict=True)) for row in zip(*cells, strict=True)]


def row_of(table: Table, first: str) -> dict[str, str]:
    """The row whose first cell is that."""
    (found,) = (row for row in rows_of(table) if next(iter(row.values())) == first)
    return found
