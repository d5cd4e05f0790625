"""The KV cache's pages over a driver without a GPU: memory that grows, tables, forks."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from fusec import driver
from fusec.errors import FusecError
from fusec.ir.pages import PAGE
from fusec.ir.plan import Tensor
from fusec.ir.reference import Reference
from fusec.models.small import config_of
from fusec.models.synth import synthesize
from fusec.runtime.cuda import loop
from fusec.runtime.cuda.driver import OutOfMemory
from fusec.runtime.cuda.pools import PoolMemory
from fusec.runtime.saved import Saved
from tests.runtime.cuda import fake
from tests.runtime.cuda.machine import Machine
from tests.runtime.drafters import Scripted, draft_with

CONTEXT, START = 500, PAGE - 3
SUPPORTED = "CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED"
IDS = [int(i) for i in np.random.default_rng(1).integers(1, 500, START)]


@pytest.fixture(scope="module")
def compiled(tiny_model: Path) -> driver.Compiled:
    return driver.compile(tiny_model, target="sm_90a", level=2, context=CONTEXT)


@pytest.fixture(scope="module")
def states(compiled: driver.Compiled) -> dict[str, np.ndarray]:
    """Of a sequence that ends three positions in front of a page's end."""
    random = np.random.default_rng(2)
    return {
        name: random.normal(size=(START, *t.shape[1:])).astype(np.float16)
        for name, t in compiled.plan.states.items()
    }


@pytest.fixture(scope="module")
def wanted(compiled: driver.Compiled, states: dict[str, np.ndarray]) -> list[int]:
    """The ten tokens behind it, by the reference."""
    model = compiled.model
    reference = Reference(model.graph(tokens=1, context=CONTEXT), model.floats, np.float32)
    for name, rows in states.items():
        reference.states[name][:START] = rows
    found = [7]
    for position in range(START, START + 10):
        step = reference.step(token=np.array([found[-1]]), pos=np.array([position]))
        found.append(int(step["next"][0]))
    return found[1:]


def begun(machine: Machine, states: dict[str, np.ndarray]):
    """An engine that goes on behind that sequence, with the token 7."""
    engine = machine.engine()
    engine.restore(Saved(engine._origin, (*IDS, 7), START, states))
    return engine


def go_on(engine, count: int) -> list[int]:
    return list(engine.tokens([], count, append=True))


def test_memory_grows_where_a_page_begins(compiled, states, wanted, monkeypatch) -> None:
    monkeypatch.setattr(fake, "GRANULE", 1 << 12)
    machine = Machine(compiled)
    assert not machine.api.mapped
    engine = begun(machine, states)
    one = sum(machine.api.mapped.values())
    assert one == sum(PAGE * rows[0].nbytes for rows in states.values())
    assert go_on(engine, 2) == wanted[:2]
    assert go_on(engine, 8) == wanted[2:]
    assert sum(machine.api.mapped.values()) == 2 * one
    engine.reset()
    engine.close()
    assert not machine.api.mapped and not machine.api.reserved


def test_a_step_writes_an_entry_of_the_table_only_where_a_page_begins(compiled, states) -> None:
    machine = Machine(compiled)
    engine = begun(machine, states)
    machine.api.log.clear()
    for token in (7, 8, 9, 10, 11):
        engine.step(token)
    assert machine.api.log.count("cuMemsetD32Async") == 1


def test_a_fork_copies_one_page_and_nothing_to_the_host(compiled, states, wanted) -> None:
    machine = Machine(compiled)
    engine = begun(machine, states)
    go_on(engine, 1)
    machine.api.log.clear()
    for _ in range(2):
        with engine.fork():
            engine.step(3)
            assert machine.api.log.count("cuMemcpyDtoHAsync") == 2  # logits, next
            assert machine.api.log.count("cuMemcpyDtoDAsync") == 1  # it is one stretch
            engine.feed(range(1, 9))
        machine.api.log.clear()
    assert go_on(engine, 9) == wanted[1:]


def test_a_fork_of_a_fork(compiled, states, wanted) -> None:
    """Pools have room for two sequences, and three pages are in use: the inner one is copied."""
    machine = Machine(compiled)
    engine = begun(machine, states)
    assert go_on(engine, 5) == wanted[:5]
    with engine.fork():
        engine.step(3)
        machine.api.log.clear()
        with engine.fork():
            copies = machine.api.log.count("cuMemcpyDtoHAsync")
            assert copies == 2 * len(states)  # pages that do not lie side by side
            engine.feed(range(1, 9))
        assert engine.ids[-1] == 3
    assert go_on(engine, 5) == wanted[5:]


def test_a_gpu_without_memory_that_grows_has_all_of_it_at_once(compiled, states, wanted) -> None:
    with pytest.MonkeyPatch.context() as patch:
        usual = fake.FakeDriver.__init__
        patch.setattr(fake.FakeDriver, "__init__", lambda self, *args, **given: (
            usual(self, *args, **given), self.attributes.update({SUPPORTED: 0}))[0])  # fmt: skip
        machine = Machine(compiled)
    engine = begun(machine, states)
    assert "cuMemAddressReserve" not in machine.api.log
    with engine.fork():
        engine.step(3)
    assert go_on(engine, 10) == wanted


