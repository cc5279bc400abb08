"""Backends on a real GPU: which are available, and what each must do. Without a GPU all tests are skipped."""

from __future__ import annotations

import os
import time
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

from svg_common.metrics import psnr
from svg_runtime import Forecaster
from svg_runtime.backends import NVIDIA, open_backend
from svg_runtime.backends.gpu_options import GpuOptions
from svg_runtime.backends.nvidia.device import CudaDevice, load_runtime
from svg_runtime.bundle.reader import Bundle
from svg_runtime.errors import BackendMissingError, MissingExtraError, UsageError
from tests.svg_runtime.bundle_helpers import watch

HORIZON = 10
FP32_ATOL = 1e-4  # as the parity gate
FP16_FIRST_STEP_DB = 45.0
OPENED = {"samples": 3, "horizon": HORIZON, "seed": 5}


@lru_cache
def missing_gpu(name: str) -> str | None:
    """Return why there is no GPU for a backend; None if there is one."""
    try:
        CudaDevice(name, "gpu", None).close()
    except (MissingExtraError, BackendMissingError) as error:
        return str(error)
    return None


@lru_cache
def missing_library(name: str, bundle: Path) -> str | None:
    """Return why a backend is not available on a machine with a GPU; None if it is. Nodes on the CPU are left to the tests."""
    try:
        open_backend(Bundle.open(bundle), name, None, "fp32").close()
    except (MissingExtraError, BackendMissingError) as error:
        return None if "cannot run all of" in str(error) else str(error)
    return None


def _skip(reason: str, config: pytest.Config) -> None:
    """On the simulated GPU nothing is missing."""
    (pytest.fail if config.pluginmanager.has_plugin("tests.gpu.simulated") else pytest.skip)(reason)


@pytest.fixture(scope="session", params=NVIDIA)
def name(request) -> str:
    """A backend; skips without a GPU."""
    reason = missing_gpu(request.param)
    if reason:
        _skip(reason, request.config)
    return request.param


@pytest.fixture(scope="session")
def bundle(name, request, tmp_path_factory):
    """Tiny fused bundle in fp32 and fp16; skips where the backend's library is not installed."""
    made = request.getfixturevalue("fused_bundle")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SVG_EDGE_CACHE", str(tmp_path_factory.mktemp("engines")))
        reason = missing_library(name, made)
        if reason:
            _skip(reason, request.config)
        yield made


def skip_without_graphs(name: str, bundle: Path) -> None:
    """Where the backend refuses CUDA graphs: ort-tensorrt always, cuda with an ONNX Runtime that is too old for them."""
    try:
        open_backend(Bundle.open(bundle), name, None, "fp32", gpu=GpuOptions(cuda_graph=True)).close()
    except UsageError as error:
        pytest.skip(str(error))
    except BackendMissingError as error:
        if "with the CUDA graphs of ONNX Runtime" not in str(error):
            raise
        pytest.skip(str(error))


def check_parity(name: str, bundle: Path, frames: np.ndarray, precision: str, **opened) -> list[float]:
    """Over n_past + HORIZON steps against the cpu backend in fp32: all steps in fp32; in fp16 the first step.

    Returns PSNR in dB against it, per step.
    """
    observed, futures = watch(bundle, frames, backend=name, precision=precision, **OPENED, **opened)
    expected_observed, expected = watch(bundle, frames, backend="cpu", precision="fp32", **OPENED, **opened)
    if precision == "fp32":
        np.testing.assert_allclose(futures, expected, atol=FP32_ATOL)
        for actual, expected in zip(observed, expected_observed, strict=True):
            np.testing.assert_allclose(actual, expected, rtol=1e-2, atol=1e-3)
    errors = np.mean((futures - expected).astype(np.float64) ** 2, axis=(0, 1, 3, 4, 5))
    curve = [round(psnr(error), 1) for error in errors.tolist()]
    assert precision == "fp32" or curve[0] >= FP16_FIRST_STEP_DB, curve
    return curve


def check_graphs_change_nothing(name: str, bundle: Path, frames: np.ndarray, precision: str, fused: bool, context: str) -> None:
    """Also after many steps of the states; the library may choose other kernels, hence a tolerance."""
    opened = {**OPENED, "precision": precision, "fused": fused, "context": context}
    _, on = watch(bundle, frames, backend=name, gpu=GpuOptions(cuda_graph=True), **opened)
    _, off = watch(bundle, frames, backend=name, gpu=GpuOptions(cuda_graph=False), **opened)
    np.testing.assert_allclose(on, off, atol=FP32_ATOL if precision == "fp32" else 5e-2)


def check_memory_stays(name: str, bundle: Path, frames: np.ndarray, forecasts: int = 1000) -> None:
    """Of the device and of the process, after a warm-up.

    A GPU that shares the memory of the system has no figure of its own: there the process alone counts. Others too may have
    windows on a screen, so that of some readings the lowest counts.
    """
    with Forecaster.open(bundle, backend=name, samples=4, horizon=4) as forecaster:
        for step in range(forecasts + 50):
            forecaster.observe(frames[step % len(frames)])
            if forecaster.ready:
                forecaster.forecast()
            if step == 50:
                before = _memory()
        after = _memory()
    assert after[0] - before[0] < 16 << 20
    assert after[1] - before[1] < 8 << 20 or _shares_memory()


def check_two_at_once(name: str, bundle: Path, frames: np.ndarray) -> None:
    """Two forecasters, one after another frame by frame, see what one alone sees."""
    opened = {**OPENED, "backend": name, "precision": "fp32"}
    _, expected = watch(bundle, frames, **opened)
    with Forecaster.open(bundle, **opened) as one, Forecaster.open(bundle, **opened) as two:
        for each in (one, two):
            for frame in frames[:2]:
                each.observe(frame)
        for at, frame in enumerate(frames[2:]):
            for each in (one, two):
                each.observe(frame)
                np.testing.assert_allclose(each.forecast(), expected[at], atol=FP32_ATOL)


def _memory() -> tuple[int, int]:
    """Bytes used by this process and on the device."""
    used = []
    for _ in range(5):
        _, free, total = load_runtime().cudaMemGetInfo()
        used.append(total - free)
        time.sleep(0.2)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE"), min(used)


def _shares_memory() -> bool:
    cuda = load_runtime()
    attribute = cuda.cudaDeviceAttr.cudaDevAttrIntegrated
    error, integrated = cuda.cudaDeviceGetAttribute(attribute, 0)
    assert error == cuda.cudaError_t.cudaSuccess
    return bool(integrated)
