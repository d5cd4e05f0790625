"""The launch plan: plain data between the compiler and the engine, JSON both ways.

A launch names a kernel, the memory that its parameters stand for, the launches it must follow, and
on a GPU its size: grid, block, cluster, shared memory. A weight has its layout. Memory is of seven
kinds: the `arena` (one allocation, offsets assigned by liveness), `input`s that the caller writes
before a step, `state`s kept between steps, `pages` that say where their rows lie (see
`fusec.ir.pages`), `weight`s of the model file, `table`s that the engine computes once, and one word
that says how many `rows` the step has, for kernels that take several.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

from fusec.ir.choice import AnyChoice, choice_of
from fusec.ir.dtypes import dtype
from fusec.ir.graph import Graph
from fusec.ir.region import parameters
from fusec.ir.text import parse
from fusec.writer import brief, count

VERSION = 9


@dataclass(frozen=True)
class Arg:
    """Memory bound to one kernel parameter. `offset` is in bytes and counts in the arena only."""

    kind: str  # arena | input | state | pages | weight | table | rows
    name: str
    offset: int = 0


GENERATING = frozenset({"%logits", "%next"})
"""The outputs that every model's plan has."""

HIDDEN = "norm"
"""The value that goes into the output matrix, by the name that every model's graph has for it."""

ROWS = Arg("rows", "rows")
"""The word with the number of rows of a step."""


@dataclass(frozen=True)
class Size:
    """How a GPU runs a launch: `grid` blocks of `block` threads, `cluster` of which exchange.

    `shared`: bytes of shared memory of a block that the kernel itself declares; `dynamic`: bytes
    that the launch adds to them. `layers`: the grid's second dimension, as many times these blocks
    for a step of several rows.
    """

    grid: int
    block: int
    cluster: int = 1
    shared: int = 0
    dynamic: int = 0
    layers: int = 1

    def __str__(self) -> str:
        grid = f"{self.grid} x {self.layers} layers" if self.layers > 1 else str(self.grid)
        words = [f"{grid} x {self.block} threads"]
        words += [f"clusters of {self.cluster}"] if self.cluster > 1 else []
        nbytes = self.shared + self.dynamic
        words += [f"{nbytes:,} B shared"] if nbytes else []
        return ", ".join(words)


