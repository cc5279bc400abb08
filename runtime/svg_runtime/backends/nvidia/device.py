"""One NVIDIA GPU with one stream. Everything runs in order on that stream, and the host waits only in `wait`."""

from __future__ import annotations

import gc
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from svg_common.command import require_modules
from svg_common.signals import defer_interrupts
from svg_runtime.errors import BackendError, BackendMissingError

_GPU_NAME = r"cuda|(?:cuda:)?(\d{1,3})"


@dataclass(frozen=True)
class GpuName:
    """The GPU that engines are built for."""

    index: int
    name: str  # NVIDIA GeForce RTX 4070
    compute_capability: str  # sm89
    multiprocessors: int

    @property
    def model(self) -> str:
        """Name that also distinguishes GPUs of the same name: every Orin is "Orin", from the Nano to the AGX."""
        return f"{self.name}, {self.multiprocessors} multiprocessors"


def load_runtime() -> Any:
    """Import the CUDA runtime API: each function returns a tuple of an error code and its results.

    Raises:
        BackendMissingError: cuda-bindings does not load.
    """
    try:
        with defer_interrupts():
            from cuda.bindings import runtime
    except (ImportError, OSError, RuntimeError) as error:  # wheel for another Python or C library
        raise BackendMissingError(f"cuda-bindings is installed but does not load: {error}") from error
    return runtime


class CudaDevice:
    """A GPU with its own stream, which does not synchronize with other streams.

    Args:
        backend: name of the backend, for messages.
        extra: pip extra that installs cuda-bindings.
        requested: cuda, cuda:1 or 1; None or "auto" means the first GPU.

    Attributes:
        stream: handle of the CUDA stream.
        waits: how often the host has waited for the device.
        lock: held while the host uses the device, so that another thread can close it only in between.

    Raises:
        MissingExtraError: cuda-bindings is not installed.
        BackendMissingError: no driver, no GPU, or not the requested one.
    """

    def __init__(self, backend: str, extra: str, requested: str | None) -> None:
        require_modules(f"the {backend} backend", extra, "cuda.bindings")
        self._cuda = load_runtime()
        index = _parse_index(backend, requested)
        self._index = _check_available(self._cuda, backend, index)
        self.waits = 0
        self._addresses: set[int] = set()  # of device memory
        self._graphs: list[Any] = []
        self._open = True
        self._capturing = False
        self._deferred: list[Callable[[], None]] = []  # what has to be freed once a capture is over
        self.lock = threading.RLock()
        with self.in_use():
            self._stream = self._call("creating a stream", "cudaStreamCreateWithFlags", self._cuda.cudaStreamNonBlocking)
        self.stream = int(self._stream)

    @property
    def gpu(self) -> GpuName:
        """Name, compute capability and size of this GPU."""
        properties = self._call("reading the GPU's properties", "cudaGetDeviceProperties", self._index)
        name = properties.name.decode() if isinstance(properties.name, bytes) else str(properties.name)
        capability = f"sm{properties.major}{properties.minor}"
        return GpuName(self._index, name.rstrip("\0"), capability, int(properties.multiProcessorCount))

    def allocate(self, nbytes: int) -> int:
        """Return the address of new zeroed device memory.

        Raises:
            MemoryError: not enough device memory.
        """
        with self.in_use():
            address = int(self._call(f"allocating {nbytes} bytes on the device", "cudaMalloc", max(nbytes, 1)))
            self._addresses.add(address)
            self._call("clearing memory", "cudaMemsetAsync", address, 0, max(nbytes, 1), self._stream)
        return address

    def allocate_on_host(self, nbytes: int) -> int:
        """Return the address of page-locked host memory, which asynchronous copies require."""
        with self.in_use():
            return int(self._call(f"allocating {nbytes} bytes of page-locked memory", "cudaMallocHost", max(nbytes, 1)))

    def free(self, address: int) -> None:
        """Free device memory; does nothing after `close`. CUDA itself waits for work that still uses it."""
        if self._capturing:
            self._deferred.append(lambda: self.free(address))
            return
        with suppress(KeyError):
            self._addresses.remove(address)
            self._cuda.cudaFree(address)

    def free_on_host(self, address: int) -> None:
        """Free page-locked host memory, after `close` too: until then the caller may read what came from the device."""
        if self._capturing:
            self._deferred.append(lambda: self.free_on_host(address))
        else:
            self._cuda.cudaFreeHost(address)

    def upload(self, address: int, host: int, nbytes: int) -> None:
        """Copy page-locked host memory to the device, asynchronously: it must not change until the next `wait`."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._copy("copying to the device", destination=address, source=host, nbytes=nbytes, kind=kind)

    def download(self, host: int, address: int, nbytes: int) -> None:
        """Copy from the device to page-locked host memory, which holds the values after the next `wait`."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._copy("copying from the device", destination=host, source=address, nbytes=nbytes, kind=kind)

    def copy(self, destination: int, source: int, nbytes: int) -> None:
        """Copy within the device, asynchronously."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        self._copy("copying on the device", destination=destination, source=source, nbytes=nbytes, kind=kind)

    def wait(self) -> None:
        """Wait until the device has finished all work on the stream."""
        with self.in_use():
            self._call("waiting for the device", "cudaStreamSynchronize", self._stream)
            self.waits += 1

    def capture(self, work: Callable[[], None]) -> Any:
        """Record what `work` launches on the stream, without running it, as a CUDA graph for `launch`.

        Freeing memory would break the capture, so it is deferred, and Python's garbage collector is disabled meanwhile.

        Raises:
            BackendError: some of the work cannot be captured. The stream is unchanged.
        """
        collects = gc.isenabled()
        gc.disable()
        try:
            with self.in_use():
                return self._capture(work)
        finally:
            if collects:
                gc.enable()

    def _capture(self, work: Callable[[], None]) -> Any:
        cuda = self._cuda
        # Other threads may use CUDA meanwhile: only the work of this one has to be capturable.
        mode = cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("capturing a graph", "cudaStreamBeginCapture", self._stream, mode)
        self._capturing = True
        try:
            work()
        except BaseException:
            _, unfinished = cuda.cudaStreamEndCapture(self._stream)  # ends the capture; the error is already being raised
            if unfinished is not None and int(unfinished):
                cuda.cudaGraphDestroy(unfinished)
            raise
        else:
            graph = self._call("capturing a graph", "cudaStreamEndCapture", self._stream)
        finally:
            self._capturing = False
            while self._deferred:
                self._deferred.pop()()
        try:
            executable = self._call("instantiating a graph", "cudaGraphInstantiate", graph, 0)
        finally:
            cuda.cudaGraphDestroy(graph)
        self._graphs.append(executable)
        return executable

    def launch(self, graph: Any) -> None:
        """Run a captured graph."""
        with self.in_use():
            self._call("launching a graph", "cudaGraphLaunch", graph, self._stream)

    def drop_graph(self, graph: Any) -> None:
        """Free a captured graph; does nothing after `close`."""
        if self._capturing:
            self._deferred.append(lambda: self.drop_graph(graph))
            return
        with suppress(ValueError):
            self._graphs.remove(graph)
            self._cuda.cudaGraphExecDestroy(graph)

    def drop_graphs(self) -> None:
        """Free all captured graphs. Must come before freeing what they launch."""
        with suppress(IndexError):  # none is left; another thread may drop one meanwhile
            while True:
                self._cuda.cudaGraphExecDestroy(self._graphs.pop())

    def close(self) -> None:
        """Free the stream, all graphs and all device memory; closing again does nothing."""
        with self.lock:
            if not self._open:
                return
            self._open = False
            self._cuda.cudaSetDevice(self._index)
            self._cuda.cudaStreamSynchronize(self._stream)  # its error code does not matter: everything has to be freed
            self.drop_graphs()
            with suppress(KeyError):  # none is left; another thread may free one meanwhile
                while True:
                    self._cuda.cudaFree(self._addresses.pop())
            self._cuda.cudaStreamDestroy(self._stream)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Keep other threads from closing the device meanwhile, and make this GPU the thread's current one.

        Another forecaster in the same thread may use another GPU.

        Raises:
            BackendError: the device is closed.
        """
        with self.lock:
            if not self._open:
                raise BackendError("the backend is closed\n  open another one")
            self._call("selecting the GPU", "cudaSetDevice", self._index)
            yield

    def _copy(self, action: str, destination: int, source: int, nbytes: int, kind: Any) -> None:
        with self.in_use():
            self._call(action, "cudaMemcpyAsync", destination, source, nbytes, kind, self._stream)

    def _call(self, action: str, function: str, *arguments: Any) -> Any:
        error, *values = getattr(self._cuda, function)(*arguments)
        codes = self._cuda.cudaError_t
        if error == codes.cudaErrorMemoryAllocation:
            raise MemoryError(f"{action} failed")
        if error != codes.cudaSuccess:
            raise BackendError(f"CUDA failed while {action}: {_error_text(self._cuda, error)}")
        return values[0] if values else None


