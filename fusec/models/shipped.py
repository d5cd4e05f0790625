"""Models that come with the package."""

from __future__ import annotations

from pathlib import Path

DATA = Path(__file__).parents[1] / "data"
SHIPPED = {"demo": DATA / "demo.gguf"}
"""Name -> file. `demo` is the story model of examples/demo_model."""
