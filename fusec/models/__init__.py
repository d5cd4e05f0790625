"""Models: a GGUF file in, its hyperparameters, tokenizer and decode graph out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fusec.errors import FusecError
from fusec.ir import Graph
from fusec.models import llama
from fusec.models.gguf_file import GGUFFile, open_gguf


@dataclass(frozen=True)
class Architecture:
    """What there is to know about one `general.architecture`."""

    read_config: Callable[[GGUFFile], Any]  # hyperparameters from the metadata
    check_tensors: Callable[[GGUFFile, Any], None]  # refuses missing, misshapen and unused tensors
    decode_graph: Callable[[Any, Mapping[str, str], int, int, str], Graph]  # see llama.decode_graph


ARCHITECTURES = {
    "llama": Architecture(llama.LlamaConfig.from_gguf, llama.check_tensors, llama.decode_graph)
}


def architecture_of(file: GGUFFile) -> Architecture:
    """The file's architecture. Raises FusecError for one that is not known."""
    known = ARCHITECTURES.get(file.architecture)
    if known is None:
        raise FusecError(
            f"{file.path}: architecture '{file.architecture}' is not supported, "
            f"known: {', '.join(sorted(ARCHITECTURES))}"
        )
    return known


__all__ = ["ARCHITECTURES", "Architecture", "GGUFFile", "architecture_of", "open_gguf"]
