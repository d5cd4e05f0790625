"""What a kernel may vary: no byte of any result changes, and what cannot be is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fusec import driver
from fusec.codegen.cuda.build import compile_many
from fusec.codegen.cuda.candidates import candidates, default_of, variants
from fusec.codegen.cuda.emit import emit
from fusec.codegen.cuda.toolchain import CudaKernel
from fusec.errors import FusecError
from fusec.ir import Builder, Graph
from fusec.ir.choice import RELEASES, Choice, Tiling, choice_of
from fusec.ir.plan import Kernel
from tests.codegen.cuda.twin_session import TwinSession, random_weights
from tests.graphs import Types, llama_graph
from tests.random_numbers import random_numbers
from tests.shapes import compiled_135m
from tests.targets import ANY, HOPPER, SPLIT

RNG = random_numbers(3)


ONE_TILE = {"across": 1, "along": 1, "high": 1, "wide": 1}


def many_rows() -> Graph:
    """More rows than the GPU has warps, not a multiple of anything."""
    b = Builder("many")
    x = b.input("x", (1, 64))
    normed = b.rms_norm(x, b.weight("g", (64,)), eps=1e-5)
    return b.build(b.matvec(normed, b.weight("w", (2311, 64), "q8_0"), name="y"))


def model(matrix: str) -> Graph:
    return llama_graph(
        layers=2, width=64, ffn=96, heads=4, kv_heads=2, vocab=50, context=300,
        types=Types(matrix, unused="f32"),
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("graph", "level", "target"),
    [
        (model("iq4_nl"), 3, SPLIT),
        (model("q8_0"), 2, ANY),
        (model("f16"), 0, ANY),
        (many_rows(), 1, replace(SPLIT, late_norms=True)),
    ],
    ids=["split", "fused", "naive", "many-rows"],
)
def test_no_choice_changes_a_byte(graph: Graph, level: int, target) -> None:
    """Every geometry of every kernel is in one of the sessions."""
    weights = random_weights(graph)
    usual = TwinSession(graph, weights, level, target=target)
    kinds = {k.name: candidates(k) for k in usual.plan.kernels}
    assert any(len(found) > 1 for found in kinds.values())
    inputs = {v.name[1:]: np.ones(1) for v in graph.inputs if v.dtype == "i32"}
    inputs |= {v.name[1:]: RNG.normal(size=v.shape) for v in graph.inputs if v.dtype == "f32"}
    wanted = usual.step(**inputs)
    for turn in range(1, max(map(len, kinds.values()))):
        other = TwinSession(
            graph, weights, level, target=target,
            choose=lambda k, turn=turn: kinds[k.name][turn % len(kinds[k.name])],
        )  # fmt: skip
        found = other.step(**inputs)
        for name, value in wanted.items():
            assert found[name].tobytes() == value.tobytes(), (name, turn)
        for state in usual.plan.states:
            assert other.memory[state].tobytes() == usual.memory[state].tobytes(), (state, turn)


@pytest.mark.slow
@pytest.mark.parametrize("tokens", [2, 12])
def test_no_choice_changes_a_byte_of_a_step_of_several_rows(tokens: int) -> None:
    """Layers of blocks, statements for each row, tensor cores; and tiles: some of each."""
    graph = llama_graph(
        layers=1, width=64, ffn=96, heads=4, kv_heads=2, vocab=64, context=40, tokens=tokens,
        types=Types("q4_1", unused="f32"),
    )  # fmt: skip
    weights = random_weights(graph)
    usual = TwinSession(graph, weights, 3, target=HOPPER)
    kinds = {k.name: candidates(k, width=tokens) for k in usual.plan.kernels}
    given = {"token": RNG.integers(0, 64, tokens), "pos": np.arange(tokens)}
    wanted = usual.step(**given)["logits"].tobytes()
    tried = set()
    for turn in (1, 3, 6, 8, 13):
        other = TwinSession(
            graph, weights, 3, target=HOPPER,
            choose=lambda k, turn=turn: kinds[k.name][turn % len(kinds[k.name])],
        )  # fmt: skip
        tried |= {kernel.source for kernel in other.kernels.values()}
        assert other.step(**given)["logits"].tobytes() == wanted, turn
    assert len(tried) > len(kinds) + 8


def kernels(level: int = 3) -> dict[str, Kernel]:
    """A small model's kernels for Hopper, by the kind in their names."""
    plan = driver.compile(llama_graph(layers=2, context=300), target="sm_90a", level=level).plan
    return {k.name.split("_")[0]: k for k in plan.kernels}


