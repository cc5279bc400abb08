"""PSNR is the same, and has the same cap, wherever it is reported."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.metrics import mean_squared_error as scikit_mse
from skimage.metrics import peak_signal_noise_ratio

from svg_common.metrics import MIN_MSE, mean_squared_error, psnr
from svg_eval.measure import frame_metrics
from svg_export.parity import differences_between
from svg_runtime.bench.bench_run import _error
from svg_runtime.forecast.scores import ForecastMemory
from svg_runtime.live.stats import ScoreTable


def test_psnr_is_that_of_scikit_image():
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 16, 16, 3))
    assert mean_squared_error(a, b) == pytest.approx(scikit_mse(a, b))
    assert psnr(mean_squared_error(a, b)) == pytest.approx(peak_signal_noise_ratio(a, b, data_range=1))


def test_psnr_ends_at_the_cap():
    assert psnr(2 * MIN_MSE) == pytest.approx(117, abs=0.02)
    assert psnr(MIN_MSE) == psnr(MIN_MSE / 2) == psnr(0) == 120


def in_svg_eval(frames, truth) -> float:
    """PSNR of the first of two frames (2, H, W, C), as in the three functions below."""
    samples, target = (torch.from_numpy(array).permute(0, 3, 1, 2) for array in (frames, truth))
    return frame_metrics(samples[None], target)["psnr"][0, 0].item()


def in_svg_live(frames, truth) -> float:
    memory, table = ForecastMemory(), ScoreTable(len(frames))
    memory.remember(0, truth[0], frames[None])
    table.add(memory.score(1, truth[0]))
    return table.psnr(1)[0]


def in_svg_bench(frames, truth) -> float:
    return _error(frames[None], truth[None])["first"]["psnr_db"]


def in_the_parity_report(frames, truth) -> float:
    return differences_between({"frame": [truth[0]]}, {"frame": [frames[0]]})["frame"].curve("frame").psnr_db[0]


PLACES = [in_svg_eval, in_svg_live, in_svg_bench, in_the_parity_report]


@pytest.mark.parametrize("place", PLACES)
def test_equal_frames_have_120_db_everywhere(place):
    truth = np.random.default_rng(0).random((2, 16, 16, 1), np.float32)
    assert place(truth, truth) == 120


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("error", [1e-1, 1e-3, 1e-5])  # the last is far below the rounding of 8-bit frames
def test_nearly_equal_frames_have_the_same_psnr_everywhere(place, error):
    truth = np.full((2, 16, 16, 1), 0.5, np.float32)
    assert place(truth + np.float32(error), truth) == pytest.approx(-20 * np.log10(error), abs=0.02)
