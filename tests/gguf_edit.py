"""Copies of GGUF files with keys and tensors changed, written by gguf-py."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader, GGUFValueType, GGUFWriter


def edited(
    source: Path,
    target: Path,
    keys: Mapping[str, Any] = {},
    tensors: Mapping[str, np.ndarray | None] = {},
) -> Path:
    """Copy a file; a key or tensor of None is left out, another replaced (tensors as they come)."""
    reader = GGUFReader(source)
    architecture = keys.get("general.architecture", "llama")
    writer = GGUFWriter(target, architecture)
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name in ("general.architecture", *keys):
            continue
        kind = field.types[0]
        sub_type = field.types[-1] if kind == GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), kind, sub_type=sub_type)
    for name, value in keys.items():
        if value is not None and name != "general.architecture":
            writer.add_key_value(
                name,
                value,
                GGUFValueType.get_type(value),
                sub_type=GGUFValueType.get_type(value[0]) if isinstance(value, list) else None,
            )
    for tensor in reader.tensors:
        if tensor.name not in tensors:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    for name, data in tensors.items():
        if data is not None:
            writer.add_tensor(name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target
