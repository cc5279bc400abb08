"""Backends `tensorrt` and `tensorrt-rtx` on a GPU made of host memory and a library made of ONNX Runtime; the rest is real."""

from __future__ import annotations

import gc
import hashlib
import inspect
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest

from svg_common.command import is_installed
from svg_common.errors import ExitCode, MissingExtraError
from svg_runtime import Forecaster
from svg_runtime.backends import open_backend
from svg_runtime.backends.gpu_options import GpuOptions
from svg_runtime.backends.nvidia import device as device_module
from svg_runtime.backends.tensorrt import backend as backend_module
from svg_runtime.backends.tensorrt import local
from svg_runtime.backends.tensorrt.engine import EngineRecord, write_engine
from svg_runtime.backends.tensorrt.nvidia_library import Library, Messages
from svg_runtime.bench.measure import measure
from svg_runtime.bundle.reader import Bundle
from svg_runtime.errors import BackendError, BackendMissingError, EngineError, UsageError
from tests.conftest import export_model, made_once, random_model, save_model
from tests.families import SAMPLE
from tests.sample import sampled
from tests.svg_runtime.backends import numpy_tensorrt
from tests.svg_runtime.backends.build_helpers import Watched
from tests.svg_runtime.backends.numpy_cuda import NumpyCuda, cudaError_t
from tests.svg_runtime.backends.numpy_tensorrt import NumpyTensorrt, NumpyTensorrtRtx, make_engine
from tests.svg_runtime.batch_helpers import check as check_batch
from tests.svg_runtime.bundle_helpers import draw, watch

pytest.importorskip("cuda.bindings", reason="cuda-bindings is not installed: pip install 'svg-edge[tensorrt-rtx]'")
pytest.importorskip("filelock", reason="filelock is not installed: pip install 'svg-edge[tensorrt-rtx]'")

SMALL = {"samples": 3, "horizon": 4, "seed": 5}
TENSORRT = {"backend": "tensorrt", "precision": "fp32"}


@pytest.fixture
def cuda(monkeypatch) -> NumpyCuda:
    made = NumpyCuda()
    monkeypatch.setattr(device_module, "load_runtime", lambda: made)
    return made


@pytest.fixture
def tensorrt(cuda, monkeypatch, tmp_path) -> NumpyTensorrt:
    """The library and its builder, and a cache of its own."""
    return install(NumpyTensorrt(cuda), monkeypatch, tmp_path)


@pytest.fixture
def rtx(cuda, monkeypatch, tmp_path) -> NumpyTensorrtRtx:
    return install(NumpyTensorrtRtx(cuda), monkeypatch, tmp_path)


