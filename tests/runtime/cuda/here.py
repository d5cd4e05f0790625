"""The machine the tests run on."""

from __future__ import annotations

import pytest

from fusec.errors import FusecError
from fusec.runtime.cuda.driver import Driver


def without_a_gpu() -> None:
    """Skip the test where there is one."""
    try:
        Driver().close()
    except FusecError:
        return
    pytest.skip("there is a GPU")
