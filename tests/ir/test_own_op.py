"""The entry that `register_op` makes of an op, and what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fusec
from fusec.errors import FusecError
from fusec.ir import Builder
from fusec.ir.expression import read
from fusec.ir.ops import OPS, flops
from tests.own_ops import gated, register_softsign

pytestmark = pytest.mark.usefixtures("own_ops_table")


def test_the_entry_is_that_of_any_op() -> None:
    entry = register_softsign()
    assert OPS["softsign"] is entry
    assert (entry.role, entry.arity, entry.operands) == ("element", (1, 1), "x: f32[T, n]")
    assert entry.about == "x / (1 + |x|), Bergstra et al. 2009."
    assert entry.work == 4 + 1 + 1 + 10  # abs, +, /
    (node,) = [n for n in gated().nodes if n.op == "softsign"]
    assert flops(node) == 3 * 128
    assert register_softsign(replace=True, work=9).work == 9


def test_an_attribute_has_a_default_or_has_to_be_given() -> None:
    fusec.register_op("capped", "min(x, top)", lambda x, *, top: np.minimum(x, top))
    b = Builder("g")
    x = b.input("x", (1, 4))
    assert b.build(b.op("capped", x, top=2)).nodes[0]["top"] == 2.0
    with pytest.raises(FusecError, match=r"capped making %1: expected attributes \['top'\]"):
        b.op("capped", x)


def test_its_own_inference_refuses_operands() -> None:
    def even(node: fusec.Node) -> list[tuple[str, tuple[int, ...]]]:
        if node.inputs[0].shape[1] % 2:
            raise FusecError("expected an even number of elements")
        return [("f32", node.inputs[0].shape)]

    register_softsign(infer=even)
    b = Builder("g")
    b.op("softsign", b.input("x", (1, 4)))
    with pytest.raises(FusecError, match="expected an even number of elements"):
        b.op("softsign", b.input("y", (1, 3)))


@pytest.mark.parametrize("made", [[("f32", (1, 5))], [("f16", (1, 4))], [], None, [1]])
def test_a_wrong_inference_is_refused_at_the_first_use(made: Any) -> None:
    register_softsign(infer=lambda _node: made)
    b = Builder("g")
    with pytest.raises(FusecError, match=r"expected op 'softsign' to infer .*, found"):
        b.op("softsign", b.input("x", (1, 4)))


def test_operands_that_do_not_fit_are_refused() -> None:
    fusec.register_op("sum_of", "x + y", lambda x, y: x + y)
    b = Builder("g")
    with pytest.raises(FusecError, match=r"sum_of making %0: expected b: f32\[1, 4\]"):
        b.op("sum_of", b.input("x", (1, 4)), b.input("y", (1, 3)))


def test_unregistered_it_is_unknown() -> None:
    register_softsign()
    text = str(gated())
    fusec.unregister_op("softsign")
    with pytest.raises(FusecError, match="unknown op 'softsign'"):
        fusec.compile(fusec.parse(text))
    with pytest.raises(FusecError, match="no op was registered as 'softsign'"):
        fusec.unregister_op("softsign")
    with pytest.raises(FusecError, match="op 'silu' comes with fusec"):
        fusec.unregister_op("silu")


def f(x: np.ndarray) -> np.ndarray:
    return x


REFUSED: dict[str, tuple[tuple[Any, ...], dict[str, Any], str]] = {
    "no name": (("Soft Sign", "x", f), {}, "op 'Soft Sign': expected a name of a-z, 0-9 and _"),
    "keyword": (("lambda", "x", f), {}, "op 'lambda': expected a name"),
    "a role's name": (("rows", "x", f), {}, "op 'rows': the name means something else"),
    "a method's name": (("weight", "x", f), {}, "op 'weight': the name means something else"),
    "fusec's own": (("silu", "x", f), {"replace": True}, "op 'silu': the name is taken, by an op"),
    "role": (("mine", "x", f), {"role": "rows"}, "role 'rows' needs code in the emitters"),
    "no role": (("mine", "x", f), {"role": "elem"}, "unknown role 'elem': did you mean 'element'?"),
    "no reference": (("mine", "x", None), {}, "op 'mine': expected a reference, a function of"),
    "no expression": (("mine", None, f), {}, "op 'mine': expected an expression as text, found"),
    "grammar": (("mine", "x +", f), {}, "op 'mine': expression 'x +': invalid syntax"),
    "a name": (("mine", "x + y", f), {}, "expression 'x + y': no operand or attribute 'y'"),
    "a function": (
        ("mine", "tann(x)", f),
        {},
        "no function 'tann': did you mean 'tan'? known are",
    ),
    "operands of one": (("mine", "max(x)", f), {}, "expected 2 operands of max, found 'max(x)'"),
    "nothing": (("mine", " ", f), {}, "op 'mine': expected an expression such as 'x / (1 + abs"),
    "a root": (("mine", "x ** 0.5", f), {}, "'x ** 0.5': expected a whole number from 2 to 8 as "),
    "a power": (("mine", "x ** x", f), {}, "from 2 to 8 as exponent, found 'x'"),
    "a large power": (("mine", "x ** 9", f), {}, "from 2 to 8 as exponent, found '9'"),
    "a remainder": (("mine", "x % 2", f), {}, "'x % 2': expected + - * /, numbers, x**2 to x**8, "),
    "a chain": (("mine", "x if 0 < x < 1 else 0", f), {}, "or 'a if x < y else b'"),
    "an attribute": (("mine", "x.real", f), {}, "'x.real': expected + - * /"),
    "no number": (("mine", "x + 'a'", f), {}, "'a': expected a number of f32"),
    "a large number": (("mine", "x + 1e39", f), {}, "1e+39: expected a number of f32"),
    "unused": (("mine", "1 + 1", f), {}, "it does not use 'x'"),
    "no operands": (("mine", "1", lambda: 1), {}, "found one without operands"),
    "any operands": (("mine", "x", lambda *x: x), {}, "found the parameter '*x'"),
    "a default": (("mine", "x", lambda x=1: x), {}, "found the parameter 'x=1'"),
    "text": (("mine", "x", lambda x, *, how="up": x), {}, "expected a number as its default"),
    "a ufunc": (("mine", "x", np.divmod), {}, "op 'mine': expected a reference like"),
    "other numbers": (
        ("mine", "x / (1 + abs(x))", lambda x: x / (1 + x * x)),
        {},
        "op 'mine': expression and reference differ: at x = ",
    ),
    "another shape": (
        ("mine", "x", lambda x: x.sum(-1)),
        {},
        "first operand, (2, 256), found (2,)",
    ),
    "a failure": (("mine", "x", lambda x: x.nothing), {}, "op 'mine': the reference fails: Attr"),
}


@pytest.mark.parametrize(("given", "options", "reason"), REFUSED.values(), ids=REFUSED)
def test_a_bad_registration_is_refused(
    given: tuple[Any, ...], options: dict[str, Any], reason: str
) -> None:
    before = dict(OPS)
    with pytest.raises(FusecError) as error:
        fusec.register_op(*given, **options)
    assert reason in str(error.value)
    assert "<unknown>" not in str(error.value)  # where Python's parser says that it found it
    assert before == OPS


def test_a_name_is_registered_once() -> None:
    register_softsign()
    with pytest.raises(FusecError, match=r"the name is taken: unregister_op\('softsign'\) first"):
        register_softsign()


def test_a_power_is_a_product() -> None:
    found = read("mine", "-x**2 + (x + 1)**3", ["x"])
    assert found.source({"x": "v"}) == (
        "((-(v * v)) + ((v + float32(1.0)) * (v + float32(1.0)) * (v + float32(1.0))))"
    )
    assert found.work == 1 + 1 + 1 + 2 + 1  # -, the square, +, the cube, the sum in it
    assert found.evaluate({"x": np.array([2.0, -1])}).tolist() == [23, -1]


def test_an_expression_tells_what_it_costs() -> None:
    found = read("mine", " -x * exp(x) ", ["x"])
    assert (found.work, found.flops) == (1 + 1 + 25, 1 + 1 + 2)
    assert found.source({"x": "v[i]"}) == "((-v[i]) * exp_f32(v[i]))"
