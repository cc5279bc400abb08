"""Forecast the end of a video file and compare it with what really came: a strip picture of the truth and of sampled futures.

    python examples/00_forecast_video.py [VIDEO] [--model ckpt.svgb] [--out forecast.png]

Without a video, it makes a clip of a bouncing digit, which is what the embedded model was trained on.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from svg_common.digits import digit_stream
from svg_common.errors import SvgError
from svg_common.frames import fit_frame
from svg_common.video.reader import VideoReader
from svg_common.video.sampling import pick_at_interval
from svg_runtime import Forecaster
from svg_runtime.bundle.reader import find_model
from svg_runtime.live.outputs.mp4 import Mp4Writer

SAMPLES, HORIZON, INTERVAL_S = 4, 10, 0.1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", type=Path, nargs="?")
    parser.add_argument("--model", default="embedded", help="A *.svgb folder.")
    parser.add_argument("--out", type=Path, default=Path("forecast.png"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        video = options.video or make_clip(Path(folder) / "digit.mp4")
        with Forecaster.open(find_model(options.model), samples=SAMPLES, horizon=HORIZON, seed=0) as forecaster:
            spec = forecaster.manifest.frame
            pictures = read_video(video, forecaster.manifest.generation.frame_interval_s or INTERVAL_S)
            frames = [fit_frame(picture, spec.height, spec.width, spec.channels) for picture in pictures]
            needed = forecaster.manifest.generation.n_past + HORIZON
            if len(frames) < needed:
                raise SystemExit(f"{video} has {len(frames)} frames at the model's rate\n  expected at least {needed}")

            # The last frames are held back: they are what the forecast is compared with.
            for frame in frames[:-HORIZON]:
                forecaster.observe(frame.astype(np.float32) / 255)
            futures = forecaster.forecast()  # (samples, horizon, H, W, C) float32 in [0, 1]
    truth = np.stack(frames[-HORIZON:]).astype(np.float32) / 255
    write_strip(options.out, [truth, *futures])
    print(f"wrote {options.out}: the last {HORIZON} frames of {video.name}, the truth above {SAMPLES} samples")


def read_video(path: Path, interval_s: float) -> Iterator[np.ndarray]:
    """Pictures of a video, (H, W, 3) uint8, `interval_s` apart: a model expects the frame interval of its training."""
    with VideoReader(path) as video:
        timed = ((picture.time_s, picture.image) for picture in video)
        for picked in pick_at_interval(timed, interval_s, video.fps):
            yield picked.item


def make_clip(path: Path) -> Path:
    """Three seconds of a bouncing digit."""
    draw = digit_stream(seed=3)
    writer = Mp4Writer(path, (64, 64), INTERVAL_S)
    for tick in range(30):
        gray = (draw() * 255).astype(np.uint8)
        writer.write(np.repeat(gray[..., None], 3, axis=2), tick)
    writer.close(keep=True)
    return path


def write_strip(path: Path, rows: list[np.ndarray]) -> None:
    """One row per sequence (T, H, W, C) of frames in [0, 1], one column per frame."""
    strip = np.concatenate([np.concatenate(list(row), axis=1) for row in rows])
    bgr = (strip[..., ::-1] * 255).astype(np.uint8)  # as OpenCV writes it
    if not (cv2.haveImageWriter(str(path)) and cv2.imwrite(str(path), bgr)):
        raise SystemExit(f"cannot write {path}\n  expected a folder that can be written, and a name such as forecast.png")


if __name__ == "__main__":
    try:
        main()
    except SvgError as error:  # such as a file that does not exist
        raise SystemExit(f"error: {error}") from None
