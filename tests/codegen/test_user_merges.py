"""What a user's own rule may merge, on both targets, and what is refused: cases that went wrong."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import fusec
from fusec import backends, driver
from fusec.codegen.cuda.build import compile_many
from fusec.codegen.cuda.emit import emit
from fusec.errors import FusecError
from fusec.ir import Builder, Graph, Reference
from fusec.ir.graph import Value
from fusec.passes.lower import lower
from fusec.passes.pipeline import passes_of, run_passes
from fusec.passes.rule import Rule, pattern
from tests.codegen.cuda.one_kernel import check_fused, distance, fused, inputs_of
from tests.codegen.cuda.twin_session import TwinSession, random_weights, reference
from tests.graphs import weights_for
from tests.targets import ANY, HOPPER

WIDTH, HEAD, POSITION = 64, 16, 5

# --- a norm with other work than a product behind it ---------------------------------------------


def add(b: Builder, n: Value) -> Value:
    return b.add(n, b.input("y", (1, WIDTH)))


def silu(b: Builder, n: Value) -> Value:
    return b.silu(n)


def rope(b: Builder, n: Value) -> Value:
    given = {"base": 1e4, "head_dim": HEAD, "dims": HEAD, "pairing": "halves"}
    return b.rope(n, b.input("pos", (1,), "i32"), **given)


def kv_append(b: Builder, n: Value) -> Value:
    state = b.state("k", (8, WIDTH // HEAD, HEAD), "f16")
    return b.kv_append(state, n, b.input("pos", (1,), "i32"))


def normed(work: Callable[[Builder, Value], Value]) -> Graph:
    """A norm and an op that reads it; a store's result is no output, so its vector is."""
    b = Builder("normed")
    n = b.rms_norm(b.input("x", (1, WIDTH)), b.weight("g", (WIDTH,)), eps=1e-5, name="n")
    made = work(b, n)
    return b.build(n if made.is_state else made)


def rule_for(op: str, **parts: str) -> Rule:
    given = {"maker": "rms_norm", "reader": op} | parts
    both = pattern("maker -> reader", kept="maker", **given)
    return Rule(f"{given['maker']} -> {op} => users_own", both)


WORKS = [add, silu, rope, kv_append]


@pytest.mark.parametrize("target", [ANY, HOPPER], ids=["any", "hopper"])
@pytest.mark.parametrize("work", WORKS, ids=lambda work: work.__name__)
def test_a_norm_merges_with_what_reads_it(work, target) -> None:
    graph, rule = normed(work), rule_for(work.__name__)
    weights, given = random_weights(graph), inputs_of(graph, POSITION)
    apart = TwinSession(graph, weights, 0, target=target)
    whole = TwinSession(graph, weights, 0, (rule,), target=target)
    assert len(apart.kernels) == 2
    assert [k.split("_64")[0] for k in whole.kernels] == ["users_own"]
    one, other = apart.step(**given), whole.step(**given)
    for name, value in reference(graph, weights).step(**given).items():
        assert one[name].tobytes() == other[name].tobytes(), name
        assert distance(other[name], value) < 1e-6, name
    for state in apart.plan.states:
        assert apart.memory[state].tobytes() == whole.memory[state].tobytes()
        assert np.count_nonzero(whole.memory[state]) > WIDTH // 2


@pytest.mark.cuda
def test_those_merges_compile_for_a_gpu() -> None:
    kernels = []
    for work in WORKS:
        rules = [rule_for(work.__name__)]
        compiled = fusec.compile(normed(work), target="sm_90a", level=0, rules=rules)
        kernels += compiled.kernels.values()
    assert len(kernels) == len(WORKS)
    for cubin in compile_many(kernels, "sm_90a"):
        assert cubin.spill_stores == cubin.spill_loads == 0 and ".f64" not in cubin.ptx


@pytest.mark.slow
def test_those_merges_run_on_the_cpu() -> None:
    """The one that all others go through: two outputs of one loop."""
    graph = normed(add)
    weights, given = weights_for(graph), inputs_of(graph)
    session = fusec.compile(graph, level=0, rules=[rule_for("add")]).session(weights)
    assert [launch.kernel.split("_64")[0] for launch in session.plan.launches] == ["users_own"]
    for name, value in Reference(graph, weights).step(**given).items():
        assert distance(session.step(**given)[name], value) < 1e-6, name
    session.close()


# --- segments of one kernel that read different vectors of its prologue ---------------------------


def norms(b: Builder, count: int = 2, width: int = WIDTH) -> list[Value]:
    x = b.input("x", (1, width))
    return [b.rms_norm(x, b.weight(f"g{i}", (width,)), eps=1e-5) for i in range(count)]


def two_products() -> Graph:
    b = Builder("two_products")
    return b.build(
        *(b.matvec(n, b.weight(f"w{i}", (24, WIDTH), "q8_0")) for i, n in enumerate(norms(b)))
    )


