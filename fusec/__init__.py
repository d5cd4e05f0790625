"""fusec: the decode step of a language model as a few fused kernels and one launch plan.

    compiled = fusec.compile("model.gguf")     # stages, graph, plan, kernels
    engine = fusec.load("model.gguf")          # logits, step, generate

`fusec.ir` has the graph and its builder, `fusec.passes` the rules; `docs/library.md` shows both.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fusec.errors import FusecError
from fusec.version import __version__ as __version__

if TYPE_CHECKING:
    from fusec.ablation import Ablation, ablate
    from fusec.driver import Compiled, compile, load
    from fusec.ir import Builder, Graph, Node, Reference, Value, parse
    from fusec.ir.own_op import register_op, unregister_op
    from fusec.models.names import KnownModel, known_models, pull
    from fusec.passes.rule import Rule, pattern
    from fusec.runtime.completion import Completion, Piece
    from fusec.runtime.engine import Engine
    from fusec.runtime.sampling import Sampling
    from fusec.runtime.saved import Saved

__all__ = [
    "Ablation",
    "Builder",
    "Compiled",
    "Completion",
    "Engine",
    "FusecError",
    "Graph",
    "KnownModel",
    "Node",
    "Piece",
    "Reference",
    "Rule",
    "Sampling",
    "Saved",
    "Value",
    "ablate",
    "compile",
    "known_models",
    "load",
    "parse",
    "pattern",
    "pull",
    "register_op",
    "unregister_op",
]

_MODULES = {
    "fusec.ablation": ("Ablation", "ablate"),
    "fusec.driver": ("Compiled", "compile", "load"),
    "fusec.ir": ("Builder", "Graph", "Node", "Reference", "Value", "parse"),
    "fusec.ir.own_op": ("register_op", "unregister_op"),
    "fusec.models.names": ("KnownModel", "known_models", "pull"),
    "fusec.passes.rule": ("Rule", "pattern"),
    "fusec.runtime.completion": ("Completion", "Piece"),
    "fusec.runtime.engine": ("Engine",),
    "fusec.runtime.sampling": ("Sampling",),
    "fusec.runtime.saved": ("Saved",),
}
"""Where the names are that are imported when first asked for, so that `import fusec` is quick."""


_PACKAGES = ("ir", "passes")
"""Those that are at hand as `fusec.NAME` without an import of their own."""

if not TYPE_CHECKING:  # type checkers have the imports above, and notice other names

    def __getattr__(name: str) -> Any:
        if name in _PACKAGES:
            return import_module(f"fusec.{name}")
        for module, names in _MODULES.items():
            if name in names:
                globals().update({each: getattr(import_module(module), each) for each in names})
                return globals()[name]
        raise AttributeError(f"module 'fusec' has no attribute '{name}'")


def __dir__() -> list[str]:
    special = {name for name in globals() if name.startswith("__")}
    return sorted({*special, *_PACKAGES, *__all__})
