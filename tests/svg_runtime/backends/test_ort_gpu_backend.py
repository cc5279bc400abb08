"""The backends cuda and ort-tensorrt: the product's code on a GPU made of host memory, computed by the real ONNX Runtime."""

from __future__ import annotations

import gc
import itertools
import os
import sys
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
from filelock import FileLock, Timeout
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, RuntimeException

from svg_common.errors import ExitCode, MissingExtraError
from svg_runtime import Forecaster, backends
from svg_runtime.backends import open_backend
from svg_runtime.backends.gpu_options import GpuOptions
from svg_runtime.backends.nvidia import device as device_module
from svg_runtime.backends.nvidia import folders as folders_module
from svg_runtime.backends.onnxruntime import providers as ort_providers
from svg_runtime.bundle.reader import Bundle
from svg_runtime.errors import BackendError, BackendMissingError, BundleError, UsageError
from tests.families import SAMPLE
from tests.sample import sampled
from tests.svg_runtime.backends.numpy_cuda import NumpyCuda, cudaError_t
from tests.svg_runtime.backends.ort_on_numpy_cuda import CPU, CUDA, ENGINE, TENSORRT, TIMINGS, OrtOnNumpyCuda
from tests.svg_runtime.batch_helpers import check as check_batch
from tests.svg_runtime.bundle_helpers import draw, watch

pytest.importorskip("cuda.bindings", reason="cuda-bindings is not installed: pip install 'svg-edge[gpu]'")

NAMES = ("cuda", "ort-tensorrt")
HORIZON = 10
GRAPHS = {"graph-off": GpuOptions(cuda_graph=False), "graph-on": GpuOptions(cuda_graph=True)}


