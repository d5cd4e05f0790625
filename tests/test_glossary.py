"""docs/glossary.md names places in the code that exist."""

from __future__ import annotations

import re

import pytest

from fusec.codegen.cuda.stages import Stage
from fusec.ir.op import ROLES
from tests import pages

TEXT = pages.page("docs/glossary.md")
FOLDERS = ("fusec", "fusec/codegen/cuda", ".")


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`([\w/]+\.(?:py|md))`", TEXT))))
def test_the_place_exists(path: str) -> None:
    assert any((pages.ROOT / folder / path).is_file() for folder in FOLDERS)


def test_it_has_every_role_and_the_stages_of_a_kernel() -> None:
    role = TEXT[TEXT.index("**Role.**") :].split("\n\n")[0]
    assert re.findall(r"`(\w+)`", role) == list(ROLES)
    stages = re.search(r"\(find, load, copy, wait, read, \.\.\., compute\)", TEXT)
    assert stages is not None
    names = [stage.name.lower() for stage in Stage]
    assert names[:5] == ["find", "load", "copy", "wait", "read"]
    assert names[-1] == "compute"
