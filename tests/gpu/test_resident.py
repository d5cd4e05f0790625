"""A resident kernel on the GPU: the tokens and the cache of captured graphs, and it ends when told.

Run it under a timeout the first time: a wait gives up after two seconds, but only if all is right
with that.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fusec import driver
from fusec.errors import FusecError
from fusec.runtime.sampling import Sampling

pytestmark = pytest.mark.gpu

IDS = [int(i) for i in np.random.default_rng(1).integers(0, 500, 40)]
CONTEXT = 1024


def load(path: Path, level: int, resident: bool, **options):
    return driver.load(path, "native", level, CONTEXT, resident=resident, **options)


def check(path: Path, level: int, count: int, kv: str = "f16") -> None:
    """Tokens, and what a next step makes of the cache, are those of graphs."""
    found = []
    for resident in (False, True):
        with load(path, level, resident, kv=kv) as engine:
            engine.stop = frozenset()
            tokens = list(engine.tokens(IDS, count))
            found.append((tokens, engine.step(7).tobytes()))
    assert found[0] == found[1]


@pytest.mark.parametrize("level", [3, 4])
@pytest.mark.parametrize("kv", ["f16", "f32"])
def test_short(projecting, level, kv):
    """One launch, one page."""
    check(projecting, level, 24, kv)


@pytest.mark.parametrize("level", [3, 4])
def test_long(projecting, level):
    """Several launches and pages, and attention over several spans."""
    check(projecting, level, 700)


def test_tiles(tiled):
    check(tiled, 3, 60)


@pytest.mark.slow
@pytest.mark.parametrize("level", [3, 4])
def test_a_full_size_model(smollm2, level):
    check(smollm2, level, 600)


def test_it_stops_and_goes_on(projecting):
    """In the middle of a launch: what follows is what graphs make of the same."""
    with load(projecting, 3, False) as engine:
        engine.stop = frozenset()
        wanted = list(engine.tokens(IDS, 100))
    with load(projecting, 3, True) as engine:
        engine.stop = frozenset()
        for _ in range(20):
            tokens = engine.tokens(IDS, 900)
            assert [next(tokens) for _ in range(5)] == wanted[:5]
            tokens.close()
            assert list(engine.tokens(IDS, 100)) == wanted
        engine.stop = frozenset(wanted[50:51])
        end = wanted.index(wanted[50])
        assert list(engine.tokens(IDS, 900)) == wanted[:end]
        tokens = engine.tokens(IDS, 900)
        next(tokens)  # closing ends the launch


def test_sampling_is_refused(projecting):
    with load(projecting, 3, True) as engine, pytest.raises(FusecError, match="temperature 0"):
        list(engine.tokens(IDS, 4, Sampling(temperature=0.8)))
