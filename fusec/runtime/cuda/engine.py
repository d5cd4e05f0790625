"""The engine on a GPU: as on the CPU, but the token loop runs on the device."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from fusec.codegen.cuda.control import MOST_CANDIDATES
from fusec.models.model import Model
from fusec.runtime.cuda.device_array import DeviceArray
from fusec.runtime.cuda.loop import RUN_AHEAD, TokenLoop
from fusec.runtime.cuda.session import CudaSession
from fusec.runtime.engine import Engine
from fusec.runtime.job import Ids, Job


class CudaEngine(Engine):
    """`loop` generates; the sessions are those of `Engine`."""

    most_candidates = MOST_CANDIDATES
    traced: CudaSession

    def __init__(
        self,
        decode: CudaSession,
        prefill: CudaSession,
        absorb: CudaSession,
        loop: TokenLoop,
        *,
        context: int,
        stop: Iterable[int] = (),
        traced: CudaSession | None = None,
        model: Model | None = None,
    ) -> None:
        super().__init__(
            decode, prefill, absorb, context=context, stop=stop, traced=traced, model=model
        )
        if self._rewinds < context:  # tokens enqueued behind a stop token are in the windows too
            self._rewinds = max(0, self._rewinds - RUN_AHEAD)
        self.traced = prefill if traced is None else traced
        self.loop = loop
        self.workspace = decode.workspace

    @property
    def residency(self) -> dict[str, Any] | None:
        """See `Engine`."""
        found = self.workspace.residency
        return found.as_dict() if found else None

    def wait(self) -> None:
        """See `Engine`."""
        super().wait()
        with self.workspace.turns.take():
            self.workspace.enter()
            self.workspace.driver.synchronize(self.workspace.stream)

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
        for token in self.loop.run(job, self.stop):
            self._position += 1  # what the cache holds: the last token made is not in it
            self._reached = max(self._reached, self._position)
            self._ids.append(token)
            made += 1
            yield token
        self._position += made < job.count  # in front of a stop token, it is
