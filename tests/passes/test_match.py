"""Finding patterns and merging what a sweep found: all of it, and in time that grows with it."""

import gc
import itertools
import time

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusec.ir import Builder
from fusec.ir.verify import verify
from fusec.passes.fuse import Fuse
from fusec.passes.match import connected_order, fits, occurrences, view_of
from fusec.passes.merge import merge
from fusec.passes.pipeline import passes_of, run_passes
from fusec.passes.rule import Rule, pattern
from tests.graphs import llama_graph, random_graphs
from tests.passes.test_blocks import LIMITS
from tests.targets import ANY

PATTERNS = {
    "an edge": pattern("a -> b", a="rows", b="element"),
    "siblings": pattern("n -> a, n -> b", context="n", n="node", a="rows", b="rows"),
    "readers": pattern("a -> n, b -> n", context="n", n="node", a="node", b="node"),
    "anything": pattern("x -> a, a -> b, x -> b", context="x"),
    "a chain": pattern("a -> b, b -> c", a="node", b="node", c="node"),
    "a diamond": pattern("a -> b, a -> c, b -> d, c -> d", a="vector"),
    "kinds": pattern("a -> b", a="rms_norm silu", b="matvec add"),
}


def by_trying_all(view, wanted):
    """Every assignment of vertices to parts that is an occurrence."""
    parts = list(wanted.nodes)
    fitting = [[v for v in view if fits(view.nodes[v], wanted.nodes[p])] for p in parts]
    for chosen in itertools.product(*fitting):
        match = dict(zip(parts, chosen, strict=True))
        edges = all(view.has_edge(match[a], match[b]) for a, b in wanted.edges)
        if edges and len(set(chosen)) == len(chosen):
            yield match


def in_order(matches):
    return sorted(tuple(sorted(match.items())) for match in matches)


@pytest.mark.parametrize("name", PATTERNS)
@given(graph=random_graphs(max_nodes=7))
@settings(max_examples=25, deadline=None)
def test_all_occurrences_are_found_and_no_other(name, graph):
    view = view_of(graph)
    found = in_order(occurrences(view, PATTERNS[name]))
    assert found == in_order(by_trying_all(view, PATTERNS[name]))
    assert len(set(found)) == len(found)


def test_a_fused_node_is_found_by_its_kind_and_by_its_role():
    graph = run_passes(llama_graph(layers=1), passes_of(2), ANY)[-1].graph
    for names in ("norm_matvec_silu_mul", "rows"):
        wanted = pattern("a -> b", a=names, b="matvec_add")
        found = [match["a"] for match in occurrences(view_of(graph), wanted)]
        assert "%blk.0.swiglu" in found


def test_inputs_and_states_are_context_at_most():
    b = Builder("g")
    x = b.input("x", (1, 32))
    graph = b.build(b.add(b.silu(x, name="a"), b.gelu(x, name="b"), name="c"))
    around = pattern("x -> a, x -> b", context="x", x="input", a="silu", b="gelu")
    assert [m["x"] for m in occurrences(view_of(graph), around)] == ["%x"]
    assert not list(occurrences(view_of(graph), pattern("x -> a", x="input")))
    assert len(list(occurrences(view_of(graph), pattern("x -> a, x -> b", context="x")))) == 2


def test_parts_follow_their_neighbours_and_a_merged_one_comes_first():
    wanted = pattern("x -> y, y -> z, w -> z", context="x y")
    order = connected_order(wanted)
    assert order[0] == "z" and set(order) == set("xyzw")
    for at, part in enumerate(order[1:], start=1):
        assert any(wanted.has_edge(part, p) or wanted.has_edge(p, part) for p in order[:at])


# --- time ----------------------------------------------------------------------------------------


@pytest.fixture
def no_collections():
    """The garbage collector's time is that of all that a test process holds."""
    gc.disable()
    yield
    gc.enable()


def seconds(layers: int, repeats: int = 1) -> float:
    """Of a processor, for all passes that an H200 gets, at their fastest: a busy machine adds."""
    graph, found = llama_graph(layers=layers), []
    for _ in range(repeats):
        start = time.process_time()
        run_passes(graph, passes_of(3), LIMITS)
        found.append(time.process_time() - start)
    return min(found)


