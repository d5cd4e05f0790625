"""Functions written in LLVM IR and called from numba's nopython code."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

i64 = types.int64
f32 = types.float32
f32p = types.CPointer(types.float32)
i16p = types.CPointer(types.int16)
i32p = types.CPointer(types.int32)
i64p = types.CPointer(types.int64)
u8p = types.CPointer(types.uint8)
u16p = types.CPointer(types.uint16)

Body = Callable[..., ir.Value | None]


def llvm_function(
    name: str, result: Any, arguments: dict[str, Any], body: Body, doc: str, inline: bool = False
) -> Any:
    """A nopython function of that numba signature whose code is `body(builder, *arguments)`.

    `body` returns the LLVM value of the result (None for `types.void`). The function is emitted
    once into each module that calls it, so callers stay small. A `u8p` argument stands for raw
    memory and takes a pointer of any type.

    :param inline: for bodies of a few instructions: always inlined into the caller.
    """
    void = result == types.void
    declared = list(arguments.values())

    def typed(_: Any, *actual: Any) -> Any:
        accepted = [
            got if want == u8p and isinstance(got, types.CPointer) else want
            for want, got in zip(declared, actual, strict=True)
        ]

        def lower(context: Any, builder: ir.IRBuilder, _: Any, values: list[ir.Value]) -> ir.Value:
            function = _define(context, builder.module, name, result, declared, body, inline)
            called = builder.call(
                function,
                [builder.bitcast(v, a.type) for v, a in zip(values, function.args, strict=True)],
            )
            return context.get_dummy_value() if void else called

        return result(*accepted), lower

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    names = ["typing_context", *arguments]
    typed.__name__ = typed.__qualname__ = name
    typed.__doc__ = doc
    typed.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(n, kind) for n in names]
    )
    return intrinsic(typed)


def _define(
    context: Any,
    module: ir.Module,
    name: str,
    result: Any,
    declared: list[Any],
    body: Body,
    inline: bool,
) -> ir.Function:
    """The function in that module, made on first use."""
    symbol = f"fusec.{name}"
    known = module.globals.get(symbol)
    if known is not None:
        return known
    void = result == types.void
    value_type = context.get_value_type
    returned = ir.VoidType() if void else value_type(result)
    function = ir.Function(
        module, ir.FunctionType(returned, [value_type(t) for t in declared]), name=symbol
    )
    function.linkage = "internal"
    function.attributes.add("nounwind")
    if inline:
        function.attributes.add("alwaysinline")
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    value = body(builder, *function.args)
    if void:
        builder.ret_void()
    else:
        builder.ret(value)
    return function
