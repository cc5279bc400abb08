"""`auto` takes TensorRT's backends by engines that are ready, and builds none unless asked to."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from svg_common.errors import ExitCode
from svg_export.engine_options import LocalRequest
from svg_runtime import BatchForecaster, Forecaster, backends
from svg_runtime.backends.gpu_options import GpuOptions
from svg_runtime.backends.nvidia import device as device_module
from svg_runtime.backends.nvidia.device import CudaDevice
from svg_runtime.backends.onnxruntime import providers
from svg_runtime.backends.tensorrt import backend as backend_module
from svg_runtime.backends.tensorrt import local
from svg_runtime.backends.tensorrt.engine import EngineRecord, write_engine
from svg_runtime.backends.tensorrt.nvidia_library import LIBRARIES, Library, Messages
from svg_runtime.calibration import race, ways
from svg_runtime.errors import EngineNotBuiltError
from tests.svg_runtime.backends.build_helpers import Watched
from tests.svg_runtime.backends.numpy_cuda import NumpyCuda
from tests.svg_runtime.backends.numpy_tensorrt import NumpyTensorrt, NumpyTensorrtRtx, make_engine
from tests.svg_runtime.backends.ort_on_numpy_cuda import OrtOnNumpyCuda
from tests.svg_runtime.bundle_helpers import copy_bundle

pytest.importorskip("cuda.bindings", reason="cuda-bindings is not installed: pip install 'svg-edge[tensorrt-rtx]'")
pytest.importorskip("filelock", reason="filelock is not installed: pip install 'svg-edge[tensorrt-rtx]'")
pytestmark = pytest.mark.usefixtures("cache")

SMALL = {"samples": 2, "horizon": 2, "precision": "fp32", "fused": True}
NATIVE = ("tensorrt", pytest.param("tensorrt-rtx", marks=pytest.mark.slow))
NOT_BUILT = "engine not built; svg-live --calibrate full builds it"
CPU = "cpu (ONNX Runtime"


@dataclass
class Machine:
    """One with a GPU and one backend that needs engines, which wins every race that it may run.

    Attributes:
        name: of the backend.
        cache: its folder.
        nvidia: TensorRT or TensorRT-RTX, as a stand-in; None for ort-tensorrt.
        built: one entry per engine that was built.
        loads: one entry per loading of NVIDIA's library, or of ONNX Runtime with its provider.
    """

    name: str
    cache: Path
    nvidia: Library | None
    built: list[str]
    loads: list[str]

    def build(self, bundle: Path, **given) -> None:
        """Open the backend by name, which builds its engines."""
        Forecaster.open(bundle, backend=self.name, **{**SMALL, **given}).close()
        assert self.built
        self.built.clear()

    @property
    def engines(self) -> list[Path]:
        """The engine files in the cache."""
        return [file for file in (self.cache / self.name).rglob("*") if file.suffix in (".plan", ".engine")]

    def reasons(self, bundle: Path, **given) -> set[str]:
        """Why the backend took no part when `auto` was opened."""
        with Forecaster.open(bundle, **{**SMALL, **given}) as forecaster:
            rows = [row for row in forecaster.decision.rows if row["backend"] == self.name]
        assert rows
        return {row.get("reason", "it took part") for row in rows}


@pytest.fixture(params=[*NATIVE, pytest.param("ort-tensorrt", marks=pytest.mark.slow)])
def machine(request, monkeypatch, cache) -> Machine:
    name, cuda, built, loads = request.param, NumpyCuda(), [], []
    monkeypatch.setattr(device_module, "load_runtime", lambda: cuda)
    monkeypatch.setattr(backends, "cuda_is_installed", lambda: False)  # for the rule of thumb
    monkeypatch.setattr(backends, "_openvino_is_faster", lambda: False)

    def win(runners, task):
        return [[{name: 0.001, "cpu": 0.05}.get(runner.backend, 0.1)] * 5 for runner in runners]

    monkeypatch.setattr(race, "_race", win)
    if name == "ort-tensorrt":
        ort = OrtOnNumpyCuda(cuda)
        ort.built = built
        monkeypatch.setattr(providers, "load_onnxruntime", lambda backend, extra: loads.append(backend) or ort)
        monkeypatch.setattr(ways, "cuda_is_installed", lambda: True)
        return Machine(name, cache, None, built, loads)
    module = (NumpyTensorrt if name == "tensorrt" else NumpyTensorrtRtx)(cuda)
    library = Library(name, module, SimpleNamespace(messages=Messages()))
    monkeypatch.setattr(ways, "is_installed", lambda module: module == LIBRARIES[name])
    monkeypatch.setattr(backend_module, "load_library", lambda name: loads.append(name) or library)
    monkeypatch.setattr(backend_module, "require_modules", lambda *names: None)

    def build_engine(content, options, graph_file, **rest):
        built.append(graph_file)
        return make_engine(content, options.max_batch)

    monkeypatch.setattr(local, "build_engine", build_engine)
    return Machine(name, cache, library, built, loads)


def opened(bundle: Path, **given) -> str:
    with Forecaster.open(bundle, **{**SMALL, **given}) as forecaster:
        return forecaster.description


native = pytest.mark.parametrize("machine", NATIVE, indirect=True)


def test_a_ready_engine_takes_part_and_wins(machine, fused_bundle, measured):
    """In the precision that the backend chooses by itself, which is fp16; those of fp32 are not ready."""
    machine.build(fused_bundle, precision=None)
    for _ in range(2):
        assert opened(fused_bundle, precision=None).startswith(f"{machine.name} (")
    assert machine.built == []
    assert len(measured) == 1


def test_a_missing_engine_is_not_built_and_no_library_is_loaded(machine, fused_bundle):
    assert machine.reasons(fused_bundle) == {NOT_BUILT}
    assert opened(fused_bundle, calibrate="again").startswith(CPU)
    assert machine.built == []
    assert machine.name not in machine.loads


def test_engines_that_were_built_meanwhile_are_measured_once(machine, fused_bundle, measured):
    opened(fused_bundle)
    opened(fused_bundle)
    assert len(measured) == 1
    machine.build(fused_bundle)
    assert opened(fused_bundle).startswith(f"{machine.name} (")
    assert opened(fused_bundle).startswith(f"{machine.name} (")
    assert len(measured) == 2
    assert machine.built == []


@native
def test_engines_that_svg_export_puts_into_the_bundle_are_measured(machine, fused_bundle, tmp_path, measured, monkeypatch):
    bundle = copy_bundle(fused_bundle, tmp_path)
    assert opened(bundle, precision="fp16").startswith(CPU)
    options = GpuOptions(cache_dir=str(tmp_path / "cache of the build"))
    gpu = CudaDevice(machine.name, machine.name, None).gpu
    LocalRequest(machine.nvidia, gpu, SMALL["samples"], options).build(bundle, Watched())
    machine.built.clear()
    assert opened(bundle, precision="fp16").startswith(f"{machine.name} (")
    assert len(measured) == 2
    assert machine.built == []


@native
def test_engines_of_an_ensemble_that_svg_export_built_for_fewer_samples_are_ready(machine, family_bundle, tmp_path, measured):
    """They take those that predict the next frame, too."""
    bundle = copy_bundle(family_bundle("ensemble"), tmp_path)
    options = GpuOptions(cache_dir=str(tmp_path / "cache of the build"))
    gpu = CudaDevice(machine.name, machine.name, None).gpu
    assert LocalRequest(machine.nvidia, gpu, SMALL["samples"], options).build(bundle, Watched())["max_samples"] == 4
    machine.built.clear()
    for _ in range(2):
        assert opened(bundle).startswith(f"{machine.name} (")
    assert len(measured) == 1
    assert machine.built == []


def test_cameras_of_an_ensemble_take_the_engines_that_were_built_for_them(machine, family_bundle, measured):
    """A timed forecaster, which has one camera, must not be content with smaller ones."""
    sizes = {"cameras": 3, "samples": 2, "horizon": 2, "precision": "fp32"}
    BatchForecaster.open(family_bundle("ensemble"), backend=machine.name, **sizes).close()
    assert machine.built
    machine.built.clear()
    for _ in range(2):
        with BatchForecaster.open(family_bundle("ensemble"), **sizes) as batch:
            assert batch.description.startswith(f"{machine.name} (")
    assert len(measured) == 1
    assert machine.built == []


def test_engines_that_are_gone_are_not_built_again(machine, fused_bundle, measured):
    machine.build(fused_bundle)
    opened(fused_bundle)
    shutil.rmtree(machine.cache / machine.name)
    assert machine.reasons(fused_bundle) == {NOT_BUILT}
    assert len(measured) == 2
    assert machine.built == []


def test_full_builds_and_what_it_found_holds(machine, fused_bundle, measured):
    assert opened(fused_bundle, calibrate="full").startswith(f"{machine.name} (")
    assert machine.built
    machine.built.clear()
    assert opened(fused_bundle).startswith(f"{machine.name} (")
    assert machine.built == []
    assert len(measured) == 1


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def change(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[0] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("damage", [truncate, change])
def test_a_damaged_engine_is_left_out_until_it_is_built_again(machine, fused_bundle, measured, damage: Callable[[Path], None]):
    machine.build(fused_bundle)
    for engine in machine.engines:
        damage(engine)
    (reason,) = machine.reasons(fused_bundle)
    assert reason.endswith(("changed since it was built", "is missing or truncated"))
    assert machine.built == []
    for engine in machine.engines:
        engine.unlink()
    machine.build(fused_bundle)
    assert opened(fused_bundle).startswith(f"{machine.name} (")


def test_damage_that_no_one_saw_ends_a_kept_decision(machine, fused_bundle, measured):
    """Its time and size are as before, so only reading it shows the damage."""
    machine.build(fused_bundle)
    opened(fused_bundle)
    for engine in machine.engines:
        times = engine.stat().st_atime_ns, engine.stat().st_mtime_ns
        change(engine)
        os.utime(engine, ns=times)
    assert opened(fused_bundle).startswith(CPU)
    assert len(measured) == 1
    assert "changed since it was built" in str(machine.reasons(fused_bundle))
    assert len(measured) == 2
    assert machine.built == []


@native
def test_an_engine_that_does_not_load_is_left_out(machine, fused_bundle):
    machine.build(fused_bundle)
    for engine in machine.engines:
        record = EngineRecord.model_validate_json(engine.with_name(f"{engine.name}.json").read_bytes())
        write_engine(engine, record.key, b"of another driver")
    (reason,) = machine.reasons(fused_bundle)
    assert reason.startswith(f"{machine.name} cannot load the engine of fp32/")
    assert machine.built == []
    assert all(engine.with_name(f"{engine.name}.json").is_file() for engine in machine.engines)


@native
def test_a_damaged_engine_of_the_bundle_is_replaced_by_that_of_the_cache(machine, fused_bundle, tmp_path):
    bundle = copy_bundle(fused_bundle, tmp_path)
    machine.build(bundle)
    shutil.copytree(machine.cache / machine.name, bundle / "engines")
    for engine in (bundle / "engines").rglob("*.plan"):
        change(engine)
    assert opened(bundle).startswith(f"{machine.name} (")
    shutil.rmtree(machine.cache / machine.name)
    assert any(reason.endswith("changed since it was built") for reason in machine.reasons(bundle))
    assert machine.built == []


def test_an_engine_for_fewer_samples_is_not_ready(machine, fused_bundle):
    machine.build(fused_bundle, samples=1)
    assert machine.reasons(fused_bundle) == {NOT_BUILT}
    assert machine.built == []


@native
def test_an_engine_of_another_release_is_not_ready(machine, fused_bundle, monkeypatch):
    machine.build(fused_bundle)
    monkeypatch.setattr(type(machine.nvidia.module), "__version__", "10.9.0")
    assert machine.reasons(fused_bundle) == {NOT_BUILT}
    assert machine.built == []


@native
def test_the_stream_context_without_all_of_its_engines_takes_the_rule_of_thumb(machine, fused_bundle, measured):
    """The engines are those of a window on the fused graphs; it must not build the others, nor measure every time."""
    machine.build(fused_bundle)
    for _ in range(2):
        assert opened(fused_bundle, context="stream").startswith(CPU)
    assert len(measured) == 1
    assert machine.built == []
    assert opened(fused_bundle).startswith(f"{machine.name} (")


def test_without_leave_to_build_a_named_backend_is_refused(machine, fused_bundle):
    with pytest.raises(EngineNotBuiltError, match=f"{NOT_BUILT}\n  missing for {machine.name}: fp32/") as caught:
        opened(fused_bundle, backend=machine.name, gpu=GpuOptions(build_engines=False))
    assert caught.value.exit_code == ExitCode.BACKEND_MISSING
    assert machine.built == []
    assert opened(fused_bundle, backend="cpu", gpu=GpuOptions(build_engines=False)).startswith(CPU)
