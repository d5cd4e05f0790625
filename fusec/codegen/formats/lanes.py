"""The vector operations in which a format says once how its blocks are read.

A format's text runs over NumPy arrays (`ArrayBlock`: decoding and repacking) and over LLVM vectors
(`fusec.codegen.cpu.lanes`: the inner loops of CPU kernels). A vector's kind is u8, i8, u16, u32,
i32 or f32; integers wrap, and shifts to the right are arithmetic for signed kinds. An operand is a
vector of the same kind, a number, or a tuple with a number for each lane; a vector of one lane is
spread over as many as the other operand has.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

V = TypeVar("V", bound="Lanes")
KINDS = {kind: np.dtype(kind[0] + str(int(kind[1:]) // 8)) for kind in
         ("u8", "i8", "u16", "u32", "i32", "f32")}  # fmt: skip


class Lanes(ABC):
    """A vector of lanes."""

    @abstractmethod
    def apply(self: V, operation: str, other: Any) -> V:
        """`operation` is and, or, xor, shl, shr, add, sub or mul."""

    @abstractmethod
    def take(self: V, lanes: Sequence[int]) -> V:
        """The named lanes."""

    @abstractmethod
    def join(self: V, other: V) -> V:
        """The lanes of this vector, then those of the other."""

    @abstractmethod
    def to(self: V, kind: str) -> V:
        """The values as another kind: integers truncated or extended, or made floats."""

    @abstractmethod
    def bits_as(self: V, kind: str) -> V:
        """The same bytes read as lanes of another kind."""

    @abstractmethod
    def half_to_f32(self: V) -> V:
        """u16 lanes read as IEEE binary16, exactly."""

    @abstractmethod
    def flag(self: V, value: int) -> V:
        """`value` in each lane that is not zero, 0 in the others."""

    @abstractmethod
    def lookup(self: V, table: Sequence[int]) -> V:
        """i8 lanes: `table` (16 signed bytes) at each of 32 u8 lanes from 0 to 15."""

    @abstractmethod
    def rows(self: V, table: NDArray[np.int8]) -> V:
        """u8 lanes: for each lane that row of `table`, one after the other."""

    def __and__(self: V, other: Any) -> V:
        return self.apply("and", other)

    def __or__(self: V, other: Any) -> V:
        return self.apply("or", other)

    def __xor__(self: V, other: Any) -> V:
        return self.apply("xor", other)

    def __lshift__(self: V, other: Any) -> V:
        return self.apply("shl", other)

    def __rshift__(self: V, other: Any) -> V:
        return self.apply("shr", other)

    def __add__(self: V, other: Any) -> V:
        return self.apply("add", other)

    def __sub__(self: V, other: Any) -> V:
        return self.apply("sub", other)

    def __mul__(self: V, other: Any) -> V:
        return self.apply("mul", other)


class Block(ABC):
    """One block of a format, or the same place of several blocks."""

    @abstractmethod
    def load(self, kind: str, offset: int, count: int = 1) -> Any:
        """`count` lanes from byte `offset` on, as `Lanes`."""

    def u8(self, offset: int, count: int = 1) -> Any:
        """Bytes."""
        return self.load("u8", offset, count)

    def nibbles(self, offset: int) -> Any:
        """16 bytes as 32 u8 lanes: the low nibbles, then the high ones."""
        packed = self.u8(offset, 16)
        return (packed & 15).join(packed >> 4)

    def f16(self, offset: int) -> Any:
        """One f16 as f32."""
        return self.load("u16", offset).half_to_f32()


_NUMPY = {
    "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor, "shl": np.left_shift,
    "shr": np.right_shift, "add": np.add, "sub": np.subtract, "mul": np.multiply,
}  # fmt: skip


class ArrayLanes(Lanes):
    """Lanes of many blocks at once: the last axis of an array."""

    def __init__(self, array: NDArray[Any]) -> None:
        self.array = array

    def apply(self, operation: str, other: Any) -> ArrayLanes:
        """See `Lanes.apply`."""
        if isinstance(other, ArrayLanes):
            assert self.array.dtype == other.array.dtype, (self.array.dtype, other.array.dtype)
            other = other.array
        else:
            other = np.asarray(other).astype(self.array.dtype)
        return ArrayLanes(_NUMPY[operation](self.array, other))

    def take(self, lanes: Sequence[int]) -> ArrayLanes:
        """See `Lanes.take`."""
        return ArrayLanes(self.array[:, list(lanes)])

    def join(self, other: ArrayLanes) -> ArrayLanes:
        """See `Lanes.join`."""
        return ArrayLanes(np.concatenate([self.array, other.array], axis=-1))

    def to(self, kind: str) -> ArrayLanes:
        """See `Lanes.to`."""
        return ArrayLanes(self.array.astype(KINDS[kind]))

    def bits_as(self, kind: str) -> ArrayLanes:
        """See `Lanes.bits_as`."""
        return ArrayLanes(np.ascontiguousarray(self.array).view(KINDS[kind]))

    def half_to_f32(self) -> ArrayLanes:
        """See `Lanes.half_to_f32`."""
        return ArrayLanes(self.array.view(np.float16).astype(np.float32))

    def flag(self, value: int) -> ArrayLanes:
        """See `Lanes.flag`."""
        return ArrayLanes(np.where(self.array != 0, self.array.dtype.type(value), 0).astype(
            self.array.dtype))  # fmt: skip

    def lookup(self, table: Sequence[int]) -> ArrayLanes:
        """See `Lanes.lookup`."""
        return ArrayLanes(np.array(table, np.int8)[self.array])

    def rows(self, table: NDArray[np.int8]) -> ArrayLanes:
        """See `Lanes.rows`."""
        return ArrayLanes(table.view(np.uint8)[self.array].reshape(len(self.array), -1))


class ArrayBlock(Block):
    """Blocks `uint8[n, block_bytes]`, all at once."""

    def __init__(self, blocks: NDArray[np.uint8]) -> None:
        self.blocks = blocks

    def load(self, kind: str, offset: int, count: int = 1) -> ArrayLanes:
        """See `Block.load`."""
        dtype = KINDS[kind]
        field = self.blocks[:, offset : offset + count * dtype.itemsize]
        return ArrayLanes(np.ascontiguousarray(field).view(dtype))

    def raw(self, offset: int, nbytes: int) -> NDArray[np.uint8]:
        """Bytes of every block as they are, `uint8[n, nbytes]`."""
        return self.blocks[:, offset : offset + nbytes]
