"""Engines that are built here: TensorRT-RTX's real builder with progress, Ctrl-C and locks; a stand-in for the GPU only."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from svg_export.turing import FLAG as CONVOLVED
from svg_runtime.backends.gpu_options import GpuOptions
from svg_runtime.backends.nvidia import device as device_module
from svg_runtime.backends.nvidia.device import GpuName
from svg_runtime.backends.tensorrt import local, monitor
from svg_runtime.backends.tensorrt.build import BuildOptions, build_engine, engine_flags
from svg_runtime.backends.tensorrt.engine import EngineKey, EngineRecord, write_engine
from svg_runtime.backends.tensorrt.local import LocalEngines
from svg_runtime.backends.tensorrt.monitor import Phases, run_with_progress
from svg_runtime.backends.tensorrt.nvidia_library import Library
from svg_runtime.bundle.reader import Bundle
from svg_runtime.errors import BackendMissingError, EngineError
from tests.svg_export.engine_helpers import rtx, spec_of
from tests.svg_runtime.backends.build_helpers import Opened, Watched
from tests.svg_runtime.backends.numpy_cuda import NumpyCuda
from tests.svg_runtime.bundle_helpers import copy_bundle, graph_bytes

AMPERE, TURING = GpuName(0, "NVIDIA RTX A2000", "sm86", 26), GpuName(0, "Tesla T4", "sm75", 40)


@pytest.fixture
def gpu(monkeypatch) -> NumpyCuda:
    made = NumpyCuda()
    monkeypatch.setattr(device_module, "load_runtime", lambda: made)
    return made


@pytest.fixture
def opened(gpu, monkeypatch) -> list[str]:
    """TensorRT-RTX opens engines beside a driver only: here they are as promised. Graphs that were built and opened."""
    places: list[str] = []

    def open_engine(library: Library, engine_bytes: bytes, graph_file: str) -> str:
        places.append(graph_file)
        return graph_file

    monkeypatch.setattr(local, "open_engine", open_engine)
    monkeypatch.setattr(LocalEngines, "check", lambda self, graph_name, engine: None)
    return places


@pytest.fixture
def make(fused_bundle, tmp_path):
    """LocalEngines of a bundle, with a cache of their own."""

    def made(watched, bundle: Path = fused_bundle, gpu: GpuName = AMPERE, max_batch: int = 4, precision="fp16") -> LocalEngines:
        gpu_options = GpuOptions(cache_dir=str(tmp_path / "cache"))
        return LocalEngines(rtx(), Bundle.open(bundle), precision, gpu, max_batch, gpu_options, watched)

    return made


def test_missing_engines_are_built_once_and_counted(make, opened, logged):
    first = Watched()
    engines = make(first)
    engines.prepare(["prior", "step"])
    assert list(first.shares) == ["building engine 1 of 2: fp16/prior.onnx", "building engine 2 of 2: fp16/step.onnx"]
    for shares in first.shares.values():
        assert shares == sorted(shares)
        assert (shares[0], shares[-1]) == (0.0, 1.0)
    engine_bytes = {graph_name: engines.engine_bytes(graph_name) for graph_name in ("prior", "step")}
    assert opened == ["fp16/prior.onnx", "fp16/step.onnx"]
    second = Watched()
    again = make(second)
    again.prepare(["prior", "step", "skip"])
    assert list(second.shares) == ["building engine: fp16/skip.onnx"]
    assert {graph_name: again.engine_bytes(graph_name) for graph_name in engine_bytes} == engine_bytes
    assert logged.messages == []


def test_with_an_unwritable_cache_only_prepared_engines_are_reused(make, opened, tmp_path, monkeypatch, logged):
    monkeypatch.setattr("svg_runtime.backends.nvidia.folders._own_temporary_folder", lambda: None)
    (tmp_path / "cache").write_text("a file is no folder")
    engines = make(Watched())
    assert [record.levelname for record in logged.records] == ["WARNING"]
    assert "not cached" in logged.messages[0]
    engines.prepare(["prior"])
    assert engines.engine_bytes("prior")[:4] == b"vtrt"
    assert len(opened) == 1
    engines.engine_bytes("prior")
    assert len(opened) == 2


def test_an_engine_of_the_bundle_is_used_and_a_damaged_one_ignored(make, opened, fused_bundle, tmp_path, logged):
    bundle, watched = copy_bundle(fused_bundle, tmp_path), Watched()
    key = make(watched, bundle).key("prior").model_copy(update={"gpu": None, "max_batch": 16})
    engine_file = bundle / "engines/fp16/prior.sm86.plan"
    write_engine(engine_file, key, b"ahead of time")
    assert make(watched, bundle).engine_bytes("prior") == b"ahead of time"
    assert opened == []
    engine_file.write_bytes(b"ahead of tide")
    assert make(watched, bundle).engine_bytes("prior")[:4] == b"vtrt"
    assert len(logged.messages) == 1
    assert "changed since it was built; ignoring it" in logged.messages[0]


def test_turing_uses_only_engines_that_svg_export_built(make, opened, fused_bundle, tmp_path):
    bundle, watched = copy_bundle(fused_bundle, tmp_path), Watched()
    with pytest.raises(BackendMissingError, match=r"Tesla T4(.|\n)*--engine --target sm75 --samples 4"):
        make(watched, bundle, TURING).engine_bytes("prior")
    key = make(watched, bundle, TURING).key("prior")
    ahead = key.model_copy(update={"gpu": None, "flags": (*key.flags, CONVOLVED)})
    write_engine(bundle / "engines/prior.plan", ahead, b"convolved")
    assert make(watched, bundle, TURING).engine_bytes("prior") == b"convolved"


def test_a_gpu_that_the_library_does_not_know_is_refused(make, opened):
    with pytest.raises(BackendMissingError, match=r"cannot build engines for sm90 \(NVIDIA H100\)(.|\n)*--backend tensorrt"):
        make(Watched(), gpu=GpuName(0, "NVIDIA H100", "sm90", 132)).engine_bytes("prior")


def test_the_key_has_the_gpu_and_the_build_options(make, tmp_path, opened):
    engines = make(Watched())
    engines.engine_bytes("prior")
    (record,) = (tmp_path / "cache").rglob("*.plan.json")
    key = EngineRecord.model_validate_json(record.read_bytes()).key
    assert key == engines.key("prior")
    assert (key.gpu, key.compute_capabilities) == ("NVIDIA RTX A2000, 26 multiprocessors", ("sm86",))
    assert (key.nvidia_library, key.platform) == ("tensorrt-rtx", f"{sys.platform} {os.uname().machine}")
    assert key.flags == ("strongly-typed", "no-tf32", "user-allocation")


def test_an_engine_for_another_gpu_is_not_used(make, opened):
    make(Watched()).engine_bytes("prior")
    watched = Watched()
    make(watched, gpu=GpuName(0, "NVIDIA GeForce RTX 3090", "sm86", 82)).engine_bytes("prior")
    assert len(opened) == 2


def test_an_engine_that_contradicts_the_manifest_is_not_cached(make, gpu, monkeypatch, tmp_path):
    def open_single(library: Library, engine_bytes: bytes, graph_file: str) -> Opened:
        engine = Opened(spec_of_bundle, 4)
        engine.dtypes["cond_0"] = "FLOAT"
        return engine

    engines = make(Watched())
    spec_of_bundle = engines._graphs["step"]
    monkeypatch.setattr(local, "open_engine", open_single)
    with pytest.raises(EngineError, match=r"fp16/step\.onnx(.|\n)*cond_0 is float32, the manifest says float16"):
        engines.engine_bytes("step")
    assert list((tmp_path / "cache").rglob("*.plan*")) == []


# Progress and Ctrl-C, on the real builder


def build(content: bytes):
    """A build of a fused step for `run_with_progress`."""
    spec, options = spec_of(content), BuildOptions(("sm86", "sm120"), 8)
    return lambda listener: build_engine(rtx(), content, "fp16/step.onnx", spec, "fp16", options, listener)


def test_the_builder_reports_its_progress(fused_bundle, monkeypatch):
    seen = []

    class Noted(Phases):
        def step(self, name: str, step: int) -> None:
            super().step(name, step)
            seen.append(self.share)

    monkeypatch.setattr(monitor, "Phases", Noted)
    reported: list[float] = []
    engine_bytes = run_with_progress(rtx(), build(graph_bytes(fused_bundle, "step", "fp16")), reported.append)
    assert engine_bytes[:4] == b"vtrt"
    assert seen == sorted(seen)
    assert len(set(seen)) > 50
    assert 0 < seen[0] < 0.1
    assert 0.5 < seen[-1] <= 1
    assert reported == sorted(reported)
    assert (reported[0], reported[-1], reported.count(1.0)) == (0.0, 1.0, 1)


def test_ctrl_c_ends_a_build_and_leaves_nothing(make, opened, tmp_path, monkeypatch):
    """The signal is real. The builder is held at its first step, as these graphs build faster than a person can press a key."""
    steps = []

    class Slow(Phases):
        def step(self, name: str, step: int) -> None:
            steps.append(name)
            if len(steps) == 1:
                threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
                time.sleep(0.6)

    monkeypatch.setattr(monitor, "Phases", Slow)
    with pytest.raises(KeyboardInterrupt):
        make(Watched()).engine_bytes("step")
    assert len(steps) < 20  # of 350: the builder ended at once
    assert not [thread for thread in threading.enumerate() if thread.name == "svg-engine-build"]
    assert [file for file in (tmp_path / "cache").rglob("*") if file.is_file() and file.suffix != ".lock"] == []
    monkeypatch.undo()
    assert opened == []


def test_a_listener_that_fails_ends_the_build_too(fused_bundle, monkeypatch):
    steps = []

    class Slow(Phases):
        def step(self, name: str, step: int) -> None:
            steps.append(name)
            time.sleep(0.02 if len(steps) < 20 else 0)

    def tell(share: float) -> None:
        if steps:
            raise BrokenPipeError

    monkeypatch.setattr(monitor, "Phases", Slow)
    with pytest.raises(BrokenPipeError):
        run_with_progress(rtx(), build(graph_bytes(fused_bundle, "step", "fp16")), tell)
    assert len(steps) < 50


def test_an_error_of_the_build_is_raised_to_the_caller():
    def fail(listener) -> bytes:
        raise EngineError("no")

    reported: list[float] = []
    with pytest.raises(EngineError, match="no"):
        run_with_progress(rtx(), fail, reported.append)
    assert 1.0 not in reported


def test_nested_phases_combine_to_one_share():
    phases, shares = Phases(), []
    phases.start("building", None, 2)
    phases.step("building", 0)
    shares.append(phases.share)
    phases.start("tactics", "building", 4)
    phases.step("tactics", 0)
    shares.append(phases.share)
    phases.start("one", "tactics", 2)
    phases.step("one", 0)
    shares.append(phases.share)
    phases.finish("one")
    phases.step("tactics", 1)
    shares.append(phases.share)
    phases.finish("tactics")  # before its last step
    phases.step("unknown", 7)
    phases.step("building", 1)
    shares.append(phases.share)
    phases.start("building", None, 3)  # another engine's turn
    phases.step("building", 0)
    assert shares == [0.5, 0.625, 0.6875, 0.75, 1.0]
    assert phases.share == 1.0


def test_engines_allocate_nothing_while_they_run(fused_bundle):
    library, flags = rtx(), []

    class Noting:
        """The module, but for a builder whose configurations are looked at."""

        def __getattr__(self, name: str):
            return getattr(library.module, name)

        class Builder(library.module.Builder):
            def __init__(self, logger) -> None:
                library.module.Builder.__init__(self, logger)

            def build_serialized_network(self, network, config):
                flags.append(config.get_flag(library.module.BuilderFlag.REQUIRE_USER_ALLOCATION))
                flags.append(config.get_flag(library.module.BuilderFlag.TF32))
                return library.module.Builder.build_serialized_network(self, network, config)

    content = graph_bytes(fused_bundle, "step", "fp16")
    noted = Library(library.name, Noting(), library.logger)
    with library.collect_messages() as messages:
        assert build_engine(noted, content, "step", spec_of(content), "fp16", BuildOptions(("sm86",), 4))[:4] == b"vtrt"
    assert flags == [True, False]
    assert messages == []
    assert "user-allocation" in engine_flags(library)


def test_engines_of_earlier_releases_are_not_used(make):
    key = make(Watched()).key("prior")
    older = EngineKey(**{**key.model_dump(), "flags": ("strongly-typed", "no-tf32")})
    assert not older.serves(key)
    assert key.serves(older)
