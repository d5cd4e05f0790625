"""A driver without a GPU whose graphs are done at once, and make a text that is given."""

from __future__ import annotations

import time

import numpy as np
import pytest

from fusec import driver
from fusec.codegen.cuda.control import RING
from fusec.codegen.cuda.drafting import GRAPHS, STATE_WORDS
from fusec.runtime.cuda.engine import CudaEngine
from fusec.runtime.drafting import Suffix
from tests.runtime.cuda import fake
from tests.runtime.cuda.fake import FakeDriver, view
from tests.runtime.cuda.machine import Machine


class ScriptedGpu(FakeDriver):
    """Kernels do nothing but those that hand tokens to the host. Guesses are suffix matches."""

    def start(self, text: list[int], first: int) -> None:
        """Make what stands behind the token at `first`."""
        self.text, self.there, self.width = text, first, 0
        self.known = Suffix()
        self.known.begin(text[: first + 1])

    def advance(self, *pointers: int) -> None:
        """A plain graph makes a token."""
        *_, counter, _tokens, ring = pointers
        self._show(counter, ring, 1)

    def draft(self, tokens: int, token: int, pos: int, rows: int, most: int, *_: int) -> None:
        """How many rows the step has."""
        self.width = int(view(most, "i32", (1,))[0]) + 1

    def accept(self, *pointers: int) -> None:
        """What the rows have made."""
        counter, ring, state, log, clock = pointers[6:11]
        guesses = [guess.token for guess in self.known.propose(self.width - 1 or 1)]
        guesses = guesses[: self.width - 1]
        real = self.text[self.there + 1 : self.there + 1 + len(guesses)]
        pairs = zip(guesses, real, strict=False)
        right = next((n for n, (a, b) in enumerate(pairs) if a != b), len(real))
        made = min(len(self.text) - 1 - self.there, right + 1)
        self._show(counter, ring, made)
        graphs = view(state, "i32", (STATE_WORDS,))
        number = int(graphs[GRAPHS])
        graphs[GRAPHS] += 1
        _slots(clock)[number % RING] = time.perf_counter_ns()
        _slots(log)[number % RING] = (number + 1) << 32 | made | len(guesses) << 5

    def _show(self, counter: int, ring: int, made: int) -> None:
        """Hand on so many tokens; what runs behind the end of the text makes any."""
        tokens = self.text[self.there + 1 : self.there + 1 + made] or [0] * made
        step = view(counter, "i32", (1,))
        for number, token in enumerate(tokens, int(step[0])):
            _slots(ring)[number % RING] = (number + 1) << 32 | token
        step[0] += made
        self.there += made
        self.known.seen(tokens, ())


def _slots(pointer: int) -> np.ndarray:
    return view(pointer, "i32", (2 * RING,)).view(np.uint64)


def scripted(compiled: driver.Compiled) -> tuple[CudaEngine, ScriptedGpu]:
    """An engine over such a driver."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fake, "FakeDriver", ScriptedGpu)
        made = Machine(compiled)
    gpu = made.api
    gpu.kernels = dict.fromkeys(gpu.kernels, lambda *_, **__: None)
    gpu.kernels |= {"draft": gpu.draft, "accept": gpu.accept}
    gpu.kernels |= dict.fromkeys(("advance", "advance_best"), gpu.advance)
    return made.built, gpu
