"""Models: a GGUF file in, its hyperparameters, tokenizer and decode graph out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fusec.errors import FusecError
from fusec.ir import Graph
from fusec.models.architectures import CONFIGS
from fusec.models.decoder_graph import decode_graph
from fusec.models.decoder_tensors import check_tensors, weights_of
from fusec.models.gguf_file import GGUFFile, open_gguf
from fusec.models.hyperparameters import Hyperparameters


@dataclass(frozen=True)
class Architecture:
    """What there is to know about one `general.architecture`.

    `config_of` reads all keys that it knows; `weights_of` gives a file with the tensors of the
    graph; `check_tensors` refuses missing, misshapen and unused ones; `decode_graph` writes a step.
    See `fusec.models.decoder`, `decoder_tensors` and `decoder_graph` for those that most have.
    """

    config_of: Callable[[Hyperparameters], Any]
    weights_of: Callable[[GGUFFile, Any], GGUFFile] = weights_of
    check_tensors: Callable[[GGUFFile, Any], None] = check_tensors
    decode_graph: Callable[[Any, Mapping[str, str], int, int, str], Graph] = decode_graph

    def read_config(self, file: GGUFFile) -> Any:
        """The hyperparameters in the metadata.

        Raises FusecError naming the key at fault, and for keys of the architecture that it does not
        know, since they may change what is computed.
        """
        keys = Hyperparameters(file)
        config = self.config_of(keys)
        keys.refuse_unknown()
        return config


ARCHITECTURES = {name: Architecture(config_of) for name, config_of in CONFIGS.items()}


def architecture_of(file: GGUFFile) -> Architecture:
    """The file's architecture. Raises FusecError for one that is not known."""
    known = ARCHITECTURES.get(file.architecture)
    if known is None:
        raise FusecError(
            f"{file.path}: architecture {file.architecture!r} is not supported, "
            f"known: {', '.join(sorted(ARCHITECTURES))}"
        )
    return known


__all__ = ["ARCHITECTURES", "Architecture", "GGUFFile", "architecture_of", "open_gguf"]
