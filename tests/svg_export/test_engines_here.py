"""Engines for the GPU of this machine: which library builds them, what it says, and what is refused. The builder is real."""

from __future__ import annotations

import pytest

from svg_common.errors import ExitCode, UsageError
from svg_export import engine_options
from svg_export.engine_options import EngineRequest, LocalRequest, engine_request
from svg_runtime.backends.gpu_options import GpuOptions
from svg_runtime.backends.nvidia import device as device_module
from svg_runtime.backends.nvidia.device import GpuName
from svg_runtime.backends.tensorrt import local
from svg_runtime.backends.tensorrt.engine import EngineRecord
from svg_runtime.backends.tensorrt.local import LocalEngines
from svg_runtime.bundle.reader import Bundle
from svg_runtime.errors import BackendMissingError, EngineError
from tests.svg_export.engine_helpers import rtx
from tests.svg_export.test_export import run_cli
from tests.svg_runtime.backends.build_helpers import Watched
from tests.svg_runtime.backends.numpy_cuda import NumpyCuda
from tests.svg_runtime.backends.tensorrt_module import tensorrt
from tests.svg_runtime.bundle_helpers import copy_bundle

HERE = GpuName(0, "NumPy GPU", "sm86", 16)
NOTHING_ELSE = (None, None, None, None, None)


def fake_gpu(monkeypatch, capability: str | None) -> NumpyCuda:
    """A GPU of a compute capability in this machine, or none."""
    cuda = NumpyCuda(gpus=0 if capability is None else 1)
    if capability is not None:
        monkeypatch.setattr(engine_options.CudaDevice, "gpu", GpuName(0, "NumPy GPU", capability, 16))
    monkeypatch.setattr(device_module, "load_runtime", lambda: cuda)
    return cuda


def installed(monkeypatch, *libraries) -> None:
    known = {library.name: library for library in libraries}
    monkeypatch.setattr(engine_options, "is_installed", known.__contains__)
    monkeypatch.setattr(engine_options, "load_library", known.__getitem__)


@pytest.fixture
def unopened(monkeypatch) -> None:
    """TensorRT opens engines beside a driver only."""
    monkeypatch.setattr(local, "open_engine", lambda library, plan, place: None)
    monkeypatch.setattr(LocalEngines, "check", lambda self, graph_name, engine: None)


def test_with_a_gpu_engines_are_built_for_it(monkeypatch):
    cuda = fake_gpu(monkeypatch, "sm86")
    request = engine_request(True, None, None, 3, 1.5, "cache")
    assert request == LocalRequest(rtx(), HERE, 3, GpuOptions(cache_dir="cache", workspace_gib=1.5))
    assert cuda.left == (0, 0, 0, 0)  # the stream is gone again


def test_tensorrt_is_taken_where_it_is_installed_with_a_gpu(monkeypatch):
    native = tensorrt()
    installed(monkeypatch, native, rtx())
    fake_gpu(monkeypatch, "sm87")
    assert engine_request(True, *NOTHING_ELSE).nvidia_library is native
    assert engine_request(True, "tensorrt", *NOTHING_ELSE[1:]).nvidia_library is native
    fake_gpu(monkeypatch, None)
    request = engine_request(True, *NOTHING_ELSE)
    assert isinstance(request, EngineRequest)
    assert request.nvidia_library is rtx()


def test_targets_are_built_ahead_of_time_with_a_gpu_too(monkeypatch):
    fake_gpu(monkeypatch, "sm86")
    request = engine_request(True, None, "sm75,sm120", None, None, None)
    assert isinstance(request, EngineRequest)
    assert request.options.compute_capabilities == ("sm75", "sm120")


def test_turing_is_built_in_its_own_form(monkeypatch):
    fake_gpu(monkeypatch, "sm75")
    request = engine_request(True, *NOTHING_ELSE)
    assert isinstance(request, EngineRequest)
    assert request.options.compute_capabilities == ("sm75",)


