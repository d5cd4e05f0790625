"""Parts added in L2: the same bytes as parts in memory, and faults that the twins have to see."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fusec.codegen.common import open_region
from fusec.codegen.cuda.arch import ARCHS
from fusec.codegen.cuda.defaults import default
from fusec.codegen.cuda.twins_history import RaceError
from fusec.ir import Graph
from tests.codegen.cuda.twin_session import TwinSession, random_weights
from tests.graphs import Types, llama_graph
from tests.targets import HOPPER

pytestmark = pytest.mark.slow  # compiles many kernels

SHAPE = {"width": 64, "ffn": 512, "heads": 2, "kv_heads": 1, "layers": 2, "context": 40}
PARTS = ("add-in-l2",)  # the pass without which parts stay parts
TOKENS = np.array([5, 17, 3])


def model(tokens: int = 1) -> Graph:
    return llama_graph(**SHAPE, types=Types("iq4_nl"), tokens=tokens)


def run(session: TwinSession, rows: int, first: int = 0) -> np.ndarray:
    """The logits of so many rows at positions from `first` on, of those that are there."""
    tokens = session.graph.tokens
    places = np.resize(np.arange(first, first + rows), tokens)
    session.memory["rows"][:] = rows
    return session.step(token=TOKENS[places], pos=places)["logits"][:rows]


@pytest.fixture(scope="module")
def wanted() -> np.ndarray:
    """Logits of every row, one by one, of parts in memory; other tests hold those against -O0."""
    session = TwinSession(model(), random_weights(model()), 3, target=HOPPER, disable=PARTS)
    assert not any("add_part_if(" in k.source for k in session.kernels.values())
    return np.concatenate([run(session, 1, place) for place in range(len(TOKENS))])


CASES = {
    "one row": (3, 1, (1, 1)),
    "one row, two launches a layer": (4, 1, (1, 1)),
    "two rows": (3, 2, (2,)),
    "two rows, two launches a layer": (4, 2, (2,)),
    "four rows, of which one is not there": (3, 4, (3,)),
    "eight rows, of which five are not there": (3, 8, (3,)),
}


@pytest.mark.parametrize(("level", "tokens", "steps"), CASES.values(), ids=CASES)
def test_bytes_are_those_of_parts(level: int, tokens: int, steps: tuple, wanted) -> None:
    """Whatever was in the memory of sums in front of a step: here what makes them NaN."""
    graph = model(tokens)
    session = TwinSession(graph, random_weights(graph), level, target=HOPPER)
    assert sum("add_part_if(" in k.source for k in session.kernels.values()) >= 2
    place = 0
    for rows in steps:
        found = run(session, rows, place)
        assert found.tobytes() == wanted[place : place + rows].tobytes()
        place += rows


@pytest.mark.parametrize("tokens", [2, 4])
def test_rows_that_are_interleaved_add_once(tokens: int, wanted) -> None:
    """A row that is not there is the last one again, which must not add its parts again."""
    graph = model(tokens)

    def choose(kernel):
        region = kernel.region
        if "matvec_parts" not in region:
            return None

        _, shape = open_region(kernel)
        choice = default(shape, ARCHS["sm_90a"].sms, kernel.overlaps, kernel.rows, kernel.leads)
        return replace(choice, width=2, way="interleaved")

    session = TwinSession(graph, random_weights(graph), 3, target=HOPPER, choose=choose)
    assert any("is_there" in k.source for k in session.kernels.values())
    found = run(session, tokens - 1)
    assert found.tobytes() == wanted[: tokens - 1].tobytes()


def changed(session: TwinSession, name: str, *pairs: tuple[str, str]) -> None:
    """Replace lines in the source of the kernels that have such a call."""
    hits = 0
    for key, kernel in session.kernels.items():
        source = kernel.source
        if name not in source:
            continue
        for old, new in pairs:
            hits += old in source
            source = source.replace(old, new)
        session.kernels[key] = replace(kernel, source=source)
    assert hits, "nothing was changed"


@pytest.fixture
def session() -> TwinSession:
    return TwinSession(model(), random_weights(model()), 3, target=HOPPER)


def test_a_clear_that_is_missing(session: TwinSession, wanted) -> None:
    """What was there is added to: here a number that makes sums NaN."""
    changed(session, "clear_pair(", ("clear_pair(", "uint32(0); ("))
    assert np.isnan(run(session, 1)).all()


def test_a_clear_in_front_of_the_wait(session: TwinSession) -> None:
    """Somebody may still read what the memory had."""
    changed(session, "clear_pair(", ("griddep_wait()", "pass"))
    with pytest.raises(RaceError, match="in front of the wait"):
        run(session, 1)


def test_a_clear_in_the_launch_that_adds(session: TwinSession) -> None:
    """Whether its blocks clear before others add, nothing says."""
    lines = "    if some(thread < uint32(32)):\n        clear_pair({}, thread, thread < 32)\n"
    for key, kernel in session.kernels.items():
        adds = kernel.source.find("add_part_if(")
        if adds < 0:
            continue
        sums = kernel.source[adds:].split("at(")[1].split(",")[0]
        source = kernel.source.replace(
            "    griddep_wait()\n", f"    griddep_wait()\n{lines.format(sums)}"
        )
        imported = source.replace("import add_part_if,", "import add_part_if, clear_pair,", 1)
        session.kernels[key] = replace(kernel, source=imported)
    with pytest.raises(RaceError, match=r"adds to|writes"):
        run(session, 1)


def test_sums_that_are_read_in_front_of_the_wait(session: TwinSession) -> None:
    """Blocks of the launch in front still add."""
    changed(session, "load_sums(", ("griddep_wait()", "pass"))
    with pytest.raises(RaceError):
        run(session, 1)


def test_adding_in_front_of_the_wait(session: TwinSession) -> None:
    """The zeros may not be there yet."""
    for key, kernel in session.kernels.items():
        if "add_part_if(" in kernel.source and "load_sums(" not in kernel.source:
            session.kernels[key] = replace(
                kernel, source=kernel.source.replace("griddep_wait()", "pass")
            )
    with pytest.raises(RaceError):
        run(session, 1)
