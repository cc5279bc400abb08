"""The options of `svg-forecast`, and what of them the results depend on."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from svg_common.progress import ProgressListener
from svg_runtime.bundle.manifest import Manifest, Precision
from svg_runtime.bundle.reader import Bundle, find_model
from svg_runtime.forecast.forecaster import Forecaster
from svg_runtime.forecast_options import Calibrate
from svg_runtime.offline.one_video import SeenAs
from svg_runtime.offline.shard import Shard

Keep = Literal["mean", "spread", "samples"]


@dataclass(frozen=True)
class ForecastOptions:
    """The options of `svg-forecast`; those of the model are as of `svg-live`."""

    sources: tuple[str, ...]
    out: Path
    model: str | None = None
    backend: str = "auto"
    calibrate: Calibrate | None = None
    device: str | None = None
    threads: int | None = None
    precision: Precision | None = None
    samples: int = 8
    horizon: int = 10
    seed: int = 0
    context: Literal["window", "stream"] | None = None
    post_process: bool = True
    seen_as: SeenAs = field(default_factory=SeenAs)
    keep: Keep | None = None  # of the forecasts themselves
    shard: Shard = field(default_factory=Shard)
    save_every_s: float = 60.0  # of work, until it is published
    ray_workers: int | None = None
    ray_gpus: float = 0.0  # of each worker
    json: Path | None = None

    def find_model(self) -> Path:
        """The bundle; as of `svg_runtime.bundle.reader.find_model`."""
        return find_model(self.model, real_video=True)

    def settings(self, manifest: Manifest, model: str) -> dict[str, Any]:
        """What the rows depend on, as plain JSON values."""
        trigger = self.seen_as.trigger
        return {
            "model": model,
            "bundle_id": manifest.bundle_id,
            "precision": self.precision,
            "samples": self.samples,
            "horizon": self.horizon,
            "seed": self.seed,
            "context": self.context or manifest.generation.context,
            "post_process": self.post_process,
            "rotate": self.seen_as.turn.rotate,
            "flip": self.seen_as.turn.flip,
            "roi": None if self.seen_as.roi is None else str(self.seen_as.roi),
            "source_fps": self.seen_as.source_fps,
            "alarm_signal": self.seen_as.signal,
            "alarm": vars(trigger),
            "keep": self.keep,
        }

    def samples_of(self, manifest: Manifest) -> int:
        """Futures per forecast: a model without latents has only one."""
        return 1 if manifest.model.z_dim == 0 else self.samples

    def open_forecaster(self, model: Path, progress: ProgressListener) -> Forecaster:
        """Open the model, warmed up; errors as of `Forecaster.open`."""
        forecaster = Forecaster.open(
            model,
            backend=self.backend,
            calibrate=self.calibrate,
            device=self.device,
            threads=self.threads,
            precision=self.precision,
            samples=self.samples_of(Bundle.open(model).manifest),
            horizon=self.horizon,
            seed=self.seed,
            context=self.context,
            post_process=self.post_process,
            progress=progress,
        )
        try:
            forecaster.warm_up()
        except BaseException:
            forecaster.close()
            raise
        return forecaster


def kept_shapes(keep: Keep, manifest: Manifest, samples: int, horizon: int) -> dict[str, tuple[int, ...]]:
    """Name and shape of the arrays that are kept of each forecast."""
    frame = manifest.frame
    one = (horizon, frame.height, frame.width, frame.channels)
    if keep == "samples":
        return {"samples": (samples, *one)}
    return {"mean": one} if keep == "mean" else {"mean": one, "spread": one}


def kept_arrays(keep: Keep, futures: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    """The arrays of `kept_shapes`, of futures (S, T, H, W, C). Spread is the standard deviation over samples."""
    if keep == "samples":
        return {"samples": futures}
    mean = {"mean": futures.mean(0)}
    return mean if keep == "mean" else {**mean, "spread": futures.std(0)}
