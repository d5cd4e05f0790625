"""The language in which a registered op says what one element of its result is.

    expression := Python's + - * /, numbers, names of operands and attributes, functions,
                  x**2 to x**8, and `a if x < y else b`

It is read once, and written for every target in terms of functions that each of them has, in f32:
a number is rounded to f32, and so is every operation. `FUNCTIONS` has them; NumPy's stand for them
where an expression is tried out.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np

from fusec.errors import FusecError, unknown
from fusec.ir.op_checks import Array
from fusec.ir.op_elementwise import gelu, relu_squared, sigmoid, silu, softcap


@dataclass(frozen=True)
class Function:
    """`emitted`: its name in kernels. `work`: a thread's instructions, `flops`: for the reports."""

    emitted: str
    operands: int
    numpy: Callable[..., Any]
    work: int = 1
    flops: int = 1


FUNCTIONS = {
    "abs": Function("abs_f32", 1, np.abs),
    "min": Function("min_f32", 2, np.fmin),
    "max": Function("max_f32", 2, np.fmax),
    "sqrt": Function("sqrt_f32", 1, np.sqrt, work=10),
    "exp": Function("exp_f32", 1, np.exp, work=25, flops=2),
    "log": Function("log_f32", 1, np.log, work=45, flops=4),
    "sin": Function("sin_f32", 1, np.sin, work=110, flops=8),
    "cos": Function("cos_f32", 1, np.cos, work=110, flops=8),
    "tan": Function("tan_f32", 1, np.tan, work=130, flops=10),
    "tanh": Function("tanh_f32", 1, np.tanh, work=40, flops=4),
    "sigmoid": Function("sigmoid", 1, sigmoid, work=40, flops=4),
    "silu": Function("silu", 1, silu, work=40, flops=4),
    "gelu": Function("gelu", 1, gelu, work=50, flops=8),
    "softplus": Function("softplus", 1, lambda x: np.logaddexp(x, 0), work=60, flops=8),
    "relu_squared": Function("relu_squared", 1, relu_squared, work=4, flops=2),
    "softcap": Function("softcap", 2, lambda x, cap: softcap(np.asarray(x), cap), work=45, flops=6),
}
"""What an expression may call, by the name it has there. Of a NaN and a number, `min` and `max`
give the number."""

