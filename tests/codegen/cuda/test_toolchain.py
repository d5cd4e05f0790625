"""Source to cubin: the report, the cache under attack, parallel processes, and refusals."""

import dataclasses
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fusec.codegen.cuda import arch, build, toolchain
from fusec.codegen.cuda.build import compile_kernel, compile_many, entry_of
from fusec.codegen.cuda.toolchain import CudaKernel, canonical, compile_source
from fusec.errors import FusecError
from tests.codegen.cuda.kernels import SCALE


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FUSEC_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def numbered(count: int) -> list[CudaKernel]:
    return [
        dataclasses.replace(SCALE, source=SCALE.source.replace("1.5", f"{n}.25"))
        for n in range(count)
    ]


@pytest.mark.cuda
@pytest.mark.parametrize("name", arch.ARCHS)
def test_a_kernel_becomes_machine_code_for(name: str) -> None:
    cubin = compile_source(SCALE, arch.find_arch(name))
    assert cubin.data[:4] == b"\x7fELF"
    assert (cubin.name, cubin.arch) == ("scale", name)
    assert 0 < cubin.registers < 64
    assert cubin.spill_stores == cubin.spill_loads == cubin.static_shared == 0


@pytest.mark.cuda
def test_products_and_sums_stay_apart_and_names_are_stable() -> None:
    ptx = compile_source(SCALE, arch.find_arch("sm_90a")).ptx
    assert "mul.rn.f32" in ptx and "add.rn.f32" in ptx
    assert "fma" not in ptx and ".f64" not in ptx
    assert ".visible .entry scale(" in ptx
    assert "NumbaEnv" not in ptx and "_ZN" not in ptx


def test_canonical_ptx_does_not_depend_on_the_process() -> None:
    def raw(symbol: str) -> str:
        return (
            f"// made at noon\n.common .global .align 8 .u64 _ZN8NumbaEnv{symbol};\n"
            f".visible .entry {symbol}(.param .u64 {symbol}_param_0)\n"
        )

    assert canonical(raw("_Z1k_1"), "_Z1k_1", "k") == canonical(raw("_Z1k_22"), "_Z1k_22", "k")


@pytest.mark.cuda
def test_spills_and_shared_memory_are_reported() -> None:
    lines = ["t = thread_index()", "s = shared_bytes(2048)"]
    lines += [f"v{n} = load_u32(at(x, uint32(t + {n * 32})))" for n in range(100)]
    lines += ["barrier()"]  # all values live at once
    lines += [f"store_shared_u32(s + t * 4, v{n})\n    barrier()" for n in range(100)]
    source = (
        "from numba import uint32\nfrom fusec.codegen.cuda.device import "
        "at, barrier, load_u32, shared_bytes, store_shared_u32, thread_index\n\n\n"
        "def hungry(x):\n" + "".join(f"    {line}\n" for line in lines)
    )
    hungry = CudaKernel("hungry", source, ("u32*",), 1024)
    cubin = compile_source(hungry, arch.find_arch("sm_90a"))
    assert cubin.static_shared >= 2048
    assert cubin.registers <= 64  # 1024 threads share 65,536 registers
    assert cubin.spill_stores > 0 and cubin.spill_loads > 0


@pytest.mark.cuda
def test_room_for_other_blocks_costs_no_spills() -> None:
    """40 sums that live side by side: too many for two blocks of 1,024 threads, or 24 registers."""
    lines = [f"    s{k} = load_f32(at(x, uint32(thread_index() + {k})))" for k in range(40)]
    lines += ["    for turn in range(int32(load_f32(x))):"]
    lines += [f"        s{k} = s{k} * s{(k + 1) % 40}" for k in range(40)]
    lines += ["    total = " + " + ".join(f"s{k}" for k in range(40))]
    lines += ["    store_f32_if(at(y, thread_index()), total, thread_index() < uint32(9))"]
    source = "from numba import int32, uint32\n"
    source += "from fusec.codegen.cuda.device import at, load_f32, store_f32_if, thread_index\n\n\n"
    source += "def sums(x, y):\n" + "\n".join(lines) + "\n"
    plain = CudaKernel("sums", source, ("f32*", "f32*"), threads=512, min_blocks=1, grid=1)
    for kernel in (
        dataclasses.replace(plain, min_blocks=4),
        dataclasses.replace(plain, registers=24),
    ):
        cubin = compile_source(kernel, arch.find_arch("sm_90a"))
        assert cubin.spill_stores == cubin.spill_loads == 0 and cubin.registers > 40
    fits = compile_source(dataclasses.replace(plain, min_blocks=2), arch.find_arch("sm_90a"))
    assert fits.registers <= 64 and ".minnctapersm 2" in fits.ptx


@pytest.mark.cuda
def test_the_cache_is_used_and_needs_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    first = compile_kernel(SCALE, "sm_90a")
    monkeypatch.setattr(build, "_compile", pytest.fail)
    assert compile_kernel(SCALE, "sm_90a") == first


def test_what_decides_the_code_decides_the_entry() -> None:
    changes = {"threads": 128, "min_blocks": 2, "source": SCALE.source + "\n", "name": "other"}
    changed = [dataclasses.replace(SCALE, **{field: value}) for field, value in changes.items()]
    entries = {entry_of(kernel, "sm_90a") for kernel in [SCALE, *changed]}
    assert len(entries | {entry_of(SCALE, "sm_80")}) == 6