@pytest.fixture(autouse=True)
def cuda(monkeypatch, tmp_path) -> NumpyCuda:
    made = NumpyCuda()
    monkeypatch.setattr(device_module, "load_runtime", lambda: made)
    monkeypatch.setenv("SVG_EDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
    return made


@pytest.fixture(autouse=True)
def ort(monkeypatch, cuda) -> OrtOnNumpyCuda:
    made = OrtOnNumpyCuda(cuda)
    monkeypatch.setattr(ort_providers, "load_onnxruntime", lambda backend, extra: made)
    return made


@pytest.fixture
def backend(fused_bundle):
    opened = open_backend(Bundle.open(fused_bundle), "cuda", None, "fp32")
    yield opened
    opened.close()


class Heard:
    def __init__(self) -> None:
        self.shares: list[float] = []

    def progress(self, task: str, share: float) -> None:
        self.shares.append(share)


def check_same(bundle, frames, name: str, **opened) -> None:
    """Frames, surprise and scores are those of the cpu backend, after n_past + HORIZON steps."""
    gpu = opened.pop("gpu", None)
    opened = {"samples": 3, "horizon": HORIZON, "seed": 5, "precision": "fp32", **opened}
    said, futures = watch(bundle, frames, backend=name, gpu=gpu, **opened)
    expected_said, expected = watch(bundle, frames, backend="cpu", threads=1, **opened)
    np.testing.assert_allclose(futures, expected, atol=1e-5)
    for given, wanted in zip(said, expected_said, strict=True):
        np.testing.assert_allclose(given, wanted, rtol=1e-3, atol=1e-4)


def open_error(bundle, name: str, error=BackendMissingError, **given) -> str:
    with pytest.raises(error) as caught:
        open_backend(Bundle.open(bundle), name, given.pop("device", None), given.pop("precision", "fp32"), **given)
    assert str(caught.value).startswith(f"the {name} backend ") or (
        error is UsageError and f"the {name} backend" in str(caught.value)
    )
    assert caught.value.exit_code == {UsageError: ExitCode.USAGE, BundleError: ExitCode.ERROR}.get(
        error, ExitCode.BACKEND_MISSING
    )
    return str(caught.value)


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("context", ["window", "stream"])
@pytest.mark.parametrize("fused", [True, False], ids=["fused", "separate"])
def test_forecasts_are_those_of_the_cpu(fused_bundle, frames, cuda, ort, fused, context, graph):
    check_same(fused_bundle, frames[:5], "cuda", fused=fused, context=context, gpu=GRAPHS[graph])
    assert cuda.left == (0, 0, 0, 0)
    assert (ort.captured > 0) == (graph != "graph-off")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("fused", [True, False], ids=["fused", "separate"])
def test_forecasts_in_half_precision_are_those_of_the_cpu(fused_bundle, frames, name, fused):
    check_same(fused_bundle, frames[:4], name, fused=fused, precision="fp16")


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("fused", [True, False], ids=["fused", "separate"])
def test_frames_are_those_of_the_cpu_without_a_learned_prior_and_without_latents(unlearned_bundle, frames, fused, graph):
    check_same(unlearned_bundle, frames[:4], "cuda", fused=fused, gpu=GRAPHS[graph])


@pytest.mark.parametrize("backend_name", NAMES)
@pytest.mark.parametrize("name", sampled(["srvp", "srvp-skips", "ensemble", "predrnn", "mim", "spatial"], SAMPLE))
def test_forecasts_of_other_families_are_those_of_the_cpu(family_bundle, name, backend_name):
    bundle = family_bundle(name)
    frame = Bundle.open(bundle).manifest.frame
    check_same(bundle, np.random.default_rng(0).random((4, frame.height, frame.width, 1), np.float32), backend_name)


@pytest.mark.parametrize("context", ["window", "stream"])
@pytest.mark.parametrize("graph", GRAPHS)
def test_cameras_in_one_batch_are_as_if_alone_on_the_cpu(fused_bundle, cuda, graph, context):
    check_batch(fused_bundle, backend="cuda", precision="fp32", gpu=GRAPHS[graph], context=context)
    assert cuda.left == (0, 0, 0, 0)


@pytest.mark.parametrize("name", sampled(["srvp-skips", "ensemble", "predrnn", "mim", "spatial"], SAMPLE))
def test_cameras_of_other_families_in_one_batch_are_as_if_alone_on_the_cpu(family_bundle, name):
    check_batch(family_bundle(name), backend="cuda")


def test_engines_for_cameras_of_an_ensemble_take_the_samples_that_predict_their_frames(family_bundle):
    check_batch(family_bundle("ensemble"), backend="ort-tensorrt")


def test_state_travels_through_captured_graphs_as_without(fused_bundle, ort):
    """The extra runs before a capture repeat a step and never continue it: also the state is that of single runs."""
    from svg_runtime.forecast.states import RecurrentGraph

    graphs = open_backend(Bundle.open(fused_bundle), "cuda", None, "fp32", gpu=GRAPHS["graph-on"])
    backend = open_backend(Bundle.open(fused_bundle), "cuda", None, "fp32", gpu=GRAPHS["graph-off"])
    spec = Bundle.open(fused_bundle).manifest.variants["fp32"].graphs["predictor"]
    steppers = []
    for each in (backend, graphs):
        inputs = {name: each.allocate(spec.tensor(name).sized(3), "float32") for name in ("h", "z")}
        steppers.append((each, RecurrentGraph(each, "predictor", spec, 3, [inputs] * 2, [{}] * 2), inputs))
        each.write(inputs["h"], draw(1, 3, 16))
        steppers[-1][1].reset()
    seen = []
    for step in range(6):
        for each, graph, inputs in steppers:
            each.write(inputs["z"], draw(step, 3, 4))
            graph.step()
        plain, captured = (each.read(graph.state["state"]).copy() for each, graph, _ in steppers)
        np.testing.assert_array_equal(captured, plain)
        seen.append(plain)
    assert ort.captured == 2  # one for each of the two directions
    assert min(np.abs(now - then).max() for now, then in itertools.pairwise(seen)) > 1e-4
    graphs.close()
    backend.close()


@pytest.mark.parametrize("context", ["window", "stream"])
@pytest.mark.parametrize("fused", [True, False], ids=["fused", "separate"])
def test_after_warming_up_no_graph_is_captured_any_more(fused_bundle, frames, ort, fused, context):
    asked = {"fused": fused, "context": context, "gpu": GRAPHS["graph-on"]}
    with Forecaster.open(fused_bundle, backend="cuda", precision="fp32", samples=2, horizon=HORIZON, **asked) as forecaster:
        forecaster.warm_up()
        captured = ort.captured
        for frame in frames:
            forecaster.observe(frame)
            if forecaster.ready:
                forecaster.forecast()
        assert ort.captured == captured > 0


def test_the_host_waits_once_per_forecast(fused_bundle, frames, cuda):
    with Forecaster.open(fused_bundle, backend="cuda", precision="fp32", samples=2, horizon=HORIZON) as forecaster:
        for frame in frames[:3]:
            forecaster.observe(frame)
        forecaster.forecast()
        for _ in range(3):
            before = forecaster._backend._device.waits
            cuda.log.clear()
            forecaster.forecast()
            assert forecaster._backend._device.waits == before + 1
            assert cuda.log.count("run") == 1 + HORIZON
            assert "cudaMalloc" not in cuda.log


def test_samples_change_from_call_to_call(fused_bundle, frames):
    with (
        Forecaster.open(fused_bundle, backend="cuda", precision="fp32") as given,
        Forecaster.open(fused_bundle, backend="cpu", precision="fp32") as expected,
    ):
        for frame in frames[:3]:
            given.observe(frame)
            expected.observe(frame)
        for samples, horizon in [(2, 3), (1, 2), (2, 3), (9, 1)]:
            noise, past = draw(samples, horizon, samples, 4), draw(horizon, 2, samples, 4)
            asked = samples, horizon, noise, past
            np.testing.assert_allclose(given.forecast(*asked), expected.forecast(*asked), atol=1e-5)


def test_two_forecasters_at_once_give_their_own_forecasts(fused_bundle, frames, cuda):
    opened = {"precision": "fp32", "samples": 2, "horizon": 4}
    _, expected = watch(fused_bundle, frames[:4], backend="cpu", **opened)
    with (
        Forecaster.open(fused_bundle, backend="cuda", **opened) as one,
        Forecaster.open(fused_bundle, backend="ort-tensorrt", **opened) as two,
    ):
        seen = {one: [], two: []}
        for frame in frames[:4]:
            for each, futures in seen.items():
                each.observe(frame)
                if each.ready:
                    futures.append(each.forecast())
    for futures in seen.values():
        np.testing.assert_allclose(np.stack(futures), expected, atol=1e-5)
    assert cuda.left == (0, 0, 0, 0)


def bound(backend, batch: int = 2):
    spec = backend._specs["posterior"]
    inputs = {tensor.name: backend.allocate(tensor.sized(batch), tensor.dtype) for tensor in spec.inputs}
    outputs = {tensor.name: backend.allocate(tensor.sized(batch), tensor.dtype) for tensor in spec.outputs}
    return inputs, outputs


def test_aliased_outputs_are_an_assertion_error(backend):
    inputs, outputs = bound(backend)
    with pytest.raises(AssertionError, match="posterior: state_out aliases an input"):
        backend.bind("posterior", inputs, {**outputs, "state_out": inputs["state"]})


def test_a_closed_backend_runs_nothing_and_has_freed_everything(fused_bundle, cuda):
    backend = open_backend(Bundle.open(fused_bundle), "cuda", None, "fp32")
    graph = backend.bind("posterior", *bound(backend))
    graph.run()
    backend.close()
    backend.close()
    assert cuda.left == (0, 0, 0, 0)
    with pytest.raises(BackendError, match="closed"):
        graph.run()


def test_a_device_that_fails_is_freed_too(fused_bundle, cuda):
    backend = open_backend(Bundle.open(fused_bundle), "cuda", None, "fp32")
    inputs, outputs = bound(backend)
    backend.bind("posterior", inputs, outputs).run()
    cuda.fail["cudaStreamSynchronize"] = cudaError_t.cudaErrorIllegalAddress
    with pytest.raises(BackendError, match="CUDA failed while waiting"):
        backend.read(outputs["mu"])
    backend.close()
    del outputs
    gc.collect()
    assert cuda.left == (0, 0, 0, 0)


def test_close_waits_for_a_run_in_another_thread(backend, cuda):
    graph = backend.bind("posterior", *bound(backend))
    cuda.run_while_closing(graph, backend)
    with pytest.raises(BackendError, match="the backend is closed"):
        graph.run()


def test_a_freed_bound_graph_frees_its_cuda_graph(fused_bundle, ort):
    backend = open_backend(Bundle.open(fused_bundle), "cuda", None, "fp32", gpu=GRAPHS["graph-on"])
    graph = backend.bind("posterior", *bound(backend))
    graph.run()
    backend._device.wait()
    assert ort.released == []
    del graph
    gc.collect()
    assert ort.released == [1]
    backend.close()


# Options of the providers


def test_the_cuda_provider_gets_its_options(backend, ort):
    (provider,) = ort.sessions[0].items()
    stream = str(backend.stream)
    expected = {"device_id": "0", "user_compute_stream": stream, "use_tf32": "0", "enable_cuda_graph": "1"}
    assert provider == (CUDA, {**expected, "cudnn_conv_algo_search": "EXHAUSTIVE"})


def test_half_precision_takes_the_convolutions_that_cudnn_recommends(fused_bundle, ort):
    open_backend(Bundle.open(fused_bundle), "cuda", None, "fp16").close()
    assert {session[CUDA]["cudnn_conv_algo_search"] for session in ort.sessions} == {"HEURISTIC"}


def test_the_tensorrt_provider_gets_its_options(fused_bundle, ort, tmp_path):
    choices, bundle = GpuOptions(cache_dir=str(tmp_path / "kept"), workspace_gib=0.5), Bundle.open(fused_bundle)
    with Forecaster.open(fused_bundle, backend="ort-tensorrt", precision="fp16", samples=6, gpu=choices):
        pass
    assert os.environ["NVIDIA_TF32_OVERRIDE"] == "0"
    graph_names = list(bundle.manifest.variants["fp16"].graphs)
    options = dict(
        zip(graph_names, (session for session in ort.sessions if "trt_profile_min_shapes" in session[TENSORRT]), strict=False)
    )
    found = options["encoder"][TENSORRT]
    assert list(options["encoder"]) == [TENSORRT, CUDA]
    assert options["encoder"][CUDA]["user_compute_stream"] == found["user_compute_stream"]
    assert (found["trt_fp16_enable"], found["trt_max_workspace_size"]) == ("True", str(1 << 29))
    assert (found["trt_profile_min_shapes"], found["trt_profile_max_shapes"]) == ("frame:1x1x64x64", "frame:6x1x64x64")
    folders = {session[TENSORRT]["trt_engine_cache_path"] for session in ort.sessions}
    assert len(folders) >= len(graph_names)  # never shared by two graphs
    assert all((tmp_path / "kept" / "ort-tensorrt").samefile(os.path.dirname(folder)) for folder in folders)
    assert (found["trt_engine_cache_enable"], found["trt_timing_cache_enable"]) == ("True", "True")
    assert found["trt_timing_cache_path"] == found["trt_engine_cache_path"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_real_parser_takes_the_options(fused_bundle, ort, name, precision):
    """It needs no GPU: the options are read before a provider starts, which may then be left out."""
    if TENSORRT not in onnxruntime.get_available_providers():
        pytest.skip("onnxruntime-gpu is not installed")
    open_backend(Bundle.open(fused_bundle), name, None, precision, gpu=GpuOptions(cuda_graph=False)).close()
    options, content = ort.sessions[0], next(iter(Bundle.open(fused_bundle).graphs(precision).values()))
    parser = onnxruntime.capi._pybind_state.InferenceSession(onnxruntime.SessionOptions(), content, False, False)
    parser.initialize_session(list(options), list(options.values()), set())


def test_builds_share_what_earlier_ones_measured_and_are_locked(fused_bundle, ort, tmp_path, monkeypatch):
    load, lock_file, held = ort._load_engine, tmp_path / "cache" / "ort-tensorrt" / ".lock", []

    def watched(options: dict[str, str]) -> None:
        lock = FileLock(lock_file, timeout=0)
        try:
            with lock:
                held.append(False)
        except Timeout:
            held.append(True)
        load(options)

    monkeypatch.setattr(ort, "_load_engine", watched)
    open_backend(Bundle.open(fused_bundle), "ort-tensorrt", None, "fp32").close()
    assert held == [True] * len(ort.built)
    assert ort.measured == 1
    held.clear()
    open_backend(Bundle.open(fused_bundle), "ort-tensorrt", None, "fp32").close()
    assert held == [False] * len(ort.built)


def cut_engine(folder: Path) -> None:
    for engine in folder.rglob("*.engine"):
        engine.write_bytes(ENGINE[:6])


def cut_build(folder: Path) -> None:
    """Killed before its engine was recorded."""
    cut_engine(folder)
    for file in (*folder.rglob("engines.json"), *folder.rglob("*.profile")):
        file.unlink()
    for engine in folder.rglob("*.engine"):
        engine.with_name("TensorrtExecutionProvider_cache_sm86.timing").write_bytes(TIMINGS[:6])


@pytest.mark.parametrize(
    ("cut", "message"), [(cut_engine, "changed since it was built; building it again"), (cut_build, "did not end")]
)
def test_what_a_killed_process_left_is_built_again(fused_bundle, ort, tmp_path, logged, cut, message):
    bundle = Bundle.open(fused_bundle)
    open_backend(bundle, "ort-tensorrt", None, "fp32").close()
    built = list(ort.built)
    cut(tmp_path / "cache")
    logged.clear()
    open_backend(bundle, "ort-tensorrt", None, "fp32").close()
    assert ort.built == built * 2
    assert len(logged.messages) == len(built)
    assert all(message in line for line in logged.messages)
    open_backend(bundle, "ort-tensorrt", None, "fp32", gpu=GpuOptions(build_engines=False)).close()
    assert ort.built == built * 2


def test_engines_for_more_samples_are_used_as_they_are(fused_bundle, frames, ort):
    open_backend(Bundle.open(fused_bundle), "ort-tensorrt", None, "fp32", samples=8).close()
    built = list(ort.built)
    check_same(fused_bundle, frames[:4], "ort-tensorrt", samples=3, gpu=GpuOptions(build_engines=False))
    assert ort.built == built
    open_backend(Bundle.open(fused_bundle), "ort-tensorrt", None, "fp32", samples=9).close()
    assert len(ort.built) == 2 * len(built)


@pytest.mark.parametrize("has_temporary", [True, False])
def test_a_cache_that_cannot_be_written_is_a_warning(fused_bundle, ort, tmp_path, monkeypatch, logged, has_temporary):
    (tmp_path / "file").write_text("a file is not a folder, not for root either")
    monkeypatch.setattr(folders_module, "temporary_folder", lambda: tmp_path / "temporary" if has_temporary else None)
    options, built = GpuOptions(cache_dir=str(tmp_path / "file")), []
    for _ in range(2):
        open_backend(Bundle.open(fused_bundle), "ort-tensorrt", None, "fp32", gpu=options).close()
        built.append(len(ort.built))
    assert len(logged.messages) == 2
    assert "set SVG_EDGE_CACHE to a writable folder" in logged.messages[0]
    assert built[1] == (built[0] if has_temporary else 2 * built[0])


@pytest.mark.parametrize("error", [RuntimeException, Fail, RuntimeError])
@pytest.mark.parametrize(
    "message",
    ["bfc_arena.cc:376 Failed to allocate memory for requested buffer of size 4194304", "CUDA failure 2: out of memory"],
)
def test_a_full_device_is_neither_a_missing_library_nor_a_bad_bundle(fused_bundle, cuda, ort, error, message):
    ort.fail = error(message)
    with pytest.raises(BackendError, match=rf"the cuda backend is out of memory: {message}\n  close other programs") as caught:
        Forecaster.open(fused_bundle, backend="cuda")
    assert caught.value.exit_code == ExitCode.ERROR
    assert cuda.left == (0, 0, 0, 0)


def test_engines_are_tuned_for_shared_conditions_at_batch_1(fused_bundle, ort):
    open_backend(Bundle.open(fused_bundle), "ort-tensorrt", None, "fp32", samples=4).close()
    (decoder,) = [session[TENSORRT] for session in ort.sessions
                  if session[TENSORRT].get("trt_profile_min_shapes", "").startswith("g:")]  # fmt: skip
    assert decoder["trt_profile_opt_shapes"].startswith("g:4x16,cond_0:1x")
    assert ",cond_0:4x" in decoder["trt_profile_max_shapes"]


def test_more_samples_than_engines_were_built_for_are_refused(fused_bundle):
    backend = open_backend(Bundle.open(fused_bundle), "ort-tensorrt", None, "fp32", samples=2)
    with pytest.raises(UsageError, match=r"up to 2 samples, but 3 were requested\n  open it with --samples 3"):
        backend.bind("posterior", *bound(backend, 3))
    backend.close()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "cuda",
            GpuOptions(cache_dir="x", workspace_gib=1.0),
            "--cache-dir, --workspace have no effect with the cuda backend, which builds no engines\n  remove them",
        ),
        (
            "cuda",
            GpuOptions(cache_dir="x"),
            "--cache-dir has no effect with the cuda backend, which builds no engines\n  remove it",
        ),
        ("ort-tensorrt", GpuOptions(cuda_graph=True), "--cuda-graph is not available with the ort-tensorrt backend: "),
    ],
)
def test_gpu_options_without_effect_are_refused(fused_bundle, name, options, message):
    assert message in open_error(fused_bundle, name, UsageError, gpu=options)


