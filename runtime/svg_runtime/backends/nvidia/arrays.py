"""Buffers in GPU memory: the memory methods of a backend. Values are copied through page-locked host memory."""

from __future__ import annotations

import ctypes
import math
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from svg_runtime.backends.base import Array, Buffer, StepBuffers
from svg_runtime.backends.nvidia.device import CudaDevice

_BackendT = TypeVar("_BackendT")
_ALIGNMENT = 256  # bytes, as cudaMalloc guarantees: TensorRT's kernels may rely on it


class DeviceMemory:
    """Device memory that is freed when nothing refers to it any more."""

    def __init__(self, device: CudaDevice, nbytes: int) -> None:
        self.address = device.allocate(nbytes)
        self.nbytes = nbytes
        weakref.finalize(self, device.free, self.address)


@dataclass
class _Staging:
    """The host copy of a buffer."""

    address: int
    array: Array
    uploaded_at: int = -1  # the device's `waits` at the last upload: until that rises, the upload may still be running


class DeviceBuffer:
    """A tensor in device memory.

    Args:
        memory: the allocation, which the buffer keeps alive.
        offset: bytes from the start of the allocation.
        shape: sizes of all axes.
        dtype: element type.
        pitch: bytes from one entry of the first axis to the next; None where they follow each other without gaps.
    """

    def __init__(
        self, memory: DeviceMemory, offset: int, shape: tuple[int, ...], dtype: np.dtype[Any], pitch: int | None = None
    ) -> None:
        self._memory = memory
        self.address = memory.address + offset
        self.shape = shape
        self.dtype = dtype
        self.nbytes = math.prod(shape) * dtype.itemsize if pitch is None else shape[0] * pitch
        self._pitch = pitch
        self._staged: _Staging | None = None

    def staging(self, device: CudaDevice) -> _Staging:
        """Return the host copy, in the same layout; created on first use."""
        if self._staged is None:
            address = device.allocate_on_host(self.nbytes)
            content = (ctypes.c_uint8 * max(self.nbytes, 1)).from_address(address)
            # Freed with the last array on it, which a caller may have when another thread closes the device.
            weakref.finalize(content, device.free_on_host, address).atexit = False
            inner = np.empty(self.shape[1:] if self._pitch is not None else self.shape, self.dtype).strides
            strides = inner if self._pitch is None else (self._pitch, *inner)
            array: Array = np.ndarray(self.shape, self.dtype, np.ctypeslib.as_array(content), strides=strides)
            self._staged = _Staging(address, array)
        return self._staged

    def rows(self, first: int, count: int) -> DeviceBuffer:
        """Return some entries of the first axis, in the same memory."""
        assert self._pitch is None
        offset = self.address - self._memory.address + first * (self.nbytes // self.shape[0])
        return DeviceBuffer(self._memory, offset, (count, *self.shape[1:]), self.dtype)

    def overlaps(self, other: DeviceBuffer) -> bool:
        """Whether the two buffers share memory."""
        return self.address < other.address + other.nbytes and other.address < self.address + self.nbytes


class DeviceArrays:
    """The memory methods of a backend on a GPU. The host waits only in `read`, and in a `write` right after another."""

    lanes = 1
    max_batch: int | None = None
    _device: CudaDevice

    def lane(self: _BackendT, number: int) -> _BackendT:
        """Return the backend itself."""
        return self

    def allocate(self, shape: tuple[int, ...], dtype: str) -> Buffer:
        """Return a new zeroed buffer."""
        kind = np.dtype(dtype)
        return DeviceBuffer(DeviceMemory(self._device, math.prod(shape) * kind.itemsize), 0, shape, kind)

    def allocate_steps(self, count: int, shape: tuple[int, ...], dtype: str) -> StepBuffers:
        """Return buffers in one allocation, each of them aligned."""
        kind = np.dtype(dtype)
        pitch = -(-math.prod(shape) * kind.itemsize // _ALIGNMENT) * _ALIGNMENT
        memory = DeviceMemory(self._device, count * pitch)
        steps = tuple(DeviceBuffer(memory, step * pitch, shape, kind) for step in range(count))
        whole = DeviceBuffer(memory=memory, offset=0, shape=(count, *shape), dtype=kind, pitch=pitch)
        return StepBuffers(whole, steps)

    def write(self, buffer: Buffer, values: ArrayLike) -> None:
        """Copy to the device asynchronously. The host waits if an earlier copy into the same buffer may still be running."""
        assert isinstance(buffer, DeviceBuffer)
        staged = buffer.staging(self._device)
        if staged.uploaded_at == self._device.waits:
            self._device.wait()
        np.copyto(staged.array, values, casting="same_kind")
        self._device.upload(buffer.address, staged.address, buffer.nbytes)
        staged.uploaded_at = self._device.waits

    def copy(self, source: Buffer, destination: Buffer) -> None:
        """Copy within the device, asynchronously."""
        assert isinstance(source, DeviceBuffer)
        assert isinstance(destination, DeviceBuffer)
        assert (source.shape, source.dtype) == (destination.shape, destination.dtype)
        self._device.copy(destination.address, source.address, source.nbytes)

    def gather(self, parts: Sequence[Buffer], destination: Buffer) -> None:
        """Copy buffers, between which there may be gaps, one by one, asynchronously."""
        assert isinstance(destination, DeviceBuffer)
        address = destination.address
        for part in parts:
            assert isinstance(part, DeviceBuffer)
            assert part.shape[1:] == destination.shape[1:]
            self._device.copy(address, part.address, part.nbytes)
            address += part.nbytes
        assert address == destination.address + destination.nbytes

    def rows(self, buffer: Buffer, first: int, count: int) -> Buffer:
        """Return a buffer in the same memory."""
        assert isinstance(buffer, DeviceBuffer)
        return buffer.rows(first, count)

    def read(self, buffer: Buffer) -> Array:
        """Wait for the device and return its values, valid until the next `read` or `write` of the same buffer."""
        assert isinstance(buffer, DeviceBuffer)
        staged = buffer.staging(self._device)
        self._device.download(staged.address, buffer.address, buffer.nbytes)
        self._device.wait()
        return staged.array


def check_unaliased(graph: str, inputs: dict[str, DeviceBuffer], outputs: dict[str, DeviceBuffer]) -> None:
    """Assert that no output shares memory with an input or another output, so that a graph can safely run twice."""
    for name, output in outputs.items():
        others = [other for also, other in outputs.items() if also != name]
        assert not any(output.overlaps(other) for other in inputs.values()), f"{graph}: {name} aliases an input"
        assert not any(output.overlaps(other) for other in others), f"{graph}: {name} aliases another output"
