"""The backends `cuda` and `ort-tensorrt`: ONNX Runtime on an NVIDIA GPU, bound to memory of the device."""

from __future__ import annotations

import contextlib
import itertools
import logging
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from svg_common.progress import ProgressListener
from svg_runtime.backends.base import BoundGraph, Buffer, Chain
from svg_runtime.backends.computed import summarize
from svg_runtime.backends.gpu_options import GpuOptions
from svg_runtime.backends.nvidia.arrays import DeviceArrays, DeviceBuffer, check_unaliased
from svg_runtime.backends.nvidia.device import CudaDevice
from svg_runtime.backends.onnxruntime.placement import NO_GRAPH, PlacedSession, describe_placement
from svg_runtime.backends.onnxruntime.providers import Provider, check_choices, load_provider
from svg_runtime.backends.onnxruntime.session import BoundSession
from svg_runtime.bundle.contract import SHUFFLED_DECODER
from svg_runtime.bundle.manifest import BATCH, GraphSpec, Precision
from svg_runtime.bundle.reader import Bundle
from svg_runtime.errors import BackendError, UsageError

_LOG = logging.getLogger(__name__)


class OrtGpuBackend(DeviceArrays):
    """ONNX Runtime's CUDA or TensorRT execution provider.

    The provider works on the stream of our device, where copies and runs are in order, and the host does not wait for a run.

    CUDA graphs (`cuda` only, on demand, from ONNX Runtime 1.30 on): ONNX Runtime runs a graph two times before it captures it,
    all within the first run (onnxruntime #32243), which spoils a state that is updated in place. Here no run writes what it
    reads (`check_unaliased`: a state is read from one buffer and written to another), so running again gives the same outputs
    again, and there is nothing to back up. Each bound graph is a CUDA graph of its own, as its addresses are its own. All of
    them are device memory, for an input on the host would keep its first value (#29782).

    Args:
        name: cuda or ort-tensorrt.
        bundle: the opened bundle.
        precision: fp32 or fp16. `ort-tensorrt` runs fp16 in weakly typed networks: TensorRT may then compute float32 layers in
            float16, too, which the recurrent parts are; `tensorrt` never does.
        device: cuda, cuda:1, ...; None or "auto" is the first GPU.
        samples: the largest batch that will be asked for; only TensorRT's engines are limited to it.
        choices: of the user.
        progress: who is told while graphs are loaded.

    Attributes:
        stream: handle of the CUDA stream that everything happens on.

    Raises:
        UsageError: a choice that the backend has no use for.
        MissingExtraError: onnxruntime or cuda-bindings is not installed.
        BackendMissingError: no GPU or driver, no such device, no such provider, it is too old or its libraries are missing, or
            nodes would run on the processor though that is not allowed.
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
        choices: GpuOptions,
        progress: ProgressListener,
    ) -> None:
        check_choices(name, choices)
        onnxruntime, messages = load_provider(name, bool(choices.cuda_graph))
        self.name, self.precision = name, precision
        self._bound: weakref.WeakSet[_GpuSession] = weakref.WeakSet()
        self._graph_ids = itertools.count(1)  # 0 is ONNX Runtime's own
        self._device = CudaDevice(name, "gpu", device)
        self.stream = self._device.stream
        try:
            gpu = self._device.gpu
            self._provider = Provider(name, onnxruntime, gpu, self.stream, precision, samples, choices, messages)
            self._specs = bundle.variant(precision).graphs
            self._graphs = _load_graphs(self._provider, bundle.graphs(precision), self._specs, progress)
        except BaseException:
            self._device.close()
            raise
        self.computed_in = {
            graph_name: graph.computed for graph_name, graph in self._graphs.items() if graph.computed is not None
        }
        computed = f"computed in {summarize(self.computed_in)}"
        if self._provider.chooses_precision:
            computed = "computed in what TensorRT chooses for each layer"
        library = f"{name} (ONNX Runtime {onnxruntime.__version__}, {gpu.name}), {precision} graphs {computed}"
        parts = [library, describe_placement(self._graphs)]
        self.description = "; ".join([*filter(None, parts), *(["CUDA graphs"] if self._provider.cuda_graph else [])])

    def bind(self, graph: str, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> BoundGraph:
        """IO binding by address: no copy on the way in or out.

        Raises:
            UsageError: the engines were built for fewer samples.
        """
        given, wanted = _on_device(inputs), _on_device(outputs)
        check_unaliased(graph, given, wanted)
        self._check_batch(graph, given)
        placed = self._graphs[graph]
        bound = _GpuSession(graph, placed.session, placed.session.io_binding(), [given, wanted])
        bound.places = {name: self._place(buffer) for name, buffer in given.items()}
        bound.bind_inputs()
        for name, buffer in wanted.items():
            bound.binding.bind_output(name, *self._place(buffer))
        if placed.mixed:
            bound.wait = self._device.wait
        bound.options = self._run_options(bound)
        bound.hint = NO_GRAPH if self._provider.cuda_graph else ""
        self._bound.add(bound)
        return bound

    def chain(self, graphs: Sequence[BoundGraph]) -> BoundGraph:
        """Put on the stream one by one."""
        return Chain(tuple(graphs))

    def close(self) -> None:
        """Free sessions and device; closing again does nothing."""
        with contextlib.suppress(BackendError, MemoryError):  # whatever the device reports, everything has to be freed
            self._device.wait()
        for bound in self._bound:
            bound.release()  # the provider uses the stream until its session is gone
        self._graphs.clear()
        self._device.close()

    def _place(self, buffer: DeviceBuffer) -> tuple[str, int, Any, tuple[int, ...], int]:
        return "cuda", self._provider.gpu.index, buffer.dtype.type, buffer.shape, buffer.address

    def _run_options(self, bound: _GpuSession) -> Any:
        options = self._provider.onnxruntime.RunOptions()
        if bound.wait is not None:
            return options
        # Runs are in order on the stream, and nothing but `read` needs to wait. (Replays of CUDA graphs heed it since
        # onnxruntime #28686.)
        options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        if self._provider.cuda_graph:
            number = next(self._graph_ids)
            options.add_run_config_entry("gpu_graph_id", str(number))
            weakref.finalize(bound, _drop_graph, weakref.ref(bound.session), number).atexit = False
        return options

    def _check_batch(self, graph: str, inputs: Mapping[str, DeviceBuffer]) -> None:
        if self.name != "ort-tensorrt":
            return
        axes = [pair for spec in self._specs[graph].inputs for pair in zip(spec.shape, inputs[spec.name].shape, strict=True)]
        batch, largest = max((size for axis, size in axes if axis == BATCH), default=1), self._provider.max_batch
        if batch > largest:
            raise UsageError(
                f"the ort-tensorrt backend was opened for up to {largest} samples, but {batch} were requested\n"
                f"  open it with --samples {batch}"
            )


class _GpuSession(BoundSession):
    """Runs are put on the stream, and the host does not wait."""

    places: dict[str, tuple[str, int, Any, tuple[int, ...], int]]  # input -> device, its index, type, shape, address
    wait: Callable[[], None] | None = None  # for the device, where some nodes run on the processor

    def bind_inputs(self) -> None:
        for name, place in self.places.items():
            self.binding.bind_input(name, *place)

    def run(self) -> None:
        """Put it on the stream. Where nodes run on the processor, the host waits before and after."""
        if self.wait is not None and self.session is not None:
            self.wait()
            self.bind_inputs()  # what a node on the processor reads is copied to the host here, and only here
        super().run()


def _load_graphs(
    provider: Provider, contents: Mapping[str, bytes], specs: Mapping[str, GraphSpec], progress: ProgressListener
) -> dict[str, PlacedSession]:
    """All graphs that this backend runs; TensorRT builds an engine of each, unless it is in the cache."""
    # The shuffled decoder is never faster than ConvTranspose here.
    wanted = {graph_name: content for graph_name, content in contents.items() if graph_name != SHUFFLED_DECODER}
    task, takes_minutes = f"{provider.backend}: building engines", provider.backend == "ort-tensorrt"
    loaded: dict[str, PlacedSession] = {}
    for graph_name, content in wanted.items():
        if takes_minutes:
            progress.progress(task, len(loaded) / len(wanted))
        loaded[graph_name] = PlacedSession(provider, content, f"{provider.precision}/{graph_name}.onnx", specs[graph_name])
        if loaded[graph_name].on_processor:
            nodes = ", ".join(loaded[graph_name].on_processor)
            _LOG.info("%s/%s.onnx has nodes that run on the CPU: %s", provider.precision, graph_name, nodes)
    if takes_minutes:
        progress.progress(task, 1.0)
    return loaded


def _on_device(buffers: Mapping[str, Buffer]) -> dict[str, DeviceBuffer]:
    found = {name: buffer for name, buffer in buffers.items() if isinstance(buffer, DeviceBuffer)}
    assert len(found) == len(buffers)
    return found


def _drop_graph(session: weakref.ref[Any], number: int) -> None:
    """Free the CUDA graph of a bound graph that is gone."""
    alive = session()
    if alive is not None and hasattr(alive, "release_captured_graph"):  # 1.30 has it
        alive.release_captured_graph(number)