def test_cuda_graph_and_cpu_fallback_exclude_each_other(fused_bundle):
    options = GpuOptions(cuda_graph=True, cpu_fallback=True)
    assert "expected one of them" in open_error(fused_bundle, "cuda", UsageError, gpu=options)


@pytest.mark.parametrize("version", ["1.29.1", "1.9.0"])
def test_releases_whose_cuda_graphs_give_wrong_frames_are_refused(fused_bundle, ort, version):
    ort.__version__ = version
    message = open_error(fused_bundle, "cuda", gpu=GRAPHS["graph-on"])
    assert f"wrong frames with the CUDA graphs of ONNX Runtime {version}\n  expected 1.30 or later" in message
    open_backend(Bundle.open(fused_bundle), "cuda", None, "fp32", gpu=GRAPHS["graph-off"]).close()


@pytest.mark.parametrize(
    ("version", "options"), [("1.29.1", GpuOptions()), ("1.30.0", GpuOptions(cpu_fallback=True))], ids=["older", "fallback"]
)
def test_unasked_cuda_graphs_are_left_out_where_they_do_not_work(fused_bundle, ort, version, options):
    ort.__version__ = version
    open_backend(Bundle.open(fused_bundle), "cuda", None, "fp32", gpu=options).close()
    assert {session[CUDA]["enable_cuda_graph"] for session in ort.sessions} == {"0"}


