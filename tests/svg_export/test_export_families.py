"""`svg-export` with every family: what its options do, and which are refused because they would have no effect."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from typer.testing import CliRunner, Result

from svg_common.errors import ExitCode
from svg_export.cli import app
from svg_runtime import Forecaster
from svg_runtime.bundle.reader import Bundle
from svg_train.checkpoint import load_checkpoint, save_checkpoint
from tests.families import save_tiny
from tests.svg_runtime.bundle_helpers import draw, generated


def run_cli(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


REFUSED = [
    ("predrnn", ["--no-fused"], "models of the family 'frames' have fused graphs only"),
    ("srvp", ["--no-fused"], "models of the family 'srvp' have fused graphs only"),
    ("srvp", ["--no-shuffled"], "--no-shuffled has no effect on models of the family 'srvp'"),
    ("predrnn", ["--bn", "recalibrate", "--data", "digits"], "of the family 'frames', has no BatchNorm"),
    ("predrnn", ["--euler-steps", "2"], "--euler-steps has no effect on models of the family 'frames'"),
    ("deterministic", ["--euler-steps", "2"], "--euler-steps has no effect on models of the family 'svg'"),
    ("srvp", ["--model-config", "settings.json"], "has the settings of its model\n  remove --model-config"),
]


@pytest.mark.parametrize(("name", "options", "message"), REFUSED)
def test_an_option_without_effect_is_refused(name, options, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("settings.json").write_text("{}")
    checkpoint = save_tiny(name, Path("ckpt.pt"))
    result = run_cli(str(checkpoint), *options)
    assert result.exception.exit_code == ExitCode.USAGE
    assert message in str(result.exception)
    assert not Path("ckpt.svgb").exists()


def test_settings_are_not_blamed_where_the_file_is_no_checkpoint(tmp_path):
    (tmp_path / "settings.json").write_text("{}")
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pth")
    result = run_cli(str(tmp_path / "other.pth"), "--model-config", str(tmp_path / "settings.json"))
    assert "settings.json" not in str(result.exception)


def test_euler_steps_change_the_forecast_and_are_recorded(tmp_path, frames):
    checkpoint = save_tiny("srvp", tmp_path / "last.pt")
    training = {"weights": {}, "optimizer": {}, "schedule": {}, "averaged": 0, "best": 1.0}
    save_checkpoint(checkpoint, replace(load_checkpoint(checkpoint), training=training))
    saved, out = tmp_path / "finer.pt", tmp_path / "finer.svgb"
    result = run_cli(str(checkpoint), "--euler-steps", "3", "--save-checkpoint", str(saved), "--out", str(out), "--json",
                     str(tmp_path / "about.json"))  # fmt: skip
    assert result.exit_code == 0, result.output
    assert load_checkpoint(saved).training is None  # it is a model, not a run that could be resumed with other steps
    manifest, finer = Bundle.open(out).manifest, load_checkpoint(saved).build()
    assert manifest.model.settings["n_euler_steps"] == finer.config.n_euler_steps == 3
    assert json.loads((tmp_path / "about.json").read_text())["bundle_id"] == manifest.bundle_id
    noise = draw(0, 4, 2, finer.config.noise_dim)
    past = draw(1, finer.config.context_draws, 2, finer.config.noise_dim)
    with Forecaster.open(out, backend="cpu", samples=2, horizon=4) as forecaster:
        for frame in frames[:3]:
            forecaster.observe(frame)
        futures = forecaster.forecast(noise=noise, context_noise=past)
    assert np.abs(futures - generated(finer, frames[:3], noise, past)).max() < 1e-4
    trained = load_checkpoint(checkpoint).build()
    primed = trained.prime(torch.rand(3, 2, trained.config.nhx), torch.from_numpy(past))
    assert not torch.allclose(trained.step(primed.y, torch.ones(2, 4))[0], finer.step(primed.y, torch.ones(2, 4))[0])


@pytest.mark.parametrize("name", [pytest.param("spatial", marks=pytest.mark.slow), "srvp"])
def test_prime_reads_one_context_for_all_samples_or_one_for_each(name, tmp_path):
    """A server batches contexts of several cameras; the exporter must not fix the one of the example."""
    result = run_cli(str(save_tiny(name, tmp_path / "ckpt.pt")), "--out", str(tmp_path / "ckpt.svgb"))
    assert result.exit_code == 0, result.output
    content = Bundle.open(tmp_path / "ckpt.svgb").graphs("fp32")["prime"]
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    h_shape, eps_shape = (value.shape for value in session.get_inputs())
    contexts = draw(0, h_shape[0], 3, *h_shape[2:])
    eps = draw(1, eps_shape[0], 3, eps_shape[2])
    names = [value.name for value in session.get_outputs()]
    together = dict(zip(names, session.run(None, {"h_seq": contexts, "eps": eps}), strict=True))
    for row in range(3):
        alone = session.run(None, {"h_seq": contexts[:, row : row + 1], "eps": eps[:, row : row + 1]})
        for output, value in zip(names, alone, strict=True):
            np.testing.assert_allclose(together[output][row : row + 1], value, atol=1e-5, err_msg=output)
