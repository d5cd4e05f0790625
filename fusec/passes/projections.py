"""What `project-heads` and `project-rows` share: find the product, and who adds up its parts."""

from __future__ import annotations

from dataclasses import dataclass

from fusec.ir.graph import Graph, Node, Value
from fusec.ir.op_matvec import factor_of, inverse_of
from fusec.ir.ops import op, role_of
from fusec.passes.split import taken


@dataclass(frozen=True)
class Product:
    """A node that multiplies a vector by a matrix, and adds a `residual` if it has one.

    The result is `total`.
    """

    matvec: Node
    residual: Value | None
    total: Value

    @property
    def weight(self) -> Value:
        """The matrix."""
        return self.matvec.inputs[1]


def product_of(graph: Graph, vector: Value) -> Product | str:
    """The product that is the only reader of a vector, or the reason why there is none.

    What is added to it is an activation that is not the product itself, nor the vector.
    """
    if reason := second_user(graph, vector.name):
        return reason
    users = graph.users.get(vector.name, ())
    ops = [n.op for n in users[0].ops] if users else []
    if ops not in (["matvec"], ["matvec", "add"]) or users[0].ops[0].inputs[0] != vector:
        return f"no product: expected a matvec, and at most an add, to read {vector.name}"
    matvec, *added = users[0].ops
    total, residual = users[0].outputs[0], None
    if added:
        residual = next((v for v in added[0].inputs if v.name != matvec.name), None)
        if residual is None or residual.is_weight or residual == vector:
            return f"no residual: expected another activation to be added to {total.name}"
    if factor_of(matvec) is not None:
        return f"a factor of the whole matrix: {matvec.inputs[1].name} has one"
    if (inverse := inverse_of(matvec)) is not None:
        return f"a factor of each token: {matvec.name} is scaled by {inverse.name}"
    return Product(matvec, residual, total)


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
