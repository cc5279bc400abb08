"""Engines that seem ready, by the records on disk: neither NVIDIA's library nor the GPU is asked, which takes a while.

Whether they are, `LocalEngines` decides, by the library's release and the GPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from svg_runtime.backends.gpu_options import not_built
from svg_runtime.backends.nvidia.engine_files import BUNDLE_FOLDER, engine_folders, file_stamp
from svg_runtime.backends.tensorrt.engine import EngineKey, list_engines
from svg_runtime.backends.tensorrt.nvidia_library import LIBRARIES
from svg_runtime.bundle.manifest import Precision
from svg_runtime.bundle.reader import Bundle
from svg_runtime.machine.hardware import this_platform


def refuse_unbuilt(
    library: str, bundle: Bundle, precision: Precision, graph_names: Sequence[str], max_batch: int, cache_dir: str | None
) -> None:
    """Refuse graphs for which no engine is recorded.

    Raises:
        EngineNotBuiltError: with the graphs.
    """
    graphs = bundle.variant(precision).graphs
    recorded = {key.onnx_sha256 for _, key in _recorded(library, bundle, max_batch, cache_dir)}
    missing = [graph_name for graph_name in graph_names if graphs[graph_name].sha256 not in recorded]
    if missing:
        raise not_built(library, [f"{precision}/{graph_name}.onnx" for graph_name in missing])


def tensorrt_engine_stamps(bundle: Bundle, max_batch: int) -> list[str]:
    """Return what changes when an engine of the bundle's graphs is built, replaced or removed."""
    return [
        f"{library} {key.digest()} {file_stamp(file)}"
        for library in LIBRARIES
        for file, key in _recorded(library, bundle, max_batch, None)
    ]


def _recorded(library: str, bundle: Bundle, max_batch: int, cache_dir: str | None) -> Iterator[tuple[Path, EngineKey]]:
    hashes = {spec.sha256 for variant in bundle.manifest.variants.values() for spec in variant.graphs.values()}
    for folder in (bundle.path / BUNDLE_FOLDER, *(cache / library for cache in engine_folders(cache_dir))):
        for engine_file, key in list_engines(folder):
            here = key.nvidia_library == library and key.platform == this_platform()
            if here and key.onnx_sha256 in hashes and key.max_batch >= max_batch:
                yield engine_file, key
