"""The openvino backend: the frames of the cpu backend, in its own precisions, and what it says when something is not there."""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from filelock import FileLock, Timeout

from svg_common.errors import ExitCode, MissingExtraError
from svg_runtime import Forecaster
from svg_runtime.backends import open_backend
from svg_runtime.backends.openvino import compiled_cache
from svg_runtime.backends.openvino import device as openvino_device
from svg_runtime.backends.openvino.device import choose_placement, computed_precisions
from svg_runtime.bundle.reader import EMBEDDED_MODEL, Bundle
from svg_runtime.errors import BackendError, BackendMissingError, BundleError, UsageError
from svg_runtime.machine.hardware import usable_cores
from tests.command_runner import HANG_S, wait_until
from tests.conftest import add_bf16_variant, export_model, forget_quality, random_model, save_model
from tests.engine_precision import computes_in, needs_precision
from tests.families import export_tiny
from tests.sample import sampled
from tests.svg_runtime.bundle_helpers import copy_bundle, draw, graph_bytes, replace_graph, watch

openvino = pytest.importorskip("openvino", reason="openvino is not installed: pip install 'svg-edge[openvino]'")

ATOL = 1e-4
F32 = {"backend": "openvino", "device": "CPU:f32"}
SMALL = {"samples": 2, "horizon": 3, "seed": 4}
BUNDLES = ("tiny_bundle", "fused_bundle", "following_bundle")


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """Compiled models of these tests go nowhere else."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SVG_EDGE_CACHE", str(folder))
        yield folder / "openvino"


@pytest.fixture(scope="module")
def bundle(tiny_bundle) -> Bundle:
    return Bundle.open(tiny_bundle)


@pytest.fixture(scope="module")
def backend(bundle):
    backend = open_backend(bundle, "openvino", "CPU:f32", None)
    yield backend
    backend.close()


@pytest.fixture(scope="module")
def deterministic_bundle(tmp_path_factory):
    """A fused deterministic model whose skips follow every predicted frame."""
    folder = tmp_path_factory.mktemp("following")
    checkpoint = save_model(folder / "ckpt.pt", random_model(last_frame_skip=True, prior="none", nf=2))
    return export_model(checkpoint, folder / "ckpt.svgb", fused=True)


def psnr_per_step(given, expected):
    """(horizon,) dB over samples and pixels."""
    return -10 * np.log10(np.mean((given - expected) ** 2, axis=(0, 2, 3, 4)))


@pytest.mark.parametrize("context", ["window", "stream"])
@pytest.mark.parametrize("which", sampled([*BUNDLES, "deterministic_bundle"], BUNDLES))
def test_openvino_gives_the_frames_of_the_cpu_backend(request, frames, which, context):
    path = request.getfixturevalue(which)
    observed, futures = watch(path, frames[:5], context=context, **F32, **SMALL)
    expected_observed, expected = watch(path, frames[:5], context=context, backend="cpu", **SMALL)
    np.testing.assert_allclose(futures, expected, atol=ATOL)
    for actual, expected in zip(observed, expected_observed, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-3)


def test_openvino_runs_the_separate_graphs_of_a_fused_bundle_and_reconstructs(fused_bundle, frames):
    results = []
    for opened in (F32, {"backend": "cpu"}):
        with Forecaster.open(fused_bundle, fused=False, samples=2, horizon=2, **opened) as forecaster:
            for frame in frames[:3]:
                forecaster.observe(frame)
            results.append((forecaster.forecast(), forecaster.reconstruct(frames[3:5])))
    for given, expected in zip(*results, strict=True):
        np.testing.assert_allclose(given, expected, atol=ATOL)


def test_openvino_runs_half_precision_graphs(tiny_bundle, frames):
    _, futures = watch(tiny_bundle, frames[:3], precision="fp16", **F32, **SMALL)
    _, expected = watch(tiny_bundle, frames[:3], precision="fp16", backend="cpu", **SMALL)
    assert psnr_per_step(futures[0], expected[0])[0] > 60


@pytest.mark.parametrize("precision", ["bf16", "f16"])
def test_reduced_precision_stays_close_on_the_embedded_model(precision):
    from svg_common.digits import digit_stream

    needs_precision(precision)
    step = digit_stream(3, 1)
    frames, results = [step()[..., None] for _ in range(5)], []
    noise, past = draw(1, 10, 4, 10), draw(2, 4, 4, 10)
    for device in (f"CPU:{precision}", "CPU:f32"):
        with Forecaster.open(EMBEDDED_MODEL, backend="openvino", device=device, samples=4) as forecaster:
            assert f"fp32 graphs computed in {device.removeprefix('CPU:')}" in forecaster.description
            for frame in frames:
                forecaster.observe(frame)
            results.append(forecaster.forecast(noise=noise, context_noise=past))
            assert device.removeprefix("CPU:") in forecaster.computed_in["encoder"]
            assert set(forecaster.computed_in["predictor"]) == {"f32"}
    psnr = psnr_per_step(*results)
    assert psnr[0] > 40
    assert psnr[0] < 100  # it is another precision indeed


@pytest.mark.parametrize("order", list(itertools.permutations(("f32", "bf16", "f16"))), ids="-".join)
def test_compiled_graphs_are_cached_per_precision(tiny_bundle, tmp_path, monkeypatch, order):
    """OpenVINO looks compiled graphs up without regard to the precision: one in f16 would be returned for f32, too."""
    monkeypatch.setenv("SVG_EDGE_CACHE", str(tmp_path))
    asked = [precision for precision in order if computes_in(precision)]
    if len(asked) < 2:
        pytest.skip("OpenVINO computes in f32 alone on this processor")
    for _ in range(2):  # compiled, then from the cache
        for precision in asked:
            with Forecaster.open(tiny_bundle, backend="openvino", device=f"CPU:{precision}") as forecaster:
                assert set(forecaster.computed_in["encoder"]) == {precision}
                assert f"graphs computed in {precision}" in forecaster.description


def test_a_graph_that_gives_another_shape_than_it_declares_is_an_error_of_the_bundle(tiny_bundle, frames, tmp_path):
    model = onnx.load_from_string(graph_bytes(tiny_bundle, "decoder"))
    (frame,) = (output.name for output in model.graph.output)
    last = next(node for node in model.graph.node if frame in node.output)
    last.output[0] = "whole_frame"
    for name, value in (("first", 0), ("end", 1), ("axis", 3)):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([value], np.int64), name))
    model.graph.node.append(onnx.helper.make_node("Slice", ["whole_frame", "first", "end", "axis"], [frame]))
    damaged = replace_graph(copy_bundle(tiny_bundle, tmp_path), "decoder", model.SerializeToString())
    with Forecaster.open(damaged, shuffled=False, **F32, **SMALL) as forecaster:
        for shown in frames[:3]:
            forecaster.observe(shown)
        with pytest.raises(BundleError) as caught:
            forecaster.forecast()
    first_line, *others = str(caught.value).splitlines()  # svg-bench shows the first one alone
    assert first_line.endswith("contradicts the manifest: OpenVINO refuses (2, 1, 64, 64) as the shape of 'frame'")
    assert first_line.startswith(f"fp32/decoder.onnx of '{damaged}'")
    assert others[-1] == "  export the bundle again with: svg-export ckpt.pt"


def plan_of(model) -> openvino.CompiledModel:
    return openvino_device.shared_core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})


def test_reported_precisions_are_those_of_the_execution_graph(bundle):
    """Whatever the model's own property says."""
    model = openvino_device.shared_core().read_model(bundle.graphs("fp32")["predictor"])
    assert computed_precisions(plan_of(model)) == {"f32": 6}  # embed, two cells of two products each, head


