"""What `project-heads` and `project-rows` share: find the product, and who adds up its parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fusec.ir.graph import Graph, Node, Value, attrs, outside
from fusec.ir.op_matvec import branch_of, factor_of, inverse_of, is_product
from fusec.ir.op_parts import sum_of
from fusec.ir.ops import kind_of, op, role_of
from fusec.passes.split import taken


@dataclass(frozen=True)
class Product:
    """A node that multiplies a vector by a matrix.

    The result is `total`: the product itself, or what the element-wise nodes behind it, `after`,
    make of it. An addition alone is not among them; what it adds is the `residual`.
    """

    matvec: Node
    total: Value
    residual: Value | None = None
    after: tuple[Node, ...] = ()

    @property
    def weight(self) -> Value:
        """The matrix."""
        return self.matvec.inputs[1]


def product_of(graph: Graph, vector: Value) -> Product | str:
    """The product that is the only reader of a vector, or the reason why there is none.

    Element-wise nodes behind it may read anything but the vector.
    """
    if reason := second_user(graph, vector.name):
        return reason
    users = graph.users.get(vector.name, ())
    matvec, *after = users[0].ops if users else (None,)
    if matvec is None or not _is_product(matvec, vector) or not _is_chain(matvec, after):
        return f"no product: expected a matvec, and a chain of elements, to read {vector.name}"
    if len(users[0].outputs) > 1:
        return f"a second user: {users[0].outputs[1].name} is made beside {users[0].name}"
    total, residual = users[0].outputs[0], None
    if [node.op for node in after] == ["add"]:
        others = [v for v in after[0].inputs if v.name != matvec.name and not v.is_weight]
        residual, after = (others[0], []) if others else (None, after)
    product = Product(matvec, total, residual, tuple(after))
    return _fault(product, vector) or product


def _fault(product: Product, vector: Value) -> str | None:
    """Why parts cannot be what a product says."""
    matvec, total = product.matvec, product.total
    if vector == product.residual or any(vector in node.inputs for node in product.after):
        return f"a second user: {vector.name} is also added to {total.name}"
    if factor_of(matvec) is not None:
        return f"a factor of the whole matrix: {matvec.inputs[1].name} has one"
    if (inverse := inverse_of(matvec)) is not None:
        return f"a factor of each token: {matvec.name} is scaled by {inverse.name}"
    return None


def in_order(product: Product, branch: int) -> str | None:
    """Why parts of `branch` lanes each do not add up to a product byte for byte."""
    if (found := branch_of(product.matvec)) == branch:
        return None
    order = f"parts of {found} lanes" if found else "one order"
    return f"another sum: rows of {product.matvec.name} have {order}, not parts of {branch}"


def _is_product(node: Node, vector: Value) -> bool:
    return is_product(node) and node.inputs[0] == vector


def _is_chain(matvec: Node, after: Sequence[Node]) -> bool:
    """Whether each node makes one vector, element by element, of the one in front of it."""
    pairs = zip((matvec, *after), after, strict=False)
    return all(op(n.op).role == "element" and made.outputs[0] in n.inputs for made, n in pairs)


def total_of(parts: Value, product: Product) -> tuple[Node, ...]:
    """What adds the parts up under the name that the total had."""
    if not product.after:
        return (sum_of(parts, product.residual, product.total),)
    total = sum_of(parts, None, product.matvec.outputs[0])
    if len(product.after) == 1:
        return total, product.after[0]
    inputs, _ = outside(product.after, ())
    kind = attrs(kind=kind_of(product.after))
    return total, Node("fused", inputs, (product.total,), kind, product.after)


def second_user(graph: Graph, name: str) -> str | None:
    """Who else needs a value that is to become part of its one user."""
    if name in graph.needed:
        return f"a second user: {name} is an output of the graph"
    if len(users := graph.users.get(name, ())) > 1:
        return f"a second user: {name} is also read by {users[-1].name}"
    return None


def homeless(graph: Graph, total: Value, parts_op: str) -> str | None:
    """Why no kernel could add the partial sums up as it reads them, or None if one could."""
    if reason := taken(graph, parts_op, parts_name(total)):
        return reason
    for user in graph.users.get(total.name, ()):
        makes_whole = [n for n in user.ops if op(n.op).role == "vector" and total in n.inputs]
        if makes_whole and role_of(user) in ("rows", "parts"):
            return None
    return (
        f"nobody to add the parts up: expected a product with a norm in its prologue to read "
        f"{total.name}"
    )


def parts_name(total: Value) -> str:
    """What the parts of a sum are called."""
    return f"{total.name}.parts"
