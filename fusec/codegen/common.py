"""What emitters of every target share: opening a kernel's region, and element-wise expressions."""

from __future__ import annotations

from collections.abc import Callable

from fusec.errors import FusecError
from fusec.ir.graph import Graph, Node
from fusec.ir.plan import Kernel
from fusec.ir.region import KernelShape, NotOneKernel, analyse
from fusec.ir.text import parse

ELEMENT: dict[str, Callable[[Node, list[str]], str]] = {
    "add": lambda n, x: f"{x[0]} + {x[1]}",
    "mul": lambda n, x: f"{x[0]} * {x[1]}",
    "silu": lambda n, x: f"silu({x[0]})",
    "gelu": lambda n, x: f"gelu({x[0]})",
    "scale": lambda n, x: f"{x[0]} * float32({n['factor']!r})",
    "softcap": lambda n, x: f"softcap({x[0]}, float32({n['cap']!r}))",
}
"""Op -> expression of one element, from those of its operands. Functions are the target's own."""


def open_region(kernel: Kernel) -> tuple[Graph, KernelShape]:
    """A kernel's region and how it splits. Raises FusecError if it cannot be one kernel."""
    region = parse(kernel.region)
    try:
        return region, analyse(region)
    except NotOneKernel as reason:
        raise FusecError(f"kernel {kernel.name}: {reason}") from None
