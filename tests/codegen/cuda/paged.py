"""Caches as kernels find them: in pages that lie in another order than the sequence has them."""

from __future__ import annotations

import numpy as np

from fusec.ir.pages import PAGE, entries, most_pages, rows_in_memory


def table(context: int) -> np.ndarray:
    """The first row of each page: the last page lies in front."""
    found = np.zeros(entries(context), np.uint32)
    pages = most_pages(context, 0)
    found[:pages] = np.arange(pages)[::-1] * PAGE
    return found


def rows(context: int) -> np.ndarray:
    """The row of each position."""
    positions = np.arange(context)
    return table(context)[positions // PAGE].astype(int) + positions % PAGE


def memory(sequence: np.ndarray) -> np.ndarray:
    """A cache in memory, of one row a position. Where no position lies is what shows if it is read.

    Halves become their bits, as kernels take them.
    """
    context = len(sequence)
    found = np.full((rows_in_memory(context, 0), *sequence.shape[1:]), np.nan, sequence.dtype)
    found[rows(context)] = sequence
    return found.view(np.uint16) if sequence.dtype == np.float16 else found
