"""Several cameras in one batch give what a Forecaster of each gives, whatever the others do; and what is refused."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from svg_runtime import BatchForecaster, Forecaster
from svg_runtime.backends.host_arrays import HostArrays
from svg_runtime.errors import BackendError, CamerasError, ContextNotReadyError, ForecastError, FrameError, UsageError
from tests.svg_runtime.bundle_helpers import draw

CAMERAS, SAMPLES, HORIZON, SEED = 3, 2, 2, 5
FAMILIES = ("spatial", "srvp", "srvp-skips", "ensemble", "predrnn", "mim", "e3d-lstm")


def open_batch(bundle: Path, cameras: int = CAMERAS, **given) -> BatchForecaster:
    options = {"backend": "cpu", "threads": 1, "samples": SAMPLES, "horizon": HORIZON, "seed": SEED, **given}
    return BatchForecaster.open(bundle, cameras, **options)


def open_each(bundle: Path, stack: ExitStack, cameras: int = CAMERAS, **given) -> list[Forecaster]:
    options = {"backend": "cpu", "threads": 1, "samples": SAMPLES, "horizon": HORIZON, **given}
    return [stack.enter_context(Forecaster.open(bundle, seed=SEED + camera, **options)) for camera in range(cameras)]


def random_frame(forecaster: Forecaster | BatchForecaster, rng: np.random.Generator) -> np.ndarray:
    spec = forecaster.manifest.frame
    return rng.random((spec.height, spec.width, spec.channels), np.float32)


def assert_same_observation(given, expected) -> None:
    assert given.index == expected.index
    assert (given.surprise is None) == (expected.surprise is None)
    assert (given.surprise or 0.0) == pytest.approx(expected.surprise or 0.0, rel=1e-4, abs=1e-5)
    assert [score.lead for score in given.scores] == [score.lead for score in expected.scores]
    for one, other in zip(given.scores, expected.scores, strict=True):
        assert vars(one) == pytest.approx(vars(other), rel=1e-4, abs=1e-5)
    assert (given.expected is None) == (expected.expected is None)
    if given.expected is not None:
        np.testing.assert_allclose(given.expected.samples, expected.expected.samples, atol=1e-5)


def play(batch: BatchForecaster, each: list[Forecaster], seed: int, rounds: int) -> int:
    """Cameras are due, late, reset and forecast at random; returns how many forecasts were compared."""
    rng, compared = np.random.default_rng(seed), 0
    for _ in range(rounds):
        due = [camera for camera in range(len(each)) if rng.random() < 0.8]
        rng.shuffle(due)
        frames = {camera: random_frame(batch, rng) for camera in due}
        seen = batch.observe(frames)
        assert list(seen) == due
        for camera in due:
            assert_same_observation(seen[camera], each[camera].observe(frames[camera]))
        ready = [camera for camera in range(len(each)) if each[camera].ready and rng.random() < 0.8]
        assert all(batch.ready(camera) for camera in ready)
        horizon = int(rng.integers(1, 4))
        for camera, futures in batch.forecast(ready, horizon=horizon).items():
            np.testing.assert_allclose(futures, each[camera].forecast(horizon=horizon), atol=1e-5)
            compared += 1
        if rng.random() < 0.2:
            camera = int(rng.integers(len(each)))
            batch.reset(camera)
            each[camera].reset()
            assert not batch.ready(camera)
    return compared


def check(bundle: Path, seed: int = 0, rounds: int = 12, **given) -> None:
    with open_batch(bundle, **given) as batch, ExitStack() as stack:
        assert play(batch, open_each(bundle, stack, **given), seed, rounds) > rounds // 2


@pytest.mark.parametrize("context", ["window", "stream"])
@pytest.mark.parametrize("graphs", ["separate", "fused"])
def test_each_camera_of_svg_is_as_if_alone(tiny_bundle, fused_bundle, graphs, context):
    check({"separate": tiny_bundle, "fused": fused_bundle}[graphs], context=context)


@pytest.mark.parametrize("context", ["window", "stream"])
def test_each_camera_is_as_if_alone_without_a_learned_prior_or_without_latents(unlearned_bundle, context):
    check(unlearned_bundle, context=context)


@pytest.mark.parametrize("name", FAMILIES)
def test_each_camera_of_other_families_is_as_if_alone(family_bundle, name):
    check(family_bundle(name))


def test_each_camera_of_a_frame_model_that_reads_windows_is_as_if_alone(family_bundle):
    check(family_bundle("predrnn"), context="window")
