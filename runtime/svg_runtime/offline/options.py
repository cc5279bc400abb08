"""The options of `svg-forecast`, and what of them the results depend on."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from svg_common.errors import BackendMissingError, MissingExtraError
from svg_common.progress import ProgressListener
from svg_runtime.bundle.manifest import Manifest, Precision
from svg_runtime.bundle.reader import Bundle, find_model
from svg_runtime.forecast.forecaster import Forecaster
from svg_runtime.forecast_options import Calibrate
from svg_runtime.live.alarms.signal_names import check_signal
from svg_runtime.offline.dataset import Dataset
from svg_runtime.offline.engine import Engine
from svg_runtime.offline.one_video import SeenAs
from svg_runtime.offline.shard import Shard

Keep = Literal["mean", "spread", "samples"]


@dataclass(frozen=True)
class ForecastOptions:
    """The options of `svg-forecast`; those of the model are the ones of `svg-live`."""

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
        """The bundle. See `svg_runtime.bundle.reader.find_model`."""
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

    def open_forecaster(self, model: Path, progress: ProgressListener, like: Engine | None = None) -> Forecaster:
        """Open the model, warmed up.

        Args:
            model: the bundle.
            progress: of what is measured and built.
            like: the engine of earlier results.

        Raises:
            UsageError: another backend than that of `like` is asked for, or alarms by a surprise that the model does not have.
            BackendMissingError: the engine of earlier results is not available here.
            SvgError: as for `Forecaster.open`.
        """
        asked = {
            "backend": self.backend, "calibrate": self.calibrate, "device": self.device, "threads": self.threads,
            "precision": self.precision,
        }  # fmt: skip
        try:
            forecaster = Forecaster.open(
                model,
                samples=self.samples_of(Bundle.open(model).manifest),
                horizon=self.horizon,
                seed=self.seed,
                context=self.context,
                post_process=self.post_process,
                progress=progress,
                **(asked if like is None else like.choices(asked)),
            )
        except (BackendMissingError, MissingExtraError) as error:
            if like is None:
                raise
            raise BackendMissingError(
                f"{error}\n  the results in '{self.out}' were computed by {like}: go on where it works, or choose another --out"
            ) from error
        try:
            check_signal(self.seen_as.signal, forecaster.surprise_unit)
            forecaster.warm_up()
        except BaseException:
            forecaster.close()
            raise
        return forecaster

    def open_alike(self, dataset: Dataset, model: Path, progress: ProgressListener) -> Forecaster:
        """Open the model on the engine of the results in `dataset`, or on one that they then keep to.

        Raises:
            UsageError: only another engine can be had with these options on this machine.
            SvgError: as for `open_forecaster`.
        """
        known = dataset.engine()
        forecaster = self.open_forecaster(model, progress, known)
        try:
            own = Engine.of(forecaster, self.device, self.precision)
            agreed = dataset.agree_on_engine(own)
            if known is not None or agreed == own:
                agreed.check_same(own)
                return forecaster
        except BaseException:
            forecaster.close()
            raise
        forecaster.close()  # another process has chosen meanwhile
        return self.open_alike(dataset, model, progress)


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
