"""Shared by the tests of the live pipeline: real little video files, and a reader for what was written."""

from __future__ import annotations

import errno
import re
from collections.abc import Collection, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from svg_common.digits import digit_stream
from svg_runtime.live.outputs import h264

FFMPEG_STEPS = ("open", "reformat", "encode", "mux", "close")  # of writing a video


def documented_keys() -> set[str]:
    """What the page of svg-live calls by name below Statistics."""
    page = (Path(__file__).parents[3] / "docs" / "live.md").read_text(encoding="utf-8")
    _, _, section = page.partition("\n## Statistics\n")
    return set(re.findall(r"`(?:\w+\.)?(\w+)`", section.partition("\n## ")[0]))


def write_video(
    path: Path,
    frames: int = 20,
    fps: int = 10,
    size: int = 64,
    seed: int = 0,
    brightness_code: bool = False,
    times_s: Sequence[float] | None = None,
    black: Collection[int] = (),
) -> Path:
    """Write a real H.264 file: bouncing digits, or frames whose brightness encodes their number (10 per frame).

    `times_s`: time of each frame, instead of a constant rate. `black`: numbers of frames that carry nothing.
    """
    draw = digit_stream(seed, 1, 64)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "5", "preset": "ultrafast"})
        stream.width = stream.height = size
        stream.pix_fmt = "yuv420p"
        if times_s is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for number in range(frames):
            picture = np.full((size, size), number * 10 % 250, np.uint8)
            if not brightness_code:
                picture = np.kron((draw() * 255).astype(np.uint8), np.ones((size // 64, size // 64), np.uint8))
            if number in black:
                picture = np.zeros_like(picture)
            frame = av.VideoFrame.from_ndarray(np.repeat(picture[:, :, None], 3, 2), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, fps)
            if times_s is not None:
                frame.pts, frame.time_base = round(1000 * times_s[number]), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def frame_numbers(images: list[np.ndarray]) -> list[int]:
    """Numbers of frames that `write_video(brightness_code=True)` wrote."""
    return [round(float(image.mean()) / 10) for image in images]


def read_pictures(path: Path) -> list[np.ndarray]:
    """All frames of a video, (H, W, 3) RGB."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def read_times(path: Path) -> list[float]:
    """Presentation times in seconds of all frames of a video, each one decoded."""
    with av.open(str(path)) as container:
        return [float(frame.time) for frame in container.decode(video=0)]


class _Failing:
    """An object of PyAV, one step of which fails."""

    def __init__(self, plain: Any, step: str) -> None:
        vars(self).update(plain=plain, step=step)

    def __getattr__(self, name: str) -> Any:
        return _fail if name == self.step else getattr(self.plain, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.plain, name, value)


class _FailingContainer(_Failing):
    """An open container, a step of which or of whose stream fails."""

    def add_stream(self, *given: Any, **options: Any) -> _Failing:
        return _Failing(self.plain.add_stream(*given, **options), self.step)


def _fail(*given: Any, **options: Any) -> None:
    raise av.error.MemoryError(errno.ENOMEM, "Cannot allocate memory")  # no OSError


def fail_in_ffmpeg(monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """Let FFmpeg run out of memory in one of `FFMPEG_STEPS`."""
    plain, reformatter = av.open, h264.VideoReformatter
    failing = _fail if step == "open" else lambda *given, **options: _FailingContainer(plain(*given, **options), step)
    monkeypatch.setattr(av, "open", failing)
    monkeypatch.setattr(h264, "VideoReformatter", lambda: _Failing(reformatter(), step))


class Delivering:
    """A device that delivers a picture of each given time, at once, and then nothing."""

    def __init__(self, *times_s: float) -> None:
        self._times_s = iter(times_s)
        self.captured_s: float | None = None

    def read(self):
        self.captured_s = next(self._times_s, None)
        return (False, None) if self.captured_s is None else (True, np.zeros((4, 4, 3), np.uint8))

    def release(self) -> None:
        pass
