"""The text of `fusec/ir/op_methods.py`: Builder's methods, as the op table has them."""

from __future__ import annotations

import re

from fusec.ir.op import Op
from fusec.ir.ops import OWN_OPS

HEAD = '''"""Builder's methods, one for each op of the table, for people, `help` and type checkers.

Written by `UPDATE_GOLDEN=1 pytest tests/ir/test_build.py` from the op table: do not edit.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from fusec.ir.graph import Attr, Value


class OpMethods:
    """Each appends a node and returns its result; `name` is the result's."""

    @abstractmethod
    def op(self, op: str, *inputs: Value, name: str | None = None, **given: Attr) -> Any:
        """Append a node of any op of the table, by name."""
'''
TAIL = '''

def _given(*values: Value | None) -> list[Value]:
    """The operands that are there."""
    return [value for value in values if value is not None]
'''


def module() -> str:
    """The whole file, but for its format."""
    return HEAD + "".join(map(method, OWN_OPS.values())) + TAIL


def method(entry: Op) -> str:
    """One method."""
    operands = re.findall(r"(\w+): \w+", entry.operands)
    least, optional = operands[: entry.arity[0]], operands[entry.arity[0] :]
    parameters = [f"{x}: Value" for x in least] + [f"{x}: Value | None = None" for x in optional]
    attributes = dict(entry.attributes.items())
    keywords = [f"{k}: {v.__name__}" for k, v in attributes.items() if isinstance(v, type)]
    keywords += [
        f"{k}: {type(v).__name__} = {v!r}" for k, v in attributes.items() if not isinstance(v, type)
    ]
    passed = [repr(entry.name), *least]
    passed += [f"*_given({', '.join(optional)})"] if optional else []
    passed += [f"{k}={k}" for k in attributes]
    if entry.role != "store":  # its result is a version of the state, and called like it
        keywords.append("name: str | None = None")
        passed.append("name=name")
    values = ", ".join(["Value"] * len(entry.outputs))
    returned = f"tuple[{values}]" if len(entry.outputs) > 1 else values
    star = ["*"] if keywords else []
    made = (entry.infer.__doc__ or "").partition("\n")[0].rstrip(".")
    types = "\n        ".join(re.split(r", (?=\w+: )", entry.operands))
    return f'''
    def {entry.name}(self, {", ".join(parameters + star + keywords)}) -> {returned}:
        """{entry.about}

        {types}
        -> {made}
        """
        return self.op({", ".join(passed)})
'''
