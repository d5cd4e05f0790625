"""One opened model file: hyperparameters, weights, tokenizer, and the graphs built from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from fusec.arguments import none_of, whole
from fusec.codegen.formats import FORMATS
from fusec.errors import FusecError
from fusec.ir.graph import Graph
from fusec.models import Architecture, architecture_of
from fusec.models.gguf_file import GGUFFile, Tensor, open_gguf
from fusec.models.tokenizer import Tokenizer, Vocabulary
from fusec.models.unembed import unembedded
from fusec.writer import brief, count

KV_TYPES = ("f16", "f32")


@dataclass(frozen=True)
class Model:
    """A GGUF file whose metadata and tensors have been checked. `config` is the architecture's.

    `tensors`: those that the graph reads; of a packed matrix in the file they are the parts.
    """

    file: GGUFFile
    architecture: Architecture
    config: Any
    tensors: Mapping[str, Tensor]

    def __repr__(self) -> str:
        config, kind = self.config, self.file.architecture
        sizes = f"{count(config.layers, 'layer')} of {config.width:,}, {config.vocab:,} tokens"
        return brief(self, f"{self.file.path}: {kind}, {sizes}, context {config.context:,}")

    @classmethod
    def open(cls, path: Path) -> Model:
        """Open and check a file. Raises FusecError naming it and what is wrong."""
        return cls.of(open_gguf(path))

    @classmethod
    def of(cls, file: GGUFFile) -> Model:
        """The model in an open file. Raises FusecError as `open` does."""
        architecture = architecture_of(file)
        config = architecture.read_config(file)
        weights = architecture.weights_of(file, config)
        architecture.check_tensors(weights, config)
        tokens = file.metadata.array_length("tokenizer.ggml.tokens")
        if tokens not in (0, config.vocab):
            raise FusecError(
                f"{file.path}: tokenizer.ggml.tokens has {tokens} tokens, "
                f"expected {config.vocab} as token_embd.weight has rows"
            )
        for tensor in file.tensors.values():
            if tensor.dtype not in FORMATS:
                raise FusecError(
                    f"{file.path}: tensor {tensor.name!r} is {tensor.dtype}; "
                    f"supported are {', '.join(sorted(FORMATS))}"
                )
        return cls(file, architecture, config, weights.tensors)

    def drafting(self) -> Model:
        """The block of the file that drafts tokens, as a model: see `fusec.models.nextn`.

        Its graph has one more input, `hidden`. Raises FusecError where the file has no such block,
        and for tensors of it that are missing, misshapen or unknown.
        """
        if not hasattr(self.config, "drafting"):
            raise FusecError(
                f"{self.file.path}: draft mtp: {self.file.architecture} models have no block that "
                f"drafts tokens"
            )
        config = self.config.drafting(self.file)
        weights = self.architecture.weights_of(self.file, config)
        self.architecture.check_tensors(weights, config)
        return replace(self, config=config, tensors=weights.tensors)

    def graph(self, *, tokens: int, context: int, kv: str = "f16") -> Graph:
        """The decode graph for steps of `tokens` tokens and a KV cache of `context` positions."""
        if kv not in KV_TYPES:
            raise FusecError(f"unknown KV cache type '{kv}': known are {', '.join(KV_TYPES)}")
        types = {name: tensor.dtype for name, tensor in self.tensors.items()}
        return self.architecture.decode_graph(self.config, types, tokens, context, kv)

    def raw(self, name: str) -> np.ndarray[Any, Any]:
        """A tensor's bytes as they lie in the mapped file. Raises FusecError as `floats` does."""
        return self._tensor(name).data

    def floats(self, name: str) -> np.ndarray[Any, Any]:
        """A tensor decoded to float32, in its shape. For references and tables, not for speed.

        Raises FusecError for a name that the model has not.
        """
        tensor = self._tensor(name)
        rows = int(np.prod(tensor.shape[:-1], dtype=np.int64))
        return FORMATS[tensor.dtype].decode(tensor.data.reshape(rows, -1)).reshape(tensor.shape)

    def values(self) -> dict[str, tuple[int, ...]]:
        """The values of the decode graph in order: name -> shape of one token's.

        These are the names that `fusec.load(outputs=...)` takes.
        """
        graph = self.graph(tokens=1, context=1)
        made = (value for node in graph.nodes for value in node.outputs if not value.is_state)
        return {value.name[1:]: value.shape[1:] for value in made}

    def unembed(self, hidden: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """float32[..., vocabulary]: the logits that hidden states would have behind the last layer.

        `hidden`: float[..., width], such as `trace` gives of "blk.*.ffn_residual". Final norm,
        output matrix, caps and scales are the model's; NumPy computes them in float32, so the last
        layer's logits are near the engine's, not equal to the bit. Raises FusecError for another
        width.
        """
        return unembedded(self.graph(tokens=1, context=1), self._kept_floats, hidden)

    def _kept_floats(self, name: str) -> np.ndarray[Any, Any]:
        """As `floats`; the head's weights are decoded once."""
        if name not in self._decoded:
            self._decoded[name] = self.floats(name)
        return self._decoded[name]

    @cached_property
    def _decoded(self) -> dict[str, np.ndarray[Any, Any]]:
        return {}

    def _tensor(self, name: str) -> Tensor:
        """A tensor by its name."""
        if name in self.tensors:
            return self.tensors[name]
        raise none_of(f"{self.file.path}: no tensor", name, self.tensors)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the file. Raises FusecError if it has none."""
        return Tokenizer.from_gguf(self.file)

    @property
    def has_vocabulary(self) -> bool:
        """Whether the file says how text becomes tokens."""
        return self.file.get("tokenizer.ggml.model", str, "none") not in ("none", "no_vocab")

    @cached_property
    def has_tokenizer(self) -> bool:
        """Whether the file has a tokenizer that is supported."""
        try:
            return self.has_vocabulary and self.tokenizer is not None
        except FusecError:
            return False

    @cached_property
    def stop_ids(self) -> frozenset[int]:
        """Tokens that end a generation, known without making a tokenizer.

        So a model whose tokenizer is not supported still generates from ids.
        """
        ends = Vocabulary(self.file).ends
        return frozenset(token for token in ends if token < self.config.vocab)

    def check_context(self, wanted: int | None, default: int) -> int:
        """The context to compile for. Raises FusecError for one longer than trained."""
        if wanted is None:
            return min(default, self.config.context)
        wanted = whole("context", wanted, "a number of positions")
        if not 1 <= wanted <= self.config.context:
            raise FusecError(
                f"{self.file.path}: expected a context from 1 to {self.config.context}, which the "
                f"model was trained for, found {wanted}"
            )
        return wanted
