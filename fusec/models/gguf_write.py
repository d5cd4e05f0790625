"""Writing a GGUF file whole or not at all, one tensor after the other."""

from __future__ import annotations

import math
import os
import struct
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType, GGUFWriter

from fusec.errors import FusecError, reason
from fusec.models.quant_bytes import Bytes

Progress = Callable[[str, int, int], None]
"""Called after each tensor with its name, the weights made so far, and the weights in all."""


class Writer(GGUFWriter):
    """gguf-py's writer, which refuses arrays without items; files have them."""

    def _pack_val(
        self,
        val: Any,
        vtype: GGUFValueType,
        add_vtype: bool,
        sub_type: GGUFValueType | None = None,
    ) -> bytes:
        if vtype is GGUFValueType.ARRAY and sub_type is not None and not val:
            return struct.pack("<IIQ", vtype, sub_type, 0)
        return bytes(super()._pack_val(val, vtype, add_vtype, sub_type))


@dataclass(frozen=True)
class Planned:
    """A tensor to be written: `make` gives its bytes when its turn comes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    make: Callable[[], Bytes]


@contextmanager
def gguf_file(path: Path, architecture: str) -> Iterator[tuple[GGUFWriter, Path]]:
    """A writer and the temporary file that becomes `path` at the end, if nothing fails.

    Raises FusecError if `path` cannot be written.
    """
    if path.is_dir():
        raise FusecError(f"{path}: cannot be written: it is a folder")
    if path.exists() and not path.is_file():  # the finished file would replace the device
        raise FusecError(f"{path}: cannot be written: it is not a file")
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    writer = Writer(None, architecture)
    try:
        yield writer, part
        writer.close()  # what is still to be written may find no room
        os.replace(part, path)
    except OSError as error:
        # a write that NumPy could not end has no error number, and in the text bytes alone
        full = "" if error.errno else ", in bytes: is the disk full?"
        raise FusecError(f"{path}: cannot be written: {reason(error)}{full}") from error
    finally:
        with suppress(OSError):
            writer.close()
        with suppress(OSError):
            part.unlink()


def write_tensors(
    writer: GGUFWriter,
    part: Path,
    tensors: Sequence[Planned],
    progress: Progress | None,
    workers: int = 1,
) -> None:
    """Write header, metadata and tensors, of which `workers` threads make one each at a time."""
    for tensor in tensors:
        kind = GGMLQuantizationType[tensor.dtype.upper()]
        block, block_bytes = GGML_QUANT_SIZES[kind]
        size = math.prod(tensor.shape) // block * block_bytes
        writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), size, kind)
    writer.write_header_to_file(part)
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    total, done = sum(math.prod(tensor.shape) for tensor in tensors), 0
    for tensor, data in zip(tensors, _made(tensors, workers), strict=True):
        writer.write_tensor_data(data)
        done += math.prod(tensor.shape)
        if progress is not None:
            progress(tensor.name, done, total)


def _made(tensors: Sequence[Planned], workers: int) -> Iterator[Bytes]:
    """The tensors' bytes in their order; no more than one a worker waits to be written."""
    waiting: deque[Future[Bytes]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for tensor in tensors:
                if len(waiting) == workers:
                    yield waiting.popleft().result()
                waiting.append(pool.submit(tensor.make))
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
