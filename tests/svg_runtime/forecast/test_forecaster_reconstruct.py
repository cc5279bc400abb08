"""Forecaster.reconstruct: latents from the posterior of the true next frames, in closed loop."""

from __future__ import annotations

import numpy as np
import pytest

from svg_runtime import Forecaster
from svg_runtime.errors import ContextNotReadyError, FrameError, UsageError
from tests.svg_runtime.bundle_helpers import from_torch, to_torch


def test_reconstruction_equals_pytorch_and_uses_the_posterior_means_without_noise(tiny_bundle, tiny_model, frames):
    import torch

    with Forecaster.open(tiny_bundle, samples=2, horizon=5) as forecaster:
        for frame in frames[:3]:
            forecaster.observe(frame)
        given = forecaster.reconstruct(frames[3:])
    expected = tiny_model.reconstruct(to_torch(frames, 1), torch.zeros(5, 1, 4), torch.zeros(2, 1, 4))
    assert given.shape == (5, 64, 64, 1)
    np.testing.assert_allclose(given, from_torch(expected)[0], atol=1e-4)


def test_reconstruction_changes_neither_observations_nor_seeded_draws(tiny_bundle, frames):
    def run(with_reconstruction: bool):
        with Forecaster.open(tiny_bundle, samples=2, horizon=2, seed=3) as forecaster:
            surprises = []
            for index, frame in enumerate(frames[:5]):
                surprises.append(forecaster.observe(frame).surprise)
                if with_reconstruction and index >= 2:
                    forecaster.reconstruct(frames[index + 1 : index + 3])
            return surprises, forecaster.forecast()

    (surprises_a, futures_a), (surprises_b, futures_b) = run(False), run(True)
    assert surprises_a == surprises_b
    np.testing.assert_array_equal(futures_a, futures_b)


def test_reconstruction_refusals_name_the_next_step(tiny_bundle, frames):
    with Forecaster.open(tiny_bundle, context="stream") as forecaster:
        for frame in frames[:3]:
            forecaster.observe(frame)
        with pytest.raises(UsageError, match="context='window'"):
            forecaster.reconstruct(frames[3:])
    with Forecaster.open(tiny_bundle) as forecaster:
        with pytest.raises(ContextNotReadyError):
            forecaster.reconstruct(frames[3:])
        for frame in frames[:3]:
            forecaster.observe(frame)
        with pytest.raises(UsageError, match="truth contains no frames"):
            forecaster.reconstruct(frames[:0])
        with pytest.raises(FrameError, match="shape"):
            forecaster.reconstruct(frames[3:, :32])
        for truth in (None, 0.5, [[0.0], [0.0, 1.0]]):
            with pytest.raises(FrameError, match=r"float32 in \[0, 1\]"):
                forecaster.reconstruct(truth)
        with pytest.raises(UsageError, match="noise"):
            forecaster.reconstruct(frames[3:], noise=np.zeros((5, 2, 4)))
