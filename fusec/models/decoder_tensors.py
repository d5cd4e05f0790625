"""The tensors of a decoder-only model's file: as the graph reads them, and whether all fit."""

from __future__ import annotations

import numpy as np

from fusec.errors import FusecError
from fusec.models.decoder import HEAD_NORMS, IN_A_LAYER, YARN, DecoderConfig
from fusec.models.experts import stacked
from fusec.models.gguf_file import GGUFFile, Tensor
from fusec.models.latent import taken_apart
from fusec.models.nextn import taken_apart as both_projections

# Tables that some converters leave in the file and that the metadata already determines, and
# factors for rounding activations to four bits, which are kept in f32 here.
IGNORED_SUFFIXES = ("rotary_emb.inv_freq", "attn_rot_embd.weight", ".input_scale")


def weights_of(file: GGUFFile, config: DecoderConfig) -> GGUFFile:
    """The file with the tensors that the graph reads: parts of packed matrices, YaRN's factors.

    Experts' matrices are one tall matrix. Parts are rows of what is in the file. Raises FusecError
    where there are more or fewer of them. Norm weights of each head, which are rows there, are one
    vector.
    """
    found: dict[str, Tensor] = {}
    tensors = stacked(file, config.experts) if config.experts else file.tensors
    for name, tensor in tensors.items():
        match = IN_A_LAYER.fullmatch(name)
        if match is None or match["name"] not in config.packed:
            each = config.qk_norms == "each" and name.endswith(HEAD_NORMS)
            of_heads = each and tensor.shape[1:] == (config.head_dim,)
            found[name] = tensor.as_vector() if of_heads else tensor
            continue
        parts = config.parts_of(match["name"])
        if tensor.shape[0] != (rows := sum(count for _, count in parts)):
            raise FusecError(
                f"{file.path}: tensor {name!r} should have {rows} rows, of "
                f"{', '.join(part for part, _ in parts)}, found {tensor.shape[0]}"
            )
        first = 0
        for part, count in parts:
            own = f"{match['layer']}.{part}.{match['kind']}"
            found[own] = tensor.rows(own, first, count)
            first += count
    if config.latent:
        found = taken_apart(file, found, config.latent, config.blocks)
    if config.nextn:
        found = both_projections(file, found, config.nextn)
    if config.yarn:
        factors = config.yarn.factors(config.rope_dims, config.rope_base)
        found[YARN] = Tensor(YARN, "f32", factors.shape, factors.view(np.uint8), 0)
    return file.with_tensors(found)


def check_tensors(file: GGUFFile, config: DecoderConfig) -> None:
    """Refuse a file whose tensors are not exactly those of the model.

    Raises FusecError for a missing tensor, a wrong shape, a vector that is not f32, and a tensor
    this architecture would leave unused, because leaving it out would change the results.
    """
    needed = set()
    for name, shape in config.tensor_shapes():  # a damaged number of layers ends at the first
        needed.add(name)
        found = file.tensor(name, shape)
        if len(shape) == 1 and found.dtype != "f32":
            raise FusecError(f"{file.path}: tensor {name!r} should be f32, found {found.dtype}")
    for name in file.tensors:
        if not (name in needed or name.endswith(IGNORED_SUFFIXES) or _is_others(name, config)):
            raise FusecError(
                f"{file.path}: tensor {name!r} is not part of a {config.architecture} model"
            )


def _is_others(name: str, config: DecoderConfig) -> bool:
    """Whether a tensor is that of the blocks that draft; for the one that drafts, of the layers."""
    if config.nextn:
        return not name.startswith(f"blk.{config.layers}.")
    return name.startswith(tuple(f"blk.{config.layers + k}." for k in range(config.skipped)))