def test_unasked_cuda_graphs_that_are_refused_are_reported(fused_bundle, frames, ort):
    ort.graphs_refused = True
    backend = open_backend(Bundle.open(fused_bundle), "cuda", None, "fp32")
    assert "; no CUDA graphs: the cuda backend cannot load fp32/" in backend.description
    backend.close()
    check_same(fused_bundle, frames[:4], "cuda")
    assert ort.captured == 0


def test_only_cuda_graphs_and_engines_are_not_waited_for(fused_bundle, frames, ort):
    """ONNX Runtime frees page-locked memory of its nodes only at the end of a run that it waits for."""
    for name, gpu, waits in (("cuda", "graph-on", False), ("cuda", "graph-off", True), ("ort-tensorrt", "graph-off", False)):
        ort.waited = 0
        check_same(fused_bundle, frames[:4], name, gpu=GRAPHS[gpu])
        assert (ort.waited > 0) == waits, name


def test_every_batch_size_has_its_own_session(fused_bundle, frames, ort):
    """Convolutions keep what cuDNN prepared for one shape only: a session that alternates prepares it every time."""
    ort.batches.clear()
    with Forecaster.open(fused_bundle, backend="cuda", precision="fp32", samples=3, horizon=2, fused=False) as forecaster:
        for frame in frames[:4]:
            forecaster.observe(frame)
            if forecaster.ready:
                forecaster.forecast()
    encoders = [batches for graph, batches in ort.batches if graph == "encoder"]
    assert sorted(map(sorted, encoders)) == [[1], [3]]


