"""`fusec info`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer
from rich.table import Table

from fusec.cli.console import out, progress, show_json
from fusec.cli.options import AsJson, Context, Kv, MaybeLevel, ModelArg, Quiet, Target

SHOWN = 72  # characters of a value


def info(
    model: ModelArg,
    tensors: Annotated[bool, typer.Option("--tensors", help="List every tensor.")] = False,
    target: Target = "cpu",
    level: MaybeLevel = None,
    context: Context = None,
    kv: Kv = "f16",
    plan: Annotated[
        bool, typer.Option("--plan/--no-plan", help="Whether to compile, for plan and memory.")
    ] = True,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Show what is in a model file, what fusec makes of it, and the memory it takes.

    Metadata, tensors, vocabulary and chat template are read from the file. Plan and memory are
    those of a compilation without kernels. A file that fusec refuses is shown too, with the reason.
    """
    from fusec import info as about
    from fusec.models.gguf_file import open_gguf

    file = open_gguf(model)
    data = about.contents(file)
    if tensors:
        data["tensors"] = [about.tensor_facts(tensor) for tensor in file.tensors.values()]
    if not as_json:
        show_contents(data)
    if plan:
        with progress("compiling"):
            found = about.outlook(file, target, level, context, kv)
        data["fusec"] = found
        if not as_json:
            show_outlook(found)
    if as_json:
        show_json(data)


def show_contents(data: Mapping[str, Any]) -> None:
    """Print what the file holds."""
    from fusec.report import size

    first, *others = data["files"]
    out.print(first + (f" and {len(others)} more" if others else ""))
    bits = f", {data['bits_per_weight']:.2f} bits a weight" if data["parameters"] else ""
    out.print(
        f"{_value(data['architecture'])}, {_count(data['parameters'])} parameters{bits}, "
        f"{size(data['bytes'])}\n"
    )
    _print_table("metadata", ((_short(key), _value(v)) for key, v in data["metadata"].items()))
    rows = [
        (g["type"], str(g["tensors"]), _count(g["parameters"]), size(g["bytes"]))
        for g in data["types"]
    ]
    _print_table("tensors", rows, ("type", "tensors", "parameters", "bytes"))
    if "tensors" in data:
        listed = (
            (_short(t["name"]), t["type"], " x ".join(map(str, t["shape"])), size(t["bytes"]))
            for t in data["tensors"]
        )
        _print_table("every tensor", listed, ("name", "type", "shape", "bytes"))
    _print_table("vocabulary", _vocabulary_rows(data))


def show_outlook(found: Mapping[str, Any]) -> None:
    """Print what fusec makes of it."""
    if found["refused"]:
        out.print(f"fusec refuses it: {found['refused']}")
        return
    _print_table("model", _shape_rows(found["shape"]))
    _print_table("fusec", (*_plan_rows(found["plan"]), *_memory_rows(found["memory"])))