def test_where_memory_ends_the_sequence_stays_as_it_is(
    compiled, states, wanted, monkeypatch
) -> None:
    monkeypatch.setattr(fake, "GRANULE", 1 << 12)
    machine = Machine(compiled)
    engine = begun(machine, states)
    engine.step(7)
    machine.api.memory = machine.api.used
    with pytest.raises(OutOfMemory, match=r"the KV cache for 500 positions needs .* are free"):
        engine.feed(range(1, 9))
    machine.api.memory = 1 << 30
    assert engine.position == START + 1
    assert int(engine.step(wanted[0]).argmax()) == wanted[1]


def test_windows_give_pages_back_while_the_gpu_is_far_behind(tmp_path, monkeypatch) -> None:
    """Its tables, copies and tokens are those of then, and graphs run behind where a text ends."""
    monkeypatch.setattr(loop, "_POLLS", 1)
    config = replace(config_of("gemma3"), layers=2, vocab=128, context=900)
    path = synthesize(config, tmp_path / "windows.gguf")
    compiled = driver.compile(path, target="sm_90a", level=2, context=900)
    assert set(compiled.plan.windows.values()) == {24}
    random, start = np.random.default_rng(2), 3 * PAGE - 30
    states = {
        name: random.normal(size=(start, *t.shape[1:])).astype(np.float16)
        for name, t in compiled.plan.states.items()
    }
    engine = Machine(compiled, late=True).built
    saved = Saved(engine._origin, (*[1] * start, 7), start, states)
    engine.restore(saved)
    whole = go_on(engine, 60)
    for count in (20, 31):  # a page begins behind 30 tokens, which graphs are ahead of
        engine.restore(saved)
        made = engine.tokens([], 60, append=True)
        assert [next(made) for _ in range(count)] == whole[:count]
        made.close()
        with engine.fork():
            assert go_on(engine, 15) == whole[count : count + 15]
        assert go_on(engine, 60 - count) == whole[count:]
    engine.restore(saved)
    draft_with(engine, Scripted(whole))
    engine.drafter.begin = lambda _: None
    assert go_on(engine, 60) == whole
    assert engine.draft_statistics.accepted > 50
    engine.close()


@pytest.mark.parametrize("call", ["cuMemMap", "cuMemSetAccess"])
def test_memory_that_cannot_be_mapped_is_not_there(
    compiled, states, wanted, monkeypatch, call
) -> None:
    """Page tables take memory too: nothing is left behind, and the next try may succeed."""
    monkeypatch.setattr(fake, "GRANULE", 1 << 12)
    machine = Machine(compiled)
    engine = begun(machine, states)
    engine.step(7)
    before = dict(machine.api.mapped)
    machine.api.broken[call] = fake.Status.CUDA_ERROR_OUT_OF_MEMORY
    with pytest.raises(OutOfMemory, match=r"the KV cache for 500 positions needs .* are free"):
        engine.feed(range(1, 9))
    assert machine.api.mapped == before and machine.api.created == 0
    machine.api.broken.clear()
    assert int(engine.step(wanted[0]).argmax()) == wanted[1]
    engine.feed(range(1, 9))
    engine.close()
    assert not machine.api.mapped and not machine.api.reserved


def test_states_of_another_shape_are_refused(compiled, states) -> None:
    engine = begun(Machine(compiled), states)
    name = next(iter(states))
    for wrong in (states[name][1:], states[name].astype(np.float32), states[name][:, :1]):
        given = states | {name: wrong}
        with pytest.raises(FusecError, match=r"expected state .* up to 253, found"):
            engine.restore(Saved(engine._origin, tuple(IDS), START, given))


SIZES = {
    "equal rows": [(2, 16)] * 4,
    "keys and values of two sizes": [(1, 8), (1, 64)] * 2,
    "more than 32 bits reach together": [(1, 1 << 21)] * 4,
}


@pytest.mark.parametrize("sizes", SIZES)
def test_no_two_pages_share_memory(sizes: str) -> None:
    """Rows as kernels find them, of every page of every state, and what stands for whole pages."""
    states = {f"$s{i}": Tensor("f16", (700, *size)) for i, size in enumerate(SIZES[sizes])}
    pool = PoolMemory(states, 5, start=4096)
    assert pool.is_together == (sizes == "equal rows") and pool.reaches
    taken = []
    for page in range(5):
        mine = []
        for state, place in pool.places.items():
            begin = place + page * pool.apart * pool.row_bytes(state)
            mine.append((begin, begin + PAGE * pool.row_bytes(state)))
        parts = [(first, first + count) for first, count in pool.stretches(page, 1)]
        assert sum(b - a for a, b in parts) == sum(b - a for a, b in mine)
        assert all(any(a <= c and d <= b for a, b in parts) for c, d in mine)
        taken += mine
    taken.sort()
    assert taken[0][0] == 4096 and taken[-1][1] == pool.end
    assert all(end == begin for (_, end), (begin, _) in pairwise(taken))


def test_a_pool_that_kernels_do_not_reach() -> None:
    assert not PoolMemory({"$s": Tensor("f16", (700, 1, 1 << 22))}, 5).reaches
