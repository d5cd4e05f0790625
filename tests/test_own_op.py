"""An op that a script registers: fused and run on both targets, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fusec
from fusec import driver, prepared
from fusec.codegen.cpu.imports import FUNCTIONS as CPU_FUNCTIONS
from fusec.codegen.cuda.build import compile_many
from fusec.codegen.cuda.imports import modules
from fusec.ir import Builder, Graph
from fusec.ir.expression import DIVIDE, FUNCTIONS, SELECT
from fusec.ir.ops import OPS
from tests import pages
from tests.codegen.cuda.one_kernel import distance
from tests.codegen.cuda.twin_session import TwinSession, random_weights, reference
from tests.own_ops import WIDTH, gated, register_softsign, softsign
from tests.params import slow_but
from tests.random_numbers import random_numbers
from tests.targets import HOPPER

RANDOM = random_numbers(3)


pytestmark = pytest.mark.usefixtures("own_ops_table")


def on_the_cpu(graph: Graph, weights: dict[str, Any], x: np.ndarray, level: int = 2) -> np.ndarray:
    with fusec.compile(graph, level=level).session(
        {k[1:]: v for k, v in weights.items()}
    ) as session:
        return session.step(x=x)["y"]


# --- both targets ---------------------------------------------------------------------------------

EXPRESSIONS: dict[str, tuple[str, Any]] = {
    "softsign": ("x / (1 + abs(x))", softsign),
    "threshold": ("x * x if x > t else -0.5", lambda x, *, t=0.25: np.where(x > t, x * x, -0.5)),
    "mish": ("x * tanh(softplus(x))", lambda x: x * np.tanh(np.logaddexp(x, 0))),
    "clipped": (
        "max(min(x, top), -1) + sqrt(abs(x))",
        lambda x, *, top=0.5: np.clip(x, -1, top) + np.sqrt(np.abs(x)),
    ),
    "powers": (
        "0.1 * (x - 1)**3 + x**8 / (1 + x**2)**4",
        lambda x: 0.1 * (x - 1) ** 3 + (x * x / (1 + x * x)) ** 4,
    ),
    "waves": (
        "sin(3 * x) + cos(x) * log(1 + x * x)",
        lambda x: np.sin(3 * x) + np.cos(x) * np.log(1 + x * x),
    ),
    "slopes": ("tan(0.25 * tanh(x))", lambda x: np.tan(0.25 * np.tanh(x))),
    "mixed": (
        "sigmoid(x) - silu(x) * gelu(x) + relu_squared(+x) - softcap(x, 2) + exp(-x / 8)",
        lambda x: (
            1 / (1 + np.exp(-x))
            - x / (1 + np.exp(-x)) * OPS["gelu"].reference(x)
            + np.maximum(x, 0) ** 2
            - 2 * np.tanh(x / 2)
            + np.exp(-x / 8)  # of x as it is, the rounding of x = -30 shows in six digits
        ),
    ),
}


@pytest.mark.parametrize("name", slow_but(["softsign", "mixed", "waves"], EXPRESSIONS))
def test_it_is_an_epilogue_on_both_targets(name: str) -> None:
    fusec.register_op(name, *EXPRESSIONS[name])
    graph = gated(name)
    for target in ("cpu", "sm_90a"):
        compiled = fusec.compile(graph, target=target)
        assert [n.kind for n in compiled.graph.nodes] == [f"norm_matvec_{name}_mul", "matvec"]
    weights, x = random_weights(graph), RANDOM.standard_normal((1, WIDTH)).astype(np.float32)
    wanted = reference(graph, weights).step(x=x)["y"]
    levels = [TwinSession(graph, weights, level).step(x=x)["y"] for level in (0, 2)]
    assert levels[0].tobytes() == levels[1].tobytes()
    on_cpu = [on_the_cpu(graph, weights, x, level) for level in (0, 2)]
    assert on_cpu[0].tobytes() == on_cpu[1].tobytes()
    for found in (on_cpu[0], levels[0]):
        assert distance(found, wanted) < 2e-6


@pytest.mark.parametrize("tokens", slow_but([1], [1, 16]))
def test_it_stands_in_front_of_products_and_behind_them_in_steps_of_any_width(tokens: int) -> None:
    register_softsign()
    b = Builder("around")
    x = b.input("x", (tokens, 256))
    n = b.rms_norm(b.op("softsign", x), b.weight("norm", (256,)), eps=1e-5)
    gate, up = (b.matvec(n, b.weight(name, (128, 256), "q4_k")) for name in ("gate", "up"))
    h = b.mul(b.op("softsign", gate), up)
    graph = b.build(b.op("softsign", b.matvec(h, b.weight("down", (64, 128), "q8_0")), name="y"))
    weights = random_weights(graph)
    given = RANDOM.standard_normal((tokens, 256)).astype(np.float32)
    wanted = reference(graph, weights).step(x=given)["y"]
    levels = [TwinSession(graph, weights, level, target=HOPPER) for level in (0, 3)]
    kinds = [node.kind for node in levels[1].graph.nodes]
    assert len(kinds) == {1: 2, 16: 3}[tokens]
    found = [session.step(x=given)["y"] for session in levels]
    assert found[0].tobytes() == found[1].tobytes()
    for result in (found[0], on_the_cpu(graph, weights, given)):
        assert distance(result, wanted) < 1e-5


def test_two_operands_of_which_one_is_shared_or_a_weight() -> None:
    fusec.register_op("bent", "x * y / (1 + abs(y))", lambda x, y: x * softsign(y))
    b = Builder("two")
    x = b.input("x", (1, WIDTH))
    shared = b.op("bent", x, b.input("each", (1, 8)))
    graph = b.build(b.op("bent", shared, b.weight("w", (WIDTH,)), name="y"))
    weights = random_weights(graph)
    given = {v.name[1:]: RANDOM.standard_normal(v.shape).astype(np.float32) for v in graph.inputs}
    wanted = reference(graph, weights).step(**given)["y"]
    with fusec.compile(graph).session({"w": weights["@w"]}) as session:
        found = session.step(**given)["y"]
    for result in (found, TwinSession(graph, weights, 2).step(**given)["y"]):
        assert distance(result, wanted) < 1e-6


@pytest.mark.cuda
@pytest.mark.parametrize("name", ["mish", "waves", "slopes"])
def test_it_is_assembled_for_a_gpu(name: str) -> None:
    fusec.register_op(name, *EXPRESSIONS[name])
    kernels = fusec.compile(gated(name), target="sm_90a").kernels
    for cubin in compile_many(list(kernels.values()), "sm_90a"):
        assert len(cubin.data) > 1000
        assert ".f64" not in cubin.ptx
        assert cubin.spill_stores == cubin.spill_loads == 0


def test_infinities_and_zeros_are_those_of_ieee_754() -> None:
    fusec.register_op("inverse", "1 / x", lambda x: 1 / x)
    b = Builder("inverse")
    graph = b.build(b.op("inverse", b.input("x", (1, 4)), name="y"))
    x = np.array([[0.0, -0.0, 2.0, np.inf]], np.float32)
    for session in (fusec.compile(graph).session({}), TwinSession(graph, {}, 0)):
        with np.errstate(divide="ignore"):
            assert session.step(x=x)["y"].tolist() == [[np.inf, -np.inf, 0.5, 0]]


def test_every_function_is_there_on_every_target() -> None:
    emitted = {f.emitted for f in (*FUNCTIONS.values(), DIVIDE, SELECT)}
    assert emitted <= set().union(*CPU_FUNCTIONS.values())
    assert emitted <= modules().keys()


# --- keys and caches ------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["cpu", "sm_90a"])
def test_two_ops_of_one_name_share_no_kernel(target: str) -> None:
    def kernels() -> dict[str, str]:
        made = fusec.compile(gated("mine"), target=target).kernels
        return {name: kernel.source for name, kernel in made.items()}

    fusec.register_op("mine", "x + x", lambda x: x + x)
    first = kernels()
    fusec.register_op("mine", "x * x", lambda x: x * x, replace=True)
    other = kernels()
    assert len(first) == len(other) == 2
    (shared,) = first.keys() & other.keys()  # the product behind it
    assert first[shared] == other[shared]
    fusec.register_op("mine", "x + x", lambda x: x + x, replace=True)
    assert kernels() == first


def test_numbers_follow_the_op_that_is_registered() -> None:
    x = np.array([[1.0, 2, 3, 5]], np.float32)
    found = []
    for expression, meant in (("x + x", lambda x: x + x), ("x * x", lambda x: x * x)):
        fusec.register_op("mine", expression, meant)
        b = Builder("mine")
        graph = b.build(b.op("mine", b.input("x", (1, 4)), name="y"))
        with fusec.compile(graph).session({}) as session:
            found.append(session.step(x=x)["y"].tolist())
        fusec.unregister_op("mine")
    assert found == [[[2, 4, 6, 10]], [[1, 4, 9, 25]]]


def test_plans_with_it_are_made_every_time() -> None:
    options = driver.options_of("cpu")
    register_softsign()
    assert prepared.entry_of([gated()], options) is None
    assert prepared.entry_of([gated("silu")], options) is not None


def test_an_op_registered_before_anything_else_is_imported_is_not_fusecs_own() -> None:
    """Nor is a format: what comes with fusec is known before a script can add to it."""
    code = """
import numpy as np, fusec
fusec.register_op("mine", "x + x", lambda x: x + x)
from fusec.codegen.formats import FORMATS
FORMATS["theirs"] = FORMATS["q8_0"]
from fusec import driver, prepared
from tests.params import slow_but
b = fusec.Builder("g")
graph = b.build(b.op("mine", b.input("x", (1, 4))))
assert prepared.entry_of([graph], driver.options_of("cpu")) is None
assert "theirs" not in prepared.OWN_FORMATS
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=pages.ROOT)


# --- the example ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    path = Path(pages.ROOT / "examples" / "own_op.py")
    names: dict[str, Any] = {"__name__": "own_op"}
    exec(compile(path.read_text(), str(path), "exec"), names)
    names["main"]()
    kernels, error, source = capsys.readouterr().out.splitlines()
    assert kernels.endswith("norm_matvec_shrink_mul, matvec_add")
    assert 0 < float(error.split()[3]) < 1e-5
    assert "select_f32(v4 > float32(0.25), (v4 * v4), float32(0.0))" in source
