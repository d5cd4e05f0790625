"""How each family of targets is measured beyond running its engines. A new family has an entry."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

from fusec.backends import Backend
from fusec.bench import gpu, profile_cpu, profile_gpu, rounds_cpu, rounds_gpu
from fusec.bench.drafted_texts import Generation, Round, Texts
from fusec.bench.experiment import Measured, Note
from fusec.driver import Compiled
from fusec.errors import FusecError
from fusec.runtime.engine import Engine


@dataclass(frozen=True)
class Instruments:
    """`experiments(compiled, tokens, threads, note)`: those of `fusec profile`, again and again.

    `rounds(engine, texts)`: the parts of a round of an engine with a drafter, and its texts.
    `read_bandwidth(target)`: GB/s from memory. `device_times(engine, prompt, count)`: microseconds
    of a token by the device's clock, and from there to the next. None where there is no such thing.
    `prompt`: tokens of the prompt that `fusec bench` reads where nobody says how long one is.
    """

    experiments: Callable[[Compiled, int, int, Note], Generator[Measured, None, None]]
    rounds: Callable[[Engine, Texts], tuple[list[Round], list[Generation]]]
    read_bandwidth: Callable[[str], float] | None = None
    device_times: Callable[[Engine, list[int], int], tuple[float, float]] | None = None
    prompt: int = 128


INSTRUMENTS = {
    "cpu": Instruments(profile_cpu.measure, rounds_cpu.measure),
    "cuda": Instruments(
        profile_gpu.measure, rounds_gpu.measure, gpu.read_bandwidth, gpu.device_times, prompt=512
    ),
}
"""`Backend.family` -> instruments."""


def instruments_of(backend: Backend[Any, Any]) -> Instruments:
    """Those of a target. Raises FusecError where nobody has written any."""
    if backend.family not in INSTRUMENTS:
        raise FusecError(f"target {backend.name}: nothing here measures it")
    return INSTRUMENTS[backend.family]
