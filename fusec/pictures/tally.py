"""What a token's time is made of: its launches one by one, and summed over each kernel."""

from __future__ import annotations

from dataclasses import dataclass

from fusec.passes import cost
from fusec.pictures.subject import Subject

SOURCES = ("predicted", "measured")


@dataclass(frozen=True)
class Row:
    """A kernel: how often a token launches it, and what all these launches take together.

    `us`: source (`predicted`, `measured`) -> microseconds a token, of the sources that know it.
    """

    kernel: str
    launches: int
    nbytes: int
    us: dict[str, float]


@dataclass(frozen=True)
class Tally:
    """A token's rows, the longest first, and its own time by each source that knows it.

    `outside`: what of `tokens` is in no launch, such as the gap between tokens. Launches that are
    measured one by one may take more than their token: then it is below 0.
    """

    rows: tuple[Row, ...]
    tokens: dict[str, float]
    outside: dict[str, float]

    @property
    def launches(self) -> int:
        """Of a token."""
        return sum(row.launches for row in self.rows)

    @property
    def nbytes(self) -> int:
        """Moved by a token."""
        return sum(row.nbytes for row in self.rows)

    @property
    def best(self) -> str | None:
        """The source that counts: measured, or else predicted; None without either."""
        return next((source for source in reversed(SOURCES) if source in self.tokens), None)

    def share(self, row: Row) -> float:
        """Of the token's time, or of its bytes where no time is known."""
        if self.best is None:
            return row.nbytes / self.nbytes
        return row.us[self.best] / self.tokens[self.best]


def tally(subject: Subject) -> Tally:
    """Sum a plan's launches by kernel: one that runs 30 times counts 30 times."""
    nodes: dict[str, list[str]] = {}
    for launch in subject.plan.launches:
        nodes.setdefault(launch.kernel, []).append(launch.node)
    by_name = {node.name: node for node in subject.graph.nodes}
    times = launch_times(subject)
    rows = [
        Row(
            kernel,
            len(names),
            sum(cost.moved(by_name[name], subject.position) for name in names),
            {source: sum(us[name] for name in names) for source, us in times.items()},
        )
        for kernel, names in nodes.items()
    ]
    tokens = {}
    if subject.gpu is not None:
        tokens["predicted"] = cost.token_us(subject.plan, subject.gpu, position=subject.position)
    if subject.profile:
        tokens["measured"] = float(subject.profile["token"])
    outside = {source: us - sum(times[source].values()) for source, us in tokens.items()}
    found = Tally(tuple(rows), tokens, outside)
    return Tally(tuple(sorted(rows, key=found.share, reverse=True)), tokens, outside)


def launch_times(subject: Subject) -> dict[str, dict[str, float]]:
    """Source -> node -> us of its launch, in launch order; no entry for what knows nothing."""
    order = [launch.node for launch in subject.plan.launches]
    found = {}
    if subject.predicted:
        found["predicted"] = {node: subject.predicted[node].total for node in order}
    if subject.measured:
        found["measured"] = {node: subject.measured[node] for node in order}
    return found
