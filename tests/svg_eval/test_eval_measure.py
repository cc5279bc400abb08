"""The evaluation loop, against plain computations on real held-out digits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from svg_common.errors import SvgError
from svg_common.progress import NullListener
from svg_eval import measure as eval_measure
from svg_eval.baselines import RepeatLastFrame
from svg_eval.learned import LearnedMetrics
from svg_eval.measure import Settings, _refuse_not_finite, measure
from svg_eval.models import CheckpointModel
from svg_runtime.forecast.noise import NoiseSource
from svg_train.checkpoint import load_checkpoint
from svg_train.config import build_config
from svg_train.data.digits import Digits
from tests.conftest import random_model, save_model
from tests.families import save_tiny

HORIZON = 4
NONE = LearnedMetrics()


SILENT = NullListener()


class Listener:
    """Records all progress."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, float]] = []

    def progress(self, task: str, share: float) -> None:
        self.seen.append((task, share))


def open_checkpoint(path) -> CheckpointModel:
    return CheckpointModel(path.name, load_checkpoint(path), torch.device("cpu"))


@pytest.fixture
def data():
    return Digits(build_config(), "test", 3 + HORIZON)


@pytest.fixture
def model(tiny_checkpoint):
    return open_checkpoint(tiny_checkpoint)


def test_metrics_equal_a_plain_computation(tiny_model, model, data):
    measured = measure(model, data, Settings(5, 3, HORIZON, seed=5), NONE, SILENT)
    noise = NoiseSource(5)  # one sequence after the other: prior first, then posterior
    for index in range(5):
        truth = torch.from_numpy(data[index]).permute(0, 3, 1, 2).float() / 255
        eps, eps_past = (torch.from_numpy(noise.draw(steps, 3, 4)) for steps in (HORIZON, 2))
        frames = tiny_model.generate(truth[:3, None].repeat(1, 3, 1, 1, 1), eps, eps_past).double()  # (T, S, 1, 64, 64)
        target = truth[3:, None].double()
        mse = ((frames - target) ** 2).mean((2, 3, 4)).T.numpy()
        np.testing.assert_allclose(measured.pixels.sample[index, 0], 64 * 64 * mse.mean(0), rtol=1e-4)
        np.testing.assert_allclose(measured.pixels.best[index, 0], 64 * 64 * mse[mse.mean(1).argmin()], rtol=1e-4)
        np.testing.assert_allclose(measured.psnr[index], -10 * np.log10(mse), rtol=1e-5)
        mean_error = ((frames.mean(1, keepdim=True) - target) ** 2).mean((1, 2, 3, 4))
        np.testing.assert_allclose(measured.pixels.mean[index, 0], 64 * 64 * mean_error, rtol=1e-4)
        np.testing.assert_allclose(measured.spread[index], frames.std(1, correction=0).mean((1, 2, 3)), rtol=1e-4)
        pairs = [((frames[:, a] - frames[:, b]) ** 2).mean((1, 2, 3)).sqrt() for a, b in ((0, 1), (0, 2), (1, 2))]
        np.testing.assert_allclose(measured.distance[index], torch.stack(pairs).mean(0), rtol=1e-3)
        for sample in range(3):
            ssim = structural_similarity(
                frames[2, sample, 0].numpy(), target[2, 0, 0].numpy(), data_range=1, gaussian_weights=True, sigma=1.5,
                use_sample_covariance=False,
            )  # fmt: skip
            assert measured.ssim[index, sample, 2] == pytest.approx(ssim, abs=2e-5)
    assert measured.lpips is None
    assert measured.fvd is None


def test_batches_and_the_number_of_sequences_do_not_change_the_draws(model, data, monkeypatch):
    whole = measure(model, data, Settings(5, 3, HORIZON, seed=1), NONE, SILENT)
    monkeypatch.setattr(eval_measure, "_VALUES_AT_ONCE", 1)
    listener = Listener()
    single = measure(model, data, Settings(3, 3, HORIZON, seed=1), NONE, listener)
    np.testing.assert_allclose(single.psnr, whole.psnr[:3], atol=1e-3)
    assert listener.seen == [("evaluating tiny.pt", done / 3) for done in range(4)]


def test_same_seed_same_metrics_and_another_seed_others(model, data):
    runs = [measure(model, data, Settings(2, 3, HORIZON, seed), NONE, SILENT).psnr for seed in (1, 1, 2)]
    np.testing.assert_array_equal(runs[0], runs[1])
    assert np.abs(runs[0] - runs[2]).max() > 1e-6


def test_deterministic_model_has_one_sample_and_no_diversity(tmp_path, data):
    model = open_checkpoint(save_model(tmp_path / "det.pt", random_model(prior="none", z_dim=0)))
    measured = measure(model, data, Settings(2, 50, HORIZON, 0), NONE, SILENT, shown=[0])
    assert measured.psnr.shape == (2, 1, HORIZON)
    assert measured.distance is None
    assert measured.spread.max() == 0
    assert measured.examples[0].posterior is None


def test_repeated_frame_is_measured_as_one_sample(model, data):
    measured = measure(RepeatLastFrame(model.info), data, Settings(2, 50, HORIZON, 0), NONE, SILENT)
    for index in range(2):
        truth = data[index][..., 0].astype(np.float64) / 255
        np.testing.assert_allclose(measured.pixels.mean[index, 0], ((truth[3:] - truth[2]) ** 2).sum((1, 2)), rtol=1e-5)


def test_examples_are_the_best_and_worst_samples(model, data):
    measured = measure(model, data, Settings(3, 6, HORIZON, 0), NONE, SILENT, shown=[0, 2])
    assert len(measured.examples) == 2
    for number, example in zip((0, 2), measured.examples, strict=True):
        target = example.truth[3:]
        scores = measured.psnr[number].mean(1)
        for sample, expected in ((example.best, scores.max()), (example.worst, scores.min())):
            errors = ((sample - target).double() ** 2).mean((1, 2, 3))
            assert float((-10 * errors.log10()).mean()) == pytest.approx(expected, abs=1e-3)
        assert len(example.random) == 2
        assert example.posterior.shape == target.shape


def test_forecasts_that_overflow_are_refused_with_their_first_step(tmp_path, data):
    trained = load_checkpoint(save_tiny("srvp", tmp_path / "far.pt"))
    weights = {name: value * (1e12 if name.startswith("dynamics.") else 1) for name, value in trained.weights.items()}
    model = CheckpointModel("far.pt", replace(trained, weights=weights), torch.device("cpu"))
    with pytest.raises(
        SvgError, match=r"^far\.pt forecasts values that are not finite from step 1 on\n.*use an earlier checkpoint$"
    ):
        measure(model, data, Settings(2, 3, HORIZON, 0), NONE, SILENT)
    futures = torch.zeros(1, 2, 3, 1, 4, 4)
    futures[0, 1, 1] = torch.nan
    for option, advice in [("--eval-horizon", "use a smaller --eval-horizon, or an earlier"), (None, "use an earlier")]:
        with pytest.raises(SvgError, match=f"from step 2 on\n.*{advice} checkpoint$"):
            _refuse_not_finite(model, futures, option)


def test_fewer_sequences_than_asked_for(model, data):
    class Short:
        frame_interval_s, description = 0.1, "two sequences"

        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: int) -> np.ndarray:
            return data[index]

    assert len(measure(model, Short(), Settings(9, 2, HORIZON, 0), NONE, SILENT).psnr) == 2