def is_gpu_name(requested: str) -> bool:
    """Whether a user means an NVIDIA GPU: cuda, cuda:1 or 1."""
    return re.fullmatch(_GPU_NAME, requested) is not None


def _parse_index(backend: str, requested: str | None) -> int:
    if requested in (None, "auto"):
        return 0
    found = re.fullmatch(_GPU_NAME, str(requested))
    if not found:
        raise BackendMissingError(
            f"the {backend} backend has no device '{requested}'\n  expected cuda, or cuda:1 for the second GPU"
        )
    return int(found[1] or 0)


def _check_available(cuda: Any, backend: str, index: int) -> int:
    try:
        error, count = cuda.cudaGetDeviceCount()
        reason = None if error == cuda.cudaError_t.cudaSuccess else _error_text(cuda, error)
    except RuntimeError as missing:  # cuda-bindings 12.8 reports a missing driver this way
        reason, count = str(missing), 0
    if reason is not None:
        raise BackendMissingError(
            f"the {backend} backend finds no NVIDIA GPU: {reason}\n"
            f"  expected a GPU whose driver supports cuda-bindings {_bindings_version()}; for an older driver: "
            "pip install 'cuda-bindings<13' (CUDA 12), 'cuda-bindings==12.8.*' (JetPack 6); or --backend cpu"
        )
    if index >= count:
        available = ", ".join(f"cuda:{number}" for number in range(count))
        raise BackendMissingError(f"the {backend} backend finds no device cuda:{index}\n  expected one of: {available}")
    return index


def _bindings_version() -> str:
    try:
        return version("cuda-bindings")
    except PackageNotFoundError:
        return "(unknown version)"


def _error_text(cuda: Any, error: Any) -> str:
    _, text = cuda.cudaGetErrorString(error)
    return text.decode() if isinstance(text, bytes) else str(text)