def _vocabulary_rows(data: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    vocabulary = data["vocabulary"]
    pre = f", pre-tokenizer {_value(vocabulary['pre'])}" if vocabulary["pre"] else ""
    yield "kind", f"{_value(vocabulary['model'] or 'none')}{pre}"
    if vocabulary["refused"]:
        yield "refused", vocabulary["refused"]
    if vocabulary.get("tokens"):
        types = ", ".join(f"{count} {kind}" for kind, count in vocabulary["types"].items())
        yield "tokens", f"{vocabulary['tokens']}: {types}"
        for name, token in vocabulary["special"].items():
            yield name, _token(token)
        yield "ends an answer", ", ".join(map(_token, vocabulary["ends"])) or "none"
    templates = data["chat_templates"].items()
    listed = ", ".join(f"{_short(name)} ({size} characters)" for name, size in templates)
    yield "chat template", listed or "none"


def _shape_rows(shape: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """A decoder's config in a few lines; of another one its fields."""
    if "rope_base" not in shape:
        yield from ((key, _value(value)) for key, value in shape.items())
        return
    yield "layers", f"{shape['layers']} of width {shape['width']}"
    norms = f", q/k norms ({shape['qk_norms']})" if shape["qk_norms"] else ""
    yield (
        "attention",
        f"{shape['heads']} heads of {shape['head_dim']}, {shape['kv_heads']} of keys and values"
        f"{norms}{', one cached vector (MLA)' if shape['latent'] else ''}"
        f"{', sinks' if shape['sinks'] else ''}",
    )
    if shape["window"]:
        yield "window", f"{shape['window']} positions in {shape['windowed_layers']} layers"
    turned = f"{shape['rope_dims']} of {shape['head_dim']} elements, paired {shape['pairing']}"
    yield "RoPE", f"base {shape['rope_base']:.9g}, {turned}{_stretch(shape)}"
    experts = shape["experts"]
    if not experts or experts["dense"]:
        gate = "gated" if shape["gated"] else "not gated"
        where = f" in the first {experts['dense']} layers" if experts else ""
        yield "feed-forward", f"width {shape['ffn_width']}{where}, {shape['activation']}, {gate}"
    if experts:
        shared = f", beside one of width {experts['shared']}" if experts["shared"] else ""
        yield (
            "experts",
            f"{experts['used']} of {experts['count']} of width {experts['width']}{shared}, "
            f"{shape['activation']}, gating: {experts['gating']}",
        )
    yield "norms", f"{shape['norm']}, epsilon {shape['norm_eps']:g}"
    tied = "the embedding is the output matrix" if shape["tied"] else "an output matrix of its own"
    yield "vocabulary", f"{shape['vocab']}, {tied}"
    yield "trained context", str(shape["context"])


def _stretch(shape: Mapping[str, Any]) -> str:
    """How the positions that RoPE was trained for are stretched."""
    if shape["yarn"]:
        return f", YaRN factor {shape['yarn']['factor']:g} from {shape['yarn']['original']}"
    if shape["original"]:
        return f", LongRoPE from {shape['original']}"
    linear = f", linear factor {1 / shape['rope_scale']:g}" if shape["rope_scale"] != 1 else ""
    return linear + (", factors in the file" if shape["rope_factors"] else "")


def _plan_rows(plan: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    from fusec.report import dispatches, size

    yield "target", f"{plan['target']}, -O{plan['level']}"
    yield (
        "plan",
        f"{dispatches(plan['dispatches'])}, "
        f"{plan['kernels']} kernels, critical path {plan['critical_path']}",
    )
    yield "weights read", f"{size(plan['weights_read_bytes'])} a token"


def _memory_rows(memory: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    from fusec.report import size

    yield "weights", size(memory["weights_bytes"])
    trained = ""
    if memory["trained_context"] != memory["context"]:
        trained = f" ({size(memory['trained_kv_bytes'])} at {memory['trained_context']})"
    yield (
        "KV cache",
        f"{size(memory['kv_bytes'])} in {memory['kv']} at a context of {memory['context']}"
        f"{trained}, of which a sequence takes {size(memory['first_kv_bytes'])} at first",
    )
    yield "arena", f"{size(memory['arena_bytes'])} for a prompt's activations"
    yield "memory", size(memory["bytes"])


def _print_table(title: str, rows: Any, columns: tuple[str, ...] = ()) -> None:
    """Rows of text under a title, with a head if `columns` has names; nothing without rows."""
    from fusec.report import make_table

    table: Table = make_table(title)
    if not columns:
        table.show_header, table.box, table.padding = False, None, (0, 1)
    for name in columns:
        table.add_column(name)
    for row in rows:
        table.add_row(*row)
    if table.row_count:
        out.print(table)
        if not columns:
            out.print()


def _value(value: Any) -> str:
    """A value in one line of what a terminal can show."""
    if isinstance(value, dict) and "first" in value:
        items = ", ".join(map(_value, value["first"]))
        return f"{value['length']}: {_short(items)}"
    if isinstance(value, float):
        return f"{value:.7g}"  # files have f32
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return _short(text)


def _short(text: str) -> str:
    line = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    return line if len(line) <= SHOWN else f"{line[:SHOWN]}..."


def _token(token: Mapping[str, Any]) -> str:
    return str(token["id"]) + ("" if token["text"] is None else f" {_value(token['text'])}")


def _count(number: int) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return str(number)
