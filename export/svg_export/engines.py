"""Adds engines of a bundle's graphs, for other GPUs or for this machine's, to the bundle's `engines` folder.

A device needs them beside the graphs, so they are stored in the bundle. The manifest does not list them: an engine follows from
its graph, and its own record names that graph. Without them, or with engines of another release of NVIDIA's library, the bundle
is the same bundle.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from svg_common.files import atomic_directory
from svg_export.turing import FLAG as CONVOLVED
from svg_export.turing import TURING, convolve_matrix_products
from svg_runtime.backends.nvidia.engine_files import BUNDLE_FOLDER
from svg_runtime.backends.tensorrt.build import BuildOptions, build_engine, engine_flags
from svg_runtime.backends.tensorrt.cache import EngineCache
from svg_runtime.backends.tensorrt.engine import EngineKey, write_engine
from svg_runtime.backends.tensorrt.local import LocalEngines
from svg_runtime.backends.tensorrt.nvidia_library import Library
from svg_runtime.bundle.contract import SHUFFLED_DECODER
from svg_runtime.bundle.manifest import GraphSpec, Precision
from svg_runtime.bundle.reader import Bundle
from svg_runtime.machine.hardware import this_platform

_LOG = logging.getLogger(__name__)
# An engine computes in the types of its graph: these variants have graphs of their own.
_TYPED: tuple[Precision, ...] = ("fp32", "fp16")


@dataclass(frozen=True)
class _Job:
    """One engine: a graph of a variant, for one group of targets."""

    graph_name: str
    precision: Precision
    spec: GraphSpec
    content: bytes
    options: BuildOptions

    @property
    def graph_file(self) -> str:
        return f"{self.precision}/{self.graph_name}.onnx"

    @property
    def file(self) -> str:
        return f"{self.precision}/{self.graph_name}.{'-'.join(self.options.compute_capabilities)}.plan"

    def key(self, library: Library) -> EngineKey:
        return EngineKey(
            onnx_sha256=self.spec.sha256,
            platform=this_platform(),
            nvidia_library=library.name,
            version=library.version,
            gpu=None,
            compute_capabilities=self.options.compute_capabilities,
            precision=self.precision,
            max_batch=self.options.max_batch,
            workspace_gib=self.options.workspace_gib,
            flags=(*engine_flags(library), CONVOLVED) if TURING in self.options.compute_capabilities else engine_flags(library),
        )

    def build(self, library: Library) -> bytes:
        content = convolve_matrix_products(self.content) if TURING in self.options.compute_capabilities else self.content
        return build_engine(
            library=library,
            content=content,
            graph_file=self.graph_file,
            spec=self.spec,
            precision=self.precision,
            options=self.options,
        )


def add_engines(path: Path, library: Library, options: BuildOptions, cache: EngineCache) -> list[str]:
    """Build every graph of the bundle at `path`, and publish all engines as its `engines` folder, or none.

    Args:
        path: the bundle.
        library: TensorRT.
        options: what to build for.
        cache: of engines that were built from the same graphs before.

    Returns:
        The engines' files, inside the bundle.

    Raises:
        BundleError: the bundle is damaged.
        EngineError: a graph cannot be built.
        OSError: the folder cannot be written.
    """
    bundle = Bundle.open(path)
    with atomic_directory(path / BUNDLE_FOLDER) as folder:
        for job in _jobs(bundle, options):
            write_engine(folder / job.file, job.key(library), cache.fetch(job.key(library), _builder(job, library)))
    return _published(path)


def add_local_engines(path: Path, engines: LocalEngines, precision: Precision, capability: str) -> list[str]:
    """Build every graph of one variant of the bundle at `path` for this machine's GPU, and publish the engines, or none.

    Args:
        path: the bundle.
        engines: of that bundle and variant.
        precision: the variant.
        capability: the GPU's, for the files' names.

    Returns:
        The engines' files, inside the bundle.

    Raises:
        BundleError: the bundle is damaged.
        EngineError: a graph cannot be built, or its engine does not match the manifest.
        OSError: the folder cannot be written.
    """
    names = _built_graphs(Bundle.open(path), precision)
    engines.prepare(names)
    with atomic_directory(path / BUNDLE_FOLDER) as folder:
        for graph_name in names:
            write_engine(
                folder / f"{precision}/{graph_name}.{capability}.plan",
                engines.key(graph_name),
                engines.engine_bytes(graph_name),
            )
    return _published(path)


def _published(path: Path) -> list[str]:
    return [str(file.relative_to(path)) for file in sorted((path / BUNDLE_FOLDER).rglob("*.plan"))]


def _built_graphs(bundle: Bundle, precision: Precision) -> list[str]:
    """The graphs of a variant, without those for another engine."""
    return [graph_name for graph_name in bundle.variant(precision).graphs if graph_name != SHUFFLED_DECODER]


def _builder(job: _Job, library: Library) -> Callable[[], bytes]:
    def build() -> bytes:
        _LOG.info("building %s for %s", job.graph_file, ", ".join(job.options.compute_capabilities))
        return job.build(library)

    return build


def _jobs(bundle: Bundle, options: BuildOptions) -> Iterator[_Job]:
    for precision in (name for name in _TYPED if name in bundle.manifest.variants):
        graphs, contents = bundle.variant(precision).graphs, bundle.graphs(precision)
        for graph_name in _built_graphs(bundle, precision):
            for targets in target_groups(options.compute_capabilities):
                yield _Job(
                    graph_name=graph_name,
                    precision=precision,
                    spec=graphs[graph_name],
                    content=contents[graph_name],
                    options=replace(options, compute_capabilities=targets),
                )


def target_groups(targets: tuple[str, ...]) -> list[tuple[str, ...]]:
    """One engine serves all GPUs from Ampere on; sharing it with Turing would make it slower, according to NVIDIA's manual."""
    turing = tuple(target for target in targets if target == TURING)
    others = tuple(target for target in targets if target != TURING)
    return [group for group in (turing, others) if group]
