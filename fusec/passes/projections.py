"""What the passes have in common that make a product's parts where its vector is made."""

from __future__ import annotations

from fusec.ir.graph import Attr, Graph, Node, Value
from fusec.ir.ops import infer
from fusec.passes.cost import NORMS
from fusec.passes.rules.parts_norm_matvec import READERS


def second_user(graph: Graph, name: str) -> str | None:
    """Who else needs a value that is to become part of its one user."""
    if name in graph.needed:
        return f"a second user: {name} is an output of the graph"
    if len(users := graph.users.get(name, ())) > 1:
        return f"a second user: {name} is also read by {users[-1].name}"
    return None


def in_parts(
    op: str, inputs: tuple[Value, ...], given: tuple[tuple[str, Attr], ...], total: Value
) -> Node:
    """The node that makes the parts of a sum."""
    draft = Node(op, inputs, (Value(parts_name(total), "f32", ()),), given)
    ((dtype, shape),) = infer(draft)
    return Node(op, inputs, (Value(parts_name(total), dtype, shape),), given)


def no_sum(graph: Graph, maker: Node, product: Node) -> str | None:
    """What is wrong with the residual, or with the name of the parts."""
    _, residual, total = product_of(product)
    if residual is None or residual.is_weight or residual == maker.outputs[0]:
        return f"no residual: expected another activation to be added to {product.name}"
    if parts_name(total) in graph.producers or parts_name(total) in {v.name for v in graph.inputs}:
        return f"a name is taken: {parts_name(total)}"
    return None


def homeless(graph: Graph, total: Value) -> str | None:
    """Adding the parts up must cost no launch of its own."""
    for user in graph.users.get(total.name, ()):
        if user.kind in READERS and any(total in n.inputs for n in user.ops if n.op in NORMS):
            return None
    return f"nobody to add the parts up: expected one of {', '.join(READERS)} to read {total.name}"


def product_of(product: Node) -> tuple[Node, Value | None, Value]:
    """The matvec of a matvec_residual, what else is added to it, and their sum."""
    matvec, add = product.ops
    residual = next((v for v in add.inputs if v.name != matvec.name), None)
    return matvec, residual, add.outputs[0]


def parts_name(total: Value) -> str:
    """What the parts of a sum are called."""
    return f"{total.name}.parts"
