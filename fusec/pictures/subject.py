"""What there is to show of a compilation, whether it was just made or lies in a folder."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from fusec import loop_times
from fusec.backends.base import Plans
from fusec.compiled import Compilation
from fusec.errors import FusecError, reason
from fusec.ir.gpu import Gpu
from fusec.ir.graph import Graph, Node
from fusec.ir.plan import LaunchPlan, Size
from fusec.models.model import Model
from fusec.passes import cost
from fusec.passes.pipeline import Stage, find_pass
from fusec.pictures.drawing import anchor
from fusec.pictures.loop import Loop
from fusec.pictures.svg import to_svg
from fusec.pictures.view import Layers, shown, stands
from fusec.report import size, summary


@dataclass(frozen=True)
class Subject:
    """A compilation. `registers`: of kernels that are compiled already.

    `report`: what `fusec inspect --json` prints. `profile`: what `fusec profile -o` wrote, or
    None. `gpu`: whose constants predict; None for the CPU target, and for steps of several rows.
    `loop`: of drafted tokens, where it is to be shown.
    """

    model: str
    stages: tuple[Stage, ...]
    plan: LaunchPlan
    report: dict[str, Any]
    sources: dict[str, str]
    registers: dict[str, int] = field(default_factory=dict)
    gpu: Gpu | None = None
    profile: dict[str, Any] | None = None
    loop: Loop | None = None

    @property
    def graph(self) -> Graph:
        """The graph that the plan launches."""
        return self.stages[-1].graph

    @cached_property
    def kernel_of(self) -> dict[str, str]:
        """Node -> its kernel."""
        return {launch.node: launch.kernel for launch in self.plan.launches}

    @cached_property
    def sizes(self) -> dict[str, Size]:
        """Kernel -> the size of its launches; empty on the CPU."""
        return {x.kernel: x.size for x in self.plan.launches if x.size is not None}

    @cached_property
    def early(self) -> frozenset[str]:
        """Nodes whose launch starts while the one in front of it runs."""
        return self.plan.early

    @cached_property
    def _ahead(self) -> dict[str, tuple[str, ...]]:
        """Node -> weights that are brought into L2 beside its launch."""
        return {x.node: x.prefetch for x in self.plan.launches if x.prefetch}

    @cached_property
    def measured(self) -> dict[str, float]:
        """Node -> microseconds in the token, where it was profiled."""
        found = self.profile["launches"] if self.profile else []
        return {item["node"]: item["us"] for item in found}

    @cached_property
    def predicted(self) -> dict[str, cost.Cost]:
        """Node -> what the cost model says; empty without a GPU."""
        if self.gpu is None:
            return {}
        costs = cost.token_costs(self.plan, self.gpu, position=self.position)
        return {x.node: c for x, c in zip(self.plan.launches, costs, strict=True)}

    @property
    def position(self) -> int:
        """The token's, that times are meant for."""
        return int(self.profile["position"]) if self.profile else cost.POSITION

    @cached_property
    def _launched(self) -> frozenset[Node]:
        """The plan's nodes: one of an earlier stage may have the name of one of these."""
        return frozenset(self.graph.nodes)

    def notes(self, nodes: Sequence[Node]) -> list[str]:
        """Lines for a box of the picture: grid and registers, bytes, microseconds."""
        lines = []
        launched = all(node in self._launched for node in nodes)
        if len(nodes) == 1 and launched:
            kernel = self.kernel_of[nodes[0].name]
            words = [str(self.sizes[kernel])] if kernel in self.sizes else []
            if kernel in self.registers:
                words.append(f"{self.registers[kernel]} registers")
            if nodes[0].name in self.early:
                words.append("starts early")
            lines += [", ".join(words)] if words else []
            if names := self._ahead.get(nodes[0].name):
                nbytes = {v.name: v.nbytes for v in self.graph.weights}
                lines.append(f"fetches {size(sum(nbytes[n] for n in names))} of weights ahead")
        parts = [size(sum(cost.moved(n, self.position) for n in nodes))]
        if self.gpu is not None:
            parts.append(f"{sum(map(self._predict, nodes)):.2f} us predicted")
        if launched and self.measured:
            parts.append(f"{sum(self.measured[n.name] for n in nodes):.2f} us measured")
        return [*lines, ", ".join(parts)]

    def _predict(self, node: Node) -> float:
        if node in self._launched:
            return self.predicted[node.name].total
        assert self.gpu is not None
        far = not cost.resident(self.plan, self.gpu)
        return cost.launch_us(node, self.gpu, position=self.position, far=far).total

    def svg(
        self,
        stage: str | None = None,
        *,
        layers: Layers = None,
        links: Mapping[str, str] | None = None,
    ) -> str:
        """The plan, or a stage before it, as SVG; `to_svg` says what the arguments mean."""
        found = find_stage(self.stages, stage, self.plan.level)
        last = found is self.stages[-1]
        part, _ = shown(found.graph, layers)
        words = [f"{self.title}: {'the plan' if last else f'after {found.name}'}"]
        if layers is not None and layers != "all":
            words.append(part.name.split(", ", 1)[1])
        unit = "dispatches" if last else "nodes"
        words.append(f"{len(part.nodes)} {unit}")
        return to_svg(
            found.graph,
            layers,
            notes=self.notes,
            early=self.early if last else (),
            title=", ".join(words),
            links=links,
            unit=unit,
        )

    @property
    def title(self) -> str:
        """The model, the level and the target."""
        return f"{self.model} at -O{self.plan.level} for {self.plan.target}"

    def anchors(self, layers: Layers) -> dict[str, str]:
        """Node of the plan -> the name, in a page, of the box that `svg` draws it in."""
        part, folded = shown(self.graph, layers)
        return {name: anchor(self.graph, box) for name, box in stands(part, folded).items()}


