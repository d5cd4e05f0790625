"""What `fusec profile` shows: tables, bars, and one token's launches on a time line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.table import Table

from fusec.errors import FusecError
from fusec.files import beside, refused
from fusec.ir.plan import LaunchPlan
from fusec.report import make_table

COLOURS = {  # Okabe & Ito 2008
    "between tokens": "#D55E00",
    "launches": "#E69F00",
    "memory": "#0072B2",
    "compute": "#009E73",
}
KINDS = (".svg", ".png")
AGREE = 0.15  # how far the sum of the walls may be from the token


def tables(data: dict[str, Any]) -> Iterator[Table]:
    """The walls of a token, and where they stand in its kernels."""
    yield _walls(data)
    yield _kernels(data)


def line(data: dict[str, Any]) -> str:
    """The token, the sum of its walls, and where that was; a word of doubt where they disagree."""
    share = data["sum"] / data["token"]
    doubt = "" if abs(share - 1) <= AGREE else (
        f": more than {AGREE:.0%} apart, so something else used the machine meanwhile"
        if not data["gpu"]
        else f": more than {AGREE:.0%} apart"
    )  # fmt: skip
    where = data["gpu"] or f"{data['threads']} CPU threads"
    return (
        f"{data['model']} at -O{data['level']} on {where}, position {data['position']}: "
        f"{data['token']:,.1f} us a token ({1e6 / data['token']:,.0f} tok/s); the walls, measured "
        f"one by one, sum to {data['sum']:,.1f} us ({share:.0%}){doubt}"
    )


def bars(data: dict[str, Any]) -> dict[str, tuple[float, dict[str, float]]]:
    """Title of each bar -> the token's time and its walls, in microseconds."""
    if not data["naive_walls"]:
        return {"token": (data["token"], data["walls"])}
    return {
        "launched one by one,\nsampled on the host": (
            data["naive"]["eager, host sampling"],
            data["naive_walls"],
        ),
        "captured graph,\nsampled on the device": (data["token"], data["walls"]),
    }


def _walls(data: dict[str, Any]) -> Table:
    count = len(data["launches"])
    found = make_table("walls, us a token and us a launch")
    found.add_column("wall")
    for title in bars(data):
        for column in (title.replace("\n", " "), "share", "a launch"):
            found.add_column(column, justify="right", overflow="fold")
    for wall in data["walls"]:
        cells = []
        for token, walls in bars(data).values():
            cells += [f"{walls[wall]:,.1f}", f"{walls[wall] / token:.0%}"]
            cells.append(f"{walls[wall] / count:,.3f}" if wall != "between tokens" else "")
        found.add_row(wall, *cells)
    sums, tokens = [], []
    for token, walls in bars(data).values():
        sums += [f"{sum(walls.values()):,.1f}", f"{sum(walls.values()) / token:.0%}", ""]
        tokens += [f"{token:,.1f}", "", ""]
    found.add_row("their sum", *sums)
    found.add_row("token", *tokens)
    return found


def _kernels(data: dict[str, Any]) -> Table:
    """A row a kernel: its mean time in the token, and what that is made of."""
    found = make_table("kernels, us a launch")
    found.add_column("kernel", no_wrap=True)
    predicted = all(x["predicted_us"] is not None for x in data["launches"])
    titles = ["launches", "in the token", *(["predicted"] if predicted else []), "launch"]
    for title in (*titles, "compute", "memory, cold code", "us a token", "GB/s"):
        found.add_column(title, justify="right", no_wrap=True)
    for name, kernel in data["kernels"].items():
        mine = [x for x in data["launches"] if x["kernel"] == name]
        mean = sum(x["us"] for x in mine) / len(mine)
        # only on a GPU, beside the launches around it, can a kernel take less than by itself
        cold = mean - kernel["alone"] if data["gpu"] else max(0.0, mean - kernel["alone"])
        guess = [f"{mine[0]['predicted_us']:,.2f}"] if predicted else []
        found.add_row(
            name.rsplit("_", 1)[0],
            str(len(mine)),
            f"{mean:,.2f}",
            *guess,
            f"{kernel['empty']:,.2f}",
            f"{max(0.0, kernel['alone'] - kernel['empty']):,.2f}",
            f"{cold:+,.2f}",
            f"{mean * len(mine):,.1f}",
            f"{mine[0]['bytes'] / mean / 1e3:,.0f}" if mean > 0 else "",
        )
    return found


