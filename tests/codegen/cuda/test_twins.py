"""The NumPy twins against exact arithmetic, and a whole kernel run through them."""

import struct
from fractions import Fraction

import numpy as np
import pytest

from fusec.codegen.cuda.instructions import TABLE
from fusec.codegen.cuda.toolchain import CudaKernel
from fusec.codegen.cuda.twins import Launch
from fusec.codegen.cuda.twins_arithmetic import ARITHMETIC
from tests.codegen.cuda.kernels import SCALE
from tests.random_numbers import random_numbers

RNG = random_numbers(7)


def words(*shape: int) -> np.ndarray:
    return RNG.integers(0, 2**32, shape, dtype=np.uint32)


def test_every_instruction_has_a_twin() -> None:
    assert set(TABLE) <= set(Launch(1, 32).functions)


def test_fma_rounds_once() -> None:
    a, b, c = (RNG.normal(0, 1, 3000).astype(np.float32) for _ in range(3))
    c[:1000] = -(a[:1000] * b[:1000])  # cancellation: only an exact product leaves the right rest
    c[1000:2000] *= np.float32(2.0**-24)
    for x, y, z, got in zip(a, b, c, ARITHMETIC["fma"](a, b, c), strict=True):
        exact = Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z))
        around = [
            np.nextafter(got, np.float32(-np.inf)),
            got,
            np.nextafter(got, np.float32(np.inf)),
        ]
        distances = [abs(Fraction(float(value)) - exact) for value in around]
        assert distances[1] == min(distances)


def test_prmt_follows_the_ptx_reference() -> None:
    a, b, selector = words(500), words(500), words(500)
    for x, y, s, got in zip(a, b, selector, ARITHMETIC["prmt"](a, b, selector), strict=True):
        pool = struct.pack("<II", x, y)
        expected = bytes(
            (0xFF if pool[n & 7] & 0x80 else 0) if n & 8 else pool[n & 7]
            for n in ((int(s) >> (4 * k)) & 15 for k in range(4))
        )
        assert struct.pack("<I", got) == expected


@pytest.mark.parametrize(("name", "second"), [("dp4a_ss", "4b"), ("dp4a_su", "4B")])
def test_dp4a_sums_four_products(name: str, second: str) -> None:
    a, b = words(500), words(500)
    c = RNG.integers(-1000, 1000, 500, dtype=np.int32)
    for x, y, z, got in zip(a, b, c, ARITHMETIC[name](a, b, c), strict=True):
        left, right = struct.unpack("4b", x.tobytes()), struct.unpack(second, y.tobytes())
        assert got == z + sum(p * q for p, q in zip(left, right, strict=True))


def test_conversions_match_struct() -> None:
    values = np.array([0.1, -2.5, 65504, 6e-8, 3.14159], np.float32)
    bits = ARITHMETIC["f32_to_half"](values)
    expected = [struct.unpack("<H", struct.pack("<e", value))[0] for value in values]
    assert bits.tolist() == expected
    packed = ARITHMETIC["pack_halves"](values, values[::-1])
    assert (packed >> 16).tolist() == expected[::-1]
    wanted = [struct.unpack("<e", struct.pack("<H", half))[0] for half in expected[::-1]]
    assert ARITHMETIC["high_half_to_f32"](packed).tolist() == wanted
    odd = np.array([2.5, -3.5, 1e20, -1e20, np.nan], np.float32)
    assert ARITHMETIC["f32_to_s32"](odd).tolist() == [2, -4, 2**31 - 1, -(2**31), 0]


