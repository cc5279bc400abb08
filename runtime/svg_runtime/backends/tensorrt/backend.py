"""Backends `tensorrt` and `tensorrt-rtx`: engines on one stream, and a whole forecast as one CUDA graph.

Every bound graph is an execution context of its own, whose addresses never change. All run in order on one stream, so they
share the memory for what lies between their layers.
"""

from __future__ import annotations

import contextlib
import logging
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

from svg_common.command import require_modules
from svg_common.progress import ProgressListener
from svg_runtime.backends.base import BoundGraph, Buffer, Chain
from svg_runtime.backends.computed import ComputedIn
from svg_runtime.backends.gpu_options import GpuOptions, no_effect
from svg_runtime.backends.nvidia.arrays import DeviceArrays, DeviceBuffer, check_unaliased
from svg_runtime.backends.nvidia.device import CudaDevice
from svg_runtime.backends.tensorrt.execution import ExecutionMaker
from svg_runtime.backends.tensorrt.local import LocalEngines
from svg_runtime.backends.tensorrt.nvidia_library import LIBRARIES, Library, load_library
from svg_runtime.bundle.contract import FUSED, SHUFFLED_DECODER
from svg_runtime.bundle.manifest import Precision
from svg_runtime.bundle.reader import Bundle
from svg_runtime.errors import BackendError

_LOG = logging.getLogger(__name__)
_FUSED_REPLACES = ("predictor", "decoder")  # what a forecast on the fused graphs does not run by itself


class _Execution:
    """An execution context with all its addresses, and the memory that it computes in.

    Args:
        library: that executes it.
        device: whose stream it is launched on.
        graph_name: for messages.
        context: TensorRT's IExecutionContext.
        keep: what must live as long.
    """

    def __init__(self, library: Library, device: CudaDevice, graph_name: str, context: Any, keep: list[Any]) -> None:
        self._library = library
        self._device = device
        self._graph_name = graph_name
        self._context = context
        self._keep = keep

    def run(self) -> None:
        """Launch it; the host does not wait.

        Raises:
            BackendError: TensorRT or CUDA failed, or the backend is closed.
        """
        self._device.make_current()
        with self._library.collect_messages() as messages:
            launched = self._context.execute_async_v3(self._device.stream)
        if not launched:
            words = "; ".join(message for is_error, message in messages if is_error)
            raise BackendError(f"{self._library.name} failed while running {self._graph_name}: {words or 'no reason given'}")

    def check_capturable(self) -> None:
        """TensorRT-RTX knows beforehand.

        Raises:
            BackendError: it cannot be part of a CUDA graph.
        """
        ask = getattr(self._context, "is_stream_capturable", None)
        if ask is not None and not ask(self._device.stream):
            raise BackendError(f"{self._library.name} cannot capture {self._graph_name} as a CUDA graph")

    def release(self) -> None:
        """Let go of the context: it cannot run again."""
        self._context = None
        self._keep.clear()


class _Captured:
    """A CUDA graph of several bound graphs."""

    def __init__(self, device: CudaDevice, cuda_graph: Any, graphs: Sequence[BoundGraph]) -> None:
        self._device = device
        self._cuda_graph = cuda_graph
        self._graphs = graphs  # alive as long as their addresses are replayed
        weakref.finalize(self, device.drop_graph, cuda_graph)

    def run(self) -> None:
        """Replay it; the host does not wait.

        Raises:
            BackendError: CUDA failed, or the backend is closed.
        """
        self._device.launch(self._cuda_graph)


