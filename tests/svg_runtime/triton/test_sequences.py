"""Sequences of clients on the cameras of a BatchForecaster, without Triton."""

from __future__ import annotations

from collections.abc import Iterator
from unittest.mock import patch

import numpy as np
import pytest

from svg_runtime import BatchForecaster, Forecaster
from svg_runtime.errors import BackendError, CamerasError, ForecastError, FrameError, SvgError
from svg_runtime.triton.sequences import FrameAnswer, FrameRequest, SequenceLostError, Sequences, seed_of

OPTIONS = {"backend": "cpu", "threads": 1, "samples": 2, "horizon": 2}
SEED, N_PAST, CAMERAS = 5, 3, 3


class Clock:
    """Seconds that a test decides."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def batch(fused_bundle) -> Iterator[BatchForecaster]:
    with BatchForecaster.open(fused_bundle, CAMERAS, scored=False, **OPTIONS) as opened:
        yield opened


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def sequences(batch, clock) -> Sequences:
    return Sequences(batch, SEED, clock)


def pictures(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((count, 64, 64, 1), np.float32)


def send(sequences: Sequences, name: int | str, frame: np.ndarray, **flags) -> FrameAnswer | SvgError:
    (answer,) = sequences.answer([FrameRequest(name, frame, **flags)])
    return answer


def expected(bundle, name: int | str, frames: np.ndarray) -> np.ndarray:
    """The futures of a Forecaster after each frame from the N_PAST-th on; the last ones are returned."""
    with Forecaster.open(bundle, seed=seed_of(name, SEED), **OPTIONS) as forecaster:
        for frame in frames:
            forecaster.observe(frame)
            futures = forecaster.forecast() if forecaster.ready else None
    assert futures is not None
    return futures


def test_each_sequence_gives_the_frames_of_its_own_forecaster(sequences, fused_bundle):
    names, frames = [7, "door", 2**63], pictures(N_PAST + 1)
    for number, frame in enumerate(frames):
        requests = [FrameRequest(name, np.roll(frame, at, 0), starts=number == 0) for at, name in enumerate(names)]
        answers = sequences.answer(requests)
        assert [answer.missing_frames for answer in answers] == [max(0, N_PAST - number - 1)] * 3
        assert [answer.futures is None for answer in answers] == [number < N_PAST - 1] * 3
        assert [answer.surprise is None for answer in answers] == [number == 0] * 3
    for at, (name, answer) in enumerate(zip(names, answers, strict=True)):
        np.testing.assert_allclose(answer.futures, expected(fused_bundle, name, np.roll(frames, at, 1)), atol=1e-5)


def test_seeds_follow_from_the_names():
    assert seed_of(7, 100) == 107
    assert seed_of("door", 0) == 0x2534E2DE1DEC24FE  # the first 8 bytes of SHA-256
    assert seed_of("7", 0) != 7


def test_nothing_is_kept_to_be_scored(sequences, batch):
    for number, frame in enumerate(pictures(N_PAST + 2)):
        send(sequences, 1, frame, starts=number == 0)
    seen = batch.observe({2: pictures(1)[0]})[2]
    assert seen.scores == ()
    camera = batch._cameras[sequences._slots[1].camera]
    assert camera.memory.latest(camera.count) is None


def test_a_refused_frame_changes_nothing(sequences, fused_bundle):
    frames = pictures(N_PAST)
    wrong = {
        r"values lie in \[nan": np.full((64, 64, 1), np.nan, np.float32),
        "shape is": frames[0, :32],
        "type is float64": frames[0].astype(float),
    }
    for number, ((message, frame), good) in enumerate(zip(wrong.items(), frames, strict=True)):
        refused, answered, other = sequences.answer(
            [FrameRequest(name, given, starts=number == 0) for name, given in {8: frame, 9: good, 10: good}.items()]
        )
        assert isinstance(refused, FrameError)
        assert message.replace("\\", "") in str(refused)
        assert answered.missing_frames == other.missing_frames == N_PAST - number - 1
    np.testing.assert_allclose(answered.futures, expected(fused_bundle, 9, frames), atol=1e-5)
    assert send(sequences, 8, frames[0]).missing_frames == N_PAST - 1  # it had begun, and has its first frame now


def test_a_sequence_that_is_not_known_is_told_what_to_do(sequences):
    lost = send(sequences, 4, pictures(1)[0])
    assert isinstance(lost, SequenceLostError)
    assert "send its last 3 frames, the first with sequence_start=True" in str(lost)
    assert len(sequences) == 0


def test_ends_and_idle_sequences_free_their_camera(sequences, batch, clock):
    frame = pictures(1)[0]
    for name in (1, 2, 3):
        clock.now += 1
        send(sequences, name, frame, starts=True)
    send(sequences, 1, frame, ends=True)
    assert len(sequences) == 2
    assert sequences.free_idle(1.5) == []
    clock.now += 1
    assert sequences.free_idle(1.5) == [2]
    assert [camera.count for camera in batch._cameras].count(0) == 2  # what was kept of them is gone
    assert isinstance(send(sequences, 2, frame), SequenceLostError)


def test_a_new_sequence_takes_the_place_of_the_one_that_was_idle_longest(sequences, clock):
    frame = pictures(1)[0]
    for name in (1, 2, 3):
        clock.now += 1
        send(sequences, name, frame, starts=True)
    known, new = sequences.answer([FrameRequest(1, frame), FrameRequest("new", frame, starts=True)])
    assert known.missing_frames == 1
    assert new.missing_frames == 2
    assert isinstance(send(sequences, 2, frame), SequenceLostError)
    assert send(sequences, 3, frame).missing_frames == 1


def test_without_futures_no_noise_is_drawn(sequences, fused_bundle):
    frames = pictures(N_PAST + 2)
    for number, frame in enumerate(frames[:-1]):
        assert send(sequences, 1, frame, starts=number == 0, wants_futures=False).futures is None
    answer = send(sequences, 1, frames[-1])
    with Forecaster.open(fused_bundle, seed=seed_of(1, SEED), **OPTIONS) as forecaster:
        for frame in frames:
            forecaster.observe(frame)
        np.testing.assert_allclose(answer.futures, forecaster.forecast(), atol=1e-5)


@pytest.mark.parametrize("method", ["observe", "forecast"])
def test_where_the_engine_fails_the_context_begins_anew(sequences, batch, method):
    frames = pictures(N_PAST)
    for number, frame in enumerate(frames[:-1]):
        sequences.answer([FrameRequest(name, frame, starts=number == 0) for name in (1, 2)])
    with patch.object(batch, method, side_effect=BackendError("out of memory")):
        answers = sequences.answer([FrameRequest(name, frames[-1]) for name in (1, 2)])
    assert all("out of memory" in str(answer) and "begins anew" in str(answer) for answer in answers)
    assert send(sequences, 1, frames[0]).missing_frames == N_PAST - 1


@pytest.mark.parametrize("method", ["observe", "forecast"])
def test_values_that_are_not_finite_fail_their_own_sequence_alone(sequences, batch, method):
    frames = pictures(N_PAST)
    for number, frame in enumerate(frames[:-1]):
        sequences.answer([FrameRequest(name, frame, starts=number == 0) for name in (1, 2)])
    bad, works = sequences._slots[1].camera, getattr(batch, method)

    def fails_for_one(given):
        results = works(given)
        results.pop(bad)
        raise CamerasError({bad: ForecastError("not finite")}, results)

    with patch.object(batch, method, fails_for_one):
        failed, answered = sequences.answer([FrameRequest(name, frames[-1]) for name in (1, 2)])
    assert "not finite" in str(failed)
    assert answered.futures is not None
    assert send(sequences, 1, frames[0]).missing_frames == N_PAST - 1
