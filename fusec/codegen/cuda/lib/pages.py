"""Where positions lie in the KV cache: `fusec.ir.pages` says what pages and their table are."""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"

from numba import uint32

from fusec.codegen.cuda.device import at, inline, load_u32


@inline
def page_row(pages, position, page):
    """The first row of a position's page of `page` rows, a power of two."""
    return load_u32(at(pages, uint32(position // uint32(page))))


@inline
def row_in_page(first, position, page):
    """A position's row, if its page begins at row `first`."""
    return uint32(first + (position & uint32(page - 1)))


@inline
def cached_row(pages, position, page):
    """A position's row."""
    return row_in_page(page_row(pages, position, page), position, page)
