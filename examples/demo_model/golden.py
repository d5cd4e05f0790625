"""The demo model's greedy text, which the tests hold every level and target to.

python examples/demo_model/golden.py          # rewrites tests/golden/demo.json
"""

from __future__ import annotations

import json
from pathlib import Path

import fusec
from fusec.models.gguf_file import open_gguf
from fusec.models.tokenizer import Tokenizer

PROMPTS = ("Once upon a time", "There once was a grey mouse", "Long ago, a little fox called Pip")
NEW_TOKENS = 400  # a story ends before
PATH = Path(__file__).parents[2] / "tests" / "golden" / "demo.json"


def main() -> None:
    """Write the file."""
    tokenizer = Tokenizer.from_gguf(open_gguf("demo"))
    engine = fusec.load("demo", level=0)
    cases = []
    for prompt in PROMPTS:
        ids = list(engine.tokens(tokenizer.encode(prompt), NEW_TOKENS))
        cases.append({"prompt": prompt, "text": tokenizer.decode(ids), "ids": ids})
    engine.close()
    PATH.write_text(json.dumps(cases, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