def test_the_default_is_the_first_variant_and_gives_the_same_source() -> None:
    for kernel in kernels().values():
        assert variants(kernel)[0] == default_of(kernel)
        assert emit(replace(kernel, choice=default_of(kernel))) == emit(kernel)
        assert len(variants(kernel)) == len(set(variants(kernel)))


@pytest.mark.parametrize("kind", ["embed", "attention", "combine", "norm", "sum", "argmax"])
@pytest.mark.parametrize("release", RELEASES)
def test_the_next_launch_begins_where_the_choice_says(kind: str, release: str) -> None:
    kernel = kernels()[kind]
    source = emit(replace(kernel, choice=replace(default_of(kernel), release=release))).source
    body = [line.strip() for line in source.partition("def ")[2].splitlines()]
    assert body.count("griddep_wait()") == 1
    assert body.count("griddep_launch()") == (release != "end")
    if release == "end":
        return
    wait, begins = body.index("griddep_wait()"), body.index("griddep_launch()")
    assert (begins < wait) == (release in ("load", "begin"))
    between = body[min(wait, begins) : max(wait, begins)]
    if release != "read":  # the first read may be part of a vector that takes several steps
        assert ("barrier()" in between) == (release == "barrier" and kind != "argmax")


def test_kernels_that_do_not_overlap_have_no_releases() -> None:
    for kernel in kernels(level=2).values():
        assert {choice.release for choice in variants(kernel)} == {"wait"}
        source = emit(replace(kernel, choice=replace(default_of(kernel), release="load"))).source
        assert "griddep" not in source


@pytest.mark.parametrize(
    ("kind", "choice", "reason"),
    [
        ("attention", Choice(8), "expected a warp for each of 16 chunks at once, found 8"),
        ("embed", Choice(8, rows_at_once=2), "expected one pair of rows at once, found 2"),
        (
            "combine",
            Choice(8, rows_at_once=33),
            "expected at most a row at once for each lane, found 33",
        ),
    ],
)
def test_choices_that_a_kernel_cannot_have(kind: str, choice: Choice, reason: str) -> None:
    kernel = kernels()[kind]
    with pytest.raises(FusecError, match=f"kernel {kernel.name}: {reason}"):
        emit(replace(kernel, choice=choice))


@pytest.mark.parametrize(
    "fields",
    [{"warps": 0}, {"warps": 33}, {"warps": 8.0}, {"warps": True}, {"warps": 8, "steps": 0},
     {"warps": 8, "release": "never"}, {"warps": 8, "width": -1}, {"warps": 8, "way": "none"},
     {"across": 1, "along": 1, "high": 1, "wide": 0}, {**ONE_TILE, "deep": 3},
     {**ONE_TILE, "across": 33}, {**ONE_TILE, "stages": 1}, {**ONE_TILE, "release": "never"}],
)  # fmt: skip
def test_choices_that_no_kernel_can_have(fields: dict) -> None:
    with pytest.raises(ValueError, match="expected"):
        choice_of(fields)


def test_a_choice_of_the_other_kind_is_refused() -> None:
    """Of warps for tiles, of tiles for rows, and of tiles that the kernel cannot be made in."""
    graph = llama_graph(layers=1, context=40, tokens=12, types=Types("q4_1"))
    plan = driver.compile(graph, target="sm_90a", level=3).plan
    tiled = next(k for k in plan.kernels if isinstance(default_of(k), Tiling))
    rows = kernels()["combine"]
    usual = default_of(tiled)
    for kernel, choice, reason in (
        (tiled, Choice(8), "expected a choice of tiles, found 8 warps"),
        (rows, usual, "expected a choice of warps, found tiles of"),
        (tiled, replace(usual, along=2), "expected tiles of 8 rows of the step, which a block"),
        (tiled, replace(usual, across=3, deep=1), "expected a power of two elements of a tile"),
        (tiled, replace(usual, deep=32), "expected at most 16 branches of the columns, found 32"),
    ):
        with pytest.raises(FusecError, match=f"kernel {kernel.name}: {reason}"):
            emit(replace(kernel, choice=choice))


def of_135m() -> list[CudaKernel]:
    """The variants that hold several rows, or share a processor: those short of registers."""
    found = {}
    for kernel in compiled_135m(3).plan.kernels:
        for choice in variants(kernel):
            crowded = choice.rows_at_once > 1 or choice.min_blocks > 1
            if crowded and choice.release == "wait":
                found[kernel.name, choice] = emit(replace(kernel, choice=choice))
    return list(found.values())


@pytest.mark.cuda
@pytest.mark.slow
def test_the_largest_variants_assemble_without_spills() -> None:
    for cubin in compile_many(of_135m(), "sm_90a"):
        assert cubin.spill_stores == cubin.spill_loads == 0, cubin.name
