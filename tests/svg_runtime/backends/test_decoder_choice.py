"""Which decoder a backend runs: the plain one or `decoder_shuffled`, as asked, else its default."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import onnx
import pytest

from svg_common.errors import ExitCode
from svg_runtime import Forecaster
from svg_runtime.backends.nvidia import device as device_module
from svg_runtime.backends.onnxruntime import providers
from svg_runtime.bundle.reader import EMBEDDED_MODEL, Bundle
from svg_runtime.errors import BackendMissingError, UsageError
from tests.svg_runtime.backends.numpy_cuda import NumpyCuda
from tests.svg_runtime.backends.ort_on_numpy_cuda import OrtOnNumpyCuda
from tests.svg_runtime.bundle_helpers import copy_bundle, graph_bytes, replace_graph, watch

ON = {
    "cpu": {"backend": "cpu"},
    "openvino": {"backend": "openvino", "device": "CPU:f32"},
    "cuda": {"backend": "cuda", "precision": "fp32"},
}
SMALL = {"samples": 2, "horizon": 2}
FRAMES = np.random.default_rng(0).random((3, 64, 64, 1), np.float32)


@pytest.fixture(scope="module")
def changed(fused_bundle, tmp_path_factory):
    """A bundle whose `decoder_shuffled` computes other frames than its decoder."""
    model = onnx.load_from_string(graph_bytes(fused_bundle, "decoder_shuffled"))
    weight = next(tensor for tensor in model.graph.initializer if tensor.dims[2:] == [3, 3])
    weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) * np.float32(2), weight.name))
    copy = copy_bundle(fused_bundle, tmp_path_factory.mktemp("changed"))
    return replace_graph(copy, "decoder_shuffled", model.SerializeToString())


@pytest.fixture(params=ON)
def on(request, monkeypatch) -> dict[str, str]:
    if request.param == "openvino":
        pytest.importorskip("openvino")
    if request.param == "cuda":
        pytest.importorskip("cuda.bindings")
        gpu = SimpleNamespace(cuda=NumpyCuda())
        monkeypatch.setattr(device_module, "load_runtime", lambda: gpu.cuda)
        monkeypatch.setattr(providers, "load_onnxruntime", lambda backend, extra: OrtOnNumpyCuda(gpu.cuda))
    return ON[request.param]


def test_the_decoder_is_the_one_that_was_asked_for(changed, fused_bundle, on):
    _, expected = watch(fused_bundle, FRAMES, backend="cpu", fused=False, **SMALL)
    _, plain = watch(changed, FRAMES, shuffled=False, fused=False, **on, **SMALL)
    np.testing.assert_allclose(plain, expected, atol=1e-4)
    _, right = watch(fused_bundle, FRAMES, shuffled=True, **on, **SMALL)
    np.testing.assert_allclose(right, expected, atol=1e-4)
    _, other = watch(changed, FRAMES, shuffled=True, **on, **SMALL)
    assert np.abs(other - expected).max() > 1e-2


def test_by_default_only_openvino_takes_the_shuffled_one(changed, on):
    _, given = watch(changed, FRAMES, fused=False, **on, **SMALL)
    _, named = watch(changed, FRAMES, fused=False, shuffled=on["backend"] == "openvino", **on, **SMALL)
    np.testing.assert_array_equal(given, named)


def test_asking_for_it_means_the_separate_graphs(fused_bundle, on):
    with Forecaster.open(fused_bundle, shuffled=True, **on) as forecaster:
        assert not forecaster.fused
    with pytest.raises(UsageError, match="both fused and shuffled are True"):
        Forecaster.open(fused_bundle, shuffled=True, fused=True, **on)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("name", ["auto", "cpu", "openvino", "cuda"])
def test_a_bundle_without_it_refuses(tiny_bundle, monkeypatch, name, precision):
    """The embedded one has none at all, and fp16 variants have none."""
    if name == "openvino":
        pytest.importorskip("openvino")
    if name == "cuda":
        pytest.importorskip("cuda.bindings")
        cuda = NumpyCuda()
        monkeypatch.setattr(device_module, "load_runtime", lambda: cuda)
        monkeypatch.setattr(providers, "load_onnxruntime", lambda backend, extra: OrtOnNumpyCuda(cuda))
    bundle = EMBEDDED_MODEL if precision == "fp32" else tiny_bundle
    with pytest.raises(
        BackendMissingError, match=f"the {precision} graphs of .* have no decoder_shuffled\n  expected "
    ) as raised:
        Forecaster.open(bundle, backend=name, precision=precision, shuffled=True)
    assert raised.value.exit_code == ExitCode.BACKEND_MISSING


def test_a_bundle_shows_the_decoder_that_was_chosen(tiny_bundle):
    bundle = Bundle.open(tiny_bundle)
    for shuffled, name in ((True, "decoder_shuffled"), (False, "decoder")):
        chosen = bundle.with_decoder(shuffled)
        assert chosen.graphs("fp32")["decoder"] == graph_bytes(tiny_bundle, name)
        assert chosen.variant("fp32").graphs["decoder"].file == f"fp32/{name}.onnx"
        assert "decoder_shuffled" not in chosen.graphs("fp32").keys() | chosen.variant("fp32").graphs.keys()
    assert "decoder_shuffled" in bundle.graphs("fp32")
