"""`fusec info`: what is in a model file, and what fusec makes of it.

`contents` reads the file alone, and takes a fraction of a second for the largest. `outlook`
compiles the model's plans, without its kernels. A file that fusec refuses has contents, and its
outlook says why.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, is_dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from fusec.errors import FusecError
from fusec.ir.ops import weight_bytes_read
from fusec.ir.pages import cache_bytes
from fusec.models.chat import KEY as TEMPLATE
from fusec.models.decoder import DecoderConfig
from fusec.models.gguf_file import GGUFFile, Tensor
from fusec.models.model import Model
from fusec.models.tokenizer import TokenType, Vocabulary, check_kind
from fusec.report import summary

if TYPE_CHECKING:
    from fusec.compiled import Compilation

LONG = 16  # items of an array of the metadata that are shown in full
FIRST = 8  # items that are shown of a longer one
SPECIAL = (
    *("bos", "eos", "eot", "eom", "unknown", "padding", "sep", "cls", "mask"),
    *("fim_pre", "fim_suf", "fim_mid", "fim_pad", "fim_rep", "fim_sep"),
)
"""Tokens that have a meaning, as the keys of their ids are called."""


def contents(file: GGUFFile) -> dict[str, Any]:
    """What the file holds, as plain data. No weight is read."""
    parameters = sum(prod(t.shape) for t in file.tensors.values())
    weights = sum(t.data.size for t in file.tensors.values())
    return {
        "files": [str(path) for path in file.paths],
        "bytes": file.file_bytes,
        "architecture": file.metadata.get("general.architecture"),
        "name": file.metadata.get("general.name"),
        "parameters": parameters,
        "weights_bytes": weights,
        "bits_per_weight": 8 * weights / parameters if parameters else None,
        "metadata": {key: value_of(file, key) for key in file.metadata},
        "types": _types(file),
        "vocabulary": vocabulary(file),
        "chat_templates": _templates(file),
    }


def value_of(file: GGUFFile, key: str) -> Any:
    """A value of the metadata. Of a long array its `length` and `first` items."""
    metadata = file.metadata
    if not metadata.type_of(key)[1] or metadata.array_length(key) <= LONG:
        return metadata[key]
    return {"length": metadata.array_length(key), "first": metadata.head(key, FIRST)}


def tensor_facts(tensor: Tensor) -> dict[str, Any]:
    """A tensor as plain data; its shape is GGUF's, the fastest axis first."""
    return {
        "name": tensor.name,
        "type": tensor.dtype,
        "shape": list(reversed(tensor.shape)),
        "bytes": tensor.data.size,
        "offset": tensor.offset,
    }


def vocabulary(file: GGUFFile) -> dict[str, Any]:
    """The tokens: how many of each type, those with a meaning, those that end an answer.

    `refused`: why fusec makes no tokens of a text, or None.
    """
    metadata = file.metadata
    found: dict[str, Any] = {
        "model": metadata.get("tokenizer.ggml.model"),
        "pre": metadata.get("tokenizer.ggml.pre"),
        "refused": None,
    }
    try:
        tokens = Vocabulary(file)
        found["tokens"] = len(tokens.texts)
        found["types"] = dict(_named_types(tokens))
        ids = ((name, tokens.id_of(name)) for name in SPECIAL)
        found["special"] = {
            name: {"id": token, "text": _text(tokens, token)}
            for name, token in ids
            if token is not None
        }
        found["ends"] = [{"id": t, "text": _text(tokens, t)} for t in sorted(tokens.ends)]
        check_kind(file)
    except FusecError as error:
        found["refused"] = str(error)
    return found


def outlook(
    file: GGUFFile,
    target: str = "cpu",
    level: int | None = None,
    context: int | None = None,
    kv: str = "f16",
) -> dict[str, Any]:
    """What fusec makes of the file: `refused` and why, or `shape`, `plan` and `memory`.

    The options are those of `fusec.compile`. Raises FusecError for one of them that cannot be.
    """
    from fusec import driver  # which takes longer to import than to read a file

    try:
        model = Model.of(file)
    except FusecError as error:
        return {"refused": str(error)}
    compiled = driver.compile(model, target=target, level=level, context=context, kv=kv)
    return {
        "refused": None,
        "shape": shape(model.config),
        "plan": _plan(compiled),
        "memory": _memory(model, compiled),
    }


def shape(config: Any) -> dict[str, Any]:
    """An architecture's config as plain data, without what it says of single tensors."""
    if not is_dataclass(config) or isinstance(config, type):
        return {}
    facts = asdict(config)
    for of_tensors in ("biased", "scaled"):
        facts.pop(of_tensors, None)
    if isinstance(config, DecoderConfig):
        facts["windowed_layers"] = sum(config.window_of(n) > 0 for n in range(config.layers))
    return {k: sorted(v) if isinstance(v, frozenset) else v for k, v in facts.items()}


def _types(file: GGUFFile) -> list[dict[str, Any]]:
    """The tensors by their type, those with the most bytes first."""
    found: dict[str, dict[str, Any]] = {}
    for tensor in file.tensors.values():
        group = found.setdefault(
            tensor.dtype, {"type": tensor.dtype, "tensors": 0, "parameters": 0, "bytes": 0}
        )
        group["tensors"] += 1
        group["parameters"] += prod(tensor.shape)
        group["bytes"] += tensor.data.size
    return sorted(found.values(), key=lambda group: -group["bytes"])


def _templates(file: GGUFFile) -> dict[str, int]:
    """Name -> characters of every chat template."""
    names = [key for key in file.metadata if key == TEMPLATE or key.startswith(f"{TEMPLATE}.")]
    return {
        key.removeprefix(TEMPLATE).lstrip(".") or "default": len(str(file.metadata[key]))
        for key in names
    }


def _named_types(tokens: Vocabulary) -> Iterator[tuple[str, int]]:
    known = {int(kind): kind.name.lower() for kind in TokenType}
    for kind, count in sorted(Counter(tokens.types).items()):
        yield known.get(kind, str(kind)), count


def _text(tokens: Vocabulary, token: int) -> str | None:
    return tokens.texts[token] if token < len(tokens.texts) else None


def _plan(compiled: Compilation) -> dict[str, Any]:
    """The plan of a token in numbers."""
    facts = summary(compiled)
    wanted = ("target", "level", "dispatches", "critical_path")
    return {name: facts[name] for name in wanted} | {
        "kernels": len(facts["kernels"]),
        "weights_read_bytes": weight_bytes_read(compiled.graph),
    }


def _memory(model: Model, compiled: Compilation) -> dict[str, Any]:
    """Bytes at the compiled context. The arena is that of the widest step, a prompt's."""
    plans = compiled.plans
    assert plans is not None  # a model's
    arena = max(plan.arena_bytes for plan in (plans.decode, *plans.several))
    cache = cache_bytes(compiled.graph)
    weights = compiled.plan.weights_bytes
    longest = model.graph(tokens=1, context=model.config.context, kv=compiled.kv)
    return {
        "context": compiled.context,
        "kv": compiled.kv,
        "weights_bytes": weights,
        "kv_bytes": cache,
        "first_kv_bytes": cache_bytes(compiled.graph, 1),
        "arena_bytes": arena,
        "bytes": weights + cache + arena,
        "trained_context": model.config.context,
        "trained_kv_bytes": cache_bytes(longest),
    }