def shared_and_own() -> Graph:
    """Two products of one norm, which may share a text, and one of the other, which may not."""
    b = Builder("shared_and_own")
    n, m = norms(b)
    vectors = (n, m, n)
    return b.build(*(b.matvec(v, b.weight(f"w{i}", (24, WIDTH))) for i, v in enumerate(vectors)))


def element_work() -> Graph:
    b = Builder("element_work")
    return b.build(*(b.silu(b.add(n, b.weight(f"b{i}", (WIDTH,)))) for i, n in enumerate(norms(b))))


def factors_apart() -> Graph:
    """Equal vectors, and factors that differ: by another epsilon."""
    b = Builder("factors_apart")
    x, g = b.input("x", (1, WIDTH)), b.weight("g", (WIDTH,))
    made = []
    for i, eps in enumerate((1e-5, 0.5)):
        gained, inverse = b.rms_factors(x, g, eps=eps)
        made.append(b.matvec(gained, b.weight(f"w{i}", (24, WIDTH), "q4_0"), inverse))
    return b.build(*made)


def residuals_of_prologue() -> Graph:
    """Epilogues that add different vectors of the prologue."""
    b = Builder("residuals")
    n, m = norms(b)
    made = (b.matvec(n, b.weight(f"w{i}", (WIDTH, WIDTH), "f16")) for i in range(2))
    return b.build(*(b.add(y, r) for y, r in zip(made, (n, m), strict=True)))


@pytest.mark.parametrize(
    "graph", [two_products, shared_and_own, element_work, factors_apart, residuals_of_prologue]
)
def test_segments_read_their_own_vector_of_the_prologue(graph: Callable[[], Graph]) -> None:
    made = graph()
    check_fused(made)
    outputs = TwinSession(fused(made), random_weights(made), 0).step(**inputs_of(made))
    assert len({value.tobytes() for value in outputs.values()}) == len(made.outputs)


# --- what reads from memory is not merged with its maker -----------------------------------------


def attends(of: str = "matvec") -> Graph:
    b = Builder("attends")
    x, pos = b.input("x", (1, WIDTH)), b.input("pos", (1,), "i32")
    q = b.silu(x) if of == "silu" else b.matvec(x, b.weight("w", (WIDTH, WIDTH)))
    k, v = (b.state(name, (8, WIDTH // HEAD, HEAD), "f16") for name in "kv")
    sizes = {"heads": WIDTH // HEAD, "kv_heads": WIDTH // HEAD, "scale": 0.25}
    return b.build(b.attention(q, k, v, pos, **sizes, name="a"))


def searches(of: str = "matvec") -> Graph:
    b = Builder("searches")
    x = b.input("x", (1, WIDTH))
    logits = b.silu(x) if of == "silu" else b.matvec(x, b.weight("w", (40, WIDTH)))
    return b.build(b.argmax(logits, name="a"))


@pytest.mark.parametrize(
    ("graph", "reader", "maker", "target"),
    [
        (graph, reader, maker, target)
        for graph, reader in ((attends, "attention"), (searches, "argmax"))
        for maker in ("matvec", "silu")
        for target in ("cpu", "sm_90a")
        if (graph, maker, target) != (attends, "silu", "sm_90a")
    ],
)
def test_what_reads_memory_stays_apart_from_the_maker(graph, reader, maker, target) -> None:
    rule = rule_for(reader, maker=maker)
    compiled = driver.compile(graph(maker), target=target, level=0, rules=[rule])
    assert [launch.node for launch in compiled.plan.launches] == ["%0", "%a"]
    stage = next(s for s in compiled.stages if s.name == "fuse-users-own")
    (refusal,) = stage.refused
    why = {
        "matvec": "needs all of %0, which the same kernel spreads over its blocks",
        "silu": "reads %0 from memory, and the same kernel makes it",
    }[maker]
    assert (stage.hits, refusal.reason) == (0, f"not one kernel: {reader} %a {why}")


def test_a_gpu_makes_a_head_where_it_attends() -> None:
    rule = rule_for("attention", maker="silu")
    compiled = driver.compile(attends("silu"), target="sm_90a", level=0, rules=[rule])
    assert [launch.node for launch in compiled.plan.launches] == ["%a"]
    check_fused(attends("silu"), target=HOPPER)


@pytest.mark.parametrize(
    ("graph", "emitters"),
    [(attends, [backends.get("cpu").emit]), (searches, [emit, backends.get("cpu").emit])],
)
def test_nor_is_such_a_kernel_emitted(graph, emitters) -> None:
    """However a region came to be: the emitters ask the same analysis."""
    plan = lower(run_passes(fused(graph("silu")), passes_of(0), HOPPER)[-1].graph, "sm_90a", 0)
    for emitter in emitters:
        with pytest.raises(FusecError, match=r"kernel all_\w+: .* from memory, and the same"):
            emitter(plan.kernels[0])
