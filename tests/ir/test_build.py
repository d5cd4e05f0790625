"""Builder: its methods are the op table's, for people and for type checkers."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from fusec.errors import FusecError
from fusec.ir import Builder, Value, op_methods
from fusec.ir.ops import OWN_OPS
from fusec.ir.own_op import register_op, unregister_op
from tests.ir import methods

FILE = Path(op_methods.__file__)


def formatted(text: str) -> str:
    command = [sys.executable, "-m", "ruff", "format", "--line-length", "100", "-"]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout


def test_the_methods_are_those_of_the_table(update_golden: bool) -> None:
    wanted = formatted(methods.module())
    if update_golden:
        FILE.write_text(wanted)
    assert FILE.read_text() == wanted, "UPDATE_GOLDEN=1 writes it again"


@pytest.mark.parametrize("name", OWN_OPS)
def test_each_says_what_it_does(name: str) -> None:
    method = getattr(Builder, name)
    about, _, *types, result = (inspect.getdoc(method) or "").splitlines()
    assert about.endswith(".")
    assert ", ".join(types) == OWN_OPS[name].operands
    assert len(result) > len("-> ")
    assert name in dir(Builder("toy"))


def test_optional_operands_are_left_out_or_named() -> None:
    b = Builder("toy")
    x, w, bias = b.input("x", (1, 8)), b.weight("w", (8,)), b.weight("bias", (8,))
    plain, biased = b.layer_norm(x, w, eps=1e-5), b.layer_norm(x, w, bias=bias, eps=1e-5)
    graph = b.build(plain, biased)
    assert [len(node.inputs) for node in graph.nodes] == [2, 3]


def test_a_whole_number_is_a_float_where_one_is_wanted() -> None:
    b = Builder("toy")
    graph = b.build(b.softcap(b.input("x", (1, 8)), cap=30))
    assert graph.nodes[0]["cap"] == 30.0
    assert type(graph.nodes[0]["cap"]) is float
    with pytest.raises(FusecError, match="cap to be float, found True"):
        b.softcap(graph.inputs[0], cap=True)


def test_a_registered_op_is_a_method_too() -> None:
    b = Builder("toy")
    register_op("halved", "x * factor", lambda x, *, factor=0.5: x * factor)
    try:
        assert "halved" in dir(b)
        assert str(inspect.signature(b.halved)) == (
            "(x: 'Value', *, factor: 'float' = 0.5, name: 'str | None' = None) -> 'Value'"
        )
        assert b.halved.__name__ == "halved"
        assert inspect.getdoc(b.halved) == "x * factor.\n\nx: f32[T, n]"
        result = b.halved(b.input("x", (1, 8)), factor=0.25, name="y")
        assert result == Value("%y", "f32", (1, 8))
        with pytest.raises(TypeError, match="missing a required argument: 'x'"):
            b.halved(factor=0.25)
    finally:
        unregister_op("halved")
    assert "halved" not in dir(b)


def test_another_name_is_none() -> None:
    with pytest.raises(AttributeError, match=r"no op 'sofcap': did you mean 'softcap'\? known are"):
        Builder("toy").sofcap  # noqa: B018
    assert not hasattr(Builder("toy"), "__wrapped__")


def test_names_that_would_not_parse_back_are_refused() -> None:
    b = Builder("toy")
    x = b.input("x", (1, 4))
    for wrong in (
        lambda: Builder("my graph"),
        lambda: b.input("x y", (1, 4)),
        lambda: b.input("", (1, 4)),
    ):
        with pytest.raises(FusecError, match="expected a name of letters, digits and _"):
            wrong()
    with pytest.raises(FusecError, match=r"silu: expected a name of .*, found 'a b'"):
        b.silu(x, name="a b")


def test_an_operand_too_few_is_named() -> None:
    register_op("product", "x * y", lambda x, y: x * y)
    try:
        b = Builder("toy")
        with pytest.raises(
            TypeError, match=r"Builder\.product: missing a required argument: 'y', "
        ):
            b.product(b.input("x", (1, 4)))  # type: ignore[attr-defined]
    finally:
        unregister_op("product")
