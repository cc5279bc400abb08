"""ONNX Runtime's providers on a real GPU: every node is where it should be."""

from __future__ import annotations

import pytest

from svg_runtime.backends import ORT_NVIDIA, open_backend
from svg_runtime.backends.onnxruntime.placement import placed_nodes
from svg_runtime.backends.onnxruntime.providers import ALLOWED
from svg_runtime.bundle.reader import Bundle

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
        for placed in backend._graphs.values():
            assert placed.session.get_providers()[0] == ALLOWED[ort_name][0]
            assert set(placed_nodes(placed.session)) <= set(ALLOWED[ort_name])
        assert "the CPU" not in backend.description
    finally:
        backend.close()
