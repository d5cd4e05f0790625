"""Writing a graph by hand: `b = Builder("toy"); x = b.input("x", (1, 64)); y = b.silu(x)`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fusec.errors import FusecError
from fusec.ir.graph import Attr, Graph, Node, Value, attrs
from fusec.ir.ops import OPS, make
from fusec.ir.verify import verify


class Builder:
    """Collects nodes in order; every op of the table is a method, `b.rms_norm(x, w, eps=1e-5)`.

    Types are inferred, so a mistake shows at the line that makes it. `name=` names the result
    (default: a running number); an attribute left out takes the op table's default. `context`: how
    many positions a sequence may have, if states are used as rings.
    """

    def __init__(self, name: str, context: int = 0) -> None:
        self.name, self.context = name, context
        self._inputs: list[Value] = []
        self._states: dict[str, Value] = {}
        self._nodes: list[Node] = []
        self._names: set[str] = set()

    def input(self, name: str, shape: tuple[int, ...], dtype: str = "f32") -> Value:
        """A value the caller supplies at every step."""
        value = self._named(Value(f"%{name}", dtype, shape))
        self._inputs.append(value)
        return value

    def state(self, name: str, shape: tuple[int, ...], dtype: str = "f16") -> Value:
        """Memory kept between steps."""
        value = self._named(Value(f"${name}", dtype, shape))
        self._states[value.name] = value
        return value

    def weight(self, name: str, shape: tuple[int, ...], dtype: str = "f32") -> Value:
        """A constant of the model, by its GGUF name."""
        return Value(f"@{name}", dtype, shape)

    def op(self, op: str, *inputs: Value, name: str | None = None, **given: Attr) -> Any:
        """Append a node; returns its result, a tuple of them where the op has several."""
        defaults = {k: v for k, v in OPS[op].attributes.items() if not isinstance(v, type)}
        result = f"%{name or len(self._nodes)}"
        if OPS[op].role == "store":
            result = inputs[0].name + "'"
        node = make(op, inputs, result, attrs(**(defaults | given)))
        for value in node.outputs:
            self._named(value)
        self._nodes.append(node)
        return node.outputs if len(node.outputs) > 1 else node.outputs[0]

    def __getattr__(self, op: str) -> Callable[..., Any]:
        if op not in OPS:
            raise AttributeError(f"no op '{op}': known are {', '.join(sorted(OPS))}")
        return lambda *inputs, **given: self.op(op, *inputs, **given)

    def build(self, *outputs: Value) -> Graph:
        """The finished, verified graph."""
        states = tuple(self._states.values())
        inputs, nodes = tuple(self._inputs), tuple(self._nodes)
        graph = Graph(self.name, inputs, states, nodes, outputs, self.context)
        verify(graph)
        return graph

    def _named(self, value: Value) -> Value:
        if value.name in self._names:
            raise FusecError(f"graph {self.name}: {value.name} is defined twice")
        self._names.add(value.name)
        return value
