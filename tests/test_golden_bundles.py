"""Checkpoints of other programs, exported to bundles, forecast what those programs computed: every golden file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from svg_common.errors import ExitCode
from svg_export.bundle_writer import write_bundle
from svg_runtime import Forecaster
from svg_runtime.bundle.reader import Bundle
from svg_runtime.errors import UsageError
from svg_runtime.forecast.noise import NoiseSource, gaussian_kl
from svg_train.reference.checkpoint import load_any_checkpoint
from tests.command_runner import start
from tests.conftest import SHARED_DATA, made_once, without_tracer

TOLERANCE = 1e-4  # in float64 the originals differ from their own frames by 7e-6
FOLDER = SHARED_DATA / "golden"


def checkpoints(*patterns: str) -> list[Path]:
    return sorted(path for pattern in patterns for path in FOLDER.glob(pattern))


QUICK = {"openstl_convlstm_10", "openstl_predrnn_10", "svgprime_tiny"}  # the others are slow
FRAMES = checkpoints("openstl_*.pth", "openstl_*.ckpt")
SRVP = checkpoints("srvp_*/model.pt")
SVG = checkpoints("svgprime_*.pth")  # the 2018 reference: tests/svg_train/reference/test_reference_checkpoint.py


def name(path: Path) -> str:
    return path.parent.name if path.name == "model.pt" else path.stem


@dataclass
class Golden:
    """A checkpoint, its bundle, and the arrays that the original computed: frames (n, H, W, C), the others as stored."""

    checkpoint: Path
    model_config: Path | None
    bundle: Path
    arrays: dict[str, np.ndarray]

    @property
    def samples(self) -> int:
        return 1 if "one_step" in self.arrays else self.arrays["noise"].shape[1]

    @cached_property
    def frames(self) -> np.ndarray:
        frames = self.arrays["frames"]
        return np.moveaxis(frames.reshape(len(frames), *frames.shape[-3:]), 1, -1)

    @cached_property
    def expected(self) -> np.ndarray:
        """(samples, horizon, H, W, C) as it is shown."""
        frames = self.arrays["expected"]
        if "one_step" in self.arrays:  # time first
            frames = frames.swapaxes(0, 1)
        return np.clip(np.moveaxis(frames, 2, -1), 0, 1)

    @property
    def noise(self) -> dict[str, np.ndarray]:
        """The draws, each a flat vector per sample."""
        if "one_step" in self.arrays:
            return {}
        noise, past = (self.arrays[key].reshape(*self.arrays[key].shape[:2], -1) for key in ("noise", "context_noise"))
        if "y_noise" in self.arrays:  # the first draw is for the state of the first frame
            past = np.stack([_padded(draw, noise.shape[-1]) for draw in (self.arrays["y_noise"], *past)])
        return {"noise": noise, "context_noise": past}

    def open(self, **opened) -> Forecaster:
        return Forecaster.open(self.bundle, samples=self.samples, horizon=self.expected.shape[1], precision="fp32", **opened)

    def session(self, graph_name: str) -> onnxruntime.InferenceSession:
        """One graph on ONNX Runtime, as anyone can run it."""
        return onnxruntime.InferenceSession(self.bundle / "fp32" / f"{graph_name}.onnx", providers=["CPUExecutionProvider"])

    def check(self, futures: np.ndarray) -> None:
        np.testing.assert_allclose(futures, self.expected, atol=TOLERANCE, rtol=0)


def _padded(draw: np.ndarray, size: int) -> np.ndarray:
    return np.pad(draw, ((0, 0), (0, size - draw.shape[-1])))


def settings_file(checkpoint: Path, folder: Path) -> Path | None:
    """The settings that training wrote, and the shape of the frames where it did not write it."""
    settings, frames = checkpoint.with_suffix(".json"), np.load(checkpoint.with_suffix(".npz"))["frames"]
    if checkpoint.suffix != ".pth":
        return None
    n, _, *frame = frames.shape
    file = folder / f"{checkpoint.stem}.json"
    file.write_text(json.dumps({"in_shape": [n, *frame], **json.loads(settings.read_text())}))
    return file


@pytest.fixture(scope="module")
def golden(request, shared_data, tmp_path_factory) -> Golden:
    checkpoint: Path = request.param
    model_config = settings_file(checkpoint, tmp_path_factory.mktemp("settings")) if checkpoint in FRAMES else None

    def make(path: Path) -> Path:
        with without_tracer():
            write_bundle(load_any_checkpoint(checkpoint, model_config), "0" * 64, path, fp16=False)
        return path

    bundle = made_once(tmp_path_factory, f"golden-{name(checkpoint)}.svgb", make)
    with np.load(FOLDER / f"{name(checkpoint)}.npz") as stored:
        arrays = {key: stored[key] for key in stored}
    return Golden(checkpoint, model_config, bundle, arrays)


def every(paths: list[Path]):
    """A test of each golden file; skipped where there are none."""
    files = [pytest.param(path, id=name(path), marks=() if name(path) in QUICK else pytest.mark.slow) for path in paths]
    return pytest.mark.parametrize("golden", files or [FOLDER], indirect=True)


@pytest.fixture(autouse=True)
def golden_files() -> None:
    if not FRAMES or not SRVP or not SVG:
        pytest.skip(f"no golden files in {FOLDER}")


@every(FRAMES + SRVP + SVG)
def test_the_bundle_forecasts_what_the_original_did(golden):
    with golden.open(backend="cpu", context="window") as forecaster:
        for frame in golden.frames:
            forecaster.observe(frame)
        golden.check(forecaster.forecast(**golden.noise))


@every(FRAMES + SRVP + SVG)
def test_openvino_forecasts_it_too(golden):
    pytest.importorskip("openvino", reason="openvino is not installed: pip install 'svg-edge[openvino]'")
    with golden.open(backend="openvino", context="window") as forecaster:
        for frame in golden.frames:
            forecaster.observe(frame)
        golden.check(forecaster.forecast(**golden.noise))


# Models from frames to frames: the state lives on from the first frame, or is read again.


@every(FRAMES)
def test_the_stream_forecasts_it_and_no_state_leaks_into_the_next_one(golden):
    with golden.open(backend="cpu") as forecaster:
        assert forecaster.context == "stream"
        for _ in range(2):
            for frame in golden.frames:
                forecaster.observe(frame)
            golden.check(forecaster.forecast())
            golden.check(forecaster.forecast())  # a forecast leaves the state as it was
            forecaster.reset()


@every(FRAMES)
def test_the_window_forgets_what_came_before_it(golden):
    with golden.open(backend="cpu", context="window") as forecaster:
        for frame in (*golden.frames[::-1], *golden.frames):
            forecaster.observe(frame)
        golden.check(forecaster.forecast())


@every(FRAMES)
def test_its_step_alone_gives_the_frames_as_they_were_before_clipping(golden):
    session, spec = golden.session("step"), Bundle.open(golden.bundle).manifest.variants["fp32"].graphs["step"]
    names = [tensor.name for tensor in spec.outputs]
    states = {state.input: np.zeros(spec.tensor(state.input).sized(1), np.float32) for state in spec.states}
    observed = golden.arrays["frames"]
    predicted = []
    for index in range(len(observed) + len(golden.arrays["expected"]) - 1):
        if index < len(observed):
            states["h"] = observed[index]
        outputs = dict(zip(names, session.run(names, states), strict=True))
        np.testing.assert_array_equal(outputs["frame"], outputs["h_out"].clip(0, 1))
        predicted.append(outputs["h_out"])
        states = {state.input: outputs[state.output] for state in spec.states}
    truth = np.concatenate([golden.arrays["one_step"], golden.arrays["expected"]])
    np.testing.assert_allclose(np.stack(predicted), truth, atol=TOLERANCE, rtol=0)


@every(FRAMES)
def test_surprise_is_the_error_of_its_prediction_relative_to_the_earlier_ones(golden):
    observed, one_step = golden.arrays["frames"], golden.arrays["one_step"]
    errors = ((one_step.clip(0, 1) - observed[1:]) ** 2).mean((1, 2, 3, 4))
    with golden.open(backend="cpu") as forecaster:
        given = [forecaster.observe(frame).surprise for frame in golden.frames]
    assert given[:2] == [None, None]
    np.testing.assert_allclose(given[2:], [np.sqrt(errors[i] / errors[:i].mean()) for i in range(1, len(errors))], rtol=1e-3)


# SVG with spatial latents.


@every(SVG)
@pytest.mark.parametrize("fused", [True, False])
def test_fused_and_separate_graphs_forecast_and_are_surprised_as_the_original(golden, fused):
    with golden.open(backend="cpu", fused=fused) as forecaster:
        surprise = [forecaster.observe(frame).surprise for frame in golden.frames]
        golden.check(forecaster.forecast(**golden.noise))
    np.testing.assert_allclose(surprise[1:], golden.arrays["surprise"].mean(1), rtol=1e-3)  # the same for all samples


@every(SVG)
def test_the_stream_forecasts_as_pytorch_with_the_same_draws(golden):
    noise, past = golden.noise["noise"], golden.noise["context_noise"]
    drawn = NoiseSource(5).draw(*past.shape)
    model = load_any_checkpoint(golden.checkpoint).build()
    x = torch.from_numpy(golden.arrays["frames"])[:, None].repeat(1, golden.samples, 1, 1, 1)
    expected = model.generate(x, torch.from_numpy(noise), torch.from_numpy(drawn)).permute(1, 0, 3, 4, 2)
    with golden.open(backend="cpu", context="stream", seed=5) as forecaster:
        for frame in golden.frames:
            forecaster.observe(frame)
        np.testing.assert_allclose(forecaster.forecast(noise=noise), expected, atol=TOLERANCE, rtol=0)


# SRVP: a window is read at once, and no frame of a forecast is encoded again.


@every(SRVP)
def test_its_graphs_alone_give_every_state_and_the_surprise(golden):
    arrays, noise = golden.arrays, golden.noise
    encoder, prime, step = (golden.session(graph_name) for graph_name in ("encoder", "prime", "step"))
    h_seq = np.stack([encoder.run(["h"], {"frame": frame[None]})[0] for frame in arrays["frames"]])
    names = [output.name for output in prime.get_outputs()]
    primed = dict(zip(names, prime.run(names, {"h_seq": h_seq, "eps": noise["context_noise"]}), strict=True))
    y, mus, logvars = [primed["y"]], [primed["prior_mu"]], [primed["prior_logvar"]]
    for eps in noise["noise"]:
        following, mu, logvar = step.run(["y_out", "mu", "logvar"], {"y": y[-1], "eps": eps})
        for values, value in ((y, following), (mus, mu), (logvars, logvar)):
            values.append(value)
    first = len(arrays["frames"]) - 1  # the last observed frame, and the latent that leads to it
    given = {
        "w": np.broadcast_to(primed["w"], arrays["w"].shape),
        "y": np.stack(y),
        "prior_mu": np.stack(mus),
        "prior_sigma": np.exp(np.stack(logvars) / 2),
        "posterior_mu": np.broadcast_to(primed["posterior_mu"], mus[0].shape)[None],
        "posterior_sigma": np.broadcast_to(np.exp(primed["posterior_logvar"] / 2), mus[0].shape)[None],
    }
    starts = {"y": first, "w": 0}
    for key, value in given.items():
        np.testing.assert_allclose(value, arrays[key][starts.get(key, first - 1) :], atol=TOLERANCE, rtol=0, err_msg=key)
    posterior = primed["posterior_mu"][0], primed["posterior_logvar"][0]
    surprise = [gaussian_kl(*posterior, *prior) for prior in zip(mus[0], logvars[0], strict=True)]
    np.testing.assert_allclose(surprise, arrays["surprise"][-1], rtol=1e-3)


@every(SRVP)
def test_surprise_is_that_of_pytorch_without_noise(golden):
    model = load_any_checkpoint(golden.checkpoint).build()
    with torch.no_grad():
        h = model._read(torch.from_numpy(golden.arrays["frames"])[:, None])[0]
        primed = model.prime(h, torch.zeros(len(h), 1, model.config.noise_dim))
    gaussians = [values.numpy() for each in (primed.posterior, primed.prior) for values in (each.mu, each.logvar)]
    with golden.open(backend="cpu") as forecaster:
        given = [forecaster.observe(frame).surprise for frame in golden.frames]
    assert given[:-1] == [None] * (len(h) - 1)  # the window is not full
    assert given[-1] == pytest.approx(gaussian_kl(*gaussians), rel=1e-3)


@every(SRVP)
def test_a_window_at_once_has_no_stream_and_nothing_to_reconstruct_from(golden):
    with pytest.raises(UsageError, match="context='window'"):
        golden.open(backend="cpu", context="stream")
    with golden.open(backend="cpu") as forecaster:
        for frame in golden.frames:
            forecaster.observe(frame)
        with pytest.raises(UsageError, match="svg-eval"):
            forecaster.reconstruct(golden.frames[:1])


# The command, with a checkpoint as its authors publish it.

ZOO = FOLDER / "openstl_convlstm_zoo_03.pth"


def test_the_command_asks_for_what_published_settings_lack_and_exports_with_it(tmp_path):
    settings = json.loads(ZOO.with_suffix(".json").read_text())
    (tmp_path / "model_param.json").write_text(json.dumps(settings))
    command = ["svg-export", str(ZOO), "--model-config", "model_param.json", "--out", "zoo.svgb"]
    # 1) as published: refused, with the key to add
    refused = start(command, tmp_path)
    refused.assert_one_message(ExitCode.ERROR)
    assert 'Add "in_shape": [observed frames, channels, height, width]' in refused.output
    assert not (tmp_path / "zoo.svgb").exists()
    # 2) with it: a bundle, which forecasts what the original did
    (tmp_path / "model_param.json").write_text(json.dumps({**settings, "in_shape": [10, 1, 64, 64]}))
    exported = start(command, tmp_path)
    exported.assert_one_message(ExitCode.OK)
    assert "wrote zoo.svgb" in exported.output
    assert "constant folding" not in exported.output
    with np.load(ZOO.with_suffix(".npz")) as arrays:
        golden = Golden(ZOO, None, tmp_path / "zoo.svgb", dict(arrays))
    with golden.open(backend="cpu") as forecaster:
        for frame in golden.frames:
            forecaster.observe(frame)
        golden.check(forecaster.forecast())
