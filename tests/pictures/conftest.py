"""A compiled tiny model, and a profile of it with made-up times."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fusec import driver


@pytest.fixture(scope="session")
def compiled(tiny_model: Path) -> driver.Compiled:
    return driver.compile(tiny_model, target="sm_90a", level=3, context=64)


def profile_of(compiled: driver.Compiled, **changed: object) -> dict:
    """What `fusec profile -o` would write: launch i takes 1 + i / 100 us."""
    launches = [
        {
            "node": launch.node,
            "kernel": launch.kernel,
            "layer": launch.layer,
            "us": 1 + i / 100,
            "predicted_us": 2.0,
            "bytes": 1000,
        }
        for i, launch in enumerate(compiled.plan.launches)
    ]
    walls = {"between tokens": 2.5, "launches": 20.0, "memory": 5.0, "compute": 30.0}
    naive = {"between tokens": 40.0, "launches": 200.0, "memory": 5.0, "compute": 30.0}
    return {
        "gpu": "NVIDIA H200",
        "model": "tiny",
        "target": compiled.plan.target,
        "level": compiled.plan.level,
        "threads": None,
        "position": 48,
        "token": 60.0,
        "device": 57.0,
        "walls": walls,
        "sum": sum(walls.values()),
        "naive": {"eager": 240.0, "eager, host sampling": 280.0},
        "naive_walls": naive,
        "kernels": {
            k.name: {"launches": 1, "alone": 1.5, "empty": 0.5} for k in compiled.plan.kernels
        },
        "launches": launches,
        "command": "fusec profile tiny.gguf",
        "date": "2026-01-02",
        "commit": "abc",
        **changed,
    }


@pytest.fixture
def profile(compiled: driver.Compiled, tmp_path: Path) -> Path:
    path = tmp_path / "profile.json"
    path.write_text(json.dumps(profile_of(compiled)))
    return path
