"""What every backend for NVIDIA GPUs has to do on one: the checks of conftest.py on all that are installed."""

from __future__ import annotations

import os

import pytest

from svg_runtime import Forecaster
from svg_runtime.backends import open_backend
from svg_runtime.backends.gpu_options import GpuOptions
from svg_runtime.bundle import Bundle
from svg_runtime.errors import BackendError
from tests.gpu.conftest import (
    WITHOUT_GRAPHS,
    check_graphs_change_nothing,
    check_memory_stays,
    check_parity,
    check_two_at_once,
)

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "separate"])
@pytest.mark.parametrize("context", ["window", "stream"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_forecasts_are_those_of_the_cpu(name, bundle, frames, precision, context, fused, record_property):
    """The closed loop amplifies rounding: how fast is in the report (--junit-xml, or -rP)."""
    curve = check_parity(name, bundle, frames[:5], precision, context=context, fused=fused)
    record_property("psnr_db_per_step", curve)
    print(f"{name} {precision} against fp32 on the cpu, dB per step: {curve}")


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "separate"])
@pytest.mark.parametrize("context", ["window", "stream"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_cuda_graphs_change_nothing(name, bundle, frames, precision, context, fused):
    if name in WITHOUT_GRAPHS:
        pytest.skip(f"{name} has no CUDA graphs")
    check_graphs_change_nothing(name, bundle, frames[:6], precision, fused, context)


def test_memory_stays_over_a_thousand_forecasts(name, bundle, frames):
    if "PYTEST_XDIST_WORKER" in os.environ:
        pytest.skip("other processes use the GPU: run pytest tests/gpu alone")
    check_memory_stays(name, bundle, frames)


def test_two_forecasters_at_once(name, bundle, frames):
    check_two_at_once(name, bundle, frames[:5])


def test_the_host_waits_once_per_forecast(name, bundle, frames):
    with Forecaster.open(bundle, backend=name, samples=2, horizon=5) as forecaster:
        for frame in frames[:3]:
            forecaster.observe(frame)
        forecaster.forecast()
        before = forecaster._backend._device.waits
        forecaster.forecast()
        assert forecaster._backend._device.waits == before + 1


def test_samples_change_from_call_to_call(name, bundle, frames):
    """Also with CUDA graphs, whose plans come and go."""
    gpu = None if name in WITHOUT_GRAPHS else GpuOptions(cuda_graph=True)
    with Forecaster.open(bundle, backend=name, samples=8, gpu=gpu) as forecaster:
        for frame in frames[:3]:
            forecaster.observe(frame)
        for samples, horizon in [(1, 3), (4, 2), (8, 5), (2, 1), (3, 3), (1, 3)]:
            assert forecaster.forecast(samples, horizon).shape[:2] == (samples, horizon)


def test_a_closed_backend_runs_nothing(name, bundle):
    backend = open_backend(Bundle.open(bundle), name, None, "fp32")
    buffer = backend.allocate((2,), "float32")
    backend.close()
    with pytest.raises(BackendError, match="closed"):
        backend.read(buffer)
