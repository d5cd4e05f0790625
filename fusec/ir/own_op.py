"""An op of one's own, added to the op table by a script: `fusec.register_op`.

An element-wise op needs nothing but its entry: every rule for such ops takes it, and every target's
emitter writes its expression into kernels. Ops of other roles need code in the emitters as well:
they are added to fusec itself (docs/extending.md).
"""

from __future__ import annotations

import inspect
import keyword
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fusec.errors import FusecError, unknown
from fusec.ir.build import Builder
from fusec.ir.expression import Expression, number, read
from fusec.ir.graph import Attr, Node
from fusec.ir.op import ROLES, Op
from fusec.ir.op_checks import Array, Type, elements_of, want
from fusec.ir.op_elementwise import infer_binary, infer_unary, spread
from fusec.ir.ops import OPS, OWN_OPS
from fusec.ir.remember import forget

Reference = Callable[..., Array]
Infer = Callable[[Node], Sequence[Type]]

WORDS = {"fused", "node", "input", "state", *ROLES}
"""Words of the IR and of patterns, which no op is called."""
WORK = 4  # a thread's instructions around those of the expression: to load, and to store
SAMPLES = 256
TOLERANCE = 1e-3  # of the larger of 1 and the value: the numbers contract with an f16 cache


@dataclass(frozen=True)
class Signature:
    """Names of a reference's operands, and its attributes with their default or type."""

    operands: tuple[str, ...]
    attributes: Mapping[str, Attr | type]


def register_op(
    name: str,
    expression: str,
    reference: Reference,
    *,
    role: str = "element",
    infer: Infer | None = None,
    work: float | None = None,
    replace: bool = False,
) -> Op:
    """Add an element-wise op to the op table; `Builder` has it as a method, rules and targets too.

        fusec.register_op("softsign", "x / (1 + abs(x))", lambda x: x / (1 + np.abs(x)))

    `expression`: element i of the result, of element i of the operands: + - * /, numbers, x**2 to
    x**8 (products, from left to right), `abs`, `min`, `max`, `sqrt`, `exp`, `log`, `sin`,
    `cos`, `tan`, `tanh`, `sigmoid`, `silu`, `gelu`, `softplus`, `relu_squared`, `softcap` and
    `a if x < y else b`, computed in f32 (`fusec.ir.expression`).
    `reference`: the same in NumPy, over whole arrays float[T, n]. Its positional parameters are the
    operands, in order; its keyword-only ones are attributes, numbers, with their defaults.
    `role`: how element i follows from the operands; only "element" can be registered.
    `infer`: of a node, [("f32", shape)]; by default the first operand's shape. The others have as
    many elements, or fewer that divide these, or are weights f32[n]. An `infer` of one's own can
    raise FusecError for operands that it does not take.
    `work`: a thread's instructions for one element, for the cost model; by default they are counted
    in the expression. `replace`: take the place of an op that was registered before.

    Returns the entry. Raises FusecError for a name that is taken or is no name, an expression that
    cannot be read, and a reference that gives other numbers, or another shape, than the expression.
    """
    _check_name(name, replace)
    if role != "element":
        raise unknown_role(name, role)
    if not callable(reference):
        raise FusecError(f"op '{name}': expected a reference, a function of arrays, found none")
    if not isinstance(expression, str):
        raise FusecError(f"op '{name}': expected an expression as text, found {expression!r}")
    signature = signature_of(name, reference)
    names = (*signature.operands, *signature.attributes)
    written = read(name, expression, names)
    if unused := [n for n in names if n not in written.names]:
        raise FusecError(f"op '{name}': expression '{expression}': it does not use '{unused[0]}'")
    _check_agreement(name, written, reference, signature)
    entry = Op(
        name,
        "element",
        ", ".join(f"{operand}: f32[T, n]" for operand in signature.operands),
        (len(signature.operands),) * 2,
        _checked(name, infer or _infer),
        _spreading(reference),
        lambda node: max(1, written.flops) * elements_of(node),
        signature.attributes,
        expression=lambda node, x: _source(written, signature, node, x),
        work=WORK + written.work if work is None else work,
        text=f"{name}({', '.join(names)}) = {written.text}\n",
        doc=(inspect.getdoc(reference) or f"{written.text}.").partition("\n")[0],
    )
    OPS[name] = entry
    forget()
    return entry


def unregister_op(name: str) -> None:
    """Take an op that was registered out of the table. Raises FusecError for another."""
    if name in OWN_OPS:
        raise FusecError(f"op '{name}' comes with fusec: it cannot be unregistered")
    if name not in OPS:
        raise unknown("no op was registered as", name, OPS.keys() - OWN_OPS.keys())
    del OPS[name]
    forget()


def unknown_role(name: str, role: str) -> FusecError:
    """An error for a role that cannot be registered."""
    if role not in ROLES:
        return unknown(f"op '{name}': unknown role", role, ROLES)
    return FusecError(
        f"op '{name}': role '{role}' needs code in the emitters, which is added to fusec itself: "
        f"expected 'element'"
    )


