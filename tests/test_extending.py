"""The examples of docs/extending.md run, and each is all that an addition takes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFValueType as T

from fusec.codegen.formats import FORMATS
from fusec.errors import FusecError
from fusec.ir.ops import OPS
from fusec.models import ARCHITECTURES
from tests import pages, small_llama

TABLES: tuple[dict[str, Any], ...] = (OPS, FORMATS, ARCHITECTURES)


@pytest.fixture(scope="module")
def examples() -> Iterator[dict[str, Any]]:
    """What the page defines; the tables are as they were when the tests are done."""
    before = [dict(table) for table in TABLES]
    yield pages.run("docs/extending.md")
    for table, entries in zip(TABLES, before, strict=True):
        table.clear()
        table.update(entries)


@pytest.fixture(scope="module")
def storyteller(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of the page's architecture: a small llama under another name, and two keys more."""
    changes: dict[str, tuple[T, Any] | None] = dict.fromkeys(small_llama.KEYS)
    for name, given in small_llama.KEYS.items():
        changes[name.replace("llama.", "storyteller.")] = given
    changes["general.architecture"] = T.STRING, "storyteller"
    changes["storyteller.activation"] = T.STRING, "silu"
    changes["storyteller.trained_on"] = T.STRING, "stories"
    return small_llama.write(tmp_path_factory.mktemp("models") / "storyteller.gguf", changes)


def test_an_op_of_a_scripts_own_is_registered(examples: dict[str, Any]) -> None:
    assert OPS["shrink"].about == examples["shrink"].__doc__


def test_the_page_adds_to_every_table(examples: dict[str, Any]) -> None:
    assert OPS["quick_gelu"] is examples["quick_gelu"]
    assert FORMATS["toy3"] is examples["FORMAT"]
    assert "storyteller" in ARCHITECTURES


def test_the_rule_refuses_what_it_says(examples: dict[str, Any]) -> None:
    (node,) = [n for n in examples["fused"].graph.nodes if n.name == "%blk.0.swiglu"]
    assert examples["too_tall"](examples["fused"].graph, (node,)) == (
        "too tall: 1024 rows, expected at most 512"
    )


@pytest.mark.slow
def test_the_architecture_makes_tokens(examples: dict[str, Any], storyteller: Path) -> None:
    as_llama = small_llama.write(storyteller.with_name("llama.gguf"))
    made = examples["architecture_example"](storyteller)
    assert len(made) == 4
    ARCHITECTURES["llama"], kept = ARCHITECTURES["storyteller"], ARCHITECTURES["llama"]
    try:
        assert examples["architecture_example"](as_llama) == made
    finally:
        ARCHITECTURES["llama"] = kept


def test_a_key_it_does_not_mention_is_refused(examples: dict[str, Any], storyteller: Path) -> None:
    data = storyteller.read_bytes().replace(b"storyteller.trained_on", b"storyteller.trained_by")
    other = storyteller.with_name("other.gguf")
    other.write_bytes(data)
    with pytest.raises(FusecError, match=r"'storyteller\.trained_by' is not known"):
        examples["architecture_example"](other)
