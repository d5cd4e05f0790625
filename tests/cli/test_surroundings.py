"""What is around the command: its streams, signals, home folder and the places it writes to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fusec import cli
from fusec.ir import gpus
from tests.command import fusec, refused

pytestmark = pytest.mark.xdist_group("cli")

RUN = ("--prompt-ids", "7,8", "-n", "3", "--temp", "0", "--ignore-eos")
NO_ROOM = "/dev/full"


def shell(command: str, **env: str | None) -> subprocess.CompletedProcess[str]:
    """A command line in which `fusec` is this one; None takes a variable out of the environment."""
    full = {k: v for k, v in (os.environ | env).items() if v is not None}
    line = command.replace("fusec", f"{sys.executable} -m fusec")
    return subprocess.run(line, shell=True, env=full, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_stream_is_like_one_that_nobody_is_at(tiny_model: Path, closed: str) -> None:
    ran = shell(f"fusec run {tiny_model} {' '.join(RUN)} {closed}")
    assert ran.returncode == 0
    assert "Traceback" not in ran.stderr
    assert bool(ran.stdout) == (" >" not in f" {closed}")
    assert bool(ran.stderr) == ("2>" not in closed)


@pytest.mark.slow
def test_a_conversation_without_a_standard_input_is_over(tiny_model: Path) -> None:
    ran = shell(f"fusec run {tiny_model} --chat -n 3 <&-")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists(NO_ROOM), reason="needs a device without room")
@pytest.mark.parametrize("command", ["run MODEL --prompt-ids 7 -n 3", "inspect MODEL", "--help"])
def test_a_full_disk_behind_standard_output_is_one_line(tiny_model: Path, command: str) -> None:
    ran = shell(f"fusec {command.replace('MODEL', str(tiny_model))} > {NO_ROOM}")
    assert (ran.returncode, ran.stderr) == (2, "error: No space left on device\n")


@pytest.mark.slow
def test_a_complaint_that_nobody_can_read_changes_no_exit_code() -> None:
    assert shell(f"fusec run nothing -p a 2> {NO_ROOM}").returncode == 2
    assert shell("fusec run nothing -p a 2>&-").returncode == 2


@pytest.mark.slow
def test_readers_that_go_away_early(tiny_model: Path) -> None:
    for command in (f"inspect {tiny_model}", "--help"):
        ran = shell(f"(fusec {command}; echo $? >&2) | true")
        assert ran.stderr in ("0\n", "1\n"), command


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.usefixtures("signals_heard")
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_signals_end_it_quietly_while_kernels_compile(
    tiny_model: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    running = subprocess.Popen(
        [sys.executable, "-m", "fusec", "compile", tiny_model, "-o", tmp_path / "out"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"FUSEC_CACHE_DIR": str(tmp_path / "cache")},
    )
    while not list(tmp_path.glob("cache/cpu/*.*/*.py")):
        assert running.poll() is None
        time.sleep(0.02)
    running.send_signal(number)
    start = time.monotonic()
    assert running.communicate(timeout=60) == ("", "")
    assert (running.returncode, time.monotonic() - start < 10) == (code, True)
    assert not list(tmp_path.glob("cache/cpu/*.*"))
    assert [p.name for p in tmp_path.iterdir()] == ["cache"]


def test_a_signal_that_is_ignored_stays_so() -> None:
    with pytest.MonkeyPatch.context() as patch:
        before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        patch.setattr(cli.streams, "finish", lambda: seen.append(signal.getsignal(signal.SIGHUP)))
        seen: list[object] = []
        try:
            assert fusec("--version").code == 0
        finally:
            signal.signal(signal.SIGHUP, before)
    assert seen == [signal.SIG_IGN]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (MemoryError(), "out of memory"),
        (MemoryError("Unable to allocate 8 GiB for\nan array"), "out of memory: Unable to "),
        (OSError(28, "No space left on device"), "No space left on device"),
        (OSError(2, "No such file", "x.gguf"), "x.gguf: No such file"),
        (OSError(2, "No such file", b"x.gguf"), "x.gguf: No such file"),
        (OSError("in words"), "in words"),
        (OSError(), "OSError"),
        (PermissionError(), "PermissionError"),
    ],
)
def test_errors_of_the_system_are_one_line(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, line: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("fusec.generate.open_runner", fail)
    assert refused("run", tiny_model, "-p", "a").startswith(line)


def test_memory_that_the_system_does_not_have(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import numpy as np

    def allocate(*_: object) -> object:
        return np.zeros(1 << 60, np.uint8)

    monkeypatch.setattr("fusec.backends.cpu.bind", allocate)
    assert "out of memory: Unable to allocate 1.00 EiB" in refused("run", tiny_model, "-p", "a")


# --- places ---------------------------------------------------------------------------------------


@pytest.fixture
def unreadable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder that the system lets nobody look into, also not the superuser."""
    folder = tmp_path / "config"
    (folder / "gpus").mkdir(parents=True)
    (folder / "gpus" / "x.json").write_text("{}")
    monkeypatch.setenv("FUSEC_CONFIG_DIR", str(folder))

    def guard(function: object) -> object:
        def guarded(path: Path, *args: object, **options: object) -> object:
            if path.is_relative_to(folder):
                raise PermissionError(13, "Permission denied", str(path))
            return function(path, *args, **options)  # type: ignore[operator]

        return guarded

    for name in ("iterdir", "glob", "read_text", "read_bytes", "stat", "open"):
        monkeypatch.setattr(Path, name, guard(getattr(Path, name)))
    return folder


