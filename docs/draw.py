"""Draw the docs' pictures of plan, loop and walls again, from a model of SmolLM2-135M's shape.

    python docs/draw.py MODEL.gguf

The plan's pictures are compiled, with predicted times; the walls are drawn from
benchmarks/results/h200-profile-O*.json, which `fusec profile` wrote. Needs the extras cuda (for
registers) and pictures (for the chart).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from fusec import driver, pictures, walls
from fusec.runtime.drafting import MOST_DRAFTED

HERE = Path(__file__).parent
RESULTS = HERE.parent / "benchmarks" / "results"


def main(model: Path) -> None:
    """Write docs/images."""
    folder = HERE / "images"
    folder.mkdir(exist_ok=True)
    for level in (0, 3):
        compiled = driver.compile(model, target="sm_90a", level=level)
        compiled.build()
        subject = pictures.of_compiled(compiled)
        (folder / f"layer-O{level}.svg").write_text(subject.svg(layers=(4,)))
        if level == 3:
            (folder / "plan-O3.svg").write_text(subject.svg())
            loop, _ = pictures.loop_of(compiled.model, compiled.plans, "auto", MOST_DRAFTED)
            (folder / "loop-O3.svg").write_text(loop.svg())
    for path in sorted(RESULTS.glob("h200-profile-O*.json")):
        level = path.stem[-2:]
        walls.draw(json.loads(path.read_text()), folder / f"walls-{level}.svg")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
