"""The engine on a GPU: as on the CPU, but the token loop runs on the device."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from fusec.runtime.cuda.loop import TokenLoop
from fusec.runtime.cuda.session import CudaSession
from fusec.runtime.engine import Engine
from fusec.runtime.sampling import Sampling


class CudaEngine(Engine):
    """`loop` generates; the sessions are those of `Engine`."""

    def __init__(
        self,
        decode: CudaSession,
        prefill: CudaSession,
        absorb: CudaSession,
        loop: TokenLoop,
        *,
        context: int,
        stop: Iterable[int] = (),
    ) -> None:
        super().__init__(decode, prefill, absorb, context=context, stop=stop)
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

    def _generate(self, ids: Sequence[int], count: int, sampling: Sampling) -> Iterator[int]:
        self._begin()
        if not count:
            return
        self.position, made = len(ids) - 1, 0
        for token in self.loop.run(ids, count, sampling, self.stop):
            self.position += 1  # what the cache holds: the last token made is not in it
            made += 1
            yield token
        self.position += made < count  # in front of a stop token, it is
