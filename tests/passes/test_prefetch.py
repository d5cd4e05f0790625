"""Weights that are brought into L2 ahead: which, with which launch, and where there are none."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fusec import driver
from fusec.ir.dtypes import dtype
from fusec.ir.graph import LAYER
from fusec.ir.plan import LaunchPlan
from fusec.models.synth import PRESETS
from fusec.passes import prefetch as pass_
from fusec.passes.lower import lower
from fusec.passes.prefetch import prefetch
from tests.graphs import Types, llama_graph


def plain(layers: int = 3, **given: object) -> LaunchPlan:
    """A launch a node, and nothing fetched ahead."""
    return lower(llama_graph(layers=layers, **given), "sm_90a", 0)


def layer_of(weight: str) -> int | None:
    found = LAYER.search(weight)
    return int(found[1]) if found else None


def weights_of_layer(plan: LaunchPlan, layer: int) -> list[str]:
    """By their names, in the order in which the layer's launches read them."""
    read = [a.name for x in plan.launches for a in x.args if a.kind == "weight"]
    return list(dict.fromkeys(name for name in read if layer_of(name) == layer))


def ahead(plan: LaunchPlan) -> dict[int, tuple[str, ...]]:
    return {i: x.prefetch for i, x in enumerate(plan.launches) if x.prefetch}


def lightest_of(plan: LaunchPlan, layer: int) -> int:
    """The first of a layer's launches that read the fewest bytes of weights."""

    def nbytes(i: int) -> int:
        names = (a.name for a in plan.launches[i].args if a.kind == "weight")
        tensors = (plan.weights[name] for name in names)
        return sum(dtype(t.dtype).nbytes(t.shape) for t in tensors)

    return min((i for i, x in enumerate(plan.launches) if x.layer == layer), key=nbytes)


def layer_bytes(plan: LaunchPlan, layer: int) -> int:
    tensors = (plan.weights[name] for name in weights_of_layer(plan, layer))
    return sum(dtype(t.dtype).nbytes(t.shape) for t in tensors)


def test_the_lightest_launch_of_a_layer_fetches_what_the_next_layer_reads() -> None:
    plan = prefetch(plain())
    assert ahead(plan) == {
        lightest_of(plan, layer): tuple(weights_of_layer(plan, layer + 1)) for layer in (0, 1)
    }
    assert len(plan.launches[lightest_of(plan, 0)].prefetch) == 9  # seven matrices, two norms
    assert lightest_of(plan, 0) > 0  # the embedding is in front of the layers


def test_nothing_else_of_a_plan_changes() -> None:
    plan = plain()
    after = prefetch(plan)
    assert after.prefetches and not plan.prefetches
    kept = (replace(launch, prefetch=()) for launch in after.launches)
    assert replace(after, launches=tuple(kept)) == plan


def test_one_layer_has_nothing_to_fetch() -> None:
    plan = plain(layers=1)
    assert prefetch(plan) == plan
    nothing = replace(plan, launches=())
    assert prefetch(nothing) == nothing


def test_weights_outside_of_layers_stay_where_they_are() -> None:
    plan = prefetch(plain(tied=False))
    names = {name for launch in plan.launches for name in launch.prefetch}
    assert {layer_of(name) for name in names} == {1, 2}


def test_what_several_launches_read_is_fetched_once() -> None:
    """Weights behind each other, and each once, even if a second launch reads one again."""
    plan = plain(layers=2)
    again = next(x for x in plan.launches if x.layer == 1 and x.args[-1].kind != "weight")
    reader = next(x for x in plan.launches if any(layer_of(a.name) == 1 for a in x.args))
    doubled = replace(again, args=(*again.args, *reader.args))
    launches = tuple(doubled if x is again else x for x in plan.launches)
    names = prefetch(replace(plan, launches=launches)).launches[lightest_of(plan, 0)].prefetch
    assert sorted(names) == sorted(set(names)) == sorted(weights_of_layer(plan, 1))


def test_a_layer_of_more_bytes_than_a_copy_may_have_is_left_to_its_readers(monkeypatch) -> None:
    """Up to the limit, all of it; one byte more, nothing; other layers are not concerned."""
    larger = Types(**{"blk.1.ffn_down.weight": "f16"})
    plan = plain(types=larger)
    sizes = [layer_bytes(plan, layer) for layer in range(3)]
    assert sizes[0] == sizes[2] < sizes[1]
    for limit, fetched in (
        (sizes[1], [1, 2]), (sizes[1] - 1, [2]), (sizes[2], [2]), (sizes[2] - 1, [])
    ):  # fmt: skip
        monkeypatch.setattr(pass_, "MOST_BYTES", limit)
        found = ahead(prefetch(plan))
        assert found == {
            lightest_of(plan, n - 1): tuple(weights_of_layer(plan, n)) for n in fetched
        }


@pytest.mark.parametrize(("preset", "fits"), [("smollm2-135m", True), ("smollm2-1.7b", False)])
def test_the_limit_lies_between_the_layers_of_a_small_and_a_large_model(
    preset: str, fits: bool
) -> None:
    shapes = dict(PRESETS[preset].tensor_shapes())
    matrices = (s for n, s in shapes.items() if layer_of(n) == 0 and len(s) == 2)
    nbytes = sum(dtype("iq4_nl").nbytes(shape) for shape in matrices)
    assert (nbytes <= pass_.MOST_BYTES) is fits


def test_layers_follow_one_another_as_they_are_launched() -> None:
    """One launch of each, whatever its number."""
    plan = plain(layers=2)
    launches = tuple(
        x if x.layer is None else replace(x, layer=(7, 3)[x.layer]) for x in plan.launches
    )
    renamed = prefetch(replace(plan, launches=launches))
    assert ahead(renamed) == {lightest_of(plan, 0): tuple(weights_of_layer(plan, 1))}


@pytest.mark.parametrize(
    ("target", "level", "fetches"),
    [("sm_90a", 3, True), ("sm_90a", 2, False), ("sm_80", 3, False), ("cpu", 2, False)],
)
def test_plans_whose_launches_overlap_fetch_ahead(target: str, level: int, fetches: bool) -> None:
    plan = driver.compile(llama_graph(layers=3), target=target, level=level).plan
    assert plan.prefetches is fetches
    assert list(ahead(plan)) == ([lightest_of(plan, 0), lightest_of(plan, 1)] if fetches else [])
