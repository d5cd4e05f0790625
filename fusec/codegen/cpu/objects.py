"""Compiled functions as plain object code, which can be loaded without Numba.

A function decorated with `numba.cfunc` comes with a wrapper that reports exceptions to Python, and
so depends on Numba's run time. Ours raise none: the object gets an entry that calls the compiled
function directly, and whatever only the wrapper used is dropped.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from llvmlite import binding

ENTRY = "fusec_entry"

_loaded: dict[str, tuple[int, binding.ExecutionEngine]] = {}
"""SHA-256 of object code -> address of its ENTRY, and what keeps it there until the end."""


def emit_object(function: Any) -> bytes:
    """Object code of a `cfunc`, exporting ENTRY with the C signature the function declares."""
    library, signature = function._library, function._sig
    native = function.native_name.removeprefix("cfunc.")
    module = binding.parse_assembly(str(library._final_module) + _entry(native, signature))
    for defined in module.functions:
        if not defined.is_declaration and defined.name != ENTRY:
            defined.linkage = "internal"
    machine = _target_machine(*library.codegen.magic_tuple())
    passes = binding.create_new_module_pass_manager()
    passes.add_global_dead_code_eliminate_pass()
    passes.run(module, binding.create_pass_builder(machine, binding.PipelineTuningOptions(3)))
    return machine.emit_object(module)


def _entry(native: str, signature: Any) -> str:
    """LLVM text of ENTRY. Numba's own convention: result and exception by reference, a status."""
    types = [_llvm_type(t) for t in signature.args]
    result = _llvm_type(signature.return_type)
    parameters = ", ".join(f"{t} %a{i}" for i, t in enumerate(types))
    room = "ptr" if result == "void" else result
    lines = [
        f"define {result} @{ENTRY}({parameters}) {{",
        f"  %result = alloca {room}",
        "  %exception = alloca ptr",
        f'  %status = call i32 @"{native}"(ptr %result, ptr %exception, {parameters})',
    ]
    if result == "void":
        lines.append("  ret void")
    else:
        lines += [f"  %value = load {result}, ptr %result", f"  ret {result} %value"]
    return "\n" + "\n".join([*lines, "}"]) + "\n"


def _llvm_type(numba_type: Any) -> str:
    from numba import types

    if isinstance(numba_type, types.CPointer):
        return "ptr"
    return {types.void: "void", types.int32: "i32", types.int64: "i64"}[numba_type]


def leave_unloaded() -> None:
    """From now on `numba.cfunc` optimises what it compiles, and makes no machine code of it.

    Numba's own is for this process to call; `emit_object` makes that of a compiler process.
    """
    from numba.core.ccallback import CFunc
    from numba.core.compiler_lock import global_compiler_lock

    @global_compiler_lock
    def compile_only(function: Any) -> None:
        result = function._compile_uncached()
        library = function._library = result.library
        function._wrapper_name = result.fndesc.llvm_cfunc_wrapper_name
        if not library._finalized:
            library._finalize_final_module = lambda: None
            library.finalize()
            library._finalized = True

    CFunc.compile = compile_only  # type: ignore[method-assign]


def load_object(path: Path) -> int:
    """Address of the ENTRY of an object file, loaded into this process for good.

    The same code is loaded once, however many engines need it.
    """
    code = path.read_bytes()
    key = hashlib.sha256(code).hexdigest()
    if key not in _loaded:
        binding.initialize_native_target()
        binding.initialize_native_asmprinter()
        machine = _target_machine()
        engine = binding.create_mcjit_compiler(binding.parse_assembly(""), machine)
        engine.add_object_file(binding.ObjectFileRef.from_data(code))
        engine.finalize_object()
        _loaded.setdefault(key, (int(engine.get_function_address(ENTRY)), engine))
    return _loaded[key][0]


def _target_machine(
    triple: str | None = None, cpu: str = "", features: str = ""
) -> binding.TargetMachine:
    target = binding.Target.from_triple(triple or binding.get_process_triple())
    return target.create_target_machine(
        cpu=cpu, features=features, opt=3, reloc="default", codemodel="jitdefault", jit=True
    )
