"""Targets for tests of the passes."""

from dataclasses import replace

from fusec import backends
from fusec.codegen.cuda.shape import PARTS
from fusec.codegen.formats import FORMATS
from fusec.ir.target import Target

ANY = Target("any", frozenset(FORMATS), block_bytes=1 << 20)

SPLIT = replace(ANY, name="split", span=256, parts=PARTS, overlaps=True)
"""Splits attention over the context and argmax over blocks, and starts launches early."""

FEW = replace(backends.get("sm_90a").limits.tiles, least=16)
"""Tiles of matrices that have few rows as well, which tests have."""

HOPPER = replace(backends.get("sm_90a").limits, gpu=None, tiles=FEW)
"""The GPU whose numbers are in the README: split attention, early launches, factored norms.

Nothing is predicted: tests of what a cost decides add the GPU.
"""

TILED = replace(ANY, name="tiled", tiles=FEW)
"""Lays long rows out in tiles, and differs from `ANY` in nothing else."""

AMPERE = replace(backends.get("sm_80").limits, gpu=None, tiles=FEW)
"""A GPU without programmatic dependent launch."""
