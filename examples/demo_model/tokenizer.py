"""The demo model's vocabulary: byte-level BPE with SmolLM2's way of cutting text into words."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

END = "<|endoftext|>"  # begins and ends a document, as in SmolLM2; its id is 0
VOCABULARY = 2048


def train(texts: Iterable[str], size: int = VOCABULARY) -> Tokenizer:
    """A tokenizer of `size` entries. The same texts give the same one."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def load(path: Path) -> Tokenizer:
    """A tokenizer from its tokenizer.json."""
    return Tokenizer.from_file(str(path))
