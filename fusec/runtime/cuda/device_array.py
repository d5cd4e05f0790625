"""An array that stays on the GPU, which other libraries take without a copy.

`torch.from_dlpack`, `cupy.from_dlpack`, `jax.dlpack.from_dlpack`; or by the CUDA array interface,
`torch.as_tensor(array, device="cuda")`, `cupy.asarray`, `numba.cuda.as_cuda_array`. The structures
are those of DLPack 0.8 (dlpack.h) and of version 3 of Numba's CUDA Array Interface.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

from fusec.runtime.job import Array

CPU, CUDA = 1, 2
"""DLPack's device types."""

_NAME = b"dltensor"
_CODES = {"i": 0, "u": 1, "f": 2}  # DLPack's type codes by NumPy's kinds


class DeviceArray:
    """`shape` numbers of type `dtype` at an address of a device, in C order.

    What the kernels write is there when a caller gets the array, so no stream has to be waited for.
    `free` is called when nobody has the array any more; `read` copies so many bytes from an address
    into a host array. The memory is the engine's: it is gone once the engine is closed.
    """

    def __init__(
        self,
        address: int,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        free: Callable[[int], None],
        read: Callable[[int, tuple[int, ...], np.dtype[Any]], Array],
        device: tuple[int, int] = (CUDA, 0),
    ) -> None:
        self.address, self.shape, self.dtype = address, shape, np.dtype(dtype)
        self._read, self._device = read, device
        weakref.finalize(self, free, address)

    @property
    def nbytes(self) -> int:
        """Bytes of the whole array."""
        return prod(self.shape) * self.dtype.itemsize

    def numpy(self) -> Array:
        """A copy in host memory."""
        return self._read(self.address, self.shape, self.dtype)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        if copy is False:
            raise ValueError("an array on a GPU cannot be a NumPy array without a copy")
        return self.numpy() if dtype is None else self.numpy().astype(dtype)

    def __repr__(self) -> str:
        return f"<DeviceArray {self.dtype}{list(self.shape)} on GPU {self._device[1]}>"

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.address, False),
            "strides": None,
            "stream": None,
            "version": 3,
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._device

    def __dlpack__(self, *, stream: Any = None, **_newer: Any) -> Any:
        return _capsule(self)


class _Tensor(ctypes.Structure):
    """DLTensor."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class _Managed(ctypes.Structure):
    """DLManagedTensor."""

    _fields_ = (
        ("tensor", _Tensor),
        ("context", ctypes.c_void_p),
        ("deleter", ctypes.CFUNCTYPE(None, ctypes.c_void_p)),
    )


_api = ctypes.pythonapi
_api.PyCapsule_New.restype = ctypes.py_object
_api.PyCapsule_New.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
_api.PyCapsule_IsValid.argtypes = (ctypes.c_void_p, ctypes.c_char_p)
_api.PyCapsule_GetPointer.restype = ctypes.c_void_p
_api.PyCapsule_GetPointer.argtypes = (ctypes.c_void_p, ctypes.c_char_p)

_alive: dict[int, tuple[Any, ...]] = {}
"""What stands behind tensors that other libraries hold: address of the structure -> its parts."""


@ctypes.CFUNCTYPE(None, ctypes.c_void_p)
def _delete(managed: int) -> None:
    """Called by whoever took the tensor, when he is done with it."""
    _alive.pop(managed, None)


@ctypes.CFUNCTYPE(None, ctypes.c_void_p)
def _forget(capsule: int) -> None:
    """Called when a capsule is gone: nobody has taken the tensor, if it still has its name."""
    if _api.PyCapsule_IsValid(capsule, _NAME):
        _delete(_api.PyCapsule_GetPointer(capsule, _NAME))


def _capsule(array: DeviceArray) -> Any:
    rank = len(array.shape)
    shape = (ctypes.c_int64 * rank)(*array.shape)
    kind, bits = array.dtype.kind, 8 * array.dtype.itemsize
    tensor = _Tensor(
        array.address, *array.__dlpack_device__(), rank, _CODES[kind], bits, 1, shape, None, 0
    )
    managed = _Managed(tensor, None, _delete)
    address = ctypes.addressof(managed)
    _alive[address] = (managed, shape, array)
    return _api.PyCapsule_New(address, _NAME, _forget)
