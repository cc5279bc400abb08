"""ONNX Runtime's providers on a real GPU: every node is where it should be, and the host waits once per forecast."""

from __future__ import annotations

import pytest

from svg_runtime import Forecaster
from svg_runtime.backends import ORT_NVIDIA, open_backend
from svg_runtime.backends.gpu_options import GpuOptions
from svg_runtime.backends.ort_placement import placed_nodes
from svg_runtime.backends.ort_providers import ALLOWED
from svg_runtime.bundle import Bundle
from svg_runtime.errors import BackendError

pytestmark = pytest.mark.gpu


@pytest.fixture
def ort_name(name):
    if name not in ORT_NVIDIA:
        pytest.skip(f"{name} is not ONNX Runtime")
    return name


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_every_node_runs_on_the_gpu(ort_name, bundle, precision):
    backend = open_backend(Bundle.open(bundle), ort_name, None, precision)
    try:
        for sessions in backend._graphs.values():
            session = sessions.at({"batch": 8, "cond_batch": 1})
            assert session.get_providers()[0] == ALLOWED[ort_name][0]
            assert set(placed_nodes(session)) <= set(ALLOWED[ort_name])
        assert "processor" not in backend.description
    finally:
        backend.close()


def test_the_host_waits_once_per_forecast(ort_name, bundle, frames):
    with Forecaster.open(bundle, backend=ort_name, samples=2, horizon=5) as forecaster:
        for frame in frames[:3]:
            forecaster.observe(frame)
        forecaster.forecast()
        before = forecaster._backend._device.waits
        forecaster.forecast()
        assert forecaster._backend._device.waits == before + 1


def test_samples_change_from_call_to_call(ort_name, bundle, frames):
    """Also with CUDA graphs, whose plans come and go."""
    gpu = GpuOptions(cuda_graph=True) if ort_name == "cuda" else None
    with Forecaster.open(bundle, backend=ort_name, samples=8, gpu=gpu) as forecaster:
        for frame in frames[:3]:
            forecaster.observe(frame)
        for samples, horizon in [(1, 3), (4, 2), (8, 5), (2, 1), (3, 3), (1, 3)]:
            assert forecaster.forecast(samples, horizon).shape[:2] == (samples, horizon)


def test_a_closed_backend_runs_nothing(ort_name, bundle):
    backend = open_backend(Bundle.open(bundle), ort_name, None, "fp32")
    buffer = backend.allocate((2,), "float32")
    backend.close()
    with pytest.raises(BackendError, match="closed"):
        backend.read(buffer)