def trace(data: dict[str, Any], plan: LaunchPlan) -> dict[str, Any]:
    """One token's launches in the Trace Event Format, for ui.perfetto.dev or chrome://tracing.

    One track has what was measured; on a GPU another has what the cost model predicts.
    """
    tracks = {"measured": "us", "predicted": "predicted_us"}
    events: list[dict[str, Any]] = [_name(0, "process_name", line(data))]
    for track, (title, key) in enumerate(tracks.items()):
        if any(x[key] is None for x in data["launches"]):
            continue
        events.append(_name(track, "thread_name", title))
        at = 0.0
        for launch, item in zip(plan.launches, data["launches"], strict=True):
            duration = max(item[key], 0.0)
            events.append(
                {
                    "name": item["kernel"].rsplit("_", 1)[0],
                    "cat": launch.group,
                    "ph": "X",
                    "pid": 0,
                    "tid": track,
                    "ts": at,
                    "dur": duration,
                    "args": {
                        "node": item["node"],
                        "layer": item["layer"],
                        "bytes": item["bytes"],
                        "us": item["us"],
                        "predicted us": item["predicted_us"],
                    },
                }
            )
            at += duration
    return {"traceEvents": events, "displayTimeUnit": "ns", "otherData": {"profile": line(data)}}


def _name(track: int, what: str, name: str) -> dict[str, Any]:
    return {"name": what, "ph": "M", "pid": 0, "tid": track, "args": {"name": name}}


def check_chart(path: Path) -> None:
    """Raise FusecError for a chart that cannot be drawn: another kind of file, no matplotlib."""
    if path.suffix not in KINDS:
        raise FusecError(f"--chart {path}: expected a file name in {' or '.join(KINDS)}")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise FusecError("charts need matplotlib: pip install 'fusec[pictures]'") from None


def draw(data: dict[str, Any], path: Path) -> None:
    """The walls as stacked bars, a bar for each way to run the token, its own time as a line."""
    check_chart(path)
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    shown = bars(data)
    figure = Figure(figsize=(8.5, 1.7 + 0.85 * len(shown)), layout="constrained")
    axes = figure.add_subplot()
    for row, (token, walls) in enumerate(shown.values()):
        left = 0.0
        for wall, us in walls.items():
            axes.barh(row, us, left=left, color=COLOURS[wall], height=0.55,
                      label=wall if row == 0 else None)  # fmt: skip
            if us > 0.055 * max(t for t, _ in shown.values()):
                axes.text(left + us / 2, row, f"{us:,.0f}", ha="center", va="center",
                          color="white", fontsize=9)  # fmt: skip
            left += us
        axes.plot([token, token], [row - 0.38, row + 0.38], color="black", linewidth=1.5,
                  label="token, as measured" if row == 0 else None)  # fmt: skip
    axes.set_yticks(range(len(shown)), list(shown), fontsize=9)
    axes.invert_yaxis()
    axes.set_xlabel("us a token")
    axes.spines[["top", "right"]].set_visible(False)
    where = data["gpu"] or f"{data['threads']} CPU threads"
    figure.suptitle(f"{data['model']} at -O{data['level']} on {where}", fontsize=11)
    figure.legend(loc="outside lower center", ncols=5, fontsize=8, frameon=False)
    words = {"svg.fonttype": "none", "svg.hashsalt": "fusec"}  # text stays text, ids the same
    date = {"Date": None} if path.suffix == ".svg" else {}
    with refused(path), beside(path) as drawn, rc_context(words):
        figure.savefig(drawn, dpi=150, metadata=date)
