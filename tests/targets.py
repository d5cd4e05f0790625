"""Targets for tests of the passes."""

from dataclasses import replace

from fusec.codegen import targets
from fusec.codegen.cuda.shape import PARTS
from fusec.codegen.formats import FORMATS
from fusec.ir.target import Target

ANY = Target("any", frozenset(FORMATS), block_bytes=1 << 20)

SPLIT = replace(ANY, name="split", span=256, parts=PARTS, overlaps=True)
"""Splits attention over the context and argmax over blocks, and starts launches early."""

HOPPER = targets.get("sm_90a").limits
"""The GPU whose numbers are in the README: split attention, early launches, factored norms."""

TILED = replace(ANY, name="tiled", tiles=HOPPER.tiles)
"""Lays long rows out in tiles, and differs from `ANY` in nothing else."""

AMPERE = targets.get("sm_80").limits
"""A GPU without programmatic dependent launch."""
