"""Engines for the GPU of this machine: from the bundle, else from the user's cache, else built here with progress."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from functools import cached_property
from typing import Any

from svg_common.progress import ProgressListener
from svg_runtime.backends.computed import ComputedIn
from svg_runtime.backends.gpu_options import GpuOptions, not_built
from svg_runtime.backends.nvidia import device
from svg_runtime.backends.nvidia.device import GpuName
from svg_runtime.backends.nvidia.engine_files import BUNDLE_FOLDER
from svg_runtime.backends.nvidia.folders import CachedBlob
from svg_runtime.backends.tensorrt.build import BuildOptions, build_engine, engine_flags
from svg_runtime.backends.tensorrt.cache import EngineCache
from svg_runtime.backends.tensorrt.check import check_engine, check_half, open_engine
from svg_runtime.backends.tensorrt.engine import EngineKey, find_engine
from svg_runtime.backends.tensorrt.monitor import BuildMonitor, run_with_progress
from svg_runtime.backends.tensorrt.nvidia_library import Library
from svg_runtime.backends.tensorrt.timings import Timings, cached_timings
from svg_runtime.bundle.manifest import Precision
from svg_runtime.bundle.onnx_header import count_weight_types
from svg_runtime.bundle.reader import Bundle
from svg_runtime.errors import BackendMissingError, BundleError, EngineError
from svg_runtime.machine.hardware import this_platform

_LOG = logging.getLogger(__name__)
_TURING = "sm75"


class LocalEngines:
    """Serialized engines of one variant's graphs for one GPU.

    Args:
        library: TensorRT or TensorRT-RTX.
        bundle: the opened bundle.
        precision: fp32 or fp16.
        gpu: the GPU that will run them.
        max_batch: samples: engines accept batches from 1 to this one.
        gpu_options: the user's options; cache folder, workspace and whether to build are used here.
        progress: listener for the building of engines.

    Attributes:
        built: graphs whose engines were neither in the bundle nor in the cache.
        runtime_cache: kernels that TensorRT-RTX compiled for this GPU, cached for the next start.

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
        gpu_options: GpuOptions,
        progress: ProgressListener,
    ) -> None:
        self._library = library
        self._bundle = bundle
        self._precision = precision
        self._gpu = gpu
        self._graphs = bundle.variant(precision).graphs
        self._progress = progress
        self._builds = gpu_options.build_engines
        capabilities = (gpu.compute_capability,) if library.ahead_of_time else ()
        self._options = BuildOptions(capabilities, max_batch, gpu_options.workspace_gib)
        self._cache = EngineCache(gpu_options.cache_dir, library.name)
        self.runtime_cache = self._cached_blob("runtime")
        self._timings = self._cached_blob("timings")
        self._prepared: dict[str, bytes] = {}
        self.built: set[str] = set()
        self._loaded: set[str] = set()

    def engine_bytes(self, graph_name: str) -> bytes:
        """Return the serialized engine of a graph: what `prepare` has found or built (once), else find or build it now.

        Raises:
            BackendMissingError: it does not exist and cannot be built on this machine.
            BundleError: the bundle's graphs are damaged.
            EngineError: it cannot be built, or does not match the manifest.
        """
        self.prepare([graph_name])
        return self._prepared.pop(graph_name)

    def prepare(self, graph_names: Sequence[str]) -> None:
        """Find the engines of several graphs and build the missing ones, so that the progress shows how many there are.

        Raises:
            EngineNotBuiltError: one is missing and not to be built.
            BackendMissingError, BundleError, EngineError: as `engine_bytes`.
        """
        needed = [graph_name for graph_name in graph_names if graph_name not in self._prepared]
        found = {graph_name: self._find(graph_name) for graph_name in needed}
        self._prepared |= {graph_name: engine_bytes for graph_name, engine_bytes in found.items() if engine_bytes is not None}
        missing = [graph_name for graph_name, engine_bytes in found.items() if engine_bytes is None]
        if missing and not self._builds:
            self._refuse_impossible()
            raise not_built(self._library.name, [self._graph_file(graph_name) for graph_name in missing])
        for number, graph_name in enumerate(missing, 1):
            counted = f" {number} of {len(missing)}" if len(missing) > 1 else ""
            task = f"building engine{counted}: {self._graph_file(graph_name)}"
            self._prepared[graph_name] = self._make(graph_name, task)

    def replace(self, graph_name: str, rejected: Sequence[bytes], message: str) -> bytes:
        """Replace engines that the library cannot load: by one from the cache, else by a new one.

        Args:
            graph_name: the graph.
            rejected: engines that this object returned before.
            message: the library's message about the last one.

        Raises:
            BackendMissingError, BundleError, EngineError: as `engine_bytes`.
        """
        cached = self._cache.find(self.key(graph_name), rejected, self._builds)
        if cached is not None:
            return cached
        graph_file = self._graph_file(graph_name)
        if not self._builds:
            raise EngineError(f"{self._library.name} cannot load the engine of {graph_file}: {message}")
        _LOG.warning("%s cannot load the engine of %s; building it again: %s", self._library.name, graph_file, message)
        self._cache.forget(self.key(graph_name))
        return self._make(graph_name, f"building engine: {graph_file}")

    def check(self, graph_name: str, engine: Any) -> None:
        """Compare a loaded engine with the manifest.

        Raises:
            EngineError: it does not match, or an engine of an fp16 variant computes in float32.
        """
        self._loaded.add(graph_name)
        check_engine(engine, self._graph_file(graph_name), self._graphs[graph_name], self._options.max_batch)
        if self._precision == "fp16" and self._graphs[graph_name].computes == "variant":
            check_half(self._library, engine, self._graph_file(graph_name))

    @property
    def computed_in(self) -> ComputedIn:
        """Layers with weights per precision, of the graphs whose engines are loaded.

        Counted in the ONNX files: networks are strongly typed, so an engine computes in the types of its graph (see build.py).
        Empty if the bundle has been changed or removed meanwhile.
        """
        with suppress(BundleError):
            return {graph_name: count_weight_types(self._contents[graph_name]) for graph_name in sorted(self._loaded)}
        return {}

    def key(self, graph_name: str) -> EngineKey:
        """Return the key that an engine of a graph must serve."""
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
        """Find an engine in the bundle, else in the cache. A damaged one is an error if nothing replaces it."""
        key = self.key(graph_name)
        damage: EngineError | None = None
        try:
            engine_bytes = find_engine(self._bundle.path / BUNDLE_FOLDER, key)
        except EngineError as error:
            _LOG.warning("%s; ignoring it", error)
            engine_bytes = None
            damage = error
        if engine_bytes is None:
            engine_bytes = self._cache.find(key, rebuilds=self._builds)
        if engine_bytes is None and damage is not None and not self._builds:
            raise damage
        return engine_bytes

    def _make(self, graph_name: str, task: str) -> bytes:
        self._refuse_impossible()
        return self._cache.make(self.key(graph_name), lambda: self._build(graph_name, task))

    def _build(self, graph_name: str, task: str) -> bytes:
        self.built.add(graph_name)
        timed = cached_timings(self._timings) if self._library.keeps_timings else nullcontext()
        with timed as timings:
            return run_with_progress(
                self._library,
                lambda monitor: self._build_on_gpu(graph_name, monitor, timings),
                lambda share: self._progress.progress(task, share),
            )

    def _build_on_gpu(self, graph_name: str, monitor: BuildMonitor, timings: Timings | None) -> bytes:
        """Runs in a new thread, whose current device has to be set first."""
        device.load_runtime().cudaSetDevice(self._gpu.index)
        graph_file, spec = self._graph_file(graph_name), self._graphs[graph_name]
        content = self._contents[graph_name]
        engine_bytes = build_engine(
            library=self._library,
            content=content,
            graph_file=graph_file,
            spec=spec,
            precision=self._precision,
            options=self._options,
            monitor=monitor,
            timings=timings,
        )
        self.check(graph_name, open_engine(self._library, engine_bytes, graph_file))
        return engine_bytes

    @cached_property
    def _contents(self) -> dict[str, bytes]:
        """The graphs, each checked against its hash; not read if all engines already exist."""
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
        if gpu.compute_capability == _TURING:  # no float32 matrix products there: svg-export rewrites them
            raise BackendMissingError(
                f"'{self._bundle.path.name}' contains no {library} engine for {gpu.name} with {self._options.max_batch} samples"
                f"; for compute capability 7.5, only svg-export can build one\n"
                f"  export the bundle with: svg-export ckpt.pt --engine --target {_TURING} --samples {self._options.max_batch}"
            )

    def _cached_blob(self, kind: str) -> CachedBlob:
        return CachedBlob(
            folders=self._cache.folders,
            library=self._library.name,
            version=self._library.version,
            gpu=self._gpu,
            kind=kind,
        )

    def _graph_file(self, graph_name: str) -> str:
        return f"{self._precision}/{graph_name}.onnx"