class TensorrtBackend(DeviceArrays):
    """Native TensorRT or TensorRT-RTX on one NVIDIA GPU.

    Args:
        name: tensorrt or tensorrt-rtx.
        bundle: the opened bundle.
        precision: fp32 or fp16.
        device: cuda, cuda:1; None is the first GPU.
        samples: the largest batch: engines that are built here are built for it.
        choices: of the user.
        progress: who is told while engines are built.

    Attributes:
        stream: handle of the CUDA stream that everything runs on.

    Raises:
        MissingExtraError: the library, cuda-bindings or filelock is not installed.
        BackendMissingError: the library does not load, there is no such GPU, or the bundle has no such precision.
        EngineError: an engine cannot be built, or is not what the bundle says.
        UsageError: a choice that the backend has no use for.
    """

    prefers_fused = True

    def __init__(
        self,
        name: str,
        bundle: Bundle,
        precision: Precision,
        device: str | None,
        samples: int,
        choices: GpuOptions,
        progress: ProgressListener,
    ) -> None:
        if choices.cpu_fallback:
            raise no_effect(["--cpu-fallback"], name, reason=", which runs everything on the GPU")
        require_modules(f"the {name} backend", name, LIBRARIES[name], "filelock")
        self.name, self.precision = name, precision
        graphs = set(bundle.variant(precision).graphs) - {SHUFFLED_DECODER}
        self._library = load_library(name)
        self._device = CudaDevice(name, name, device)
        try:
            self.stream, gpu = self._device.stream, self._device.gpu
            self._engines = LocalEngines(self._library, bundle, precision, gpu, samples, choices, progress)
            self._engines.prepare(sorted(graphs - set(_FUSED_REPLACES) if set(FUSED) <= graphs else graphs))
            self._contexts = ExecutionMaker(self._library, self._device, self._engines)
        except BaseException:
            self._device.close()
            raise
        self._wants_graph = choices.cuda_graph
        self._executions: weakref.WeakSet[_Execution] = weakref.WeakSet()
        self.description = f"{name} ({self._library.version}) on {gpu.name} ({gpu.compute_capability}), {precision}"

    @property
    def computed_in(self) -> ComputedIn:
        """Layers with weights per graph and precision."""
        return self._engines.computed_in

    def bind(self, graph: str, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> BoundGraph:
        """A context with all its addresses. What nobody asked for gets memory that nobody reads.

        Raises:
            EngineError: the engine cannot be built or loaded.
            UsageError: the batch is larger than the engine was built for.
        """
        given = {name: _device_buffer(buffer) for name, buffer in inputs.items()}
        wanted = {name: _device_buffer(buffer) for name, buffer in outputs.items()}
        check_unaliased(graph, given, wanted)
        self._device.make_current()
        context, keep = self._contexts.make(graph, {name: buffer.shape for name, buffer in given.items()})
        unread = {
            name: _device_buffer(self.allocate(shape, dtype))
            for name, (shape, dtype) in self._contexts.outputs(graph, context).items()
            if name not in wanted
        }
        tensors = {**given, **wanted, **unread}
        for name, buffer in tensors.items():
            if not context.set_tensor_address(name, buffer.address):
                raise BackendError(f"{self.name} rejects the address of '{name}' of {graph}")
        execution = _Execution(self._library, self._device, graph, context, keep=[*tensors.values(), *keep])
        self._executions.add(execution)
        return execution

    def chain(self, graphs: Sequence[BoundGraph]) -> BoundGraph:
        """A CUDA graph of all of them; where it is not wanted or they cannot be captured, they are launched one by one."""
        links = Chain(tuple(graphs))
        if self._wants_graph is False or not graphs:
            return links
        links.run()  # what an engine does but once, such as compiling kernels, cannot be captured
        self._device.wait()
        try:
            for graph in graphs:
                if isinstance(graph, _Execution):
                    graph.check_capturable()
            cuda_graph = self._device.capture(links.run)
        except BackendError as error:
            if self._wants_graph:
                raise
            self._without_graph(str(error))
            with contextlib.suppress(BackendError):  # an error that the library still keeps must not meet the first forecast
                links.run()
            self._device.wait()
            return links
        return _Captured(self._device, cuda_graph, graphs)

    def close(self) -> None:
        """Free the device; what is bound cannot be run any more. Closing again does nothing."""
        with contextlib.suppress(BackendError, MemoryError):  # whatever the device reports, everything has to be freed
            self._device.wait()  # a context must not go while it runs
        self._device.drop_graphs()
        for execution in self._executions:
            execution.release()
        try:
            self._contexts.close()
        finally:
            self._device.close()

    def _without_graph(self, reason: str) -> None:
        """Slower, but right: said, and not an error."""
        note = "; without a CUDA graph"
        if note not in self.description:
            self.description += note
            _LOG.warning("running without a CUDA graph: %s", reason)


def _device_buffer(buffer: Buffer) -> DeviceBuffer:
    assert isinstance(buffer, DeviceBuffer)
    return buffer
