"""Typed raw pointers in nopython code: addresses in, elements by index."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fusec.codegen.cpu.function import f32p, i16p, i32p, i64p, u8p, u16p


def _from_address(name: str, pointer: Any) -> Any:
    def typed(_: Any, address: Any) -> Any:
        def lower(context: Any, builder: ir.IRBuilder, _: Any, values: list[ir.Value]) -> ir.Value:
            return builder.inttoptr(values[0], context.get_value_type(pointer))

        return pointer(types.int64), lower

    typed.__name__ = typed.__qualname__ = name
    typed.__doc__ = f"The address as a pointer to {pointer.dtype}; `p[i]` reads and writes."
    return intrinsic(typed)


ptr_f32 = _from_address("ptr_f32", f32p)
ptr_i16 = _from_address("ptr_i16", i16p)
ptr_i32 = _from_address("ptr_i32", i32p)
ptr_i64 = _from_address("ptr_i64", i64p)
ptr_u8 = _from_address("ptr_u8", u8p)
ptr_u16 = _from_address("ptr_u16", u16p)


@intrinsic
def advance(_: Any, pointer: Any, elements: Any) -> Any:
    """The pointer moved by that many elements (bytes where it points to u8)."""
    if not isinstance(pointer, types.CPointer) or not isinstance(elements, types.Integer):
        return None

    def lower(context: Any, builder: ir.IRBuilder, _: Any, values: list[ir.Value]) -> ir.Value:
        element = context.get_data_type(pointer.dtype)
        typed = builder.bitcast(values[0], element.as_pointer())
        return builder.gep(typed, [values[1]], source_etype=element)

    return pointer(pointer, types.int64), lower