def _check_name(name: str, replace: bool) -> None:
    is_name = isinstance(name, str) and re.fullmatch("[a-z][a-z0-9_]*", name)
    if not is_name or keyword.iskeyword(name):
        raise FusecError(f"op {name!r}: expected a name of a-z, 0-9 and _, such as 'softsign'")
    if name in WORDS or (name in dir(Builder) and name not in OPS):
        raise FusecError(f"op '{name}': the name means something else in graphs and patterns")
    if name in OWN_OPS:
        raise FusecError(f"op '{name}': the name is taken, by an op that comes with fusec")
    if name in OPS and not replace:
        raise FusecError(
            f"op '{name}': the name is taken: unregister_op('{name}') first, or give replace=True"
        )


def signature_of(name: str, reference: Reference) -> Signature:
    """What a reference takes. Raises FusecError where its parameters do not say it."""
    wanted = "expected a reference like lambda x, y, *, limit=1.0"
    try:
        parameters = inspect.signature(reference).parameters.values()
    except (TypeError, ValueError):
        raise FusecError(f"op '{name}': {wanted}, found one without parameters' names") from None
    operands = []
    attributes: dict[str, Attr | type] = {}
    for each in parameters:
        if each.kind is each.KEYWORD_ONLY:
            attributes[each.name] = _attribute(name, each)
        elif each.kind in (each.VAR_POSITIONAL, each.VAR_KEYWORD) or each.default is not each.empty:
            raise FusecError(f"op '{name}': {wanted}, found the parameter '{each}'")
        else:
            operands.append(each.name)
    if not operands:
        raise FusecError(f"op '{name}': {wanted}, found one without operands")
    return Signature(tuple(operands), attributes)


def _attribute(name: str, parameter: inspect.Parameter) -> Attr | type:
    if parameter.default is parameter.empty:
        return float
    if type(parameter.default) not in (int, float):
        raise FusecError(
            f"op '{name}': attribute '{parameter.name}': expected a number as its default, found "
            f"{parameter.default!r}"
        )
    return parameter.default


def _check_agreement(
    name: str, written: Expression, reference: Reference, signature: Signature
) -> None:
    """Raise FusecError where expression and reference differ, over some random operands."""
    random = np.random.default_rng(0)
    operands = [3 * random.standard_normal((2, SAMPLES)) for _ in signature.operands]
    defaults = {k: 1.0 if v is float else v for k, v in signature.attributes.items()}
    attributes: dict[str, Any] = defaults
    try:
        with np.errstate(all="ignore"):
            wanted = np.asarray(reference(*operands, **attributes))
    except Exception as error:
        raise FusecError(f"op '{name}': the reference fails: {error!r}") from error
    if wanted.shape != operands[0].shape:
        raise FusecError(
            f"op '{name}': expected a reference that gives the shape of its first operand, "
            f"{operands[0].shape}, found {wanted.shape}"
        )
    values = dict(zip(signature.operands, operands, strict=True))
    found = np.broadcast_to(written.evaluate(values | attributes), wanted.shape)
    bound = TOLERANCE * np.maximum(1, np.abs(wanted))
    if (wrong := np.argwhere(~_close(found, wanted, bound))).size:
        at = tuple(wrong[0])
        given = ", ".join(f"{key} = {value[at]:.6g}" for key, value in values.items())
        raise FusecError(
            f"op '{name}': expression and reference differ: at {given} the expression is "
            f"{found[at]:.6g}, the reference {wanted[at]:.6g}"
        )


def _close(found: Array, wanted: Array, bound: Array) -> Array:
    """Element by element; what is not finite has to be the same."""
    with np.errstate(invalid="ignore"):
        near = np.abs(found - wanted) <= bound
    return near | (found == wanted) | (np.isnan(found) & np.isnan(wanted))


def _infer(node: Node) -> list[Type]:
    """As the first operand; each of the others has to fit it."""
    first, *others = node.inputs
    infer_unary(node)
    for other in others:
        infer_binary(Node(node.op, (first, other), node.outputs))
    return [("f32", first.shape)]


def _checked(name: str, infer: Infer) -> Callable[[Node], list[Type]]:
    """An inference whose result is looked at."""

    def inferred(node: Node) -> list[Type]:
        wanted = _infer(node)
        found = infer(node)
        want(list(found or ()) == wanted, f"op '{name}' to infer {wanted}", found)
        return wanted

    return inferred


def _spreading(reference: Reference) -> Reference:
    """The reference for operands of which some have an element for several of the first's."""

    def spreads(first: Array, *others: Array, **attributes: Any) -> Array:
        return reference(first, *(spread(first, other) for other in others), **attributes)

    return spreads


def _source(written: Expression, signature: Signature, node: Node, operands: list[str]) -> str:
    """One element's, for a kernel."""
    values = dict(zip(signature.operands, operands, strict=True))
    return written.source(values | {k: number(float(node[k])) for k in signature.attributes})
