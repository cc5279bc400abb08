"""One NVIDIA GPU and one stream on it. Everything is in order on that stream, and the host waits only in `wait`."""

from __future__ import annotations

import gc
import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from svg_common.command import require_modules
from svg_common.signals import defer_interrupts
from svg_runtime.errors import BackendError, BackendMissingError


@dataclass(frozen=True)
class GpuName:
    """What engines are built for."""

    index: int
    name: str  # NVIDIA GeForce RTX 4070
    compute_capability: str  # sm89
    multiprocessors: int

    @property
    def model(self) -> str:
        """Tells GPUs apart that are called the same: every Orin is "Orin", from that of a Nano to that of an AGX."""
        return f"{self.name}, {self.multiprocessors} multiprocessors"


def load_runtime() -> Any:
    """The CUDA runtime's functions: each returns a tuple of an error code and what it gives.

    Raises:
        BackendMissingError: cuda-bindings does not load.
    """
    try:
        with defer_interrupts():
            from cuda.bindings import runtime
    except (ImportError, OSError, RuntimeError) as error:  # a wheel for another Python or C library
        raise BackendMissingError(f"cuda-bindings is installed but does not load: {error}") from error
    return runtime


class CudaDevice:
    """A GPU with a stream of its own, which does not wait for other streams.

    Args:
        backend: that wants it, for messages.
        extra: to install if cuda-bindings is missing.
        wanted: which one: cuda, cuda:1, 1; None or "auto" is the first.

    Attributes:
        stream: its handle.
        waits: how often the host has waited for the device.

    Raises:
        MissingExtraError: cuda-bindings is not installed.
        BackendMissingError: no driver, no GPU, or not the one that is wanted.
    """

    def __init__(self, backend: str, extra: str, wanted: str | None) -> None:
        require_modules(f"the {backend} backend", extra, "cuda.bindings")
        self._cuda = load_runtime()
        index = _parse_index(backend, wanted)
        self._index = _check_there(self._cuda, backend, index)
        self.waits = 0
        self._live: dict[int, Callable[[int], Any]] = {}  # address -> what frees it
        self._graphs: list[Any] = []
        self._open, self._capturing = True, False
        self._given_up: list[Callable[[], None]] = []  # frees what was given up while a graph was captured
        self.make_current()
        self._stream = self._call("creating a stream", "cudaStreamCreateWithFlags", self._cuda.cudaStreamNonBlocking)
        self.stream = int(self._stream)

    @property
    def gpu(self) -> GpuName:
        """What it is."""
        properties = self._call("reading the GPU's properties", "cudaGetDeviceProperties", self._index)
        name = properties.name.decode() if isinstance(properties.name, bytes) else str(properties.name)
        capability = f"sm{properties.major}{properties.minor}"
        return GpuName(self._index, name.rstrip("\0"), capability, int(properties.multiProcessorCount))

    def allocate(self, nbytes: int) -> int:
        """Address of new zeroed device memory.

        Raises:
            MemoryError: the device has not so much left.
        """
        self.make_current()
        address = int(self._call(f"allocating {nbytes} bytes on the device", "cudaMalloc", max(nbytes, 1)))
        self._live[address] = self._cuda.cudaFree
        self._call("clearing memory", "cudaMemsetAsync", address, 0, max(nbytes, 1), self._stream)
        return address

    def allocate_on_host(self, nbytes: int) -> int:
        """Address of page-locked host memory, which copies need to be asynchronous."""
        self.make_current()
        address = int(self._call(f"allocating {nbytes} bytes of page-locked memory", "cudaMallocHost", max(nbytes, 1)))
        self._live[address] = self._cuda.cudaFreeHost
        return address

    def free(self, address: int) -> None:
        """Free memory of either kind; nothing after `close`. CUDA itself waits for what still uses it."""
        if self._capturing:
            self._given_up.append(lambda: self.free(address))
            return
        release = self._live.pop(address, None)
        if release is not None:
            release(address)

    def upload(self, address: int, host: int, nbytes: int) -> None:
        """Page-locked host memory to the device, asynchronously: the host memory must stay as it is until the next `wait`."""
        self._copy("copying to the device", address, host, nbytes, self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice)

    def download(self, host: int, address: int, nbytes: int) -> None:
        """The device to page-locked host memory, which holds the values after the next `wait`."""
        self._copy("copying from the device", host, address, nbytes, self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost)

    def copy(self, target: int, source: int, nbytes: int) -> None:
        """Within the device."""
        self._copy("copying on the device", target, source, nbytes, self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToDevice)

    def wait(self) -> None:
        """Until the device has done everything."""
        self.make_current()
        self._call("waiting for the device", "cudaStreamSynchronize", self._stream)
        self.waits += 1

    def capture(self, work: Callable[[], None]) -> Any:
        """What `work` puts on the stream, as a graph for `launch`; none of it happens.

        Freeing anything would spoil the capture: it is put off, and Python's collector, which could free an engine, rests.

        Raises:
            BackendError: something in it cannot be captured. The stream is as it was.
        """
        collects = gc.isenabled()
        gc.disable()
        try:
            return self._capture(work)
        finally:
            if collects:
                gc.enable()

    def _capture(self, work: Callable[[], None]) -> Any:
        cuda = self._cuda
        self.make_current()
        # Other threads may use CUDA meanwhile: only what this one does must be fit to be captured.
        mode = cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("capturing a graph", "cudaStreamBeginCapture", self._stream, mode)
        self._capturing = True
        try:
            work()
        except BaseException:
            _, unfinished = cuda.cudaStreamEndCapture(self._stream)  # leaves the capture; the reason is under way already
            if unfinished is not None and int(unfinished):
                cuda.cudaGraphDestroy(unfinished)
            raise
        else:
            graph = self._call("capturing a graph", "cudaStreamEndCapture", self._stream)
        finally:
            self._capturing = False
            while self._given_up:
                self._given_up.pop()()
        try:
            made = self._call("instantiating a graph", "cudaGraphInstantiate", graph, 0)
        finally:
            cuda.cudaGraphDestroy(graph)
        self._graphs.append(made)
        return made

    def launch(self, graph: Any) -> None:
        """Run a captured graph."""
        self.make_current()
        self._call("launching a graph", "cudaGraphLaunch", graph, self._stream)

    def drop_graph(self, graph: Any) -> None:
        """Free a captured graph; nothing after `close`."""
        if self._capturing:
            self._given_up.append(lambda: self.drop_graph(graph))
        elif graph in self._graphs:
            self._graphs.remove(graph)
            self._cuda.cudaGraphExecDestroy(graph)

    def drop_graphs(self) -> None:
        """Free all captured graphs, before what they launch goes."""
        for graph in self._graphs:
            self._cuda.cudaGraphExecDestroy(graph)
        self._graphs.clear()

    def close(self) -> None:
        """Free the stream, all graphs and all memory; closing again does nothing."""
        if not self._open:
            return
        self._open = False
        self._cuda.cudaSetDevice(self._index)
        self._cuda.cudaStreamSynchronize(self._stream)  # whatever it reports, everything has to be freed
        self.drop_graphs()
        for address, release in self._live.items():
            release(address)
        self._live.clear()
        self._cuda.cudaStreamDestroy(self._stream)

    def make_current(self) -> None:
        """Make it the thread's current GPU, before anything else: another forecaster in the thread may use another one.

        Raises:
            BackendError: it is closed.
        """
        if not self._open:
            raise BackendError("the backend is closed\n  open another one")
        self._call("selecting the GPU", "cudaSetDevice", self._index)

    def _copy(self, action: str, target: int, source: int, nbytes: int, kind: Any) -> None:
        self.make_current()
        self._call(action, "cudaMemcpyAsync", target, source, nbytes, kind, self._stream)

    def _call(self, action: str, function: str, *arguments: Any) -> Any:
        error, *values = getattr(self._cuda, function)(*arguments)
        codes = self._cuda.cudaError_t
        if error == codes.cudaErrorMemoryAllocation:
            raise MemoryError(f"{action} failed")
        if error != codes.cudaSuccess:
            raise BackendError(f"CUDA failed while {action}: {_error_text(self._cuda, error)}")
        return values[0] if values else None


