"""The built-in digits: shapes, motion, and how scenes depend on seeds and splits."""

from __future__ import annotations

import numpy as np
import pytest

from svg_common.digits import DIGIT_SIZE, BouncingDigits, digit_stream, draw_digit
from svg_train.config import build_config
from svg_train.data import open_data

CONFIG = build_config({"data": {"name": "digits", "num_digits": 2}})


def test_scenes_have_the_declared_form():
    data = open_data(CONFIG, "train", 12)
    frames = data[3]
    assert frames.shape == (12, 64, 64, 1)
    assert frames.dtype == np.uint8
    assert frames.max() > 200
    assert len(data) >= 100_000
    assert data.frame_interval_s == pytest.approx(0.1)
    assert "2 procedural" in data.description


def test_an_item_is_the_same_whatever_was_read_before():
    first, second = open_data(CONFIG, "train", 8), open_data(CONFIG, "train", 8)
    wanted = first[5]
    second[4], second[6]
    np.testing.assert_array_equal(second[5], wanted)
    assert not np.array_equal(first[6], wanted)


def test_longer_sequences_begin_as_shorter_ones():
    np.testing.assert_array_equal(open_data(CONFIG, "test", 20)[1][:8], open_data(CONFIG, "test", 8)[1])


def test_train_and_test_scenes_differ_and_only_train_follows_the_seed():
    other = build_config({"data": {"name": "digits", "num_digits": 2}, "train": {"seed": 1}})
    train, test = open_data(CONFIG, "train", 4), open_data(CONFIG, "test", 4)
    trained = {train[i].tobytes() for i in range(50)}
    assert len(trained) == 50
    assert not trained & {test[i].tobytes() for i in range(50)}
    assert not np.array_equal(open_data(other, "train", 4)[0], train[0])
    np.testing.assert_array_equal(open_data(other, "test", 4)[0], test[0])


def test_the_interval_can_be_set():
    config = build_config({"data": {"name": "digits", "frame_interval_s": 0.25}})
    assert open_data(config, "train", 4).frame_interval_s == 0.25


def _track(seed: int, steps: int) -> np.ndarray:
    """Positions (steps, 2) of one white square."""
    scene = BouncingDigits(np.random.default_rng(seed), [np.ones((DIGIT_SIZE, DIGIT_SIZE), np.float32)])
    places = []
    for _ in range(steps):
        ys, xs = np.nonzero(scene.step())
        assert len(ys) == DIGIT_SIZE**2  # all of it is in the picture
        places.append((ys[0], xs[0]))
    return np.array(places)


def test_motion_is_straight_inside_and_random_after_a_wall():
    after_wall, limit = set(), 64 - DIGIT_SIZE
    for seed in range(20):
        track = _track(seed, 120)
        velocity = np.diff(track, axis=0)
        assert np.abs(velocity).max() <= 4
        at_wall = ((track == 0) | (track == limit - 1)).any(1)
        for t in range(1, len(velocity)):
            if at_wall[t]:
                after_wall.add(tuple(velocity[t]))
            elif not at_wall[t + 1]:
                np.testing.assert_array_equal(velocity[t], velocity[t - 1])
    assert len(after_wall) > 30  # of 9 x 9 velocities


def test_a_digit_does_not_get_stuck_at_a_wall():
    tracks = [_track(seed, 300) for seed in range(10)]
    moving = [track for track in tracks if (track[0] != track[1]).any()]  # a digit may begin with velocity 0
    assert len(moving) >= 8
    for track in moving:
        assert len(np.unique(track, axis=0)) > 60


def test_the_same_seed_gives_the_same_stream():
    one, same, other = digit_stream((0, 1), 2), digit_stream((0, 1), 2), digit_stream((0, 2), 2)
    frames = np.stack([one() for _ in range(10)])
    np.testing.assert_array_equal(frames, np.stack([same() for _ in range(10)]))
    assert not np.array_equal(frames, np.stack([other() for _ in range(10)]))
    assert frames.dtype == np.float32
    assert frames.min() >= 0
    assert frames.max() <= 1


def test_overlapping_digits_stay_in_range():
    scene = BouncingDigits(np.random.default_rng(0), [np.ones((40, 40), np.float32)] * 3)
    assert max(scene.step().max() for _ in range(20)) == 1.0


@pytest.mark.parametrize("digit", range(10))
def test_glyphs_are_drawn_in_many_hands(digit):
    rng = np.random.default_rng(digit)
    images = np.stack([draw_digit(rng, digit) for _ in range(40)])
    ink = images.mean((1, 2))
    assert images.shape == (40, DIGIT_SIZE, DIGIT_SIZE)
    assert images.min() == 0
    assert images.max() == 1
    assert 0.02 < ink.min() < ink.max() < 0.5
    assert len({image.tobytes() for image in images}) == 40
    assert images.std(0).max() > 0.2
    border = np.concatenate([images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1]], 1)
    assert border.mean() < 0.02  # strokes are not cut off at the edge


def test_a_glyph_keeps_its_shape_at_another_size():
    small, large = (draw_digit(np.random.default_rng(3), 8, size) for size in (32, 96))
    shrunk = large.reshape(32, 3, 32, 3).mean((1, 3))
    assert np.abs(shrunk - small).mean() < 0.03


def test_digits_differ_from_each_other():
    means = [np.mean([draw_digit(np.random.default_rng((digit, i)), digit) for i in range(30)], axis=0) for digit in range(10)]
    for a in range(10):
        for b in range(a):
            assert np.abs(means[a] - means[b]).mean() > 0.03, (a, b)