@pytest.mark.cuda
@pytest.mark.parametrize("damage", ["truncate", "garbage", "empty", "no report"])
def test_a_torn_entry_is_built_again(damage: str) -> None:
    whole = compile_kernel(SCALE, "sm_90a")
    entry = entry_of(SCALE, "sm_90a")
    cubin = entry / "scale.cubin"
    if damage == "truncate":
        cubin.write_bytes(whole.data[:-100])
    elif damage == "garbage":
        cubin.write_bytes(whole.data[:500] + b"\0" * 8 + whole.data[508:])
    elif damage == "empty":
        cubin.write_bytes(b"")
    else:
        (entry / "report.json").unlink()
    assert compile_kernel(SCALE, "sm_90a") == whole
    assert cubin.read_bytes() == whole.data


@pytest.mark.cuda
def test_two_processes_compile_the_same_kernels_at_once() -> None:
    script = (
        "import sys; sys.path.insert(0, '.')\n"
        "from tests.codegen.cuda.test_toolchain import numbered\n"
        "from fusec.codegen.cuda.build import compile_many\n"
        "import hashlib\n"
        "for c in compile_many(numbered(2), 'sm_90a', workers=1):\n"
        "    print(hashlib.sha256(c.data).hexdigest())\n"
    )
    root = Path(__file__).parents[3]
    both = [
        subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, cwd=root)
        for _ in range(2)
    ]
    outputs = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert outputs[0] == outputs[1] and len(outputs[0].split()) == 2
    folder = entry_of(SCALE, "sm_90a").parent
    assert len(list(folder.iterdir())) == 2  # no staging folder is left behind


@pytest.mark.cuda
def test_many_kernels_report_progress_and_keep_their_order() -> None:
    kernels = [*numbered(3), numbered(1)[0]]
    heard: list[str] = []
    cubins = compile_many(kernels, "sm_90a", progress=heard.append, workers=2)
    assert heard == ["scale"] * 3  # equal kernels are compiled once
    assert cubins[0] == cubins[3]
    assert len({cubin.data for cubin in cubins}) == 3
    start = time.monotonic()
    assert compile_many(kernels, "sm_90a") == cubins
    assert time.monotonic() - start < 1


def test_an_unknown_architecture_lists_the_known() -> None:
    with pytest.raises(FusecError, match=r"unknown architecture 'sm_90'.*sm_80.*sm_90a.*sm_120a"):
        compile_kernel(SCALE, "sm_90")


def test_without_the_extra_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain, "find_ptxas", lambda: None)
    with pytest.raises(FusecError, match=r"pip install 'fusec\[cuda\]'"):
        compile_kernel(SCALE, "sm_90a")


@pytest.mark.cuda
def test_source_that_numba_refuses_names_the_kernel() -> None:
    broken = dataclasses.replace(SCALE, source=SCALE.source.replace("float32(1.5)", "'text'"))
    with pytest.raises(FusecError, match="kernel scale: numba-cuda refused the source"):
        compile_kernel(broken, "sm_90a")


@pytest.mark.cuda
def test_what_ptxas_refuses_names_the_kernel_and_the_reason() -> None:
    hopper_only = CudaKernel(
        "early",
        "from fusec.codegen.cuda.device import griddep_wait\ndef early(x):\n    griddep_wait()\n",
        ("f32*",),
        32,
    )
    with pytest.raises(FusecError, match=r"kernel early: ptxas failed for sm_80: .*griddepcontrol"):
        compile_kernel(hopper_only, "sm_80")


@pytest.mark.cuda
def test_a_failure_stops_the_others_without_hanging() -> None:
    broken = dataclasses.replace(SCALE, source="def scale(x, y, n, f):\n    undefined(x)\n")
    with pytest.raises(FusecError, match="kernel scale"):
        compile_many([broken, *numbered(1)], "sm_90a", workers=2)


def test_native_without_a_driver_names_the_cpu_target() -> None:
    driver = pytest.importorskip("cuda.bindings.driver")
    try:
        found = driver.cuInit(0)[0] == driver.CUresult.CUDA_SUCCESS
    except RuntimeError:
        found = False
    if found:
        assert arch.native_arch().name in arch.ARCHS
    else:
        with pytest.raises(FusecError, match=r"target native or cuda \(.*\): .*use target cpu"):
            arch.native_arch()


@pytest.mark.parametrize(
    ("capability", "name"),
    [((8, 0), "sm_80"), ((8, 7), "sm_86"), ((9, 0), "sm_90a"), ((12, 0), "sm_120a")],
)
def test_a_gpu_gets_the_newest_code_it_runs(capability: tuple[int, int], name: str) -> None:
    assert arch.arch_for(*capability).name == name


@pytest.mark.parametrize("capability", [(7, 5), (10, 3), (13, 0)])
def test_a_gpu_without_matching_code_is_refused(capability: tuple[int, int]) -> None:
    with pytest.raises(FusecError, match=r"compute capability .*--target cpu"):
        arch.arch_for(*capability)