class LayerOf:
    """A layer of an execution graph, as other devices and releases write it, which cannot be had here."""

    def __init__(self, **about):
        self._about = {name: np.array(text) for name, text in about.items()}

    def get_rt_info(self):
        return {name: SimpleNamespace(astype=lambda kind, text=text: str(text)) for name, text in self._about.items()}


def model_of(*layers):
    return SimpleNamespace(get_runtime_model=lambda: SimpleNamespace(get_ordered_ops=lambda: list(layers)))


def test_precision_names_of_other_devices_are_normalized():
    layers = [
        LayerOf(layerType="convolution", runtimePrecision="FP16"),
        LayerOf(layerType="Gemm", runtimePrecision="FLOAT16"),
        LayerOf(layerType="FullyConnected", runtimePrecision="i8"),
        LayerOf(layerType="Activation", runtimePrecision="f32"),  # no weights
        LayerOf(layerType="Convolution"),  # nothing is told
        LayerOf(),
    ]
    assert computed_precisions(model_of(*layers)) == {"f16": 2, "i8": 1}


def test_without_an_execution_graph_the_description_says_so(bundle, monkeypatch):
    def refuse():
        raise RuntimeError("NotImplemented")

    assert computed_precisions(SimpleNamespace(get_runtime_model=refuse)) == {}
    monkeypatch.setattr("svg_runtime.backends.openvino.backend.computed_precisions", lambda model: Counter())
    backend = open_backend(bundle, "openvino", "CPU:f32", None)
    assert "graphs computed in a precision that the device does not report" in backend.description
    backend.close()


