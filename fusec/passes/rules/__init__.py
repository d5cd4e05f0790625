"""The six generic merges, a file each; `fusec.passes.pipeline` says which level uses which how."""

from fusec.passes.rules.chain import chain
from fusec.passes.rules.epilogue import epilogue
from fusec.passes.rules.prologue import prologue
from fusec.passes.rules.prologue_of_heads import prologue_of_heads
from fusec.passes.rules.siblings import siblings
from fusec.passes.rules.stack import stack

__all__ = ["chain", "epilogue", "prologue", "prologue_of_heads", "siblings", "stack"]
