"""The backends `cuda` and `ort-tensorrt`: ONNX Runtime on an NVIDIA GPU, bound to device memory."""

from __future__ import annotations

import contextlib
import itertools
import logging
import weakref
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from svg_common.errors import first_line
from svg_common.progress import ProgressListener
from svg_runtime.backends.base import BoundGraph, Buffer, Chain
from svg_runtime.backends.computed import describe
from svg_runtime.backends.gpu_options import GpuOptions
from svg_runtime.backends.nvidia.arrays import DeviceArrays, DeviceBuffer, check_unaliased
from svg_runtime.backends.nvidia.device import CudaDevice
from svg_runtime.backends.onnxruntime.cached_engines import OrtEngines, refuse_unrecorded
from svg_runtime.backends.onnxruntime.placement import NO_GRAPH, PlacedSession, describe_placement
from svg_runtime.backends.onnxruntime.providers import Provider, check_gpu_options, load_provider, wants_cuda_graph
from svg_runtime.backends.onnxruntime.session import BoundSession
from svg_runtime.bundle.contract import SHUFFLED_DECODER
from svg_runtime.bundle.manifest import BATCH, GraphSpec, Precision
from svg_runtime.bundle.reader import Bundle
from svg_runtime.errors import BackendError, BundleError, UsageError

_LOG = logging.getLogger(__name__)


