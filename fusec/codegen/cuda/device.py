"""Numba intrinsics for CUDA kernels: one per entry of `instructions.TABLE`, one per table of a
weight format, and five without PTX.

Kernel sources import from here. Only numba-cuda's compiler can use these objects; on a machine
without it, import `instructions` instead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llvmlite import ir
from numba.cuda import jit, types
from numba.cuda.extending import intrinsic

from fusec.codegen.cuda.imports import tables
from fusec.codegen.cuda.instructions import TABLE, Instruction

_I32, _I64, _F32 = ir.IntType(32), ir.IntType(64), ir.FloatType()
# kind: LLVM type, constraint letter, Numba type (None: a pointer of any element)
_KINDS: dict[str, tuple[ir.Type, str, Any]] = {
    "u32": (_I32, "r", types.uint32),
    "s32": (_I32, "r", types.int32),
    "f32": (_F32, "f", types.float32),
    "u64": (_I64, "l", types.uint64),
    "ptr": (_I64, "l", None),
    "shared": (_I32, "r", types.uint32),
    "cluster": (_I32, "r", types.uint32),
    "pred": (_I32, "r", types.boolean),
}


def _intrinsic_of(entry: Instruction) -> Any:
    """A Numba intrinsic that puts the entry's assembly in place of the call."""
    returns = [_KINDS[kind] for kind in entry.returns]
    arguments = [_KINDS[kind] for kind in entry.arguments]
    constraints = ["=" + letter for _, letter, _ in returns]
    constraints += [letter for _, letter, _ in arguments]
    constraints += ["~{memory}"] if entry.memory else []
    result_type: Any = types.void
    llvm_result: ir.Type = ir.VoidType()
    if len(returns) == 1:
        llvm_result, _, result_type = returns[0]
    elif returns:
        llvm_result = ir.LiteralStructType([llvm for llvm, _, _ in returns])
        result_type = types.UniTuple(returns[0][2], len(returns))
    assembly_type = ir.FunctionType(llvm_result, [llvm for llvm, _, _ in arguments])

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        operands = []
        for kind, value in zip(entry.arguments, values, strict=True):
            if kind == "ptr":
                operands.append(builder.ptrtoint(value, _I64))
            elif kind == "pred":
                operands.append(builder.zext(value, _I32))
            else:
                operands.append(value)
        result = builder.asm(
            assembly_type, entry.asm, ",".join(constraints), operands, entry.volatile
        )
        if len(returns) > 1:
            parts = [builder.extract_value(result, n) for n in range(len(returns))]
            return context.make_tuple(builder, signature.return_type, parts)
        return result if returns else context.get_dummy_value()

    def define(_context: Any, *given: Any) -> Any:
        if len(given) != len(arguments):
            return None
        wanted = [
            actual if kind == "ptr" else numba
            for kind, (_, _, numba), actual in zip(entry.arguments, arguments, given, strict=True)
        ]
        if any(kind == "ptr" and not isinstance(actual, types.CPointer)
               for kind, actual in zip(entry.arguments, given, strict=True)):  # fmt: skip
            return None
        return result_type(*wanted), generate

    return intrinsic(_with_names(define, entry))


def _with_names(define: Any, entry: Instruction) -> Any:
    """Give the definition one named parameter per operand: Numba reads its signature."""
    names = ", ".join(f"a{n}" for n in range(len(entry.arguments)))
    namespace = {"define": define}
    exec(f"def {entry.name}(context, {names}):\n    return define(context, {names})\n", namespace)
    return namespace[entry.name]


def _table(name: str, words: Any) -> Any:
    """A function that gives the address of a table that the module holds."""

    def define(_context: Any) -> Any:
        def generate(_context: Any, builder: Any, _signature: Any, _values: Any) -> Any:
            content = ir.ArrayType(_I32, len(words))
            known = builder.module.globals.get(name)
            if known is None:
                known = ir.GlobalVariable(builder.module, content, name, addrspace=1)
                known.linkage, known.global_constant, known.align = "internal", True, 128
                known.initializer = ir.Constant(content, words.tolist())
            first = builder.gep(known, [_I32(0), _I32(0)])
            return builder.addrspacecast(first, _I32.as_pointer())

        return types.CPointer(types.uint32)(), generate

    return intrinsic(define)


