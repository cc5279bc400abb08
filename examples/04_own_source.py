"""A camera of your own as a source, and a loop on it: the code for a camera that `svg-live` does not support.

    python examples/04_own_source.py [BUNDLE]

The camera here is a simulated thermal one with 16-bit pictures. Replace `read` with your driver's call.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

import numpy as np

from svg_common.digits import digit_stream
from svg_common.errors import SvgError
from svg_runtime import Forecaster
from svg_runtime.bundle.reader import find_model
from svg_runtime.live.preprocess import Preprocessor
from svg_runtime.live.sources.base import Source, SourceFrame


class ThermalCamera:
    """A `svg_runtime.live.sources.base.Source`: pictures at the model's interval, each with the number of its interval.

    Args:
        interval_s: seconds per model step.
        count: pictures until it ends; a real camera has no end.
    """

    def __init__(self, interval_s: float, count: int) -> None:
        self.name = "thermal"
        self.description = "simulated thermal camera, 16 bits"
        self.captured = 0
        self.dropped = 0
        self._interval_s = interval_s
        self._count = count
        self._draw = digit_stream(seed=5, image_size=120)

    def frames(self) -> Iterator[SourceFrame]:
        """Yield a picture per interval. A loop that is late gets the newest picture; the intervals missed are counted."""
        start_s = time.monotonic()
        tick = 0
        while self.captured < self._count:
            time.sleep(max(0.0, start_s + tick * self._interval_s - time.monotonic()))
            captured_s = time.monotonic()
            yield SourceFrame(to_uint8(self.read()), tick=tick, captured_s=captured_s)
            due = max(tick + 1, int((time.monotonic() - start_s) / self._interval_s))
            self.dropped += due - tick - 1
            tick = due

    def read(self) -> np.ndarray:
        """The newest picture, (H, W) uint16, as the sensor counts."""
        self.captured += 1
        return (20_000 + 10_000 * self._draw()).astype(np.uint16)

    def close(self) -> None:
        """Nothing to release; a real camera is closed here."""


def to_uint8(counts: np.ndarray) -> np.ndarray:
    """Map sensor counts to gray levels on a fixed scale: one that adapts to each picture would flicker."""
    gray = np.clip((counts.astype(np.float32) - 20_000) / 10_000, 0, 1)
    return (gray * 255).astype(np.uint8)


def main() -> None:
    model = find_model(sys.argv[1] if len(sys.argv) > 1 else "embedded")
    with Forecaster.open(model, samples=4, horizon=5, seed=0) as forecaster:
        spec = forecaster.manifest.frame
        preprocessor = Preprocessor(spec.height, spec.width, spec.channels)
        camera: Source = ThermalCamera(forecaster.manifest.generation.frame_interval_s or 0.1, count=15)
        try:
            for picture in camera.frames():
                # Pictures of a source have their own size; fit them to the model's.
                seen = forecaster.observe(preprocessor.fit(picture.image))
                if forecaster.ready:
                    futures = forecaster.forecast()
                    line = f"interval {picture.tick}: {len(futures)} futures"
                    if seen.surprise is not None:
                        line += f", surprise {seen.surprise:.1f} {forecaster.surprise_unit}"
                    print(line)
        finally:
            camera.close()
        print(f"{camera.description}: {camera.captured} pictures, {camera.dropped} intervals missed")


if __name__ == "__main__":
    try:
        main()
    except SvgError as error:  # such as a file that does not exist
        raise SystemExit(f"error: {error}") from None