def test_shuffles_stay_inside_a_warp() -> None:
    lanes = np.broadcast_to(np.arange(64, dtype=np.uint32), (2, 64))
    assert ARITHMETIC["shuffle_xor_u32"](lanes, 5)[0].tolist() == [n ^ 5 for n in range(64)]
    down = ARITHMETIC["shuffle_down_u32"](lanes, 3)[1].tolist()
    assert down == [n + 3 if n % 32 < 29 else n for n in range(64)]
    source = (lanes * 7) & np.uint32(31)
    given = ARITHMETIC["shuffle_from_u32"](lanes, source)[0].tolist()
    assert given == [n // 32 * 32 + (n * 7) % 32 for n in range(64)]
    assert ARITHMETIC["warp_max_u32"](lanes)[0].tolist() == [31] * 32 + [63] * 32


@pytest.mark.parametrize("k", [16, 32])
@pytest.mark.parametrize(("name", "kind"), [("s8", np.int8), ("su", np.uint8)])
def test_mma_is_a_matrix_product_in_fragments(name: str, kind: type, k: int) -> None:
    a = RNG.integers(-128, 128, (16, k), dtype=np.int8)
    b = RNG.integers(np.iinfo(kind).min, np.iinfo(kind).max + 1, (k, 8), dtype=kind)
    a[:, 0], b[0] = -128, np.iinfo(kind).max  # the extremes are there
    c = RNG.integers(-999, 999, (16, 8), dtype=np.int32)
    lane = np.arange(32)
    g, t = lane // 4, lane % 4
    a_words, b_words = a.view(np.uint32), np.ascontiguousarray(b.T).view(np.uint32)
    fragments = [a_words[g + 8 * (n % 2), t + 4 * (n // 2)][None] for n in range(k // 8)]
    fragments += [b_words[g, t + 4 * n][None] for n in range(k // 16)]
    fragments += [c[g + 8 * (n // 2), 2 * t + n % 2][None] for n in range(4)]
    entry = TABLE[f"mma_{name}_16x8x{k}"]
    assert (len(entry.arguments), len(entry.returns)) == (len(fragments), 4)
    assert f"m16n8k{k}.row.col.s32.s8.{'u8' if name == 'su' else 's8'}.s32" in entry.mnemonic
    d = a.astype(np.int32) @ b.astype(np.int32) + c
    for n, got in enumerate(ARITHMETIC[entry.name](*fragments)):
        assert np.array_equal(got[0], d[g + 8 * (n // 2), 2 * t + n % 2])


def test_ldmatrix_hands_out_rows_of_four_matrices() -> None:
    launch = Launch(1, 32)
    base = launch.functions["shared_bytes"](512)
    rows = words(32, 4)  # row r of matrix r // 8, eight halves in four words
    lane = np.arange(32, dtype=np.uint32)[None]
    launch.functions["store_shared_u32x4"](base + lane * 16, *(rows[:, n][None] for n in range(4)))
    for n, got in enumerate(launch.functions["load_matrix_x4"](base + lane * 16)):
        expected = [rows[8 * n + k // 4, k % 4] for k in range(32)]
        assert got[0].tolist() == expected


def test_a_kernel_runs_as_it_is_emitted() -> None:
    x = RNG.normal(size=200).astype(np.float32)
    y = np.full(256, np.nan, np.float32)
    kernel = CudaKernel(
        SCALE.name,
        SCALE.source.replace("i if inside else 0", "select_u32(inside, i, 0)").replace(
            "load_f32,", "load_f32, select_u32,"
        ),
        SCALE.signature,
        SCALE.threads,
    )
    Launch(4, 64).run(kernel, x, y, 200, np.float32(3))
    assert np.array_equal(y[:200], x * np.float32(3) + np.float32(1.5))
    assert np.isnan(y[200:]).all()


def test_a_read_outside_an_array_is_caught() -> None:
    launch = Launch(1, 32)
    with pytest.raises(IndexError, match="outside the array"):
        launch.run(
            CudaKernel(
                "reader",
                "from fusec.codegen.cuda.device import at, load_u32, thread_index\n"
                "def reader(x):\n    load_u32(at(x, thread_index()))\n",
                ("u32*",),
                32,
            ),
            words(31),
        )


def test_a_thread_reads_from_the_pointer_that_it_chose() -> None:
    x, y = words(96), words(96)
    out = np.zeros((3, 32), np.uint32)
    source = """
from numba import uint32
from fusec.codegen.cuda.device import at, load_u32, load_u32x2, select_pointer, store_u32
from fusec.codegen.cuda.device import thread_index
def chooser(x, y, out):
    t = thread_index()
    one = select_pointer(uint32(t & uint32(1)) == uint32(0), x, at(y, uint32(8)))
    store_u32(at(out, t), load_u32(at(one, t)))
    two = at(select_pointer(t < uint32(9), at(x, uint32(4)), one), uint32(t * 2))
    first, second = load_u32x2(two)
    store_u32(at(out, uint32(t + uint32(32))), first)
    store_u32(at(out, uint32(t + uint32(64))), second)
"""
    Launch(1, 32).run(CudaKernel("chooser", source, ("u32*",) * 3, 32), x, y, out)
    t = np.arange(32)

    def one(index: np.ndarray) -> np.ndarray:
        return np.where(t % 2 == 0, x[index], y[index + 8])

    assert out[0].tolist() == one(t).tolist()
    for n in (0, 1):
        index = 2 * t + n
        wanted = np.where(t < 9, x[index + 4], one(index))
        assert out[1 + n].tolist() == wanted.tolist()


def test_a_copy_of_nothing_is_a_copy_of_zeros() -> None:
    """Of where nothing is to be copied from, only the address is there."""
    launch = Launch(1, 32)
    call = launch.functions
    base, lane = call["shared_bytes"](512), np.arange(32, dtype=np.uint32)[None]
    x = words(32 * 4)
    whole = launch._argument("u32*", x)
    inside = lane < 20
    into = base + lane * 16
    call["store_shared_u32x4"](into, *(lane + 1000 * n for n in range(4)))  # not zeros by luck
    call["copy_async_16_or_zeros"](
        into, call["at"](whole, np.where(inside, lane * 4, 10**6)), inside
    )
    call["copy_async_commit"]()
    call["copy_async_wait_0"]()
    found = np.stack([n[0] for n in call["load_shared_u32x4"](into)], axis=-1)
    assert np.array_equal(found[:20], x.reshape(32, 4)[:20])
    assert not found[20:].any()
    call["copy_async_16_if"](into, call["at"](whole, lane * 4), ~inside)  # leaves the others alone
    call["copy_async_commit"]()
    call["copy_async_wait_0"]()
    found = np.stack([n[0] for n in call["load_shared_u32x4"](into)], axis=-1)
    assert np.array_equal(found, x.reshape(32, 4))


def test_cluster_addresses_reach_the_other_blocks() -> None:
    launch = Launch(4, 32, cluster=2)
    call = launch.functions
    base = call["shared_bytes"](128)
    lane = call["thread_index"]()
    call["store_shared_u32"](base + lane * 4, call["block_index"]() * 100 + lane)
    other = call["cluster_rank"]() ^ np.uint32(1)
    got = call["load_cluster_u32"](call["map_shared"](base + lane * 4, other))
    assert got[:, 5].tolist() == [105, 5, 305, 205]


def test_atomics_keep_every_lane() -> None:
    counter, best = np.zeros(1, np.uint32), np.zeros(1, np.uint64)
    launch = Launch(2, 32)
    call = launch.functions
    at = lambda array, kind: launch._argument(kind, array)  # noqa: E731
    before = call["atomic_add_u32"](at(counter, "u32*"), 2)
    assert counter[0] == 128 and sorted(before.ravel().tolist()) == list(range(0, 128, 2))
    call["atomic_max_u64"](
        at(best, "u64*"), call["thread_index"]().astype(np.uint64) << np.uint64(32)
    )
    assert best[0] == 31 << 32


def test_a_range_that_the_compiler_takes_for_granted_is_checked() -> None:
    below = Launch(1, 32).functions["below"]
    assert below(np.arange(32, dtype=np.uint32), 32)[-1] == 31
    with pytest.raises(ValueError, match="expected numbers below 31, found 31"):
        below(np.arange(32, dtype=np.uint32), 31)


def test_biased_sums_are_joined_as_whole_numbers_are() -> None:
    """Sums of `mma` that start at floats, and those of `dp4a`: the same float of three digits."""
    largest = 32 * 128 * 255
    sums = RNG.integers(-largest, largest + 1, (3, 480), dtype=np.int32)
    ends = np.meshgrid(*[[-largest, 0, largest]] * 3)
    sums = np.hstack([sums, np.reshape(ends, (3, -1)).astype(np.int32)])
    source = """
from numba import int32
from fusec.codegen.cuda.device import at, load_u32, store_f32, thread_index
from fusec.codegen.cuda.lib.gemm import BIASED, BIASED_BY_256, of_digits
from fusec.codegen.cuda.lib.products import LOW, MIDDLE, from_digits
def join(low, middle, high, biased, whole):
    t = thread_index()
    a, b, c = (int32(load_u32(at(p, t))) for p in (low, middle, high))
    found = of_digits(int32(a + BIASED), int32(b + BIASED), int32(c + BIASED_BY_256))
    store_f32(at(biased, t), found)
    store_f32(at(whole, t), from_digits(int32(a + LOW), int32(b + MIDDLE), c))
"""
    n = sums.shape[1]
    biased, whole = np.zeros(n, np.float32), np.zeros(n, np.float32)
    kernel = CudaKernel("join", source, ("u32*",) * 3 + ("f32*",) * 2, n)
    Launch(1, n).run(kernel, *sums.astype(np.int32).view(np.uint32), biased, whole)
    assert biased.tobytes() == whole.tobytes()
    exact = 65536 * sums[2].astype(object) + 256 * sums[1].astype(object) + sums[0]
    assert np.allclose(whole, exact.astype(float), rtol=2e-7)
