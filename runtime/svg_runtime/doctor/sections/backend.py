"""One backend, asked for a real forecast of the embedded digits."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from svg_runtime.doctor.finding import Finding
from svg_runtime.errors import EngineNotBuiltError, SvgError

if TYPE_CHECKING:
    from svg_runtime.forecast.forecaster import Forecaster


def check(name: str) -> list[Finding]:
    """Forecast with it. Where it needs engines, which take minutes to build, look for its library and a GPU."""
    from svg_runtime.backends import WITH_ENGINES
    from svg_runtime.backends.gpu_options import GpuOptions
    from svg_runtime.bundle.reader import EMBEDDED_MODEL
    from svg_runtime.forecast.forecaster import Forecaster

    cache = nullcontext() if name in WITH_ENGINES else _temporary_cache()  # engines that are ready lie in the user's
    try:
        with (
            cache,
            Forecaster.open(
                EMBEDDED_MODEL, backend=name, samples=1, horizon=1, gpu=GpuOptions(build_engines=False)
            ) as forecaster,
        ):
            return [_forecast(name, forecaster)]
    except EngineNotBuiltError:
        return [_look_for_library_and_gpu(name)]
    except SvgError as error:
        return [_missing(name, error)]


@contextmanager
def _temporary_cache() -> Iterator[None]:
    """Let what is compiled go to a folder that is removed: a report changes nothing on the machine.

    Where the disk is full, it goes nowhere: backends work without a cache.
    """
    given = os.environ.get("SVG_EDGE_CACHE")
    with ExitStack() as resources:
        folder = str(Path(os.devnull) / "none")  # which cannot be made
        with suppress(OSError):
            made = tempfile.TemporaryDirectory(prefix="svg-doctor-", ignore_cleanup_errors=True)
            folder = resources.enter_context(made)
        os.environ["SVG_EDGE_CACHE"] = folder
        try:
            yield
        finally:
            del os.environ["SVG_EDGE_CACHE"]
            if given is not None:
                os.environ["SVG_EDGE_CACHE"] = given


def _forecast(name: str, forecaster: Forecaster) -> Finding:
    import numpy as np

    frame = forecaster.manifest.frame
    for _ in range(forecaster.manifest.generation.n_past):
        forecaster.observe(np.full((frame.height, frame.width, frame.channels), 0.5, np.float32))
    if not np.isfinite(forecaster.forecast()).all():
        return Finding(name, "problem", f"{forecaster.description}: its forecast is not finite", "use --backend cpu")
    return Finding(name, "ok", forecaster.description)


def _look_for_library_and_gpu(name: str) -> Finding:
    """The backend says that an engine is missing before it looks for anything else."""
    from svg_runtime.backends import ORT_NVIDIA
    from svg_runtime.backends.nvidia.device import CudaDevice

    try:
        if name in ORT_NVIDIA:
            from svg_runtime.backends.onnxruntime.providers import load_provider

            load_provider(name, cuda_graph=False)
        else:
            from svg_runtime.backends.tensorrt.nvidia_library import load_library

            load_library(name).start("Runtime")
        device = CudaDevice(name, "gpu" if name in ORT_NVIDIA else name, None)
    except SvgError as error:
        return _missing(name, error)
    gpu = device.gpu.name
    device.close()
    return Finding(
        name, "untried", f"its library and {gpu} were found, and no engine, which takes minutes to build",
        f"build it with: svg-live --backend {name} --headless --max-frames 30",
    )  # fmt: skip


def _missing(name: str, error: SvgError) -> Finding:
    reason, *advice = str(error).splitlines()
    return Finding(name, "missing", reason, "\n".join(advice))
