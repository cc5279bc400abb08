"""`auto` where ONNX Runtime is not installed, with which all others are compared: what is installed runs."""

from __future__ import annotations

import shutil

import pytest

from svg_runtime import Forecaster
from svg_runtime.backends.openvino import device as openvino_device
from svg_runtime.backends.tensorrt.nvidia_library import LIBRARIES
from svg_runtime.errors import BackendMissingError, MissingExtraError
from tests.svg_runtime.backends.install_helpers import install_only
from tests.svg_runtime.bundle_helpers import copy_bundle

needs_cuda_bindings = pytest.mark.usefixtures("_cuda_bindings")
SMALL = {"samples": 2, "horizon": 2}


@pytest.fixture
def _cuda_bindings():
    for module in ("cuda.bindings", "filelock"):
        pytest.importorskip(module, reason=f"{module} is not installed: pip install 'svg-edge[tensorrt-rtx]'")


@pytest.fixture
def cache(monkeypatch, tmp_path):
    monkeypatch.delenv("SVG_EDGE_CALIBRATE", raising=False)
    monkeypatch.setenv("SVG_EDGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def opened(bundle, **options) -> str:
    with Forecaster.open(bundle, **SMALL, **options) as forecaster:
        return forecaster.backend


@needs_cuda_bindings
@pytest.mark.parametrize("name", LIBRARIES)
def test_tensorrt_alone_runs_and_builds_its_engines_once(fused_bundle, cache, monkeypatch, logged, name):
    built = install_only(monkeypatch, LIBRARIES[name])
    assert opened(fused_bundle) == name
    assert built
    said = f"auto takes {name}, as no other engine runs here; building its engines takes minutes, once"
    assert said in logged.messages
    built.clear()
    logged.clear()
    for options in ({}, {"calibrate": "no"}, {"device": "cuda"}):
        assert opened(fused_bundle, **options) == name
    assert built == []
    assert said not in logged.messages


@needs_cuda_bindings
def test_engines_of_the_bundle_are_used_at_once(fused_bundle, cache, monkeypatch, tmp_path, logged):
    bundle = copy_bundle(fused_bundle, tmp_path)
    built = install_only(monkeypatch, "tensorrt")
    opened(bundle)
    shutil.move(cache / "tensorrt", bundle / "engines")
    built.clear()
    logged.clear()
    assert opened(bundle) == "tensorrt"
    assert built == []
    assert "takes minutes" not in logged.text


@needs_cuda_bindings
def test_the_processor_is_not_what_tensorrt_runs_on(fused_bundle, cache, monkeypatch):
    install_only(monkeypatch, "tensorrt")
    with pytest.raises(MissingExtraError, match=r"onnxruntime.*\n.*pip install 'svg-edge\[cpu\]'"):
        opened(fused_bundle, device="cpu")


@needs_cuda_bindings
def test_a_gpu_that_is_not_there_is_named(fused_bundle, cache, monkeypatch):
    install_only(monkeypatch, "tensorrt")
    with pytest.raises(BackendMissingError, match=r"'cuda:7' is a device of the tensorrt backend: .* finds no device cuda:7"):
        opened(fused_bundle, device="cuda:7")


def test_openvino_alone_runs_on_a_processor_without_bf16_units(fused_bundle, cache, monkeypatch):
    pytest.importorskip("openvino")
    install_only(monkeypatch, "openvino")
    monkeypatch.setattr(openvino_device, "has_bf16_units", lambda: False)
    assert opened(fused_bundle) == "openvino"


@needs_cuda_bindings
def test_with_onnx_runtime_no_engine_is_built_by_itself(fused_bundle, cache, monkeypatch):
    built = install_only(monkeypatch, "tensorrt", "onnxruntime")
    assert opened(fused_bundle) == "cpu"
    assert built == []