def compute_all_in(monkeypatch, precision: str) -> None:
    """An engine that promises all and computes in one precision: an old release, or a processor without units for it."""
    monkeypatch.setattr(openvino_device, "_CAPABILITIES", dict.fromkeys(("f32", "bf16", "f16"), "FP32"))
    monkeypatch.setattr("svg_runtime.backends.openvino.backend.computed_precisions", lambda model: Counter({precision: 5}))


@pytest.mark.parametrize(("asked", "computed"), [("f16", "f32"), ("bf16", "f32"), ("f32", "f16")])
def test_a_requested_precision_that_is_not_computed_is_refused(bundle, monkeypatch, asked, computed):
    compute_all_in(monkeypatch, computed)
    expected = rf"{asked} was requested, but the openvino device CPU computes encoder in {computed} here"
    with pytest.raises(BackendMissingError, match=expected) as caught:
        open_backend(bundle, "openvino", f"CPU:{asked}", None)
    assert f"expected CPU:{computed}, or CPU to " in str(caught.value)
    assert caught.value.exit_code == ExitCode.BACKEND_MISSING


def test_a_refused_graph_stays_refused(fused_bundle, frames, monkeypatch):
    """Not only at its first use: a graph that was compiled and refused must not be found at the next forecast."""
    needs_precision("bf16")
    counts = iter([Counter(bf16=5), *[Counter(f32=5)] * 20])  # the encoder at opening, then all others
    monkeypatch.setattr("svg_runtime.backends.openvino.backend.computed_precisions", lambda model: next(counts))
    with Forecaster.open(fused_bundle, backend="openvino", device="CPU:bf16", fused=True, **SMALL) as forecaster:
        for frame in frames[:3]:
            forecaster.observe(frame)
        refusals = []
        for _ in range(2):
            with pytest.raises(BackendMissingError, match=r"bf16 was requested, but .* computes step in f32 here") as caught:
                forecaster.forecast()
            refusals.append(caught)  # its traceback refers to all that was made
        assert "step" not in forecaster.computed_in


def test_requested_bf16_that_is_not_computed_is_refused(tiny_bundle, tmp_path, monkeypatch):
    compute_all_in(monkeypatch, "f32")
    with_bf16 = Bundle.open(add_bf16_variant(tiny_bundle, tmp_path))
    for name in ("openvino", "auto"):
        with pytest.raises(BackendMissingError, match=r"bf16 was requested, but .* computes encoder in f32 here"):
            open_backend(with_bf16, name, None, "bf16")


def test_a_default_that_is_not_computed_is_not_reported(tiny_bundle, tmp_path, monkeypatch):
    compute_all_in(monkeypatch, "f32")
    monkeypatch.setattr(openvino_device, "has_bf16_units", lambda: True)
    with_bf16 = Bundle.open(add_bf16_variant(tiny_bundle, tmp_path))
    for name in ("openvino", "auto"):
        backend = open_backend(with_bf16, name, None, None)
        assert (backend.name, backend.precision) == ("openvino", "fp32")
        assert backend._placement.compute == "f32"  # also for the graphs that are compiled later
        assert backend.description.endswith("fp32 graphs computed in f32")
        backend.close()


def test_bf16_of_unknown_quality_is_used_only_by_name(tiny_bundle, tmp_path, monkeypatch):
    needs_precision("bf16")
    monkeypatch.setattr(openvino_device, "has_bf16_units", lambda: True)
    measured = add_bf16_variant(tiny_bundle, tmp_path)
    for name in ("openvino", "auto"):
        with closing(open_backend(Bundle.open(measured), name, None, None)) as chosen:
            assert (chosen.name, chosen.precision) == ("openvino", "bf16")
    unmeasured = Bundle.open(forget_quality(measured, "bf16"))
    for name in ("openvino", "auto"):
        with closing(open_backend(unmeasured, name, None, None)) as chosen:
            assert (chosen.name, chosen.precision) == ("openvino", "fp32")
            assert "computed in f32; bf16 is faster here: choose it with --bf16" in chosen.description
        with closing(open_backend(unmeasured, name, None, "bf16")) as named:
            assert (named.name, named.precision) == ("openvino", "bf16")


