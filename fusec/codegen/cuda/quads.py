"""A prologue's work, emitted quad by quad; of n threads, each takes every n-th quad."""

from __future__ import annotations

from contextlib import nullcontext

from fusec.codegen.cuda.forms import FixedPoint, Pending
from fusec.codegen.cuda.scope import Scope
from fusec.codegen.cuda.shape import WARP
from fusec.codegen.cuda.stages import Stage

UNROLLED = 4  # quads a thread fetches before it needs them


class Quads:
    """All quads of one `Pending`; its variables end in `tag`."""

    def __init__(self, scope: Scope, pending: Pending, tag: str) -> None:
        self.scope, self.w, self.pending, self.tag = scope, scope.w, pending, tag
        self.threads = scope.geometry.threads
        self.steps = -(-pending.count // self.threads)

    @property
    def of_own_warp(self) -> bool:
        """Whether a warp makes the digits of the chunks that it multiplies (see `tiles`).

        A warp's quads are a chunk, and of 16 warps each takes every 16th of both.
        """
        form = self.pending.form
        return isinstance(form, FixedPoint) and form.tiled

    def fetch_weights(self) -> None:
        """Every thread takes quads `thread`, `thread + threads`, ...; few are loaded first."""
        if self.steps > UNROLLED:
            return
        for step in range(self.steps):
            i, more = f"own{self.tag}{step}", step * self.threads
            self.w.line(f"{i} = uint32(thread + {more})" if step else f"{i} = thread")
            self.pending.source.fetch_weights(self.w, self._place(i), f"{self.tag}{step}")

    def emit(self, first: bool) -> None:
        """The rest. `first`: these are what the kernel reads first."""
        w, source = self.w, self.pending.source
        if self.steps > UNROLLED:
            with w.at(Stage.FIRST if first else Stage.MAKE):
                source.ready(w)
                with w.block(f"for step in range({self.steps}):"):
                    w.line(f"k = uint32(step * {self.threads} + thread)")
                    place = self._place("k")
                    source.fetch_weights(w, place, "_k")
                    quad = source.fetch(w, place, "_k")
                    source.finish(w, place, "_k")
                    self._quad(quad, "k", "quad_k", 0)
            return
        numbers = [f"{self.tag}{step}" for step in range(self.steps)]
        places = [self._place(f"own{number}") for number in numbers]
        with w.at(Stage.READ if first else Stage.MAKE):
            quads = [source.fetch(w, *given) for given in zip(places, numbers, strict=True)]
        for step, (number, quad) in enumerate(zip(numbers, quads, strict=True)):
            with w.at(Stage.FIRST if first and step == 0 else Stage.MAKE):
                if step == 0:
                    source.ready(w)
                warps = -(-self.pending.count // WARP) * WARP
                here = f"if some(own{number} < uint32({warps})):"  # the other warps have no quad
                with w.block(here) if warps < (step + 1) * self.threads else nullcontext():
                    source.finish(w, places[step], number)
                    self._quad(quad, f"own{number}", f"quad{number}", step * self.threads)

    def _place(self, i: str) -> str:
        """Which quad of the source is number `i` of the form: of a pair, each block has half."""
        paired = self.scope.geometry.paired
        return f"uint32({i} + half * uint32({self.pending.count}))" if paired else i

    def _quad(self, quad: str, i: str, plain: str, first: int) -> None:
        """One quad: into the form, its squares if a norm wants them, and itself if it is kept.

        Of quad i, `first` is the part that is the same for all threads.
        """
        w, pending = self.w, self.pending
        if pending.form:
            rest, inside = "thread" if first else i, f"{i} < uint32({pending.count})"
            w.line(pending.form.store(quad, rest, inside, first))
        if (s := pending.squares) is not None:
            w.line(f"store_squares({plain}, {i}, {s.quads}, {s.partials})")
        if pending.kept:
            where = f"{self.scope.pointers[pending.kept]}, {plain}, {i}, {pending.source.n}"
            w.line(f"keep_quad({where}, block == uint32(0))")
