"""What the thread blocks of attention make of one head first, within a region (see `region`)."""

from __future__ import annotations

from fusec.ir.graph import Graph, Node, Value
from fusec.ir.op import LOCAL
from fusec.ir.op_attention import head_sizes, query_of_values
from fusec.ir.op_elementwise import is_spread
from fusec.ir.op_matvec import heads_of
from fusec.ir.ops import op, picks_rows

BESIDE = ("clear", "into")
"""Roles of what a kernel does beside its segments, whatever they are."""


class NotOneKernel(Exception):
    """The region needs an exchange between blocks; the message is the reason."""


def made_for_heads(region: Graph) -> tuple[Node, ...]:
    """What makes the query and the rows of the caches that the region's attention reads, in order.

    The products that these are made of are among it. Empty where another kernel makes them. Raises
    NotOneKernel where a block cannot make a head's share of them by itself.
    """
    node = next((n for n in region.nodes if op(n.op).role == "heads"), None)
    if node is None:
        return ()
    found: dict[str, Node] = {}
    for value, size in zip(node.inputs[:3], head_sizes(node), strict=True):
        _add_makers(region, value, size, node, found)
    if not found:
        return ()
    if len(appended := [v for v in node.inputs[1:3] if v.name in region.producers]) == 1:
        raise NotOneKernel(
            f"{node.op} {node.name} needs all of {appended[0].name}, which the same kernel appends "
            "to, and the other cache, to which another one does"
        )
    others = [
        n
        for n in region.nodes
        if n.name not in found and n is not node and op(n.op).role not in BESIDE
    ]
    if others and not any(op(n.op).role == "rows" for n in found.values()):
        raise NotOneKernel(not_needed(others[0], node))
    if query_of_values(node) is not None:
        raise NotOneKernel(f"{node.op} {node.name} has two queries, and its blocks make one")
    return tuple(n for n in region.nodes if n.name in found)


def not_needed(other: Node, reader: Node) -> str:
    """Why a node shares no kernel with attention."""
    return f"{other.op} {other.name} is not what {reader.op} {reader.name} needs first"


def _add_makers(
    region: Graph, value: Value, size: int, reader: Node, found: dict[str, Node]
) -> None:
    """Whatever in the region makes a value, whose heads have `size` elements, is `found`."""
    maker = region.producers.get(value.name)
    if maker is None:
        return
    entry, what = op(maker.op), f"{maker.op} {maker.name}"
    is_product = entry.role == "rows" and heads_of(maker) == 1 and not picks_rows(maker)
    if entry.role not in LOCAL and not entry.by_heads and not is_product:
        raise NotOneKernel(
            f"{reader.op} {reader.name} needs all of {value.name}, which the same kernel spreads "
            "over its blocks"
        )
    if value.name in region.needed and not value.is_state:
        raise NotOneKernel(f"{value.name} is an output, and blocks of heads make only their own")
    if is_product:
        found[maker.name] = maker
        return
    if (own := int(maker.get("head_dim", size))) != size:
        raise NotOneKernel(
            f"{what} has heads of {own} elements, {reader.op} {reader.name} of {size}"
        )
    if spread := next((v for v in maker.inputs if is_shared(maker, v)), None):
        raise NotOneKernel(f"{what} shares elements of {spread.name} among those of a head")
    vectors = [v for v in maker.inputs if v.name[0] == "%" and v.dtype != "i32"]
    if len(vectors) > 1:
        raise NotOneKernel(f"{what} reads two vectors, {vectors[0].name} and {vectors[1].name}")
    if (
        entry.by_heads
        and "head_dim" not in dict(maker.attrs)
        and vectors[0].name in region.producers
    ):
        raise NotOneKernel(f"{what} needs all of {vectors[0].name}, of which a block makes a head")
    found[maker.name] = maker
    for vector in vectors:
        _add_makers(region, vector, size, reader, found)


def is_shared(node: Node, value: Value) -> bool:
    """Whether elements of one place in the grid read an element of another."""
    return op(node.op).role == "element" and is_spread(node, value)