def _parse_index(backend: str, wanted: str | None) -> int:
    if wanted in (None, "auto", "cuda"):
        return 0
    found = re.fullmatch(r"(?:cuda:)?(\d{1,3})", str(wanted))
    if not found:
        raise BackendMissingError(
            f"the {backend} backend has no device '{wanted}'\n  expected cuda, or cuda:1 for the second GPU"
        )
    return int(found[1])


def _check_there(cuda: Any, backend: str, index: int) -> int:
    try:
        error, count = cuda.cudaGetDeviceCount()
        reason = None if error == cuda.cudaError_t.cudaSuccess else _error_text(cuda, error)
    except RuntimeError as missing:  # so cuda-bindings 12.8 says that there is no driver
        reason, count = str(missing), 0
    if reason is not None:
        raise BackendMissingError(
            f"the {backend} backend finds no NVIDIA GPU: {reason}\n"
            f"  expected a GPU whose driver supports cuda-bindings {_bindings_version()}; for an older driver: "
            "pip install 'cuda-bindings<13' (CUDA 12), 'cuda-bindings==12.8.*' (JetPack 6); or --backend cpu"
        )
    if index >= count:
        there = ", ".join(f"cuda:{number}" for number in range(count))
        raise BackendMissingError(f"the {backend} backend finds no device cuda:{index}\n  expected one of: {there}")
    return index


def _bindings_version() -> str:
    try:
        return version("cuda-bindings")
    except PackageNotFoundError:
        return "(unknown version)"


def _error_text(cuda: Any, error: Any) -> str:
    _, text = cuda.cudaGetErrorString(error)
    return text.decode() if isinstance(text, bytes) else str(text)
