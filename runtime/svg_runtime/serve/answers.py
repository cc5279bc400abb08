"""Futures become the bytes of an answer: raw numbers, .npy, .npz, a PNG of all frames, or a summary in JSON."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from svg_runtime.serve.problems import ProblemError
from svg_runtime.serve.schema import Dtype, ForecastSummary, Format, What

FloatArray = NDArray[np.float32]

MEDIA_TYPES: dict[Format, str] = {
    "raw": "application/octet-stream",
    "npy": "application/x-npy",
    "npz": "application/x-npz",
    "png": "image/png",
    "json": "application/json",
}
AXES: dict[What, str] = {
    "samples": "samples,steps,height,width,channels",
    "mean": "steps,height,width,channels",
    "mean_and_spread": "2,steps,height,width,channels",
}
_PNG_SIDE = 1_000_000  # pixels, the limit of libpng
_SPREAD_GAIN = 2.0  # in a PNG: the standard deviation of values in [0, 1] is at most 0.5


@dataclass(frozen=True)
class Answer:
    """A body and its headers."""

    body: bytes
    media_type: str
    headers: dict[str, str] = field(default_factory=dict)


def encode(futures: FloatArray, what: What, form: Format, dtype: Dtype) -> Answer:
    """Return futures (S, T, H, W, C) in the form that a client asked for; see docs/serve.md for the layouts."""
    parts = _parts(futures, what)
    values = next(iter(parts.values())) if len(parts) == 1 else np.stack(list(parts.values()))
    if form == "png":
        return Answer(_png(values, what), MEDIA_TYPES[form])
    headers = {"Svg-Shape": ",".join(map(str, values.shape)), "Svg-Dtype": dtype, "Svg-Axes": AXES[what]}
    if form == "raw":
        return Answer(_as_dtype(values, dtype).tobytes(), MEDIA_TYPES[form], headers)
    stream = io.BytesIO()
    if form == "npy":
        np.save(stream, _as_dtype(values, dtype))
    else:
        arrays: dict[str, Any] = {name: _as_dtype(part, dtype) for name, part in parts.items()}
        np.savez(stream, **arrays)
    return Answer(stream.getvalue(), MEDIA_TYPES[form], headers)


def summarize(futures: FloatArray, last_frame: FloatArray, index: int) -> ForecastSummary:
    """Return a forecast in a few numbers.

    Args:
        futures: (S, T, H, W, C).
        last_frame: (H, W, C) that was observed last.
        index: of that frame.
    """
    pixels = (1, 2, 3)
    return ForecastSummary(
        index=index,
        samples=futures.shape[0],
        horizon=futures.shape[1],
        spread=tuple(futures.std(axis=0).mean(axis=pixels).tolist()),
        change=tuple(np.abs(futures.mean(axis=0) - last_frame).mean(axis=pixels).tolist()),
    )


def _parts(futures: FloatArray, what: What) -> dict[str, FloatArray]:
    if what == "samples":
        return {"samples": futures}
    mean = {"mean": futures.mean(axis=0)}
    return mean if what == "mean" else {**mean, "spread": futures.std(axis=0)}


def _as_dtype(values: FloatArray, dtype: Dtype) -> NDArray[Any]:
    """Little-endian float32, or uint8."""
    if dtype == "uint8":
        pixels: NDArray[np.uint8] = np.rint(np.clip(values, 0, 1) * np.float32(255)).astype(np.uint8)
        return pixels
    return values.astype("<f4", copy=False)


def _png(values: FloatArray, what: What) -> bytes:
    """A row for every sample, for the mean, or for mean and spread; steps from left to right."""
    if what == "mean":
        values = values[None]
    elif what == "mean_and_spread":
        values = values * np.array([1, _SPREAD_GAIN], np.float32)[:, None, None, None, None]
    rows, steps, height, width, channels = values.shape
    if max(rows * height, steps * width) > _PNG_SIDE:
        raise ProblemError(
            "too-large",
            f"a PNG of {steps * width}x{rows * height} pixels",
            f"at most {_PNG_SIDE} in each direction",
            advice="ask for another format",
        )
    picture = _as_dtype(values, "uint8").transpose(0, 2, 1, 3, 4).reshape(rows * height, steps * width, channels)
    _, encoded = cv2.imencode(".png", picture if channels == 1 else cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    return encoded.tobytes()