def test_calibrations_that_may_not_be_read_count_as_absent(
    unreadable: Path, tiny_model: Path
) -> None:
    assert fusec("inspect", tiny_model, "--target", "sm_90a", "-O2").code == 0
    assert fusec("roofline", tiny_model, "--gpu", "h200", "-O", "2", "--json").code == 0


def test_one_calibration_that_may_not_be_read_hides_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gpus" / "a.json").mkdir(parents=True)  # reading it fails
    known = (Path(gpus.__file__).parent / "calibrated" / "nvidia-h200.json").read_text()
    (tmp_path / "gpus" / "b.json").write_text(known.replace("H200", "H200X"))
    monkeypatch.setenv("FUSEC_CONFIG_DIR", str(tmp_path))
    assert gpus.find("h200x").is_measured


def test_nobody_s_home_has_no_calibrations_and_keeps_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FUSEC_CONFIG_DIR", raising=False)
    monkeypatch.setattr(gpus.platformdirs, "user_config_dir", lambda _: "~/.config/fusec")
    monkeypatch.chdir(tmp_path)
    found = gpus.find("h200")
    data = {name: getattr(found, name) for name in gpus._NUMBERS}
    with pytest.raises(cli.FusecError, match="no home folder to keep it in: set FUSEC_CONFIG_DIR"):
        gpus.save(data)
    assert list(tmp_path.iterdir()) == []


def test_a_warm_cache_is_only_read(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    wanted = fusec("run", tiny_model, *RUN)

    def forbidden(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    for name in ("mkdir", "write_text", "write_bytes", "rename", "unlink", "touch"):
        monkeypatch.setattr(Path, name, forbidden)
    ran = fusec("run", tiny_model, *RUN)
    assert (ran.code, ran.out) == (0, wanted.out)
    monkeypatch.setenv("FUSEC_CACHE_DIR", str(tmp_path / "cold"))
    assert refused("run", tiny_model, *RUN) == (
        f"{tmp_path}/cold: expected a writable cache folder, found: Permission denied; "
        f"set FUSEC_CACHE_DIR to another one"
    )
    assert fusec("inspect", tiny_model, "--target", "sm_90a", "-O2").code == 0  # needs no cache
