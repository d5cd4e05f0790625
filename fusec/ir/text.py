"""The parser of a printed graph: `parse(str(graph)) == graph`.

The grammar stands at the top of `fusec.ir.graph`.
"""

from __future__ import annotations

import re
from typing import NoReturn

from fusec.arguments import mistaken
from fusec.errors import FusecError
from fusec.ir.graph import Attr, Graph, Node, Value

NAME = r"[\w.'/-]+"
"""What a value may be called, behind the sign of its kind."""

GRAPH_NAME = r"[A-Za-z_][\w.-]*"

_TOKEN = re.compile(
    rf"""\s*(?:
        (?P<name>[%$@]{NAME})
        | (?P<number>[-+]?(?:\d+\.\d*(?:e[-+]?\d+)?|\d+e[-+]?\d+|\d+|inf|nan)(?![\w.]))
        | (?P<word>{GRAPH_NAME}) | (?P<punct>[(){{}}\[\]:,=])
    )""",
    re.VERBOSE,
)


def parse(text: str) -> Graph:
    """Read a printed graph. Raises FusecError naming the line and what was expected there."""
    if not isinstance(text, str):
        raise mistaken("parse", "the text of a graph", text)
    return _Parser(text).graph()


class _Parser:
    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0
        self.scope: dict[str, Value] = {}

    def graph(self) -> Graph:
        self.expect("graph")
        name = self.take("word")
        self.expect("(")
        inputs = self.values(until=")")
        self.expect("{")
        states: list[Value] = []
        while self.peek() == "state":
            self.expect("state")
            states.append(self.typed(self.take("name")))
        self.scope |= {v.name: v for v in states}
        nodes = self.nodes(until="return")
        outputs = [self.known(self.take("name"))]
        while self.peek() == ",":
            self.expect(",")
            outputs.append(self.known(self.take("name")))
        self.expect("}")
        if self.text[self.at :].strip():
            self.fail("the end of the text")
        return Graph(name, inputs, tuple(states), nodes, tuple(outputs))

    def nodes(self, until: str) -> tuple[Node, ...]:
        found = []
        while self.peek() != until:
            found.append(self.node())
        self.expect(until)
        return tuple(found)

    def node(self) -> Node:
        outputs = self.values(until="=", define=False)
        op, kind = self.take("word"), ""
        if op == "fused":
            kind = self.take("word")
        self.expect("(")
        inputs = self.operands()
        body: tuple[Node, ...] = ()
        attrs: list[tuple[str, Attr]] = []
        if op == "fused":
            self.expect("{")
            outer, self.scope = self.scope, dict(self.scope)
            body, attrs = self.nodes(until="}"), [("kind", kind)]
            self.scope = outer
        elif self.peek() == "{":
            attrs = self.attrs()
        self.scope |= {v.name: v for v in outputs}
        return Node(op, inputs, outputs, tuple(sorted(attrs)), body)

    def operands(self) -> tuple[Value, ...]:
        found: list[Value] = []
        while self.peek() != ")":
            if found:
                self.expect(",")
            name = self.take("name")
            found.append(self.typed(name) if self.peek() == ":" else self.known(name))
        self.expect(")")
        return tuple(found)

    def values(self, until: str, define: bool = True) -> tuple[Value, ...]:
        found: list[Value] = []
        while self.peek() != until:
            if found:
                self.expect(",")
            found.append(self.typed(self.take("name")))
        self.expect(until)
        if define:
            self.scope |= {v.name: v for v in found}
        return tuple(found)

    def typed(self, name: str) -> Value:
        self.expect(":")
        dtype, _, layout = self.take("word").partition(".")
        shape: list[int] = []
        self.expect("[")
        while self.peek() != "]":
            if shape:
                self.expect(",")
            shape.append(int(self.take("number")))
        self.expect("]")
        return Value(name, dtype, tuple(shape), layout)

    def attrs(self) -> list[tuple[str, Attr]]:
        found: list[tuple[str, Attr]] = []
        self.expect("{")
        while self.peek() != "}":
            if found:
                self.expect(",")
            key = self.take("word")
            self.expect("=")
            found.append((key, self.attr()))
        self.expect("}")
        return found

    def attr(self) -> Attr:
        if self.match("number") is None:
            return self.take("word")
        text = self.take("number")
        return int(text) if re.fullmatch(r"[-+]?\d+", text) else float(text)

    def known(self, name: str) -> Value:
        if name not in self.scope:
            self.fail(f"a value defined above, not {name}")
        return self.scope[name]

    def peek(self) -> str | None:
        found = _TOKEN.match(self.text, self.at)
        return found[0].strip() if found else None

    def match(self, group: str) -> str | None:
        found = _TOKEN.match(self.text, self.at)
        return found[group] if found else None

    def take(self, group: str) -> str:
        token = self.match(group)
        if token is None:
            self.fail(f"a {group}")
        self.at = _TOKEN.match(self.text, self.at).end()  # type: ignore[union-attr]
        return token

    def expect(self, token: str) -> None:
        if self.peek() != token:
            self.fail(f"'{token}'")
        self.at = _TOKEN.match(self.text, self.at).end()  # type: ignore[union-attr]

    def fail(self, wanted: str) -> NoReturn:
        line = self.text.count("\n", 0, self.at) + 1
        found = self.peek() or self.text[self.at :].strip()[:20] or "the end"
        raise FusecError(f"IR text, line {line}: expected {wanted}, found '{found}'")
