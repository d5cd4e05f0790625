"""What `fusec bench` prints: the columns that users of llama-bench know, and what comes beside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rich.table import Table

from fusec.report import make_table, size

Row = dict[str, Any]

COLUMNS: dict[str, Callable[[Row], str | None]] = {
    "model": lambda row: row["model"],
    "level": lambda row: _shown("-O{}", row["level"]),
    "launch": lambda row: row["launch"],
    "l2": lambda row: None if row["launch"] == "cpu" else row["l2"],
    "test": lambda row: test_name(row["prompt"], row["n"]),
    "t/s": lambda row: f"{row['tok_s']:,.1f} ± {50 * row['spread']:.1f}%",
    "us/token": lambda row: f"{row['us_per_token']:,.1f}",
    "gap us": lambda row: _shown("{:.2f}", row["us_gap"]),
    "dispatches": lambda row: _shown("{}", row["dispatches"]),
    "GB/s": lambda row: _shown("{:,.1f}", row["gb_s"]),
    "of bandwidth": lambda row: _shown("{:.1%}", row["share"]),
}
"""Title -> what a row shows there. `±` is half the range of the repeats."""


def table(data: dict[str, Any]) -> Table:
    """One row a result: prompts, an empty line, new tokens; without what nobody measured."""
    found = make_table("batch 1: prompts (pp), and new tokens (tg) behind one (@ d)")
    rows = [*data["prompts"], *data["results"]]
    cells = {title: [show(row) for row in rows] for title, show in COLUMNS.items()}
    shown = {title: column for title, column in cells.items() if any(column)}
    for title in shown:
        words = title in ("model", "level", "launch", "l2", "test")
        found.add_column(title, justify="left" if words else "right", no_wrap=True)
    for number, row in enumerate(zip(*shown.values(), strict=True), start=1):
        last_prompt = number == len(data["prompts"])
        found.add_row(*(cell or "" for cell in row), end_section=last_prompt)
    return found


def test_name(prompt: int, n: int) -> str:
    """What llama-bench calls it: a prompt's own tokens, or n new ones at the depth of a prompt."""
    return f"tg{n} @ d{prompt}" if n else f"pp{prompt}"


def lines(data: dict[str, Any]) -> list[str]:
    """The machine, its bandwidth and the L2 windows, a line each."""
    where = f"{data['gpu']}, driver {data['driver']}" if data["gpu"] else f"{data['cores']} cores"
    found = [f"{where}; fusec {data['versions'].get('fusec', '')} at {data['commit']}"]
    if data["bandwidth_gb_s"]:
        found.append(f"read bandwidth measured: {data['bandwidth_gb_s']:,.0f} GB/s")
    for asked, l2 in data["l2"].items():
        kept = (
            f"{size(l2['carve_out'])} set aside for {size(l2['window'])} of weights"
            if l2["mode"] == "window"
            else "no window"
        )
        found.append(f"L2 {asked}: {kept}, at most {size(l2['limit'])} can be set aside")
    return [*found, *data.get("notes", [])]


def _shown(form: str, value: object) -> str | None:
    return None if value is None else form.format(value)
