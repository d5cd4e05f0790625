"""The kernel cache: sealed entries, damage, and two processes at once."""

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fusec.codegen import cache
from fusec.codegen.cache import cache_root, content_key, intact, leave, publish, stage, sweep
from fusec.codegen.cpu.build import build
from fusec.codegen.kernel import KernelSource
from fusec.errors import FusecError
from tests.params import slow_but

SOURCE = '''"""A kernel that writes where it is told."""

from numba import cfunc, int32, int64, types

from fusec.codegen.cpu.pointers import ptr_i64


@cfunc(types.void(types.CPointer(int64), int32, int32))
def kernel(args, thread, threads):
    ptr_i64(args[3])[0] = {value}
'''


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FUSEC_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def call(addresses: dict[str, int]) -> int:
    import ctypes

    import numpy as np

    out = np.zeros(1, np.int64)
    args = np.array([1, 0, 0, out.ctypes.data], np.int64)
    kernel = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int32, ctypes.c_int32)
    kernel(addresses["kernel"])(args.ctypes.data, 0, 1)
    return int(out[0])


def test_an_entry_is_complete_or_absent(own_cache):
    entry = own_cache / "x"
    assert not intact(entry)
    staging = stage(entry)
    (staging / "a").write_text("1")
    assert not intact(entry)
    publish(staging, entry)
    assert intact(entry)
    assert not staging.exists()
    (entry / "a").write_text("2")
    assert not intact(entry)


def test_publishing_twice_keeps_the_first(own_cache):
    entry = own_cache / "x"
    for text in "12":
        staging = stage(entry)
        (staging / "a").write_text(text)
        publish(staging, entry)
    assert (entry / "a").read_text() == "1"
    assert [p.name for p in own_cache.iterdir()] == ["x"]


def test_keys_differ_by_part():
    assert content_key("ab", "c") != content_key("a", "bc")


@pytest.mark.parametrize("damage", slow_but(["truncate"], ["truncate", "delete", "manifest"]))
def test_a_damaged_entry_is_built_again(own_cache, damage):
    source = KernelSource("k", SOURCE.format(value=41), 0)
    told = []
    assert call(build((source,), told.append)["k"]) == 41
    (entry,) = (own_cache / "cpu").iterdir()
    victim = entry / ("manifest.json" if damage == "manifest" else "kernel.o")
    if damage == "delete":
        victim.unlink()
    else:
        victim.write_bytes(victim.read_bytes()[:100])
    assert not intact(entry)
    assert call(build((source,), told.append)["k"]) == 41
    assert intact(entry)
    assert told == ["k", "k"]


@pytest.mark.slow
def test_two_processes_building_the_same_kernel_agree(own_cache):
    code = (
        "from tests.codegen.test_cache import *\n"
        "print(call(build((KernelSource('k', SOURCE.format(value=7), 0),))['k']))"
    )
    racers = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    assert [r.communicate(timeout=120)[0] for r in racers] == ["7\n"] * 3
    assert [intact(entry) for entry in (own_cache / "cpu").iterdir()] == [True]


def test_a_kernel_that_does_not_compile_is_named(own_cache):
    broken = KernelSource("oops", SOURCE.format(value="no_such_name"), 0)
    with pytest.raises(FusecError, match="kernel oops does not compile"):
        build((broken,))


def test_a_cache_that_cannot_be_written_says_so(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FUSEC_CACHE_DIR", str(tmp_path / "file" / "cache"))
    with pytest.raises(FusecError, match=r"Not a directory; set FUSEC_CACHE_DIR to another one"):
        stage(cache_root() / "x")


@pytest.mark.parametrize("when", ["sealing", "moving"])
def test_a_disk_that_fills_up_leaves_nothing_half_written(own_cache, monkeypatch, when):
    def full(self, *_):
        raise OSError(errno.ENOSPC, "No space left on device")

    staging = stage(own_cache / "x")
    (staging / "a").write_text("1")
    monkeypatch.setattr(Path, "write_text" if when == "sealing" else "rename", full)
    with pytest.raises(FusecError) as refused:
        publish(staging, own_cache / "x")
    assert str(refused.value) == (
        f"{own_cache}: expected a writable cache folder, found: No space left on device; "
        f"set FUSEC_CACHE_DIR to another one"
    )
    assert list(own_cache.iterdir()) == []


def test_only_folders_that_nobody_works_in_are_swept(own_cache):
    mine, left = stage(own_cache / "x"), stage(own_cache / "y")
    publish(stage(own_cache / "z"), own_cache / "z")
    leave(left)
    code = "import sys; from fusec.codegen.cache import *; print(stage(Path(sys.argv[1])).name)"
    name = subprocess.check_output([sys.executable, "-c", code, own_cache / "x"], text=True)
    assert (own_cache / name.strip()).is_dir()  # whose process has ended
    sweep(own_cache)
    assert sorted(own_cache.iterdir()) == sorted([mine, own_cache / "z"])


@pytest.mark.parametrize(("age", "there"), [(3600, True), (90_000, False)])
def test_without_locks_staging_folders_go_by_their_age(own_cache, monkeypatch, age, there):
    monkeypatch.setattr(cache, "fcntl", None)
    staging = stage(own_cache / "x")
    os.utime(staging, (time.time() - age,) * 2)
    sweep(own_cache)
    assert staging.exists() == there


def test_others_may_read_what_one_user_compiled(own_cache):
    publish(stage(own_cache / "x"), own_cache / "x")
    (own_cache / "like any").mkdir()
    assert (own_cache / "x").stat().st_mode == (own_cache / "like any").stat().st_mode


def test_a_relative_cache_folder_is_below_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FUSEC_CACHE_DIR", "kernels")
    assert cache_root() == tmp_path / "kernels"
    assert call(build((KernelSource("k", SOURCE.format(value=3), 0),))["k"]) == 3


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch):
    monkeypatch.delenv("FUSEC_CACHE_DIR")
    monkeypatch.setattr(cache.platformdirs, "user_cache_dir", lambda _: "~/.cache/fusec")
    with pytest.raises(FusecError, match="no home folder for the cache: set FUSEC_CACHE_DIR"):
        cache_root()