inline = jit(device=True, forceinline=True)
"""Decorates a function that kernels call and that is compiled into its caller."""

globals().update({name: _intrinsic_of(entry) for name, entry in TABLE.items()})
globals().update({name: _table(name, words) for name, words in tables().items()})


if TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """The names above, which no type checker can see."""


@intrinsic
def at(_context: Any, pointer: Any, index: Any) -> Any:
    """`at(pointer, index)`: the address of element `index`."""
    if not isinstance(pointer, types.CPointer) or not isinstance(index, types.Integer):
        return None
    wide = types.uint64 if not index.signed else types.int64

    def generate(_context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        return builder.gep(values[0], [values[1]])

    return pointer(pointer, wide), generate


@intrinsic
def shared_bytes(_context: Any, count: Any) -> Any:
    """`shared_bytes(constant)`: the shared-memory address of that many fresh bytes."""
    if not isinstance(count, types.IntegerLiteral):
        return None

    def generate(_context: Any, builder: Any, _signature: Any, _values: Any) -> Any:
        module = builder.module
        storage = ir.ArrayType(ir.IntType(8), count.literal_value)
        name = module.get_unique_name("shared_bytes")
        variable = ir.GlobalVariable(module, storage, name, addrspace=3)
        variable.linkage = "internal"
        variable.align = 128
        variable.initializer = ir.Constant(storage, ir.Undefined)
        return builder.ptrtoint(variable, _I32)

    return types.uint32(count), generate


@intrinsic
def dynamic_shared(_context: Any) -> Any:
    """`dynamic_shared()`: the address of the shared memory that the launch adds, 128-aligned."""

    def generate(_context: Any, builder: Any, _signature: Any, _values: Any) -> Any:
        module, name = builder.module, "dynamic_shared"
        variable = module.globals.get(name)
        if variable is None:
            storage = ir.ArrayType(ir.IntType(8), 0)
            variable = ir.GlobalVariable(module, storage, name, addrspace=3)
            variable.linkage, variable.align = "external", 128
        return builder.ptrtoint(variable, _I32)

    return types.uint32(), generate


@intrinsic
def below(_context: Any, value: Any, limit: Any) -> Any:
    """`below(value, constant)`: the value, which is less than the constant.

    What the compiler knows of a thread's index lets it leave out tests of where a vector ends.
    """
    if not isinstance(limit, types.IntegerLiteral):
        return None

    def generate(_context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        known = ir.Constant(_I32, limit.literal_value)
        builder.assume(builder.icmp_unsigned("<", values[0], known))
        return values[0]

    return types.uint32(types.uint32, limit), generate


@intrinsic
def some(_context: Any, condition: Any) -> Any:
    """`if some(condition):` lets warps without work skip what their lanes would not store anyway.

    It is the condition itself. The NumPy twins, where all threads go one way, take the branch if
    any thread does, so what is inside must be masked all the same.
    """

    def generate(_context: Any, _builder: Any, _signature: Any, values: Any) -> Any:
        return values[0]

    return types.boolean(types.boolean), generate


def _at_address(element: Any) -> Any:
    def at_address(_context: Any, address: Any) -> Any:
        """The pointer to what lies at an address (u64) in global memory."""

        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            return builder.inttoptr(values[0], context.get_value_type(signature.return_type))

        return types.CPointer(element)(types.uint64), generate

    return intrinsic(at_address)


f32_at, u8_at = _at_address(types.float32), _at_address(types.uint8)
u16_at, u32_at = _at_address(types.uint16), _at_address(types.uint32)
u64_at = _at_address(types.uint64)


def _select(kind: Any) -> Any:
    def select(_context: Any, condition: Any, yes: Any, no: Any) -> Any:
        """`select(condition, yes, no)` without a branch."""

        def generate(_context: Any, builder: Any, _signature: Any, values: Any) -> Any:
            return builder.select(*values)

        return kind(types.boolean, kind, kind), generate

    return intrinsic(select)


@intrinsic
def select_pointer(_context: Any, condition: Any, yes: Any, no: Any) -> Any:
    """`select_pointer(condition, yes, no)` of two pointers of a type."""

    def generate(_context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        return builder.select(*values)

    return yes(types.boolean, yes, no), generate


select_u32 = _select(types.uint32)
select_s32 = _select(types.int32)
select_f32 = _select(types.float32)
