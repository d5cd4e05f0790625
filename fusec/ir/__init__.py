"""The graph: values, nodes, the op table, printing, parsing, verifying, the NumPy reference."""

from fusec.ir.build import Builder
from fusec.ir.graph import Graph, Node, Value
from fusec.ir.reference import Reference
from fusec.ir.text import parse
from fusec.ir.verify import verify

__all__ = ["Builder", "Graph", "Node", "Reference", "Value", "parse", "verify"]
