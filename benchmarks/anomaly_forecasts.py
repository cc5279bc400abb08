"""Forecasts of whole clips for `anomaly.py`, tile by tile: by a bundle, by a checkpoint, or by repeating the last frame."""

from __future__ import annotations

import contextlib
import itertools
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
import torch
from anomaly_clips import Pictures
from anomaly_scores import CELL, Floats

from svg_common.errors import UsageError
from svg_common.frames import fit_frame
from svg_runtime.forecast.forecaster import Forecaster
from svg_train.checkpoint import Checkpoint
from svg_train.config import build_config
from svg_train.losses import gaussian_kl

_MARGIN_PARTS = 8  # of a tile's side at each border: what enters there could not be forecast
_PIXELS_PER_BATCH = 1 << 20  # of frames that a checkpoint reads at once


class ClipForecaster(Protocol):
    """Forecasts every frame of a clip from those before it.

    Attributes:
        frame: height, width and channels of its frames; None: any.
        leads: forecasts of each frame, made 1, ..., leads frames earlier.
    """

    frame: tuple[int, int, int] | None
    leads: int

    def forecast(self, frames: Floats) -> tuple[Floats, Floats]:
        """Forecast frames (T, H, W, C) in [0, 1].

        Returns:
            (T, leads, H, W, C) forecasts of each frame, and (T,) raw surprise, see `Observation`; nan where there is none.
        """
        ...


class BundleForecaster:
    """A bundle in the runtime, frame by frame, as svg-live runs it, with every latent at the mean of its prior.

    Args:
        forecaster: opened with a horizon of as many leads as are wanted.

    Attributes:
        description: bundle, backend and precision: other ones make other forecasts.
    """

    def __init__(self, forecaster: Forecaster) -> None:
        frame = forecaster.manifest.frame
        self.frame: tuple[int, int, int] | None = (frame.height, frame.width, frame.channels)
        self.leads = forecaster.horizon
        self.description = f"{forecaster.manifest.bundle_id} on {forecaster.description.split('; ')[0]}"
        self._forecaster = forecaster
        z_dim, draws = forecaster.manifest.model.z_dim, forecaster.manifest.context_draws
        self._noise = {
            "noise": np.zeros((self.leads, 1, z_dim), np.float32),
            "context_noise": np.zeros((draws, 1, z_dim), np.float32),
        }

    def forecast(self, frames: Floats) -> tuple[Floats, Floats]:
        """As `ClipForecaster.forecast`."""
        forecasts, surprise = _nothing(frames, self.leads)
        self._forecaster.reset()
        for number, frame in enumerate(frames):
            observed = self._forecaster.observe(frame).raw_surprise
            surprise[number] = np.nan if observed is None else observed
            if self._forecaster.ready:
                (future,) = self._forecaster.forecast(samples=1, **self._noise)
                for lead, expected in enumerate(future[: len(frames) - number - 1]):
                    forecasts[number + 1 + lead, lead] = expected
        return forecasts, surprise


