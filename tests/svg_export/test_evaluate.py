"""Evaluation of bundles through the runtime."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from svg_export.evaluate import evaluate_bundle
from svg_runtime import Forecaster
from svg_runtime.noise import NoiseSource
from svg_train.config import build_config
from svg_train.data.digits import Digits


@pytest.fixture
def data():
    return Digits(build_config(), "test", 3 + 4)


def test_figures_equal_a_plain_computation(tiny_bundle, data):
    noise, best, repeat = NoiseSource(5), [], []
    with Forecaster.open(tiny_bundle, samples=3, horizon=4) as forecaster:
        quality, examples = evaluate_bundle(forecaster, data, 6, seed=5)
        for index in range(6):
            truth = data[index].astype(np.float32) / 255
            forecaster.reset()
            for frame in truth[:3]:
                forecaster.observe(frame)
            futures = forecaster.forecast(noise=noise.draw(4, 3, 4), context_noise=noise.draw(2, 3, 4))
            best.append(min(((sample - truth[3:]) ** 2).mean() for sample in futures))
            repeat.append(((truth[2] - truth[3:]) ** 2).mean())
    assert quality.psnr_best == pytest.approx(-10 * np.log10(np.mean(best)), abs=2e-3)
    assert quality.psnr_repeat == pytest.approx(-10 * np.log10(np.mean(repeat)), abs=2e-3)
    assert quality.gain == pytest.approx(quality.psnr_best - quality.psnr_repeat, abs=2e-3)
    assert quality.psnr_best >= quality.psnr_sample
    assert len(quality.psnr_best_per_step) == 4
    assert len(examples) == 4


def test_command_prints_json_and_draws_a_strip(tiny_bundle, tmp_path):
    command = [
        sys.executable,
        "-m",
        "svg_export.evaluate",
        str(tiny_bundle),
        "--sequences",
        "2",
        "--samples",
        "2",
        "--horizon",
        "2",
    ]
    result = subprocess.run(
        [*command, "--strip", "strip.png", "--json", "q.json"], cwd=tmp_path, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == json.loads((tmp_path / "q.json").read_text())
    assert (tmp_path / "strip.png").read_bytes().startswith(b"\x89PNG")
