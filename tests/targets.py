"""Targets for tests of the passes."""

from fusec.codegen.formats import FORMATS
from fusec.ir.target import Target

ANY = Target("any", frozenset(FORMATS), block_bytes=1 << 20)