def find_stage(stages: Sequence[Stage], name: str | None, level: int) -> Stage:
    """A stage by its pass's name, the last one without. Raises FusecError naming the known."""
    by_name = {stage.name: stage for stage in stages}
    if name is None:
        return stages[-1]
    return by_name[find_pass(name, by_name, "no stage", f" at -O{level}: there are")]


def of_compiled(compiled: Compilation, profile: Path | None = None) -> Subject:
    """What `fusec.compile` returned. A folder's is `fusec.artifact.pictured`."""
    kernels = compiled.kernels
    return Subject(
        Path(compiled.model.file.path).stem if compiled.model else compiled.plan.name,
        compiled.stages,
        compiled.plan,
        summary(compiled),
        {k.name: kernels[k.name].source for k in compiled.plan.kernels},
        compiled.backend.registers(kernels),
        compiled.backend.limits.gpu if compiled.plan.tokens == 1 else None,
        read_profile(profile, compiled.plan),
    )


def loop_of(
    model: Model, plans: Plans | None, drafter: str, most: int, profile: Path | None = None
) -> tuple[Loop, Path | None]:
    """The loop of a model's plans; and the profile, where it is of the plan and not of the loop.

    Raises FusecError for a graph, which no loop runs, and where a drafter has no place in a step.
    """
    if plans is None:
        raise FusecError("--draft: only a model generates tokens, found a graph")
    checks = plans.several
    if not checks:
        raise FusecError(f"--draft: steps of {plans.decode.target} have one row")
    loop = Loop(Path(model.file.path).stem, drafter, most, plans.decode, checks)
    if profile is None or (found := read_rounds(profile, plans.decode)) is None:
        return loop, profile
    if found["draft"]["drafter"] != drafter:
        raise FusecError(
            f"{profile}: expected a profile of --draft {drafter}, found one of "
            f"{found['draft']['drafter']}"
        )
    return replace(loop, profile=found), None


def read_profile(path: Path | None, plan: LaunchPlan) -> dict[str, Any] | None:
    """What `fusec profile -o` wrote. Raises FusecError unless it is of this very plan."""
    if path is None:
        return None
    data = _read(path)
    if "draft" in data:
        raise FusecError(f"{path}: a profile of drafted tokens: show it with --draft")
    with _expected(path):
        kernels = [x["kernel"] for x in data["launches"]]
        numbers = [float(x["us"]) for x in data["launches"]] + [float(data["token"])]
        numbers += [float(data["position"]), *map(float, data["walls"].values())]
    _check_target(path, data, plan)
    if kernels != [launch.kernel for launch in plan.launches]:
        raise FusecError(f"{path}: a profile of other kernels: run fusec profile again")
    return data


def read_rounds(path: Path, plan: LaunchPlan) -> dict[str, Any] | None:
    """What `fusec profile --draft -o` wrote; None if it is a profile of the plan instead.

    Raises FusecError unless it is of this level and target.
    """
    data = _read(path)
    if "draft" not in data:
        return None
    with _expected(path):
        loop_times.check(data)
    _check_target(path, data, plan)
    return data


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text()
    except OSError as error:
        raise FusecError(f"{path}: cannot be read: {reason(error)}") from None
    with _expected(path):
        data: dict[str, Any] = dict(json.loads(text))
        return data


@contextmanager
def _expected(path: Path) -> Iterator[None]:
    """What is not as `fusec profile` writes it becomes a FusecError."""
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError):
        raise FusecError(f"{path}: expected what fusec profile -o writes") from None


def _check_target(path: Path, data: dict[str, Any], plan: LaunchPlan) -> None:
    with _expected(path):
        found = data["target"], data["level"]
    if found != (plan.target, plan.level):
        raise FusecError(
            f"{path}: expected a profile at -O{plan.level} for {plan.target}, found one at "
            f"-O{found[1]} for {found[0]}"
        )
