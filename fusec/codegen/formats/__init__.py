"""The registry of weight formats: one file each, found here by GGML name in lower case."""

from __future__ import annotations

import importlib
import pkgutil
from types import MappingProxyType

from fusec.codegen.formats.base import FloatFormat, Format, QuantFormat
from fusec.errors import FusecError

_modules = (
    importlib.import_module(f"{__name__}.{entry.name}") for entry in pkgutil.iter_modules(__path__)
)
FORMATS: dict[str, Format] = {
    module.FORMAT.name: module.FORMAT for module in _modules if hasattr(module, "FORMAT")
}
"""Every module of this folder that has a FORMAT."""
OWN_FORMATS = MappingProxyType(dict(FORMATS))
"""Those that come with fusec, whatever is added or replaced later."""


def get(name: str) -> Format:
    """The format of that name."""
    try:
        return FORMATS[name]
    except KeyError:
        raise FusecError(
            f"unsupported weight format '{name}': supported are {', '.join(sorted(FORMATS))}"
        ) from None


__all__ = ["FORMATS", "OWN_FORMATS", "FloatFormat", "Format", "QuantFormat", "get"]
