"""A resident kernel by the twins: the tokens and bytes of the plan's launches, in any schedule."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from fusec.codegen.cuda.arch import ARCHS
from fusec.codegen.cuda.build import compile_many
from fusec.codegen.cuda.control import RING
from fusec.codegen.cuda.phases import CONTROL_WORDS, END, GAVE_UP, GOING, MOST_BODIES
from fusec.codegen.cuda.resident import Resident, resident
from fusec.codegen.cuda.twins_resident import Deadlock, first, last, run_resident, shuffled
from fusec.ir.choosing import final_choice
from fusec.passes.prefetch import prefetch
from fusec.runtime.cuda.resident import table_of
from tests.codegen.cuda.test_attention import cache_for, put
from tests.codegen.cuda.twin_session import TwinSession, random_weights
from tests.graphs import llama_graph
from tests.targets import HOPPER

pytestmark = pytest.mark.slow  # runs a whole kernel's threads in turns

POSITION, TOKEN, TOKENS = 255, 5, 2  # the second token sees another span
STEP = 7


@dataclass
class Case:
    """A plan and its resident kernel; `steps`: what the plan's launches make, `begin`: of what."""

    session: TwinSession
    kernel: Resident
    begin: dict[str, np.ndarray]
    tokens: list[int]
    end: dict[str, np.ndarray]


def case_of(level: int, sms: int, **shape) -> Case:
    graph = llama_graph(**shape)
    session = TwinSession(graph, random_weights(graph), level, target=HOPPER)
    session.plan = prefetch(session.plan)
    tokens = [TOKEN]
    put(session, cache_for(graph, POSITION))
    begin = {name: value.copy() for name, value in session.memory.items()}
    for position in range(POSITION, POSITION + TOKENS):
        made = session.step(token=np.array(tokens[-1:]), pos=np.array([position]))
        tokens.append(int(made["next"][0]))
    end = {name: value.copy() for name, value in session.memory.items()}
    return Case(session, resident(session.plan, ARCHS["sm_90a"], sms), begin, tokens, end)


@pytest.fixture(scope="module", params=[(3, 32), (4, 16)], ids=["O3", "O4"])
def case(request) -> Case:
    """Four clusters, one of which fetches weights, and two, in which attention takes two turns."""
    return case_of(*request.param, context=512, layers=2, width=96, ffn=96, heads=3, kv_heads=1)


@dataclass
class Run:
    tokens: list[int]
    control: np.ndarray


def run(case: Case, schedule=first, stop: int = 0, source: str = "", **options) -> Run:
    """The resident kernel on the memory that the launches began with."""
    session, made, memory = case.session, case.kernel, case.session.memory
    for name, value in case.begin.items():
        memory[name][...] = value
        if name[0] == "%" and value.dtype == np.float32:
            memory[name][...] = np.nan  # nothing may be read that is not written
    memory["%token"][:], memory["%pos"][:] = TOKEN, POSITION

    def address(arg) -> int:
        return memory[arg.name].ctypes.data

    def stretches(names) -> list[tuple[int, int]]:
        found = ((memory[name].ctypes.data, memory[name].nbytes) for name in names)
        return [(start, start + nbytes) for start, nbytes in found]

    clusters = made.kernel.grid // made.kernel.cluster
    table = table_of(made, session.plan, address, stretches, clusters)
    control = np.zeros(CONTROL_WORDS, np.uint32)
    control[[GOING, END]] = 1, STEP + TOKENS
    tops, places = (memory[arg.name] for arg in final_choice(session.plan).args[:2])
    tokens, ring = np.zeros(512, np.uint32), np.zeros(RING, np.uint64)
    step, stops = np.array([STEP], np.uint32), np.array([stop], np.uint32)
    handed = memory["%next"], memory["%token"], memory["%pos"], step, tokens, ring, stops
    kernel = replace(made.kernel, source=source or made.kernel.source)
    arguments = (table, control, tops, places, *handed)
    run_resident(kernel, *arguments, memory=[*memory.values()], schedule=schedule, **options)
    entries = [int(word) for word in ring[STEP : int(step[0])]]
    assert [word >> 32 for word in entries] == [*range(STEP + 1, STEP + 1 + len(entries))]
    found = [word & 0xFFFFFFFF for word in entries]
    assert tokens[POSITION + 1 : POSITION + 1 + len(found)].tolist() == found
    return Run(found, control)