def test_the_description_lists_the_precision_of_each_graph(tiny_bundle, frames, monkeypatch):
    counts = iter([Counter(f32=1, bf16=4), *[Counter(f32=1)] * 20])
    monkeypatch.setattr("svg_runtime.backends.openvino.backend.computed_precisions", lambda model: next(counts))
    with Forecaster.open(tiny_bundle, **F32, **SMALL) as forecaster:
        words = forecaster.description
    assert "fp32 graphs computed in bf16 and f32; bf16 and f32: encoder; f32: posterior, " in words


def test_buffers_keep_their_addresses_and_a_subset_of_the_outputs_can_be_bound(backend, bundle):
    spec = bundle.manifest.variants["fp32"].graphs["encoder"]
    frame = backend.allocate(spec.tensor("frame").sized(2), "float32")
    h = backend.allocate(spec.tensor("h").sized(2), "float32")
    address = backend.read(h).ctypes.data
    bound = backend.bind("encoder", {"frame": frame}, {"h": h})
    assert not backend.read(h).any()  # binding alone runs nothing
    seen = []
    for seed in (1, 2):
        backend.write(frame, draw(seed, *frame.shape))
        bound.run()
        np.testing.assert_array_equal(backend.read(frame), draw(seed, *frame.shape))
        assert backend.read(h).ctypes.data == address
        seen.append(backend.read(h).copy())
    assert np.abs(seen[0] - seen[1]).max() > 1e-3


def test_openvino_uses_the_shuffled_decoder(tiny_bundle, tmp_path, frames):
    """A changed one changes the frames; the decoder as it is is not even read into the engine."""
    _, expected = watch(tiny_bundle, frames[:3], **F32, **SMALL)
    model = onnx.load_from_string(graph_bytes(tiny_bundle, "decoder_shuffled"))
    weight = next(tensor for tensor in model.graph.initializer if tensor.dims[2:] == [3, 3])
    weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) * np.float32(2), weight.name))
    other = replace_graph(copy_bundle(tiny_bundle, tmp_path), "decoder_shuffled", model.SerializeToString())
    _, futures = watch(other, frames[:3], **F32, **SMALL)
    assert np.abs(futures - expected).max() > 1e-2
    _, on_cpu = watch(other, frames[:3], backend="cpu", **SMALL)
    np.testing.assert_allclose(on_cpu, expected, atol=ATOL)


def test_openvino_prefers_the_separate_graphs(fused_bundle):
    for wanted, fused in ((None, False), (True, True)):
        with Forecaster.open(fused_bundle, fused=wanted, **F32) as forecaster:
            assert forecaster.fused == fused


def test_inputs_never_alias_outputs(backend, bundle):
    spec = bundle.manifest.variants["fp32"].graphs["posterior"]
    made = {t.name: backend.allocate(t.sized(2), t.dtype) for t in (*spec.inputs, *spec.outputs)}
    inputs = {name: made[name] for name in ("h", "state")}
    with pytest.raises(AssertionError, match="state_out aliases"):
        backend.bind("posterior", inputs, {"mu": made["mu"], "state_out": made["state"]})


def test_compiled_graphs_are_shared_by_bound_graphs_and_freed_with_the_last(bundle):
    backend = open_backend(bundle, "openvino", "CPU:f32", None)
    spec = bundle.manifest.variants["fp32"].graphs["posterior"]

    def plan(batch):
        sized = {t.name: backend.allocate(t.sized(batch), t.dtype) for t in (*spec.inputs, *spec.outputs)}
        outputs = {t.name: sized[t.name] for t in spec.outputs}
        return backend.bind("posterior", {t.name: sized[t.name] for t in spec.inputs}, outputs)

    opened = len(backend._compiled)
    plans = [plan(1), plan(1), plan(2)]
    assert len(backend._compiled) == opened + 2
    assert plans[0].compiled is plans[1].compiled
    del plans[1:]
    assert len(backend._compiled) == opened + 1
    backend.close()


