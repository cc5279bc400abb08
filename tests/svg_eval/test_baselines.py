"""Baselines without a model, on frames whose future is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from svg_common.errors import UsageError
from svg_eval.baselines import OpticalFlow, RepeatLastFrame, RepeatWithNoise, simple_baselines
from svg_eval.models import ModelInfo

HORIZON = 4


def info(channels: int = 3, height: int = 48, width: int = 64) -> ModelInfo:
    return ModelInfo("m", "", 3, height, width, channels, 5, 2, 0.1, {"name": "video"}, 10)


def moving_picture(like: ModelInfo, frames: int, pixels_per_step: int = 2) -> torch.Tensor:
    """(T, C, H, W): smooth noise that moves to the right, wrapping around."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(1, like.channels, like.height, like.width, generator=generator)
    blurred = torch.nn.functional.avg_pool2d(torch.nn.functional.pad(noise, (4, 4, 4, 4), mode="circular"), 9, stride=1)[0]
    picture = (blurred - blurred.min()) / (blurred.max() - blurred.min())
    return torch.stack([picture.roll(step * pixels_per_step, -1) for step in range(frames)])


def forecast(baseline, context: torch.Tensor, samples: int = 1) -> torch.Tensor:
    noise = torch.randn(1, HORIZON, samples, baseline.info.z_dim, generator=torch.Generator().manual_seed(1))
    return baseline.forecast(context[None], noise, noise[:, :0])[0]


@pytest.mark.parametrize("channels", [1, 3])
def test_repeated_frame_is_the_only_future(channels):
    like = info(channels)
    context = moving_picture(like, 3)
    futures = forecast(RepeatLastFrame(like), context)
    assert futures.shape == (1, HORIZON, *context.shape[1:])
    for frame in futures[0]:
        torch.testing.assert_close(frame, context[-1])


@pytest.mark.parametrize("channels", [1, 3])
def test_optical_flow_moves_on_what_moves(channels):
    like = info(channels)
    frames = moving_picture(like, 3 + HORIZON)
    flow, repeat = (forecast(baseline(like), frames[:3])[0] for baseline in (OpticalFlow, RepeatLastFrame))
    inner = slice(12, -12)  # the picture wraps around, which no flow can know
    errors = [((future - frames[3:])[..., inner] ** 2).mean() for future in (flow, repeat)]
    assert errors[0] < 0.05 * errors[1]


def test_optical_flow_of_a_still_picture_is_the_picture():
    like = info()
    still = moving_picture(like, 3, pixels_per_step=0)
    torch.testing.assert_close(forecast(OpticalFlow(like), still)[0, -1], still[-1], atol=1e-3, rtol=0)


def test_noise_is_as_large_as_the_observed_changes_of_each_pixel():
    like = info()
    context = torch.full((3, 3, 48, 64), 0.5)
    context[1, :, :, :32] += 0.02  # steps of 0.02 and 0.06 on the left, 0.08 over two frames; the right stands still
    context[2, :, :, :32] += 0.08
    futures = forecast(RepeatWithNoise(like), context, samples=50)
    left, right = futures[..., :32] - context[-1][..., :32], futures[..., 32:] - context[-1][..., 32:]
    assert right.abs().max() == 0
    expected = [np.sqrt((0.02**2 + 0.06**2) / 2), 0.08, 0.08, 0.08]
    np.testing.assert_allclose(left.std(dim=(0, 2, 3, 4)), expected, rtol=0.02)


@pytest.mark.parametrize("name", ["repeat", "repeat_noise", "optical_flow"])
def test_a_baseline_has_no_posterior(name):
    baseline = simple_baselines(info())[name]
    assert not baseline.info.has_posterior
    with pytest.raises(UsageError, match="no posterior"):
        baseline.reconstruct(torch.rand(5, 3, 48, 64))


def test_noise_stays_in_the_range_of_frames():
    like = info()
    context = torch.stack([torch.zeros(3, 48, 64), torch.ones(3, 48, 64), torch.ones(3, 48, 64)])
    futures = forecast(RepeatWithNoise(like), context, samples=8)
    assert futures.min() >= 0
    assert futures.max() <= 1


@pytest.mark.parametrize("size", [(8, 11), (12, 128)])
def test_small_frames_have_all_baselines(size):
    height, width = size
    assert list(simple_baselines(info(height=height, width=width))) == ["repeat", "repeat_noise", "optical_flow"]
    assert forecast(OpticalFlow(info(height=height, width=width)), torch.rand(3, 3, *size)).shape == (1, HORIZON, 3, *size)
