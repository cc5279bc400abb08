"""Latency of `svg-live` on a 640x480 video of 30 frames a second in real time, stage by stage:
`python benchmarks/live_latency.py [--model BUNDLE] [--clip FILE] [--seconds 30] [--json FILE]`

Runs svg-live as a process of its own, with a video as its output, and prints the stages of its statistics and these numbers:

    dropped       pictures that were never shown because the outputs were slower; none is left out before the model
    behind        how much longer the run took than the video: the forecasts were slower
    beside model  what a picture takes beside observing and forecasting: the sum of the other stages' medians
    end to end    from the moment that a picture is due to its last output, 95th percentile, against the model's interval

Nothing else should run meanwhile; the processor's name is in the output.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from svg_common.digits import digit_stream
from svg_common.files import write_json
from svg_runtime.machine.hardware import machine_today

WIDTH, HEIGHT, FPS = 640, 480, 30
MODEL_STAGES = ("observe", "forecast")
OTHER_STAGES = ("age", "preprocess", "queue", "overlay", "output")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="camera", help="bundle, or an embedded model; default: camera")
    parser.add_argument("--clip", type=Path, help="a video instead of one that is made")
    parser.add_argument("--seconds", type=float, default=30.0, help="length of the video that is made; default: 30")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--threads", type=int, help="of the model; default: as svg-live decides")
    parser.add_argument("--json", type=Path, help="write all numbers to this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        clip = options.clip or write_clip(Path(folder) / "clip.mp4", options.seconds)
        stats = run_live(clip, Path(folder), options)
    result = {"hardware": machine_today(), **figures(stats), "statistics": stats}
    print("\n".join(lines(result)))
    if options.json is not None:
        write_json(options.json, result)


def write_clip(path: Path, seconds: float) -> Path:
    """Write a video in which a digit moves over a coloured gradient."""
    draw = digit_stream(0, num_digits=1, image_size=64)
    across, down = np.meshgrid(np.linspace(0.2, 0.7, WIDTH), np.linspace(0.3, 0.6, HEIGHT))
    background = np.stack([across, down, 1 - across], 2)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=FPS, options={"preset": "veryfast"})
        stream.width = WIDTH
        stream.height = HEIGHT
        stream.pix_fmt = "yuv420p"
        for number in range(round(seconds * FPS)):
            digit = cv2.resize(draw(), (HEIGHT, HEIGHT), interpolation=cv2.INTER_LINEAR)
            picture = background.copy()
            left = (WIDTH - HEIGHT) // 2
            picture[:, left : left + HEIGHT] = np.maximum(picture[:, left : left + HEIGHT], digit[..., None])
            frame = av.VideoFrame.from_ndarray((picture * 255).astype(np.uint8), format="rgb24")
            frame.pts = number
            frame.time_base = Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def run_live(clip: Path, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Run svg-live on `clip` in real time and return its statistics."""
    command = [
        *(sys.executable, "-c", "from svg_runtime.live.cli import main; main()", "--headless", "--realtime"),
        *("--model", options.model, "--source", str(clip), "--backend", options.backend),
        *("--output", str(folder / "out.mp4"), "--json", str(folder / "stats.json")),
    ]
    if options.threads is not None:
        command += ["--threads", str(options.threads)]
    subprocess.run(command, check=True)
    stats: dict[str, Any] = json.loads((folder / "stats.json").read_text())
    return stats


def figures(stats: dict[str, Any]) -> dict[str, Any]:
    """Return what the docstring of this file names."""
    latency, frames = stats["latency_ms"], stats["frames"]
    late_s = stats["duration_s"] - frames["seen"] * stats["interval_s"]
    return {
        "dropped": frames["dropped"] + frames["not_shown"],
        "behind_s": round(max(0.0, late_s), 3),
        "model_ms": round(sum(latency[stage]["p50"] for stage in MODEL_STAGES), 2),
        "beside_model_ms": round(sum(latency[stage]["p50"] for stage in OTHER_STAGES if stage in latency), 2),
        "end_to_end_p95_ms": latency["end_to_end"]["p95"],
        "interval_ms": round(1e3 * stats["interval_s"], 2),
    }


def lines(result: dict[str, Any]) -> list[str]:
    """Return the report."""
    latency = result["statistics"]["latency_ms"]
    rows = [f"{stage:12} {row['p50']:8.2f} {row['p95']:8.2f} {row['max']:8.2f}" for stage, row in latency.items()]
    return [
        f"{result['hardware']['cpu']}, {result['hardware']['cores_usable']} cores; {result['statistics']['backend']}",
        f"{'ms':12} {'p50':>8} {'p95':>8} {'max':>8}",
        *rows,
        f"dropped: {result['dropped']} of {result['statistics']['frames']['seen']}; behind by {result['behind_s']:g} s",
        f"beside the model: {result['beside_model_ms']:g} ms; the model: {result['model_ms']:g} ms",
        f"end to end: {result['end_to_end_p95_ms']:g} ms p95, interval {result['interval_ms']:g} ms",
    ]


if __name__ == "__main__":
    main()
