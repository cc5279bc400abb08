"""Contexts, resets and changing sizes with models whose graphs are not SVG's; frames are those of PyTorch elsewhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from svg_runtime import Forecaster
from svg_runtime.bundle.reader import Bundle
from svg_runtime.errors import UsageError
from svg_runtime.forecast import frame_decoder
from svg_runtime.forecast.context import RelativeError
from svg_runtime.forecast.noise import NoiseSource
from tests.families import SAMPLE
from tests.sample import sampled
from tests.svg_runtime.bundle_helpers import draw, graph_bytes

WINDOWS_ONLY = ("srvp", "srvp-skips", "ensemble")
STREAMS = ("predrnn", "mim", "e3d-lstm")
MODES = [(name, "window") for name in WINDOWS_ONLY + STREAMS] + [(name, "stream") for name in STREAMS]
every_mode = pytest.mark.parametrize(("name", "context"), sampled(MODES, [mode for mode in MODES if mode[0] in SAMPLE]))


def open_on(bundle: Path, **given) -> Forecaster:
    return Forecaster.open(bundle, **{"backend": "cpu", "threads": 1, "samples": 3, "horizon": 4, "seed": 5, **given})


def clip_for(forecaster: Forecaster, count: int, seed: int = 0) -> np.ndarray:
    frame = forecaster.manifest.frame
    return np.random.default_rng(seed).random((count, frame.height, frame.width, frame.channels), np.float32)


def noise_for(forecaster: Forecaster, samples: int, horizon: int) -> dict[str, np.ndarray]:
    manifest = forecaster.manifest
    shapes = {"noise": horizon, "context_noise": manifest.context_draws}
    return {name: draw(index, steps, samples, manifest.model.z_dim) for index, (name, steps) in enumerate(shapes.items())}


@every_mode
def test_forecasting_again_gives_the_same_frames(family_bundle, name, context):
    with open_on(family_bundle(name), context=context) as forecaster:
        for frame in clip_for(forecaster, 4):
            forecaster.observe(frame)
        given = noise_for(forecaster, 3, 4)
        first = forecaster.forecast(**given)
        forecaster.forecast(**noise_for(forecaster, 3, 4))
        np.testing.assert_array_equal(forecaster.forecast(**given), first)


@every_mode
def test_another_horizon_gives_the_same_first_frames(family_bundle, name, context):
    with open_on(family_bundle(name), context=context) as forecaster:
        for frame in clip_for(forecaster, 4):
            forecaster.observe(frame)
        given = noise_for(forecaster, 3, 7)
        longer = forecaster.forecast(horizon=7, **given)
        shorter = forecaster.forecast(horizon=2, noise=given["noise"][:2], context_noise=given["context_noise"])
        np.testing.assert_allclose(shorter, longer[:, :2], atol=1e-6)


@every_mode
def test_resetting_forgets_frames_states_noise_and_errors(family_bundle, name, context):
    def watched(forecaster: Forecaster) -> tuple[list[float | None], np.ndarray]:
        said = [forecaster.observe(frame).surprise for frame in clip_for(forecaster, 5)]
        return said, forecaster.forecast()

    with open_on(family_bundle(name), context=context) as forecaster:
        said, futures = watched(forecaster)
        forecaster.observe(clip_for(forecaster, 1, seed=9)[0])
        forecaster.reset()
        again_said, again = watched(forecaster)
        assert again_said == said
        np.testing.assert_array_equal(again, futures)
        forecaster.warm_up()
        warm_said, warm = watched(forecaster)
        assert warm_said == said
        np.testing.assert_array_equal(warm, futures)


@pytest.mark.parametrize("name", sampled(STREAMS, SAMPLE))
def test_a_window_and_a_stream_of_its_length_say_the_same(family_bundle, name):
    results = []
    for context in ("window", "stream"):
        with open_on(family_bundle(name), context=context) as forecaster:
            clip = clip_for(forecaster, forecaster.manifest.generation.n_past)
            results.append(([forecaster.observe(frame).surprise for frame in clip], forecaster.forecast()))
    (said, futures), (streamed_said, streamed) = results
    assert said == pytest.approx(streamed_said)
    np.testing.assert_allclose(futures, streamed, atol=1e-6)


def test_the_surprise_of_a_frame_model_is_its_error_over_that_of_the_earlier_frames(family_bundle):
    with open_on(family_bundle("predrnn"), samples=1, horizon=1) as forecaster:
        assert forecaster.surprise_unit == "relative"
        errors, seen = [], []
        for frame in clip_for(forecaster, 8):
            seen.append(forecaster.observe(frame))
            errors += [score.mse_mean for score in seen[-1].scores]
            if forecaster.ready:
                forecaster.forecast()
    assert [each.surprise for each in seen[:2]] == [None, None]
    raw = [each.raw_surprise for each in seen[1:]]
    assert raw[2:] == pytest.approx(errors, rel=1e-5)
    expected = [(raw[i] / np.mean(raw[:i])) ** 0.5 for i in range(1, len(raw))]
    assert [each.surprise for each in seen[2:]] == pytest.approx(expected, rel=1e-5)


def test_the_usual_error_is_at_least_noise_and_follows_the_camera():
    error = RelativeError()
    assert error.of(1e-9).value is None
    assert error.of(4e-4).value == pytest.approx(2.0)  # not 632: nothing had moved before
    for _ in range(5 * 600):
        latest = error.of(4e-4)
    assert latest.value == pytest.approx(1.0, rel=0.01)
    assert latest.raw == 4e-4


def test_srvp_needs_a_whole_window_for_its_surprise(family_bundle):
    with open_on(family_bundle("srvp-skips")) as forecaster:
        assert forecaster.surprise_unit == "nats"
        said = [forecaster.observe(frame).surprise for frame in clip_for(forecaster, 5)]
    assert said[:2] == [None, None]
    assert all(value > 0 for value in said[2:])
    with pytest.raises(UsageError, match="closed"):
        _ = forecaster.surprise_unit


def test_the_surprise_of_an_ensemble_is_the_error_of_its_mean_over_that_of_the_earlier_frames(family_bundle):
    with open_on(family_bundle("ensemble")) as forecaster, open_on(family_bundle("ensemble")) as other:
        assert forecaster.surprise_unit == "relative"
        clip, said, errors = clip_for(forecaster, 7), [], []
        noise = NoiseSource(0)  # the same for every frame
        size = forecaster.manifest.model.z_dim
        given = {"context_noise": noise.draw(1, 4, size), "noise": noise.draw(1, 4, size)}
        for frame in clip:
            said.append(forecaster.observe(frame).surprise)
            if other.ready:
                predicted = other.forecast(samples=4, horizon=1, **given).mean(0)[0]
                errors.append(float(np.mean((predicted - frame) ** 2)))
            other.observe(frame)
    assert said[:4] == [None] * 4
    expected = [(errors[i] / np.mean(errors[:i])) ** 0.5 for i in range(1, len(errors))]
    assert said[4:] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", sampled(WINDOWS_ONLY, SAMPLE))
def test_what_reads_windows_alone_has_no_stream(family_bundle, name):
    with pytest.raises(UsageError, match="no stream context"):
        open_on(family_bundle(name), context="stream")


@pytest.mark.parametrize("at_once", [1, 3, 6, 7, 100])
def test_decoding_in_parts_changes_nothing(family_bundle, monkeypatch, at_once):
    frames = []
    for limit in (64, at_once):
        monkeypatch.setattr(frame_decoder, "_FRAMES", limit)
        with open_on(family_bundle("srvp-skips"), samples=3, horizon=5) as forecaster:
            for frame in clip_for(forecaster, 3):
                forecaster.observe(frame)
            frames.append(forecaster.forecast(**noise_for(forecaster, 3, 5)))
    np.testing.assert_allclose(frames[0], frames[1], atol=1e-6)


@pytest.mark.parametrize("name", sampled(["fused", "spatial", "srvp", "srvp-skips", "ensemble"], {"fused", *SAMPLE}))
def test_prime_accepts_the_context_at_batch_1_or_b(family_bundle, fused_bundle, name):
    bundle = fused_bundle if name == "fused" else family_bundle(name)
    session = onnxruntime.InferenceSession(graph_bytes(bundle, "prime"), providers=["CPUExecutionProvider"])
    shapes = {tensor.name: tensor.shape for tensor in Bundle.open(bundle).manifest.variants["fp32"].graphs["prime"].inputs}
    eps = draw(1, *(5 if size == "batch" else size for size in shapes["eps"]))
    h_seq = draw(2, *(1 if size == "cond_batch" else size for size in shapes["h_seq"]))
    shared = session.run(None, {"h_seq": h_seq, "eps": eps})
    each = session.run(None, {"h_seq": np.repeat(h_seq, 5, axis=1), "eps": eps})
    for output, one, many in zip(session.get_outputs(), shared, each, strict=True):
        np.testing.assert_allclose(
            np.broadcast_to(one, many.shape), many, atol=1e-6 if name == "fused" else 1e-5, err_msg=output.name
        )
