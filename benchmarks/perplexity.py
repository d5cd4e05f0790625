"""Perplexity of the demo model in every weight format, on stories it was not trained on.

    python benchmarks/perplexity.py out/demo_model/demo-f32.gguf --json FILE

Quantises the F32 model as `fusec quantize` does, measures each file as `fusec perplexity --special
--base F32` does, and prints the table of docs/demo-model.md. `--chunks` shortens it.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "examples" / "demo_model"))

from corpus import held_out_text

from fusec.bench.facts import commit
from fusec.models.gguf_file import open_gguf
from fusec.models.quant_mix import MIXES
from fusec.models.requantize import requantize
from fusec.perplexity import measure

DENSE = [mix for mix in MIXES if not mix.endswith("_MOE")]


def row(path: Path, name: str, text: str, base: Path, chunks: int | None) -> dict[str, Any]:
    """Size and perplexity of one file, and how far it is from the F32 file `base`."""
    found = measure(path, text, base=base, special=True, chunks=chunks)
    tensors = open_gguf(path).tensors.values()
    weights = sum(math.prod(t.shape) for t in tensors)
    return {
        "format": name,
        "bits_per_weight": 8 * sum(t.data.nbytes for t in tensors) / weights,
        "megabytes": path.stat().st_size / 1e6,
        **found.as_dict(),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The rows in Markdown, most bits first."""
    lines = [
        "| format | bits a weight | MB | perplexity | divergence | same top |",
        "|---|---|---|---|---|---|",
    ]
    for r in sorted(rows, key=lambda r: -r["bits_per_weight"]):
        lines.append(
            f"| {r['format']} | {r['bits_per_weight']:.2f} | {r['megabytes']:.2f} "
            f"| {r['value']:.4f} | {r['divergence']:.2g} | {r['same_top']:.2%} |"
        )
    return "\n".join(lines)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Perplexity of the demo model in every format.")
    parser.add_argument("model", type=Path, help="the F32 model")
    parser.add_argument("--formats", default=",".join(DENSE))
    parser.add_argument("--chunks", type=int)
    parser.add_argument("--json", type=Path, dest="out")
    args = parser.parse_args()
    text = held_out_text()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in args.formats.split(","):
            path = requantize(args.model, Path(folder) / f"{name}.gguf", name)
            rows.append(row(path, name, text, args.model, args.chunks))
            path.unlink()
            value, divergence = rows[-1]["value"], rows[-1]["divergence"]
            print(f"{name}: {value:.4f}, {divergence:.2g}", file=sys.stderr, flush=True)
            if args.out:
                data = {"commit": commit(), "results": rows}
                args.out.write_text(json.dumps(data, indent=1) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
