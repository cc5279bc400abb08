"""Forecasts of a stream, with the embedded model of digits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from svg_common.digits import digit_stream
from svg_edge_ros.forecast_stream import Answer, ForecastStream, Futures, Level, StreamOptions
from svg_runtime import Forecaster
from svg_runtime.bundle.reader import find_model
from svg_runtime.errors import BackendError, ForecastError
from svg_runtime.live.roi import parse_roi

OPTIONS = StreamOptions(model="digits", backend="cpu", threads=1, samples=2, horizon=3)
STEP_S = 0.1


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def stream(clock, said):
    made = ForecastStream(OPTIONS, said.append, clock)
    yield made
    made.close()


def pictures(count: int) -> list[np.ndarray]:
    draw = digit_stream(0, 1, 64)
    return [(draw() * 255).astype(np.uint8) for _ in range(count)]


def feed(
    stream: ForecastStream, clock: Clock, frames: list[np.ndarray], start_s: float = 1e9, step_s: float = STEP_S
) -> list[Answer | None]:
    found = []
    for number, frame in enumerate(frames):
        clock.now_s += step_s
        found.append(stream.add(frame, start_s + number * step_s))
    return found


def test_it_forecasts_what_the_forecaster_does(stream, clock):
    """The same frames, observed by hand."""
    frames = pictures(8)
    found = feed(stream, clock, frames)
    options = {"backend": "cpu", "threads": 1, "samples": 2, "horizon": 3, "post_process": True}
    with Forecaster.open(find_model("digits"), **options) as forecaster:
        for frame, ours in zip(frames, found, strict=True):
            observation = forecaster.observe(frame[..., None].astype(np.float32) / 255)
            assert ours.surprise == observation.surprise
            assert (ours.futures is None) == (not forecaster.ready)
            if forecaster.ready:
                np.testing.assert_array_equal(ours.futures.frames, forecaster.forecast())
    assert found[-1].futures is not None


def test_mosaic_mean_and_spread_are_of_the_futures():
    futures = np.random.default_rng(0).random((2, 3, 4, 5, 1), np.float32)
    made = Futures(futures)
    mosaic = made.mosaic()
    assert mosaic.shape == (8, 15, 1)
    np.testing.assert_allclose(mosaic[4:, 10:] / 255, futures[1, 2], atol=0.003)  # second sample, third step
    np.testing.assert_allclose(made.mean() / 255, futures[:, 2].mean(0), atol=0.003)
    np.testing.assert_allclose(made.spread(), futures[:, 2].std(0).mean(-1))
    assert made.spread().dtype == np.float32


def test_pictures_between_two_steps_are_not_observed(stream, clock):
    frames = pictures(3)
    assert stream.add(frames[0], 0.0) is not None
    assert stream.add(frames[1], 0.033) is None
    assert stream.add(frames[2], 0.1) is not None


def test_a_pause_or_another_size_resets_the_context(stream, clock, said):
    feed(stream, clock, pictures(6))
    assert feed(stream, clock, pictures(1), start_s=2e9)[0].surprise is None
    small = [frame[:32, :32] for frame in pictures(1)]
    assert feed(stream, clock, small, start_s=2e9 + 0.1)[0].surprise is None
    assert stream.status().values["resets of the context"] == "2"
    assert len(said) == 2


@pytest.mark.parametrize(("step_s", "resets"), [(0.5, 0), (1.02, 1), (2.0, 1)])
def test_a_slow_camera_is_forecast_and_said_to_be_slow_once(stream, clock, said, step_s, resets):
    found = feed(stream, clock, pictures(25), step_s=step_s)
    assert [number for number, answer in enumerate(found) if answer.futures is None] == list(range(4 + resets))
    assert (stream.status().level, stream.status().message) == (Level.OK, "forecasting")
    assert stream.events.counts == {"slow_source": 1} | ({"new_scene": 1} if resets else {})
    assert said[-1].startswith(f"a picture comes every {step_s:.3g} s, the model expects one every 0.1 s: one forecast step is")


def test_a_context_that_is_reset_again_and_again_is_a_warning(stream, clock):
    """As where two cameras publish to one topic, each with a clock of its own."""
    for number, frame in enumerate(pictures(4)):
        feed(stream, clock, [frame], start_s=5.0 - number)
        assert stream.status().level == (Level.OK if number < 2 else Level.WARN)
    assert stream.status().message.startswith("the context is reset again and again, by pauses, earlier time stamps")
    feed(stream, clock, pictures(5), start_s=6.0)
    assert (stream.status().level, stream.status().message) == (Level.OK, "forecasting")


def test_reset_starts_anew(stream, clock, said):
    first = feed(stream, clock, pictures(6))
    stream.reset()
    again = feed(stream, clock, pictures(6), start_s=5.0)
    np.testing.assert_array_equal(first[-1].futures.frames, again[-1].futures.frames)
    assert stream.status().values["resets of the context"] == "1"
    assert said == []  # there was no pause


def misfit(stream: ForecastStream) -> bool:
    return stream.status().message.startswith("the model does not fit")


def test_whether_the_model_fits_is_judged_anew_at_another_size_or_after_a_reset_but_not_after_a_pause(stream, clock):
    """The digits know black backgrounds only."""
    bright = [255 - picture // 2 for picture in pictures(60)]
    feed(stream, clock, bright)
    assert misfit(stream)
    feed(stream, clock, bright[:1], start_s=2e9)
    assert misfit(stream)
    feed(stream, clock, [bright[0][:48, :48]], start_s=2e9 + 0.1)
    assert not misfit(stream)
    feed(stream, clock, bright, start_s=3e9)
    assert misfit(stream)
    stream.reset()
    feed(stream, clock, bright[:1], start_s=4e9)
    assert not misfit(stream)


def test_status_tells_how_it_goes(stream, clock):
    assert (stream.status().level, stream.status().message) == (Level.STALE, "no picture yet")
    feed(stream, clock, pictures(30))
    status = stream.status()
    assert (status.level, status.message) == (Level.OK, "forecasting")
    assert float(status.values["pictures per second"]) == pytest.approx(10, rel=0.1)
    assert float(status.values["forecasts per second"]) == pytest.approx(10, rel=0.1)
    assert float(status.values["observe p50, ms"]) > 0
    assert status.values["surprise (nats)"] != "unknown"
    assert all(value for value in status.values.values())
    clock.now_s += 7
    assert (stream.status().level, stream.status().message) == (Level.STALE, "no picture for 7 s")


def test_a_topic_of_a_slow_model_is_not_stale_between_two_pictures(stream, clock, monkeypatch):
    feed(stream, clock, pictures(3))
    monkeypatch.setattr(stream, "interval_s", 5.0)
    clock.now_s += 49
    assert stream.status().level != Level.STALE
    clock.now_s += 1
    assert stream.status().level == Level.STALE


def test_a_covered_lens_is_a_warning(stream, clock, said):
    feed(stream, clock, [np.zeros((64, 64), np.uint8)] * 8)
    assert (stream.status().level, stream.status().message) == (Level.WARN, "the picture is of one colour")
    assert any("lens" in line for line in said)


def test_a_frozen_camera_is_a_warning_after_ten_seconds_where_pictures_are_dropped(stream, clock):
    for number, picture in enumerate(pictures(1) * 21):
        assert stream.status().message != "the picture is frozen"
        stream.add(picture, 1e9 + number * 5 * STEP_S)
    assert (stream.status().level, stream.status().message) == (Level.WARN, "the picture is frozen")


def test_a_region_that_lies_outside_is_a_warning_until_it_fits(clock, said):
    stream = ForecastStream(replace(OPTIONS, roi=parse_roi("100,0,64,64", "roi")), said.append, clock)
    assert feed(stream, clock, pictures(2)) == [None, None]
    assert stream.status().level == Level.WARN
    assert [line.partition(" does not lie")[0] for line in said] == ["roi 100,0,64,64"]  # the name of the parameter
    wide = [np.tile(frame, (1, 3)) for frame in pictures(4)]
    assert feed(stream, clock, wide, start_s=3e9)[-1] is not None
    assert stream.status().level == Level.OK
    stream.close()


@pytest.mark.parametrize(
    ("left_out", "stamp_s"),
    [
        (np.zeros((64, 64), np.uint8), float("nan")), (np.zeros((64, 64), np.uint8), float("inf")),
        (np.zeros((0, 64), np.uint8), 0.55), (np.zeros((64, 0, 3), np.uint8), 0.55), (np.zeros((64, 64, 4), np.uint8), 0.55),
        (np.zeros((64, 64), np.float32), 0.55), (np.zeros(64, np.uint8), 0.55),
    ],
)  # fmt: skip
@pytest.mark.parametrize("before", [0, 6], ids=["the first picture", "a later one"])
def test_what_is_no_picture_is_left_out_as_if_it_had_not_come(clock, said, left_out, stamp_s, before):
    frames = pictures(8)
    answers = []
    for disturbed in (False, True):
        stream = ForecastStream(OPTIONS, said.append, clock)
        found = feed(stream, clock, frames[:before], start_s=0.0)
        if disturbed:
            assert [stream.add(left_out, stamp_s), stream.add(left_out, stamp_s)] == [None, None]
            assert (stream.status().level, stream.status().message) == (Level.WARN, said[0].partition("\n")[0])
        found += feed(stream, clock, frames[before:], start_s=before * STEP_S)
        answers.append(found[-1])
        assert stream.status().values["resets of the context"] == "0"
        assert stream.status().values["images left out"] == ("2" if disturbed else "0")
        assert stream.status().level == Level.OK
        stream.close()
    np.testing.assert_array_equal(answers[0].futures.frames, answers[1].futures.frames)
    assert len(said) == 1
    assert said[0].startswith("an image is left out: its ")


@pytest.mark.parametrize(("step", "each"), [("observe", 1), ("forecast", 5)])
def test_failures_reset_the_context_and_too_many_end_it(stream, clock, said, monkeypatch, step, each):
    """Also if pictures can be observed, as many as a forecast needs."""
    feed(stream, clock, pictures(4))

    def fail(*given):
        raise BackendError("the device is gone\n  plug it in")

    monkeypatch.setattr(stream._forecaster, step, fail)
    feed(stream, clock, pictures(4 * each), start_s=1e9 + 0.4)
    assert (stream.status().level, stream.status().message) == (Level.ERROR, "forecasting fails")
    assert said == ["no forecast for this picture: the device is gone; the context is reset"] * 4
    with pytest.raises(ForecastError, match="5 times in a row"):
        feed(stream, clock, pictures(1), start_s=1e9 + 0.4 + 4 * each * STEP_S)


def test_motion_over_missing_pictures_is_not_compared_with_that_of_a_step(stream, clock):
    """Of a camera that is slow itself, none is missing: known from its twentieth interval on."""
    frames = pictures(60)
    feed(stream, clock, frames[:20], step_s=3 * STEP_S)
    assert "motion" not in stream._fit.statistics()
    feed(stream, clock, frames[20:], start_s=1e9 + 60 * STEP_S, step_s=3 * STEP_S)
    assert "motion" in stream._fit.statistics()
