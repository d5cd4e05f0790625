import os

import pytest


@pytest.fixture
def update_golden() -> bool:
    """UPDATE_GOLDEN=1 rewrites the files on disk instead of comparing with them."""
    return bool(os.environ.get("UPDATE_GOLDEN"))
