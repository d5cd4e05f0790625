"""What llama-gguf-split makes of a model file: parts, the first of which has the metadata."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gguf import GGMLQuantizationType
from gguf import GGUFValueType as T

from fusec.models.gguf_file import GGUFFile, open_gguf
from tests.gguf_bytes import gguf, key, tensor_info

Keys = Mapping[str, tuple[T, Any] | None]


def split(
    source: Path,
    folder: Path,
    count: int,
    changes: Mapping[int, Keys] = {},
    tensors: Mapping[int, list[str]] = {},
) -> list[Path]:
    """The parts of `source`, in `folder`; `changes` and `tensors` are other ones for a part."""
    file = open_gguf(source)
    paths = []
    for number in range(count):
        keys: dict[str, tuple[T, Any] | None] = {}
        if number == 0:
            for name in file.metadata:
                keys[name] = (file.metadata.type_of(name)[0], file.metadata[name])
        keys["split.no"] = (T.UINT16, number)
        keys["split.count"] = (T.UINT16, count)
        keys["split.tensors.count"] = (T.INT32, len(file.tensors))
        keys |= changes.get(number, {})
        names = tensors.get(number, list(file.tensors)[number::count])
        path = folder / f"{source.stem}-{number + 1:05}-of-{count:05}.gguf"
        written = [key(name, *given) for name, given in keys.items() if given is not None]
        path.write_bytes(gguf(written, *_stored(file, names)))
        paths.append(path)
    return paths


def _stored(file: GGUFFile, names: list[str]) -> tuple[list[bytes], bytes]:
    infos, data = [], b""
    for name in names:
        tensor = file.tensors[name]
        data += bytes(-len(data) % 32)
        kind = GGMLQuantizationType[tensor.dtype.upper()]
        infos.append(tensor_info(name, tensor.shape[::-1], kind, len(data)))
        data += tensor.data.tobytes()
    return infos, data