def test_engines_of_another_tensorrt_are_not_used(fused_bundle, ort, monkeypatch):
    folders = []
    for version in ("10.13.0", "10.14.0", "10.13.0"):
        monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace(__version__=version))
        open_backend(Bundle.open(fused_bundle), "ort-tensorrt", None, "fp32").close()
        folders.append({session[TENSORRT]["trt_engine_cache_path"] for session in ort.sessions})
        ort.sessions.clear()
    assert folders[0] == folders[2]
    assert not folders[0] & folders[1]


# The automatic choice


def test_auto_takes_a_gpu_that_works(fused_bundle, frames, monkeypatch):
    monkeypatch.setattr(backends, "is_installed", lambda module: True)
    backend = open_backend(Bundle.open(fused_bundle), "auto", None, None)
    assert (backend.name, backend.precision) == ("cuda", "fp16")
    backend.close()
    on_cpu = open_backend(Bundle.open(fused_bundle), "auto", "cpu", None)
    assert on_cpu.name != "cuda"
    on_cpu.close()


@pytest.mark.parametrize("device", ["cuda", "cuda:0", "0"])
def test_auto_takes_the_gpu_that_is_named(fused_bundle, device):
    with closing(open_backend(Bundle.open(fused_bundle), "auto", device, None)) as backend:
        assert backend.name == "cuda"


