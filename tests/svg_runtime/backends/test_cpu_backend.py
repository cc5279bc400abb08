"""The cpu backend's methods, compared with plain ONNX Runtime sessions, and its messages for a missing library."""

from __future__ import annotations

import json
import math
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from svg_common.errors import ExitCode, MissingExtraError
from svg_runtime.backends import open_backend
from svg_runtime.backends.gpu_options import GpuOptions
from svg_runtime.backends.onnxruntime.cpu import CpuBackend
from svg_runtime.bundle.reader import EMBEDDED_MODEL, Bundle
from svg_runtime.errors import BackendError, BackendMissingError, BundleError, UsageError
from svg_runtime.forecast.states import RecurrentGraph
from tests.conftest import add_bf16_variant
from tests.svg_runtime.bundle_helpers import copy_bundle, draw, graph_bytes, replace_graph

BATCH = 3


@pytest.fixture(scope="module")
def bundle(tiny_bundle) -> Bundle:
    return Bundle.open(tiny_bundle)


@pytest.fixture(scope="module")
def backend(bundle):
    backend = open_backend(bundle, "cpu", None, None)
    yield backend
    backend.close()


def plain(tiny_bundle, graph_name: str, **inputs) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(graph_bytes(tiny_bundle, graph_name), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def buffers(backend, bundle, graph_name: str, names, batch: int = BATCH) -> dict:
    specs = [bundle.manifest.variants["fp32"].graphs[graph_name].tensor(name) for name in names]
    return {spec.name: backend.allocate(spec.sized(batch), spec.dtype) for spec in specs}


def filled(backend, bundle, graph_name: str, names, batch: int = BATCH) -> dict:
    made = buffers(backend, bundle, graph_name, names, batch)
    for seed, buffer in enumerate(made.values()):
        backend.write(buffer, draw(seed, *buffer.shape))
    return made


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_allocate_gives_zeros(backend, dtype):
    buffer = backend.allocate((2, 3), dtype)
    assert buffer.shape == (2, 3)
    assert buffer.dtype == np.dtype(dtype)
    assert not backend.read(buffer).any()


@pytest.mark.parametrize("shape", [(1 << 46,), (65536,) * 8])
def test_more_than_there_is_memory_is_a_memory_error(backend, shape):
    """Also what NumPy cannot count, for which it has another error."""
    with pytest.raises(MemoryError, match=str(shape[0])):
        backend.allocate(shape, "float32")
    with pytest.raises(MemoryError, match=str(shape[0])):
        backend.allocate_steps(2, shape, "float32")


def test_write_broadcasts_and_converts_in_place(backend):
    buffer = backend.allocate((4, 2), "float16")
    address = backend.read(buffer).ctypes.data
    backend.write(buffer, np.array([[1.5, 2.5]], np.float32))
    np.testing.assert_array_equal(backend.read(buffer), [[1.5, 2.5]] * 4)
    backend.write(buffer, 0.0)
    assert not backend.read(buffer).any()
    assert backend.read(buffer).ctypes.data == address


def test_a_bound_graph_computes_what_a_plain_session_does_and_in_place(backend, bundle, tiny_bundle):
    inputs = filled(backend, bundle, "posterior", ("h", "state"))
    outputs = buffers(backend, bundle, "posterior", ("mu", "logvar", "state_out"))
    before = {name: value.copy() for name, value in inputs.items()}
    addresses = {name: backend.read(buffer).ctypes.data for name, buffer in outputs.items()}
    bound = backend.bind("posterior", inputs, outputs)
    assert not any(backend.read(buffer).any() for buffer in outputs.values())  # binding alone runs nothing
    bound.run()
    for name, expected in plain(tiny_bundle, "posterior", **before).items():
        np.testing.assert_allclose(backend.read(outputs[name]), expected, atol=1e-6)
        assert backend.read(outputs[name]).ctypes.data == addresses[name]
    for name, buffer in inputs.items():
        np.testing.assert_array_equal(backend.read(buffer), before[name])
    backend.write(inputs["h"], draw(77, *inputs["h"].shape))  # bound once: the graph reads the values at the time of the run
    bound.run()
    expected = plain(tiny_bundle, "posterior", **{**before, "h": draw(77, *inputs["h"].shape)})
    np.testing.assert_allclose(backend.read(outputs["mu"]), expected["mu"], atol=1e-6)


def test_a_subset_of_the_outputs_can_be_bound(backend, bundle, tiny_bundle):
    inputs, outputs = filled(backend, bundle, "encoder", ("frame",)), buffers(backend, bundle, "encoder", ("h",))
    backend.bind("encoder", inputs, outputs).run()
    expected = plain(tiny_bundle, "encoder", frame=backend.read(inputs["frame"]))["h"]
    np.testing.assert_allclose(backend.read(outputs["h"]), expected, atol=1e-6)


def test_conditions_at_batch_one_are_shared_by_all_samples(backend, bundle, tiny_bundle):
    names = [spec.name for spec in bundle.manifest.variants["fp32"].graphs["skip"].outputs]
    shared = filled(backend, bundle, "decoder", names, batch=1)
    g, frame = filled(backend, bundle, "decoder", ("g",)), buffers(backend, bundle, "decoder", ("frame",))
    backend.bind("decoder", {**g, **shared}, frame).run()
    repeated = {name: np.repeat(value, BATCH, axis=0) for name, value in shared.items()}
    expected = plain(tiny_bundle, "decoder", g=backend.read(g["g"]), **repeated)["frame"]
    np.testing.assert_allclose(backend.read(frame["frame"]), expected, atol=1e-6)


def test_inputs_never_alias_outputs(backend, bundle):
    inputs = filled(backend, bundle, "posterior", ("h", "state"))
    outputs = buffers(backend, bundle, "posterior", ("mu", "logvar"))
    with pytest.raises(AssertionError, match="aliases"):
        backend.bind("posterior", inputs, {**outputs, "state_out": inputs["state"]})


def stepper(backend, bundle, graph_name="predictor"):
    """(graph, inputs, outputs) of a recurrent graph at BATCH."""
    spec = bundle.manifest.variants["fp32"].graphs[graph_name]
    inputs = filled(backend, bundle, graph_name, ("h", "z"))
    outputs = buffers(backend, bundle, graph_name, ("g",))
    return RecurrentGraph(backend, graph_name, spec, BATCH, [inputs] * 2, [outputs] * 2), inputs, outputs


def state_of(backend, graph):
    return backend.read(graph.state["state"]).copy()


def test_state_travels_from_step_to_step(backend, bundle, tiny_bundle):
    graph, inputs, outputs = stepper(backend, bundle)
    graph.reset()
    state, seen = np.zeros_like(state_of(backend, graph)), []
    for step in range(5):
        backend.write(inputs["z"], draw(step, *inputs["z"].shape))
        graph.step()
        expected = plain(tiny_bundle, "predictor", **{name: value.copy() for name, value in inputs.items()}, state=state)
        np.testing.assert_allclose(backend.read(outputs["g"]), expected["g"], atol=1e-5)
        np.testing.assert_allclose(state_of(backend, graph), expected["state_out"], atol=1e-5)
        state = expected["state_out"]
        seen.append(graph.state["state"].ctypes.data)
    assert len(set(seen)) == 2  # two buffers, in turn
    graph.reset()
    assert not state_of(backend, graph).any()


def test_a_loaded_state_is_broadcast_over_the_batch(backend, bundle):
    graph, _, _ = stepper(backend, bundle)
    one = draw(3, 4, 1, 24)
    graph.load({"state": one})
    np.testing.assert_array_equal(state_of(backend, graph), np.repeat(one, BATCH, axis=1))


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_a_branch_does_not_change_the_graph_it_starts_from(backend, bundle, steps):
    trunk, _, _ = stepper(backend, bundle)
    for _ in range(steps):
        trunk.step()
    before = state_of(backend, trunk)
    branch, _, outputs = stepper(backend, bundle)
    for _ in range(2):  # the second branch starts where the first one did
        branch.step_from(trunk)
        first = backend.read(outputs["g"]).copy()
        branch.step()
        second = backend.read(outputs["g"]).copy()
        np.testing.assert_array_equal(state_of(backend, trunk), before)
    loaded, _, other = stepper(backend, bundle)
    loaded.load({"state": before})
    loaded.step()
    np.testing.assert_array_equal(backend.read(other["g"]), first)
    loaded.step()
    np.testing.assert_array_equal(backend.read(other["g"]), second)
    assert np.abs(first - second).max() > 1e-4


def test_missing_onnxruntime_names_the_extra(bundle, monkeypatch):
    for module in ("onnxruntime", "openvino", "tensorrt", "tensorrt_rtx"):  # auto takes another engine that is installed
        monkeypatch.setitem(sys.modules, module, None)
    for name in ("cpu", "auto"):
        with pytest.raises(MissingExtraError, match=r"onnxruntime.*\n.*pip install 'svg-edge\[cpu\]'") as caught:
            open_backend(bundle, name, None, None)
        assert caught.value.exit_code == ExitCode.BACKEND_MISSING


def test_an_onnxruntime_that_does_not_load_is_named(bundle, monkeypatch, tmp_path):
    (tmp_path / "onnxruntime.py").write_text("raise ImportError('libcudart.so.12: cannot open shared object file')")
    monkeypatch.delitem(sys.modules, "onnxruntime")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(BackendMissingError, match="libcudart") as caught:
        open_backend(bundle, "cpu", None, None)
    assert caught.value.exit_code == ExitCode.BACKEND_MISSING


@pytest.mark.parametrize("name", ["cpu", "auto"])
def test_another_device_is_refused(bundle, name):
    with pytest.raises(BackendMissingError, match="cuda:0") as caught:
        open_backend(bundle, name, "cuda:0", None)
    assert caught.value.exit_code == ExitCode.BACKEND_MISSING


@pytest.mark.parametrize("device", ["tpu", "CUDA", "cuda:x", "cuda:1234", "gpus", "CPUS", ""])
def test_auto_names_the_devices_that_it_knows(bundle, device):
    with pytest.raises(
        BackendMissingError, match=rf"unknown device '{device}'\n  expected cpu; cuda .*; or CPU, GPU"
    ) as caught:
        open_backend(bundle, "auto", device, None)
    assert caught.value.exit_code == ExitCode.BACKEND_MISSING


@pytest.mark.parametrize(("device", "backend", "module"), [("cuda", "cuda", "onnxruntime"), ("NPU", "openvino", "openvino")])
def test_auto_names_the_device_and_what_to_install_for_it(bundle, monkeypatch, device, backend, module):
    for hidden in (module, "tensorrt", "tensorrt_rtx"):  # which have a device cuda, too
        monkeypatch.setitem(sys.modules, hidden, None)
    with pytest.raises(
        BackendMissingError,
        match=rf"'{device}' is a device of the {backend} backend: the {backend} backend needs .*\n  install .*pip install",
    ) as caught:
        open_backend(bundle, "auto", device, None)
    assert caught.value.exit_code == ExitCode.BACKEND_MISSING


@pytest.mark.parametrize("device", [None, "auto", "cpu"])
def test_cpu_and_auto_are_accepted_as_device(bundle, device):
    backend = open_backend(bundle, "cpu", device, "fp16")
    assert (backend.name, backend.precision) == ("cpu", "fp16")
    assert onnxruntime.__version__ in backend.description
    backend.close()


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_description_reports_the_computed_precision(fused_bundle, tmp_path, monkeypatch, precision):
    """Compared with the types that ONNX Runtime's profiler sees go into the kernels, which depend on the CPU."""
    monkeypatch.chdir(tmp_path)
    backend = open_backend(Bundle.open(fused_bundle), "cpu", None, precision)
    seen = {graph_name: profiled_types(fused_bundle, graph_name, precision) for graph_name in backend.computed_in}
    assert backend.computed_in == seen
    assert set(seen) == {"encoder", "skip", "posterior", "prior", "predictor", "decoder", "prime", "step"}
    precisions = " and ".join(name for name in ("f16", "f32") if any(name in layers for layers in seen.values()))
    assert f"{precision} graphs computed in {precisions}" in backend.description
    backend.close()


def test_fp16_runs_without_a_folder_for_temporary_files(fused_bundle, monkeypatch, tmp_path):
    """The folder only serves to read what is computed: that is not known then, and nothing else is different."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    backend = open_backend(Bundle.open(fused_bundle), "cpu", None, "fp16")
    assert backend.computed_in == {}
    assert "computed in a precision that cannot be read" in backend.description
    assert backend._sessions["prior"].get_inputs()[0].name == "h"
    backend.close()


def test_a_closed_backend_runs_nothing(bundle):
    backend = open_backend(bundle, "cpu", None, None)
    inputs, outputs = filled(backend, bundle, "encoder", ("frame",)), buffers(backend, bundle, "encoder", ("h",))
    bound = backend.bind("encoder", inputs, outputs)
    backend.close()
    backend.close()
    with pytest.raises(BackendError, match="closed"):
        bound.run()
    with pytest.raises(BackendError, match="closed"):
        backend.bind("encoder", inputs, outputs)


def profiled_types(path, graph_name, precision) -> Counter:
    bundle = Bundle.open(path)
    options = onnxruntime.SessionOptions()
    options.enable_profiling, options.log_severity_level = True, 3
    session = onnxruntime.InferenceSession(bundle.graphs(precision)[graph_name], options, providers=["CPUExecutionProvider"])
    spec = bundle.manifest.variants[precision].graphs[graph_name]
    session.run(None, {tensor.name: np.zeros(tensor.sized(1), tensor.dtype) for tensor in spec.inputs})
    events = [event.get("args", {}) for event in json.loads(Path(session.end_profiling()).read_text())]
    kernels = [about for about in events if about.get("op_name") in ("Conv", "ConvTranspose", "Gemm", "FusedGemm", "MatMul")]
    names = {"float": "f32", "float16": "f16"}
    return Counter(names[next(iter(about["input_type_shape"][0]))] for about in kernels if about.get("input_type_shape"))


def test_bf16_is_refused(tiny_bundle, tmp_path):
    with_bf16 = Bundle.open(add_bf16_variant(tiny_bundle, tmp_path))
    with pytest.raises(BackendMissingError, match=r"does not compute in bf16\n  expected fp32 or fp16, or --backend") as caught:
        open_backend(with_bf16, "cpu", None, "bf16")
    assert caught.value.exit_code == ExitCode.BACKEND_MISSING


def test_backend_names_are_case_sensitive(bundle):
    with pytest.raises(UsageError, match="expected auto or one of: cpu"):
        open_backend(bundle, "CPU", None, None)


@pytest.mark.parametrize("name", ["cpu", "auto", "openvino"])
def test_gpu_options_are_refused_by_other_backends(bundle, name):
    gpu_options = GpuOptions(cuda_graph=False, cpu_fallback=True, cache_dir="x", workspace_gib=1.0)
    with pytest.raises(
        UsageError, match=r"--no-cuda-graph, --cpu-fallback, --cache-dir, --workspace have no effect with .*\n.*tensorrt-rtx"
    ):
        open_backend(bundle, name, None, None, gpu=gpu_options)


@pytest.mark.parametrize(
    "options",
    [
        {"bundle": EMBEDDED_MODEL},
        {"precision": "fp8"},
        {"threads": 0},
        {"threads": "2"},
        {"samples": 0},
        {"lanes": "2"},
        {"gpu": 3},
        {"progress": 3},
        {"shuffled": 1},
    ],
    ids=lambda options: next(iter(options)),
)
def test_invalid_options_are_usage_errors(bundle, options):
    with pytest.raises(UsageError, match=rf"{next(iter(options))}.*\n  expected "):
        open_backend(**{"bundle": bundle, "name": "cpu", "device": None, "precision": None, **options})


@pytest.mark.parametrize(
    "options",
    [
        {"cuda_graph": "no"},
        {"cpu_fallback": "no"},
        {"cpu_fallback": None},
        {"build_engines": "no"},
        {"cache_dir": 3},
        {"workspace_gib": "1"},
        {"workspace_gib": 0},
        {"workspace_gib": math.nan},
        {"workspace_gib": math.inf},
        {"workspace_gib": True},
    ],
    ids=str,
)
def test_invalid_gpu_options_are_usage_errors(options):
    with pytest.raises(UsageError, match=rf"^{next(iter(options))} is .*\n  expected "):
        GpuOptions(**options)


def test_a_graph_that_the_engine_refuses_is_named(tiny_bundle, tmp_path):
    damaged = copy_bundle(tiny_bundle, tmp_path)
    content = graph_bytes(damaged, "encoder")
    assert content.count(b"LeakyRelu") >= 1
    replace_graph(damaged, "encoder", content.replace(b"LeakyRelu", b"SneakRelu"))
    with pytest.raises(BundleError, match=r"fp32/encoder\.onnx"):
        CpuBackend(Bundle.open(damaged), "fp32")
