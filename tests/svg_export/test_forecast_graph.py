"""The graph `forecast`: each camera of a batch is forecast as a Forecaster would, in every family; what is refused."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from typer.testing import CliRunner

from svg_common.errors import ExitCode
from svg_export import forecast_graph
from svg_export.cli import app
from svg_export.forecast_graph import compose_forecast
from svg_export.forecast_parity import FRAME, SURPRISE, forecast_reports
from svg_runtime import Forecaster
from svg_runtime.bundle.reader import Bundle
from svg_runtime.bundle.remote.published import graph_files
from svg_runtime.errors import BackendMissingError, BundleError
from svg_train.checkpoint import load_checkpoint
from svg_train.families.video_model import VideoModel
from tests.conftest import export_model, made_once, random_model, save_model
from tests.sample import sampled
from tests.svg_runtime.bundle_helpers import copy_bundle, edit_manifest
from tests.svg_train.srvp.srvp_models import random_srvp
from tests.test_documentation import code_blocks

HORIZON = 4
# Of each family, a bundle whose weights are large enough that cameras, samples and steps differ: with those of a new network
# nearly any graph would pass. What other tests have is not exported again.
SHARED = {
    "srvp with skips": "decoded_bundle", "mim": "stepped_bundle",
    **{name: name for name in ("ensemble", "predrnn", "e3d-lstm")},
}  # fmt: skip
MODELS: dict[str, Callable[[], VideoModel]] = {
    "following skips": lambda: random_model(last_frame_skip=True),
    "spatial": lambda: random_model(latent="spatial", nf=2, g_dim=3, rnn_size=1, z_dim=1, predictor_layers=1),
    "srvp": random_srvp,
}
LEARNED = "learned"
NAMES = (LEARNED, *MODELS, *SHARED)
SAMPLE = {LEARNED, "srvp with skips", "ensemble"}  # of the default run: their bundles are those of other tests
WITH_SURPRISE = {LEARNED, *MODELS, "srvp with skips", "fixed"}
DETERMINISTIC = {"mim", "predrnn", "e3d-lstm", "none"}


@pytest.fixture(scope="session")
def server_bundle(tiny_checkpoint, tmp_path_factory) -> Path:
    """`fused_bundle` with the graph `forecast`. Read only."""

    def make(path: Path) -> Path:
        return export_model(tiny_checkpoint, path, fp16=True, fused=True, server_horizon=HORIZON)

    return made_once(tmp_path_factory, "server-fp16.svgb", make)


@dataclass(frozen=True)
class Composed:
    """A bundle, the network in it, and the graph `forecast` of its graphs."""

    bundle: Path
    network: VideoModel
    content: bytes

    @classmethod
    def of(cls, bundle: Path, checkpoint: Path | None = None) -> Composed:
        opened, network = Bundle.open(bundle), load_checkpoint(checkpoint or bundle.with_suffix(".pt")).build()
        content = compose_forecast(
            contents=opened.graphs("fp32"),
            states={state.input: state.output for state in opened.manifest.variants["fp32"].graphs["step"].states},
            config=network.config,
            horizon=HORIZON,
            bundle_id=opened.manifest.bundle_id,
        )
        return cls(bundle, network, content)


@pytest.fixture
def composed(request, tmp_path_factory) -> Callable[[str], Composed]:
    """The graph of one of NAMES."""

    def compose(name: str) -> Composed:
        if name == LEARNED:
            return Composed.of(request.getfixturevalue("fused_bundle"), request.getfixturevalue("tiny_checkpoint"))
        if name in SHARED:
            fixture = SHARED[name]
            each = request.getfixturevalue("family_bundle" if fixture == name else fixture)
            return Composed.of(each(name) if fixture == name else each)

        def make(path: Path) -> Path:
            return export_model(save_model(path.with_suffix(".pt"), MODELS[name]()), path, fused=True)

        return Composed.of(made_once(tmp_path_factory, f"server-{name.replace(' ', '-')}.svgb", make))

    return compose


def session_of(content: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def inputs_for(session: Any, cameras: int, samples: int) -> dict[str, np.ndarray]:
    """Frames and noise of the shapes that the graph declares."""
    rng, given = np.random.default_rng(7), {}
    for tensor in session.get_inputs():
        shape = [{"batch": cameras, "samples": samples}.get(size, size) for size in tensor.shape]
        draw = rng.random if tensor.name == "frames" else rng.standard_normal
        given[tensor.name] = draw(shape, np.float32)
    return given


def run(session: Any, given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return dict(zip([tensor.name for tensor in session.get_outputs()], session.run(None, given), strict=True))


def forecast_alone(bundle: Path, given: dict[str, np.ndarray], camera: int) -> tuple[np.ndarray, float | None]:
    """Futures (K, T, C, H, W) and surprise of one camera, by a Forecaster with the same noise."""
    noise = {name: given[key][camera] for key, name in (("eps", "noise"), ("context_eps", "context_noise")) if key in given}
    samples = given["eps"].shape[2] if "eps" in given else 1
    with Forecaster.open(bundle, backend="cpu", threads=1, samples=samples, horizon=HORIZON, context="window") as forecaster:
        for frame in given["frames"][camera]:
            observation = forecaster.observe(np.moveaxis(frame, 0, -1))
        unit = forecaster.surprise_unit
        futures = forecaster.forecast(**noise)
    return np.moveaxis(futures, -1, 2), observation.surprise if unit == "nats" else None


def check_each_camera(model: Composed, name: str) -> None:
    """Cameras in a batch against a Forecaster of each, and against the network as the parity gate does it."""
    session = session_of(model.content)
    given = inputs_for(session, cameras=3, samples=2)
    outputs = run(session, given)
    assert outputs["futures"].shape[:3] == (3, 1 if name in DETERMINISTIC else 2, HORIZON)
    assert ("surprise" in outputs) == (name in WITH_SURPRISE)
    for camera in range(3):
        futures, surprise = forecast_alone(model.bundle, given, camera)
        np.testing.assert_allclose(outputs["futures"][camera], futures, atol=1e-4)
        assert (surprise is None) == ("surprise" not in outputs)
        if surprise is not None:
            assert outputs["surprise"][camera] == pytest.approx(surprise, rel=1e-4, abs=1e-4)
    differing = {0: "cameras", 2: "steps"} | ({} if name in DETERMINISTIC else {1: "samples"})
    for axis, what in differing.items():  # so that a mistake in the order of rows would be seen
        assert np.ptp(outputs["futures"], axis=axis).max() > 1e-3, what
    report = Bundle.open(model.bundle).manifest.variants["fp32"].parity
    assert report is not None
    unrounded = report.model_copy(update={"rounding": (0.0, 0.0)})
    found = forecast_reports(model.network, {"fp32": model.content}, HORIZON, {"fp32": unrounded})["fp32"]
    assert max(found.curves[FRAME].max_abs) < 1e-4
    assert found.rounding[0] == 0 < found.rounding[1] < 1e-4  # what it may be excused by is recorded


@pytest.mark.parametrize("name", sampled(NAMES, SAMPLE))
def test_each_camera_of_a_batch_is_as_a_forecaster_of_its_own(composed, name):
    check_each_camera(composed(name), name)


def test_each_camera_is_without_a_learned_prior_or_without_latents(unlearned_bundle):
    check_each_camera(Composed.of(unlearned_bundle), unlearned_bundle.stem)


@pytest.mark.parametrize("name", [LEARNED, "ensemble", "mim"])
def test_numbers_of_cameras_and_samples_are_free(composed, name):
    session = session_of(composed(name).content)
    given = inputs_for(session, cameras=5, samples=3)
    together = run(session, given)["futures"]
    for camera in (0, 4):
        alone = run(session, {key: value[camera : camera + 1] for key, value in given.items()})["futures"]
        np.testing.assert_allclose(together[camera : camera + 1], alone, atol=1e-5)
    if "eps" in given:
        first = run(session, {key: value if key == "frames" else value[:, :, :1] for key, value in given.items()})["futures"]
        np.testing.assert_allclose(together[:, :1], first, atol=1e-5)


@pytest.mark.parametrize("name", sampled([LEARNED, "srvp", "srvp with skips", "ensemble"], SAMPLE))
def test_a_context_of_unknown_shapes_is_read_once_per_sample(composed, name, monkeypatch):
    session = session_of(composed(name).content)
    monkeypatch.setattr(forecast_graph._Role, "_specs", lambda role, names: None)
    other, given = session_of(composed(name).content), inputs_for(session, cameras=2, samples=3)
    for key, expected in run(session, given).items():
        np.testing.assert_allclose(run(other, given)[key], expected, atol=1e-5)


@pytest.mark.parametrize("name", [LEARNED, "srvp with skips", "ensemble", "mim"])
def test_openvino_computes_the_same(composed, name):
    openvino = pytest.importorskip("openvino")
    content = composed(name).content
    session, core = session_of(content), openvino.Core()
    given = inputs_for(session, cameras=2, samples=3)
    compiled = core.compile_model(core.read_model(content), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    np.testing.assert_allclose(compiled(given)["futures"], run(session, given)["futures"], atol=1e-4)


@pytest.mark.parametrize("name", [LEARNED, "srvp with skips", "ensemble", "mim"])
def test_the_parser_of_tensorrt_accepts_it(composed, name):
    rtx = pytest.importorskip("tensorrt_rtx")
    log = rtx.Logger(rtx.Logger.ERROR)
    network = rtx.Builder(log).create_network()
    parser = rtx.OnnxParser(network, log)
    assert parser.parse(composed(name).content), parser.get_error(0).desc()
    assert network.get_input(0).shape[0] == -1


def test_the_manifest_has_its_interface_and_its_parity(server_bundle):
    manifest = Bundle.open(server_bundle).manifest
    for variant in manifest.variants.values():
        assert variant.forecast is not None
        assert variant.parity is not None
        assert variant.forecast.tensor("futures").shape == ("batch", "samples", HORIZON, 1, 64, 64)
        assert len(variant.parity.curves[FRAME].max_abs) == HORIZON
        assert len(variant.parity.curves[SURPRISE].max_abs) == 1
        assert "forecast" not in variant.graphs  # a Forecaster neither reads nor loads it
    assert {"fp32/forecast.onnx", "fp16/forecast.onnx"} <= graph_files(manifest).keys()


def test_weights_are_stored_once(server_bundle):
    bundle = server_bundle
    roles = [(bundle / f"fp32/{name}.onnx").stat().st_size for name in ("encoder", "skip", "prime", "step")]
    assert (bundle / "fp32/forecast.onnx").stat().st_size < sum(roles) + 100_000  # the nodes of all steps


def test_the_bundle_has_the_graph_that_its_graphs_compose(server_bundle, tiny_checkpoint):
    assert Bundle.open(server_bundle).forecast_graph("fp32") == Composed.of(server_bundle, tiny_checkpoint).content


# ---- What uses it ----

ROOT = Path(__file__).resolve().parents[2]


def test_the_example_of_the_page_needs_the_bundle_alone(server_bundle, tmp_path):
    (example,) = code_blocks((ROOT / "docs/server.md").read_text(encoding="utf-8"), "python")
    (tmp_path / "ckpt.svgb").symlink_to(server_bundle)
    alone = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-c", example + "assert not any(name.startswith('svg_') for name in __import__('sys').modules)"]
    done = subprocess.run(command, cwd=tmp_path, env=alone, capture_output=True, text=True, check=False)
    assert done.stdout == f"(4, 8, {HORIZON}, 1, 64, 64)\n", done.stderr


def test_the_benchmark_times_every_way(server_bundle, tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    module, out = importlib.import_module("server_graph"), tmp_path / "seconds.json"
    given = [str(server_bundle), "--cameras", "2", "--samples", "2", "--rounds", "1", "--backend", "cpu", "--json", str(out)]
    monkeypatch.setattr(sys, "argv", ["server_graph.py", *given])
    module.main()
    seconds = json.loads(out.read_text())["seconds"][server_bundle.name]["cpu"]
    assert {name: len(row) for name, row in seconds.items()} == {"graph": 1, "graph, lanes": 1, "lanes": 1, "shared": 1}
    assert "graph, lanes has" in capsys.readouterr().out


# ---- What is refused ----


def shape_of(spec: dict[str, Any], name: str) -> list[int | str]:
    return next(tensor["shape"] for tensor in (*spec["inputs"], *spec["outputs"]) if tensor["name"] == name)


CONTRADICTIONS = {
    "another horizon": (lambda spec: shape_of(spec, "eps").__setitem__(1, 9), "forecast.inputs"),
    "other frames": (lambda spec: shape_of(spec, "frames").__setitem__(3, 32), "forecast.inputs"),
    "fewer observed frames": (lambda spec: shape_of(spec, "frames").__setitem__(1, 2), "forecast.inputs"),
    "a fixed batch": (lambda spec: shape_of(spec, "futures").__setitem__(0, 4), "forecast.outputs"),
    "no surprise": (lambda spec: spec["outputs"].pop(), "forecast.outputs"),
    "no noise": (lambda spec: spec["inputs"].pop(), "forecast.inputs"),
    "a state": (
        lambda spec: spec["states"].append({"input": "eps", "output": "futures", "initial": "zeros"}), "forecast.states",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("change", "place"), CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_a_manifest_that_contradicts_itself_is_refused(server_bundle, tmp_path, change, place):
    bundle = edit_manifest(
        copy_bundle(server_bundle, tmp_path), lambda manifest: change(manifest["variants"]["fp32"]["forecast"])
    )
    with pytest.raises(BundleError, match=f"variants.fp32.{place}"):
        Bundle.open(bundle)


def test_a_symbol_of_samples_elsewhere_is_refused(server_bundle, tmp_path):
    def change(manifest: dict[str, Any]) -> None:
        shape_of(manifest["variants"]["fp32"]["graphs"]["encoder"], "h")[0] = "samples"

    with pytest.raises(BundleError, match="expected one dynamic axis, batch"):
        Bundle.open(edit_manifest(copy_bundle(server_bundle, tmp_path), change))


def test_a_changed_file_is_refused_where_it_is_read(server_bundle, tmp_path):
    bundle = copy_bundle(server_bundle, tmp_path)
    file = bundle / "fp16/forecast.onnx"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    opened = Bundle.open(bundle)
    assert opened.graphs("fp16")  # forecasters have nothing to do with it
    for read in (lambda: opened.forecast_graph("fp16"), opened.check):
        with pytest.raises(BundleError, match="changed since export"):
            read()


def test_a_bundle_without_it_has_no_key_and_names_the_option(fused_bundle):
    variants = json.loads((fused_bundle / "manifest.json").read_text())["variants"]
    assert all("forecast" not in variant for variant in variants.values())
    with pytest.raises(BackendMissingError, match=r"svg-export ckpt\.pt --server"):
        Bundle.open(fused_bundle).forecast_graph("fp32")


def run_cli(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--server-horizon", "3"], "no effect without --server"), (["--server", "--no-fused"], "remove --no-fused")],
)
def test_options_that_do_not_fit_are_refused(tiny_checkpoint, tmp_path, options, message):
    result = run_cli(str(tiny_checkpoint), "--out", str(tmp_path / "out.svgb"), *options)
    assert result.exception.exit_code == ExitCode.USAGE
    assert message in str(result.exception)


def test_the_horizon_is_that_of_training_unless_given(tiny_checkpoint, tmp_path):
    for options, horizon in (([], 10), (["--server-horizon", "3"], 3)):
        out = tmp_path / f"{horizon}.svgb"
        result = run_cli(str(tiny_checkpoint), "--out", str(out), "--server", *options)
        assert result.exception is None, result.exception
        spec = Bundle.open(out).manifest.variants["fp32"].forecast
        assert spec is not None
        assert spec.tensor("futures").shape[2] == horizon


@pytest.mark.parametrize("option", ["--server", "--triton"])
def test_a_training_of_more_frames_than_the_graph_can_have_is_no_horizon(tiny_model, tmp_path, option):
    checkpoint = save_model(tmp_path / "long.pt", tiny_model, train={"n_future": 257})
    given = [option] if option == "--server" else [option, str(tmp_path / "models")]
    result = run_cli(str(checkpoint), "--out", str(tmp_path / "out.svgb"), *given)
    assert result.exception.exit_code == ExitCode.USAGE
    assert "the 257 frames of training\n  expected at most 256: add --server-horizon" in str(result.exception)
    assert not (tmp_path / "out.svgb").exists()


def test_a_graph_that_computes_something_else_is_not_published(tiny_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(forecast_graph._Composer, "_lag", 0)  # the model's is 1
    result = run_cli(str(tiny_checkpoint), "--out", str(tmp_path / "out.svgb"), "--server")
    assert result.exception.exit_code == ExitCode.PARITY_FAILED
    assert FRAME in str(result.exception)
    assert not (tmp_path / "out.svgb").exists()