def test_auto_refuses_the_gpu_that_is_named_if_it_is_not_here_or_does_not_work(fused_bundle, ort):
    finds_none = r"'cuda:1' is a device of the cuda backend: the cuda .* finds no device cuda:1\n  expected .*cuda:0"
    with pytest.raises(BackendMissingError, match=finds_none):
        open_backend(Bundle.open(fused_bundle), "auto", "cuda:1", None)
    ort.broken.add(CUDA)
    with pytest.raises(BackendMissingError, match="'cuda' is a device of the cuda backend: the cuda backend cannot start"):
        open_backend(Bundle.open(fused_bundle), "auto", "cuda", None)


def test_auto_reports_a_gpu_that_does_not_work(fused_bundle, cuda, ort, monkeypatch):
    monkeypatch.setattr(backends, "is_installed", lambda module: True)
    ort.broken.add(CUDA)
    backend = open_backend(Bundle.open(fused_bundle), "auto", None, None)
    assert backend.name in ("openvino", "cpu")
    assert "; cuda does not work here: the cuda backend cannot start the CUDAExecutionProvider" in backend.description
    backend.close()
    assert cuda.left == (0, 0, 0, 0)


def test_auto_does_not_ask_for_a_gpu_without_the_provider(fused_bundle, ort, monkeypatch):
    monkeypatch.setattr(backends, "is_installed", lambda module: True)
    ort.available = [CPU]
    backend = open_backend(Bundle.open(fused_bundle), "auto", None, None)
    assert "cuda" not in backend.description
    backend.close()


