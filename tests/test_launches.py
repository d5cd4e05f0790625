"""The tables of launches a layer are what the compiler makes."""

from __future__ import annotations

import re

import pytest

from benchmarks.launches import configs, kind_of, launches
from tests import pages

CONFIGS = {name: config for table in configs() for name, config in table.items()}
PAGE = pages.page("docs/architectures.md")
LISTED = dict(re.findall(r"^\| ([\w.-]+) \|((?: \d+ \|){5})$", PAGE, re.M))
DENSE = ["llama", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "phi3", "olmo2", "exaone4"]


def test_every_architecture_and_preset_is_listed() -> None:
    assert list(LISTED) == list(CONFIGS)


@pytest.mark.slow
@pytest.mark.parametrize("name", LISTED)
def test_as_many_as_the_page_says(name: str) -> None:
    """At the default level and the deepest; the others change with the same passes."""
    *_, usual, deepest = (int(count) for count in LISTED[name].strip(" |").split(" | "))
    assert launches(CONFIGS[name], kind_of(name), [3, 4]) == [usual, deepest]


@pytest.mark.parametrize("name", DENSE)
def test_a_dense_model_takes_four_at_most(name: str) -> None:
    assert int(LISTED[name].strip(" |").split(" | ")[3]) <= 4
