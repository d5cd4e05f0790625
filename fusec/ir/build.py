"""Writing a graph by hand: `b = Builder("toy"); x = b.input("x", (1, 64)); y = b.silu(x)`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from fusec.arguments import mistaken, whole
from fusec.errors import FusecError, unknown
from fusec.ir.dtypes import dtype as dtype_of
from fusec.ir.graph import Attr, Graph, Node, Value, attrs
from fusec.ir.op import Op
from fusec.ir.op_methods import OpMethods
from fusec.ir.ops import OPS, make
from fusec.ir.ops import op as entry_of
from fusec.ir.text import GRAPH_NAME, NAME
from fusec.ir.verify import verify
from fusec.writer import brief, count


class Builder(OpMethods):
    """Collects nodes in order; every op of the table is a method, `b.rms_norm(x, w, eps=1e-5)`.

    Of an op that a script has registered, `b.softsign(x)` is the same as `b.op("softsign", x)`.

    Types are inferred, so a mistake shows at the line that makes it. `name=` names the result
    (default: a running number); an attribute left out takes the op table's default.
    """

    def __init__(self, name: str) -> None:
        self.name = _name("graph", name, GRAPH_NAME)
        self._inputs: list[Value] = []
        self._states: dict[str, Value] = {}
        self._nodes: list[Node] = []
        self._names: set[str] = set()

    def input(self, name: str, shape: tuple[int, ...], dtype: str = "f32") -> Value:
        """A value the caller supplies at every step. Raises FusecError for what is no type."""
        value = self._named(_value("%", name, shape, dtype))
        self._inputs.append(value)
        return value

    def state(self, name: str, shape: tuple[int, ...], dtype: str = "f16") -> Value:
        """Memory kept between steps. Raises FusecError for what is no type."""
        value = self._named(_value("$", name, shape, dtype))
        self._states[value.name] = value
        return value

    def weight(self, name: str, shape: tuple[int, ...], dtype: str = "f32") -> Value:
        """A constant of the model, by its GGUF name.

        Raises FusecError for an unknown dtype, and for rows that are no whole blocks of it.
        """
        return _value("@", name, shape, dtype)

    def op(self, op: str, *inputs: Value, name: str | None = None, **given: Attr) -> Any:
        """Append a node; returns its result, a tuple of them where the op has several.

        Raises FusecError for operands and attributes that the op does not take.
        """
        attributes = entry_of(op).attributes
        for value in inputs:
            if not isinstance(value, Value):
                raise mistaken(op, f"values of the graph ({entry_of(op).operands})", value)
        defaults = {k: v for k, v in attributes.items() if not isinstance(v, type)}
        given = {k: _as_wanted(v, attributes.get(k)) for k, v in given.items()}
        result = f"%{len(self._nodes) if name is None else _name(op, name, NAME)}"
        if OPS[op].role == "store":
            result = inputs[0].name + "'"
        node = make(op, inputs, result, attrs(**(defaults | given)))
        for value in node.outputs:
            self._named(value)
        self._nodes.append(node)
        return node.outputs if len(node.outputs) > 1 else node.outputs[0]

    def __repr__(self) -> str:
        return brief(self, f"{self.name}: {count(len(self._nodes), 'node')}")

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *OPS})

    if not TYPE_CHECKING:  # of a registered op a type checker knows nothing: use `op` there

        def __getattr__(self, op: str) -> Callable[..., Any]:
            if op not in OPS:
                try:
                    raise unknown("no op", op, OPS)
                except FusecError as error:
                    raise AttributeError(str(error)) from None
            return _method(self, OPS[op])

    def build(self, *outputs: Value) -> Graph:
        """The finished, verified graph.

        Raises FusecError for what it does not compute, and where there are no outputs.
        """
        for value in outputs or (None,):
            if not isinstance(value, Value):
                raise mistaken(f"graph {self.name}", "values of the graph as its outputs", value)
        states = tuple(self._states.values())
        inputs, nodes = tuple(self._inputs), tuple(self._nodes)
        graph = Graph(self.name, inputs, states, nodes, outputs)
        verify(graph)
        return graph

    def _named(self, value: Value) -> Value:
        if value.name in self._names:
            raise FusecError(f"graph {self.name}: {value.name} is defined twice")
        self._names.add(value.name)
        return value


def _name(what: str, name: object, form: str) -> str:
    """A name that a printed graph may have. Raises FusecError for another, which is read as two."""
    if not isinstance(name, str) or not re.fullmatch(form, name):
        raise mistaken(what, "a name of letters, digits and _ . -", name)
    return name


def _value(sign: str, name: str, shape: Iterable[int], dtype: str) -> Value:
    """A value of the caller's; `sign` says of which kind. Raises FusecError for a wrong type."""
    what = f"{sign}{_name('a value', name, NAME)}"
    sizes = _sizes(what, shape)
    try:
        kind = dtype_of(dtype)
    except FusecError as error:
        raise FusecError(f"{what}: {error}") from None
    if sizes[-1] % kind.block:
        raise FusecError(
            f"{what}: expected rows of whole {dtype} blocks of {kind.block} elements, found "
            f"{sizes[-1]}"
        )
    return Value(what, dtype, sizes)


def _sizes(what: str, shape: Iterable[int]) -> tuple[int, ...]:
    """A shape. Raises FusecError, for the value `what`, unless it has sizes from 1."""
    wanted = "a shape of whole numbers from 1, such as (1, 64)"
    if isinstance(shape, str) or not isinstance(shape, Iterable):
        raise mistaken(what, wanted, shape)
    sizes = tuple(whole(what, size, wanted) for size in shape)
    if not sizes or min(sizes) < 1:
        raise FusecError(f"{what}: expected {wanted}, found {sizes}")
    return sizes


def _as_wanted(given: Attr, wanted: Attr | type | None) -> Attr:
    """A whole number as a float where the op wants one, as in Python's own arithmetic."""
    kind = wanted if isinstance(wanted, type) else type(wanted)
    return float(given) if kind is float and type(given) is int else given


def _method(builder: Builder, entry: Op) -> Callable[..., Any]:
    """A registered op as a method, with the signature that `help` shows."""
    from inspect import Parameter, Signature  # only a script that registers ops needs it

    names = re.findall(r"(\w+): \w+", entry.operands)
    operands = [Parameter(n, Parameter.POSITIONAL_OR_KEYWORD, annotation="Value") for n in names]
    attributes = [
        Parameter(
            key,
            Parameter.KEYWORD_ONLY,
            annotation="float",
            default=Parameter.empty if isinstance(default, type) else default,
        )
        for key, default in entry.attributes.items()
    ]
    named = Parameter("name", Parameter.KEYWORD_ONLY, annotation="str | None", default=None)
    signature = Signature([*operands, *attributes, named], return_annotation="Value")

    def method(*inputs: Value, **given: Attr) -> Any:
        try:
            bound = signature.bind(*inputs, **given).arguments
        except TypeError as error:
            raise TypeError(f"Builder.{entry.name}: {error}, expected {entry.operands}") from None
        values = [bound.pop(name) for name in names]
        return builder.op(entry.name, *values, **bound)

    method.__name__, method.__qualname__ = entry.name, f"Builder.{entry.name}"
    method.__doc__ = f"{entry.about}\n\n{entry.operands}"
    method.__signature__ = signature  # type: ignore[attr-defined]
    return method
