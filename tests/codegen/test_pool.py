"""Compiler processes: what they are started with, what ends them, and what they leave behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fusec.codegen import pool
from fusec.codegen.cpu.build import build
from fusec.codegen.kernel import KernelSource
from fusec.codegen.pool import Task, compile_all
from fusec.errors import FusecError

HERE = "tests.codegen.test_pool"

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("own_compilers")]


@pytest.fixture
def entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FUSEC_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    return tmp_path / "cache" / "cpu"


def main() -> None:
    """A compiler whose sources are what it does, as `python -m` of this file's module."""
    from fusec.codegen.serve import serve

    def compile_one(request: dict[str, str]) -> None:
        folder = Path(request["folder"])
        exec((folder / f"{request['name']}.py").read_text(), {"folder": folder})

    serve(compile_one)


def tasks(entries: Path, *sources: str) -> list[Task]:
    return [Task(f"k{i}", source, entries / f"{i}") for i, source in enumerate(sources)]


SLEEP = "import time; (folder / 'begun').touch(); time.sleep(60)"


def test_kernels_are_compiled_in_order_and_told(entries: Path) -> None:
    told: list[str] = []
    note = "print('not an answer'); (folder / 'x.o').write_text('1')"
    compile_all(HERE, tasks(entries, note, note, note), 1, told.append)
    assert told == ["k0", "k1", "k2"]
    assert [p.name for p in sorted(entries.iterdir())] == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import os; os.kill(os.getpid(), 9)", "k0: the compiler process was ended by SIGKILL, "),
        ("import os; os.kill(os.getpid(), 11)", "k0: the compiler process was ended by SIGSEGV"),
        ("import os; os._exit(3)", "kernel k0: the compiler process died: no message"),
        ("raise KeyError('why')", "kernel k0: the compiler process died: KeyError: 'why'"),
        ("raise OSError(28, 'No space left')", "writable cache folder, found: No space left; set"),
    ],
)
def test_a_failure_ends_everything_and_leaves_nothing(
    entries: Path, source: str, reason: str
) -> None:
    start = time.monotonic()
    with pytest.raises(FusecError) as refused:
        compile_all(HERE, tasks(entries, source, SLEEP, SLEEP), 2)
    assert reason in str(refused.value)
    assert time.monotonic() - start < 30
    assert list(entries.iterdir()) == []


def note_process(entries: Path) -> list[str]:
    """Who compiled each of two kernels, one after the other."""
    note = "import os; (folder / 'pid').write_text(str(os.getpid()))"
    for task in tasks(entries, note, note):
        compile_all(HERE, [task], 1)
    return [path.read_text() for path in sorted(entries.glob("*/pid"))]


def alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    return True


def test_a_process_ends_with_its_kernels(entries: Path) -> None:
    first, second = note_process(entries)
    assert first != second
    assert not alive(first) and not alive(second)


def test_a_process_that_is_kept_compiles_what_comes_next_and_ends_at_last(entries: Path) -> None:
    with pool.kept():
        first, second = note_process(entries)
        assert first == second
        with pool.kept():
            pass
        assert alive(first)
    assert not alive(first)


