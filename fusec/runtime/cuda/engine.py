"""The engine on a GPU: as on the CPU, but the token loop runs on the device."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Any

from fusec.codegen.cuda.control import MOST_CANDIDATES
from fusec.codegen.cuda.drafting import MOST_DRAFTED
from fusec.models.model import Model
from fusec.runtime.cuda.chained import Chain
from fusec.runtime.cuda.device_array import DeviceArray
from fusec.runtime.cuda.drafted import DraftedLoop
from fusec.runtime.cuda.loop import TokenLoop
from fusec.runtime.cuda.pace import Pace
from fusec.runtime.cuda.session import CudaSession
from fusec.runtime.drafting import Auto, Drafter, Drafting, DraftStatistics, Recycle, Suffix
from fusec.runtime.engine import Engine
from fusec.runtime.job import Ids, Job

ON_DEVICE: dict[type[Drafter], tuple[str, ...]] = {
    Suffix: ("suffix",), Recycle: ("recycle",), Auto: ("suffix", "recycle"),
}  # fmt: skip
"""Drafters that are kernels, and what these guess from; the objects themselves are not asked."""


class CudaEngine(Engine):
    """`loop` generates, and `drafted` with a drafter; the sessions are those of `Engine`."""

    most_candidates = MOST_CANDIDATES
    traced: CudaSession

    def __init__(
        self,
        decode: CudaSession,
        prefill: CudaSession,
        absorb: CudaSession,
        loop: TokenLoop,
        drafted: DraftedLoop | None = None,
        *,
        context: int,
        stop: Iterable[int] = (),
        traced: CudaSession | None = None,
        model: Model | None = None,
    ) -> None:
        super().__init__(
            decode, prefill, absorb, context=context, stop=stop, traced=traced, model=model
        )
        self.traced = prefill if traced is None else traced
        self.loop, self.drafted = loop, drafted
        self.workspace = decode.workspace
        self._pace: Pace | None = None
        self._paced: tuple[Drafting, int] | None = None  # whose it is

    @cached_property
    def chain(self) -> Chain:
        """What makes guesses for another engine, without the host between two of them."""
        return Chain(self.loop)

    @property
    def residency(self) -> dict[str, Any] | None:
        """See `Engine`."""
        found = self.workspace.residency
        return found.as_dict() if found else None

    @property
    def draft_costs(self) -> dict[int, float]:
        """See `TokenEngine`. Of graphs, by the device's clock, where the device guesses."""
        return self._pace.cost.known if self._pace else super().draft_costs

    def close(self) -> None:
        """See `Engine`."""
        self.loop.stop()
        super().close()

    def wait(self) -> None:
        """See `Engine`."""
        super().wait()
        self.traced.finish()

    def trace(
        self,
        ids: Ids,
        *,
        width: int | None = None,
        append: bool = False,
        on_device: bool = False,
    ) -> dict[str, Any]:
        """See `TokenEngine`."""
        if not on_device:
            return super().trace(ids, width=width, append=append)
        with self._turns.take():
            self._turns.check()
            size, ids = self._width(width), self._begun(ids, append)
            found: dict[str, DeviceArray] = {}
            for i in range(0, len(ids), size):
                given = ids[i : i + size]
                self.traced.step_into(found, i, len(ids), **self._inputs(given))
                self._advance(given)
            self.traced.finish()
            return dict(found)

    def _generate(self, job: Job) -> Iterator[int]:
        self._go_back(job.kept)
        if not job.count:
            return
        self._ids = list(job.sequence)
        self._position, made = len(job.sequence) - 1, 0
        for token in self._device_tokens(job):
            self._position += 1  # what the cache holds: the last token made is not in it
            self._ids.append(token)
            made += 1
            yield token
        self._position += made < job.count  # in front of a stop token, it is

    def _device_tokens(self, job: Job) -> Iterator[int]:
        """Chosen on the device, and guessed there too if the drafter is one of its kernels."""
        if self.drafter is None or self.drafted is None:
            return self.loop.run(job, self.stop)
        uses = ON_DEVICE.get(type(self.drafter))
        if uses is None:
            return self.drafted.run_hosted(job, self.stop, self._drafting)
        if self._pace is None or self._paced != (self._drafting, self.draft_max):
            cost = self._pace.cost if self._pace else None
            most = min(self.draft_max, MOST_DRAFTED)
            self._pace = Pace(most, suffix="suffix" in uses, recycle="recycle" in uses, cost=cost)
            self._paced = self._drafting, self.draft_max
            self.drafted.forget()
        self._drafting.statistics = DraftStatistics()
        return self.drafted.run(job, self.stop, self._pace, self._drafting.statistics)
