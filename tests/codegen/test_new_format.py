"""A format made up here works on both targets, which shows that one file is all that it takes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numba import njit

from fusec.codegen import formats
from fusec.codegen.cpu.dot import row_dot
from fusec.codegen.cpu.vector import ptr_f32, ptr_u8
from fusec.codegen.formats.base import ArrayBlock, Block, Bytes, QuantFormat
from fusec.codegen.formats.coding import Linear
from fusec.ir import Builder
from fusec.ir.dtypes import DType
from tests.codegen.cuda.twin_session import TwinSession


class Toy(QuantFormat):
    """3-bit signed codes: 12 bytes with the codes of 8 elements in 3 bytes, then an f16 scale.

    weight = d * (code - 4)
    """

    coding = Linear(bits=3, offset=4)
    cuda_scale = "half_to_f32({d})"

    def codes(self, block: Block, span: int) -> Any:
        """Bit 3i of each three bytes is the lowest of element i."""
        words = block.u8(0, 12).to("u32")
        first, second, third = (words.take(range(byte, 12, 3)) for byte in range(3))
        threes = (first | second << 8 | third << 16).take([i // 8 for i in range(32)])
        return (threes >> tuple(i % 8 * 3 for i in range(32)) & 7).to("u8")

    def scales(self, block: Block) -> Any:
        """See `QuantFormat.scales`."""
        return block.f16(12)

    def cuda_fields(self, block: ArrayBlock) -> dict[str, Bytes]:
        """See `QuantFormat.cuda_fields`."""
        return {"d": block.raw(12, 2)[:, None]}


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Toy:
    made = Toy(DType("toy3", 32, 14))
    monkeypatch.setitem(formats.FORMATS, "toy3", made)
    return made


def rows_and_weights() -> tuple[np.ndarray, np.ndarray]:
    """12 rows of 96 elements, encoded here bit by bit, and what they mean."""
    random = np.random.default_rng(0)
    codes = random.integers(0, 8, (12, 3, 32))
    d = random.uniform(0.01, 0.1, (12, 3)).astype(np.float16)
    bits = codes[..., None] >> np.arange(3) & 1
    packed = np.packbits(bits.reshape(12, 3, 96).astype(np.uint8), axis=-1, bitorder="little")
    blocks = np.concatenate([packed, d[..., None].view(np.uint8)], axis=-1)
    weights = d.astype(np.float32)[..., None] * (codes - 4).astype(np.float32)
    return blocks.reshape(12, -1), weights.reshape(12, -1)


def test_it_decodes(toy: Toy) -> None:
    rows, weights = rows_and_weights()
    assert np.array_equal(toy.decode(rows), weights)


def test_it_has_a_dot_product_on_the_cpu(toy: Toy) -> None:
    dot = row_dot(toy)

    @njit
    def call(w, x, n):
        return dot(ptr_u8(w), ptr_f32(x), n)

    rows, weights = rows_and_weights()
    x = np.random.default_rng(1).normal(size=96).astype(np.float32)
    got = [call(row.ctypes.data, x.ctypes.data, 96) for row in rows]
    np.testing.assert_allclose(got, weights.astype(np.float64) @ x, rtol=1e-5, atol=1e-6)


def test_it_is_embedded_and_multiplied_on_cuda(toy: Toy) -> None:
    rows, weights = rows_and_weights()
    b = Builder("toy")
    token, x = b.input("token", (1,), "i32"), b.input("x", (1, 96))
    w = b.weight("w", (12, 96), "toy3")
    graph = b.build(b.embed(token, w, name="row"), b.matvec(x, w, name="product"))
    session = TwinSession(graph, {"@w": rows}, 0)
    x_values = np.random.default_rng(2).normal(size=(1, 96)).astype(np.float32)
    got = session.step(token=np.array([7]), x=x_values)
    assert np.array_equal(got["row"][0], weights[7])
    np.testing.assert_allclose(got["product"], x_values @ weights.T, rtol=1e-5, atol=1e-6)
