"""Intermediate values as outputs: what is merged stays merged, and no other byte changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import fusec
from fusec.errors import FusecError
from fusec.ir.plan import GENERATING
from fusec.passes.give_out import wanted

CONTEXT = 48
IDS = [int(i) for i in np.random.default_rng(5).integers(0, 512, 21)]
RESIDUALS = ["blk.*.attn_residual", "blk.*.ffn_residual"]

pytestmark = pytest.mark.xdist_group("give-out")


def compiled(path: Path, target: str, level: int, **options: object) -> fusec.Compiled:
    return fusec.compile(path, target=target, level=level, context=CONTEXT, **options)


def values_of(graph: fusec.Graph) -> list[str]:
    return [v.name for node in graph.nodes for v in node.outputs if not v.is_state]


@pytest.mark.slow
@pytest.mark.parametrize("target", ["cpu", "sm_90a"])
@pytest.mark.parametrize("level", [0, 1, 2, 3])
def test_launches_are_the_same_with_others_behind_them(
    tiny_model: Path, target: str, level: int
) -> None:
    plain = compiled(tiny_model, target, level)
    every = compiled(tiny_model, target, level, outputs=["*"])
    for before, after in ((plain.plan, every.plan), (plain.prefill, every.prefill)):
        count = len(before.launches)
        assert [x.kernel for x in after.launches[:count]] == [x.kernel for x in before.launches]
        assert [x.early for x in after.launches[:count]] == [x.early for x in before.launches]
        assert {x.group for x in after.launches[count:]} <= {"outputs"}
        assert after.dispatches["forward"] == before.dispatches["forward"]
        assert [x.kernel for x in after.generating.launches] == [x.kernel for x in before.launches]
    decode_graph = every.stages[0].graph
    assert set(every.plan.outputs) == GENERATING | set(values_of(decode_graph))
    assert every.stages[-1].name == "outputs"


@pytest.mark.parametrize("level", [0, 1, 2])
def test_a_residual_costs_no_launch(tiny_model: Path, level: int) -> None:
    asked = compiled(tiny_model, "cpu", level, outputs=RESIDUALS)
    assert "outputs" not in asked.plan.dispatches["other"]
    assert len(asked.plan.asked) == 2 * sum("ffn_down" in w for w in asked.plan.weights)


def test_at_o3_only_the_last_residual_is_made_again(tiny_model: Path) -> None:
    """The others are written by the kernels that read them: it is what the head's kernel hides."""
    asked = compiled(tiny_model, "sm_90a", 3, outputs=RESIDUALS)
    assert asked.plan.dispatches["other"]["outputs"] == 1


@pytest.fixture(scope="module")
def naive(tiny_model: Path) -> dict[str, np.ndarray]:
    """All values as launches without any merging make them."""
    with fusec.load(tiny_model, level=0, context=CONTEXT, outputs=["*"]) as engine:
        return engine.trace(IDS)


@pytest.mark.parametrize("level", [1, 2, 3])
@pytest.mark.parametrize("width", [1, 5, 16])
def test_values_have_the_bytes_of_unmerged_launches(
    tiny_model: Path, naive: dict[str, np.ndarray], level: int, width: int
) -> None:
    with fusec.load(tiny_model, level=level, context=CONTEXT, outputs=["*"]) as engine:
        found = engine.trace(IDS, width=width)
    assert set(found) == set(naive)
    different = [name for name in naive if found[name].tobytes() != naive[name].tobytes()]
    assert different == []


def test_logits_and_tokens_are_those_without_outputs(tiny_model: Path) -> None:
    with (
        fusec.load(tiny_model, context=CONTEXT) as plain,
        fusec.load(tiny_model, context=CONTEXT, outputs=["blk.*.q", "blk.1.swiglu"]) as asked,
    ):
        logits = asked.trace(IDS)["logits"]
        assert logits.tobytes() == plain.logits(IDS).tobytes() == asked.logits(IDS).tobytes()
        assert list(asked.tokens(IDS[:4], 9)) == list(plain.tokens(IDS[:4], 9))


def test_values_are_those_of_the_reference(tiny_model: Path, naive: dict[str, np.ndarray]) -> None:
    """In float64, of one step at position 0."""
    outputs = ["blk.0.attn_norm", "blk.1.ffn_residual"]
    asked = compiled(tiny_model, "cpu", 2, outputs=outputs, kv="f32")
    model = asked.model
    weights = {name[1:]: model.floats(name[1:]) for name in asked.plan.weights}
    graph = model.graph(tokens=1, context=CONTEXT, kv="f32")
    reference = fusec.Reference(asked.graph.unfused(), weights)
    one = {"token": np.array(IDS[:1], np.int32), "pos": np.zeros(1, np.int32)}
    found = reference.step(**one)
    assert graph.outputs == asked.graph.outputs[: len(graph.outputs)]
    for name in outputs:
        np.testing.assert_allclose(naive[name][:1], found[name], rtol=0, atol=2e-3)


def test_names_come_in_the_order_of_the_graph(tiny_model: Path) -> None:
    graph = compiled(tiny_model, "cpu", 0).stages[0].graph
    assert wanted(graph, ["blk.1.ffn_residual", "%blk.0.ffn_*"])[-1] == "%blk.1.ffn_residual"
    assert wanted(graph, ["blk.0.q", "blk.0.q"]) == ("%blk.0.q",)


@pytest.mark.parametrize(
    ("outputs", "reason"),
    [
        ("blk.*.hidden", "shows it) has no value 'blk.*.hidden': "),
        (["blk.0.ffn_residul"], "did you mean blk.0.ffn_residual or "),
        (["$blk.0.k"], "has no value '$blk.0.k': did you mean blk.0.k"),
        ([3], "expected names of values, found 3"),
    ],
)
def test_names_that_are_refused(tiny_model: Path, outputs: object, reason: str) -> None:
    with pytest.raises(FusecError) as caught:
        fusec.load(tiny_model, outputs=outputs)
    assert reason in str(caught.value)


def test_a_graph_built_by_hand() -> None:
    """Its only launch hides the value, so one more makes it."""
    build = fusec.Builder("two")
    x = build.input("x", (1, 64))
    y = build.silu(x, name="y")
    asked = fusec.compile(build.build(build.mul(y, x, name="z")), outputs=["y"])
    given = np.linspace(-2, 2, 64, dtype=np.float32)[None]
    with asked.session({}) as session:
        found = session.step(x=given)
    np.testing.assert_allclose(found["y"], given / (1 + np.exp(-given)), rtol=1e-6)
    assert asked.plan.dispatches["other"] == {"outputs": 1}