def test_tensorrt_without_a_gpu_is_refused_with_what_to_do(monkeypatch):
    fake_gpu(monkeypatch, None)
    with pytest.raises(
        BackendMissingError, match=r"no NVIDIA GPU(.|\n)*svg-export on your target device, or.*tensorrt-rtx"
    ) as caught:
        engine_request(True, "tensorrt", *NOTHING_ELSE[1:])
    assert caught.value.exit_code == ExitCode.BACKEND_MISSING


def test_tensorrt_for_other_gpus_is_refused(monkeypatch):
    fake_gpu(monkeypatch, "sm86")
    with pytest.raises(UsageError, match="--target has no effect with 'tensorrt', which builds for the GPU of this machine"):
        engine_request(True, "tensorrt", "sm86", None, None, None)


def test_a_gpu_that_rtx_does_not_know_is_refused_with_what_to_do(monkeypatch):
    fake_gpu(monkeypatch, "sm90")
    with pytest.raises(BackendMissingError, match=r"NumPy GPU \(sm90\)\n.*--backend tensorrt, or --target"):
        engine_request(True, "tensorrt-rtx", *NOTHING_ELSE[1:])


def test_engines_of_this_gpu_go_into_the_bundle_and_the_cache(fused_bundle, tmp_path, unopened, monkeypatch, logged):
    fake_gpu(monkeypatch, "sm86")
    bundle, watched = copy_bundle(fused_bundle, tmp_path), Watched()
    request = LocalRequest(rtx(), HERE, 3, GpuOptions(cache_dir=str(tmp_path / "cache")))
    summary = request.build(bundle, watched)
    assert [what.split(": ")[0] for what in watched.shares] == [f"building engine {number} of 8" for number in range(1, 9)]
    assert all(shares[-1] == 1.0 for shares in watched.shares.values())
    assert logged.messages == [f"8 fp16 engines of tensorrt-rtx {rtx().version} for NumPy GPU (sm86)"]
    assert (summary["gpu"], summary["targets"], summary["precision"], summary["max_samples"]) == (
        "NumPy GPU",
        ["sm86"],
        "fp16",
        3,
    )
    assert "engines/fp16/step.sm86.plan" in summary["files"]
    record = EngineRecord.model_validate_json((bundle / "engines/fp16/step.sm86.plan.json").read_bytes())
    assert record.key.gpu == HERE.model
    assert len(list((tmp_path / "cache").rglob("*.plan"))) == len(summary["files"]) == 8

    def never(**arguments):
        raise AssertionError("built again")

    monkeypatch.setattr(local, "build_engine", never)  # what the runtime asks for is there, in the bundle and in the cache
    for choices in (GpuOptions(cache_dir=str(tmp_path / "none")), GpuOptions(cache_dir=str(tmp_path / "cache"))):
        engines = LocalEngines(rtx(), Bundle.open(bundle), "fp16", HERE, 3, choices, Watched())
        assert engines.engine_bytes("step") == (bundle / "engines/fp16/step.sm86.plan").read_bytes()


def test_a_failure_leaves_the_bundle_without_engines(fused_bundle, tmp_path, unopened, monkeypatch):
    fake_gpu(monkeypatch, "sm86")
    bundle = copy_bundle(fused_bundle, tmp_path)

    def fail(**arguments):
        raise EngineError("no")

    monkeypatch.setattr(local, "build_engine", fail)
    with pytest.raises(EngineError, match=r"no\n.*was written without engines"):
        LocalRequest(rtx(), HERE, 3, GpuOptions(cache_dir=str(tmp_path / "cache"))).build(bundle, Watched())
    assert not (bundle / "engines").exists()


def test_command_refuses_tensorrt_without_a_gpu_before_it_exports(tiny_checkpoint, tmp_path):
    block = "sys.modules['cuda.bindings.runtime'] = None"
    result = run_cli(str(tiny_checkpoint), "--engine", "--backend", "tensorrt", cwd=tmp_path, block=block)
    assert result.returncode == 4, result.stderr
    assert "tensorrt-rtx" in result.stderr
    assert list(tmp_path.iterdir()) == []
