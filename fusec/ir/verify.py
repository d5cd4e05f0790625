"""Well-formedness, checked after every pass."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

from fusec.errors import FusecError
from fusec.ir.graph import Graph, Node, Value, outside
from fusec.ir.ops import in_place, infer, op
from fusec.ir.remember import remembered

KEPT = 1 << 14  # nodes that were found right: a few models' worth


def verify(graph: Graph) -> None:
    """Raise FusecError naming the node if the graph breaks one of these rules.

    Single assignment; every value defined before it is used, with the type it was defined with;
    inferred types equal declared types; only a store makes a state, each version of a state is
    appended to once, and nobody reads an older version after that, however many appends later; a
    fused node's inputs and outputs are those of its body; what is added to in place was cleared for
    that alone; an index is an input, which sessions
    check, or cannot leave its memory.
    """
    _verify(graph)
    _check_indices(graph)
    _check_sums(graph)


def _check_sums(graph: Graph) -> None:
    """Sums that parts are added to have zeros in them, and nobody else has anything to do there."""
    nodes = list(graph.walk())
    cleared = {n.name for n in nodes if op(n.op).role == "clear"}
    readers = Counter(v.name for n in nodes for v in n.inputs)
    for name, sums in in_place(nodes).items():
        if sums not in cleared:
            raise FusecError(f"add_into making {name}: expected sums of clear_sums, found {sums}")
        if readers[sums] > 1 or sums in graph.needed:
            raise FusecError(f"add_into making {name}: {sums} has another reader")


def _verify(graph: Graph) -> None:
    defined = {v.name: v for v in (*graph.inputs, *graph.states)}
    if len(defined) != len(graph.inputs) + len(graph.states):
        raise FusecError(f"graph {graph.name}: two inputs or states share a name")
    weights: dict[str, Value] = {}
    newest: dict[str, Value] = {}
    for node in graph.nodes:
        for value in node.inputs:
            if value.is_weight:
                _check_weight(node, value, weights)
            else:
                _check_use(graph, node, value, defined, newest)
        _check_node(node)
        for value in node.outputs:
            if value.name in defined:
                raise FusecError(f"{node.name}: {value.name} is defined a second time")
            if value.is_state:
                newest[value.buffer] = value
            defined[value.name] = value
    for value in graph.outputs:
        _check_output(graph, value, defined)


@remembered(KEPT)
def _check_node(node: Node) -> None:
    """What is right or wrong about a node wherever it stands: a pass leaves most as they were."""
    for plain in node.ops:
        _check_types(plain)
    if node.op == "fused":
        _check_body(node)


def _check_use(
    graph: Graph,
    node: Node,
    value: Value,
    defined: dict[str, Value],
    newest: dict[str, Value],
) -> None:
    if value.name not in defined:
        later = value.name in graph.producers
        raise FusecError(
            f"{node.name}: reads {value.name}, which {'a later node' if later else 'nothing'} makes"
        )
    if defined[value.name] != value:
        raise FusecError(
            f"{node.name}: reads {value.name} as {value.type}; it is {defined[value.name].type}"
        )
    last = newest.get(value.buffer, value)
    if last != value:
        appended = graph.producers[last.name].name
        raise FusecError(f"{node.name}: reads {value.name} after {appended} appended to it")


def _check_output(graph: Graph, value: Value, defined: dict[str, Value]) -> None:
    if value.name not in defined:
        raise FusecError(f"graph {graph.name}: output {value.name} is not computed by any node")
    if (made := defined[value.name]) != value:
        raise FusecError(
            f"graph {graph.name}: output {value.name} is declared {value.type}; it is made as "
            f"{made.type}"
        )


def _check_weight(node: Node, value: Value, weights: dict[str, Value]) -> None:
    before = weights.setdefault(value.name, value)
    if before != value:
        raise FusecError(f"{node.name}: {value.name} is {value.type}, but {before.type} before")


def _check_types(node: Node) -> None:
    inferred = infer(node)
    declared = [(v.dtype, v.shape) for v in node.outputs]
    if inferred != declared:
        found = ", ".join(v.type for v in node.outputs)
        raise FusecError(f"{node.op} making {node.name}: inferred {inferred}, declared {found}")
    made_state = any(v.is_state for v in node.outputs)
    if made_state != (op(node.op).role == "store"):
        raise FusecError(f"{node.op} making {node.name}: only a store makes a state")
    if made_state and node.name != node.inputs[0].name + "'":
        raise FusecError(f"{node.op} making {node.name}: expected {node.inputs[0].name}'")


def _check_body(node: Node) -> None:
    inputs, outputs = outside(node.body, {v.name for v in node.outputs})
    if set(inputs) != set(node.inputs) or len(inputs) != len(node.inputs):
        raise FusecError(
            f"fused {node.kind} making {node.name}: body reads {_names(inputs)}, "
            f"node declares {_names(node.inputs)}"
        )
    if set(outputs) != set(node.outputs):
        raise FusecError(
            f"fused {node.kind} making {node.name}: body makes {_names(outputs)}, "
            f"node declares {_names(node.outputs)}"
        )
    _verify(node.region)


def _check_indices(graph: Graph) -> None:
    makers = {value.name: node for node in graph.walk() for value in node.outputs}
    for node in graph.walk():
        for place, bound in op(node.op).indices.items():
            value = node.inputs[place]
            if bound is None or value.name not in makers:
                continue
            reaches, takes = _values_made(value, makers), bound(node)
            if reaches is None or takes is None or reaches > takes:
                wanted = "an input" + (
                    "" if takes is None else f", or an argmax of {takes} elements"
                )
                made = "" if reaches is None else f" of {reaches} elements"
                raise FusecError(
                    f"{node.op} making {node.name}: its index {value.name} may leave its memory: "
                    f"expected {wanted}, found {makers[value.name].op}{made}"
                )


def _values_made(value: Value, makers: Mapping[str, Node]) -> int | None:
    """How many values an index may have that a node makes; None if that is not known."""
    node = makers[value.name]
    points = op(node.op).points
    if points == "into row":
        return node.inputs[0].shape[-1]
    operand = next((v for v in node.inputs if v.dtype == "i32"), None)
    if points == "as operand" and operand is not None and operand.name in makers:
        return _values_made(operand, makers)
    if points == "places" and operand is not None:
        return math.prod(operand.shape) + (value != node.outputs[0])
    return None


def _names(values: tuple[Value, ...]) -> str:
    return ", ".join(sorted(v.name for v in values)) or "nothing"