def layers(tokens: int, rows: int, spare: int = 0) -> int:
    """Layers of the grid for a step of so many rows: one for each `rows`, and `spare` more.

    `rows` is 0 for a kernel that has one row.
    """
    return -(-tokens // rows) + spare if rows else 1


@dataclass(frozen=True)
class Launch:
    """One dispatch. `waits`: earlier launches whose results or memory it needs, by index.

    `early`: it may start while the launch in front of it still runs (see `fusec.passes.overlap`),
    an edge of programmatic dependent launch. `prefetch`: weights that are brought into L2 from here
    on (see `fusec.passes.prefetch`). `scalars`: what is passed beside the pointers of `args`, in
    front of them. `size` is None where a team of threads runs all launches.
    """

    node: str
    kernel: str
    args: tuple[Arg, ...]
    writes: tuple[str, ...]  # values and states
    waits: tuple[int, ...]
    layer: int | None
    group: str  # forward | embed | sample | outputs
    early: bool = False
    prefetch: tuple[str, ...] = ()
    scalars: tuple[str, ...] = ()
    size: Size | None = None

    def __repr__(self) -> str:
        size = f", {self.size}" if self.size else ""
        return brief(
            self, f"{self.kernel} makes {self.node}, {count(len(self.args), 'argument')}{size}"
        )


@dataclass(frozen=True)
class Kernel:
    """A kernel that launches share: the canonical region it computes, as printed IR.

    `overlaps`: its code waits for the launch in front of it, and lets the next one start early.
    `choice`: its shape where it was measured; None leaves it to the emitter. `rows`: how many rows
    of a step of several a thread block takes if no choice says so, each layer of the grid its own;
    0: there is one row. `measured`: choices for steps of several rows, each with how many; plans
    for fewer rows find theirs here (`Backend.variants`). `leads`: some launch of it is right in
    front of one that makes a head's rows and attends.
    """

    name: str
    region: str
    overlaps: bool = False
    choice: AnyChoice | None = None
    rows: int = 0
    measured: tuple[tuple[int, AnyChoice], ...] = ()
    leads: bool = False

    def __repr__(self) -> str:
        return brief(self, f"{self.name}: {count(self.region.count(' = '), 'op')}")

    @property
    def taken(self) -> int:
        """Rows of a step of several that a thread block takes; 0: there is one row."""
        return (self.choice and self.choice.width) or self.rows

    @property
    def base(self) -> str:
        """The name without what it says of a step's rows."""
        return re.sub(r"_\d+(_of\d+)?$", "", self.name) if self.rows else self.name

    def taking(self, rows: int, tokens: int) -> Kernel:
        """The same of a step of `tokens` rows, whose blocks take so many if nothing was measured.

        What was measured for so many tokens has a name of its own.
        """
        choice = dict(self.measured).get(tokens)
        other = replace(self, rows=rows, choice=choice)
        name = self.base + (f"_{other.taken}" if other.taken else "")
        name += f"_of{tokens}" if choice else ""
        if name == self.name:
            return other
        return replace(other, name=name, region=str(replace(parse(self.region), name=name)))


@dataclass(frozen=True)
class Tensor:
    """Type of an input, output, state or weight, and the layout of a weight (see `Value`)."""

    dtype: str
    shape: tuple[int, ...]
    layout: str = ""


@dataclass(frozen=True)
class Table:
    """A lookup table: what `fusec.ir.tables.make_table` needs to fill it. `weight` may be empty."""

    kind: str
    attrs: dict[str, Any]
    weight: str


@dataclass(frozen=True)
class LaunchPlan:
    """Everything the engine needs besides the kernels' code and the weights themselves."""

    name: str
    target: str
    level: int
    tokens: int
    inputs: dict[str, Tensor]
    states: dict[str, Tensor]
    weights: dict[str, Tensor]
    tables: dict[str, Table]
    outputs: dict[str, Tensor]
    output_args: dict[str, Arg]
    kernels: tuple[Kernel, ...]
    launches: tuple[Launch, ...]
    arena_bytes: int
    weights_bytes: int
    windows: dict[str, int] = field(default_factory=dict)  # state -> see `fusec.ir.pages`
    version: int = VERSION

    def __repr__(self) -> str:
        rows = "" if self.tokens == 1 else f" for {self.tokens} rows"
        return brief(self, f"{self.name}: {self.summary}{rows}")

    @property
    def summary(self) -> str:
        """Target, level and sizes, as a `repr` shows them: all dispatches of a step are counted."""
        counts = count(len(self.launches), "dispatch"), count(len(self.kernels), "kernel")
        return f"{self.target} -O{self.level}, {', '.join(counts)}"

    @property
    def dispatches(self) -> dict[str, Any]:
        """`forward` dispatches, how many of them `per_layer` (the most common count), `other`s."""
        groups = Counter(launch.group for launch in self.launches)
        forward = groups.pop("forward", 0)
        layers = Counter(
            launch.layer
            for launch in self.launches
            if launch.group == "forward" and launch.layer is not None
        )
        per_layer = Counter(layers.values()).most_common(1)
        return {
            "forward": forward,
            "per_layer": per_layer[0][0] if per_layer else 0,
            "other": dict(sorted(groups.items())),
        }

    @property
    def overlaps(self) -> bool:
        """Whether launches start before those in front of them have ended."""
        return any(kernel.overlaps for kernel in self.kernels)

    @property
    def early(self) -> frozenset[str]:
        """Nodes whose launch starts while the one in front of it runs."""
        return frozenset(launch.node for launch in self.launches if launch.early)

    @property
    def prefetches(self) -> bool:
        """Whether weights are brought into L2 ahead of their readers."""
        return any(launch.prefetch for launch in self.launches)

    def region(self, launch: Launch) -> Graph:
        """What a launch computes."""
        return parse(next(k.region for k in self.kernels if k.name == launch.kernel))

    @cached_property
    def reach(self) -> int:
        """Bytes of the arena up to the last that launches use: fewer where some were left out."""
        parts = {kernel.name: parameters(parse(kernel.region)) for kernel in self.kernels}
        ends = [
            arg.offset + dtype(value.dtype).nbytes((self.tokens, *value.shape[1:]))
            for launch in self.launches
            for value, arg in zip(parts[launch.kernel], launch.args, strict=False)
            if arg.kind == "arena"
        ]
        return max(ends, default=0)

    def with_kernels(self, kernels: Sequence[Kernel], tokens: int) -> LaunchPlan:
        """The plan for steps of so many tokens, with others in the places of its kernels.

        Launches of kernels of another name have no size.
        """
        names = {old.name: new.name for old, new in zip(self.kernels, kernels, strict=True)}
        launches = (
            launch
            if names[launch.kernel] == launch.kernel
            else replace(launch, kernel=names[launch.kernel], size=None)
            for launch in self.launches
        )
        return replace(self, tokens=tokens, kernels=tuple(kernels), launches=tuple(launches))

    def only(self, outputs: Collection[str]) -> LaunchPlan:
        """The plan without the launches that feed none of `outputs` and no state.

        A launch that has another one in front of it than before does not start early.
        """
        live: set[int] = set()
        wanted = {self.output_args[name].name for name in outputs} | set(self.states)
        for i, launch in reversed(tuple(enumerate(self.launches))):
            if i in live or wanted & set(launch.writes):
                live |= {i, *launch.waits}
        order = sorted(live)
        place = {old: new for new, old in enumerate(order)}
        launches = tuple(
            replace(
                self.launches[i],
                waits=tuple(place[w] for w in self.launches[i].waits),
                early=self.launches[i].early and i - 1 in live,
            )
            for i in order
        )
        return replace(self, launches=launches)

    @property
    def generating(self) -> LaunchPlan:
        """The plan of what a generation needs: logits and the next token, and nothing else."""
        return self.only({name for name in self.outputs if name in GENERATING})

    @property
    def hidden(self) -> frozenset[str]:
        """HIDDEN, if it is among the outputs: then all steps of a host give it out."""
        return frozenset({f"%{HIDDEN}"}) & set(self.outputs)

    @property
    def asked(self) -> frozenset[str]:
        """The other outputs of a model's plan: values that somebody asked for."""
        return frozenset(self.outputs) - GENERATING

    def to_json(self) -> str:
        """The plan as JSON text."""
        return json.dumps(asdict(self), indent=1)


def from_json(text: str) -> LaunchPlan:
    """Read `LaunchPlan.to_json`. Raises ValueError, KeyError or TypeError on anything else."""
    raw = json.loads(text)
    if raw["version"] != VERSION:
        raise ValueError(f"expected plan version {VERSION}, found {raw['version']}")

    def tensors(key: str) -> dict[str, Tensor]:
        return {n: Tensor(t["dtype"], tuple(t["shape"]), t["layout"]) for n, t in raw[key].items()}

    def kernel(item: dict[str, Any]) -> Kernel:
        choice = None if item["choice"] is None else choice_of(item["choice"])
        measured = tuple((rows, choice_of(found)) for rows, found in item["measured"])
        return Kernel(**{**item, "choice": choice, "measured": measured})

    def launch(item: dict[str, Any]) -> Launch:
        lists = {key: tuple(item[key]) for key in ("writes", "waits", "prefetch", "scalars")}
        size = None if item["size"] is None else Size(**item["size"])
        args = tuple(Arg(**a) for a in item["args"])
        return Launch(**{**item, **lists, "args": args, "size": size})

    parts: dict[str, Any] = {k: tensors(k) for k in ("inputs", "states", "weights", "outputs")}
    parts["tables"] = {n: Table(**t) for n, t in raw["tables"].items()}
    parts["output_args"] = {n: Arg(**a) for n, a in raw["output_args"].items()}
    return LaunchPlan(
        **{
            **raw,
            **parts,
            "kernels": tuple(map(kernel, raw["kernels"])),
            "launches": tuple(launch(item) for item in raw["launches"]),
        }
    )
