"""Statistics of frames, against values that are known by construction."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from svg_common.frame_statistics import MOVED, Distribution, frame_statistics, mean_statistics, sequence_statistics


def half_and_half(left: float, right: float, channels: int = 1) -> np.ndarray:
    frame = np.full((4, 6, channels), left, np.float32)
    frame[:, 3:] = right
    return frame


def test_brightness_and_contrast_of_a_frame_of_two_halves():
    measured = frame_statistics(half_and_half(0.2, 0.6), None)
    assert measured == pytest.approx({"brightness": 0.4, "contrast": 0.2})  # no frame before: no motion; gray: no colour


def test_motion_is_the_mean_change_and_moving_the_share_that_changes_visibly():
    before = half_and_half(0.2, 0.6)
    after = before.copy()
    after[:2, :3] += 0.3  # a quarter of the pixels
    after[:, 3:] -= MOVED / 2  # noise
    measured = frame_statistics(after, before)
    assert measured["motion"] == pytest.approx(0.3 / 4 + MOVED / 4, rel=1e-5)
    assert measured["moving"] == pytest.approx(1 / 4)


def test_a_pixel_moves_if_one_of_its_channels_does():
    before = np.zeros((2, 2, 3), np.float32)
    after = before.copy()
    after[0, 0, 2] = MOVED + 0.01  # the mean over channels is below it
    assert frame_statistics(after, before)["moving"] == 0.25


def test_colour_is_the_difference_of_the_channels():
    frame = np.zeros((2, 2, 3), np.float32)
    frame[0, 0] = 0.8, 0.3, 0.1
    assert frame_statistics(frame, None)["colour"] == pytest.approx(0.7 / 4)
    assert frame_statistics(half_and_half(0.1, 0.9, channels=3), None)["colour"] == 0.0


def test_a_sequence_is_the_average_of_its_frames_and_of_its_pairs():
    frames = np.zeros((3, 4, 4, 1), np.uint8)
    frames[1:] = 51  # 0.2
    frames[2] = 255
    measured = sequence_statistics(frames)
    assert measured == pytest.approx({"brightness": 0.4, "contrast": 0.0, "motion": 0.5, "moving": 1.0}, abs=1e-6)


def test_the_first_frame_of_a_clip_does_not_count_as_still():
    assert mean_statistics([{"brightness": 0.1}, {"brightness": 0.3, "motion": 0.4}]) == {"brightness": 0.2, "motion": 0.4}


def test_a_distribution_has_the_quantiles_of_its_values():
    made = Distribution.of(np.arange(101) / 100)
    assert (made.mean, made.p01, made.p50, made.p99) == (0.5, 0.01, 0.5, 0.99)
    with pytest.raises(ValidationError, match="not in order"):
        Distribution(mean=0.5, std=0.1, p01=0.6, p50=0.5, p99=0.9)