# Where nodes run


def test_the_description_says_where_nodes_run(backend, fused_bundle, ort):
    assert backend.description.startswith("cuda (ONNX Runtime 1.30.0, NumPy GPU), fp32 graphs computed in f32; nodes: ")
    assert backend.description.endswith(" on CUDA; CUDA graphs")
    ort.reports = False
    silent = open_backend(Bundle.open(fused_bundle), "cuda", None, "fp32", gpu=GRAPHS["graph-on"])
    assert silent.description == "cuda (ONNX Runtime 1.30.0, NumPy GPU), fp32 graphs computed in f32; CUDA graphs"
    silent.close()


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_precisions_that_tensorrt_chooses_are_not_reported(fused_bundle, ort, precision):
    """Its provider builds weakly typed networks: what each layer is computed in is TensorRT's choice."""
    backend = open_backend(Bundle.open(fused_bundle), "ort-tensorrt", None, precision)
    assert backend.computed_in == {}
    assert f"{precision} graphs computed in a precision that is not reported" in backend.description
    backend.close()


def test_no_graph_computes_shapes(fused_bundle):
    check_no_shapes(fused_bundle)


def test_no_graph_computes_shapes_without_a_learned_prior_and_without_latents(unlearned_bundle):
    check_no_shapes(unlearned_bundle)


def check_no_shapes(bundle):
    """With the real engine: whatever the batch, it has none of the nodes that it would leave to the processor."""
    for content in Bundle.open(bundle).graphs("fp32").values():
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        nodes = {node.op_type for part in session.get_provider_graph_assignment_info() for node in part.get_nodes()}
        assert len(nodes) > 0
        assert not nodes & {"Shape", "Size", "Expand", "ConstantOfShape", "Range"}


@pytest.mark.parametrize("tells", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_nodes_on_the_cpu_are_an_error(fused_bundle, cuda, ort, name, tells):
    ort.reports, ort.on_cpu = tells, lambda node: node.op_type == "ConvTranspose"
    message = open_error(fused_bundle, name)
    assert "cannot run all of fp32/" in message
    assert ("ConvTranspose '" if tells else "assigned to the default CPU EP") in message
    assert "--cpu-fallback" in message
    assert cuda.left == (0, 0, 0, 0)


@pytest.mark.parametrize("tells", [True, False])
@pytest.mark.parametrize("fused", [True, False], ids=["fused", "separate"])
def test_allowed_nodes_on_the_cpu_give_the_same_frames(fused_bundle, frames, ort, fused, tells):
    """Their inputs are copied when they are bound: without binding them again, every run would see the first values."""
    ort.reports, ort.on_cpu = tells, lambda node: node.op_type in ("Shape", "ConvTranspose", "Gemm")
    check_same(fused_bundle, frames[:4], "cuda", fused=fused, gpu=GpuOptions(cpu_fallback=True))


@pytest.mark.parametrize(("name", "shares"), [("cuda", (0, 0.0, 0.0)), ("ort-tensorrt", (9, 0.0, 1.0))])
def test_the_listener_gets_the_progress_of_builds(fused_bundle, name, shares):
    listener = Heard()
    open_backend(Bundle.open(fused_bundle), name, None, "fp32", progress=listener).close()
    assert listener.shares == sorted(listener.shares)
    assert (
        len(listener.shares),
        min(listener.shares, default=0.0),
        max(listener.shares, default=0.0),
    ) == shares
    again = Heard()
    open_backend(Bundle.open(fused_bundle), name, None, "fp32", progress=again).close()
    assert again.shares == []


def test_nodes_on_the_cpu_are_logged(fused_bundle, ort, logged):
    ort.on_cpu = lambda node: node.op_type == "ConvTranspose"
    opened = open_backend(Bundle.open(fused_bundle), "cuda", None, "fp32", gpu=GpuOptions(cpu_fallback=True))
    assert " on the CPU" in opened.description
    assert any(line.startswith("fp32/decoder.onnx has nodes that run on the CPU: ConvTranspose '") for line in logged.messages)
    opened.close()


def test_nodes_on_cuda_are_allowed_for_ort_tensorrt(fused_bundle, ort, monkeypatch):
    from tests.svg_runtime.backends import ort_on_numpy_cuda

    place = ort_on_numpy_cuda.SilentSession._place
    monkeypatch.setattr(
        ort_on_numpy_cuda.SilentSession, "_place", lambda self, node: CUDA if node.op_type == "Tanh" else place(self, node)
    )
    opened = open_backend(Bundle.open(fused_bundle), "ort-tensorrt", None, "fp32")
    assert " on TensorRT, " in opened.description
    assert opened.description.endswith(" on CUDA")
    opened.close()


# What is missing


def test_missing_onnxruntime_names_the_extra(fused_bundle, monkeypatch):
    from svg_runtime.backends.onnxruntime.session import load_onnxruntime

    monkeypatch.setattr(ort_providers, "load_onnxruntime", load_onnxruntime)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"the cuda backend needs .*onnxruntime.*\n.*pip install 'svg-edge\[gpu\]'"):
        open_backend(Bundle.open(fused_bundle), "cuda", None, None)


