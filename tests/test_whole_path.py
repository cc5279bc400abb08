"""Train, export and forecast live through the three commands, and the models that ship in the package."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from svg_common.files import file_sha256
from svg_common.progress import NullListener
from svg_eval.evaluation_report import as_json
from svg_eval.evaluation_run import Request
from svg_eval.evaluation_run import run as run_evaluation
from svg_eval.measure import Settings
from svg_runtime import Forecaster
from svg_runtime.bundle.reader import EMBEDDED_MODEL, Bundle, find_model
from svg_train.shipped_models import find_checkpoint
from tests.command_runner import start

RECIPE = """
[model]
nf = 4
g_dim = 16
z_dim = 4
rnn_size = 24
n_past = 3
[train]
steps = 4
batch_size = 2
n_future = 2
eval_every = 4
eval_sequences = 2
eval_samples = 2
eval_horizon = 3
"""


def run(module: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    code = f"from {module} import main; main()"
    return subprocess.run([sys.executable, "-c", code, *arguments], cwd=cwd, capture_output=True, text=True, timeout=240)


def test_train_export_and_forecast_live(tmp_path):
    (tmp_path / "recipe.toml").write_text(RECIPE)
    trained = start(["svg-train", "--config", "recipe.toml", "--json", "quality.json"], tmp_path)
    assert trained.wait() == 0, trained.output
    said = r"^best model: run/ckpt.pt \(step \d+\)\nexport it with: svg-export run/ckpt.pt$"
    assert re.search(said, trained.output, re.MULTILINE)
    assert set(json.loads((tmp_path / "quality.json").read_text())) >= {"psnr_best", "psnr_repeat", "gain"}
    exported = start(["svg-export", "run/ckpt.pt", "--no-fused"], tmp_path)
    assert exported.wait() == 0, exported.output
    graphs = {file.stem for file in (tmp_path / "ckpt.svgb" / "fp32").iterdir()}
    assert graphs == {"encoder", "skip", "posterior", "prior", "predictor", "decoder", "decoder_shuffled"}
    # No --model: the newest bundle of the folder is taken, not the embedded one.
    arguments = (
        "--headless",
        "--output",
        "out.mp4",
        "--max-frames",
        "8",
        "--samples",
        "2",
        "--horizon",
        "3",
        "--json",
        "s.json",
    )
    live = run("svg_runtime.live.cli", *arguments, cwd=tmp_path)
    assert live.returncode == 0, live.stderr
    stats = json.loads((tmp_path / "s.json").read_text())
    assert stats["model"].startswith("ckpt.svgb")
    with av.open(str(tmp_path / "out.mp4")) as video:
        assert video.streams.video[0].codec_context.name == "h264"
        assert sum(1 for _ in video.decode(video=0)) == 8


def test_unwritable_place_of_a_bundle_is_reported_before_the_work(tiny_checkpoint, tmp_path):
    (tmp_path / "file").write_text("")
    result = run("svg_export.cli", str(tiny_checkpoint), "--out", str(tmp_path / "file" / "x.svgb"), cwd=tmp_path)
    assert (result.returncode, "Traceback" in result.stderr) == (1, False), result.stderr
    assert "exporting" not in result.stderr


@pytest.fixture(scope="module")
def embedded() -> Path:
    assert EMBEDDED_MODEL.is_dir(), "the package must ship its model"
    return EMBEDDED_MODEL


def test_embedded_model_is_small_and_says_where_it_comes_from(embedded):
    assert sum(file.stat().st_size for file in embedded.rglob("*") if file.is_file()) <= 6_000_000
    with Forecaster.open(embedded) as forecaster:
        manifest = forecaster.manifest
    assert manifest.provenance.data == "digits"
    assert manifest.provenance.metrics["gain"] > 4


def test_the_camera_model_is_small_and_says_where_it_comes_from():
    camera = find_model("camera")
    assert sum(file.stat().st_size for file in camera.rglob("*") if file.is_file()) <= 6_000_000
    with Forecaster.open(camera) as forecaster:
        manifest = forecaster.manifest
    assert manifest.provenance.data == "video"
    assert (manifest.frame.height, manifest.frame.width, manifest.frame.channels) == (64, 64, 3)
    assert manifest.generation.frame_interval_s == pytest.approx(0.1)
    assert manifest.training_data is not None


def test_the_checkpoint_of_the_camera_model_ships_too():
    manifest = Bundle.open(find_model("camera")).manifest
    assert file_sha256(find_checkpoint("camera")) == manifest.provenance.checkpoint_sha256


def test_the_camera_model_moves_what_moves_and_keeps_what_stands_still():
    """A textured square crosses a still scene at two pixels a frame. Neither was ever trained on."""
    rng = np.random.default_rng(0)
    scene = cv2.resize(rng.random((12, 12, 3)), (64, 64), interpolation=cv2.INTER_CUBIC).clip(0, 1)
    square = cv2.resize(rng.random((5, 5, 3)), (14, 14), interpolation=cv2.INTER_CUBIC).clip(0, 1)
    frames = []
    for number in range(11):
        frame = scene.copy()
        frame[25:39, 8 + 2 * number : 22 + 2 * number] = square
        frames.append(frame.astype(np.float32))
    with Forecaster.open(find_model("camera"), backend="cpu", samples=8, horizon=6, seed=0) as forecaster:
        for frame in frames[:5]:
            forecaster.observe(frame)
        futures = forecaster.forecast()
    truth, last = np.stack(frames[5:]), frames[4]
    errors, repeated = ((futures.mean(0) - truth) ** 2).mean(axis=(1, 2, 3)), ((last - truth) ** 2).mean(axis=(1, 2, 3))
    assert (errors < 0.9 * repeated).all()
    still = np.s_[:, :, :16]
    assert ((futures - truth)[still] ** 2).mean() < 4e-4  # 34 dB, of each sample
    assert futures.std(0)[:, 25:39].mean() > 3 * futures.std(0)[:, :16].mean()


def test_embedded_model_forecasts_held_out_digits(embedded):
    """5 observed, 10 forecast, best of 10, on scenes that training never draws; the figure of record uses 1,024 of them."""
    settings = Settings(sequences=48, samples=10, horizon=10, seed=0)
    request = Request("embedded", None, None, None, (), None, {"name": "digits"}, settings)
    quality = as_json(run_evaluation(request, NullListener()))
    assert quality["gain"] > 4.0
    assert quality["psnr_best"] > quality["psnr_sample"] + 1.5  # samples part: the best is far better than the average one
    assert quality["spread_per_step"][-1] > 3 * quality["spread_per_step"][0]  # and they part with time
