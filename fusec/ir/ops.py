"""The op table: what the compiler is told of an op is in its entry (see `fusec.ir.op`).

Shapes: T tokens of one step lead every activation. A weight matrix is [rows, columns] as in GGUF.
The reference functions take and return plain arrays of the interpreter's float type; `pos` and
`token` are int arrays of length T. To add an op, write an entry in the file of its family.
"""

from __future__ import annotations

from collections.abc import Iterable
from types import MappingProxyType

from fusec.errors import FusecError, unknown
from fusec.ir import (
    op_argmax,
    op_attention,
    op_attention_spans,
    op_elementwise,
    op_experts,
    op_fixed,
    op_groups,
    op_matvec,
    op_norm,
    op_parts,
    op_rope,
    op_temper,
)
from fusec.ir.dtypes import dtype
from fusec.ir.graph import Attr, Graph, Node, Value
from fusec.ir.op import LOCAL, Op, Role
from fusec.ir.op_checks import Type, TypeMismatch, types_of, want

FAMILIES = (
    op_matvec, op_norm, op_rope, op_temper, op_attention, op_attention_spans, op_elementwise,
    op_parts, op_argmax, op_fixed, op_experts, op_groups,
)  # fmt: skip
OPS: dict[str, Op] = {entry.name: entry for family in FAMILIES for entry in family.OPS}
OWN_OPS = MappingProxyType(dict(OPS))
"""Those that come with fusec, whatever is added or replaced later."""


def op(name: str) -> Op:
    """The entry of that name."""
    try:
        return OPS[name]
    except KeyError:
        raise unknown("unknown op", name, OPS) from None


def infer(node: Node) -> list[Type]:
    """Types of a plain node's outputs; checks operands and attributes. Raises FusecError."""
    entry = op(node.op)
    low, high = entry.arity
    try:
        want(low <= len(node.inputs) <= high, f"operands ({entry.operands})", types_of(node))
        given = dict(node.attrs)
        want(
            set(given) == set(entry.attributes),
            f"attributes {sorted(entry.attributes)}",
            sorted(given),
        )
        for key, kind in entry.attributes.items():
            wanted = kind if isinstance(kind, type) else type(kind)
            want(type(given[key]) is wanted, f"{key} to be {wanted.__name__}", repr(given[key]))
        found = entry.infer(node)
        for i, value in enumerate(node.inputs):
            is_integer = value.dtype == "i32" and not (value.is_weight or value.is_state)
            if entry.role == "clear":  # it reads nothing of its operand
                continue
            want(is_integer == (i in entry.indices), f"operands ({entry.operands})", types_of(node))
        return found
    except TypeMismatch as error:
        raise FusecError(f"{node.op} making {node.name}: {error}") from None


def make(
    name: str, inputs: tuple[Value, ...], result: str, attrs: tuple[tuple[str, Attr], ...] = ()
) -> Node:
    """A plain node with inferred types; `result` names its first output, the others after it."""
    names = [result + suffix for suffix in op(name).outputs]
    draft = Node(name, inputs, tuple(Value(n, "f32", ()) for n in names), attrs)
    types = infer(draft)
    made = tuple(Value(n, kind, shape) for n, (kind, shape) in zip(names, types, strict=True))
    return Node(name, inputs, made, attrs)


def position_of(node: Node) -> Value | None:
    """The operand with the positions at which an element-wise op stores, or looks something up."""
    entry = op(node.op)
    places = entry.indices if entry.role in LOCAL else ()
    return next((node.inputs[place] for place in places), None)


def in_place(nodes: Iterable[Node]) -> dict[str, str]:
    """Name of a result -> of the operand whose memory it has, among plain nodes."""
    return {n.name: n.inputs[0].name for n in nodes if op(n.op).in_place}


def role_of(node: Node) -> Role:
    """What a node is to fusion: its anchor's role if it has one, else that of its last op."""
    roles = [op(n.op).role for n in node.ops]
    anchors: tuple[Role, ...] = ("parts", "heads", "scalar", "rows")
    return next((role for role in anchors if role in roles), roles[-1])


def kind_of(nodes: Iterable[Node]) -> str:
    """What a fused node of these is called: its ops, each once, in order."""
    return "_".join(dict.fromkeys(op(n.op).short for node in nodes for n in node.ops))


def bytes_moved(node: Node) -> int:
    """Bytes a node reads and writes when it runs alone; a fused one keeps its inside to itself."""
    if node.op == "fused":
        inner = {v.name for n in node.body for v in n.outputs} - {v.name for v in node.outputs}
        return sum(
            _plain_bytes(n) - sum(v.nbytes for v in (*n.inputs, *n.outputs) if v.name in inner)
            for n in node.body
        )
    return _plain_bytes(node)


def _plain_bytes(node: Node) -> int:
    entry = op(node.op)
    if entry.bytes is not None:
        return entry.bytes(node)
    return sum(v.nbytes for v in (*node.inputs, *node.outputs))


def picks_rows(node: Node) -> bool:
    """Whether a plain node is a product with rows of its weight that an index names."""
    entry = op(node.op)
    return entry.role == "rows" and entry.rows_read is not None


def weight_bytes(node: Node, weight: Value) -> int:
    """Bytes of one of a plain node's weights that one token reads."""
    rows = op(node.op).rows_read
    if rows is None or len(weight.shape) < 2:
        return weight.nbytes
    return min(rows(node), weight.shape[0]) * dtype(weight.dtype).nbytes(weight.shape[1:])


def weight_bytes_read(graph: Graph) -> int:
    """Bytes of weights one token needs: all of each, but of those that an index picks rows of."""
    read: dict[str, int] = {}
    for node in graph.walk():
        for weight in node.weights:
            read[weight.name] = max(weight_bytes(node, weight), read.get(weight.name, 0))
    return sum(read.values())


def flops(node: Node) -> int:
    """Floating-point operations, a fused node's body summed."""
    return sum(op(n.op).flops(n) for n in node.ops)
