"""Stories as text, a tokenizer trained on them, and their token ids.

    python corpus.py OUT [--stories N] [--seed S] [--held-out]

Writes OUT/tokenizer.json, OUT/ids.npz (uint16 arrays `train` and `valid`, and `vocab`) and
OUT/held_out.txt: stories that are in no training text, which perplexity is measured on; with
--held-out, only that.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import tokenizer as vocabulary
from storybook import stories
from tokenizers import Tokenizer

STORIES = 200_000
SEED = 0
HELD_OUT = 400  # stories of the validation ids and the held-out text
VOCABULARY_FROM = 20_000  # stories that the tokenizer is trained on
BATCH = 2_000


def encode(tokenizer: Tokenizer, texts: Iterable[str]) -> np.ndarray:
    """uint16 ids of all the texts, token 0 in front of each."""
    parts = []
    end = np.zeros(1, np.uint16)
    for batch in batches(texts, BATCH):
        for found in tokenizer.encode_batch(batch):
            parts += [end, np.array(found.ids, np.uint16)]
    return np.concatenate(parts)


def batches(items: Iterable[str], size: int) -> Iterator[list[str]]:
    """Lists of up to `size` items."""
    left = iter(items)
    while batch := list(islice(left, size)):
        yield batch


def held_out(seed: int = SEED, trained: int = STORIES) -> list[str]:
    """The stories of a seed behind those trained on."""
    return list(stories(seed, HELD_OUT, start=trained))


def held_out_text(seed: int = SEED, trained: int = STORIES) -> str:
    """The same as a text, with the control token in front of each story written out."""
    return "".join(f"{vocabulary.END}{story}" for story in held_out(seed, trained))


def build(out: Path, count: int = STORIES, seed: int = SEED) -> None:
    """Write tokenizer and ids."""
    tokenizer = vocabulary.train(stories(seed, min(count, VOCABULARY_FROM)))
    tokenizer.save(str(out / "tokenizer.json"))
    kept = held_out(seed, count)
    train, valid = encode(tokenizer, stories(seed, count)), encode(tokenizer, kept)
    np.savez_compressed(out / "ids.npz", train=train, valid=valid, vocab=tokenizer.get_vocab_size())
    print(f"{count:,} stories, {len(train):,} tokens; {len(kept)} held out, {len(valid):,} tokens")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Make the demo model's training text.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--stories", type=int, default=STORIES)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--held-out", action="store_true", help="write held_out.txt only")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    text = held_out_text(args.seed, args.stories)
    (args.out / "held_out.txt").write_text(text, encoding="utf-8")
    if not args.held_out:
        build(args.out, args.stories, args.seed)


if __name__ == "__main__":
    main()
