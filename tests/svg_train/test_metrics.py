"""PSNR and SSIM against scikit-image."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from svg_common.metrics import psnr
from svg_train.metrics import frame_mse, frame_ssim, psnr_of_frames

SSIM = {"data_range": 1, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}


def pictures(count, channels, height, width, noise, seed=0):
    """Smooth pictures in [0, 1] and noisy versions of them, (count, C, H, W) float32."""
    rng = np.random.default_rng(seed)
    clean = rng.random((count, channels, height // 8, width // 8), np.float32)
    clean = np.stack([[cv2.resize(plane, (width, height)) for plane in picture] for picture in clean])
    noisy = (clean + noise * rng.standard_normal(clean.shape)).clip(0, 1).astype(np.float32)
    return torch.from_numpy(clean), torch.from_numpy(noisy)


@pytest.mark.parametrize("noise", [0.01, 0.1, 0.5])
@pytest.mark.parametrize("shape", [(1, 64, 64), (3, 64, 64), (3, 128, 96)])
def test_ssim_is_that_of_scikit_image(shape, noise):
    truth, other = pictures(3, *shape, noise)
    expected = [
        structural_similarity(a.numpy().astype(np.float64), b.numpy().astype(np.float64), channel_axis=0, **SSIM)
        for a, b in zip(truth, other, strict=True)
    ]
    np.testing.assert_allclose(frame_ssim(other, truth), expected, atol=2e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_psnr_is_that_of_scikit_image_for_each_channel(channels):
    truth, other = pictures(3, channels, 64, 64, 0.1)
    expected = [
        np.mean([peak_signal_noise_ratio(x, y, data_range=1) for x, y in zip(a.numpy(), b.numpy(), strict=True)])
        for a, b in zip(truth, other, strict=True)
    ]
    np.testing.assert_allclose(psnr_of_frames(frame_mse(other, truth)), expected, rtol=1e-5)


@pytest.mark.parametrize("size", [(2, 3), (8, 8), (10, 10), (8, 16)])
def test_a_side_that_is_smaller_than_the_window_cuts_it(size):
    truth = torch.rand(3, 1, *size, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(frame_ssim(truth, truth), torch.ones(3))
    assert (frame_ssim(1 - truth, truth) < 0.99).all()


def test_black_pictures_and_saturated_ones_have_a_ssim():
    black, white = torch.zeros(1, 1, 64, 64), torch.ones(1, 1, 64, 64)
    assert frame_ssim(black, black).item() == pytest.approx(1)
    expected = structural_similarity(white[0, 0].numpy(), black[0, 0].numpy(), **SSIM)
    assert frame_ssim(white, black).item() == pytest.approx(expected, abs=1e-5)


def test_equal_frames_have_a_finite_psnr():
    truth, _ = pictures(2, 1, 64, 64, 0.1)
    assert psnr_of_frames(frame_mse(truth, truth)).tolist() == [120, 120]


def test_psnr_of_tensors_is_that_of_numbers():
    errors = torch.tensor([[0.5], [1e-3], [1e-11], [1e-12], [1e-13], [0.0]])
    expected = [psnr(error) for error in errors[:, 0].tolist()]
    assert psnr_of_frames(errors).tolist() == pytest.approx(expected, abs=1e-4)


def test_many_samples_are_each_compared_with_the_same_target():
    truth, _ = pictures(10, 1, 64, 64, 0.1)
    samples = torch.stack([pictures(10, 1, 64, 64, 0.02 * (seed % 9), seed)[1] for seed in range(40)])
    many = samples.view(4, 10, 10, 1, 64, 64)
    together, errors = frame_ssim(many, truth), frame_mse(many, truth)  # more than one portion
    assert together.shape == (4, 10, 10)
    assert errors.shape == (4, 10, 10, 1)
    torch.testing.assert_close(together[3, 5], frame_ssim(samples[35], truth))
    torch.testing.assert_close(errors[2, 7, :, 0], ((samples[27] - truth) ** 2).mean((1, 2, 3)))
