"""The loop of drafted tokens as a drawing: draft, check, choice, accept, and back to the draft.

A line with < names what a part reads, one with > what it writes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from fusec import backends
from fusec.codegen.cuda import drafting
from fusec.ir.dtypes import dtype
from fusec.ir.graph import Value
from fusec.ir.plan import LaunchPlan
from fusec.loop_times import means
from fusec.pictures.dot import drawing_to_dot
from fusec.pictures.drawing import Box, Drawing, broken
from fusec.pictures.svg import picture
from fusec.report import size
from fusec.runtime.drafting import DRAFTERS

LOOKS = {
    "host": "element",
    "draft": "vector",
    "check": "rows",
    "choice": "scalar",
    "accept": "store",
}
END = "out"


@dataclass(frozen=True)
class Loop:
    """Of a compiled model with a drafter.

    `plain`: the plan of a token; `checks`: those of steps of several rows, the narrowest first.
    `most`: guesses of a step. `profile`: what `fusec profile --draft -o` wrote, or None.
    """

    model: str
    drafter: str
    most: int
    plain: LaunchPlan
    checks: tuple[LaunchPlan, ...]
    profile: dict[str, Any] | None = None

    @property
    def rows(self) -> int:
        """Of the widest step."""
        widest = self.checks[-1].tokens
        most = min(self.most, drafting.MOST_DRAFTED) if self.on_gpu else self.most
        return min(most + 1, widest)

    @property
    def on_gpu(self) -> bool:
        """Whether steps are captured graphs."""
        return backends.get(self.plain.target).family == "cuda"

    @property
    def on_device(self) -> bool:
        """Whether the drafter is a kernel."""
        return self.on_gpu and self.drafter in DRAFTERS

    @property
    def rounds(self) -> dict[str, Any] | None:
        """What was measured of them."""
        return self.profile["draft"] if self.profile else None

    @property
    def title(self) -> str:
        """What is drawn."""
        where = f"-O{self.plain.level} for {self.plain.target}"
        return f"{self.model} at {where}: tokens drafted by {self.drafter}"

    def svg(self, *, alone: bool = True) -> str:
        """The drawing; `alone`: with a title, not a part of a page."""
        return picture(self.drawing(), self.title, alone=alone, legend=False)

    def dot(self) -> str:
        """The drawing as graphviz DOT."""
        return drawing_to_dot(self.drawing(), self.title)

    def drawing(self) -> Drawing:
        """Boxes and arrows."""
        drawing = Drawing()
        for name, lines in self._parts().items():
            title = _title(name, self)
            shown = [part for line in lines for part in broken(line)]
            drawing.boxes[name] = Box(title, shown, LOOKS[name], None, title)
        target = "ring: tokens, to the host" if self.on_gpu else "tokens, to the caller"
        drawing.boxes[END] = Box(target, [], "end", None, target)
        for ends in pairwise(drawing.boxes):
            drawing.edges[ends] = self._flow(ends[0])
        back = [Value("%ids", "i32", (self._context,)), Value("%position", "i32", (1,))]
        drawing.back["accept", "draft"] = back
        if "host" in drawing.boxes:
            drawing.back["accept", "host"] = [Value("%log", "i32", (2,))]
        return drawing

    @property
    def _context(self) -> int:
        return min((state.shape[0] for state in self.plain.states.values()), default=1)

    @property
    def _vocabulary(self) -> int:
        return int(self.plain.outputs["%logits"].shape[-1])

    def _flow(self, source: str) -> list[Value]:
        """What leaves a part for the next."""
        rows = (self.rows,)
        tokens = [Value("%token", "i32", rows), Value("%pos", "i32", rows)]
        return {
            "host": [Value("%most", "i32", (1,))],
            "draft": tokens,
            "check": [Value("%logits", "f32", (self.rows, self._vocabulary))],
            "choice": [Value("%next", "i32", rows)],
            "accept": [Value("%token", "i32", rows)],
        }[source]

    def _parts(self) -> dict[str, list[str]]:
        """Part -> its lines."""
        found = {"host": self._host()} if self.on_device else {}
        found |= {
            "draft": self._draft(),
            "check": [
                *self._dispatches(),
                "< token, pos, KV cache",
                f"> logits f32[rows, {self._vocabulary}], KV cache",
            ],
            "choice": self._choice(),
            "accept": self._accept(),
        }
        return {name: [*lines, *self._times(name)] for name, lines in found.items()}

    def _dispatches(self) -> Iterator[str]:
        """Of the plans, where a step takes the first that has as many rows."""
        weights = size(_weights(self.plain))
        narrow = [plan for plan in self.checks[:-1] if plan.tokens < self.rows]
        for plan in narrow:
            yield f"up to {plan.tokens} rows: {len(plan.launches)} dispatches"
        last = next(plan for plan in self.checks if plan.tokens >= self.rows)
        yield f"{'more: ' if narrow else ''}{len(last.launches)} dispatches, {weights} of weights"

    def _host(self) -> list[str]:
        return [
            "as many rows as are worth their time,",
            f"or a plain token: {len(self.plain.launches)} dispatches",
            "< tokens, log of accepted guesses",
            "> which graph is launched",
        ]

    def _draft(self) -> list[str]:
        table = _TABLES.get(self.drafter, "KV cache of its own")
        reads = f"< ids, position, {table}" if table else "< ids, position"
        if self.on_device:
            return [_launched(drafting.draft()), reads, "> token, pos i32[rows], ids"]
        return ["as many guesses as are worth their time", reads, "> token, pos i32[rows]"]

    def _choice(self) -> list[str]:
        ways = ["the largest logit, or the sampler's"]
        if self.on_gpu:
            ways = ["greedy: the plan's argmax", "sampled: sample_rows, a block a row"]
        return [*ways, "< logits, position", "> next i32[rows]"]

    def _accept(self) -> list[str]:
        table = _TABLES.get(self.drafter, "")
        learnt = f", {table}" if table else ""
        if self.on_gpu:
            pairs = ", table of pairs" if self.on_device else ""
            kernel = _launched(drafting.accept(self._vocabulary))
            return [kernel, "< token, next, logits", f"> ids, position{pairs}, ring, log"]
        return [
            "guesses up to the first wrong one count",
            "< token, next",
            f"> ids, position{learnt}, what guesses are worth, what steps cost",
        ]

    def _times(self, name: str) -> Iterator[str]:
        """What was measured of a part: its mean over rounds with guesses; a step's by its rows."""
        if self.rounds is None or name == "host":
            return
        if name == "check":
            yield ", ".join(
                f"{each['rows']} row{'s' if each['rows'] > 1 else ''} {each['check']:,.1f} us"
                for each in self.rounds["rounds"]
            )
        elif name in (found := means(self.rounds)):
            yield f"{found[name]:,.1f} us measured"


_TABLES = {
    "suffix": "",
    "recycle": "table of pairs",
    "auto": "table of pairs",
}
"""What a drafter keeps beside the ids."""


def _title(name: str, loop: Loop) -> str:
    hosted = ", on the host" if loop.on_gpu and not loop.on_device else ""
    return {
        "host": "the host: how many rows",
        "draft": f"draft: {loop.drafter}{hosted}",
        "check": f"check: a step of up to {loop.rows} rows",
    }.get(name, name)


def _launched(kernel: Any) -> str:
    return f"kernel {kernel.name}: {kernel.grid} block of {kernel.threads} threads"


def _weights(plan: LaunchPlan) -> int:
    return sum(dtype(tensor.dtype).nbytes(tensor.shape) for tensor in plan.weights.values())
