"""What every backend for NVIDIA GPUs has to do on one: the checks of conftest.py on all that are installed."""

from __future__ import annotations

import os

import numpy as np
import pytest

from svg_runtime import Forecaster
from svg_runtime.backends import open_backend
from svg_runtime.backends.gpu_options import GpuOptions
from svg_runtime.bundle.reader import Bundle
from svg_runtime.errors import BackendError
from tests.gpu.conftest import (
    FP32_ATOL,
    check_graphs_change_nothing,
    check_memory_stays,
    check_parity,
    check_two_at_once,
    skip_without_graphs,
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
def test_cuda_graphs_do_not_change_the_frames(name, bundle, frames, precision, context, fused):
    skip_without_graphs(name, bundle)
    check_graphs_change_nothing(name, bundle, frames[:6], precision, fused, context)


def test_memory_stays_over_a_thousand_forecasts(name, bundle, frames):
    if "PYTEST_XDIST_WORKER" in os.environ:
        pytest.skip("other processes use the GPU: run pytest tests/gpu alone")
    check_memory_stays(name, bundle, frames)


def test_two_forecasters_at_once_give_their_own_forecasts(name, bundle, frames):
    check_two_at_once(name, bundle, frames[:5])


def test_the_host_waits_once_per_forecast(name, bundle, frames):
    with Forecaster.open(bundle, backend=name, samples=2, horizon=5) as forecaster:
        for frame in frames[:3]:
            forecaster.observe(frame)
        forecaster.forecast()
        before = forecaster._backend._device.waits
        forecaster.forecast()
        assert forecaster._backend._device.waits == before + 1


@pytest.mark.parametrize("graph", [False, True], ids=["launched", "captured"])
def test_samples_change_from_call_to_call(name, bundle, frames, graph):
    """Captured graphs are replayed after runs at another batch, come and go; frames stay those of the cpu backend."""
    if graph:
        skip_without_graphs(name, bundle)
    gpu = GpuOptions(cuda_graph=graph)
    with (
        Forecaster.open(bundle, backend=name, precision="fp32", samples=8, gpu=gpu) as given,
        Forecaster.open(bundle, backend="cpu", precision="fp32", samples=8) as expected,
    ):
        for frame in frames[:3]:
            given.observe(frame)
            expected.observe(frame)
        for samples, horizon in [(1, 3), (4, 2), (1, 3), (4, 2), (8, 5), (2, 1), (3, 3), (1, 3)]:
            np.testing.assert_allclose(given.forecast(samples, horizon), expected.forecast(samples, horizon), atol=FP32_ATOL)


def test_the_host_waits_twice_per_observation(name, bundle, frames):
    """For the encoding, and for posterior and prior of the whole context."""
    with Forecaster.open(bundle, backend=name, samples=2, horizon=5) as forecaster:
        forecaster.warm_up()
        for frame in frames[:5]:
            before = forecaster._backend._device.waits
            forecaster.observe(frame)
        assert forecaster._backend._device.waits == before + 2


def test_a_closed_backend_runs_nothing(name, bundle):
    backend = open_backend(Bundle.open(bundle), name, None, "fp32")
    buffer = backend.allocate((2,), "float32")
    backend.close()
    with pytest.raises(BackendError, match="closed"):
        backend.read(buffer)
