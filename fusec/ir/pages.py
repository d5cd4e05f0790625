"""How the states of attention lie in memory: in pages, which a table finds.

A state of a graph has a row for each position of the context. In memory its rows are those of a
*pool* of pages of `PAGE` positions, in any order, and only as many as a sequence can need at once:
a layer with a window needs the window and the rows of one step. Layers with the same window are of
one *kind*. They hold the same positions, so they share a *table*: entry n is the first row, in the
memory of any state of that kind, of page n of the sequence. Position p is in row
`table[p // PAGE] + p % PAGE`.

A page is a span of attention, so the rows that a thread block reads at once have one entry.
"""

from __future__ import annotations

from fusec.ir.dtypes import dtype
from fusec.ir.graph import Graph
from fusec.ir.ops import op
from fusec.ir.target import WIDEST

PAGE = 256

FEWEST = 8
"""Entries that a table has at least: the blocks of a GPU's cluster each ask for the page of a span,
before they know how far the sequence goes."""


def windows(graph: Graph) -> dict[str, int]:
    """State -> the window of the attention that reads it; 0: everything is seen."""
    found: dict[str, int] = {}
    for node in graph.walk():
        if op(node.op).role == "heads":
            for value in node.inputs:
                if value.is_state:
                    seen = int(node.get("window", 0))
                    before = found.get(value.buffer, seen)
                    found[value.buffer] = max(before, seen) if before and seen else 0
    return {value.buffer: found.get(value.buffer, 0) for value in graph.states}


def kind_of(window: int) -> str:
    """The name of the kind of states that are seen so far back."""
    return f"window {window}" if window else "full"


def most_pages(context: int, window: int) -> int:
    """Pages that a sequence needs at once: those of the window and of the widest step, at most."""
    every = -(-context // PAGE)
    return min(every, (window + WIDEST - 3) // PAGE + 2) if window else every


def entries(context: int) -> int:
    """Entries of a table, those of pages that the context has first."""
    return max(FEWEST, -(-context // PAGE))


def rows_in_memory(context: int, window: int) -> int:
    """Rows of a state in memory for one sequence: whole pages, or less than one."""
    pages = most_pages(context, window)
    return pages * PAGE if pages > 1 else context


def cache_bytes(graph: Graph, positions: int | None = None) -> int:
    """Bytes of the states of a graph in memory, for a sequence of so many positions.

    None: one that fills the context.
    """
    seen = windows(graph)
    rows = {v: rows_in_memory(v.shape[0], seen[v.buffer]) for v in graph.states}
    if positions is not None:
        rows = {v: min(n, -(-positions // PAGE) * PAGE) for v, n in rows.items()}
    return sum(dtype(v.dtype).nbytes((n, *v.shape[1:])) for v, n in rows.items())
