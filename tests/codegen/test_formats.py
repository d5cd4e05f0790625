"""NumPy decoding of every format against gguf-py's."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

from fusec.codegen import formats
from fusec.errors import FusecError
from fusec.ir.dtypes import dtype
from tests.codegen.blocks import SCALES

NAMES = sorted(formats.FORMATS)
GGML = {
    *("f32", "f16", "bf16", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q2_k", "q3_k", "q4_k", "q5_k"),
    *("q6_k", "iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs", "iq3_s", "iq4_nl"),
    *("iq4_xs", "tq1_0", "tq2_0", "mxfp4", "nvfp4"),
}
QUANTIZED = sorted(SCALES)


def theirs(name: str, data: NDArray[np.uint8]) -> NDArray[np.float32]:
    with np.errstate(all="ignore"):
        return gguf.quants.dequantize(data, gguf.GGMLQuantizationType[name.upper()])


def assert_same_floats(ours: NDArray[np.float32], other: NDArray[np.float32]) -> None:
    """Equal bits, signs of zero included; NaN where NaN is."""
    assert ours.dtype == np.float32
    assert ours.shape == other.shape
    nan = np.isnan(other)
    assert np.array_equal(np.isnan(ours), nan)
    assert np.array_equal(ours.view(np.uint32)[~nan], other.view(np.uint32)[~nan])


def test_every_type_of_released_files_is_there() -> None:
    assert set(NAMES) == GGML


@pytest.mark.parametrize("name", NAMES)
def test_random_bytes_decode_to_the_same_bits(name: str) -> None:
    weights = formats.get(name)
    rng = np.random.default_rng(1)
    size = (500, 4 * weights.dtype.block_bytes)
    data = rng.integers(0, 256, size, dtype=np.uint8)
    assert_same_floats(weights.decode(data), theirs(name, data))


@pytest.mark.parametrize("name", ["f16", "bf16"])
def test_every_bit_pattern_of_a_short_float(name: str) -> None:
    data = np.arange(1 << 16, dtype=np.uint16).view(np.uint8).reshape(16, -1)
    assert_same_floats(formats.get(name).decode(data), theirs(name, data))


@pytest.mark.slow
@pytest.mark.parametrize("name", QUANTIZED)
def test_every_scale(name: str) -> None:
    """All 65536 values of each f16 scale: zeros of both signs, subnormals, infinity, NaN."""
    weights = formats.get(name)
    scales = np.arange(1 << 16, dtype=np.uint16).view(np.uint8).reshape(-1, 2)
    block = np.random.default_rng(2).integers(0, 256, weights.dtype.block_bytes, dtype=np.uint8)
    for offset in SCALES[name]:
        data = np.tile(block, (1 << 14, 1))
        for part in range(4):
            data[:, offset : offset + 2] = scales[part << 14 : (part + 1) << 14]
            assert_same_floats(weights.decode(data), theirs(name, data))


@pytest.mark.parametrize(("name", "places"), [("mxfp4", (0,)), ("nvfp4", (0, 1, 2, 3))])
def test_every_scale_of_a_byte(name: str, places: tuple[int, ...]) -> None:
    """Largest, zero, subnormal, and what would be NaN."""
    weights = formats.get(name)
    random = np.random.default_rng(3)
    data = random.integers(0, 256, (256, weights.dtype.block_bytes), dtype=np.uint8)
    for place in places:
        data[:, place] = np.roll(np.arange(256), place)
    assert_same_floats(weights.decode(data), theirs(name, data))


@pytest.mark.slow
def test_every_scale_that_is_spread_over_a_block() -> None:
    """IQ1_M keeps a nibble of its f16 in each of four words."""
    weights = formats.get("iq1_m")
    data = np.random.default_rng(4).integers(0, 256, (1 << 16, 56), dtype=np.uint8)
    scale = np.arange(1 << 16)
    for word in range(4):
        nibble = (scale >> 4 * word & 15) << 4
        data[:, 49 + 2 * word] = data[:, 49 + 2 * word] & 15 | nibble
    assert_same_floats(weights.decode(data), theirs("iq1_m", data))


@pytest.mark.parametrize("name", QUANTIZED)
@pytest.mark.parametrize("byte", range(0, 256, 17))
def test_blocks_of_one_byte(name: str, byte: int) -> None:
    weights = formats.get(name)
    data = np.full((1, weights.dtype.block_bytes), byte, np.uint8)
    assert_same_floats(weights.decode(data), theirs(name, data))


@pytest.mark.parametrize("name", NAMES)
def test_sizes_are_ggmls(name: str) -> None:
    block, block_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name.upper()]]
    registered = dtype(name)
    assert (registered.block, registered.block_bytes) == (block, block_bytes)
    assert formats.get(name).row_bytes(512) == 512 // block * block_bytes


def test_a_read_only_strided_file_view_decodes() -> None:
    weights = formats.get("q8_0")
    data = np.random.default_rng(3).integers(0, 256, (4, 2, 34), dtype=np.uint8)
    data[:, :, 1] &= 0x3F
    view = data[::2].reshape(2, 68)
    view.flags.writeable = False
    assert_same_floats(weights.decode(view), theirs("q8_0", view))


def test_refusals_name_what_was_found() -> None:
    with pytest.raises(FusecError, match=r"unsupported weight format 'q9_9'.*iq4_nl"):
        formats.get("q9_9")
    with pytest.raises(FusecError, match=r"iq4_xs: .* multiple of 256 elements, found 576"):
        formats.get("iq4_xs").row_bytes(576)
    with pytest.raises(FusecError, match=r"q8_0: .* multiple of 34 bytes, found 33"):
        formats.get("q8_0").decode(np.zeros((1, 33), np.uint8))
