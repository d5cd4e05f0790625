"""Numba's search for variables that are assigned once, in one pass over a function.

Numba looks through a whole block again for each of the block's variables. An unrolled kernel is one
block of thousands of lines, where this takes a sixth of the time to compile it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def found_in_one_pass() -> Iterator[None]:
    """Let numba-cuda search so meanwhile."""
    from numba.cuda.lowering import Lower

    own = Lower._find_singly_assigned_variable
    Lower._find_singly_assigned_variable = find
    try:
        yield
    finally:
        Lower._find_singly_assigned_variable = own


def find(lower: Any) -> None:
    """What `Lower._find_singly_assigned_variable` finds: variables that need no stack slot.

    One line assigns them, no other block uses them, and nothing needs their address.
    """
    from numba.cuda.core import ir
    from numba.cuda.core.analysis import compute_use_defs, must_use_alloca

    blocks = lower.func_ir.blocks
    found = compute_use_defs(blocks)
    blocks_that_assign = Counter(name for names in found.defmap.values() for name in names)
    used_elsewhere = {name for names in found.usemap.values() for name in names}
    lines_that_assign = Counter(
        line.target.name for block in blocks.values() for line in block.find_insts(ir.assign_types)
    )
    addressed = must_use_alloca(blocks)
    lower._singly_assigned_vars = {
        name
        for name, count in blocks_that_assign.items()
        if count == lines_that_assign[name] == 1
        and name not in used_elsewhere
        and name not in addressed
    }
    lower._blk_local_varmap = {}