DIVIDE = Function("div_f32", 2, np.divide, work=10)
SELECT = Function("select_f32", 3, np.where)
OPERATORS: dict[type[ast.operator], str] = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*"}
COMPARISONS: dict[type[ast.cmpop], str] = {
    **{ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!="}
}
NUMPY = {f.emitted: f.numpy for f in (*FUNCTIONS.values(), DIVIDE, SELECT)}
POWERS = range(2, 9)
"""Exponents that may be written out: x**3 is x * x * x, multiplied from left to right."""
LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Expression:
    """An expression that was read. `names`: those it has, `text`: as it was given."""

    text: str
    tree: ast.expr
    names: frozenset[str]
    work: int
    flops: int

    def source(self, values: Mapping[str, str]) -> str:
        """For kernels: `values` has the source of each name."""
        return _Emitter(values).emit(self.tree)

    def evaluate(self, values: Mapping[str, Array | float]) -> Array:
        """With NumPy, of the type that the values have."""
        given = {f"value_{name}": value for name, value in values.items()}
        source = self.source({name: f"value_{name}" for name in values})
        with np.errstate(all="ignore"):
            return np.asarray(
                eval(source, {"__builtins__": {}, "float32": np.float64, **NUMPY}, given)
            )


def read(op: str, text: str, known: Collection[str]) -> Expression:
    """Read the expression of an op. Raises FusecError for what the language does not have.

    `known`: the op's operands and attributes.
    """
    if not text.strip():
        raise FusecError(f"op '{op}': expected an expression such as 'x / (1 + abs(x))', found ''")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else error
        raise FusecError(f"op '{op}': expression '{text}': {reason}") from None
    reader = _Reader(op, text, known)
    reader.check(tree)
    return Expression(text, tree, frozenset(reader.names), reader.work, reader.flops)


class _Reader:
    """Checks each part of a tree, and adds up what it costs."""

    def __init__(self, op: str, text: str, known: Collection[str]) -> None:
        self.where, self.known = f"op '{op}': expression '{text}'", known
        self.names: set[str] = set()
        self.work, self.flops = 0, 0

    def check(self, tree: ast.expr) -> None:
        """Raise FusecError for a part that the language does not have."""
        if isinstance(tree, ast.Constant):
            self._number(tree.value)
        elif isinstance(tree, ast.Name):
            if tree.id not in self.known:
                raise unknown(f"{self.where}: no operand or attribute", tree.id, self.known)
            self.names.add(tree.id)
        elif isinstance(tree, ast.UnaryOp) and isinstance(tree.op, ast.USub | ast.UAdd):
            self._cost(1, 1, tree.operand)
        elif isinstance(tree, ast.BinOp) and type(tree.op) in OPERATORS:
            self._cost(1, 1, tree.left, tree.right)
        elif isinstance(tree, ast.BinOp) and isinstance(tree.op, ast.Div):
            self._cost(DIVIDE.work, DIVIDE.flops, tree.left, tree.right)
        elif isinstance(tree, ast.BinOp) and isinstance(tree.op, ast.Pow):
            self._power(tree)
        elif isinstance(tree, ast.Call):
            self._call(tree)
        elif isinstance(tree, ast.IfExp) and _is_comparison(tree.test):
            self._cost(2, 1, tree.body, tree.orelse, tree.test.left, *tree.test.comparators)
        else:
            raise FusecError(
                f"{self.where}: '{ast.unparse(tree)}': expected + - * /, numbers, x**2 to x**8, "
                f"functions ({', '.join(sorted(FUNCTIONS))}) or 'a if x < y else b'"
            )

    def _number(self, value: object) -> None:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not abs(value) <= LARGEST:  # type: ignore[arg-type]
            raise FusecError(f"{self.where}: {value!r}: expected a number of f32")

    def _power(self, tree: ast.BinOp) -> None:
        exponent = tree.right.value if isinstance(tree.right, ast.Constant) else None
        if type(exponent) is not int or exponent not in POWERS:
            raise FusecError(
                f"{self.where}: '{ast.unparse(tree)}': expected a whole number from {POWERS[0]} to "
                f"{POWERS[-1]} as exponent, found '{ast.unparse(tree.right)}'"
            )
        # the compiler computes the base once
        self._cost(exponent - 1, exponent - 1, tree.left)

    def _call(self, tree: ast.Call) -> None:
        name = ast.unparse(tree.func)
        if name not in FUNCTIONS:
            raise unknown(f"{self.where}: no function", name, FUNCTIONS)
        function = FUNCTIONS[name]
        if len(tree.args) != function.operands or tree.keywords:
            raise FusecError(
                f"{self.where}: expected {function.operands} operands of {name}, found "
                f"'{ast.unparse(tree)}'"
            )
        self._cost(function.work, function.flops, *tree.args)

    def _cost(self, work: int, flops: int, *parts: ast.expr) -> None:
        self.work += work
        self.flops += flops
        for part in parts:
            self.check(part)


class _Emitter:
    """Writes a tree that a `_Reader` has checked."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self.values = values

    def emit(self, tree: ast.expr) -> str:
        """Source of the value."""
        if isinstance(tree, ast.Constant):
            return number(tree.value)  # type: ignore[arg-type]
        if isinstance(tree, ast.Name):
            return self.values[tree.id]
        if isinstance(tree, ast.UnaryOp | ast.BinOp):
            return self._operator(tree)
        if isinstance(tree, ast.IfExp):
            return f"{SELECT.emitted}({self._test(tree.test)}, {self._all(tree.body, tree.orelse)})"
        assert isinstance(tree, ast.Call)
        return f"{FUNCTIONS[ast.unparse(tree.func)].emitted}({self._all(*tree.args)})"

    def _operator(self, tree: ast.UnaryOp | ast.BinOp) -> str:
        if isinstance(tree, ast.UnaryOp):
            value = self.emit(tree.operand)
            return f"(-{value})" if isinstance(tree.op, ast.USub) else value
        if isinstance(tree.op, ast.Pow):
            assert isinstance(tree.right, ast.Constant)
            return f"({' * '.join([self.emit(tree.left)] * int(tree.right.value))})"  # type: ignore[arg-type]
        left, right = self.emit(tree.left), self.emit(tree.right)
        if isinstance(tree.op, ast.Div):
            return f"{DIVIDE.emitted}({left}, {right})"
        return f"({left} {OPERATORS[type(tree.op)]} {right})"

    def _all(self, *trees: ast.expr) -> str:
        return ", ".join(map(self.emit, trees))

    def _test(self, tree: ast.expr) -> str:
        assert isinstance(tree, ast.Compare)
        sign = COMPARISONS[type(tree.ops[0])]
        return f"{self.emit(tree.left)} {sign} {self.emit(tree.comparators[0])}"


def _is_comparison(tree: ast.expr) -> TypeGuard[ast.Compare]:
    """Whether it is one comparison of two values."""
    return isinstance(tree, ast.Compare) and len(tree.ops) == 1 and type(tree.ops[0]) in COMPARISONS


def number(value: float) -> str:
    """Source of a constant. An infinity and a NaN have none: raises FusecError."""
    if not math.isfinite(value):
        raise FusecError(f"expected a finite number in an expression, found {value}")
    return f"float32({float(value)!r})"
