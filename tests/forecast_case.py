"""Frames and noise for a forecast in JavaScript, as JSON, and what the Forecaster makes of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from svg_common.digits import digit_stream
from svg_common.frames import fit_frame
from svg_runtime import Forecaster
from svg_runtime.bundle.manifest import Manifest
from svg_runtime.bundle.reader import Bundle
from svg_runtime.forecast import sampled_context
from svg_runtime.forecast.noise import NoiseSource

TOLERANCE = 1e-4


@dataclass(frozen=True)
class ForecastCase:
    """One forecast after all observed frames."""

    given: dict[str, Any]  # flat lists, channels first
    futures: np.ndarray  # (samples, horizon, C, H, W)
    surprises: list[float | None]

    @classmethod
    def of(cls, bundle: Path, samples: int = 3, horizon: int = 10, more: int = 2) -> ForecastCase:
        """Observe `more` frames than the model needs, and forecast."""
        manifest, rng = Bundle.open(bundle).manifest, np.random.default_rng(5)
        z_dim = manifest.model.z_dim
        frames = moving_digits(manifest, manifest.generation.n_past + more)
        context_noise = rng.standard_normal((manifest.context_draws, samples, z_dim), np.float32)
        noise = rng.standard_normal((horizon, samples, z_dim), np.float32)
        with Forecaster.open(bundle, backend="cpu", precision="fp32", threads=1) as forecaster:
            surprises = [forecaster.observe(frame).surprise for frame in frames]
            futures = forecaster.forecast(samples, horizon, noise=noise, context_noise=context_noise)
        given = {
            "samples": samples,
            "horizon": horizon,
            "frames": frames.transpose(0, 3, 1, 2).ravel().tolist(),
            "contextNoise": context_noise.ravel().tolist(),
            "noise": noise.ravel().tolist(),
            "surpriseNoise": surprise_noise(manifest),
        }
        return cls(given, futures.transpose(0, 1, 4, 2, 3), surprises)

    def compare(self, answer: dict[str, Any]) -> None:
        """Compare with {"futures": [...], "surprises": [...]}."""
        futures = np.array(answer["futures"], np.float32).reshape(self.futures.shape)
        np.testing.assert_allclose(futures, self.futures, rtol=0, atol=TOLERANCE)
        assert [value is None for value in answer["surprises"]] == [value is None for value in self.surprises]
        pairs = zip(answer["surprises"], self.surprises, strict=True)
        actual, expected = np.array([pair for pair in pairs if pair[1] is not None]).reshape(-1, 2).T
        np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-4)


def moving_digits(manifest: Manifest, count: int) -> np.ndarray:
    """(count, H, W, C) float32, in color as soft as pictures of a camera: edges that move amplify the rounding of an engine."""
    draw, spec = digit_stream(3, 2), manifest.frame
    pictures = [(draw() * 255).astype(np.uint8) for _ in range(count)]
    if spec.channels == 3:
        pictures = [np.asarray(cv2.GaussianBlur(picture, (0, 0), 3), np.uint8) for picture in pictures]
    fitted = [fit_frame(picture, spec.height, spec.width, spec.channels) for picture in pictures]
    return np.stack(fitted).astype(np.float32) / np.float32(255)


def surprise_noise(manifest: Manifest) -> dict[str, list[float]]:
    """What models that measure surprise with samples draw for it."""
    source, samples, size = NoiseSource(0), sampled_context.SAMPLES, manifest.model.z_dim
    context = source.draw(manifest.context_draws, samples, size)
    return {"contextNoise": context.ravel().tolist(), "noise": source.draw(1, samples, size).ravel().tolist()}