@pytest.mark.parametrize("schedule", [first, last, shuffled(1)], ids=["first", "last", "any"])
def test_the_bytes_are_those_of_launches(case: Case, schedule) -> None:
    """Whoever runs ahead, and whoever comes last."""
    assert run(case, schedule).tokens == case.tokens[1:]
    for name in case.session.graph.outputs:
        wanted = case.end[name.name].tobytes()
        assert case.session.memory[name.name].tobytes() == wanted, name.name
    for name in case.session.plan.states:
        assert case.session.memory[name].tobytes() == case.end[name].tobytes(), name


def test_a_phase_that_does_not_wait_is_found(case: Case) -> None:
    """Without the wait in front of what it reads, a body reads what is not there yet."""
    source = case.kernel.kernel.source
    without = source.replace("    await_phase(arrived, entry, told)\n", "    barrier()\n")
    assert without != source
    try:
        found = run(case, last, source=without).tokens
    except (Deadlock, ValueError):  # something was sent before the turn in front had ended
        return
    assert found != case.tokens[1:]


def test_a_block_that_does_not_arrive_stops_all(case: Case) -> None:
    source = case.kernel.kernel.source
    without = source.replace("\n        arrive(arrived, True)\n", "\n", 1)
    assert without != source
    with pytest.raises(Deadlock, match="nobody can go on"):
        run(case, source=without)


def test_whoever_waits_too_long_ends_the_launch(case: Case) -> None:
    """All other waits end as well, no token follows, and it is written down."""
    found = run(case, patient=False)
    assert len(found.tokens) <= 1 and found.control[GAVE_UP] == 1


def test_the_host_stops_it_behind_a_token(case: Case) -> None:
    found = run(case, stop=1)
    assert found.tokens == case.tokens[1:2] and found.control[GAVE_UP] == 0


@pytest.mark.cuda
def test_it_assembles_without_spills(case: Case) -> None:
    """With as many registers as blocks of 512 threads can have, and no arithmetic in f64."""
    (cubin,) = compile_many([case.kernel.kernel], "sm_90a")
    assert (cubin.spill_stores, cubin.spill_loads) == (0, 0)
    assert ".f64" not in cubin.ptx and ".reqnctapercluster 8" in cubin.ptx


def test_blocks_without_work_fetch_weights(case: Case) -> None:
    """Where some have none in layers, whose phases then have entries of their own."""
    made, plan = case.kernel, case.session.plan
    fetches = sum(bool(launch.prefetch) for launch in plan.launches)
    assert fetches == 1 and made.phases == len(plan.launches) + fetches
    for clusters, wanted in ((2, 0), (8, 1)):
        table = table_of(made, plan, lambda _: 0, lambda names: [(0, 64)] * len(names), clusters)
        kinds = (table.reshape(made.phases, -1)[:, 0] % MOST_BODIES).tolist()
        assert kinds.count(made.prefetching) == wanted


def test_a_body_is_there_once(case: Case) -> None:
    """However many launches have it."""
    names = [body.name for body in case.kernel.bodies]
    assert sorted(names) == sorted({launch.kernel for launch in case.session.plan.launches[:-1]})
    assert all(case.kernel.kernel.source.count(f"def {name}(") == 1 for name in names)


def test_weights_are_asked_for_in_front_of_the_wait(case: Case) -> None:
    for body in case.kernel.bodies:
        wait = body.lines.index("await_phase(arrived, entry, told)")
        fetched = [n for n, line in enumerate(body.lines) if "= fetch_" in line]
        assert not fetched or min(fetched) < wait
