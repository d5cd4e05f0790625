"""The code in the documentation runs, as one script a page."""

import re
from pathlib import Path

import pytest

from fusec.ir import parse

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture(scope="module")
def library_page():
    text = (DOCS / "library.md").read_text()
    names: dict = {}
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(compile(block, "docs/library.md", "exec"), names)
    return text, names


def test_the_printed_graph_is_the_one_on_the_page(library_page):
    text, names = library_page
    (shown,) = re.findall(r"```\n(graph toy.*?)```", text, re.DOTALL)
    assert shown == str(names["graph"])
    assert parse(shown) == names["graph"]


def test_the_model_example_generates(library_page, tiny_model):
    assert len(library_page[1]["model_example"](tiny_model)) == 8
