"""A copy of a model with its matrices in the types of a quantisation mix."""

from __future__ import annotations

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
from fusec.models.quant_mix import PLAIN, Mix, factor_name
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
    mix = Mix(quant.upper(), config.layers, config.heads // config.kv_heads, config.tied)
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
    vectors = {name for name, t in model.tensors.items() if len(t.shape) == 1}  # norms of heads too
    matrices = {name for name, t in model.file.tensors.items() if len(t.shape) == 2} - vectors
    old_factors = {factor_name(name) for name in matrices}
    for name, tensor in model.file.tensors.items():
        if name in old_factors:
            continue
        dtype = mix.dtype(name, tensor.shape) if name in matrices else tensor.dtype
        matrix = _Matrix(model, name)
        if dtype == tensor.dtype:
            yield Planned(name, dtype, tensor.shape, partial(np.asarray, tensor.data))
            if matrix.factor is not None:
                yield _factor(name, matrix.factor)
            continue
        if tensor.dtype.upper() not in PLAIN and dtype != "f32" and not again:
            raise FusecError(
                f"{model.file.path}: tensor {name!r} is {tensor.dtype} already, and to quantise it "
                "again loses more: expected a model in F32, F16 or BF16 (or --again)"
            )
        factor = mix.factor(dtype, matrix.largest() if dtype == "nvfp4" else 0)
        yield Planned(name, dtype, tensor.shape, partial(matrix.encoded, dtype, search, factor))
        if factor is not None:
            yield _factor(name, factor)


def _factor(name: str, value: np.float32) -> Planned:
    stored = np.array([value], np.float32).view(np.uint8)
    return Planned(factor_name(name), "f32", (1,), partial(np.asarray, stored))


@dataclass(frozen=True)
class _Matrix:
    """A matrix of the model that is read, in pieces of whole rows."""

    model: Model
    name: str

    @property
    def factor(self) -> np.float32 | None:
        """The factor that lies beside it."""
        factor = factor_name(self.name)
        return self.model.floats(factor)[0] if factor in self.model.file.tensors else None

    def _pieces(self) -> Iterator[Bytes]:
        data = self.model.file.tensors[self.name].data
        step = max(AT_ONCE // self.model.file.tensors[self.name].shape[-1], 1)
        for start in range(0, len(data), step):
            yield data[start : start + step]

    def _decoded(self, piece: Bytes) -> Floats:
        values = formats.get(self.model.file.tensors[self.name].dtype).decode(piece)
        return values if self.factor is None else values * self.factor

    def largest(self) -> float:
        """The largest magnitude."""
        return max(float(np.abs(self._decoded(piece)).max()) for piece in self._pieces())

    def encoded(self, dtype: str, search: Search, factor: np.float32 | None) -> Bytes:
        """All rows in another type. Raises FusecError for values that it cannot hold."""

        def piece(data: Bytes) -> Bytes:
            values = self._decoded(data)
            try:
                return quantize(values if factor is None else values / factor, dtype, search)
            except FusecError as error:
                raise FusecError(f"{self.model.file.path}: tensor {self.name!r}: {error}") from None

        with ThreadPoolExecutor(cores()) as pool:
            return np.concatenate(list(pool.map(piece, self._pieces())))