class OrtGpuBackend(DeviceArrays):
    """ONNX Runtime's CUDA or TensorRT execution provider.

    The provider uses our device's stream, where copies and runs are in order. The host does not wait for a CUDA graph or an
    engine of TensorRT; it waits for every other run (`PlacedSession.asynchronous`).

    CUDA graphs (`cuda` only, from ONNX Runtime 1.30 on): ONNX Runtime runs a graph twice before it captures it, all
    within the first run (onnxruntime #32243), which would spoil a state that is updated in place. Here no run overwrites its
    inputs (`check_unaliased`: a state is read from one buffer and written to another), so a repeated run gives the same outputs
    and nothing has to be backed up. Each bound graph is captured separately, because its addresses are its own. All of them are
    in device memory, because an input on the host would keep its first value (#29782).

    Args:
        name: cuda or ort-tensorrt.
        bundle: the opened bundle.
        precision: fp32 or fp16. `ort-tensorrt` runs fp16 in weakly typed networks: TensorRT may then compute float32 layers,
            such as the recurrent parts, in float16 too; `tensorrt` never does.
        device: cuda, cuda:1, ...; None or "auto" means the first GPU.
        samples: the largest batch that will be used; only TensorRT engines are limited to it.
        gpu_options: the user's options.
        progress: listener for the building of engines.

    Attributes:
        stream: handle of the CUDA stream that everything runs on.

    Raises:
        UsageError: an option that has no effect with this backend.
        MissingExtraError: onnxruntime or cuda-bindings is not installed.
        BackendMissingError: no GPU, driver, device or provider; or it is too old, its libraries are missing, or nodes would run
            on the CPU without permission.
        EngineNotBuiltError, EngineError: an engine of TensorRT is missing or damaged, and the options say not to build it.
        BundleError: a graph cannot be loaded.
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
        check_gpu_options(name, gpu_options)
        self._specs = bundle.variant(precision).graphs
        if name == "ort-tensorrt" and not gpu_options.build_engines:  # before libraries are loaded
            refuse_unrecorded(
                specs=self._specs,
                graph_names=_needed(self._specs),
                precision=precision,
                max_batch=samples,
                cache_dir=gpu_options.cache_dir,
            )
        onnxruntime, messages = load_provider(name, bool(gpu_options.cuda_graph))
        self.name = name
        self.precision = precision
        self.max_batch = samples if name == "ort-tensorrt" else None
        self._bound: weakref.WeakSet[_GpuSession] = weakref.WeakSet()
        self._graph_ids = itertools.count(1)  # 0 is ONNX Runtime's own
        self._device = CudaDevice(name, "gpu", device)
        self.stream = self._device.stream
        try:
            gpu = self._device.gpu
            self._provider = Provider(
                backend=name,
                onnxruntime=onnxruntime,
                gpu=gpu,
                stream=self.stream,
                precision=precision,
                max_batch=samples,
                gpu_options=gpu_options,
                cuda_graph=wants_cuda_graph(name, onnxruntime, gpu_options),
                messages=messages,
                engines=OrtEngines(gpu_options.cache_dir, samples) if name == "ort-tensorrt" else None,
            )
            graphs_note = self._load(bundle.graphs(precision), progress)
        except BaseException:
            self._device.close()
            raise
        self.computed_in = {
            graph_name: graph.computed for graph_name, graph in self._graphs.items() if graph.computed is not None
        }
        computed = describe(self.computed_in, unknown="a precision that is not reported")
        library = f"{name} (ONNX Runtime {onnxruntime.__version__}, {gpu.name}), {precision} graphs {computed}"
        self.description = "; ".join(filter(None, [library, describe_placement(self._graphs), graphs_note]))

    def _load(self, contents: Mapping[str, bytes], progress: ProgressListener) -> str:
        """Load all graphs, without CUDA graphs where ONNX Runtime refuses them unasked. Returns what to say of CUDA graphs."""
        try:
            self._graphs = _load_graphs(self._provider, contents, self._specs, progress)
        except BundleError as error:
            if not self._provider.cuda_graph or self._provider.gpu_options.cuda_graph:
                raise
            self._provider = replace(self._provider, cuda_graph=False)
            self._graphs = _load_graphs(self._provider, contents, self._specs, progress)
            return f"no CUDA graphs: {first_line(error)}"
        return "CUDA graphs" if self._provider.cuda_graph else ""

    def bind(self, graph: str, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> BoundGraph:
        """Bind inputs and outputs by address: nothing is copied.

        Raises:
            UsageError: the engines were built for fewer samples.
            BackendError: the backend is closed.
        """
        input_buffers, output_buffers = _on_device(inputs), _on_device(outputs)
        check_unaliased(graph, input_buffers, output_buffers)
        batch = self._batch(graph, input_buffers)
        self._check_batch(batch)
        with self._device.in_use():
            placed = self._graphs[graph]
            session = placed.for_batch(batch)
            bound = _GpuSession(graph, session, session.io_binding(), [input_buffers, output_buffers])
            bound.device = self._device
            bound.input_bindings = {name: self._binding_arguments(buffer) for name, buffer in input_buffers.items()}
            bound.bind_inputs()
            for name, buffer in output_buffers.items():
                bound.binding.bind_output(name, *self._binding_arguments(buffer))
            bound.asynchronous = placed.asynchronous and not placed.mixed
            bound.mixed = placed.mixed
            bound.options = self._run_options(bound)
            bound.hint = NO_GRAPH if self._provider.cuda_graph else ""
            self._bound.add(bound)
        return bound

    def chain(self, graphs: Sequence[BoundGraph]) -> BoundGraph:
        """Return the graphs as a plain sequence: they are launched one by one."""
        return Chain(tuple(graphs))

    def close(self) -> None:
        """Free sessions and device, after what another thread runs or binds just now; closing again does nothing."""
        with self._device.lock:
            with contextlib.suppress(BackendError, MemoryError):  # its errors do not matter: everything has to be freed
                self._device.wait()
            for bound in self._bound:
                bound.release()  # the provider uses the stream until its session is gone
            self._graphs.clear()
            self._device.close()

    def _binding_arguments(self, buffer: DeviceBuffer) -> tuple[str, int, Any, tuple[int, ...], int]:
        return "cuda", self._provider.gpu.index, buffer.dtype.type, buffer.shape, buffer.address

    def _run_options(self, bound: _GpuSession) -> Any:
        options = self._provider.onnxruntime.RunOptions()
        if not bound.asynchronous:
            return options
        # Runs are in order on the stream, and only `read` needs to wait. (Replays of CUDA graphs respect this since
        # onnxruntime #28686.)
        options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        if self._provider.cuda_graph:
            number = next(self._graph_ids)
            options.add_run_config_entry("gpu_graph_id", str(number))
            weakref.finalize(bound, _drop_graph, weakref.ref(bound.session), number).atexit = False
        return options

    def _batch(self, graph: str, inputs: Mapping[str, DeviceBuffer]) -> int:
        axes = [pair for spec in self._specs[graph].inputs for pair in zip(spec.shape, inputs[spec.name].shape, strict=True)]
        return max((size for axis, size in axes if axis == BATCH), default=1)

    def _check_batch(self, batch: int) -> None:
        largest = self._provider.max_batch
        if self.name == "ort-tensorrt" and batch > largest:
            raise UsageError(
                f"the ort-tensorrt backend was opened for up to {largest} samples, but {batch} were requested\n"
                f"  open it with --samples {batch}"
            )


class _GpuSession(BoundSession):
    """A session whose runs are launched on the stream, without a wait of the host."""

    input_bindings: dict[str, tuple[str, int, Any, tuple[int, ...], int]]  # input -> device, its index, type, shape, address
    asynchronous = False  # whether a run returns before the device has finished
    mixed = False  # whether some nodes run on the CPU
    device: CudaDevice

    def bind_inputs(self) -> None:
        for name, arguments in self.input_bindings.items():
            self.binding.bind_input(name, *arguments)

    def run(self) -> None:
        """Run it on the stream. If nodes run on the CPU, the host waits for what was launched before, too."""
        with self.device.in_use():
            if self.mixed:
                self.device.wait()
                self.bind_inputs()  # only this copies the inputs of CPU nodes to the host
            super().run()


def _load_graphs(
    provider: Provider, contents: Mapping[str, bytes], specs: Mapping[str, GraphSpec], progress: ProgressListener
) -> dict[str, PlacedSession]:
    """Load all graphs of this backend; TensorRT builds an engine for each that is not cached."""
    engines = provider.engines
    keys = {} if engines is None else {name: provider.engine_key(specs[name]) for name in contents}
    if engines is not None and not provider.gpu_options.build_engines:
        engines.check({f"{provider.precision}/{name}.onnx": key for name, key in keys.items()})
    unbuilt = [name for name, key in keys.items() if engines is not None and not engines.folder(key).is_ready]
    task = f"{provider.backend}: building engines"
    loaded: dict[str, PlacedSession] = {}
    for graph_name, content in contents.items():
        with ExitStack() as stack:
            if engines is not None and graph_name in unbuilt:
                progress.progress(task, unbuilt.index(graph_name) / len(unbuilt))
                stack.enter_context(engines.built(keys[graph_name], specs[graph_name]))
            graph = PlacedSession(provider, content, f"{provider.precision}/{graph_name}.onnx", specs[graph_name])
        loaded[graph_name] = graph
        if graph.on_cpu:
            nodes = ", ".join(graph.on_cpu)
            _LOG.info("%s/%s.onnx has nodes that run on the CPU: %s", provider.precision, graph_name, nodes)
    if unbuilt:
        progress.progress(task, 1.0)
    return loaded


def _needed(specs: Mapping[str, GraphSpec]) -> list[str]:
    """All graphs but the shuffled decoder, which TensorRT does not need."""
    return [graph_name for graph_name in specs if graph_name != SHUFFLED_DECODER]


def _on_device(buffers: Mapping[str, Buffer]) -> dict[str, DeviceBuffer]:
    on_device = {name: buffer for name, buffer in buffers.items() if isinstance(buffer, DeviceBuffer)}
    assert len(on_device) == len(buffers)
    return on_device


def _drop_graph(session: weakref.ref[Any], number: int) -> None:
    """Free the CUDA graph of a bound graph that no longer exists."""
    alive = session()
    if alive is not None and hasattr(alive, "release_captured_graph"):  # since 1.30
        alive.release_captured_graph(number)
