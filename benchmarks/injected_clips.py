"""Clips for `injected_anomalies.py`: real video of a camera that stands still, and six kinds of anomalies to inject into it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import cv2
import numpy as np
from numpy.typing import NDArray

from svg_common.frames import covering_size
from svg_runtime.live.events import EventLog
from svg_runtime.live.sources.files import FileSource
from svg_runtime.live.stop import StopRequest

Pictures = NDArray[np.uint8]  # (T, H, W, 3) RGB, one model interval apart
Injection = Callable[[Pictures, int, int, np.random.Generator], Pictures]

SETTLE_S = 6.0  # of normal video before the first anomaly, in which the signals learn what is usual
ANOMALY_S = 3.0
_SHORTEST_S = 1.0  # of a sped-up end of a clip: three times as fast needs three times as much video
_EVERY_S = 15.0  # one anomaly of each kind in so much video
_LATEST_S = 60.0
_SIDE = 128  # pixels of the shorter side on which anomalies are drawn: twice the usual frame of a model
_FAST = 3
_SHAKE = 0.04  # largest shift, as a share of the shorter side
_OBJECT = (0.2, 0.3)  # smallest and largest height, likewise


@dataclass(frozen=True)
class Recording:
    """One clip of normal video: its pictures, and where anomalies begin."""

    name: str
    pictures: Pictures
    starts: tuple[int, ...]


def read_recording(file: Path, interval_s: float) -> Recording | None:
    """A clip at the model's interval, up to its first pause; None if it is too short.

    Where anomalies begin depends on the clip alone: they stay where they are when other clips are added.
    """
    pictures = _read(file, interval_s)
    starts = _starts(pictures, interval_s)
    return Recording(file.stem, pictures, starts) if starts else None


def _generator(seed: int, name: str) -> np.random.Generator:
    return np.random.default_rng([seed, crc32(name.encode())])


def _read(file: Path, interval_s: float) -> Pictures:
    pictures: list[Pictures] = []
    with StopRequest() as stop:
        source = FileSource(file, interval_s, stop, EventLog(announce=lambda message: None))
        for frame in source.frames():
            if frame.clip:
                break
            height, width = covering_size(frame.image, _SIDE, _SIDE)
            colour = frame.image if frame.image.ndim == 3 else cv2.cvtColor(frame.image, cv2.COLOR_GRAY2RGB)
            pictures.append(cv2.resize(colour, (width, height), interpolation=cv2.INTER_AREA))
    return np.stack(pictures)


def _starts(pictures: Pictures, interval_s: float) -> tuple[int, ...]:
    """The liveliest moment of each part of about `_EVERY_S`, since an empty road looks alike in reverse.

    There is none in a clip that is too short.
    """
    first = round(SETTLE_S / interval_s)
    last = min(len(pictures) - 1 - _FAST * round(_SHORTEST_S / interval_s), round(_LATEST_S / interval_s))
    if last < first:
        return ()
    second = round(1 / interval_s)
    change = np.array([0.0, *(np.abs(cv2.absdiff(a, b)).mean() for a, b in itertools.pairwise(pictures))])
    around = np.array([change[start - second : start + 2 * second].mean() for start in range(first, last + 1)])
    parts = np.array_split(around, max(1, round(len(around) * interval_s / _EVERY_S)))
    begins = np.cumsum([first, *map(len, parts[:-1])])
    return tuple(int(begin + part.argmax()) for begin, part in zip(begins, parts, strict=True))


def inject(kind: str, recording: Recording, start: int, interval_s: float, seed: int) -> Pictures:
    """The pictures that a camera shows from frame `start` on, all of them anomalous, in place of the recording's.

    Args:
        kind: a key of `INJECTIONS`.
        recording: normal video.
        start: first anomalous frame.
        interval_s: seconds between frames.
        seed: of what is random.
    """
    rng = _generator(seed, f"{recording.name} {kind} {start}")
    return INJECTIONS[kind](recording.pictures, start, round(ANOMALY_S / interval_s), rng)


def reversed_playback(pictures: Pictures, start: int, frames: int, rng: np.random.Generator) -> Pictures:
    """From the last normal picture backwards."""
    return pictures[np.maximum(start - 2 - np.arange(frames), 0)]


def faster(pictures: Pictures, start: int, frames: int, rng: np.random.Generator) -> Pictures:
    """Three times as fast, as long as the clip lasts."""
    return pictures[start - 1 + _FAST :: _FAST][:frames]


def frozen(pictures: Pictures, start: int, frames: int, rng: np.random.Generator) -> Pictures:
    """The last normal picture again and again."""
    return np.repeat(pictures[start - 1 : start], frames, axis=0)


def covered(pictures: Pictures, start: int, frames: int, rng: np.random.Generator) -> Pictures:
    """Something dark right before the lens: a smooth gradient, and the noise of a sensor in the dark."""
    height, width = pictures.shape[1:3]
    colour = rng.uniform(5, 50, 3)
    y, x = np.mgrid[0:height, 0:width]
    angle = rng.uniform(0, 2 * np.pi)
    slope = np.cos(angle) * (x / width - 0.5) + np.sin(angle) * (y / height - 0.5)
    smooth = colour * (1 + 0.5 * slope[..., None])
    return np.clip(smooth + rng.normal(0, 2, (frames, height, width, 3)), 0, 255).astype(np.uint8)


def shaken(pictures: Pictures, start: int, frames: int, rng: np.random.Generator) -> Pictures:
    """Every picture shifted by up to 4 % of the shorter side, in any direction; the border is mirrored."""
    largest = _SHAKE * min(pictures.shape[1:3])
    size = pictures.shape[2], pictures.shape[1]
    made = [
        cv2.warpAffine(picture, np.float32([[1, 0, x], [0, 1, y]]), size, borderMode=cv2.BORDER_REFLECT)
        for picture, (x, y) in zip(pictures[start : start + frames], rng.uniform(-largest, largest, (frames, 2)), strict=False)
    ]
    return np.stack(made)


def pasted_object(pictures: Pictures, start: int, frames: int, rng: np.random.Generator) -> Pictures:
    """An ellipse with a texture of its own comes in at the left or right of the central square, and crosses it."""
    height, width = pictures.shape[1:3]
    side = min(height, width)  # of the square that a model sees of the picture
    tall = rng.uniform(*_OBJECT) * side
    wide = tall * rng.uniform(0.5, 1.2)
    shade = rng.uniform(30, 225) + rng.uniform(-25, 25, 3)
    spots = rng.uniform(-40, 40, (9, 9, 3)).astype(np.float32)
    texture = shade + cv2.resize(spots, (2 * side, 2 * side), interpolation=cv2.INTER_CUBIC)
    x_before, x_after = -side / 2, (side + wide) / 2  # of its centre, from the picture's: half of it at first
    y_before, y_after = rng.uniform(-0.25, 0.25, 2) * side
    direction = rng.choice((-1, 1))
    made = pictures[start : start + frames].astype(np.float32)
    for number, picture in enumerate(made):
        share = number / frames
        x = width / 2 + direction * (x_before + share * (x_after - x_before))
        y = height / 2 + y_before + share * (y_after - y_before)
        moved = cv2.warpAffine(texture, np.float32([[1, 0, x - side], [0, 1, y - side]]), (width, height))
        picture += _ellipse(height, width, (x, y), (wide / 2, tall / 2))[..., None] * (moved - picture)
    return np.clip(made, 0, 255).astype(np.uint8)


def _ellipse(height: int, width: int, centre: tuple[float, float], radii: tuple[float, float]) -> NDArray[np.float32]:
    """(height, width): 1 inside, 0 outside, with a soft edge of about a pixel."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    distance = np.hypot((x - centre[0]) / radii[0], (y - centre[1]) / radii[1])
    return np.clip((1 - distance) * min(radii) + 0.5, 0, 1).astype(np.float32)


INJECTIONS: dict[str, Injection] = {
    "reversed": reversed_playback,
    "three times as fast": faster,
    "frozen": frozen,
    "covered lens": covered,
    "shaken camera": shaken,
    "object pasted in": pasted_object,
}
