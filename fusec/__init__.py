"""fusec: the decode step of a language model as a few fused kernels and one launch plan.

    compiled = fusec.compile("model.gguf")     # stages, graph, plan, kernels
    engine = fusec.load("model.gguf")          # logits, step, generate

`fusec.ir` has the graph and its builder, `fusec.passes` the rules; `docs/library.md` shows both.
"""

from fusec.driver import Compiled, compile, load
from fusec.errors import FusecError
from fusec.ir import Builder, Graph, Node, Reference, Value, parse
from fusec.passes.rule import Rule, pattern
from fusec.pictures.svg import to_svg
from fusec.runtime.engine import Engine
from fusec.runtime.sampling import Sampling

Graph._repr_svg_ = to_svg

__all__ = [
    "Builder",
    "Compiled",
    "Engine",
    "FusecError",
    "Graph",
    "Node",
    "Reference",
    "Rule",
    "Sampling",
    "Value",
    "compile",
    "load",
    "parse",
    "pattern",
]
