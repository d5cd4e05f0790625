"""The trained weights and the tokenizer as a GGUF file.

    python export.py DIR demo-f32.gguf

DIR holds tokenizer.json, weights.npz and log.json. `fusec quantize` makes other types of it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFWriter, LlamaFileType, TokenType

NAME = "fusec demo"
ABOUT = (
    "A small Llama trained on stories that a planner wrote; see examples/demo_model in the fusec "
    "repository."
)


def vocabulary(path: Path) -> tuple[list[str], list[TokenType], list[str]]:
    """Tokens by id, their types, and the merges of a tokenizer.json."""
    data = json.loads(path.read_text(encoding="utf-8"))
    ids: dict[str, int] = data["model"]["vocab"]
    special = {token["content"] for token in data["added_tokens"] if token["special"]}
    tokens = sorted(ids, key=ids.__getitem__)
    types = [TokenType.CONTROL if token in special else TokenType.NORMAL for token in tokens]
    return tokens, types, [" ".join(merge) for merge in data["model"]["merges"]]


def export(folder: Path, path: Path) -> None:
    """Write the model in F32."""
    log: dict[str, Any] = json.loads((folder / "log.json").read_text())
    shape = log["shape"]
    writer = GGUFWriter(path, "llama")
    writer.add_type("model")
    writer.add_name(NAME)
    writer.add_description(ABOUT)
    writer.add_file_type(LlamaFileType.ALL_F32)
    writer.add_vocab_size(shape["vocab"])
    writer.add_context_length(shape["context"])
    writer.add_embedding_length(shape["width"])
    writer.add_block_count(shape["layers"])
    writer.add_feed_forward_length(shape["ffn_width"])
    writer.add_head_count(shape["heads"])
    writer.add_head_count_kv(shape["kv_heads"])
    writer.add_layer_norm_rms_eps(shape["norm_eps"])
    writer.add_rope_freq_base(shape["rope_base"])
    writer.add_rope_dimension_count(shape["width"] // shape["heads"])
    tokens, types, merges = vocabulary(folder / "tokenizer.json")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(merges)
    for add in (writer.add_bos_token_id, writer.add_eos_token_id, writer.add_unk_token_id):
        add(tokens.index("<|endoftext|>"))
    writer.add_add_bos_token(False)
    writer.add_add_space_prefix(False)
    with np.load(folder / "weights.npz") as weights:
        for name in weights.files:
            writer.add_tensor(name, weights[name])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Write the demo model as a GGUF file.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("path", type=Path)
    args = parser.parse_args()
    export(args.folder, args.path)


if __name__ == "__main__":
    main()