class CheckpointForecaster:
    """A checkpoint in PyTorch, many frames at once: the same forecasts as those of its bundle.

    Args:
        checkpoint: of any family.
        leads: forecasts of each frame.
        bf16: compute in bfloat16, where the processor has it.
    """

    def __init__(self, checkpoint: Checkpoint, leads: int, bf16: bool) -> None:
        config = checkpoint.config.model
        self.frame: tuple[int, int, int] | None = (config.height, config.width, config.channels)
        self.leads = leads
        self._model = checkpoint.build()
        self._config = config
        self._bf16 = bf16
        self._batch = max(1, _PIXELS_PER_BATCH // (config.height * config.width * config.n_past))

    @torch.no_grad()
    def forecast(self, frames: Floats) -> tuple[Floats, Floats]:
        """As `ClipForecaster.forecast`."""
        forecasts, surprise = _nothing(frames, self.leads)
        x = torch.from_numpy(np.moveaxis(frames, -1, 1).copy())
        last = torch.arange(self._config.n_past - 1, len(frames))  # of each context
        for ends in last.split(self._batch):
            context = torch.stack([x[ends - back] for back in reversed(range(self._config.n_past))])
            future, surprise[ends] = self._forecast(context)
            for lead in range(self.leads):
                known = ends + 1 + lead < len(frames)
                forecasts[ends[known] + 1 + lead, lead] = np.moveaxis(future[lead, known].numpy(), 1, -1)
        return forecasts, surprise

    def _forecast(self, context: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Futures (leads, B, C, H, W) and surprise (B,) of contexts (n_past, B, C, H, W)."""
        noise = torch.zeros(self.leads, context.shape[1], self._config.noise_dim)
        past = torch.zeros(self._config.context_draws, *noise.shape[1:])
        with torch.autocast("cpu", torch.bfloat16) if self._bf16 else contextlib.nullcontext():
            future = self._model.generate(context, noise, past).float()
            latents = self._model.latents(context, noise[:1], past) if self._config.noise_dim else None
        if latents is None:
            return future, torch.full((context.shape[1],), torch.nan)
        mu, logvar = latents.posterior_mu, latents.posterior_logvar
        zero = torch.zeros_like(mu)
        prior_mu, prior_logvar = (zero if each is None else each for each in (latents.prior_mu, latents.prior_logvar))
        return future, gaussian_kl(mu, logvar, prior_mu, prior_logvar).sum(1).float()


class RepeatLast:
    """The forecast that nothing changes, from the frame on from which a model with a context of `n_past` frames forecasts."""

    frame: tuple[int, int, int] | None = None

    def __init__(self, leads: int, n_past: int) -> None:
        self.leads = leads
        self._n_past = n_past

    def forecast(self, frames: Floats) -> tuple[Floats, Floats]:
        """As `ClipForecaster.forecast`."""
        forecasts, surprise = _nothing(frames, self.leads)
        for lead in range(self.leads):
            forecasts[self._n_past + lead :, lead] = frames[self._n_past - 1 : -1 - lead]
        return forecasts, surprise


def _nothing(frames: Floats, leads: int) -> tuple[Floats, Floats]:
    return np.full((len(frames), leads, *frames.shape[1:]), np.nan, np.float32), np.full(len(frames), np.nan)


def at_size(checkpoint: Checkpoint, picture_hw: tuple[int, int]) -> Checkpoint:
    """The same weights for whole pictures: a convolution fits any size.

    Raises:
        UsageError: the weights belong to one size.
    """
    model = checkpoint.config.model
    if model.family != "frames" or model.layer_norm:
        raise UsageError("--whole needs a checkpoint of the family 'frames' without --layer-norm\n  use --tile, or neither")
    tables = checkpoint.config.model_dump(mode="json")
    tables["model"] |= {"image_size": picture_hw[0], "image_width": picture_hw[1]}
    return Checkpoint(build_config(tables), checkpoint.weights)


@dataclass(frozen=True)
class Measured:
    """What a model says of one clip.

    Attributes:
        errors: (T, leads, h, w) mean squared errors of cells of 4 x 4 pixels, nan where no forecast was made.
        surprise: (T, 1, rows, columns) of tiles; nan where there is none.
    """

    errors: Floats
    surprise: Floats


def measure(forecaster: ClipForecaster, clip: Pictures, tile: int | None) -> Measured:
    """Forecast a clip (T, H, W) in tiles, and compare each with the truth at the model's size.

    Args:
        forecaster: of the tiles.
        clip: its sides are multiples of 4.
        tile: side in pixels; default: as large as the model's frame, or, without one, the picture.
    """
    side = (tile, tile) if tile else forecaster.frame[:2] if forecaster.frame else clip.shape[1:]
    rows, columns = (_Axis.over(length, each) for length, each in zip(clip.shape[1:], side, strict=True))
    errors = np.full((len(clip), forecaster.leads, clip.shape[1] // CELL, clip.shape[2] // CELL), np.nan, np.float32)
    surprise = np.full((len(clip), 1, len(rows.starts), len(columns.starts)), np.nan)
    for row, column in itertools.product(range(len(rows.starts)), range(len(columns.starts))):
        top, left = rows.starts[row], columns.starts[column]
        of_tile, surprise[:, 0, row, column] = _tile(forecaster, clip[:, top : top + side[0], left : left + side[1]])
        (to_y, from_y), (to_x, from_x) = rows.own_cells(row), columns.own_cells(column)
        errors[:, :, to_y, to_x] = of_tile[:, :, from_y, from_x]
    return Measured(errors, surprise)


@dataclass(frozen=True)
class _Axis:
    """Tiles along one side of a picture: as few as possible that overlap by a quarter of their side."""

    starts: tuple[int, ...]  # multiples of a cell
    side: int
    length: int

    @classmethod
    def over(cls, length: int, side: int) -> _Axis:
        if side > length:
            raise UsageError(f"a tile of {side} pixels does not fit in a picture of {length}\n  expected a smaller --tile")
        stride = side - 2 * (side // _MARGIN_PARTS)
        starts = np.linspace(0, length - side, 1 - (side - length) // stride)
        return cls(tuple(int(start) // CELL * CELL for start in starts), side, length)

    def own_cells(self, index: int) -> tuple[slice, slice]:
        """The cells that the picture takes from a tile, up to the middle of each overlap: in the picture, and in the tile."""
        starts, last = self.starts, len(self.starts) - 1
        begin = 0 if index == 0 else (starts[index - 1] + self.side + starts[index]) // 2 // CELL
        end = self.length // CELL if index == last else (starts[index] + self.side + starts[index + 1]) // 2 // CELL
        first = starts[index] // CELL
        return slice(begin, end), slice(begin - first, end - first)


def _tile(forecaster: ClipForecaster, pictures: Pictures) -> tuple[Floats, Floats]:
    """Errors of cells (T, leads, h, w) and surprise (T,) of one tile."""
    height, width, channels = forecaster.frame or (*pictures.shape[1:], 1)
    fitted = np.stack([fit_frame(picture, height, width, channels) for picture in pictures])
    frames = fitted.astype(np.float32) / np.float32(255)
    forecasts, surprise = forecaster.forecast(frames)
    squares = ((forecasts - frames[:, None]) ** 2).mean(-1)
    size = pictures.shape[2] // CELL, pictures.shape[1] // CELL
    cells = [[cv2.resize(lead, size, interpolation=cv2.INTER_AREA) for lead in each] for each in squares]
    return np.array(cells, np.float32), surprise
