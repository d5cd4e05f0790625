"""Encoders: read back by gguf-py, their error compared with scales found by brute force."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import IQ4_NL, dequantize
from gguf.quants import quantize as gguf_quantize

from fusec.codegen import formats
from fusec.codegen.formats.grids import grid_of
from fusec.errors import FusecError
from fusec.models import encode_grids
from fusec.models.quant_mix import MIXES, Mix
from fusec.models.quantize import BY_GGUF, ENCODERS, Search, quantize

Doubles = npt.NDArray[np.float64]
GRIDS = sorted(encode_grids.ENCODERS)
FINE = sorted(set(ENCODERS) - {*GRIDS, "q2_k", "q3_k", "nvfp4"})
UNEVEN = np.array(IQ4_NL.kvalues, np.float64)
SAMPLES: dict[str, Callable[[np.random.Generator], npt.NDArray[np.float64]]] = {
    "normal": lambda rng: rng.standard_normal((4, 512)),
    "laplace": lambda rng: rng.laplace(size=(4, 512)) * 0.02,
    "uniform": lambda rng: rng.uniform(-3, 3, (4, 512)),
    "heavy tails": lambda rng: rng.standard_t(3, (4, 512)),
    "one side": lambda rng: rng.standard_normal((4, 512)) + 2,
}


@pytest.fixture(params=SAMPLES)
def sample(request: pytest.FixtureRequest) -> npt.NDArray[np.float32]:
    return SAMPLES[request.param](np.random.default_rng(7)).astype(np.float32)


def decode(raw: npt.NDArray[np.uint8], dtype: str) -> Doubles:
    return dequantize(raw, GGMLQuantizationType[dtype.upper()]).astype(np.float64)


def error(x: npt.NDArray[np.float32], dtype: str, search: Search = "full") -> float:
    return float(((decode(quantize(x, dtype, search), dtype) - x) ** 2).sum())


def rounded_error(x: Doubles, scale: Doubles, levels: Doubles) -> Doubles:
    """Squared error of each block (last axis) when rounded to scale * levels."""
    ratio = np.divide(
        x, scale, out=np.zeros(np.broadcast_shapes(x.shape, scale.shape)), where=scale != 0
    )
    nearest = levels[np.searchsorted((levels[1:] + levels[:-1]) / 2, ratio)]
    return ((x - scale * nearest) ** 2).sum(-1)


def best_free_scale(x: npt.NDArray[np.float32], width: int, levels: Doubles) -> float:
    """The error left by the best of 3000 real-valued scales for each block of `width`."""
    blocks = x.reshape(-1, width).astype(np.float64)
    reach = np.abs(blocks).max(1, keepdims=True) / np.abs(levels).max()
    least = np.full(len(blocks), np.inf)
    for stretch in np.linspace(0.6, 1.5, 1500):
        for scale in (reach / stretch, -reach / stretch):
            least = np.minimum(least, rounded_error(blocks, scale, levels))
    return float(least.sum())


def test_iq4_nl_is_scale_optimal(sample: npt.NDArray[np.float32]) -> None:
    assert error(sample, "iq4_nl") <= 1.003 * best_free_scale(sample, 32, UNEVEN)


@pytest.mark.slow
# Scales of 6 or 8 bits times a common d cannot reach the free optimum; how near they come is fixed
# here, and the tests below hold them to the optimum of what the format can write.
@pytest.mark.parametrize(
    ("dtype", "width", "levels", "slack"),
    [("iq4_xs", 32, UNEVEN, 1.03), ("q6_k", 16, np.arange(-32.0, 32.0), 1.07)],
)
def test_shared_scales_come_near_free_ones(
    sample: npt.NDArray[np.float32], dtype: str, width: int, levels: Doubles, slack: float
) -> None:
    assert error(sample, dtype) <= slack * best_free_scale(sample, width, levels)


@pytest.mark.parametrize(
    ("dtype", "width", "levels", "multiples"),
    [
        ("iq4_xs", 32, UNEVEN, np.arange(-32, 32)),
        ("q6_k", 16, np.arange(-32.0, 32.0), np.arange(-128, 128)),
    ],
)
def test_scale_multiples_are_the_best_for_d(
    sample: npt.NDArray[np.float32],
    dtype: str,
    width: int,
    levels: Doubles,
    multiples: npt.NDArray[np.int64],
) -> None:
    raw = quantize(sample, dtype).reshape(
        -1, GGML_QUANT_SIZES[GGMLQuantizationType[dtype.upper()]][1]
    )
    stored = raw[:, :2] if dtype == "iq4_xs" else raw[:, -2:]
    d = np.ascontiguousarray(stored).view(np.float16).astype(np.float64)
    blocks = sample.reshape(len(raw), -1, width).astype(np.float64)
    least = np.min(
        [rounded_error(blocks, (d * multiple)[..., None], levels) for multiple in multiples], axis=0
    )
    assert error(sample, dtype) <= 1.01 * least.sum()


@pytest.mark.slow
def test_q5_k_scales_and_offsets_are_the_best_for_d(sample: npt.NDArray[np.float32]) -> None:
    raw = quantize(sample, "q5_k").reshape(-1, 176)
    d, dmin = np.ascontiguousarray(raw[:, :4]).view(np.float16).astype(np.float64).T
    blocks = sample.reshape(len(raw), 8, 32).astype(np.float64)
    least = np.full(blocks.shape[:2], np.inf)
    levels = np.arange(32.0)
    for multiple in range(64):
        offset = blocks + (dmin * multiple)[:, None, None]
        for scale in range(64):
            least = np.minimum(least, rounded_error(offset, (d * scale)[:, None, None], levels))
    assert error(sample, "q5_k") <= 1.035 * least.sum()


@pytest.mark.parametrize("dtype", FINE)
def test_full_search_beats_quick_and_quick_is_sane(
    sample: npt.NDArray[np.float32], dtype: str
) -> None:
    full, quick = error(sample, dtype), error(sample, dtype, "quick")
    assert full <= quick <= 1.4 * full


# Relative errors on normal values, of a full search and a quick one, as the encoders reach them. No
# part of a full search is worth less than 1e-4 of the error, which is what Q6_K's second round of
# multiples brings; the refinement of guesses brings a quick search 0.7 to 1.7 percent.
REACHED = {
    **{"q2_k": (0.2612420, 0.2734511), "q3_k": (0.1445020, 0.1471333)},
    **{"q4_k": (0.0697070, 0.0743543), "q5_k": (0.0343453, 0.0370715)},
    **{"q6_k": (0.0165622, 0.0183719), "nvfp4": (0.0854972, 0.0943018)},
    **{"iq4_nl": (0.0734868, 0.0764651), "iq4_xs": (0.0741421, 0.0769662)},
    **{"iq1_s": (0.4542920, 0.5114925), "iq1_m": (0.4234020, 0.4629835)},
    **{"iq2_xxs": (0.3335953, 0.3885606), "iq2_xs": (0.2911669, 0.3394906)},
    **{"iq2_s": (0.2443234, 0.2914931), "iq3_xxs": (0.1813487, 0.2066697)},
    **{"iq3_s": (0.1336328, 0.1593116)},
}
ROUNDING = 5e-5  # sums in another order make near ties fall otherwise


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ENCODERS)
def test_error_on_normal_values(dtype: str) -> None:
    x = np.random.default_rng(0).standard_normal((64, 512)).astype(np.float32)
    x *= np.float32(300 if dtype == "nvfp4" else 0.02)
    power = (x.astype(np.float64) ** 2).sum()
    full, quick = (np.sqrt(error(x, dtype, search) / power) for search in ("full", "quick"))
    assert full <= REACHED[dtype][0] * (1 + ROUNDING), full
    assert quick <= REACHED[dtype][1] * (1 + ROUNDING), quick
    assert full <= quick


@pytest.mark.slow
@pytest.mark.parametrize("dtype", GRIDS)
def test_rows_of_a_grid_are_nearly_the_nearest(dtype: str) -> None:
    """For the scales that were chosen, against the best of all rows with all signs."""
    x = np.random.default_rng(2).standard_normal((4, 256)).astype(np.float32)
    raw = quantize(x, dtype)
    fmt = formats.get(dtype)
    one = fmt.dtype.block_bytes
    scales = fmt.scales(formats.base.ArrayBlock(raw.reshape(-1, one))).array
    rows = grid_of("IQ1_S" if dtype.startswith("iq1") else dtype.upper()).astype(np.float64)
    if dtype.startswith("iq1"):
        rows = np.concatenate([8 * rows + 1, 8 * rows - 1])
    parts = x.reshape(4, -1, rows.shape[1]).astype(np.float64)
    parts = parts if dtype.startswith("iq1") else np.abs(parts)
    steps = np.repeat(scales, parts.shape[1] // scales.shape[1], axis=1)[..., None, None]
    least = ((parts[:, :, None] - steps * rows) ** 2).sum(-1).min(-1).sum()
    slack = 1.03
    if dtype in ("iq2_xxs", "iq2_xs", "iq3_xxs"):
        slack = 1.3  # a sign of eight is not free
    elif dtype == "iq1_s":
        slack = 1.15  # 32 elements move one way
    assert 0.999 * least <= error(x, dtype) <= slack * least


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ENCODERS)
def test_zeros_stay_zeros_and_extremes_are_finite(dtype: str) -> None:
    zeros = np.zeros((2, 256), np.float32)
    assert not decode(quantize(zeros, dtype), dtype).any()
    largest = 2600.0 if dtype == "nvfp4" else 60000.0
    with np.errstate(divide="raise", over="raise", invalid="raise"):
        tiny = quantize(np.full((1, 256), 1e-30, np.float32), dtype)
        large = quantize(np.full((1, 256), largest, np.float32), dtype)
    assert np.abs(decode(tiny, dtype)).max() < 1e-6
    assert np.linalg.norm(decode(large, dtype) / largest - 1) < 0.5 * np.sqrt(256)


@pytest.mark.parametrize("dtype", FINE)
def test_degenerate_blocks(dtype: str) -> None:
    zeros = np.zeros((2, 256), np.float32)
    spike = zeros.copy()
    spike[0, 100], spike[1, 200] = -4.0, 4.0
    assert np.abs(decode(quantize(spike, dtype), dtype) - spike).max() < 0.2
    large = quantize(np.full((1, 256), 60000.0, np.float32), dtype)
    np.testing.assert_allclose(decode(large, dtype), 60000.0, rtol=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ENCODERS)
def test_chunks_do_not_show(dtype: str) -> None:
    x = np.random.default_rng(1).standard_normal((300, 256)).astype(np.float32)
    whole = quantize(x, dtype, "quick")
    rows = np.concatenate([quantize(row[None], dtype, "quick") for row in x])
    np.testing.assert_array_equal(whole, rows)


@pytest.mark.parametrize("dtype", BY_GGUF)
def test_the_rest_is_gguf_py(sample: npt.NDArray[np.float32], dtype: str) -> None:
    expected = gguf_quantize(sample, GGMLQuantizationType[dtype.upper()])
    np.testing.assert_array_equal(quantize(sample, dtype), expected.view(np.uint8))


def test_refusals() -> None:
    x = np.zeros((2, 48), np.float32)
    with pytest.raises(FusecError, match="cannot quantize to 'q2_z', known: bf16, f16"):
        quantize(x, "q2_z")
    with pytest.raises(FusecError, match=r"shape \(2, 48\) to iq4_nl: expected rows .* of 32"):
        quantize(x, "iq4_nl")
    with pytest.raises(FusecError, match="not all finite"):
        quantize(np.full((1, 32), np.nan), "q8_0")
    with pytest.raises(FusecError, match="nvfp4: values beyond 2688"):
        quantize(np.full((1, 64), 3000), "nvfp4")
    with pytest.raises(FusecError, match="values beyond 65504"):
        quantize(np.full((1, 32), 1e9), "iq4_nl")


SMOLLM2_135M = Mix("IQ4_XS", layers=30, heads_per_kv=3, tied=True)


@pytest.mark.parametrize(
    ("mix", "tensor", "shape", "dtype"),
    [
        (SMOLLM2_135M, "token_embd.weight", (49152, 576), "q8_0"),
        (SMOLLM2_135M, "blk.0.attn_norm.weight", (576,), "f32"),
        (SMOLLM2_135M, "blk.7.attn_v.weight", (192, 576), "iq4_nl"),
        (SMOLLM2_135M, "blk.7.ffn_gate.weight", (1536, 576), "iq4_nl"),
        (SMOLLM2_135M, "blk.2.ffn_down.weight", (576, 1536), "q5_k"),
        (SMOLLM2_135M, "blk.3.ffn_down.weight", (576, 1536), "iq4_xs"),
        (SMOLLM2_135M, "blk.20.ffn_down.weight", (576, 1536), "iq4_xs"),
        (SMOLLM2_135M, "blk.0.ffn_down.weight", (576, 1504), "q5_1"),
        (SMOLLM2_135M, "blk.5.ffn_down.weight", (576, 1500), "f16"),
        (Mix("IQ4_XS", 24, 1, True), "token_embd.weight", (49152, 2048), "q6_k"),
        (Mix("IQ4_XS", 24, 1, False), "token_embd.weight", (49152, 2048), "iq4_xs"),
        (Mix("IQ4_XS", 24, 1, False), "output.weight", (49152, 2048), "q6_k"),
        (Mix("IQ4_XS", 24, 4, True), "blk.9.attn_v.weight", (512, 2048), "q5_k"),
        (Mix("IQ4_XS", 24, 4, True), "blk.9.attn_k.weight", (512, 2048), "iq4_xs"),
        (Mix("IQ4_NL", 30, 3, True), "token_embd.weight", (49152, 576), "q8_0"),
        (Mix("IQ4_NL", 30, 3, True), "blk.9.ffn_down.weight", (576, 1536), "iq4_nl"),
        (Mix("Q8_0", 30, 3, True), "token_embd.weight", (49152, 576), "q8_0"),
        (Mix("Q8_0", 30, 8, True), "blk.0.ffn_down.weight", (576, 1536), "q8_0"),
        (Mix("F16", 30, 3, True), "token_embd.weight", (49152, 576), "f16"),
        (Mix("BF16", 30, 3, True), "output_norm.weight", (576,), "f32"),
        (Mix("Q4_K_M", 32, 4, False), "blk.3.ffn_down.weight", (4096, 14336), "q6_k"),
        (Mix("Q4_K_M", 32, 4, False), "blk.4.ffn_down.weight", (4096, 14336), "q4_k"),
        (Mix("Q4_K_M", 32, 4, False), "blk.6.attn_v.weight", (1024, 4096), "q6_k"),
        (Mix("Q4_K_M", 32, 4, False), "blk.28.attn_v.weight", (1024, 4096), "q6_k"),
        (Mix("Q4_K_M", 32, 4, False), "blk.4.attn_q.weight", (4096, 4096), "q4_k"),
        (Mix("Q4_K_M", 32, 4, False), "output.weight", (128256, 4096), "q6_k"),
        (Mix("Q4_K_M", 30, 3, True), "blk.9.attn_q.weight", (576, 576), "q5_0"),
        (Mix("Q4_K_M", 30, 3, True), "blk.0.attn_v.weight", (192, 576), "q8_0"),
        (Mix("Q4_K_S", 32, 4, False), "blk.3.attn_v.weight", (1024, 4096), "q5_k"),
        (Mix("Q4_K", 32, 4, False), "blk.4.attn_v.weight", (1024, 4096), "q4_k"),
        (Mix("Q5_K_M", 30, 3, True), "blk.9.attn_q.weight", (576, 576), "q5_1"),
        (Mix("Q3_K_M", 32, 4, False), "blk.1.ffn_down.weight", (4096, 14336), "q5_k"),
        (Mix("Q3_K_M", 32, 4, False), "blk.2.ffn_down.weight", (4096, 14336), "q4_k"),
        (Mix("Q3_K_L", 32, 4, False), "blk.9.attn_output.weight", (4096, 4096), "q5_k"),
        (Mix("Q2_K", 32, 4, False), "blk.9.attn_v.weight", (1024, 4096), "q4_k"),
        (Mix("Q2_K", 30, 3, True), "blk.9.attn_q.weight", (576, 576), "q4_0"),
        (Mix("Q2_K_S", 32, 1, False), "blk.3.ffn_down.weight", (4096, 11008), "q4_k"),
        (Mix("IQ3_M", 32, 4, False), "blk.9.attn_output.weight", (4096, 4096), "q4_k"),
        (Mix("IQ3_M", 32, 4, False), "blk.9.ffn_up.weight", (14336, 4096), "iq3_s"),
        (Mix("IQ3_XS", 32, 4, False), "blk.9.ffn_up.weight", (14336, 4096), "iq3_xxs"),
        (Mix("IQ3_XS", 32, 4, False), "blk.29.ffn_up.weight", (14336, 4096), "iq3_s"),
        (Mix("IQ3_XXS", 32, 1, False), "blk.9.attn_q.weight", (4096, 4096), "iq2_s"),
        (Mix("IQ3_XXS", 32, 1, False), "output.weight", (32000, 4096), "q5_k"),
        (Mix("IQ2_S", 32, 4, False), "blk.9.ffn_up.weight", (14336, 4096), "iq2_xs"),
        (Mix("IQ2_M", 32, 1, False), "blk.9.attn_v.weight", (4096, 4096), "iq3_s"),
        (Mix("IQ2_XXS", 32, 4, False), "token_embd.weight", (32000, 4096), "q2_k"),
        (Mix("IQ1_S", 32, 4, False), "blk.9.attn_output.weight", (4096, 4096), "iq2_xxs"),
        (Mix("IQ1_M", 30, 3, True), "blk.9.attn_q.weight", (576, 576), "iq4_nl"),
        (Mix("TQ1_0", 32, 4, False), "token_embd.weight", (32000, 4096), "q4_k"),
        (Mix("Q5_0", 30, 3, True), "blk.0.attn_q.weight", (576, 100), "f16"),
        (Mix("MXFP4", 30, 3, True), "token_embd.weight", (49152, 576), "q8_0"),
        (Mix("MXFP4_MOE", 30, 3, True), "blk.0.ffn_up.weight", (1536, 576), "q8_0"),
        (Mix("NVFP4", 30, 3, True), "blk.0.ffn_up.weight", (1536, 576), "nvfp4"),
    ],
)
def test_mix_follows_llama_cpp(mix: Mix, tensor: str, shape: tuple[int, ...], dtype: str) -> None:
    assert mix.dtype(tensor, shape) == dtype


def test_every_type_has_a_mix_and_a_number() -> None:
    assert {Mix(name, 1, 1, True).file_type for name in MIXES} >= {*range(4), *range(7, 33), 36, 37}
    assert {name.lower() for name in MIXES} >= set(formats.FORMATS) - {"q3_k", "q4_k", "q5_k"}


def test_unknown_mix() -> None:
    with pytest.raises(FusecError, match="unknown quantisation 'Q3_X', known: F32, F16"):
        Mix("Q3_X", 1, 1, True)
