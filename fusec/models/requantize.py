"""A copy of a model with its matrices in the types of a quantisation mix."""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_VERSION, GGUFValueType, GGUFWriter

from fusec.codegen import formats
from fusec.cores import cores
from fusec.errors import FusecError
from fusec.models.gguf_metadata import Metadata
from fusec.models.gguf_write import Planned, Progress, gguf_file, write_tensors
from fusec.models.model import Model
from fusec.models.quant_bytes import Bytes, Search
from fusec.models.quant_mix import PLAIN, Mix, factor_name, factors_of
from fusec.models.quant_scales import Floats
from fusec.models.quantize import quantize

AT_ONCE = 1 << 20  # elements that a thread decodes and encodes together
# what the writer says itself, what this copy changes, and where a split file has its parts
NOT_COPIED = ("general.architecture", "general.file_type", "general.quantization_version",
              "general.alignment", "split.no", "split.count", "split.tensors.count")  # fmt: skip


def requantize(
    source: str | Path,
    path: str | Path,
    quant: str,
    *,
    search: Search = "full",
    again: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Write the model of `source` to `path` in the mix `quant`, and return `path`.

    Metadata and tokenizer are kept; tensors lie at multiples of 32 bytes, wherever they lay.
    Matrices that are quantised already lose once more, so they are refused unless `again` is given,
    or their type stays or becomes F32, which holds them all. Nothing is left behind if writing
    fails. Raises FusecError for models that cannot be read, unknown mixes and unusable paths.
    """
    model, path = Model.open(Path(source)), Path(path)
    config = model.config
    mix = Mix(quant, config.layers, config.heads // config.kv_heads, config.tied)
    if path.exists() and any(path.samefile(file) for file in model.file.paths):
        raise FusecError(f"{path}: cannot be written: it is the model that is read")
    tensors = list(_tensors(model, mix, search, again))
    with gguf_file(path, model.file.architecture) as (writer, part):
        _copy_metadata(writer, model.file.metadata)
        writer.add_file_type(mix.file_type)
        writer.add_quantization_version(GGML_QUANT_VERSION)
        write_tensors(writer, part, tensors, progress)
    return path


def _copy_metadata(writer: GGUFWriter, metadata: Metadata) -> None:
    for key, value in metadata.items():
        kind, is_array = metadata.type_of(key)
        if key not in NOT_COPIED:
            whole = GGUFValueType.ARRAY if is_array else kind
            writer.add_key_value(key, value, whole, sub_type=kind if is_array else None)


def _tensors(model: Model, mix: Mix, search: Search, again: bool) -> Iterator[Planned]:
    tensors = model.file.tensors.items()
    vectors = {name for name, t in model.tensors.items() if len(t.shape) == 1}  # norms of heads too
    matrices = {name for name, t in tensors if len(t.shape) > 1 and not name.endswith(".bias")}
    matrices -= vectors
    old_factors = {factor_name(name) for name in matrices}
    for name, tensor in tensors:
        if name in old_factors:
            continue
        dtype = mix.dtype(name, tensor.shape) if name in matrices else tensor.dtype
        matrix = _Matrix(model, name)
        if dtype == tensor.dtype:
            yield Planned(name, dtype, tensor.shape, partial(np.asarray, tensor.data))
            if matrix.factors is not None:
                yield _factors(name, matrix.factors)
            continue
        if tensor.dtype.upper() not in PLAIN and dtype != "f32" and not again:
            raise FusecError(
                f"{model.file.path}: tensor {name!r} is {tensor.dtype} already, and to quantise it "
                "again loses more: expected a model in F32, F16 or BF16 (or --again)"
            )
        factor = mix.factor(dtype, matrix.largest() if dtype == "nvfp4" else 0)
        yield Planned(name, dtype, tensor.shape, partial(matrix.encoded, dtype, search, factor))
        if factor is not None:
            yield _factors(name, np.full(factors_of(tensor.shape), factor, np.float32))


def _factors(name: str, values: Floats) -> Planned:
    return Planned(factor_name(name), "f32", values.shape, partial(np.asarray, values.view("u1")))


@dataclass(frozen=True)
class _Matrix:
    """A matrix of the model that is read, in pieces of whole rows."""

    model: Model
    name: str

    @property
    def factors(self) -> Floats | None:
        """The factor that lies beside it, or one for each matrix of a stack."""
        factor = factor_name(self.name)
        return self.model.floats(factor) if factor in self.model.file.tensors else None

    def _pieces(self) -> Iterator[tuple[int, Bytes]]:
        """Some rows, and the first one's number."""
        tensor = self.model.file.tensors[self.name]
        data = tensor.data.reshape(-1, tensor.data.shape[-1])
        step = max(AT_ONCE // tensor.shape[-1], 1)
        for start in range(0, len(data), step):
            yield start, data[start : start + step]

    def _decoded(self, start: int, piece: Bytes) -> Floats:
        tensor, factors = self.model.file.tensors[self.name], self.factors
        values = formats.get(tensor.dtype).decode(piece)
        if factors is None:
            return values
        each = math.prod(tensor.shape[:-1]) // len(factors)  # rows that share one
        return values * factors[np.arange(start, start + len(piece)) // each, None]

    def largest(self) -> float:
        """The largest magnitude."""
        return max(float(np.abs(self._decoded(*piece)).max()) for piece in self._pieces())

    def encoded(self, dtype: str, search: Search, factor: np.float32 | None) -> Bytes:
        """All rows in another type. Raises FusecError for values that it cannot hold."""

        def piece(given: tuple[int, Bytes]) -> Bytes:
            values = self._decoded(*given)
            try:
                return quantize(values if factor is None else values / factor, dtype, search)
            except FusecError as error:
                raise FusecError(f"{self.model.file.path}: tensor {self.name!r}: {error}") from None

        with ThreadPoolExecutor(cores()) as pool:
            return np.concatenate(list(pool.map(piece, self._pieces())))
