"""What a pass has to know of the machine it fuses for: plain data, made by the code generator."""

from __future__ import annotations

from dataclasses import dataclass

from fusec.ir.gpu import Gpu


@dataclass(frozen=True)
class HeadSums:
    """Where a head's block may multiply the attention it made by the head's columns of a matrix.

    There, a row of a matrix of one of `formats` is summed up by blocks of `block` elements, one to
    each of `lanes`, and the lanes' sums are added as a balanced tree. `held`: blocks of weights
    that one thread block keeps until it has the attention; `cluster`: thread blocks that exchange.
    """

    formats: frozenset[str]
    block: int
    lanes: int
    held: int
    cluster: int


@dataclass(frozen=True)
class Target:
    """`formats`: weight types its emitters read. `block_bytes`: memory one block has to itself.

    `span`: positions that one block attends to where attention is split over the context; None if
    it does not pay here. `overlaps`: a launch can start before the one in front of it has ended.
    `head_sums`: how attention is multiplied by its output matrix head by head; None if it is not.
    `parts`: how many blocks can search a row for its largest element; None if one is to do it.
    `late_norms`: a norm's division is done behind the products (see `fusec.passes.factor_norms`).
    `gpu`: whose constants the cost model predicts with; None where nothing is predicted.
    """

    name: str
    formats: frozenset[str]
    block_bytes: int
    span: int | None = None
    head_sums: HeadSums | None = None
    parts: int | None = None
    overlaps: bool = False
    late_norms: bool = False
    gpu: Gpu | None = None
