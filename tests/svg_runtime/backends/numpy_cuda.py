"""A GPU made of host memory: the functions of `cuda.bindings.runtime` that svg-edge calls, with the difficulties of a GPU.

Work on a stream is done as late as possible, when the host waits: a copy then reads the host memory of that time, so that
memory that is reused too early shows as a wrong value. Copies and graphs may touch only live memory. While a stream is captured
nothing runs, and calls that CUDA forbids meanwhile are errors.
"""

# ruff: noqa: N801, N802, N815 (names are CUDA's own)

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from enum import IntEnum
from types import SimpleNamespace

import numpy as np

from svg_runtime.backends.base import Backend, BoundGraph


class cudaError_t(IntEnum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorInsufficientDriver = 35
    cudaErrorIllegalAddress = 700
    cudaErrorStreamCaptureUnsupported = 900


class cudaMemcpyKind(IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2
    cudaMemcpyDeviceToDevice = 3


class cudaStreamCaptureMode(IntEnum):
    cudaStreamCaptureModeGlobal = 0
    cudaStreamCaptureModeThreadLocal = 1


class cudaDeviceAttr(IntEnum):
    cudaDevAttrIntegrated = 18


OK = cudaError_t.cudaSuccess
Work = Callable[[], None]


class NumpyCuda:
    """Stands for the module `cuda.bindings.runtime`.

    Args:
        gpus: how many there are; 0 stands for a machine without a driver.
        memory: bytes of the device.

    Attributes:
        log: names of all calls that reached the device, in order.
        fail: function name -> error that it answers from now on.
    """

    cudaDeviceAttr = cudaDeviceAttr
    cudaError_t = cudaError_t
    cudaMemcpyKind = cudaMemcpyKind
    cudaStreamCaptureMode = cudaStreamCaptureMode
    cudaStreamNonBlocking = 1

    def __init__(self, gpus: int = 1, memory: int = 1 << 30) -> None:
        self.gpus, self.free_bytes, self._memory = gpus, memory, memory
        self.log: list[str] = []
        self.fail: dict[str, cudaError_t] = {}
        self._device: dict[int, np.ndarray] = {}
        self._host: dict[int, np.ndarray] = {}
        self._streams: dict[int, list[Work]] = {}
        self._captured: dict[int, list[Work]] = {}  # streams under capture
        self._graphs: dict[int, list[Work]] = {}
        self._next = itertools.count(1)
        self._current = threading.local()  # device of each thread
        self._home: dict[int, int] = {}  # address of memory, or handle of a stream -> its device

    # Devices

    def cudaGetDeviceCount(self):
        return (OK, self.gpus) if self.gpus else (cudaError_t.cudaErrorInsufficientDriver, None)

    def cudaSetDevice(self, device):
        if not 0 <= device < self.gpus:
            return (cudaError_t.cudaErrorInvalidValue,)
        self._current.device = device
        return (OK,)

    def cudaGetDeviceProperties(self, device):
        return OK, SimpleNamespace(name=b"NumPy GPU\0\0", major=8, minor=6, multiProcessorCount=16)

    def cudaDeviceGetAttribute(self, attribute, device):
        assert attribute == cudaDeviceAttr.cudaDevAttrIntegrated
        return OK, 0

    def cudaGetErrorString(self, error):
        return OK, cudaError_t(error).name.encode()

    # Memory

    def cudaMemGetInfo(self):
        return OK, self.free_bytes, self._memory

    def cudaMalloc(self, size):
        return self._allocate("cudaMalloc", self._device, size)

    def cudaMallocHost(self, size):
        return self._allocate("cudaMallocHost", self._host, size)

    def cudaFree(self, ptr):
        self._drain()
        return self._free("cudaFree", self._device, ptr)

    def cudaFreeHost(self, ptr):
        self._drain()
        return self._free("cudaFreeHost", self._host, ptr)

    def cudaMemsetAsync(self, ptr, value, count, stream):
        return self._put("cudaMemsetAsync", stream, lambda: self.view(ptr, count).fill(value))

    def cudaMemcpyAsync(self, dst, src, count, kind, stream):
        def copy() -> None:
            to_device = kind != cudaMemcpyKind.cudaMemcpyDeviceToHost
            from_device = kind != cudaMemcpyKind.cudaMemcpyHostToDevice
            source = self.view(src, count) if from_device else self._view(self._host, src, count)
            target = self.view(dst, count) if to_device else self._view(self._host, dst, count)
            assert not np.shares_memory(source, target)
            target[:] = source

        return self._put("cudaMemcpyAsync", stream, copy)

    # Streams and graphs

    def cudaStreamCreateWithFlags(self, flags):
        handle = next(self._next)
        self._streams[handle], self._home[handle] = [], self._device_of_thread
        return OK, handle

    def cudaStreamDestroy(self, stream):
        del self._streams[int(stream)]
        return (OK,)

    def cudaStreamSynchronize(self, stream):
        if int(stream) in self._captured:
            return (cudaError_t.cudaErrorStreamCaptureUnsupported,)
        self._note("cudaStreamSynchronize")
        self._drain()
        return (self.fail.get("cudaStreamSynchronize", OK),)

    def cudaStreamBeginCapture(self, stream, mode):
        assert mode == cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._captured[int(stream)] = []
        return (OK,)

    def cudaStreamEndCapture(self, stream):
        handle, work = next(self._next), self._captured.pop(int(stream))
        if "capture" in self.fail:
            return self.fail["capture"], None
        self._graphs[handle] = work
        return OK, handle

    def cudaGraphInstantiate(self, graph, flags):
        handle = next(self._next)
        self._graphs[handle] = list(self._graphs[graph])
        return OK, handle

    def cudaGraphLaunch(self, graph, stream):
        work = self._graphs[graph]
        return self._put("cudaGraphLaunch", stream, lambda: [each() for each in work] and None)

    def cudaGraphDestroy(self, graph):
        del self._graphs[graph]
        return (OK,)

    def cudaGraphExecDestroy(self, graph):
        self._drain()
        del self._graphs[graph]
        return (OK,)

    # For engines that run on it, and for tests

    def enqueue(self, name: str, stream: int, work: Work) -> None:
        """Put an engine's run on a stream."""
        (error,) = self._put(name, stream, work)
        assert error == OK

    def run_while_closing(self, graph: BoundGraph, backend: Backend) -> None:
        """Run a graph of an engine; before its run is put on the stream, another thread begins to close the backend."""
        closing = threading.Thread(target=backend.close)

        def closed_meanwhile(name: str, stream: int, work: Work) -> None:
            del self.enqueue  # again that of the class
            closing.start()
            closing.join(0.1)
            self.enqueue(name, stream, work)

        self.enqueue = closed_meanwhile  # type: ignore[method-assign]
        graph.run()
        closing.join()

    def view(self, address: int, nbytes: int) -> np.ndarray:
        """Bytes of the device's memory, which must lie in one piece that is still allocated."""
        return self._view(self._device, address, nbytes)

    @property
    def left(self) -> tuple[int, int, int, int]:
        """Pieces of device and of host memory, streams and graphs that are not freed."""
        return len(self._device), len(self._host), len(self._streams), len(self._graphs)

    @property
    def capturing(self) -> bool:
        return bool(self._captured)

    @property
    def homes(self) -> set[int]:
        """Devices that have memory or streams."""
        return {home for handle, home in self._home.items() if handle in self._streams or handle in self._device}

    @property
    def _device_of_thread(self) -> int:
        return getattr(self._current, "device", 0)

    def _put(self, name: str, stream: int, work: Work) -> tuple[cudaError_t]:
        handle = int(stream)
        if name in self.fail:
            return (self.fail[name],)
        if handle in self._captured:
            self._captured[handle].append(work)
        else:
            self._note(name)
            self._streams[handle].append(work)
        return (OK,)

    def _drain(self) -> None:
        assert not self._captured, "CUDA waits for the device while a stream is captured"
        for work in self._streams.values():
            while work:
                work.pop(0)()

    def _note(self, name: str) -> None:
        self.log.append(name)

    def _allocate(self, name: str, where: dict[int, np.ndarray], size: int):
        assert not self._captured, f"{name} while a stream is captured"
        if name in self.fail:
            return self.fail[name], None
        if where is self._device and size > self.free_bytes:
            return cudaError_t.cudaErrorMemoryAllocation, None
        block = np.full(size + 512, 0xA5, np.uint8)  # not zeroed, as the real one
        address = -(-block.ctypes.data // 512) * 512
        self._home[address] = self._device_of_thread
        where[address] = block[address - block.ctypes.data :][:size]
        self.free_bytes -= size if where is self._device else 0
        return OK, address

    def _free(self, name: str, where: dict[int, np.ndarray], address: int):
        block = where.pop(int(address), None)
        if block is None:
            return (cudaError_t.cudaErrorInvalidValue,)
        self.free_bytes += block.size if where is self._device else 0
        block.fill(0x5A)
        return (OK,)

    def _view(self, where: dict[int, np.ndarray], address: int, nbytes: int) -> np.ndarray:
        for start, block in where.items():
            if start <= address and address + nbytes <= start + block.size:
                return block[address - start :][:nbytes]
        raise AssertionError(f"{nbytes} bytes at {address:#x} are not live memory")


def array_at(cuda: NumpyCuda, address: int, shape: tuple[int, ...], dtype) -> np.ndarray:
    """Device memory as an array of values."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return cuda.view(address, size).view(dtype).reshape(shape)
