"""Strips (PNG) and loops (GIF) of sequences in labelled rows, such as the truth, the best sample and random ones."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from svg_common.files import atomic_file
from svg_common.printable import printable
from svg_train.evaluation import Futures

_GAP = 2  # pixels between frames
_LABEL_WIDTH = 84
_OBSERVED, _FORECAST = (90, 160, 90), (200, 110, 60)  # RGB marks under observed and forecast frames
_MARGIN = 10  # below the rows of a sequence
_RANDOM_ROWS = 3
_MOST_FORECASTS = 200  # frames of a forecast in the pictures of a training
_MOST_PIXELS = 80_000_000  # of a strip


Rows = list[tuple[str, Tensor]]  # of one sequence: label, and frames (T, C, H, W) in [0, 1]; all rows of equal length


def save_strips(folder: Path, name: str, examples: list[Futures], n_past: int) -> Path:
    """Write truth, best sample and random ones of `examples` as `save_rows` does; returns the PNG's path.

    Of a long horizon, its beginning alone is drawn, and of large frames fewer examples and moments: a picture can be looked
    at then, and both files fit in memory and are read without Pillow's warning of 89 million pixels.
    """
    horizon, height, width = len(examples[0].truth) - n_past, *examples[0].truth.shape[-2:]
    rows = 2 + min(_RANDOM_ROWS, len(examples[0].errors))
    moment_pixels = (rows * (height + _GAP + 2) + _MARGIN) * (width + _GAP)
    observed, forecast = _shown_moments(n_past, horizon, _MOST_PIXELS // moment_pixels)
    shown = examples[: max(1, _MOST_PIXELS // (moment_pixels * (observed + forecast)))]
    return save_rows(folder, name, [_rows(example, n_past, observed, forecast) for example in shown], observed)


def _shown_moments(n_past: int, horizon: int, most: int) -> tuple[int, int]:
    """How many observed and forecast frames to draw around the start of a forecast; of too many, a third are observed."""
    forecast = min(horizon, _MOST_FORECASTS)
    if n_past + forecast <= most:
        return n_past, forecast
    observed = min(n_past, max(1, most // 3))
    return observed, min(forecast, max(1, most - observed))


def save_rows(folder: Path, name: str, sequences: list[Rows], n_past: int) -> Path:
    """Write `name`.png (all frames side by side) and `name`.gif (the same in motion) into `folder`; returns the PNG's path.

    The first `n_past` frames are marked as observed, the others as forecast.
    """
    png = folder / f"{name}.png"
    strip = np.concatenate([strip_of_rows(rows, n_past) for rows in sequences])
    with atomic_file(png) as partial:
        Image.fromarray(strip).save(partial, format="PNG", optimize=True)
    images = (Image.fromarray(_moment(sequences, n_past, step)) for step in range(len(sequences[0][0][1])))
    with atomic_file(png.with_suffix(".gif")) as partial:
        next(images).save(partial, format="GIF", save_all=True, append_images=images, duration=150, loop=0)
    return png


def _rows(example: Futures, n_past: int, observed: int, forecast: int) -> Rows:
    """Labelled rows of so many observed and forecast frames: observed ones stand before every forecast."""
    truth, samples = example.truth[n_past - observed : n_past + forecast], example.samples[:, :forecast]
    past, order = truth[:observed], example.errors.argsort()
    rows = [("truth", truth), ("best", torch.cat([past, samples[order[0]]]))]
    others = range(min(_RANDOM_ROWS, len(order)))  # samples are exchangeable, so the first ones are random ones
    return rows + [(f"sample {index + 1}", torch.cat([past, samples[index]])) for index in others]


def strip_of_rows(rows: Rows, n_past: int) -> NDArray[np.uint8]:
    """All frames of one sequence side by side, (H, W, 3) RGB; marked as by `save_rows`."""
    lines = [_line(label, frames, n_past) for label, frames in rows]
    return np.concatenate([*lines, np.full((_MARGIN, lines[0].shape[1], 3), 24, np.uint8)])


def _line(label: str, frames: Tensor, n_past: int) -> NDArray[np.uint8]:
    height, width = frames.shape[-2:]
    line = np.full((height + _GAP + 2, _LABEL_WIDTH + len(frames) * (width + _GAP), 3), 24, np.uint8)
    cv2.putText(line, printable(label), (6, height // 2 + 4), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (220, 220, 220), 1, cv2.LINE_AA)
    for index, frame in enumerate(frames):
        left = _LABEL_WIDTH + index * (width + _GAP)
        line[:height, left : left + width] = _rgb(frame)
        line[height : height + 2, left : left + width] = _OBSERVED if index < n_past else _FORECAST
    return line


def _moment(sequences: list[Rows], n_past: int, step: int) -> NDArray[np.uint8]:
    """All rows of all sequences at one time, as a grid: one line per sequence, enlarged twice."""
    lines = []
    for rows in sequences:
        cells = [_framed(frames[step], observed=step < n_past) for _, frames in rows]
        lines.append(np.concatenate(cells, axis=1))
    return np.concatenate(lines)


def _framed(frame: Tensor, observed: bool) -> NDArray[np.uint8]:
    image = _rgb(frame).repeat(2, axis=0).repeat(2, axis=1)
    bordered = np.empty((image.shape[0] + 6, image.shape[1] + 6, 3), np.uint8)
    bordered[:] = _OBSERVED if observed else _FORECAST
    bordered[3:-3, 3:-3] = image
    return bordered


def _rgb(frame: Tensor) -> NDArray[np.uint8]:
    image = (frame.clamp(0, 1).permute(1, 2, 0).numpy() * 255 + 0.5).astype(np.uint8)
    return np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image