@pytest.mark.parametrize("name", NAMES)
def test_an_onnxruntime_for_the_cpu_is_refused_with_the_command_to_replace_it(fused_bundle, monkeypatch, name):
    """The real one, if it is that of CI."""
    if CUDA in onnxruntime.get_available_providers():
        pytest.skip("onnxruntime-gpu is installed")
    monkeypatch.setattr(ort_providers, "load_onnxruntime", lambda backend, extra: onnxruntime)
    message = open_error(fused_bundle, name)
    assert "the installed one has " in message
    assert "pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'onnxruntime-gpu[cuda,cudnn]' 'cuda-" in message
    assert "with a driver before 580: the same with 'onnxruntime-gpu[cuda,cudnn]<1.27' 'cuda-bindings<13'" in message


def test_no_gpu_is_refused(fused_bundle, monkeypatch):
    monkeypatch.setattr(device_module, "load_runtime", lambda: NumpyCuda(gpus=0))
    for name in NAMES:
        assert "finds no NVIDIA GPU" in open_error(fused_bundle, name)
    monkeypatch.setattr(device_module, "load_runtime", NumpyCuda)
    assert "cuda:0" in open_error(fused_bundle, "cuda", device="cuda:1")


@pytest.mark.parametrize("fallback", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_a_provider_that_does_not_start_is_named_with_its_libraries(fused_bundle, cuda, ort, name, fallback, capsys):
    """ONNX Runtime drops it with a line in its log, and runs everything on the processor."""
    ort.broken = {CUDA, TENSORRT}
    message = open_error(fused_bundle, name, gpu=GpuOptions(cpu_fallback=fallback))
    assert "cannot start the " in message
    assert (
        "ONNX Runtime started CPUExecutionProvider instead\n  Failed to load libcublasLt.so.13\n  expected the CUDA" in message
    )
    assert capsys.readouterr().out == ""
    assert cuda.left == (0, 0, 0, 0)


def test_tensorrt_replaced_by_cuda_is_not_tensorrt(fused_bundle, ort):
    ort.broken = {TENSORRT}
    assert "ONNX Runtime started CUDAExecutionProvider, CPUExecutionProvider instead" in open_error(
        fused_bundle, "ort-tensorrt"
    )


@pytest.mark.parametrize("fallback", [True, False])
def test_the_providers_reason_for_not_starting_is_shown(fused_bundle, cuda, ort, fallback):
    ort.fail = RuntimeError("Please install TensorRT libraries")
    message = open_error(fused_bundle, "ort-tensorrt", gpu=GpuOptions(cpu_fallback=fallback))
    assert "cannot start the TensorrtExecutionProvider of ONNX Runtime 1.30.0\n  Please install TensorRT libraries\n" in message
    assert cuda.left == (0, 0, 0, 0)


def test_a_graph_that_cannot_be_loaded_is_named(fused_bundle, ort):
    ort.fail = Exception("[ONNXRuntimeError] : 10 : INVALID_GRAPH")
    assert "cannot load fp32/" in open_error(fused_bundle, "cuda", BundleError)


def test_a_refused_cuda_graph_is_reported_with_the_option_to_disable_it(fused_bundle, ort):
    ort.graphs_refused = True
    message = open_error(fused_bundle, "cuda", BundleError, gpu=GRAPHS["graph-on"])
    assert "cannot load fp32/" in message
    assert "cannot use the graph capture feature\n" in message
    assert message.endswith("--no-cuda-graph")


def test_a_failing_run_names_the_graph(backend, cuda):
    graph = backend.bind("posterior", *bound(backend))
    graph.session._real = None
    cuda.enqueue = lambda *_: (_ for _ in ()).throw(RuntimeError("CUDA failure 900"))
    with pytest.raises(BackendError, match="ONNX Runtime failed while running posterior: CUDA failure 900"):
        graph.run()
    cuda.enqueue = lambda *_: (_ for _ in ()).throw(Fail("CUDA failure 2: out of memory"))
    with pytest.raises(MemoryError, match="CUDA failure 2: out of memory"):
        graph.run()