def install(made, monkeypatch, tmp_path):
    logger = SimpleNamespace(messages=Messages())
    monkeypatch.setenv("SVG_EDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(backend_module, "load_library", lambda name: Library(name, made, logger))
    monkeypatch.setattr(backend_module, "require_modules", lambda *names: None)
    monkeypatch.setattr(local, "build_engine", lambda content, options, **rest: make_engine(content, options.max_batch))
    return made


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("fused", [True, False])
def test_frames_and_surprise_are_those_of_the_cpu_backend(tensorrt, fused_bundle, frames, fused, precision):
    check_parity(fused_bundle, frames, fused, precision)


@pytest.mark.parametrize("fused", [True, False])
def test_frames_are_those_of_the_cpu_without_a_learned_prior_and_without_latents(tensorrt, unlearned_bundle, frames, fused):
    check_parity(unlearned_bundle, frames, fused, "fp32")


@pytest.mark.slow
@pytest.mark.parametrize("prior", ["fixed", "none"])
@pytest.mark.parametrize("fused", [True, False])
def test_so_are_those_in_half_precision(tensorrt, tmp_path_factory, frames, fused, prior):
    def make(path):
        return export_model(save_model(path.with_suffix(".pt"), random_model(prior=prior)), path, fp16=True, fused=True)

    check_parity(made_once(tmp_path_factory, f"{prior}-fp16.svgb", make), frames, fused, "fp16")


@pytest.mark.parametrize("name", sampled(["srvp", "srvp-skips", "ensemble", "predrnn", "mim", "spatial"], SAMPLE))
def test_frames_and_surprise_of_other_families_are_those_of_the_cpu_backend(tensorrt, family_bundle, name):
    """SRVP decodes no more frames at once than its engine was built for. Ensembles predict with more samples than they show."""
    bundle = family_bundle(name)
    frame = Bundle.open(bundle).manifest.frame
    check_parity(bundle, np.random.default_rng(0).random((5, frame.height, frame.width, 1), np.float32), None, "fp32")


@pytest.mark.parametrize("context", ["window", "stream"])
def test_cameras_in_one_batch_are_as_if_alone_on_the_cpu(tensorrt, fused_bundle, context):
    check_batch(fused_bundle, context=context, **TENSORRT)


def test_cameras_of_an_ensemble_in_one_batch_are_as_if_alone_on_the_cpu(tensorrt, family_bundle):
    """Each of them is predicted with more samples than are forecast."""
    check_batch(family_bundle("ensemble"), **TENSORRT)


def check_parity(bundle, frames, fused, precision):
    asked = {"precision": precision, "fused": fused, **SMALL}
    said, futures = watch(bundle, frames, backend="tensorrt", **asked)
    expected_said, expected = watch(bundle, frames, backend="cpu", **asked)
    np.testing.assert_allclose(futures, expected, atol=2e-6 if precision == "fp32" else 2e-3)
    for line, expected_line in zip(said, expected_said, strict=True):
        np.testing.assert_allclose(line, expected_line, rtol=1e-4 if precision == "fp32" else 2e-2, atol=1e-4)


@pytest.mark.parametrize("graph", [True, False])
@pytest.mark.parametrize("fused", [True, False])
def test_state_travels_in_the_stream_context(tensorrt, fused_bundle, frames, fused, graph):
    asked = {"context": "stream", "fused": fused, **SMALL}
    _, futures = watch(fused_bundle, frames, gpu=GpuOptions(cuda_graph=graph), **TENSORRT, **asked)
    _, expected = watch(fused_bundle, frames, backend="cpu", precision="fp32", **asked)
    np.testing.assert_allclose(futures, expected, atol=2e-6)


def opened(bundle, frames, count=3, **options) -> Forecaster:
    forecaster = Forecaster.open(bundle, **{**TENSORRT, **SMALL, **options})
    for frame in frames[:count]:
        forecaster.observe(frame)
    return forecaster


def test_a_cuda_graph_gives_the_results_of_single_launches(tensorrt, fused_bundle, frames):
    """Over forecasts and new frames: a graph that kept an old state, noise or condition would part from them."""
    with opened(fused_bundle, frames) as on, opened(fused_bundle, frames, gpu=GpuOptions(cuda_graph=False)) as off:
        assert "CUDA graph" not in on.description
        for frame in frames[3:]:
            for each in (on, off):
                each.observe(frame)
            np.testing.assert_array_equal(on.forecast(), off.forecast())
            np.testing.assert_array_equal(on.forecast(samples=2, horizon=6), off.forecast(samples=2, horizon=6))


def test_the_host_waits_once_per_forecast(tensorrt, cuda, fused_bundle, frames):
    with opened(fused_bundle, frames) as forecaster:
        forecaster.forecast()
        launches = tensorrt.launches
        for _ in range(3):
            cuda.log.clear()
            forecaster.forecast()
            # Encodings and noise of the context, the last encoding, noise of all steps; the frames of all steps.
            copies, engines = ["cudaMemcpyAsync"] * 2, ["execute_async_v3"]
            assert cuda.log == [*copies, *engines, *copies, "cudaGraphLaunch", "cudaMemcpyAsync", "cudaStreamSynchronize"]
        assert tensorrt.launches == launches + 3  # prime


@pytest.mark.parametrize(("chosen", "waits"), [({}, 2), ({"fused": False}, 3), ({"context": "stream"}, 3)])
def test_the_host_waits_a_few_times_per_observation(tensorrt, cuda, fused_bundle, frames, chosen, waits):
    """For the encoding, for posterior and prior of all frames of the context, and where it is needed for the prior's state."""
    with opened(fused_bundle, frames, **chosen) as forecaster:
        forecaster.forecast()
        for frame in frames[3:]:
            cuda.log.clear()
            forecaster.observe(frame)
            assert cuda.log.count("cudaStreamSynchronize") == waits
            assert cuda.log.count("cudaGraphLaunch") == 1


@pytest.mark.parametrize("context", ["window", "stream"])
@pytest.mark.parametrize("fused", [True, False])
def test_after_warming_up_nothing_is_allocated_or_captured(tensorrt, cuda, fused_bundle, frames, fused, context):
    with Forecaster.open(fused_bundle, fused=fused, context=context, **TENSORRT, **SMALL) as forecaster:
        forecaster.warm_up()
        made = cuda.left
        cuda.log.clear()
        for frame in frames:
            forecaster.observe(frame)
            if forecaster.ready:
                forecaster.forecast()
        assert set(cuda.log) <= {"cudaMemcpyAsync", "execute_async_v3", "cudaGraphLaunch", "cudaStreamSynchronize"}
        assert cuda.left == made  # graphs, memory of host and device


def test_no_state_is_copied_to_the_host_in_a_forecast(tensorrt, cuda, fused_bundle, frames):
    with opened(fused_bundle, frames) as forecaster:
        forecaster.forecast()
        before, cuda_copy, sizes = cuda.cudaMemcpyAsync, cuda.cudaMemcpyAsync, []

        def copy(dst, src, count, kind, stream):
            sizes.append((int(kind), count))
            return cuda_copy(dst, src, count, kind, stream)

        cuda.cudaMemcpyAsync = copy
        forecaster.forecast()
        cuda.cudaMemcpyAsync = before
        downloads = [size for kind, size in sizes if kind == 2]
        assert downloads == [4 * 3 * 64 * 64 * 4]  # bytes of horizon x samples frames, and nothing else


def test_a_graph_that_cannot_be_captured_is_logged_and_gives_the_same_frames(tensorrt, fused_bundle, frames, logged):
    tensorrt.uncapturable = True
    with opened(fused_bundle, frames) as forecaster:
        futures = forecaster.forecast()
        assert forecaster.description.endswith("; without a CUDA graph")
    assert sum("running without a CUDA graph" in line for line in logged.messages) == 1
    tensorrt.uncapturable = False
    with opened(fused_bundle, frames) as forecaster:
        np.testing.assert_array_equal(forecaster.forecast(), futures)
    tensorrt.uncapturable = True
    with pytest.raises(BackendError):
        opened(fused_bundle, frames, gpu=GpuOptions(cuda_graph=True))


def test_two_forecasters_at_once_do_not_interfere(tensorrt, fused_bundle, frames):
    with opened(fused_bundle, frames) as first, opened(fused_bundle, frames[::-1]) as second:
        together = [(first.forecast(), second.forecast()) for _ in range(2)]
    for index, pictures in enumerate((frames, frames[::-1])):
        with opened(fused_bundle, pictures) as alone:
            for pair in together:
                np.testing.assert_array_equal(pair[index], alone.forecast())


def test_results_are_right_with_unread_outputs_and_shared_conditions(tensorrt, fused_bundle):
    """The encoder without its skips, the decoder with conditions at batch 1."""
    bundle = Bundle.open(fused_bundle)
    results = []
    for name in ("tensorrt", "cpu"):
        backend = open_backend(bundle, name, None, "fp32", samples=3)
        encoder, decoder = (bundle.manifest.variants["fp32"].graphs[graph_name] for graph_name in ("encoder", "decoder"))
        frame, h = (backend.allocate(encoder.tensor(each).sized(3), "float32") for each in ("frame", "h"))
        backend.write(frame, np.abs(draw(0, *frame.shape)) % 1)
        backend.bind("encoder", {"frame": frame}, {"h": h}).run()
        conds = {each.name: backend.allocate(each.shared(3), each.dtype) for each in decoder.inputs if each.name != "g"}
        for seed, buffer in enumerate(conds.values()):
            backend.write(buffer, draw(seed, *buffer.shape))
        out = backend.allocate(decoder.tensor("frame").sized(3), "float32")
        g = backend.allocate(decoder.tensor("g").sized(3), "float32")
        backend.chain([backend.bind("decoder", {"g": g, **conds}, {"frame": out})]).run()
        results.append((backend.read(h).copy(), backend.read(out).copy()))
        backend.close()
    for ours, expected in zip(*results, strict=True):
        np.testing.assert_allclose(ours, expected, atol=1e-6)


def test_more_samples_than_engines_were_built_for_are_refused(tensorrt, fused_bundle, frames):
    with opened(fused_bundle, frames) as forecaster:
        before = forecaster.forecast(noise=draw(0, 4, 3, 4), context_noise=draw(1, 2, 3, 4))
        with pytest.raises(
            UsageError, match=r"the engine of \w+ was built for up to 3 samples, but 4 were requested\n.*samples=4"
        ):
            forecaster.forecast(samples=4)
        np.testing.assert_array_equal(forecaster.forecast(noise=draw(0, 4, 3, 4), context_noise=draw(1, 2, 3, 4)), before)


def test_closing_frees_everything(tensorrt, cuda, fused_bundle, frames):
    for horizon in (4, 2):
        forecaster = opened(fused_bundle, frames)
        forecaster.forecast(horizon=horizon)
        forecaster.close()
        forecaster.close()
    gc.collect()
    assert cuda.left == (0, 0, 0, 0)


def test_close_waits_for_a_run_in_another_thread(tensorrt, cuda, fused_bundle):
    bundle = Bundle.open(fused_bundle)
    backend = open_backend(bundle, "tensorrt", None, "fp32", samples=1)
    spec = bundle.manifest.variants["fp32"].graphs["encoder"]
    inputs, outputs = (
        {each.name: backend.allocate(each.sized(1), each.dtype) for each in side} for side in (spec.inputs, spec.outputs)
    )
    graph = backend.bind("encoder", inputs, outputs)
    cuda.run_while_closing(graph, backend)
    with pytest.raises(BackendError, match="the backend is closed"):
        graph.run()


def test_few_rollouts_are_cached_and_the_rest_is_freed(tensorrt, cuda, fused_bundle, frames):
    with opened(fused_bundle, frames) as forecaster:
        sizes = []
        for horizon in range(1, 9):
            forecaster.forecast(samples=1, horizon=horizon)
            sizes.append(cuda.left)
        assert sizes[-1][3] == 1 + 4  # graphs: the context, and one per rollout that is kept
        for _ in range(3):
            for horizon in range(5, 9):
                forecaster.forecast(samples=1, horizon=horizon)
        assert cuda.left == sizes[-1]


def test_out_of_memory_is_one_message(tensorrt, cuda, fused_bundle, frames):
    with opened(fused_bundle, frames) as forecaster:
        expected = forecaster.forecast(noise=draw(0, 4, 3, 4), context_noise=draw(1, 2, 3, 4))
        left, cuda.free_bytes = cuda.free_bytes, 100_000
        with pytest.raises(UsageError, match="do not fit into memory"):
            forecaster.forecast(horizon=50)
        cuda.free_bytes = left
        np.testing.assert_array_equal(forecaster.forecast(noise=draw(0, 4, 3, 4), context_noise=draw(1, 2, 3, 4)), expected)


def test_a_failing_engine_and_a_failing_device_are_backend_errors(tensorrt, cuda, fused_bundle, frames):
    with opened(fused_bundle, frames) as forecaster:
        forecaster.forecast()
        tensorrt.fail_launch = True
        with pytest.raises(BackendError, match="tensorrt failed while running prime"):
            forecaster.forecast()
        tensorrt.fail_launch = False
        cuda.fail["cudaGraphLaunch"] = cudaError_t.cudaErrorIllegalAddress
        with pytest.raises(BackendError, match="launching a graph: cudaErrorIllegalAddress"):
            forecaster.forecast()


def test_fp16_is_the_default_where_the_bundle_has_it(tensorrt, fused_bundle):
    with Forecaster.open(fused_bundle, backend="tensorrt", **SMALL) as forecaster:
        assert forecaster.description == "tensorrt (10.3.0) on NumPy GPU (sm86), fp16 graphs, strongly typed"
        assert forecaster.fused
        assert forecaster.computed_in["encoder"] == {"f16": 5}
        forecaster.warm_up()
        assert set(forecaster.computed_in["step"]) == {"f16", "f32"}  # recurrent parts stay in float32
        assert "predictor" not in forecaster.computed_in  # part of step: its own engine is not loaded
    with pytest.raises(BackendMissingError, match="does not compute in bf16"):
        Forecaster.open(fused_bundle, backend="tensorrt", precision="bf16")


@pytest.fixture
def builds(tensorrt, monkeypatch) -> list[int]:
    """One entry per engine that is built."""
    built = []

    def build(content, options, **rest):
        built.append(len(content))
        return make_engine(content, options.max_batch)

    monkeypatch.setattr(local, "build_engine", build)
    return built


def test_svg_bench_shows_the_progress_of_builds(tensorrt, fused_bundle, frames, tmp_path):
    np.save(tmp_path / "frames.npy", frames)
    listener = Watched()
    found = measure(
        listener, "the case", str(fused_bundle), "tensorrt", None, "fp16", fused=True, samples=2, horizon=3, seed=0,
        seconds=0.2, frames=str(tmp_path / "frames.npy"), futures=str(tmp_path / "futures.npy"),
    )  # fmt: skip
    assert found["backend"] == "tensorrt"
    assert "building engine 1 of 6: fp16/encoder.onnx" in listener.shares
    assert listener.shares["the case"]


def test_an_engine_of_the_bundle_that_does_not_load_is_replaced_once(builds, fused_bundle, frames, monkeypatch, logged):
    """At the next start, what was built here is taken at once, though the bundle's is found before it."""
    monkeypatch.setattr(local, "find_engine", lambda folder, key: b"of another system")
    futures = []
    for _ in range(2):
        with opened(fused_bundle, frames) as forecaster:
            futures.append(forecaster.forecast())
    graph_names = ["encoder", "posterior", "prior", "skip", "prime", "step"]
    assert len(builds) == len(logged.messages) == len(graph_names)
    assert all("cannot load the engine of fp32/" in line for line in logged.messages)
    assert all(line.endswith("building it again: Platform specific tag mismatch detected") for line in logged.messages)
    np.testing.assert_array_equal(*futures)


def test_an_engine_of_the_cache_that_does_not_load_is_built_again(builds, fused_bundle, frames, tmp_path):
    with opened(fused_bundle, frames) as forecaster:
        expected = forecaster.forecast()
    for record in (tmp_path / "cache").rglob("*.plan.json"):
        key = EngineRecord.model_validate_json(record.read_bytes()).key
        write_engine(record.with_suffix(""), key, b"of another driver")
    builds.clear()
    for built in (6, 6):
        with opened(fused_bundle, frames) as forecaster:
            np.testing.assert_array_equal(forecaster.forecast(), expected)
        assert len(builds) == built


def test_an_engine_that_never_loads_is_built_once(tensorrt, monkeypatch, fused_bundle, frames):
    built = []
    monkeypatch.setattr(local, "build_engine", lambda graph_file, **rest: built.append(graph_file) or b"useless")
    monkeypatch.setattr(local, "open_engine", lambda *arguments: None)
    monkeypatch.setattr(local.LocalEngines, "check", lambda *arguments: None)
    with pytest.raises(EngineError, match=r"cannot load the engine of \w+: Platform specific tag mismatch"):
        opened(fused_bundle, frames)
    assert len(built) == len(set(built))


@pytest.mark.parametrize("function", ["cudaStreamCreateWithFlags", "cudaSetDevice"])
def test_no_memory_for_a_stream_is_a_backend_error(tensorrt, cuda, fused_bundle, monkeypatch, function):
    monkeypatch.setattr(cuda, function, lambda *arguments: (cudaError_t.cudaErrorMemoryAllocation, None))
    with pytest.raises(BackendError, match="the tensorrt backend is out of memory"):
        Forecaster.open(fused_bundle, **TENSORRT, **SMALL)


@pytest.mark.parametrize("free", [2_000, 20_000, 60_000])
def test_a_full_device_at_the_start_is_a_backend_error(tensorrt, cuda, fused_bundle, free):
    cuda.free_bytes = free
    with pytest.raises(BackendError, match=r"the tensorrt backend is out of memory: .*\n  close other programs that use it"):
        Forecaster.open(fused_bundle, **TENSORRT, **SMALL)
    gc.collect()
    assert cuda.left == (0, 0, 0, 0)


def test_a_device_that_fails_without_memory_is_freed_too(tensorrt, cuda, fused_bundle, frames):
    forecaster = opened(fused_bundle, frames)
    cuda.fail["cudaStreamSynchronize"] = cudaError_t.cudaErrorMemoryAllocation
    forecaster.close()
    assert cuda.left == (0, 0, 0, 0)


def test_an_engine_that_does_not_fit_into_memory_is_not_built_again(tensorrt, builds, fused_bundle, frames, tmp_path):
    opened(fused_bundle, frames).close()
    kept = {file: file.read_bytes() for file in (tmp_path / "cache").rglob("*.plan*")}
    builds.clear()
    tensorrt.full = True
    full = r"the tensorrt backend is out of memory: .* load the engine of \w+: Cuda Runtime \(out of memory\)\n  close other"
    with pytest.raises(BackendError, match=full):
        opened(fused_bundle, frames)
    assert builds == []
    assert {file: file.read_bytes() for file in (tmp_path / "cache").rglob("*.plan*")} == kept


def test_a_library_that_cannot_start_gives_the_reason(tensorrt, cuda, fused_bundle, frames):
    tensorrt.broken = True
    with pytest.raises(BackendMissingError, match=r"tensorrt 10.3.0 cannot start: CUDA initialization failure.*\n.*driver"):
        opened(fused_bundle, frames)
    gc.collect()
    assert cuda.left == (0, 0, 0, 0)


@pytest.mark.parametrize("name", ["tensorrt", "tensorrt-rtx"])
def test_a_second_gpu_is_the_only_one_that_is_used(name, cuda, monkeypatch, tmp_path, fused_bundle, frames):
    """Though the thread's current one is another: every thread begins with the first, and others may choose."""
    install((NumpyTensorrt if name == "tensorrt" else NumpyTensorrtRtx)(cuda), monkeypatch, tmp_path)
    cuda.gpus = 2
    with opened(fused_bundle, frames, backend=name, device="cuda:1") as forecaster, ThreadPoolExecutor(1) as other:
        expected = forecaster.forecast(noise=draw(0, 2, 1, 4), context_noise=draw(1, 2, 1, 4), samples=1, horizon=2)
        again = other.submit(forecaster.forecast, 3, 1)
        assert again.result().shape[:2] == (3, 1)
        assert cuda.homes == {1}
    with opened(fused_bundle, frames) as forecaster:
        given = forecaster.forecast(noise=draw(0, 2, 1, 4), context_noise=draw(1, 2, 1, 4), samples=1, horizon=2)
        np.testing.assert_array_equal(given, expected)


def test_rtx_gives_the_same_frames_and_caches_its_kernels(rtx, cuda, fused_bundle, frames, tmp_path):
    asked = {"backend": "tensorrt-rtx", "precision": "fp32"}
    kept = []
    for _ in range(2):
        with opened(fused_bundle, frames, **asked) as forecaster:
            forecaster.forecast()
            assert list((tmp_path / "cache").rglob("*.runtime"))  # not only when it is closed
            cuda.log.clear()
            futures = forecaster.forecast()
            assert cuda.log.count("cudaGraphLaunch") == cuda.log.count("cudaStreamSynchronize") == 1
            assert forecaster.description == "tensorrt-rtx (1.7.1) on NumPy GPU (sm86), fp32 graphs, strongly typed"
        (file,) = (tmp_path / "cache").rglob("*.runtime")
        kept.append(file.read_bytes()[32:])
    assert kept[0].startswith(b"kernel ")
    assert kept[1].startswith(kept[0])
    assert len(kept[1]) > len(kept[0])
    with opened(fused_bundle, frames, backend="cpu") as forecaster:
        forecaster.forecast()
        np.testing.assert_allclose(futures, forecaster.forecast(), atol=2e-6)


def test_kernels_of_another_driver_are_compiled_again(rtx, fused_bundle, frames, tmp_path):
    asked = {"backend": "tensorrt-rtx", "precision": "fp32"}
    opened(fused_bundle, frames, **asked).close()
    (file,) = (tmp_path / "cache").rglob("*.runtime")
    content = b"of another driver"
    file.write_bytes(hashlib.sha256(content).digest() + content)
    opened(fused_bundle, frames, **asked).close()
    assert file.read_bytes()[32:].startswith(b"kernel ")


def test_without_compiled_kernels_nothing_is_cached(rtx, fused_bundle, tmp_path):
    backend = open_backend(Bundle.open(fused_bundle), "tensorrt-rtx", None, "fp32")
    spec = Bundle.open(fused_bundle).manifest.variants["fp32"].graphs["prior"]
    tensors = [
        {each.name: backend.allocate(each.sized(1), each.dtype) for each in side} for side in (spec.inputs, spec.outputs)
    ]
    backend.bind("prior", *tensors)
    backend.close()
    assert not list((tmp_path / "cache").rglob("*.runtime"))


@pytest.mark.parametrize("name", ["tensorrt", "tensorrt-rtx"])
def test_cpu_fallback_is_refused(fused_bundle, name):
    with pytest.raises(UsageError, match="--cpu-fallback"):
        Forecaster.open(fused_bundle, backend=name, gpu=GpuOptions(cpu_fallback=True))


def test_a_missing_library_names_the_extra(fused_bundle):
    if is_installed("tensorrt"):
        pytest.skip("tensorrt is installed here")
    with pytest.raises(MissingExtraError, match=r"the tensorrt backend needs.*\n.*svg-edge\[tensorrt\]") as caught:
        Forecaster.open(fused_bundle, backend="tensorrt")
    assert caught.value.exit_code == ExitCode.BACKEND_MISSING


def test_the_stand_ins_have_no_names_that_the_real_library_lacks():
    module = pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed: pip install 'svg-edge[tensorrt-rtx]'")
    pairs = {
        "Runtime": "Runtime", "Engine": "ICudaEngine", "RtxEngine": "ICudaEngine", "Context": "IExecutionContext",
        "RtxContext": "IExecutionContext", "RuntimeConfig": "IRuntimeConfig", "RuntimeCache": "IRuntimeCache",
    }  # fmt: skip
    for mine, real in pairs.items():
        members = vars(getattr(numpy_tensorrt, mine))
        names = {name for name, value in members.items() if not name.startswith("_") and name != "owner"}
        assert names
        assert names <= set(dir(getattr(module, real)))
    for name in ("TensorIOMode", "ExecutionContextAllocationStrategy", "DynamicShapesKernelSpecializationStrategy"):
        enum = getattr(numpy_tensorrt, name)
        assert set(enum.__members__) <= set(getattr(module, enum.__name__).__members__)
    assert inspect.isclass(module.Runtime)
