"""Backends `tensorrt` and `tensorrt-rtx`: engines on one stream, and a whole forecast as one CUDA graph.

Every bound graph is a TensorRT execution context of its own, called execution here, whose addresses never change. All run in
order on one stream, so they share the memory for activations.
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
from svg_runtime.backends.tensorrt.execution import ExecutionFactory
from svg_runtime.backends.tensorrt.local import LocalEngines
from svg_runtime.backends.tensorrt.nvidia_library import LIBRARIES, Library, load_library, refuse_full_memory
from svg_runtime.backends.tensorrt.ready import refuse_unbuilt
from svg_runtime.bundle.contract import FUSED, SHUFFLED_DECODER
from svg_runtime.bundle.manifest import Precision
from svg_runtime.bundle.reader import Bundle
from svg_runtime.errors import BackendError

_LOG = logging.getLogger(__name__)
_FUSED_REPLACES = ("predictor", "decoder")  # graphs that a forecast on the fused graphs does not need


class _BoundExecution:
    """An execution context whose addresses are all set.

    Args:
        library: TensorRT or TensorRT-RTX.
        device: the GPU, on whose stream it is launched.
        graph_name: for messages.
        execution: TensorRT's IExecutionContext.
        keep: buffers and memory that must live as long.
    """

    def __init__(self, library: Library, device: CudaDevice, graph_name: str, execution: Any, keep: list[Any]) -> None:
        self._library = library
        self._device = device
        self._graph_name = graph_name
        self._execution = execution
        self._keep = keep

    def run(self) -> None:
        """Launch it on the stream; the host does not wait.

        Raises:
            BackendError: TensorRT or CUDA failed, or the backend is closed.
            MemoryError: not enough device memory.
        """
        with self._device.in_use(), self._library.collect_messages() as messages:
            launched = self._execution.execute_async_v3(self._device.stream)
        if not launched:
            message = "; ".join(message for is_error, message in messages if is_error)
            problem = f"{self._library.name} failed while running {self._graph_name}: {message or 'no reason given'}"
            refuse_full_memory(problem)
            raise BackendError(problem)

    def check_capturable(self) -> None:
        """Ask TensorRT-RTX whether it can be captured; TensorRT has no such query.

        Raises:
            BackendError: it cannot be part of a CUDA graph.
        """
        is_capturable = getattr(self._execution, "is_stream_capturable", None)
        if is_capturable is not None and not is_capturable(self._device.stream):
            raise BackendError(f"{self._library.name} cannot capture {self._graph_name} as a CUDA graph")

    def release(self) -> None:
        """Release the execution context: it cannot run again."""
        self._execution = None
        self._keep.clear()


class _Captured:
    """A chain of bound graphs, captured as one CUDA graph."""

    def __init__(self, device: CudaDevice, cuda_graph: Any, graphs: Sequence[BoundGraph]) -> None:
        self._device = device
        self._cuda_graph = cuda_graph
        self._graphs = graphs  # keeps their buffers alive
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
        device: cuda, cuda:1; None means the first GPU.
        samples: the largest batch, for which engines are built.
        gpu_options: the user's options.
        progress: listener for the building of engines.

    Attributes:
        stream: handle of the CUDA stream that everything runs on.

    Raises:
        MissingExtraError: the library, cuda-bindings or filelock is not installed.
        BackendMissingError: the library does not load, there is no such GPU, or the bundle has no such precision.
        EngineNotBuiltError: an engine is missing, and the options say not to build it.
        EngineError: an engine cannot be built, is damaged and not to be built again, or does not match the manifest.
        UsageError: an option that has no effect with this backend.
    """

    prefers_fused = True

    def __init__(
        self,
        name: str,
        bundle: Bundle,
        precision: Precision,
        device: str | None,
        samples: int,
        gpu_options: GpuOptions,
        progress: ProgressListener,
    ) -> None:
        if gpu_options.cpu_fallback:
            raise no_effect(["--cpu-fallback"], name, reason=", which runs everything on the GPU")
        require_modules(f"the {name} backend", name, LIBRARIES[name], "filelock")
        self.name = name
        self.precision = precision
        self.max_batch = samples
        graphs = set(bundle.variant(precision).graphs) - {SHUFFLED_DECODER}
        needed = sorted(graphs - set(_FUSED_REPLACES) if set(FUSED) <= graphs else graphs)
        self._device = CudaDevice(name, name, device)
        try:
            if not gpu_options.build_engines:  # before the library is loaded
                refuse_unbuilt(
                    library=name,
                    bundle=bundle,
                    precision=precision,
                    graph_names=needed,
                    max_batch=samples,
                    cache_dir=gpu_options.cache_dir,
                )
            self._library = load_library(name)
            self.stream = self._device.stream
            gpu = self._device.gpu
            self._engines = LocalEngines(
                library=self._library,
                bundle=bundle,
                precision=precision,
                gpu=gpu,
                max_batch=samples,
                gpu_options=gpu_options,
                progress=progress,
            )
            self._engines.prepare(needed)
            self._factory = ExecutionFactory(self._library, self._device, self._engines)
        except BaseException:
            self._device.close()
            raise
        self._wants_graph = gpu_options.cuda_graph
        self._bound: weakref.WeakSet[_BoundExecution] = weakref.WeakSet()
        self.description = (
            f"{name} ({self._library.version}) on {gpu.name} ({gpu.compute_capability}), {precision} graphs, strongly typed"
        )

    @property
    def computed_in(self) -> ComputedIn:
        """Number of layers with weights per graph and precision."""
        return self._engines.computed_in

    def bind(self, graph: str, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> BoundGraph:
        """Create an execution context and set all its addresses; unused outputs get memory of their own.

        Raises:
            EngineError: the engine cannot be built or loaded.
            UsageError: the batch is larger than the engine was built for.
            BackendError: TensorRT refuses an address, or the backend is closed.
            MemoryError: not enough device memory.
        """
        input_buffers = {name: _device_buffer(buffer) for name, buffer in inputs.items()}
        output_buffers = {name: _device_buffer(buffer) for name, buffer in outputs.items()}
        check_unaliased(graph, input_buffers, output_buffers)
        with self._device.in_use():
            return self._bind(graph, input_buffers, output_buffers)

    def _bind(self, graph: str, inputs: dict[str, DeviceBuffer], outputs: dict[str, DeviceBuffer]) -> BoundGraph:
        execution, keep = self._factory.make(graph, {name: buffer.shape for name, buffer in inputs.items()})
        unread = {
            name: _device_buffer(self.allocate(shape, dtype))
            for name, (shape, dtype) in self._factory.outputs(graph, execution).items()
            if name not in outputs
        }
        tensors = {**inputs, **outputs, **unread}
        for name, buffer in tensors.items():
            if not execution.set_tensor_address(name, buffer.address):
                raise BackendError(f"{self.name} rejects the address of '{name}' of {graph}")
        bound = _BoundExecution(
            library=self._library,
            device=self._device,
            graph_name=graph,
            execution=execution,
            keep=[*tensors.values(), *keep],
        )
        self._bound.add(bound)
        return bound

    def chain(self, graphs: Sequence[BoundGraph]) -> BoundGraph:
        """Capture all of `graphs` as a CUDA graph; if that is not wanted or not possible, they are launched one by one."""
        links = Chain(tuple(graphs))
        if self._wants_graph is False or not graphs:
            return links
        links.run()  # what an engine does only once, such as compiling kernels, cannot be captured
        self._device.wait()
        self._factory.save_kernels()  # a service runs for months, and may end without `close`
        try:
            for graph in graphs:
                if isinstance(graph, _BoundExecution):
                    graph.check_capturable()
            cuda_graph = self._device.capture(links.run)
        except (BackendError, MemoryError) as error:
            if self._wants_graph:
                raise
            self._without_graph(str(error))
            with contextlib.suppress(BackendError, MemoryError):  # a pending error must not hit the first forecast
                links.run()
            self._device.wait()
            return links
        return _Captured(self._device, cuda_graph, graphs)

    def close(self) -> None:
        """Free the device, after what another thread runs or binds just now. Closing again does nothing."""
        with self._device.lock:
            with contextlib.suppress(BackendError, MemoryError):  # its errors do not matter: everything has to be freed
                self._device.wait()  # an execution context must not be freed while it runs
            self._device.drop_graphs()
            for bound in self._bound:
                bound.release()
            try:
                self._factory.close()
            finally:
                self._device.close()

    def _without_graph(self, reason: str) -> None:
        """Log that forecasts are correct but slower; not an error."""
        note = "; without a CUDA graph"
        if note not in self.description:
            self.description += note
            _LOG.warning("running without a CUDA graph: %s", reason)


def _device_buffer(buffer: Buffer) -> DeviceBuffer:
    assert isinstance(buffer, DeviceBuffer)
    return buffer
