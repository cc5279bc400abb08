"""Engines ahead of time: what is written into a bundle, what is refused, and the form of the graphs for Turing."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console

from svg_common.errors import UsageError
from svg_common.log_messages import ConsoleHandler, log_messages_to
from svg_common.progress import NullListener
from svg_export import engines
from svg_export.engine_options import EngineRequest, engine_request
from svg_export.engines import add_engines, target_groups
from svg_export.turing import convolve_matrix_products
from svg_runtime import Forecaster
from svg_runtime.backends.nvidia import device as device_module
from svg_runtime.backends.tensorrt.build import FLAGS, BuildOptions, build_engine
from svg_runtime.backends.tensorrt.cache import EngineCache
from svg_runtime.backends.tensorrt.engine import EngineKey, find_engine
from svg_runtime.bundle.contract import FUSED
from svg_runtime.bundle.manifest import TensorSpec
from svg_runtime.bundle.reader import Bundle
from svg_runtime.errors import BundleError, EngineError
from svg_runtime.machine.hardware import this_platform
from svg_train.checkpoint import load_checkpoint
from tests.sample import sampled
from tests.svg_export.engine_helpers import TARGETS, build_for_all, rtx, spec_of
from tests.svg_export.test_export import run_cli
from tests.svg_runtime.backends.numpy_cuda import NumpyCuda
from tests.svg_runtime.bundle_helpers import copy_bundle, edit_manifest, graph_bytes, replace_graph

OPTIONS = BuildOptions(TARGETS, max_batch=4)
AMPERE = BuildOptions(("sm86",), max_batch=4)
RECURRENT = [("prior", "fp32"), ("predictor", "fp32"), ("prime", "fp32"), ("step", "fp32"), ("step", "fp16")]


@pytest.fixture(scope="module", params=sampled(["fused", "all"], ["fused"]))
def plain(request, fused_bundle, tmp_path_factory) -> Path:
    """A bundle without engines: of the fused graphs and what they need, or of all graphs. Read only."""
    bundle = copy_bundle(fused_bundle, tmp_path_factory.mktemp("plain"))
    return edit_manifest(bundle, keep_fused) if request.param == "fused" else bundle


def keep_fused(manifest: dict[str, Any]) -> None:
    """Forget the graphs that run without the fused ones alone."""
    for variant in manifest["variants"].values():
        variant["graphs"] = {name: variant["graphs"][name] for name in ("encoder", "skip", *FUSED)}


@pytest.fixture(scope="module")
def built(plain, tmp_path_factory) -> tuple[Path, Path, list[str]]:
    """A bundle with engines of all its graphs, the cache that they went through, and what was logged."""
    library, folder = rtx(), tmp_path_factory.mktemp("engines")
    bundle, console = copy_bundle(plain, folder), Console(file=io.StringIO(), soft_wrap=True)
    with log_messages_to(ConsoleHandler(console, prefix="")):
        add_engines(bundle, library, OPTIONS, EngineCache(str(folder / "cache")))
    return bundle, folder / "cache", console.file.getvalue().splitlines()


def key_for(bundle: Path, graph_name: str, precision: str, capability: str, max_batch: int = 4, **change) -> EngineKey:
    spec = Bundle.open(bundle).manifest.variants[precision].graphs[graph_name]
    fields = {
        "onnx_sha256": spec.sha256, "platform": this_platform(), "nvidia_library": "tensorrt-rtx", "version": rtx().version,
        "gpu": "NVIDIA GeForce", "compute_capabilities": (capability,), "precision": precision, "max_batch": max_batch,
        "workspace_gib": None, "flags": FLAGS,
    }  # fmt: skip
    return EngineKey(**{**fields, **change})


def test_every_graph_has_an_engine_for_every_target(built):
    bundle, _, messages = built
    manifest = Bundle.open(bundle).manifest
    expected = set(manifest.variants["fp16"].graphs)
    assert len(manifest.variants) == 2
    assert len(messages) == 2 * 2 * len(expected) >= 16  # Turing, and all others; in fp32 and fp16
    for precision in manifest.variants:
        for graph_name in expected:
            for capability in TARGETS:
                plan = find_engine(bundle / "engines", key_for(bundle, graph_name, precision, capability))
                assert plan is not None, (precision, graph_name, capability)
                assert plan[:4] == b"vtrt"  # as NVIDIA's library wrote it, nothing before it


@pytest.mark.parametrize(
    "change",
    [{"onnx_sha256": "0" * 64}, {"version": "1.0"}, {"max_batch": 5}, {"compute_capabilities": ("sm121",)},
     {"precision": "fp16"}, {"workspace_gib": 1.0}, {"flags": (*FLAGS, "sparse")}, {"nvidia_library": "tensorrt"},
     {"platform": "win32 AMD64"}],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_an_engine_for_something_else_is_not_found(built, change):
    bundle, _, _ = built
    wanted = key_for(bundle, "encoder", "fp32", "sm86")
    assert find_engine(bundle / "engines", wanted) is not None
    assert find_engine(bundle / "engines", wanted.model_copy(update=change)) is None


def test_fewer_samples_are_served_by_an_engine_for_more(built):
    bundle, _, _ = built
    assert find_engine(bundle / "engines", key_for(bundle, "step", "fp16", "sm120", max_batch=1)) is not None


def test_engines_leave_the_bundle_unchanged(built, plain, frames):
    bundle, _, _ = built
    assert (bundle / "manifest.json").read_bytes() == (plain / "manifest.json").read_bytes()
    with Forecaster.open(bundle, samples=2, horizon=2) as forecaster:
        for frame in frames[:3]:
            forecaster.observe(frame)
        assert forecaster.forecast().shape == (2, 2, 64, 64, 1)


def test_engines_come_from_the_cache_the_second_time(built, plain, tmp_path, logged):
    bundle, cache, messages = built
    other = copy_bundle(plain, tmp_path)
    files = add_engines(other, rtx(), OPTIONS, EngineCache(str(cache)))
    assert logged.messages == []
    assert len(files) == len(messages)
    for file in files:
        assert (other / file).read_bytes() == (bundle / file).read_bytes()


@pytest.mark.parametrize(("name", "largest"), [("ensemble", 4), ("srvp", 2)])
def test_engines_of_an_ensemble_take_the_samples_that_predict_the_next_frame(
    family_bundle, tmp_path, monkeypatch, name, largest
):
    asked = []
    monkeypatch.setattr(engines, "add_engines", lambda bundle, library, options, cache: asked.append(options) or [])
    request = EngineRequest(rtx(), BuildOptions(("sm86",), max_batch=2), str(tmp_path))
    assert request.build(family_bundle(name), NullListener())["max_samples"] == largest
    assert asked == [BuildOptions(("sm86",), max_batch=largest)]


def damaged_decoder(bundle: Path, operator: str) -> bytes:
    model = onnx.load_from_string(graph_bytes(bundle, "decoder"))
    (node,) = (node for node in model.graph.node if node.op_type == "Sigmoid")
    node.op_type = operator
    return model.SerializeToString()


def test_a_graph_that_the_parser_refuses_is_named_with_its_node_and_no_engine_appears(fused_bundle, tmp_path):
    bundle = copy_bundle(fused_bundle, tmp_path)
    replace_graph(bundle, "decoder", damaged_decoder(bundle, "NoSuchOperator"))
    request = EngineRequest(rtx(), AMPERE, str(tmp_path / "cache"))
    expected = r"fp32/decoder\.onnx is not accepted(.|\n)*node_\w+.*NoSuchOperator(.|\n)*was written without engines"
    with pytest.raises(EngineError, match=expected):
        request.build(bundle, NullListener())
    assert not (bundle / "engines").exists()


def test_a_damaged_bundle_gets_no_engines(fused_bundle, tmp_path):
    bundle = copy_bundle(fused_bundle, tmp_path)
    (bundle / "fp32/prior.onnx").write_bytes(b"noise")
    with pytest.raises(BundleError, match=r"fp32/prior\.onnx"):
        add_engines(bundle, rtx(), AMPERE, EngineCache(str(tmp_path / "cache")))


def test_an_fp16_request_that_gives_fp32_is_refused(fused_bundle):
    single, half = graph_bytes(fused_bundle, "encoder"), graph_bytes(fused_bundle, "encoder", "fp16")
    with pytest.raises(EngineError, match=r"skip_0.*float32.*the manifest says"):
        build_engine(rtx(), single, "fp16/encoder.onnx", spec_of(half), "fp16", AMPERE)


def test_an_fp16_graph_with_a_convolution_in_fp32_inside_is_refused(fused_bundle):
    model = onnx.load_from_string(graph_bytes(fused_bundle, "encoder", "fp16"))
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    place, conv = next((place, node) for place, node in enumerate(model.graph.node) if node.op_type == "Conv")
    for name in conv.input[1:]:
        constants[name].CopyFrom(numpy_helper.from_array(numpy_helper.to_array(constants[name]).astype(np.float32), name))
    before = helper.make_node("Cast", [conv.input[0]], ["as_single"], to=TensorProto.FLOAT)
    after = helper.make_node("Cast", ["single"], [conv.output[0]], to=TensorProto.FLOAT16)
    conv.input[0], conv.output[0] = "as_single", "single"
    model.graph.node.insert(place + 1, after)
    model.graph.node.insert(place, before)
    content = model.SerializeToString()
    with pytest.raises(EngineError, match=rf"computes in float32: {conv.name}"):
        build_engine(rtx(), content, "fp16/encoder.onnx", spec_of(content), "fp16", AMPERE)


def test_turing_needs_another_form_of_the_recurrent_graphs(fused_bundle):
    """Guards convolve_matrix_products: it can be removed once the library accepts the graphs as they are."""
    content = graph_bytes(fused_bundle, "prior")
    with pytest.raises(EngineError, match=r"fp32/prior\.onnx cannot be built for sm75(.|\n)*node_linear"):
        build_engine(rtx(), content, "fp32/prior.onnx", spec_of(content), "fp32", BuildOptions(("sm75",), 4))


def outputs_of(content: bytes) -> list[np.ndarray]:
    session, draw = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"]), np.random.default_rng(3)
    feed = {}
    for tensor in session.get_inputs():
        shape = [3 if isinstance(size, str) else size for size in tensor.shape]
        feed[tensor.name] = draw.standard_normal(shape).astype(np.float16 if "16" in tensor.type else np.float32)
    return session.run(None, feed)


def float32_products(content: bytes) -> int:
    graph = onnx.load_from_string(content).graph
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    return sum(node.op_type == "Gemm" and types[node.input[1]] == TensorProto.FLOAT for node in graph.node)


@pytest.mark.parametrize(("graph_name", "precision"), RECURRENT)
def test_the_form_for_turing_computes_the_same(fused_bundle, graph_name, precision):
    content = graph_bytes(fused_bundle, graph_name, precision)
    convolved = convolve_matrix_products(content)
    assert (float32_products(content) > 0, float32_products(convolved)) == (True, 0)
    for given, expected in zip(outputs_of(convolved), outputs_of(content), strict=True):
        assert given.shape == expected.shape
        assert np.abs(given.astype(np.float32) - expected).max() < (2e-3 if expected.dtype == np.float16 else 2e-5)


def product(transposed: bool, dtype: type, **scaled: float) -> bytes:
    weights = np.random.default_rng(1).standard_normal((5, 3) if transposed else (3, 5)).astype(dtype)
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w"], ["y"], name="product", transB=int(transposed), **scaled)],
        "main",
        [helper.make_tensor_value_info("x", kind, ["batch", 3])],
        [helper.make_tensor_value_info("y", kind, ["batch", 5])],
        [numpy_helper.from_array(weights, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10).SerializeToString()


@pytest.mark.parametrize("transposed", [False, True])
def test_products_with_weights_either_way_round_are_convolved(transposed):
    content = product(transposed, np.float32)
    (given,), (expected,) = outputs_of(convolve_matrix_products(content)), outputs_of(content)
    assert np.abs(given - expected).max() < 1e-5
    build_for_all(content, "product.onnx", "fp32")


def test_products_in_float16_stay_as_they_are():
    content = product(True, np.float16)
    assert convolve_matrix_products(content) == content
    build_for_all(content, "product.onnx", "fp16")


def test_a_scaled_product_is_refused_rather_than_convolved_wrongly():
    with pytest.raises(ValueError, match="product"):
        convolve_matrix_products(product(True, np.float32, alpha=2.0))


def test_turing_never_shares_an_engine():
    assert target_groups(("sm86", "sm75", "sm120")) == [("sm75",), ("sm86", "sm120")]
    assert target_groups(("sm75",)) == [("sm75",)]


def test_profiles_go_from_one_to_all_samples():
    cond = TensorSpec(name="cond_0", dtype="float16", shape=("cond_batch", 8, 4, 4))
    state = TensorSpec(name="state", dtype="float32", shape=(4, "batch", 12))
    assert cond.batch_range(8) == ((1, 8, 4, 4), (1, 8, 4, 4), (8, 8, 4, 4))
    assert state.batch_range(8) == ((4, 1, 12), (4, 8, 12), (4, 8, 12))


@pytest.mark.parametrize("targets", ["sm70", "", "sm80,sm80", "sm80,", "current"])
def test_unknown_targets_are_refused_with_the_known_ones(targets):
    rtx()
    with pytest.raises(UsageError, match="sm75, sm80, sm86, sm89, sm120"):
        engine_request(True, None, targets, None, None, None)


def test_without_targets_and_gpu_engines_are_built_for_all_that_the_library_knows(monkeypatch):
    library = rtx()
    monkeypatch.setattr(device_module, "load_runtime", lambda: NumpyCuda(gpus=0))
    request = engine_request(True, None, None, None, None, None)
    assert request.options.compute_capabilities == library.compute_capabilities
    assert set(TARGETS) <= set(request.options.compute_capabilities)


def test_options_of_engines_without_engine_are_refused():
    assert engine_request(False, None, None, None, None, None) is None
    with pytest.raises(UsageError, match=r"--target, --workspace given without --engine\n.*--engine.*--target --workspace"):
        engine_request(False, None, "sm86", None, 2.0, None)


def test_engines_of_other_backends_are_refused():
    with pytest.raises(UsageError, match="unknown engine builder 'cpu'"):
        engine_request(True, "cpu", None, None, None, None)


def test_command_builds_into_the_bundle(tiny_checkpoint, tmp_path, svg_export):
    rtx()
    arguments = ["--no-fused", "--engine", "--target", "sm75,sm86", "--samples", "3", "--workspace", "1.5"]
    places = ["--cache-dir", "cache", "--json", "summary.json"]
    code, messages = svg_export(str(tiny_checkpoint), *arguments, *places)
    assert code == 0, messages
    assert "12 engines of tensorrt-rtx" in messages
    engines = json.loads((tmp_path / "summary.json").read_text())["engines"]
    assert (engines["targets"], engines["max_samples"], len(engines["files"])) == (["sm75", "sm86"], 3, 12)
    record = json.loads((tmp_path / "tiny.svgb/engines/fp32/prior.sm75.plan.json").read_text())
    assert (record["key"]["max_batch"], record["key"]["workspace_gib"]) == (3, 1.5)
    assert len(list((tmp_path / "cache").rglob("*.plan"))) == 12


def test_engines_that_cannot_be_built_leave_the_bundle_and_the_checkpoint(tiny_checkpoint, tmp_path, svg_export, monkeypatch):
    rtx()

    def fail(*_):
        raise EngineError("no memory")

    monkeypatch.setattr(engines, "add_engines", fail)
    code, messages = svg_export(tiny_checkpoint, "--no-fused", "--engine", "--target", "sm86", "--save-checkpoint", "new.pt")
    assert (code, "no memory\n  'tiny.svgb' was written without engines" in messages) == (1, True), messages
    assert load_checkpoint(tmp_path / "new.pt").config == load_checkpoint(tiny_checkpoint).config
    Bundle.open(tmp_path / "tiny.svgb").check()


def test_command_names_the_missing_extra_before_it_exports(tiny_checkpoint, tmp_path):
    result = run_cli(str(tiny_checkpoint), "--engine", cwd=tmp_path, block="sys.modules['tensorrt_rtx'] = None")
    assert result.returncode == 4, result.stderr
    assert "svg-edge[tensorrt-rtx]" in result.stderr
    assert list(tmp_path.iterdir()) == []
