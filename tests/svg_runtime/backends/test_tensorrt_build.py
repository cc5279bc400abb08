"""TensorRT where it differs from TensorRT-RTX: built on the GPU at hand, from what earlier builds measured there."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from svg_common.errors import MissingExtraError
from svg_runtime.backends.gpu_options import GpuOptions
from svg_runtime.backends.nvidia import device as device_module
from svg_runtime.backends.nvidia.device import GpuName
from svg_runtime.backends.nvidia.folders import CachedBlob, CacheFolders
from svg_runtime.backends.tensorrt import local
from svg_runtime.backends.tensorrt.build import BuildOptions, build_engine
from svg_runtime.backends.tensorrt.local import LocalEngines
from svg_runtime.backends.tensorrt.nvidia_library import Library, load_library
from svg_runtime.backends.tensorrt.timings import Timings
from svg_runtime.bundle.reader import Bundle
from svg_runtime.errors import BackendMissingError, EngineError
from tests.svg_export.engine_helpers import rtx, spec_of
from tests.svg_runtime.backends.build_helpers import Watched
from tests.svg_runtime.backends.numpy_cuda import NumpyCuda
from tests.svg_runtime.backends.tensorrt_module import Config, Tensorrt, TimingCache, tensorrt
from tests.svg_runtime.bundle_helpers import graph_bytes

ORIN = GpuName(0, "Orin (nvgpu) / Jetson", "sm87", 8)


@pytest.fixture
def make(fused_bundle, tmp_path, monkeypatch):
    """LocalEngines of TensorRT on one GPU."""
    monkeypatch.setattr(device_module, "load_runtime", NumpyCuda)
    monkeypatch.setattr(local, "open_engine", lambda library, engine_bytes, graph_file: None)
    monkeypatch.setattr(LocalEngines, "check", lambda self, graph_name, engine: None)

    def made(library: Library, watched: Watched, precision="fp32") -> LocalEngines:
        gpu_options = GpuOptions(cache_dir=str(tmp_path / "cache"))
        return LocalEngines(library, Bundle.open(fused_bundle), precision, ORIN, 4, gpu_options, watched)

    return made


def timings_file(folder):
    (file,) = folder.rglob("*.timings")
    return file


def test_engines_are_built_for_the_gpu_at_hand_and_share_timings(make, tmp_path, logged):
    library, watched = tensorrt(), Watched()
    engines = make(library, watched)
    engines.prepare(["prior", "predictor"])
    assert library.module.started_from == [b"", b"timed "]
    key = engines.key("prior")
    assert (key.nvidia_library, key.version, key.gpu, key.compute_capabilities) == ("tensorrt", "10.3.0", ORIN.model, ("sm87",))
    assert key.flags == ("strongly-typed", "no-tf32")
    file = timings_file(tmp_path / "cache")
    assert (file.parent.name, file.name) == ("tensorrt", "10.3.0-Orin-nvgpu-Jetson-8-multiprocessors-sm87.timings")
    make(library, watched, "fp16").engine_bytes("prior")
    assert library.module.started_from[-1] == b"timed timed "
    assert logged.messages == []


def test_damaged_timings_are_ignored_with_a_message(make, tmp_path, logged):
    library, watched = tensorrt(), Watched()
    make(library, watched).engine_bytes("prior")
    timings_file(tmp_path / "cache").write_bytes(b"damaged" * 9)
    make(library, watched, "fp16").engine_bytes("prior")
    assert library.module.started_from == [b"", b""]
    assert len(logged.messages) == 1
    assert "is damaged; creating it again" in logged.messages[0]


def test_timings_that_the_library_rejects_are_ignored_with_a_message(make, logged):
    library, watched = tensorrt(), Watched()
    make(library, watched).engine_bytes("prior")
    library.module.accepts = False
    make(library, watched, "fp16").engine_bytes("prior")
    assert library.module.started_from == [b"", b""]
    assert logged.messages == ["tensorrt 10.3.0 cannot use the timings of earlier builds: measuring again"]


def test_a_failed_build_leaves_the_timings_as_they_were(make, tmp_path, monkeypatch):
    library, watched = tensorrt(), Watched()
    make(library, watched).engine_bytes("prior")
    before = timings_file(tmp_path / "cache").read_bytes()

    def fail(**arguments):
        raise EngineError("no")

    monkeypatch.setattr(local, "build_engine", fail)
    with pytest.raises(EngineError, match="no"):
        make(library, watched).engine_bytes("predictor")
    assert timings_file(tmp_path / "cache").read_bytes() == before


def test_an_error_about_a_skipped_kernel_is_not_a_failure(fused_bundle):
    """TensorRT reports memory that a kernel would need and does not get as an error, and builds without that kernel."""
    content = graph_bytes(fused_bundle, "prior")
    built = "fp32/prior.onnx", spec_of(content), "fp32"
    library = tensorrt(complains="Error Code 2: OutOfMemory (Requested size was 68719476736 bytes.)")
    timings = Timings(b"")
    assert build_engine(library, content, *built, BuildOptions((), 4), timings=timings)[:4] == b"vtrt"
    assert timings.content == b"timed "


def test_a_warning_of_the_parser_is_logged_and_not_a_failure(fused_bundle, logged):
    """Every JetPack has its own TensorRT release, whose warnings are not known in advance."""
    content = graph_bytes(fused_bundle, "prior")
    library = tensorrt(warns="Make sure input h has Int64 binding.")
    built = "fp32/prior.onnx", spec_of(content), "fp32", BuildOptions((), 4)
    build_engine(library, content, *built, timings=Timings(b""))
    assert logged.messages == ["tensorrt 10.3.0 warns about fp32/prior.onnx: Make sure input h has Int64 binding."]
    assert logged.records[0].levelname == "WARNING"


def test_two_builds_on_one_gpu_do_not_disturb_each_other(tmp_path, logged):
    folders = CacheFolders(str(tmp_path), "tensorrt-rtx")
    kept = CachedBlob(folders, "tensorrt", "10.3.0", ORIN, "timings")
    entered, leave = threading.Event(), threading.Event()

    def first() -> None:
        with kept.locked("another process is building an engine on this GPU"):
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=first)
    thread.start()
    entered.wait(10)
    threading.Timer(0.2, leave.set).start()
    with kept.locked("another process is building an engine on this GPU"):
        assert leave.is_set()
    thread.join()
    assert logged.messages == ["another process is building an engine on this GPU: waiting for it"]


def test_cached_bytes_are_found_again_and_damage_is_logged(tmp_path, logged):
    folders = CacheFolders(str(tmp_path), "tensorrt-rtx")

    def kept(version: str = "1.7") -> CachedBlob:
        return CachedBlob(folders, "tensorrt-rtx", version, ORIN, "runtime")

    assert kept().load() is None
    kept().save(b"kernels")
    assert kept().load() == b"kernels"
    assert kept("1.8").load() is None
    (file,) = tmp_path.rglob("*.runtime")
    written = file.stat().st_mtime_ns
    again = kept()
    again.save(again.load())
    assert file.stat().st_mtime_ns == written  # nothing new
    for damage in (b"", b"short", file.read_bytes()[:-1]):
        file.write_bytes(damage)
        assert kept().load() is None
    assert len(logged.messages) == 3
    kept().save(b"")
    assert kept().load() == b""


def test_tensorrt_and_rtx_report_their_differences(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", Tensorrt("11.1.0"))
    library = load_library.__wrapped__("tensorrt")
    assert (library.name, library.version, library.ahead_of_time, library.keeps_timings) == ("tensorrt", "11.1.0", False, True)
    assert library.user_allocation is None
    assert (rtx().ahead_of_time, rtx().keeps_timings) == (True, False)
    assert rtx().user_allocation == rtx().module.BuilderFlag.REQUIRE_USER_ALLOCATION
    assert library.network_flags == rtx().network_flags == 1 << int(rtx().module.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    library.module.NetworkDefinitionCreationFlag = object()  # a release that has no other networks
    assert library.network_flags == 0


def test_messages_go_to_the_thread_that_they_are_about(monkeypatch):
    """Those of the library's own threads, which collect nothing, go to all; nested collectors keep theirs."""
    monkeypatch.setitem(sys.modules, "tensorrt", Tensorrt())
    library = load_library.__wrapped__("tensorrt")
    severity = library.module.ILogger.Severity

    def run() -> list[tuple[bool, str]]:
        with library.collect_messages() as messages:
            library.logger.log(severity.ERROR, "of the run")
        return messages

    with ThreadPoolExecutor(1) as other, library.collect_messages() as build:
        assert other.submit(run).result() == [(True, "of the run")]
        other.submit(library.logger.log, severity.WARNING, "of a worker").result()
        assert run() == [(True, "of the run")]
        library.logger.log(severity.INFO, "not collected")
    library.logger.log(severity.ERROR, "to nobody")
    assert build == [(False, "of a worker"), (True, "of the run")]


def test_a_library_that_is_missing_or_too_old_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(MissingExtraError, match=r"svg-edge\[tensorrt\]"):
        load_library.__wrapped__("tensorrt")
    monkeypatch.setitem(sys.modules, "tensorrt", Tensorrt("8.5.2"))
    with pytest.raises(BackendMissingError, match="too old"):
        load_library.__wrapped__("tensorrt")


def test_the_stand_in_has_the_names_of_the_real_module():
    module = rtx().module
    assert {name for name in vars(Config) if not name.startswith("_")} <= set(dir(module.IBuilderConfig))
    assert {name for name in vars(TimingCache) if not name.startswith("_")} <= set(dir(module.ITimingCache))
    assert "progress_monitor" in dir(module.IBuilderConfig)
    assert {"phase_start", "step_complete", "phase_finish"} <= set(dir(module.IProgressMonitor))
    assert {"serialize", "deserialize"} <= set(dir(module.IRuntimeCache))