@pytest.mark.slow
@pytest.mark.usefixtures("no_collections")
def test_passes_take_time_that_grows_with_the_layers():
    """Eight times the layers: eight times the time, and what caches and a busy machine make of it.

    Time that grew with the square would be 64 times as much.
    """
    seconds(1)  # what is known of a layer once is known
    assert any(seconds(80, 2) < 12 * seconds(10, 2) for _ in range(4))


@pytest.mark.slow
@pytest.mark.usefixtures("no_collections")
def test_the_passes_of_thirty_layers_take_well_under_a_second():
    """0.4 s, if nothing else runs; a machine that is busy or half as fast is not at fault."""
    assert seconds(30, 2) < 2.5 * 0.4


# --- merging -------------------------------------------------------------------------------------


def crossing():
    """Two pairs, each of which may be merged, but not both: each would wait for the other."""
    b = Builder("g")
    x, y = b.input("x", (1, 32)), b.input("y", (1, 32))
    a, c = b.silu(x, name="a"), b.silu(y, name="c")
    d, e = b.gelu(c, name="d"), b.gelu(a, name="e")  # a -> e and c -> d
    return b.build(b.add(a, d, name="f"), b.add(c, e, name="h"))


def nodes(graph, *names):
    return tuple(graph.producers[f"%{name}"] for name in names)


def test_groups_that_would_wait_for_each_other_are_not_merged_at_once():
    graph = crossing()
    one, two = nodes(graph, "a", "d"), nodes(graph, "c", "e")  # each reads what the other makes
    for groups in ([(one, "p")], [(two, "q")]):
        assert merge(graph, groups)[1] == 1
    after, count = merge(graph, [(one, "p"), (two, "q")])
    assert count == 1
    verify(after)
    assert [n.kind for n in after.nodes].count("p") == 1
    assert "q" not in {n.kind for n in after.nodes}


def test_the_next_sweep_sees_why_the_other_must_stay():
    loose = Rule(
        "silu & gelu => both",
        pattern("a -> f, d -> f", context="f", a="silu", d="gelu", f="add"),
    )
    graph, hits, refused = Fuse(loose).run(crossing(), ANY)
    verify(graph)
    assert hits == 1
    (refusal,) = refused
    assert refusal.reason.startswith("a cycle through an outside path: ")


def test_a_sweep_merges_all_it_finds_and_keeps_an_order():
    graph = llama_graph(layers=6)
    fuse = next(p for p in passes_of(1) if p.name == "fuse-stack")
    after, hits, _ = fuse.run(graph, ANY)
    verify(after)
    assert hits == 6 * 3
    assert len(after.nodes) == len(graph.nodes) - hits
    assert [n.layer for n in after.nodes if n.kind == "matvec" and n.body] == sorted(
        [*range(6), *range(6)]
    )


def test_a_merged_node_that_reads_a_state_stays_before_the_append_to_it():
    b = Builder("g")
    pos, x, y = b.input("pos", (1,), "i32"), b.input("x", (1, 32)), b.input("y", (1, 32))
    k, v = b.state("k", (8, 2, 16)), b.state("v", (8, 2, 16))
    s = b.silu(x, name="s")
    before = b.attention(y, k, v, pos, heads=2, kv_heads=2, scale=1.0, name="before")
    t = b.silu(s, name="t")
    b.kv_append(k, t, pos)
    graph = b.build(before, b.gelu(before, name="u"))
    after, count = merge(graph, [(nodes(graph, "s", "t"), "silu")])
    verify(after)
    assert count == 1
    assert [n.name for n in after.nodes].index("%before") < [n.name for n in after.nodes].index(
        "$k'"
    )


@given(random_graphs(), st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_any_groups_that_are_no_cycle_alone_give_a_graph(graph, random):
    """However they stand to each other, what comes out is in order and has the same ops."""
    view = nx.DiGraph(graph.as_networkx())
    free, groups = list(graph.nodes), []
    while len(free) > 1:
        pair = random.sample(free, 2)
        match = tuple(n for n in graph.nodes if n in pair)
        free = [n for n in free if n not in pair]
        paths = nx.all_simple_paths(view, match[0].name, match[1].name)
        if not any(len(path) > 2 for path in paths):
            groups.append((match, "pair"))
    after, count = merge(graph, groups)
    verify(after)
    assert min(len(groups), 1) <= count <= len(groups)
    assert len(after.nodes) == len(graph.nodes) - count
    assert {n.name for n in after.walk()} == {n.name for n in graph.nodes}
