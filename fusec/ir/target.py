"""What a pass has to know of the machine it fuses for: plain data, made by the code generator."""

from __future__ import annotations

from dataclasses import dataclass

from fusec.ir.gpu import Gpu


@dataclass(frozen=True)
class Target:
    """`formats`: weight types its emitters read. `block_bytes`: memory one block has to itself.

    `span`: positions that one block attends to where attention is split over the context; None if
    it does not pay here. `overlaps`: a launch can start before the one in front of it has ended.
    `parts`: how many blocks can search a row for its largest element; None if one is to do it.
    `late_norms`: a norm's division is done behind the products (see `fusec.passes.factor_norms`).
    `gpu`: whose constants the cost model predicts with; None where nothing is predicted.
    """

    name: str
    formats: frozenset[str]
    block_bytes: int
    span: int | None = None
    parts: int | None = None
    overlaps: bool = False
    late_norms: bool = False
    gpu: Gpu | None = None