@pytest.mark.parametrize(("threads", "shares"), [(None, True), (usable_cores(), True), (usable_cores() + 1, False)])
def test_graphs_share_one_set_of_threads_when_they_use_all_cores(bundle, threads, shares):
    backend = open_backend(bundle, "openvino", "CPU:f32", None, threads)
    spec = bundle.manifest.variants["fp32"].graphs["skip"]
    inputs, outputs = ({t.name: backend.allocate(t.sized(1), t.dtype) for t in side} for side in (spec.inputs, spec.outputs))
    bound = backend.bind("skip", inputs, outputs)
    assert bound.compiled.model.get_property(openvino_device.SHARED_THREADS) == ("YES" if shares else "NO")
    backend.close()


def test_no_telemetry_is_sent(tiny_bundle):
    """Importing openvino as it is starts a process that sends a message to Google Analytics, if no CI is noticed."""
    program = f"""
import multiprocessing, sys, urllib.request
def never(*arguments, **named):
    raise AssertionError("telemetry")
multiprocessing.Process.start = urllib.request.urlopen = never
from svg_runtime import Forecaster
Forecaster.open({str(tiny_bundle)!r}, backend="openvino", device="CPU:f32").close()
assert not any(name.startswith("openvino_telemetry") for name in sys.modules)
print("quiet")
"""
    environment = {name: value for name, value in os.environ.items() if name not in ("CI", "TF_BUILD", "JENKINS_URL")}
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=False)
    assert ended.stdout == "quiet\n", ended.stderr


