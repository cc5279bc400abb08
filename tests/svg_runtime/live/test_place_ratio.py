"""What is large for its place: relative to what is usual there and what was predicted, wherever in the picture it is."""

from __future__ import annotations

import numpy as np
import pytest

from svg_runtime.live.place_ratio import PlaceRatio

STEP_S, LEAST = 0.1, 1e-4
NOTHING = np.zeros((64, 64), np.float32)


def with_block(value: float, row: int, column: int, height: int = 64, width: int = 64) -> np.ndarray:
    squared = np.zeros((height, width), np.float32)
    squared[row : row + 16, column : column + 16] = value
    return squared


def test_an_error_counts_less_where_the_model_was_unsure():
    error = np.full((64, 64), 0.04, np.float32)
    sure, unsure = (PlaceRatio(STEP_S, LEAST).of(error, np.full_like(error, predicted)) for predicted in (0.0001, 0.04))
    assert sure > 50 * unsure
    assert unsure == pytest.approx(1, rel=0.01)  # an error of 0.2 where 0.2 was predicted
    assert PlaceRatio(STEP_S, LEAST).of(NOTHING) == 0


def test_places_learn_what_is_usual_there():
    ratio = PlaceRatio(STEP_S, LEAST)
    for _ in range(600):
        rustle = ratio.of(with_block(0.04, 0, 0))
    assert rustle == pytest.approx(1, rel=0.05)
    assert ratio.of(with_block(0.04, 48, 48)) > 100
    assert ratio.of(with_block(0.04, 0, 0)) == pytest.approx(1, rel=0.05)  # one that was never there does not change it


def test_places_remember_for_as_long_where_frames_are_dropped():
    ratios = []
    for steps in (1, 5):
        ratio = PlaceRatio(STEP_S, LEAST)
        for _ in range(600 // steps):
            ratio.of(NOTHING, steps=steps)
        ratios.append([ratio.of(with_block(0.0002, 0, 0), steps=steps) for _ in range(600 // steps)][-1])
    assert ratios[1] == pytest.approx(ratios[0], rel=0.05)


@pytest.mark.parametrize("step_s", [31.0, 60.0, 90.0, 3600.0])
def test_what_is_usual_stays_within_what_was_seen_where_steps_are_long(step_s):
    ratio = PlaceRatio(step_s, LEAST)
    for value in (0.02, 0.04) * 20:
        seen = ratio.of(np.full((64, 64), value, np.float32), steps=3)
        assert 0 < seen < 250
    assert seen == pytest.approx(2, rel=0.01)  # the frame before is what is usual
    assert ratio.of(NOTHING, steps=3) == 0


def test_the_first_time_at_a_place_hardly_becomes_usual():
    ratio = PlaceRatio(STEP_S, LEAST)
    for _ in range(600):
        ratio.of(NOTHING)
    first, second = (ratio.of(with_block(0.04, 20, 20)) for _ in range(2))
    assert first == pytest.approx(400, rel=0.01)
    assert second > 0.9 * first


def test_half_a_block_of_it_is_half_as_much_and_all_that_is_around_does_not_count():
    ratio = [PlaceRatio(STEP_S, LEAST).of(with_block(0.04, 30, 30)[:, :width]) for width in (64, 38)]
    assert ratio[0] == pytest.approx(400, rel=0.01)
    assert PlaceRatio(STEP_S, LEAST).of(with_block(0.04, 40, 90, height=64, width=200)) == pytest.approx(ratio[0], rel=1e-3)


def test_frames_of_another_size_begin_anew():
    ratio = PlaceRatio(STEP_S, LEAST)
    for _ in range(100):
        ratio.of(with_block(0.04, 0, 0))
    assert ratio.of(with_block(0.04, 0, 0, 32, 32)) > 100


def test_reset_forgets_what_is_usual():
    ratio = PlaceRatio(STEP_S, LEAST)
    once = ratio.of(with_block(0.04, 0, 0))
    for _ in range(100):
        usual = ratio.of(with_block(0.04, 0, 0))
    ratio.reset()
    assert ratio.of(with_block(0.04, 0, 0)) == pytest.approx(once)
    assert usual < once / 100
