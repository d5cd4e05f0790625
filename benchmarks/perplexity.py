"""Perplexity of the demo model in every weight format, on stories it was not trained on.

    python benchmarks/perplexity.py out/demo_model/demo-f32.gguf --json FILE

Quantises the F32 model with `fusec quantize`, measures each file with `fusec.perplexity`, and
prints the table of docs/demo-model.md.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "examples" / "demo_model"))

from corpus import held_out_text  # noqa: E402

from fusec.models.gguf_file import open_gguf  # noqa: E402
from fusec.perplexity import measure  # noqa: E402

FORMATS = (
    "F32,F16,BF16,Q8_0,Q6_K,Q5_K_M,Q5_K_S,Q5_1,Q5_0,Q4_K_M,Q4_K_S,IQ4_NL,IQ4_XS,Q4_1,Q4_0,"
    "MXFP4,Q3_K_L,Q3_K_M,Q3_K_S,IQ3_M,IQ3_S,IQ3_XS,IQ3_XXS,Q2_K,Q2_K_S,IQ2_M,IQ2_S,IQ2_XS,"
    "IQ2_XXS,IQ1_M,IQ1_S,TQ2_0,TQ1_0"
)


def quantized(source: Path, folder: Path, name: str) -> Path | None:
    """The model in that mix; None, with the reason printed, where it cannot be written."""
    target = folder / f"{name}.gguf"
    command = [sys.executable, "-m", "fusec.cli", "quantize", source, target, name]
    run = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False
    )
    if run.returncode:
        print(f"{name}: {run.stderr.strip()}", file=sys.stderr)
        return None
    return target


def row(path: Path, name: str, text: str, base: Path) -> dict[str, float | str]:
    """Size and perplexity of one file, and how far it is from the F32 file `base`."""
    found = measure(path, text, base=base, special=True)
    tensors = open_gguf(path).tensors.values()
    weights = sum(math.prod(t.shape) for t in tensors)
    return {
        "format": name,
        "bits_per_weight": 8 * sum(t.data.nbytes for t in tensors) / weights,
        "megabytes": path.stat().st_size / 1e6,
        "perplexity": found.value,
        "error": found.error,
        "divergence": found.divergence or 0.0,
        "same_top": found.same_top or 0.0,
    }


def table(rows: list[dict[str, float | str]]) -> str:
    """The rows in Markdown."""
    lines = [
        "| format | bits a weight | MB | perplexity | divergence | same top |",
        "|---|---|---|---|---|---|",
    ]
    for r in rows:
        lines.append(
            f"| {r['format']} | {r['bits_per_weight']:.2f} | {r['megabytes']:.2f} "
            f"| {r['perplexity']:.4f} ± {r['error']:.4f} | {r['divergence']:.1e} "
            f"| {r['same_top']:.2%} |"
        )
    return "\n".join(lines)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Perplexity of the demo model in every format.")
    parser.add_argument("model", type=Path, help="the F32 model")
    parser.add_argument("--formats", default=FORMATS)
    parser.add_argument("--json", type=Path, dest="out")
    args = parser.parse_args()
    text = held_out_text()
    rows: list[dict[str, float | str]] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in args.formats.split(","):
            path = args.model if name == "F32" else quantized(args.model, Path(folder), name)
            if path is not None:
                rows.append(row(path, name, text, args.model))
                print(f"{name}: {rows[-1]['perplexity']:.4f}", file=sys.stderr)
    if args.out:
        args.out.write_text(json.dumps(rows, indent=1) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
