"""Which threads take a branch, where the NumPy twins run all of them in lock step.

`if some(condition):` becomes `if take_branch(condition):` with `leave_branch()` behind its body, so
that a store, a barrier or a wait inside knows whose it is. Where there is an `else` beside it and
any thread takes the branch, all do: it computes what the other way does, and masks what more it
does.
"""

from __future__ import annotations

import ast
import functools
from types import CodeType
from typing import Any

import numpy as np
import numpy.typing as npt


@functools.cache
def compile_branches(source: str, filename: str) -> CodeType:
    """Compile a module of kernels or of device functions."""
    tree = _Branches().visit(ast.parse(source, filename))
    return compile(ast.fix_missing_locations(tree), filename, "exec")


class _Branches(ast.NodeTransformer):
    def visit_If(self, node: ast.If) -> ast.If:
        self.generic_visit(node)
        test = node.test
        if (
            isinstance(test, ast.Call)
            and isinstance(test.func, ast.Name)
            and test.func.id == "some"
        ):
            one_way = ast.Constant(bool(node.orelse))
            taken = ast.Call(ast.Name("take_branch", ast.Load()), [*test.args, one_way], [])
            leave = ast.Expr(ast.Call(ast.Name("leave_branch", ast.Load()), [], []))
            node.test = ast.copy_location(taken, test)
            node.body = [ast.copy_location(ast.Try(node.body, [], [], [leave]), node.body[0])]
        return node


class Branches:
    """The threads that run: of all, `shape` (blocks, threads), those that took every branch."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self.stack: list[tuple[npt.NDArray[np.bool_], bool]] = [(np.ones(shape, np.bool_), True)]

    @property
    def active(self) -> npt.NDArray[np.bool_]:
        """Whether each thread runs."""
        return self.stack[-1][0]

    @property
    def of_warps(self) -> bool:
        """Whether all lanes of a warp run, or none."""
        return self.stack[-1][1]

    def take(self, condition: Any, one_way: bool) -> bool:
        """Whether any thread takes the branch; then it has begun for those that do."""
        taken = self.active & condition
        if not taken.any():
            return False
        lanes = taken.reshape(-1, 32)
        of_warps = bool(np.all(lanes.any(axis=1) == lanes.all(axis=1)))
        self.stack.append((self.active if one_way else taken, self.of_warps and of_warps))
        return True

    def restart(self) -> None:
        """All threads run."""
        del self.stack[1:]

    def leave(self) -> None:
        """The branch ends."""
        self.stack.pop()
