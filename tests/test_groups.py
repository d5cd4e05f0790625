"""Tests of a group share what one of them makes, so one worker has them all."""

from __future__ import annotations

import pytest


@pytest.mark.xdist_group("groups")
def test_a_group_is_part_of_a_tests_name(request: pytest.FixtureRequest) -> None:
    """By which xdist tells groups; a pytest that it cannot rename tests in would run all twice."""
    if not request.config.getoption("loadgroup", False):
        pytest.skip("no workers that groups are dealt to")
    assert request.node.nodeid.endswith("@groups")
