"""The table of docs/drafting.md, from what `fusec bench --draft auto,... -o FILE` wrote.

python benchmarks/draft_table.py benchmarks/results/h200-drafts.json
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FIRST = "auto"  # whose numbers are shown in full
NAMES = {"code": "code edit", "json": "JSON"}


def lines(results: list[dict[str, Any]]) -> Iterator[str]:
    """Markdown, a row a prompt, and their mean."""
    drafters = dict.fromkeys(row["draft"] for row in results)
    found = {(row["draft"], row["name"]): row for row in results}
    others = [draft for draft in drafters if draft != FIRST]
    titles = ["prompt", "plain tok/s", f"`{FIRST}` tok/s", "of plain (least to most)"]
    titles += ["tokens a step", "accepted of drafted", *(f"`{draft}`" for draft in others)]
    yield _row(titles)
    yield "|---" * len(titles) + "|"
    for name in dict.fromkeys(row["name"] for row in results):
        row = found[FIRST, name]
        yield _row([
            NAMES.get(name, name), f"{row['plain_tok_s']:,.0f}", f"{row['tok_s']:,.0f}",
            f"{row['ratio']:.2f} ({row['low']:.2f} to {row['high']:.2f})",
            f"{row['tokens_a_step']:.2f}", f"{row['accepted']} of {row['drafted']}",
            *(f"{found[draft, name]['ratio']:.2f}" for draft in others),
        ])  # fmt: skip

    def mean(draft: str, key: str) -> float:
        return statistics.mean(row[key] for row in results if row["draft"] == draft)

    yield _row([
        "mean", f"{mean(FIRST, 'plain_tok_s'):,.0f}", f"{mean(FIRST, 'tok_s'):,.0f}",
        f"{mean(FIRST, 'ratio'):.2f}", "", "",
        *(f"{mean(draft, 'ratio'):.2f}" for draft in others),
    ])  # fmt: skip


def _row(cells: list[str]) -> str:
    return "|" + "|".join(f" {cell} " if cell else " " for cell in cells) + "|"


if __name__ == "__main__":
    print("\n".join(lines(json.loads(Path(sys.argv[1]).read_text())["results"])))
