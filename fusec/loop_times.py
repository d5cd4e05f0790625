"""What `fusec profile --draft` shows: the parts of a round, and how texts were drafted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.table import Table

from fusec.report import make_table

PARTS = {
    "draft": "tokens are guessed",
    "check": "the step that reads the last token and the guesses",
    "choice": "a token for each row",
    "accept": "which guesses were right",
}


def tables(data: dict[str, Any]) -> Iterator[Table]:
    """Of what `fusec.bench.rounds` measured."""
    yield _rounds(data["draft"])
    yield _texts(data["draft"])


def line(data: dict[str, Any]) -> str:
    """All texts in a sentence; the time of their rounds beside that of their tokens."""
    where = data["gpu"] or f"{data['threads']} CPU threads"
    head = f"{data['model']} at -O{data['level']} on {where}"
    data = data["draft"]
    steps, tokens, drafted, accepted = (
        sum(text[key] for text in data["texts"])
        for key in ("steps", "tokens", "drafted", "accepted")
    )
    left_out = f"; no room for {', '.join(data['left_out'])}" if data["left_out"] else ""
    return (
        f"{head}, draft {data['drafter']}: {tokens} tokens in {steps} rounds "
        f"({tokens / steps:.2f} a round), {accepted} of {drafted} guesses accepted "
        f"({accepted / max(1, drafted):.0%}); the parts of all rounds sum to {share(data):.0%} of "
        f"the time of the texts{left_out}"
    )


def check(data: dict[str, Any]) -> None:
    """Raise ValueError, KeyError or TypeError for what cannot be shown."""
    for each in data["draft"]["rounds"]:
        int(each["rows"]), int(each["count"]), float(total(each))
    line(data)
    list(tables(data))


def share(data: dict[str, Any]) -> float:
    """The parts of all rounds, of what their tokens took."""
    parts = sum(each["count"] * total(each) for each in data["rounds"])
    return float(parts / sum(text["tokens"] * text["us"] for text in data["texts"]))


def total(row: dict[str, Any]) -> float:
    """Microseconds of a round."""
    return float(sum(row[part] for part in PARTS))


def means(data: dict[str, Any]) -> dict[str, float]:
    """Part -> microseconds, on average over all rounds that have guesses; none if none has."""
    drafted = [each for each in data["rounds"] if each["rows"] > 1]
    count = sum(each["count"] for each in drafted)
    if not count:
        return {}
    return {part: sum(each["count"] * each[part] for each in drafted) / count for part in PARTS}


def _rounds(data: dict[str, Any]) -> Table:
    found = make_table("rounds of the loop, us a part")
    for title in ("rows", "rounds", *PARTS, "round", "of one row"):
        found.add_column(title, justify="right", no_wrap=True)
    one = next((total(each) for each in data["rounds"] if each["rows"] == 1), 0.0)
    for each in data["rounds"]:
        parts = [f"{each[part]:,.1f}" if each[part] else "" for part in PARTS]
        of_one = f"{total(each) / one:.2f}" if one else ""
        found.add_row(
            str(each["rows"]), f"{each['count']:,}", *parts, f"{total(each):,.1f}", of_one
        )
    return found


def _texts(data: dict[str, Any]) -> Table:
    found = make_table("texts, greedy")
    found.add_column("prompt")
    for title in ("tokens", "rounds", "tokens a round", "drafted", "accepted", "us a token"):
        found.add_column(title, justify="right", no_wrap=True)
    for text in data["texts"]:
        found.add_row(
            text["name"],
            f"{text['tokens']:,}",
            f"{text['steps']:,}",
            f"{text['tokens'] / text['steps']:.2f}",
            f"{text['drafted']:,}",
            f"{text['accepted'] / text['drafted']:.0%}" if text["drafted"] else "",
            f"{text['us']:,.1f}",
        )
    return found
