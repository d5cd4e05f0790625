"""What the emitters of all targets share: parsing a kernel's region, and element expressions."""

from __future__ import annotations

from fusec.errors import FusecError
from fusec.ir.graph import Graph, Node
from fusec.ir.ops import op
from fusec.ir.plan import Kernel
from fusec.ir.region import KernelShape, analyse
from fusec.ir.region_heads import NotOneKernel
from fusec.ir.text import parse


def expression(node: Node, operands: list[str]) -> str:
    """Source of one element of an element-wise node, from that of its operands' elements."""
    make = op(node.op).expression
    assert make is not None  # the op table has one for every such op
    return make(node, operands)


def open_region(kernel: Kernel) -> tuple[Graph, KernelShape]:
    """A kernel's region and how it splits. Raises FusecError if it cannot be one kernel."""
    region = parse(kernel.region)
    try:
        return region, analyse(region)
    except NotOneKernel as reason:
        raise FusecError(f"kernel {kernel.name}: {reason}") from None
