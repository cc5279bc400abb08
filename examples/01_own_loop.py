"""The forecaster in a loop of your own: surprise, spread and quality of the forecasts, frame by frame.

    python examples/01_own_loop.py [BUNDLE]

The camera is a bouncing digit. At each wall it takes a new random direction, which cannot be predicted: watch the surprise.
"""

from __future__ import annotations

import sys

import numpy as np

from svg_common.digits import digit_stream
from svg_common.errors import SvgError
from svg_common.frames import fit_frame
from svg_runtime import Forecaster
from svg_runtime.bundle.reader import find_model

FRAMES, LEAD = 40, 5  # frames to observe; the forecast step to score


def main() -> None:
    camera = digit_stream(seed=3)
    model = find_model(sys.argv[1] if len(sys.argv) > 1 else "embedded")
    with Forecaster.open(model, samples=8, horizon=10, seed=0) as forecaster:
        print(forecaster.description)
        spec = forecaster.manifest.frame
        for _ in range(FRAMES):
            picture = (255 * camera()).astype(np.uint8)  # of any size, gray or RGB
            frame = fit_frame(picture, spec.height, spec.width, spec.channels).astype(np.float32) / 255
            seen = forecaster.observe(frame)
            line = f"frame {seen.index:2}"

            # Surprise compares what the model expected before this frame (prior) with what it knows after it (posterior), or
            # the error of its prediction with the usual one.
            if seen.surprise is not None:
                line += f"  surprise {seen.surprise:6.1f} {forecaster.surprise_unit}"

            # Every earlier forecast of this frame is scored now that the frame is known.
            for score in seen.scores:
                if score.lead == LEAD:
                    line += f"  forecast {LEAD} frames ago {score.psnr_best:5.1f} dB, repeating {score.psnr_repeat:5.1f} dB"

            # Samples differ where the future is open.
            if forecaster.ready:
                futures = forecaster.forecast()  # (samples, horizon, H, W, C) float32 in [0, 1]
                line += f"  spread {futures[:, LEAD - 1].std(axis=0).mean():.3f}"
            print(line)


if __name__ == "__main__":
    try:
        main()
    except SvgError as error:  # such as a file that does not exist
        raise SystemExit(f"error: {error}") from None
