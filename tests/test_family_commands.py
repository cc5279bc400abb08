"""The commands on bundles of other families: with fused graphs alone, one future, or frames that are not square."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

from svg_common.progress import NullListener
from svg_eval.cli import app as svg_eval
from svg_runtime import Forecaster
from svg_runtime.backends.onnxruntime.session import BoundSession
from svg_runtime.bench.cases import list_cases
from svg_runtime.bench.cli import app as svg_bench
from svg_runtime.bench.operations import count_operations, forecast_bytes, forecast_operations, graph_runs
from svg_runtime.bundle.reader import Bundle
from svg_runtime.calibration.race import Task
from svg_runtime.calibration.ways import Request, Way, list_ways, reference_way
from svg_runtime.errors import BackendMissingError
from svg_runtime.live.cli import app as svg_live
from svg_train.checkpoint import load_checkpoint
from tests.conftest import made_once
from tests.families import export_tiny
from tests.svg_runtime.choice_helpers import know_only_the_cpu_backend

SAMPLES, HORIZON = 3, 4
WIDE = {"image_size": 16, "image_width": 24, "channels": 3}  # of the deterministic model


@pytest.fixture(scope="module")
def stochastic(family_bundle) -> Path:
    """Bundle of a SRVP with skips; its checkpoint is beside it. Read only."""
    return family_bundle("srvp-skips")


@pytest.fixture(scope="module")
def wide(tmp_path_factory) -> Path:
    """Bundle of a PredRNN with colour frames that are not square; its checkpoint is beside it. Read only."""
    return made_once(tmp_path_factory, "wide.svgb", lambda path: export_tiny("predrnn", path, **WIDE))


@pytest.fixture(scope="module")
def ensemble(family_bundle) -> Path:
    """Bundle of an ensemble in gray, which has neither encoder nor posterior; its checkpoint is beside it. Read only."""
    return family_bundle("ensemble")


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    """Two seconds of a red square that moves over a blue gradient, 48 x 32."""
    path = tmp_path_factory.mktemp("clip") / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (48, 32))
    for step in range(60):
        frame = np.zeros((32, 48, 3), np.uint8)
        frame[..., 0] = np.linspace(0, 120, 48)
        frame[8:20, step % 36 : step % 36 + 12] = (30, 60, 230)
        writer.write(frame)
    writer.release()
    return path


@pytest.fixture(params=["stochastic", "wide", "ensemble"])
def bundle(request) -> Path:
    return request.getfixturevalue(request.param)


def run(app, *arguments) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output + repr(result.exception)
    return result.output


# svg-bench


def test_bundles_with_fused_graphs_alone_have_no_separate_cases(bundle):
    manifest = Bundle.open(bundle).manifest
    missing = Way("cpu", None, "fp16", fused=True)
    assert list_cases(manifest, "cpu", None) == [Way("cpu", None, "fp32", fused=True), missing]


def test_the_counted_graph_runs_are_those_of_a_forecast(bundle, monkeypatch):
    runs: Counter[str] = Counter()
    plain = BoundSession.run
    monkeypatch.setattr(BoundSession, "run", lambda self: runs.update([self.graph_name]) or plain(self))
    with Forecaster.open(bundle, backend="cpu", samples=SAMPLES, horizon=HORIZON) as forecaster:
        frame = forecaster.manifest.frame
        for _ in range(3):
            forecaster.observe(np.zeros((frame.height, frame.width, frame.channels), np.float32))
        runs.clear()
        forecaster.forecast()
        assert runs == graph_runs(forecaster.manifest, HORIZON, fused=True)


def test_operations_are_those_that_pytorch_counts(stochastic, wide, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # 1) one future; each step reads the frame before it
    model, manifest = load_checkpoint(wide.with_suffix(".pt")).build(), Bundle.open(wide).manifest
    with torch.no_grad(), FlopCounterMode(display=False) as step:
        model.step(torch.zeros(1, 3, 16, 24), model.initial_states(1))
    counts = count_operations(NullListener(), "it", str(wide), "fp32")
    assert forecast_operations(counts, manifest, SAMPLES, HORIZON) == HORIZON * step.get_total_flops()
    # 2) a context for each sample, steps of the state, and all frames decoded at once
    srvp, manifest = load_checkpoint(stochastic.with_suffix(".pt")).build(), Bundle.open(stochastic).manifest
    c = srvp.config
    counts = count_operations(NullListener(), "it", str(stochastic), "fp32")
    assert set(counts) == {"encoder", "skip", "prime", "step", "decode"}
    with torch.no_grad(), FlopCounterMode(display=False) as prime:
        primed = srvp.prime(torch.zeros(3, 1, c.nhx), torch.zeros(3, 1, c.noise_dim))
    with torch.no_grad(), FlopCounterMode(display=False) as step:
        srvp.step(primed.y, torch.zeros(1, c.noise_dim))
    with torch.no_grad():
        conds = srvp.decoder.condition(srvp.encoder(torch.zeros(1, 1, 64, 64))[1])
    with torch.no_grad(), FlopCounterMode(display=False) as decode:
        srvp.decoder(primed.y, primed.w, conds)
    expected = prime.get_total_flops() + HORIZON * (step.get_total_flops() + decode.get_total_flops())
    assert forecast_operations(counts, manifest, SAMPLES, HORIZON) == SAMPLES * expected


def test_the_decoder_is_read_once_for_the_frames_of_all_steps(stochastic):
    manifest = Bundle.open(stochastic).manifest
    graphs = manifest.variants["fp32"].graphs
    one, two = (forecast_bytes(manifest, "fp32", True, SAMPLES, horizon) for horizon in (1, 2))
    state, noise = 4, 4  # ny; y and z have 4 and 3
    step = graphs["step"].bytes + 4 * SAMPLES * (state + noise + 2 * state + 2 * 3)
    assert two - one == step + 4 * SAMPLES * (state + 64 * 64)


def test_errors_are_relative_to_the_graphs_that_there_are(stochastic, tmp_path):
    table = run(svg_bench, "--model", stochastic, "--backend", "cpu", "--samples", SAMPLES, "--horizon", HORIZON,
                "--seconds", "0.1", "--json", tmp_path / "out.json")  # fmt: skip
    assert "against the fused fp32 graphs on the cpu backend" in table
    row, missing = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert (row["graphs"], row["failed"], row["error"]["last"]["max_abs"]) == ("fused", None, 0.0)
    assert set(row["share"]) == {"memory", "compute"}
    assert "has no fp16 variant" in missing["failed"]


# The choice of auto


@pytest.fixture
def only_cpu(monkeypatch, tmp_path):
    know_only_the_cpu_backend(monkeypatch, tmp_path / "cache")


def test_ways_are_compared_on_the_graphs_that_there_are(bundle, fused_bundle, only_cpu):
    manifest = Bundle.open(bundle).manifest
    fused = Way("cpu", None, "fp32", fused=True)
    assert list_ways(manifest, Request()) == [fused]
    assert reference_way(manifest) == fused
    assert list_ways(manifest, Request(fused=False)) == list_ways(manifest, Request(shuffled=True)) == []
    assert reference_way(Bundle.open(fused_bundle).manifest) == Way("cpu", None, "fp32", fused=False)
    task = Task.make(manifest, SAMPLES, HORIZON)
    assert task.reference == fused
    assert task.context_noise.shape == (manifest.context_draws, SAMPLES, manifest.model.z_dim)


def test_auto_measures_and_keeps_its_decision(bundle, only_cpu, tmp_path):
    sizes = ("--samples", SAMPLES, "--horizon", HORIZON)
    table = run(svg_bench, "--model", bundle, *sizes, "--calibrate", "ready", "--json", tmp_path / "decision.json")
    assert "separate" not in table
    assert "auto takes cpu fp32 fused" in table
    run(svg_bench, "--model", bundle, *sizes, "--decision", tmp_path / "decision.json")
    with Forecaster.open(bundle, samples=SAMPLES, horizon=HORIZON) as forecaster:
        kept = json.loads((tmp_path / "decision.json").read_text())["decision"]
        assert forecaster.decision.as_json() == kept
        assert forecaster.context == forecaster.manifest.generation.context


def test_graphs_that_the_family_does_not_have_are_refused(bundle):
    with pytest.raises(BackendMissingError, match="fused graphs only"):
        Forecaster.open(bundle, backend="cpu", fused=False)
    with pytest.raises(BackendMissingError, match="no decoder_shuffled"):
        Forecaster.open(bundle, backend="cpu", shuffled=True)
    Forecaster.open(bundle, backend="cpu", shuffled=False).close()


# svg-live


def test_a_camera_is_watched_with_surprise_in_nats(stochastic, tmp_path):
    run(svg_live, "--model", stochastic, "--headless", "--backend", "cpu", "--source", "synthetic://digits",
        "--max-frames", "8", "--samples", SAMPLES, "--horizon", HORIZON, "--json", tmp_path / "out.json")  # fmt: skip
    summary = json.loads((tmp_path / "out.json").read_text())
    assert (summary["samples"], summary["context"], summary["frames"]["forecast"]) == (SAMPLES, "window", 6)
    assert summary["surprise_nats"]["count"] == 6  # from the third frame on, with a whole window
    assert "surprise_relative" not in summary


@pytest.mark.parametrize("context", ["window", "stream"])
def test_a_colour_clip_is_watched_with_the_error_of_the_prediction(wide, clip, tmp_path, context):
    run(svg_live, "--model", wide, "--headless", "--backend", "cpu", "--source", clip, "--max-frames", "8",
        "--samples", SAMPLES, "--horizon", HORIZON, "--context", context, "--json", tmp_path / "out.json",
        "--output", tmp_path / "out.mp4")  # fmt: skip
    summary = json.loads((tmp_path / "out.json").read_text())
    assert (summary["samples"], summary["context"]) == (1, context)  # a deterministic model has one future
    assert summary["surprise_relative"]["count"] == 6
    assert "surprise_nats" not in summary
    assert (tmp_path / "out.mp4").stat().st_size > 0


def test_a_clip_is_watched_with_the_error_of_the_mean_of_samples(ensemble, clip, tmp_path):
    run(svg_live, "--model", ensemble, "--headless", "--backend", "cpu", "--source", clip, "--max-frames", "8",
        "--samples", SAMPLES, "--horizon", HORIZON, "--json", tmp_path / "out.json",
        "--output", tmp_path / "out.mp4")  # fmt: skip
    summary = json.loads((tmp_path / "out.json").read_text())
    assert (summary["samples"], summary["context"]) == (SAMPLES, "window")
    assert summary["surprise_relative"]["count"] == 4  # of the frames after the first prediction, that of the fourth
    assert (tmp_path / "out.mp4").stat().st_size > 0


@pytest.mark.parametrize("name", ["stochastic", "ensemble"])
def test_a_window_cannot_be_streamed(name, request):
    bundle = str(request.getfixturevalue(name))
    result = CliRunner().invoke(svg_live, ["--model", bundle, "--headless", "--max-frames", "4", "--context", "stream"])
    assert "have no stream context" in str(result.exception)


# svg-eval

EVALUATED = ("--sequences", "2", "--samples", "2", "--horizon", "2")


def test_a_bundle_without_posterior_is_evaluated_without_it(stochastic, tmp_path):
    table = run(svg_eval, stochastic, "--backend", "cpu", *EVALUATED, "--strips", tmp_path / "bundle")
    assert "approximate posterior: not available" in table
    table = run(svg_eval, stochastic.with_suffix(".pt"), *EVALUATED, "--strips", tmp_path / "checkpoint")
    assert "approximate posterior" not in table
    heights = [cv2.imread(str(tmp_path / name / "sequence-000.png")).shape[0] for name in ("bundle", "checkpoint")]
    assert heights[0] < heights[1]  # one row fewer


def test_a_family_without_posterior_has_none_in_its_checkpoint_either(ensemble, clip, tmp_path):
    heights, data = [], ("--data", "video", "--data-root", clip)
    for model in (ensemble, ensemble.with_suffix(".pt")):
        outputs = ("--strips", tmp_path / model.name, "--page", tmp_path / "page.html")
        table = run(svg_eval, model, *data, *EVALUATED, *outputs)
        assert "approximate posterior: not available" in table
        assert (tmp_path / "page.html").stat().st_size > 0
        heights.append(cv2.imread(str(tmp_path / model.name / "sequence-000.png")).shape[0])
    assert heights[0] == heights[1]


def test_frames_that_are_not_square_are_evaluated(wide, clip):
    where = ("--data", "video", "--data-root", clip)
    table = run(svg_eval, wide, "--backend", "cpu", *where, *EVALUATED, "--baseline", wide.with_suffix(".pt"))
    rows = [line.split() for line in table.splitlines() if line.startswith(("wide.svgb  ", "wide.pt  "))]
    assert rows[0][1:] == rows[1][1:]
    result = CliRunner().invoke(svg_eval, [str(wide), *EVALUATED, "--data", "bair", "--data-root", str(clip.parent)])
    assert "has square frames" in str(result.exception)
