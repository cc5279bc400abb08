"""Engines for the GPU of this machine: from the bundle, else from the user's cache, else built here while somebody watches."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from functools import cached_property
from typing import Any

from svg_common.progress import ProgressListener
from svg_runtime.backends.computed import ComputedIn
from svg_runtime.backends.gpu_options import GpuOptions
from svg_runtime.backends.nvidia import device
from svg_runtime.backends.nvidia.device import GpuName
from svg_runtime.backends.tensorrt.build import BuildOptions, build_engine, engine_flags
from svg_runtime.backends.tensorrt.cache import EngineCache
from svg_runtime.backends.tensorrt.check import check_engine, check_half, open_engine
from svg_runtime.backends.tensorrt.engine import BUNDLE_FOLDER, EngineKey, find_engine
from svg_runtime.backends.tensorrt.folders import CachedBlob
from svg_runtime.backends.tensorrt.monitor import BuildMonitor, run_watched
from svg_runtime.backends.tensorrt.nvidia_library import Library
from svg_runtime.backends.tensorrt.timings import Timings, kept_timings
from svg_runtime.bundle.contract import SHUFFLED_DECODER
from svg_runtime.bundle.manifest import Precision
from svg_runtime.bundle.onnx_header import count_weight_types
from svg_runtime.bundle.reader import Bundle
from svg_runtime.errors import BackendMissingError, EngineError
from svg_runtime.machine.hardware import this_platform

_LOG = logging.getLogger(__name__)
_TURING = "sm75"


class LocalEngines:
    """Plans of one variant's graphs for one GPU.

    Args:
        library: TensorRT or TensorRT-RTX.
        bundle: whose graphs they are.
        precision: the variant.
        gpu: the GPU that will run them.
        max_batch: samples: engines take every batch from 1 to this one.
        choices: where engines are kept, and the memory that a builder may use.
        progress: who is told while engines are built.

    Attributes:
        built: graphs whose engines were neither in the bundle nor in the cache.
        runtime_cache: keeps the kernels that TensorRT-RTX compiled for this GPU, for the next start.

    Raises:
        BackendMissingError: the bundle has no such variant.
        MissingExtraError: filelock is not installed.
    """

    def __init__(
        self,
        library: Library,
        bundle: Bundle,
        precision: Precision,
        gpu: GpuName,
        max_batch: int,
        choices: GpuOptions,
        progress: ProgressListener,
    ) -> None:
        self._library, self._bundle, self._precision, self._gpu = library, bundle, precision, gpu
        self._graphs = bundle.variant(precision).graphs
        self._progress = progress
        targets = (gpu.compute_capability,) if library.ahead_of_time else ()
        self._options = BuildOptions(targets, max_batch, choices.workspace_gib)
        self._cache = EngineCache(choices.cache_dir, library.name)
        self.runtime_cache = self._kept("runtime")
        self._timings = self._kept("timings")
        self._prepared: dict[str, bytes] = {}
        self.built: set[str] = set()

    def plan(self, graph_name: str) -> bytes:
        """The plan of a graph. It is looked for, or built, unless `prepare` has it: then this call takes it from there.

        Raises:
            BackendMissingError: there is none, and it cannot be built on this machine.
            BundleError: the bundle's graphs are damaged.
            EngineError: it cannot be built, or it is not what the manifest says.
        """
        self.prepare([graph_name])
        return self._prepared.pop(graph_name)

    def prepare(self, graph_names: Sequence[str]) -> None:
        """Look for the plans of several graphs, and build those that are missing, so that a person sees how many there are.

        Raises:
            BackendMissingError, BundleError, EngineError: as `plan`.
        """
        wanted = [graph_name for graph_name in graph_names if graph_name not in self._prepared]
        found = {graph_name: self._find(graph_name) for graph_name in wanted}
        self._prepared |= {graph_name: plan for graph_name, plan in found.items() if plan is not None}
        missing = [graph_name for graph_name, plan in found.items() if plan is None]
        for number, graph_name in enumerate(missing, 1):
            counted = f" {number} of {len(missing)}" if len(missing) > 1 else ""
            task = f"building engine{counted}: {self._graph_file(graph_name)}"
            self._prepared[graph_name] = self._make(graph_name, task)

    def replace(self, graph_name: str, refused: Sequence[bytes], words: str) -> bytes:
        """Another plan in place of those that the library does not load: one that was built here earlier, else a new one.

        Args:
            graph_name: the graph.
            refused: plans that this object gave.
            words: of the library about the last one.

        Raises:
            BackendMissingError, BundleError, EngineError: as `plan`.
        """
        kept = self._cache.find(self.key(graph_name), refused)
        if kept is not None:
            return kept
        graph_file = self._graph_file(graph_name)
        _LOG.warning("%s cannot load the engine of %s; building it again: %s", self._library.name, graph_file, words)
        self._cache.forget(self.key(graph_name))
        return self._make(graph_name, f"building engine: {graph_file}")

    def check(self, graph_name: str, engine: Any) -> None:
        """Hold a loaded engine against the manifest.

        Raises:
            EngineError: it is another one than the bundle describes, or one of an fp16 variant that computes in float32.
        """
        check_engine(engine, self._graph_file(graph_name), self._graphs[graph_name], self._options.max_batch)
        if self._precision == "fp16":
            check_half(self._library, engine, self._graph_file(graph_name))

    @cached_property
    def computed_in(self) -> ComputedIn:
        """Layers with weights per graph and precision: in a strongly typed network the types of the graph, see check.py."""
        return {
            graph_name: count_weight_types(content)
            for graph_name, content in self._contents.items()
            if graph_name != SHUFFLED_DECODER
        }

    def key(self, graph_name: str) -> EngineKey:
        """What an engine of a graph has to serve."""
        return EngineKey(
            onnx_sha256=self._graphs[graph_name].sha256,
            platform=this_platform(),
            nvidia_library=self._library.name,
            version=self._library.version,
            gpu=self._gpu.model,
            compute_capabilities=(self._gpu.compute_capability,),
            precision=self._precision,
            max_batch=self._options.max_batch,
            workspace_gib=self._options.workspace_gib,
            flags=engine_flags(self._library),
        )

    def _find(self, graph_name: str) -> bytes | None:
        key = self.key(graph_name)
        try:
            plan = find_engine(self._bundle.path / BUNDLE_FOLDER, key)
        except EngineError as error:
            _LOG.warning("%s; ignoring it", error)
            plan = None
        return self._cache.find(key) if plan is None else plan

    def _make(self, graph_name: str, task: str) -> bytes:
        self._refuse_impossible()
        return self._cache.make(self.key(graph_name), lambda: self._build(graph_name, task))

    def _build(self, graph_name: str, task: str) -> bytes:
        self.built.add(graph_name)
        timed = kept_timings(self._timings) if self._library.keeps_timings else nullcontext()
        with timed as timings:
            return run_watched(
                self._library,
                lambda monitor: self._build_on_gpu(graph_name, monitor, timings),
                lambda share: self._progress.progress(task, share),
            )

    def _build_on_gpu(self, graph_name: str, monitor: BuildMonitor, timings: Timings | None) -> bytes:
        """In a thread of its own, whose current device is not yet this GPU."""
        device.load_runtime().cudaSetDevice(self._gpu.index)
        graph_file, spec = self._graph_file(graph_name), self._graphs[graph_name]
        content = self._contents[graph_name]
        plan = build_engine(self._library, content, graph_file, spec, self._precision, self._options, monitor, timings)
        self.check(graph_name, open_engine(self._library, plan, graph_file))
        return plan

    @cached_property
    def _contents(self) -> dict[str, bytes]:
        """The graphs, each checked against its hash; not read where every engine is there already."""
        return self._bundle.graphs(self._precision)

    def _refuse_impossible(self) -> None:
        if not self._library.ahead_of_time:
            return
        library, gpu = f"{self._library.name} {self._library.version}", self._gpu
        if gpu.compute_capability not in self._library.compute_capabilities:
            known = ", ".join(self._library.compute_capabilities)
            raise BackendMissingError(
                f"{library} cannot build engines for {gpu.compute_capability} ({gpu.name})\n  expected one of: {known}; "
                "or use --backend tensorrt"
            )
        if gpu.compute_capability == _TURING:  # it has no float32 matrix products there: svg-export makes another form of them
            raise BackendMissingError(
                f"'{self._bundle.path.name}' contains no {library} engine for {gpu.name} with {self._options.max_batch} samples"
                f"; for compute capability 7.5, only svg-export can build one\n"
                f"  export the bundle with: svg-export ckpt.pt --engine --target {_TURING} --samples {self._options.max_batch}"
            )

    def _kept(self, kind: str) -> CachedBlob:
        return CachedBlob(self._cache.folders, self._library.name, self._library.version, self._gpu, kind)

    def _graph_file(self, graph_name: str) -> str:
        return f"{self._precision}/{graph_name}.onnx"