def test_a_kept_process_has_the_environment_of_the_call(
    entries: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    note = "import os; (folder / 'x').write_text(os.environ.get('LD_LIBRARY_PATH', ''))"
    first, second = tasks(entries, note, note)
    with pool.kept():
        compile_all(HERE, [first], 1)
        monkeypatch.setenv("LD_LIBRARY_PATH", "elsewhere")
        compile_all(HERE, [second], 1)
    assert (second.entry / "x").read_text() == "elsewhere"


def test_a_kept_process_that_died_is_replaced_and_one_that_failed_is_not_kept(
    entries: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    note = "import os; (folder / 'pid').write_text(str(os.getpid()))"
    several = tasks(entries, note, note, "raise KeyError", note, note)
    pids = []
    monkeypatch.setattr(pool, "MOST_SERVED", 2)
    with pool.kept():
        for task in several:
            if "raise" in task.source:
                with pytest.raises(FusecError, match="died: KeyError"):
                    compile_all(HERE, [task], 1)
                continue
            compile_all(HERE, [task], 1)
            pids.append((task.entry / "pid").read_text())
            if len(pids) == 1:
                os.kill(int(pids[0]), signal.SIGKILL)
                os.waitid(os.P_PID, int(pids[0]), os.WEXITED | os.WNOWAIT)
        assert len(set(pids)) == 3
        assert pids[2] == pids[3]
        assert not alive(pids[3])  # it has had as many as one may


def test_a_source_that_was_refused_can_be_looked_at_until_the_next_time(entries: Path) -> None:
    refusal = "from fusec import FusecError; raise FusecError('not this one')"
    with pytest.raises(FusecError, match="not this one"):
        compile_all(HERE, tasks(entries, refusal), 1)
    (staging,) = entries.iterdir()
    assert (staging / "k0.py").read_text() == refusal
    compile_all(HERE, tasks(entries, "pass"), 1)
    assert [p.name for p in entries.iterdir()] == ["0"]


def test_an_environment_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("NUMBA_OPT", "NUMBA_CUDA_FASTMATH", "NUMBAPRO_X", "PYTHONOPTIMIZE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    found = pool.environment()
    assert not [n for n in found if n.startswith("NUMBA") or n == "PYTHONOPTIMIZE"]
    assert found["PYTHONPATH"] == found["LD_LIBRARY_PATH"] == str(tmp_path)


def test_what_is_set_for_numba_changes_no_kernel(
    entries: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Nor what lies in the working folder: Numba reads a configuration there, Python modules."""
    from tests.codegen.test_cache import SOURCE

    kernel = KernelSource("k", SOURCE.format(value=5), 0)
    build((kernel,))
    (plain,) = entries.glob("*/kernel.o")
    wanted = plain.read_bytes()
    plain.unlink()
    for name, value in {"DISABLE_JIT": "1", "OPT": "0", "DEBUG": "1", "CPU_NAME": "x"}.items():
        monkeypatch.setenv(f"NUMBA_{name}", value)
    monkeypatch.setenv("PYTHONINSPECT", "1")
    (tmp_path / ".numba_config.yaml").write_text("opt: 0\ndisable_jit: 1\n")
    (tmp_path / "numba.py").write_text("raise SystemExit('the wrong numba')")
    monkeypatch.chdir(tmp_path)
    build((kernel,))
    assert plain.read_bytes() == wanted


def processes_of(cache: Path) -> list[int]:
    """Processes that have this cache in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"FUSEC_CACHE_DIR={cache}\0".encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
@pytest.mark.usefixtures("signals_heard")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_whatever_ends_it_ends_its_processes(entries: Path, number: signal.Signals) -> None:
    """Also those that a compiler started, as ptxas is."""
    child = "import subprocess; (folder / 'begun').touch(); subprocess.run(['sleep', '60'])"
    script = (
        "import sys\nfrom pathlib import Path\nfrom tests.codegen.test_pool import *\n"
        f"compile_all(HERE, tasks(Path({str(entries)!r}), {child!r}, {child!r}), 2)"
    )
    running = subprocess.Popen(
        [sys.executable, "-c", script],
        stderr=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    while len(list(entries.glob("*.*/begun"))) < 2:
        assert running.poll() is None
        time.sleep(0.02)
    assert len(processes_of(entries.parent)) >= 3
    start = time.monotonic()
    running.send_signal(number)
    running.communicate(timeout=60)
    while processes_of(entries.parent) and time.monotonic() - start < 20:
        time.sleep(0.02)
    assert processes_of(entries.parent) == []
    assert time.monotonic() - start < 10
    compile_all(HERE, tasks(entries, "pass"), 1)
    assert [p.name for p in entries.iterdir()] == ["0"]  # what a kill left is swept


def test_no_process_to_be_had(entries: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(entries / "python"))
    with pytest.raises(FusecError, match="no compiler process can be started: No such file"):
        compile_all(HERE, tasks(entries, "pass"), 1)
    assert os.listdir(entries.parent) == [] if entries.parent.exists() else True
