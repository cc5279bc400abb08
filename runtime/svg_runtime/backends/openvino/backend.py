"""OpenVINO backend: Intel and AMD CPUs, Intel GPUs and NPUs. On a CPU the graphs read and write NumPy arrays in place.

A graph is compiled for the shapes and the outputs that it is bound with, when it is bound. Static shapes make a forecast faster
than dynamic ones, and unused outputs cost a conversion from the engine's memory layout: an encoder without its skips takes two
thirds of the time.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

from svg_common.command import require_modules
from svg_runtime.backends.base import Array, BoundGraph, Buffer
from svg_runtime.backends.computed import detail, summarize
from svg_runtime.backends.host_arrays import BoundGraphs, HostArrays, unaliased
from svg_runtime.backends.openvino.compiled_cache import CompiledCache
from svg_runtime.backends.openvino.device import (
    SHARED_THREADS,
    Placement,
    can_share_threads,
    choose_placement,
    computed_precisions,
    load_openvino,
    shared_core,
)
from svg_runtime.bundle.contract import FUSED, SHUFFLED_DECODER
from svg_runtime.bundle.manifest import Precision
from svg_runtime.bundle.reader import Bundle
from svg_runtime.errors import BackendError, BackendMissingError, BundleError
from svg_runtime.machine.hardware import usable_cores

# Graphs that the manifest keeps in float32 consist only of recurrent cells and Gaussians: with the embedded model, the tenth
# frame is then 6 dB closer to float32, at no cost. OpenVINO has no public way to exclude parts of a graph, so a `step` of mixed
# precision is reduced as a whole; its state tensors are still float32.
# An explicitly requested precision is verified on these graphs, unless they stay in float32: every device has kernels of all
# its precisions for them.
# In skip and decoder, a transposed convolution may have to stay in float32, which the description then reports.
_VERIFIED = ("encoder", "step")
# OpenVINO 2026.4.1 crashes while it fuses perceptrons in a row, as SRVP's residual steps are, in float32 and at some batches.
_WITHOUT_SNIPPETS = {"SNIPPETS_MODE": "DISABLE"}


@dataclass(eq=False)
class _Compiled:
    """A graph compiled for fixed shapes and outputs. Only the requests bound to it keep it alive."""

    model: Any


@dataclass(eq=False)
class _BoundRequest:
    """An inference request, and the arrays whose memory it reads and writes."""

    graph_name: str
    request: Any
    compiled: _Compiled | None
    arrays: list[Array]
    in_lane: bool

    def run(self) -> None:
        """Run synchronously.

        Raises:
            BackendError: OpenVINO failed, or the backend is closed.
        """
        # Another thread may release them: so the run holds all that it uses, and reads the request, which goes first, last.
        _arrays, _compiled, request = self.arrays, self.compiled, self.request
        if request is None:
            raise _closed(self.graph_name)
        try:
            if self.in_lane:  # in this thread, which must not wait for one of OpenVINO's own
                request.infer(share_outputs=True)
            else:
                request.start_async()  # `infer` would create a dictionary of all results at every call
                request.wait()
        except Exception as error:  # OpenVINO raises RuntimeError and classes of its own
            raise BackendError(f"OpenVINO failed while running {self.graph_name}: {error}") from error

    def release(self) -> None:
        """Release the request: it cannot run again. A run that has begun keeps it, and its arrays, until it ends."""
        self.request = None
        self.compiled = None
        self.arrays = []


class OpenVinoBackend(HostArrays):
    """OpenVINO on one device.

    Args:
        bundle: the opened bundle.
        precision: the variant to load; bf16 is fp32 computed in bf16. None: fp32, or bf16 if the bundle has that variant with
            measured quality and the CPU multiplies in bf16 (AMX, or AVX-512 with bf16).
        device: CPU, GPU, GPU.1, NPU, optionally with a precision to compute in: CPU:f32, CPU:bf16, GPU:f16. By default a CPU
            computes in f32, or in bf16 for that variant, and other devices choose for themselves.
        threads: CPU threads; None means one per usable core.
        remark: end of the description: why another backend was not chosen.
        shuffled: whether to run the graph `decoder_shuffled` as the decoder; None: on a CPU, where the bundle has it. It lets
            the whole decoder run in reduced precision.
        lanes: on a CPU, how many graphs can run at the same time, if there are so many threads; they share them equally.

    Raises:
        MissingExtraError: openvino is not installed.
        BackendMissingError: openvino does not load, the device does not exist, or it does not compute in the requested
            precision.
        BundleError: OpenVINO cannot load the encoder.
        UsageError: `device` cannot be understood, or contradicts `precision`.
    """

    name = "openvino"
    prefers_fused = False  # the separate graphs keep recurrent parts in float32 and have the shuffled decoder

    def __init__(
        self,
        bundle: Bundle,
        precision: Precision | None,
        device: str | None = None,
        threads: int | None = None,
        remark: str = "",
        shuffled: bool | None = None,
        lanes: int = 1,
    ) -> None:
        require_modules("the openvino backend", "openvino", "openvino", "filelock")
        try:
            openvino = load_openvino()
            self._core = shared_core()
            may_choose_bf16 = bundle.manifest.quality_is_known("bf16")
            self._placement = choose_placement(self._core, device, precision, may_choose_bf16)
        except (ImportError, OSError, RuntimeError) as error:  # wheel for another Python, C library or CPU
            raise BackendMissingError(f"openvino is installed but does not load: {error}") from error
        self._tensor = openvino.Tensor
        self.precision: Precision = precision or ("bf16" if may_choose_bf16 and self._placement.compute == "bf16" else "fp32")
        self._release = openvino.__version__.split("-")[0]
        self._threads = threads or usable_cores()
        self.lanes = min(lanes, self._threads) if self._placement.is_cpu else 1
        self._lanes: list[OpenVinoBackend] = []
        self._remark = remark
        self._cache = CompiledCache(self._core, self._placement.device)
        self._where = f"'{bundle.path}'"
        self._has_bf16 = "bf16" in bundle.manifest.variants
        if shuffled is None:  # measured on CPUs only
            shuffled = self._placement.is_cpu and SHUFFLED_DECODER in bundle.variant(self.precision).graphs
        bundle = bundle.with_decoder(shuffled)
        self._contents = bundle.graphs(self.precision)
        self._specs = dict(bundle.variant(self.precision).graphs)
        self._files = {graph_name: spec.file for graph_name, spec in self._specs.items()}
        self._compiled: weakref.WeakValueDictionary[tuple[Any, ...], _Compiled] = weakref.WeakValueDictionary()
        self._bound = BoundGraphs()
        self.computed_in: dict[str, Counter[str]] = {}
        # The graph that observes is compiled here, so that an unsupported precision is refused before anything runs.
        first = next(graph for graph in _VERIFIED if graph in self._specs)
        shapes = {tensor.name: tensor.sized(1) for tensor in self._specs[first].inputs}
        outputs = frozenset(tensor.name for tensor in self._specs[first].outputs)
        self._first: _Compiled | None = self._compile(first, shapes, outputs)
        if self.precision == "bf16" and precision is None and self.computed_in[first].keys() == {"f32"}:
            # The same graphs: the default follows what the engine does, in the graphs that are compiled later, too.
            self.precision = "fp32"
            self._placement = replace(self._placement, compute="f32")

    @property
    def description(self) -> str:
        """Library, device, and what the graphs compiled so far are computed in."""
        graphs = "fp16" if self.precision == "fp16" else "fp32"
        computed = summarize(self.computed_in) or "a precision that the device does not report"
        notes = [f"openvino ({self._release}) on {self._placement.device}, {graphs} graphs computed in {computed}"]
        notes += [detail(self.computed_in)] if detail(self.computed_in) else []
        if self._placement.bf16_advised and self._has_bf16:
            notes.append("bf16 is faster here: choose it with --bf16; its quality against the truth was not measured")
        elif self._placement.bf16_advised:
            notes.append("bf16 is faster here, if the model passes the quality gate: svg-export ckpt.pt --bf16")
        return "; ".join(notes) + self._remark

    def lane(self, number: int) -> OpenVinoBackend:
        """Return a backend that compiles graphs of its own: those of one compiled graph run one after the other."""
        while len(self._lanes) < number:
            lane = copy(self)
            lane._compiled = weakref.WeakValueDictionary()
            self._lanes.append(lane)
        return self._lanes[number - 1] if number else self

    def bind(self, graph: str, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> BoundGraph:
        """An inference request on tensors that share the arrays' memory.

        Raises:
            BundleError: OpenVINO cannot load the graph, or not at these shapes.
            BackendError: the backend is closed.
        """
        shapes = {name: tuple(buffer.shape) for name, buffer in inputs.items()}
        compiled = self._compile(graph, shapes, frozenset(outputs))
        request, arrays = compiled.model.create_infer_request(), []
        for name, array, _ in unaliased(graph, inputs, outputs):
            try:
                request.set_tensor(name, self._tensor(array, shared_memory=True))
            except Exception as error:  # OpenVINO raises RuntimeError and classes of its own
                raise BundleError(
                    f"{self._files[graph]} of {self._where} contradicts the manifest: OpenVINO refuses {array.shape} "
                    f"as the shape of '{name}'\n  {' '.join(str(error).split())}\n"
                    "  export the bundle again with: svg-export ckpt.pt"
                ) from error
            arrays.append(array)
        bound = _BoundRequest(graph, request, compiled, arrays, in_lane=self.lanes > 1)
        self._bound.add(bound)
        return bound

    def close(self) -> None:
        """Free the graphs; bound graphs cannot run any more. One that another thread is running ends its run first."""
        for lane in (self, *self._lanes):
            lane._contents = {}
            lane._first = None
            lane._compiled.clear()
        self._bound.release_all()

    def _compile(self, graph: str, shapes: dict[str, tuple[int, ...]], outputs: frozenset[str]) -> _Compiled:
        key = graph, tuple(sorted(shapes.items())), outputs
        compiled = self._compiled.get(key)
        if compiled is None:
            content = self._contents.get(graph)
            if content is None:
                raise _closed(graph)
            try:
                compiled = _Compiled(self._load(graph, content, shapes, outputs))
            except Exception as error:  # OpenVINO raises RuntimeError and classes of its own
                raise BundleError(
                    f"OpenVINO cannot load {self._files[graph]} of {self._where} on {self._placement.device}: {error}"
                ) from error
            layers = computed_precisions(compiled.model)
            if graph in _VERIFIED and self._placement.explicit and not self._stays_f32(graph):
                self._check_explicit(graph, layers)  # before it is kept: a refused graph is not found at the next bind
            self._compiled[key] = compiled
            self.computed_in[graph] = self.computed_in.get(graph, Counter()) | layers  # of all batches and outputs
        return compiled

    def _stays_f32(self, graph: str) -> bool:
        """Whether a graph is computed in float32 whatever the precision of the others."""
        return self._specs[graph].computes == "float32" and self._placement.has_f32

    def _check_explicit(self, graph: str, layers: Counter[str]) -> None:
        """Refuse an explicitly requested precision that the device does not compute in; one that reports nothing is trusted."""
        compute, device = str(self._placement.compute), self._placement.device
        if layers and compute not in layers:
            available = ", ".join(f"{device}:{precision}" for precision in sorted(layers))
            raise BackendMissingError(
                f"{compute} was requested, but the openvino device {device} computes {graph} in {summarize({graph: layers})} "
                f"here\n  expected {available}, or {device} to let the device choose, without --bf16"
            )

    def _load(self, graph: str, content: bytes, shapes: dict[str, tuple[int, ...]], outputs: frozenset[str]) -> Any:
        model = self._core.read_model(content)
        for result in model.get_results():
            if not result.input_value(0).get_names() & outputs:
                model.remove_result(result)
        model.reshape({name: list(shape) for name, shape in shapes.items()})
        properties = self._properties(graph, self._placement)
        identity = self._specs[graph].sha256, sorted(shapes.items()), sorted(outputs)
        with self._cache.folder_of(graph, identity, properties.get("INFERENCE_PRECISION_HINT")) as folder:
            if folder is not None:
                properties["CACHE_DIR"] = str(folder)
            return self._core.compile_model(model, self._placement.device, properties)

    def _properties(self, graph: str, placement: Placement) -> dict[str, Any]:
        properties: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
        compute = placement.compute
        if compute is not None and self._stays_f32(graph):
            compute = "f32"
        if compute is not None:
            properties["INFERENCE_PRECISION_HINT"] = compute
        if placement.is_cpu:
            threads = self._threads // self.lanes
            properties["INFERENCE_NUM_THREADS"] = threads
            if self.lanes > 1 and threads == 1:
                properties["NUM_STREAMS"] = 0  # no thread but the one that calls `infer`
            # With pinning, threads of two forecasters, or of another program that pins, could share one core while the next
            # one idles.
            properties["ENABLE_CPU_PINNING"] = False
            if self.lanes == 1 and self._threads == usable_cores() and can_share_threads(self._core):
                properties[SHARED_THREADS] = True
            if graph in FUSED and self._stays_f32(graph):
                properties |= _WITHOUT_SNIPPETS
        return properties


def _closed(graph_name: str) -> BackendError:
    return BackendError(f"the openvino backend is closed and cannot run {graph_name}\n  open another one")
