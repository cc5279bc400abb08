"""Measures one case in this process: latency, rate, memory, and the frames for comparison with the reference."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from svg_common.progress import ProgressListener
from svg_runtime.bundle.manifest import Precision
from svg_runtime.errors import BackendError
from svg_runtime.forecast.forecaster import Forecaster
from svg_runtime.forecast.noise import FloatArray, NoiseSource
from svg_runtime.live.timing import StageTimer
from svg_runtime.machine.memory import peak_rss_mib

_STAGES = ("observe", "forecast")
_WARM_UP_S = 1.0  # enough for clocks to rise and caches to fill; less if the run itself is shorter
_MIN_ROUNDS = 3  # in the warm-up and in the run, however slow the device is
_REPORT_EVERY_S = 0.2


def measure(
    progress: ProgressListener,
    task: str,
    model: str,
    backend: str,
    device: str | None,
    precision: Precision,
    fused: bool,
    samples: int,
    horizon: int,
    seed: int,
    seconds: float,
    frames: str,
    futures: str,
) -> dict[str, Any]:
    """Open the bundle and run it as an application does: observe and forecast, repeatedly.

    Args:
        progress: listener for this measurement and for the building of engines.
        task: name of this measurement.
        model: path of the bundle.
        backend: as in `Forecaster.open`, like device, precision, fused, samples, horizon and seed.
        device: of the backend.
        precision: of the graphs.
        fused: the fused graphs, or the separate ones.
        samples: futures per forecast.
        horizon: frames per future.
        seed: of the noise, the same for all cases.
        seconds: measuring time after the warm-up; 0 only writes the frames.
        frames: .npy file of (N, H, W, C) float32 frames to observe, over and over.
        futures: .npy file to write: (samples, 2, H, W, C), first and last frame of the first forecast.

    Returns:
        JSON values: milliseconds, rates per second, MiB.

    Raises:
        BackendError: the backend failed, or returned values that are not finite.
    """
    start = time.perf_counter()
    with Forecaster.open(
        path=model,
        backend=backend,
        device=device,
        precision=precision,
        samples=samples,
        horizon=horizon,
        seed=seed,
        fused=fused,
        progress=progress,
    ) as forecaster:
        opened_s = time.perf_counter() - start
        pictures = itertools.cycle(np.load(frames))
        np.save(futures, _first_forecast(forecaster, pictures, seed))
        about = {
            "backend": forecaster.backend,
            "description": forecaster.description,
            "computed_in": {graph: dict(layers) for graph, layers in forecaster.computed_in.items()},
            "open_s": round(opened_s, 4),
        }
        if not seconds:
            return about
        warm_up_s = min(_WARM_UP_S, seconds)

        def report(done_s: float) -> None:
            progress.progress(task, done_s / (warm_up_s + seconds))

        _run(forecaster, pictures, warm_up_s, report)
        return {**about, **_run(forecaster, pictures, seconds, lambda done_s: report(warm_up_s + done_s))}


def _first_forecast(forecaster: Forecaster, pictures: Iterator[FloatArray], seed: int) -> FloatArray:
    """Return first and last frame of a forecast after n_past frames, with the same noise in every case."""
    manifest = forecaster.manifest
    z_dim = manifest.model.z_dim
    for picture in itertools.islice(pictures, manifest.generation.n_past):
        forecaster.observe(picture)
    source = NoiseSource(seed)
    past = source.draw(manifest.context_draws, forecaster.samples, z_dim)
    futures = forecaster.forecast(noise=source.draw(forecaster.horizon, forecaster.samples, z_dim), context_noise=past)
    if not np.isfinite(futures).all():
        raise BackendError("the forecast contains values that are not finite")
    ends: FloatArray = futures[:, [0, -1]]
    return ends


def _run(
    forecaster: Forecaster, pictures: Iterator[FloatArray], seconds: float, report: Callable[[float], None]
) -> dict[str, Any]:
    """Observe and forecast without a pause for `seconds`, but at least a few times."""
    timer, rounds = StageTimer(_STAGES), 0
    start = now = time.perf_counter()
    report_at = start
    while now - start < seconds or rounds < _MIN_ROUNDS:
        with timer.stage("observe"):
            forecaster.observe(next(pictures))
        with timer.stage("forecast"):
            forecaster.forecast()
        rounds += 1
        now = time.perf_counter()
        if now >= report_at:
            report_at = now + _REPORT_EVERY_S
            report(min(now - start, seconds))
    latency = timer.summary()
    return {
        "rounds": rounds,
        "seconds": round(now - start, 4),
        "observe_ms": latency["observe"],
        "forecast_ms": latency["forecast"],
        "forecasts_per_s": 1e3 / latency["forecast"]["mean"],
        "frames_per_s": rounds / (now - start),
        "peak_rss_mib": peak_rss_mib(),
    }
