"""Forecasts for `injected_anomalies.py`, kept on disk: what svg-live has of each frame when it judges it.

A forecast costs tens of milliseconds, a signal less than one: signals are tuned on forecasts that were made once.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import numpy as np
from injected_clips import Pictures
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from svg_common.frames import fit_frame
from svg_runtime.forecast.forecaster import Forecaster, Observation
from svg_runtime.forecast.scores import ForecastMemory

Floats = NDArray[np.float32]
Frames = NDArray[np.uint8]  # (T, H, W, C) at the model's size


@dataclass(frozen=True)
class Tape:
    """What was seen and forecast in some frames in a row.

    Attributes:
        first: number of the first of them since the context began.
        frames: (T, H, W, C).
        raw_surprise: (T,) as in `Observation`, nan for None.
        futures: (T, samples, leads, H, W, C) forecast after each frame; zeros before the context was full.
        n_past: context frames.
    """

    first: int
    frames: Frames
    raw_surprise: NDArray[np.float64]
    futures: NDArray[np.float16]
    n_past: int

    def frame(self, number: int) -> Floats:
        """(H, W, C) in [0, 1]."""
        return as_float(self.frames[number - self.first])

    def forecast(self, number: int) -> Floats:
        """(samples, leads, H, W, C) forecast after a frame."""
        return self.futures[number - self.first].astype(np.float32)


def record(forecaster: Forecaster, pictures: Pictures, first: int, folder: Path) -> Tape:
    """Observe all pictures as svg-live does, and forecast from frame `first` on; or read what was recorded of these pictures.

    It is kept beside `folder`, whose name gets a checksum of the pictures: those of other ones are others.
    The frames before `first` are context.
    """
    folder = folder.with_name(f"{folder.name}-{crc32(pictures):08x}")
    if not (folder / "raw_surprise.npy").exists():
        shutil.rmtree(folder, ignore_errors=True)  # of an earlier version
        partial = folder.with_name(f"{folder.name}.partial")
        partial.mkdir(parents=True, exist_ok=True)
        _record(forecaster, pictures, first, partial)
        partial.rename(folder)
    arrays = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("frames", "raw_surprise", "futures"))
    return Tape(first, *arrays, n_past=forecaster.manifest.generation.n_past)


def _record(forecaster: Forecaster, pictures: Pictures, first: int, folder: Path) -> None:
    frame = forecaster.manifest.frame
    shape = frame.height, frame.width, frame.channels
    count = len(pictures) - first
    size = (count, forecaster.samples, forecaster.horizon, *shape)
    futures = open_memmap(folder / "futures.npy", mode="w+", dtype=np.float16, shape=size)
    fitted = np.stack([fit_frame(picture, *shape) for picture in pictures])
    raw_surprise = np.full(len(fitted), np.nan)
    forecaster.reset()
    for number, picture in enumerate(fitted):
        observed = forecaster.observe(as_float(picture)).raw_surprise
        raw_surprise[number] = np.nan if observed is None else observed
        if number >= first and forecaster.ready:
            futures[number - first] = forecaster.forecast()
    futures.flush()
    np.save(folder / "frames.npy", fitted[first:])
    np.save(folder / "raw_surprise.npy", raw_surprise[first:])


def as_float(picture: Frames) -> Floats:
    """uint8 -> float32 in [0, 1]."""
    return picture.astype(np.float32) / np.float32(255)


def replay(tape: Tape, memory: ForecastMemory) -> Iterator[tuple[Floats, Observation]]:
    """Frames and observations as the Forecaster gave them. `memory` has the forecasts that were made before the tape."""
    for offset in range(len(tape.frames)):
        number = tape.first + offset
        frame = tape.frame(number)
        scores = memory.score(number, frame)
        raw = tape.raw_surprise[offset]
        known = None if np.isnan(raw) else float(raw)
        yield frame, Observation(number, None, scores, memory.latest(number), raw_surprise=known)
        memory.observe(number, frame)
        if number + 1 >= tape.n_past:
            memory.remember(number, frame, tape.forecast(number))
