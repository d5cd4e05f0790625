"""Fixtures shared by all tests."""

import gc
import importlib.util
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import pytest

from fusec.cli import console
from fusec.codegen import pool
from fusec.ir.ops import OPS, OWN_OPS
from fusec.ir.own_op import unregister_op
from fusec.models.synth import synthesize
from tests.random_numbers import begin_again

SHARED_DATA = Path(
    os.environ.get("FUSEC_SHARED_DATA") or Path(__file__).parents[1] / "../shared/data"
)

gc.disable()  # while tests are collected, which makes many objects that stay


def pytest_collection_finish() -> None:
    """The garbage collector looks at what tests make, and not at all tests each time."""
    gc.collect()
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Groups first: a worker that gets one last would be alone at it while the others are done."""
    items.sort(key=lambda item: item.get_closest_marker("xdist_group") is None)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Each test draws the same numbers in any order; no GPU compiler, no tests of its kernels."""
    begin_again()
    if item.get_closest_marker("cuda") and importlib.util.find_spec("numba_cuda") is None:
        pytest.skip("the cuda extra is not installed")


@pytest.fixture(scope="session", autouse=True)
def kernel_cache(pytestconfig: pytest.Config) -> Path:
    """Compiled kernels are kept in the checkout: warm on the next run, never in the user's cache.

    The cache is made for processes that build the same entry at once, so xdist's workers share it.
    """
    folder = pytestconfig.rootpath / ".pytest_cache" / "fusec"
    os.environ.setdefault("FUSEC_CACHE_DIR", str(folder))
    return folder


@pytest.fixture(scope="session", autouse=True)
def compilers() -> Iterator[None]:
    """Compiler processes wait from one test to the next: starting one takes as long as a kernel.

    pytest puts the test's name into the environment, and one of another environment is not taken.
    """

    def environment(given: Callable[[], dict[str, str]] = pool.environment) -> dict[str, str]:
        return {name: value for name, value in given().items() if name != "PYTEST_CURRENT_TEST"}

    with pool.kept(), mock.patch.object(pool, "environment", environment):
        yield


@pytest.fixture(scope="session", autouse=True)
def patience() -> Iterator[None]:
    """Commands say nothing of work that takes seconds, as any may on a busy machine."""
    with mock.patch.object(console, "EVERY", 3600.0):
        yield


@pytest.fixture
def own_compilers() -> Iterator[None]:
    """For tests of the processes themselves: fresh ones, which end with the kernels."""
    with pool.not_kept():
        yield


@pytest.fixture
def signals_heard() -> Iterator[None]:
    """For tests that send signals to processes, which inherit what is ignored here.

    A job in the background ignores interrupts, one under nohup that its terminal is gone.
    """
    before = {}
    for name, heard in (("SIGINT", signal.default_int_handler), ("SIGHUP", signal.SIG_DFL)):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) == signal.SIG_IGN:
            before[number] = signal.signal(number, heard)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real models and tokenizers; tests that need it are skipped without it."""
    if not SHARED_DATA.is_dir():
        pytest.skip("no shared test data beside the repository")
    return SHARED_DATA.resolve()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A synthetic model in llama.cpp's IQ4_XS mix: iq4_nl, iq4_xs, q5_k, q8_0 and f32 tensors."""
    return synthesize("tiny", tmp_path_factory.mktemp("models") / "tiny.gguf")


@pytest.fixture
def update_golden() -> bool:
    """UPDATE_GOLDEN=1 rewrites the files on disk instead of comparing with them."""
    return bool(os.environ.get("UPDATE_GOLDEN"))


@pytest.fixture
def own_ops_table() -> Iterator[None]:
    """What a test registers is no op any more when it is done."""
    yield
    for name in OPS.keys() - OWN_OPS.keys():
        unregister_op(name)
