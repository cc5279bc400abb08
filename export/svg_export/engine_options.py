"""The engine options of `svg-export`: checked before the export, and refused where they would have no effect."""

from __future__ import annotations

import logging
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from svg_common.command import is_installed
from svg_common.errors import MissingExtraError, UsageError, first_line
from svg_common.progress import ProgressListener
from svg_export.turing import TURING
from svg_runtime.backends import nvidia_precision
from svg_runtime.backends.gpu_options import GpuOptions
from svg_runtime.backends.nvidia.device import CudaDevice, GpuName
from svg_runtime.backends.tensorrt.build import BuildOptions, check_compute_capabilities
from svg_runtime.backends.tensorrt.cache import EngineCache
from svg_runtime.backends.tensorrt.local import LocalEngines
from svg_runtime.backends.tensorrt.nvidia_library import Library, load_library
from svg_runtime.bundle.reader import Bundle
from svg_runtime.errors import BackendMissingError, EngineError
from svg_runtime.forecast.sampled_context import largest_batch

_LOG = logging.getLogger(__name__)
ANYWHERE = "tensorrt-rtx"  # builds engines without the GPU that runs them
DEFAULT_SAMPLES = 8


@dataclass(frozen=True)
class EngineRequest:
    """Engines for GPUs that this machine need not have, to add to a written bundle."""

    nvidia_library: Library
    options: BuildOptions
    cache_dir: str | None

    def build(self, bundle: Path, progress: ProgressListener) -> dict[str, Any]:
        """Build the engines; returns what was built, for the summary.

        Raises:
            EngineError: a graph cannot be built. The bundle stays as it is, without engines.
        """
        from svg_export.engines import add_engines

        cache = EngineCache(self.cache_dir, self.nvidia_library.name)
        options = replace(self.options, max_batch=largest_batch(Bundle.open(bundle).manifest, self.options.max_batch))
        try:
            engines = add_engines(bundle, self.nvidia_library, options, cache)
        except EngineError as error:
            raise _without_engines(error, bundle) from error
        targets = list(self.options.compute_capabilities)
        title = _title(self.nvidia_library)
        _LOG.info("%d engines of %s for %s: built, not run", len(engines), title, ", ".join(targets))
        return _summary(self.nvidia_library, targets, options.max_batch, engines)


@dataclass(frozen=True)
class LocalRequest:
    """Engines for the GPU of this machine, of the variant that backends choose there by default."""

    nvidia_library: Library
    gpu: GpuName
    max_batch: int
    choices: GpuOptions

    def build(self, bundle: Path, progress: ProgressListener) -> dict[str, Any]:
        """Build the engines; returns what was built, for the summary.

        Raises:
            EngineError: a graph cannot be built, or its engine does not match the manifest. The bundle stays as it
                is, without engines.
        """
        from svg_export.engines import add_local_engines

        opened = Bundle.open(bundle)
        precision = nvidia_precision(opened.manifest)
        max_batch = largest_batch(opened.manifest, self.max_batch)
        capability = self.gpu.compute_capability
        local = LocalEngines(
            library=self.nvidia_library,
            bundle=opened,
            precision=precision,
            gpu=self.gpu,
            max_batch=max_batch,
            gpu_options=self.choices,
            progress=progress,
        )
        try:
            engines = add_local_engines(bundle, local, precision, capability)
        except EngineError as error:
            raise _without_engines(error, bundle) from error
        title = _title(self.nvidia_library)
        _LOG.info("%d %s engines of %s for %s (%s)", len(engines), precision, title, self.gpu.name, capability)
        return {
            **_summary(self.nvidia_library, [capability], max_batch, engines),
            "gpu": self.gpu.name,
            "precision": precision,
        }


def engine_request(
    engine: bool, backend: str | None, targets: str | None, samples: int | None, workspace: float | None, cache_dir: str | None
) -> EngineRequest | LocalRequest | None:
    """The engines to build; None without --engine.

    Raises:
        UsageError: an option without effect, or targets that the library does not know.
        BackendMissingError, MissingExtraError: a backend whose engines cannot be built here.
    """
    flags = {
        "--backend": backend,
        "--target": targets,
        "--samples": samples,
        "--workspace": workspace,
        "--cache-dir": cache_dir,
    }
    given = [flag for flag, value in flags.items() if value is not None]
    if not engine:
        if given:
            raise UsageError(f"{', '.join(given)} given without --engine\n  add --engine, or remove {' '.join(given)}")
        return None
    max_batch = samples or DEFAULT_SAMPLES
    if targets is not None:
        return _for_targets(
            backend=backend, targets=tuple(targets.split(",")), max_batch=max_batch, workspace=workspace, cache_dir=cache_dir
        )
    gpu = _gpu_for(backend)
    library = load_library(backend or ("tensorrt" if gpu is not None and is_installed("tensorrt") else ANYWHERE))
    if gpu is None:
        return EngineRequest(library, BuildOptions(library.compute_capabilities, max_batch, workspace), cache_dir)
    if library.ahead_of_time:
        _refuse_unknown(library, gpu)
        if gpu.compute_capability == TURING:  # needs another form of the graphs, which is only built ahead of time
            return EngineRequest(library, BuildOptions((TURING,), max_batch, workspace), cache_dir)
    return LocalRequest(library, gpu, max_batch, GpuOptions(cache_dir=cache_dir, workspace_gib=workspace))


def _for_targets(
    backend: str | None, targets: tuple[str, ...], max_batch: int, workspace: float | None, cache_dir: str | None
) -> EngineRequest:
    if backend == "tensorrt":
        raise UsageError(
            "--target has no effect with 'tensorrt', which builds for the GPU of this machine\n"
            f"  remove --target and run svg-export on your target device, or use --backend {ANYWHERE}"
        )
    library = load_library(backend or ANYWHERE)
    check_compute_capabilities(library, targets)
    return EngineRequest(library, BuildOptions(targets, max_batch, workspace), cache_dir)


def _gpu_for(backend: str | None) -> GpuName | None:
    """The first GPU of this machine; None without a GPU, if the backend can build without one."""
    try:
        with closing(CudaDevice(backend or ANYWHERE, backend or ANYWHERE, None)) as device:
            return device.gpu
    except (BackendMissingError, MissingExtraError) as error:
        if backend != "tensorrt":
            return None
        raise BackendMissingError(
            f"engines of 'tensorrt' are built on the GPU that runs them: {first_line(error)}\n"
            f"  run svg-export on your target device, or use --backend {ANYWHERE}, which builds engines on any machine"
        ) from error


def _refuse_unknown(library: Library, gpu: GpuName) -> None:
    if gpu.compute_capability not in library.compute_capabilities:
        raise BackendMissingError(
            f"{_title(library)} cannot build engines for this machine's {gpu.name} ({gpu.compute_capability})\n"
            f"  expected --backend tensorrt, or --target with some of: {', '.join(library.compute_capabilities)}"
        )


def _without_engines(error: EngineError, bundle: Path) -> EngineError:
    return EngineError(f"{error}\n  '{bundle}' was written without engines")


def _summary(library: Library, targets: list[str], max_batch: int, files: list[str]) -> dict[str, Any]:
    return {"library": _title(library), "targets": targets, "max_samples": max_batch, "files": files}


def _title(library: Library) -> str:
    return f"{library.name} {library.version}"
