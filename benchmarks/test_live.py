"""The live loop in this process: what `svg-live --headless --source synthetic://digits --output FILE` does per second."""

from __future__ import annotations

import io
import statistics
from pathlib import Path
from typing import Any

import pytest
from goal_metrics import GoalMetric
from rich.console import Console

from svg_runtime.backends.base import Backend
from svg_runtime.bundle.reader import Bundle
from svg_runtime.live.loop import LiveOptions, run_cameras
from svg_runtime.live.sources import SYNTHETIC_URL, SourceOptions

ROUNDS = 3


def test_live_loop(
    measured: Any, bundle: Bundle, backend: Backend, record_metric: Any, pytestconfig: pytest.Config, tmp_path: Path
) -> None:
    frames = pytestconfig.getoption("live_frames")
    video = tmp_path / "live.mp4"
    options = LiveOptions(
        source=SourceOptions(source=SYNTHETIC_URL),
        model=str(bundle.path),
        backend=backend.name,
        precision=backend.precision,
        window=False,
        output=video,
        max_frames=frames,
    )
    summaries = []

    def live() -> None:
        summaries.append(run_cameras([options], Console(file=io.StringIO()))[0].summary())

    measured.group = f"live loop, {frames} frames"
    measured.pedantic(live, rounds=pytestconfig.getoption("rounds") or ROUNDS, warmup_rounds=1 if measured.enabled else 0)
    assert summaries[-1]["frames"]["seen"] == frames
    assert video.stat().st_size > 0
    measured.extra_info.update(latency_ms=summaries[-1]["latency_ms"])
    rate = statistics.median(summary["fps"] for summary in summaries)
    record_metric(GoalMetric(f"live loop, 8 samples x 10 steps, with video output: {bundle.path.stem}", rate, "frames/s"))
