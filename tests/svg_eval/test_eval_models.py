"""Checkpoint, bundle and repeated frame behind one interface: the same noise gives the same futures."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from svg_common.errors import BackendMissingError, ExitCode, SvgError, UsageError
from svg_eval import models as eval_models
from svg_eval.models import BundleModel, open_evaluated
from svg_train.data.loading import collate, to_unit
from tests.conftest import random_model, save_model

HORIZON, SAMPLES, Z = 4, 5, 4  # z_dim and n_past 3 are those of the tiny model


@pytest.fixture
def sequences() -> torch.Tensor:
    """(3, 3 + HORIZON, 1, 64, 64) of the built-in digits."""
    from svg_train.config import build_config
    from svg_train.data.digits import Digits

    data = Digits(build_config(), "test", 3 + HORIZON)
    return to_unit(collate([data[index] for index in range(3)])).transpose(0, 1)


@pytest.fixture
def noise() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randn(3, HORIZON, SAMPLES, Z), torch.randn(3, 2, SAMPLES, Z)


@pytest.fixture
def checkpoint(tiny_checkpoint):
    return open_evaluated(str(tiny_checkpoint))


@pytest.fixture
def bundle(tiny_bundle):
    model = open_evaluated(str(tiny_bundle))
    yield model
    model.close()


def test_checkpoint_is_the_models_own_generation(tiny_model, checkpoint, sequences, noise):
    futures = checkpoint.forecast(sequences[:, :3], *noise)
    assert futures.shape == (3, SAMPLES, HORIZON, 1, 64, 64)
    one = tiny_model.generate(sequences[1, :3, None], noise[0][1, :, 4:5], noise[1][1, :, 4:5])
    torch.testing.assert_close(futures[1, 4], one[:, 0])
    assert (futures[:, 0] - futures[:, 1]).abs().max() > 0.01


def test_bundle_agrees_with_its_checkpoint(checkpoint, bundle, sequences, noise):
    futures = bundle.forecast(sequences[:, :3], *noise)
    torch.testing.assert_close(futures, checkpoint.forecast(sequences[:, :3], *noise), atol=1e-4, rtol=0)


def test_the_batch_size_does_not_change_forecasts(checkpoint, bundle, sequences, noise, monkeypatch):
    whole = [model.forecast(sequences[:, :3], *noise) for model in (checkpoint, bundle)]
    monkeypatch.setattr(eval_models, "_MAX_BATCH", 2)
    for model, expected in zip((checkpoint, bundle), whole, strict=True):
        torch.testing.assert_close(model.forecast(sequences[:, :3], *noise), expected, atol=1e-5, rtol=0)


def test_post_processing_corrects_all_samples_together_however_many_they_are(tiny_bundle, sequences, monkeypatch):
    monkeypatch.setattr(eval_models, "_MAX_BATCH", 2)
    model = open_evaluated(str(tiny_bundle), "cpu", samples=SAMPLES, post_process=True)
    assert model.info.history
    horizon, seen = 2, sequences[0, :6]  # three frames before the context
    torch.manual_seed(0)
    noise, context_noise = torch.randn(1, horizon, SAMPLES, Z), torch.randn(1, 2, SAMPLES, Z)
    futures = model.forecast(seen[None], noise, context_noise)
    forecaster = model._forecaster
    forecaster.reset()
    for frame in np.moveaxis(seen.numpy(), 1, -1):
        if forecaster.ready:
            forecaster.forecast(SAMPLES, horizon)
        forecaster.observe(np.ascontiguousarray(frame))
    whole = forecaster.forecast(SAMPLES, horizon, noise=noise[0].numpy(), context_noise=context_noise[0].numpy())
    model.close()
    np.testing.assert_array_equal(futures[0, :, :, 0].numpy(), whole[..., 0])


def test_approximate_posterior_agrees_and_follows_the_truth_it_is_given(checkpoint, bundle, sequences):
    expected = checkpoint.reconstruct(sequences[0])
    assert expected.shape == (HORIZON, 1, 64, 64)
    torch.testing.assert_close(bundle.reconstruct(sequences[0]), expected, atol=1e-4, rtol=0)
    other_future = torch.cat([sequences[0, :3], sequences[1, 3:]])
    assert (checkpoint.reconstruct(other_future) - expected).abs().max() > 1e-3


def test_deterministic_checkpoint_has_one_future(tmp_path, sequences):
    model = open_evaluated(str(save_model(tmp_path / "det.pt", random_model(prior="none", z_dim=0))))
    assert model.info.deterministic
    nothing = torch.zeros(3, HORIZON, 1, 0), torch.zeros(3, 2, 1, 0)
    futures = model.forecast(sequences[:, :3], *nothing)
    assert futures.shape == (3, 1, HORIZON, 1, 64, 64)
    torch.testing.assert_close(model.reconstruct(sequences[0]), futures[0, 0])


def test_an_address_is_a_bundle(monkeypatch, tiny_bundle):
    monkeypatch.setattr("svg_eval.models.find_model", lambda model, real_video: {"hf://ada/tiny": tiny_bundle}[model])
    assert isinstance(open_evaluated("hf://ada/tiny"), BundleModel)


def test_info_describes_the_model(checkpoint, bundle):
    for model in (checkpoint, bundle):
        info = model.info
        assert (info.n_past, info.height, info.width, info.channels, info.z_dim) == (3, 64, 64, 1, Z)
        assert (info.frame_interval_s, info.data["name"], info.n_future) == (0.1, "digits", 10)
    assert "fp32" in bundle.info.description
    assert "step 7" in checkpoint.info.description


def test_fp16_graphs_are_used_when_asked_for(tiny_bundle, sequences, noise, bundle):
    half = open_evaluated(str(tiny_bundle), "cpu", None, "fp16")
    futures, expected = half.forecast(sequences[:1, :3], *(part[:1] for part in noise)), bundle.forecast(
        sequences[:1, :3], *(part[:1] for part in noise)
    )  # fmt: skip
    half.close()
    assert "fp16" in half.info.description
    difference = (futures - expected).abs().max()
    assert 0 < difference < 0.1


def test_reference_checkpoint_is_evaluated_as_it_is(shared_data):
    golden = shared_data / "golden"
    model, expected = open_evaluated(str(golden / "reference_dcgan64_lp.pth")), np.load(golden / "reference_dcgan64_lp.npz")
    context, eps_past, eps = (torch.from_numpy(expected[name]) for name in ("frames", "context_noise", "noise"))
    futures = model.forecast(context.view(1, 5, 1, 64, 64), eps[None], eps_past[None])
    np.testing.assert_allclose(futures[0].numpy(), expected["expected"], atol=1e-4)


def test_embedded_model_by_name_and_newest_bundle_without_one(tiny_bundle, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("embedded", None):  # nothing lies in this folder
        model = open_evaluated(name)
        assert model.info.label == "digits.svgb"
        model.close()
    (tmp_path / "mine.svgb").symlink_to(tiny_bundle)
    model = open_evaluated(None)
    assert model.info.label == "mine.svgb"
    model.close()


@pytest.mark.parametrize("options", [{"backend": "cpu"}, {"precision": "fp16"}])
def test_options_of_bundles_are_refused_for_a_checkpoint(tiny_checkpoint, options):
    with pytest.raises(UsageError, match="svg-export") as caught:
        open_evaluated(str(tiny_checkpoint), **options)
    assert caught.value.exit_code == ExitCode.USAGE


@pytest.mark.parametrize(
    ("device", "kind"), [("quantum", UsageError), ("meta", UsageError), ("vulkan", UsageError), ("cuda:7", BackendMissingError)]
)
def test_unknown_device_is_refused(tiny_checkpoint, device, kind):
    if device == "cuda:7" and torch.cuda.device_count() > 7:
        pytest.skip("this machine has such a device")
    with pytest.raises(kind, match="expected auto, cpu"):
        open_evaluated(str(tiny_checkpoint), device=device)


def test_missing_model_and_backend_are_refused(tiny_bundle, tmp_path):
    with pytest.raises(SvgError, match="svg-train and svg-export"):
        open_evaluated(str(tmp_path / "none.pt"))
    with pytest.raises(SvgError, match="the tensorrt backend") as caught:
        open_evaluated(str(tiny_bundle), backend="tensorrt", device="cuda:99")
    assert caught.value.exit_code == ExitCode.BACKEND_MISSING


def test_frames_keep_their_place(bundle, sequences, noise):
    """The bundle takes the frames channels last: an order that is mixed up would still give pictures."""
    futures = bundle.forecast(sequences[:1, :3], *(part[:1] for part in noise))
    forecaster = bundle._forecaster
    forecaster.reset()
    for frame in np.moveaxis(sequences[0, :3].numpy(), 1, -1):
        forecaster.observe(np.ascontiguousarray(frame))
    direct = forecaster.forecast(
        SAMPLES, HORIZON, noise=noise[0][0].numpy(), context_noise=noise[1][0].numpy()
    )  # (S, T, H, W, C)
    np.testing.assert_array_equal(futures[0, :, :, 0].numpy(), direct[..., 0])


def test_a_checkpoint_has_the_name_of_its_folder_however_it_is_given(tiny_checkpoint, tmp_path, monkeypatch):
    (tmp_path / "run7" / "deep").mkdir(parents=True)
    (tmp_path / "run7" / "ckpt.pt").symlink_to(tiny_checkpoint)
    for folder, name in (("run7", "ckpt.pt"), ("run7/deep", "../ckpt.pt"), (".", "run7/ckpt.pt")):
        monkeypatch.chdir(tmp_path / folder)
        model = open_evaluated(name)
        assert model.info.label == "run7"
        model.close()