def test_ctrl_c_is_still_handled_after_several_backends_were_closed(tiny_bundle):
    """OpenVINO's CPU plugin changes the signal stack of the main thread; a stale one would turn Ctrl-C into a crash."""
    program = f"""
import gc, os, signal, time
from svg_runtime import Forecaster
opened = [Forecaster.open({str(tiny_bundle)!r}, backend="openvino", device="CPU:f32") for _ in range(2)]
while opened:
    opened.pop(0).close()
    gc.collect()
os.kill(os.getpid(), signal.SIGINT)
time.sleep(10)
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert ended.stderr.rstrip().endswith("KeyboardInterrupt"), (ended.returncode, ended.stderr)


def test_a_closed_backend_refuses_to_run(bundle):
    backend = open_backend(bundle, "openvino", None, None)
    spec = bundle.manifest.variants["fp32"].graphs["skip"]
    buffers = {t.name: backend.allocate(t.sized(1), t.dtype) for t in (*spec.inputs, *spec.outputs)}
    parts = [{t.name: buffers[t.name] for t in tensors} for tensors in (spec.inputs, spec.outputs)]
    bound = backend.bind("skip", *parts)
    backend.close()
    backend.close()
    with pytest.raises(BackendError, match="closed"):
        bound.run()
    with pytest.raises(BackendError, match="closed"):
        backend.bind("skip", *parts)


def test_missing_openvino_names_the_extra(bundle, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingExtraError, match=r"openvino.*\n.*pip install 'svg-edge\[openvino\]'") as caught:
        open_backend(bundle, "openvino", None, None)
    assert caught.value.exit_code == ExitCode.BACKEND_MISSING


@pytest.fixture
def broken_openvino(monkeypatch, tmp_path):
    (tmp_path / "openvino.py").write_text("raise ImportError('libtbb.so.12: cannot open shared object file')")
    monkeypatch.delitem(sys.modules, "openvino")
    monkeypatch.syspath_prepend(tmp_path)


def test_an_openvino_that_does_not_load_is_named(bundle, broken_openvino):
    with pytest.raises(BackendMissingError, match="libtbb") as caught:
        open_backend(bundle, "openvino", None, None)
    assert caught.value.exit_code == ExitCode.BACKEND_MISSING


@pytest.mark.parametrize("device", ["GPU.7", "TPU", "AUTO", "cuda:f32"])
def test_a_missing_device_is_refused_with_the_available_ones(bundle, device):
    with pytest.raises(BackendMissingError, match=r"no device.*\n  expected one of: CPU") as caught:
        open_backend(bundle, "openvino", device, None)
    assert caught.value.exit_code == ExitCode.BACKEND_MISSING


class CoreOf:
    """What OpenVINO says on a machine with other devices and capabilities, which this one lacks."""

    def __init__(self, **devices):
        self.available_devices, self._devices = list(devices), devices

    def get_property(self, device, name):
        assert name == "OPTIMIZATION_CAPABILITIES"
        return self._devices[device]


def test_precision_follows_the_device_and_its_capabilities(monkeypatch):
    xeon = CoreOf(CPU=["FP32", "BF16", "INT8"], NPU=["FP16", "INT8"])
    monkeypatch.setattr(openvino_device, "has_bf16_units", lambda: True)
    for named in (None, "auto", "CPU"):  # bf16 by default only with that variant and without another request
        assert choose_placement(xeon, named, has_bf16_variant=True).compute == "bf16"
        without_variant = choose_placement(xeon, named)
        assert (without_variant.compute, without_variant.bf16_advised) == ("f32", True)
        for precision in ("fp32", "fp16"):
            asked = choose_placement(xeon, named, precision, has_bf16_variant=True)
            assert (asked.compute, asked.bf16_advised) == ("f32", False)
    assert choose_placement(xeon, "cpu:f32", has_bf16_variant=True).compute == "f32"
    assert choose_placement(xeon, "cpu:bf16").compute == "bf16"  # the user's explicit wish
    npu = choose_placement(xeon, "npu")
    assert (npu.device, npu.compute, npu.has_f32) == ("NPU", None, False)
    monkeypatch.setattr(openvino_device, "has_bf16_units", lambda: False)
    slower = choose_placement(xeon, "CPU", has_bf16_variant=True)
    assert (slower.compute, slower.bf16_advised) == ("f32", False)
    assert choose_placement(xeon, "CPU:bf16").compute == choose_placement(xeon, None, "bf16", True).compute == "bf16"
    assert choose_placement(xeon, "CPU:bf16", "bf16", True).compute == "bf16"
    with pytest.raises(UsageError, match=r"both bf16 and the device 'CPU:f32' were given"):
        choose_placement(xeon, "CPU:f32", "bf16", True)
    with pytest.raises(BackendMissingError, match=r"device NPU cannot compute in bf16 here"):
        choose_placement(xeon, "NPU", "bf16", True)
    with pytest.raises(BackendMissingError, match=r"cannot compute in f16 here\n  expected one of: f32, bf16"):
        choose_placement(xeon, "CPU:f16")
    with pytest.raises(UsageError, match="int3"):
        choose_placement(xeon, "CPU:int3")


@pytest.mark.parametrize(
    ("flags", "there"), [("avx512f avx512_bf16", True), ("amx_tile amx_bf16", True), ("avx512f avx512_vnni", False)]
)
def test_bf16_units_are_read_from_cpuinfo(monkeypatch, tmp_path, flags, there):
    info = tmp_path / "cpuinfo"
    monkeypatch.setattr(openvino_device, "_CPU_INFO", info)
    assert not openvino_device.has_bf16_units()
    info.write_text(f"processor\t: 0\nflags\t\t: fpu {flags}\n")
    assert openvino_device.has_bf16_units() == there


@pytest.fixture
def bf16_units(monkeypatch):
    """As on a processor with AMX; bf16 itself is computed by any that can."""
    needs_precision("bf16")
    monkeypatch.setattr(openvino_device, "has_bf16_units", lambda: True)


def test_bf16_units_are_used_if_the_bundle_has_a_bf16_variant(tiny_bundle, bundle, tmp_path, frames, bf16_units):
    backend = open_backend(bundle, "openvino", None, None)
    assert backend.precision == "fp32"
    assert "fp32 graphs computed in f32; bf16 is faster here" in backend.description
    assert backend.description.endswith("svg-export ckpt.pt --bf16")
    with_bf16 = add_bf16_variant(tiny_bundle, tmp_path)
    for name in ("openvino", "auto"):
        backend = open_backend(Bundle.open(with_bf16), name, None, None)
        assert (backend.name, backend.precision) == ("openvino", "bf16")
        assert backend.description.endswith("fp32 graphs computed in bf16")
        assert set(backend.computed_in["encoder"]) == {"bf16"}
    _, default = watch(with_bf16, frames[:3], backend="openvino", **SMALL)
    _, explicit = watch(tiny_bundle, frames[:3], backend="openvino", device="CPU:bf16", **SMALL)
    _, full = watch(with_bf16, frames[:3], backend="openvino", precision="fp32", **SMALL)
    np.testing.assert_array_equal(default[0], explicit[0])
    assert 0 < np.abs(default[0] - full[0]).max() < 0.1


def test_requested_bf16_is_the_variant_of_the_bundle(tiny_bundle, bundle, tmp_path, frames):
    needs_precision("bf16")
    with pytest.raises(BackendMissingError, match=r"no bf16 variant.*\n  export it with: svg-export ckpt\.pt --bf16"):
        open_backend(bundle, "openvino", None, "bf16")
    with_bf16 = add_bf16_variant(tiny_bundle, tmp_path)
    for name in ("openvino", "auto"):  # auto: the cpu backend has no bf16
        _, asked = watch(with_bf16, frames[:3], backend=name, precision="bf16", **SMALL)
        _, explicit = watch(tiny_bundle, frames[:3], backend="openvino", device="CPU:bf16", **SMALL)
        np.testing.assert_array_equal(asked[0], explicit[0])


def test_auto_chooses_openvino_on_cpus_with_bf16_units(bundle, monkeypatch):
    for units, name in ((True, "openvino"), (False, "cpu")):
        monkeypatch.setattr(openvino_device, "has_bf16_units", lambda units=units: units)
        backend = open_backend(bundle, "auto", None, None)
        assert backend.name == name
        backend.close()


@pytest.mark.parametrize("device", ["CPU", "cpu:f32"])
def test_auto_takes_openvino_for_a_device_of_its_own(bundle, device):
    with closing(open_backend(bundle, "auto", device, None)) as backend:
        assert backend.name == "openvino"


@pytest.mark.parametrize("device", ["GPU.7", "npu:f16"])
def test_auto_refuses_a_device_of_openvino_that_is_not_here(bundle, device):
    name = device.partition(":")[0]
    finds_none = rf"'{device}' is a device of the openvino backend: openvino finds no device '{name}'.*\n  expected .*CPU"
    with pytest.raises(BackendMissingError, match=finds_none) as caught:
        open_backend(bundle, "auto", device, None)
    assert caught.value.exit_code == ExitCode.BACKEND_MISSING


def test_auto_reports_that_openvino_does_not_work(bundle, monkeypatch, broken_openvino):
    monkeypatch.setattr(openvino_device, "has_bf16_units", lambda: True)
    backend = open_backend(bundle, "auto", None, None)
    assert backend.name == "cpu"
    assert "openvino does not work here" in backend.description
    assert "libtbb" in backend.description
    backend.close()


def cut_in_half(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def zero_a_page(file):
    content = bytearray(file.read_bytes())
    middle = len(content) // 2 // 4096 * 4096
    content[middle : middle + 4096] = bytes(4096)
    file.write_bytes(content)


def garble_the_record(file):
    file.with_name(".sha256").write_bytes(b"\xff")


def lose_the_record(file):
    """As in a process that was killed after OpenVINO had written the graph, be it to its end or not."""
    zero_a_page(file)
    file.with_name(".sha256").unlink()


@pytest.mark.parametrize("damage", [cut_in_half, zero_a_page, garble_the_record, lose_the_record])
def test_compiled_graphs_are_cached_and_a_damaged_one_is_compiled_again(
    tiny_bundle, frames, tmp_path, monkeypatch, logged, damage
):
    monkeypatch.setenv("SVG_EDGE_CACHE", str(tmp_path))
    _, expected = watch(tiny_bundle, frames[:3], **F32, **SMALL)
    kept = {file: (file.read_bytes(), file.stat().st_ino) for file in tmp_path.rglob("*.blob")}
    assert len(kept) > 2
    with monkeypatch.context() as patch:
        patch.setattr(compiled_cache, "file_sha256", lambda file: pytest.fail(f"{file} is hashed again"))
        _, again = watch(tiny_bundle, frames[:3], **F32, **SMALL)
    compiled_cache._as_recorded.clear()  # as in another process
    _, again = watch(tiny_bundle, frames[:3], **F32, **SMALL)
    assert {file: (file.read_bytes(), file.stat().st_ino) for file in tmp_path.rglob("*.blob")} == kept
    np.testing.assert_array_equal(again, expected)
    assert logged.messages == []
    for file in kept:
        file.chmod(0o600)
        damage(file)
    damaged = {file: file.read_bytes() for file in kept}
    _, again = watch(tiny_bundle, frames[:3], **F32, **SMALL)
    np.testing.assert_array_equal(again, expected)
    changed = [message for message in logged.messages if "changed since it was written" in message]
    assert changed == logged.messages
    assert len(changed) == (0 if damage is lose_the_record else len(kept))
    assert all(file.read_bytes() != damaged[file] for file in kept if damage is not garble_the_record)


def test_one_process_at_a_time_compiles_into_the_cache(tiny_bundle, frames, tmp_path, monkeypatch):
    """OpenVINO maps a graph that another process has not written to its end, and dies of SIGBUS."""
    monkeypatch.setenv("SVG_EDGE_CACHE", str(tmp_path))
    compile_model, locked = openvino.Core.compile_model, []

    def compile_seen(core, model, device, properties):
        with pytest.raises(Timeout):
            FileLock(Path(properties["CACHE_DIR"]) / ".lock").acquire(timeout=0)
        locked.append(properties["CACHE_DIR"])
        return compile_model(core, model, device, properties)

    monkeypatch.setattr(openvino.Core, "compile_model", compile_seen)
    watch(tiny_bundle, frames[:3], **F32, **SMALL)
    assert len(locked) > 2


def test_a_cache_that_cannot_be_written_is_a_warning(tiny_bundle, frames, tmp_path, monkeypatch, logged):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("SVG_EDGE_CACHE", str(tmp_path / "file"))
    _, futures = watch(tiny_bundle, frames[:3], **F32, **SMALL)
    (record,) = logged.records
    assert record.levelname == "WARNING"
    assert re.search("compiled models are not cached.*SVG_EDGE_CACHE", record.getMessage())
    assert np.isfinite(futures).all()


@pytest.mark.parametrize("problem", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_cache_without_locks_is_a_warning(tiny_bundle, frames, tmp_path, monkeypatch, logged, problem):
    monkeypatch.setenv("SVG_EDGE_CACHE", str(tmp_path))

    def refuse(file: int, operation: int) -> None:
        raise OSError(problem, os.strerror(problem))

    monkeypatch.setattr(fcntl, "flock", refuse)
    _, futures = watch(tiny_bundle, frames[:3], **F32, **SMALL)
    assert np.isfinite(futures).all()
    (message,) = logged.messages
    assert message.startswith("compiled models are not cached")
    assert not [file for file in tmp_path.rglob("*") if file.suffix in {".blob", ".cl_cache"}]


def test_a_cache_that_fails_while_a_forecaster_is_open_is_a_warning(tiny_bundle, frames, tmp_path, monkeypatch, logged):
    monkeypatch.setenv("SVG_EDGE_CACHE", str(tmp_path))
    with Forecaster.open(tiny_bundle, **F32, **SMALL) as forecaster:
        for frame in frames[:3]:
            forecaster.observe(frame)
        assert logged.messages == []
        shutil.rmtree(tmp_path / "openvino")
        (tmp_path / "openvino").write_text("no folder")
        for samples in (3, 4):
            assert forecaster.forecast(samples).shape[0] == samples
    (message,) = logged.messages
    assert message.startswith("compiled models are not cached")


def test_waiting_for_another_process_that_compiles_is_logged(bundle, tmp_path, monkeypatch, logged):
    monkeypatch.setenv("SVG_EDGE_CACHE", str(tmp_path))
    open_backend(bundle, "openvino", "CPU:f32", None).close()
    (lock_file,) = tmp_path.rglob(".lock")
    with ThreadPoolExecutor(1) as threads:
        with FileLock(lock_file):
            opening = threads.submit(open_backend, bundle, "openvino", "CPU:f32", None)
            wait_until(lambda: logged.messages)
            assert not opening.done()
        opening.result(HANG_S).close()
    assert logged.messages == ["encoder is being compiled elsewhere: waiting for it"]


def test_a_graph_that_the_engine_refuses_is_named(tiny_bundle, tmp_path):
    damaged = copy_bundle(tiny_bundle, tmp_path)
    replace_graph(damaged, "encoder", graph_bytes(damaged, "encoder").replace(b"LeakyRelu", b"SneakRelu"))
    with pytest.raises(BundleError, match=r"fp32/encoder\.onnx"):
        Forecaster.open(damaged, **F32)


@pytest.mark.slow  # tests/svg_export/test_srvp_graphs.py has another size and number
@pytest.mark.parametrize("samples", [3, 8])
def test_residual_steps_compile_for_any_number_of_samples(samples, tmp_path, frames):
    """OpenVINO 2026.4.1 crashes for some numbers, 8 among them, while it fuses the perceptrons of two steps."""
    bundle = export_tiny("srvp", tmp_path / "srvp.svgb", n_euler_steps=2, nhx=16, ny=6, residual_size=16, inference_size=16)
    futures = {}
    for backend, device in (("cpu", None), ("openvino", "CPU:f32")):
        with Forecaster.open(bundle, backend=backend, device=device, samples=samples, horizon=2) as forecaster:
            for frame in frames[:3]:
                forecaster.observe(frame)
            futures[backend] = forecaster.forecast()
    assert np.abs(futures["openvino"] - futures["cpu"]).max() < 1e-4
