"""The models that a server may open, by name: a client never names a path of the host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from svg_common.printable import printable
from svg_common.progress import ProgressListener
from svg_runtime.backends.gpu_options import GpuOptions
from svg_runtime.bundle.manifest import Precision
from svg_runtime.bundle.reader import find_model
from svg_runtime.errors import BundleError, UsageError
from svg_runtime.forecast.forecaster import Forecaster
from svg_runtime.forecast_options import Calibrate
from svg_runtime.serve import schema


@dataclass(frozen=True)
class EngineOptions:
    """How forecasters are opened, as `Forecaster.open` takes it."""

    backend: str = "auto"
    device: str | None = None
    precision: Precision | None = None
    fused: bool | None = None
    shuffled: bool | None = None
    threads: int | None = None
    gpu: GpuOptions | None = None
    calibrate: Calibrate | None = None


@dataclass(frozen=True)
class ServedModel:
    """A bundle that sessions can be opened with.

    Attributes:
        path: of the bundle.
        engine: how to open it; what `auto` measures was decided when the server started.
        about: what clients are told.
    """

    path: Path
    engine: EngineOptions
    about: schema.Model

    def open(
        self, samples: int, horizon: int, seed: int, context: schema.Context | None, post_process: bool = False
    ) -> Forecaster:
        """Open a forecaster, which belongs to the thread that calls this.

        Raises:
            SvgError: it cannot be opened so.
            BundleError: the bundle has been replaced since the server started: `about` does not describe it.
        """
        forecaster = Forecaster.open(
            self.path,
            **vars(self.engine),
            samples=samples,
            horizon=horizon,
            seed=seed,
            context=context,
            post_process=post_process,
        )
        found = forecaster.manifest.bundle_id
        if found != self.about.bundle_id:
            forecaster.close()
            was = self.about.bundle_id
            raise BundleError(f"the model '{self.about.name}' is {found} by now\n  expected {was}, as at the start")
        return forecaster


class Catalogue:
    """All models of one server.

    Args:
        models: in the order in which they are listed.
    """

    def __init__(self, models: Sequence[ServedModel]) -> None:
        self._models = {model.about.name: model for model in models}

    @classmethod
    def open(cls, names: Sequence[str], engine: EngineOptions, progress: ProgressListener | None = None) -> Catalogue:
        """Open every model once, so that what is wrong with one is said now, and `auto` measures before the first client.

        Args:
            names: folders of bundles, or names of embedded models.
            engine: how to open them.
            progress: listener for measuring and for the building of engines.

        Raises:
            UsageError: two models have the same name, or one is given twice.
            SvgError: one cannot be opened.
        """
        found = model_paths(names)
        return cls([_served(name=name, path=path, engine=engine, progress=progress) for name, path in found.items()])

    @property
    def names(self) -> list[str]:
        """Names of all models."""
        return list(self._models)

    @property
    def about(self) -> schema.Models:
        """What clients are told about all models."""
        return schema.Models(models=tuple(model.about for model in self._models.values()))

    def get(self, name: str) -> ServedModel | None:
        """The model called `name`."""
        return self._models.get(name)

    def threads(self, cores: int) -> int:
        """CPU threads of the session that uses most, on a machine with so many cores."""
        return max(model.engine.threads or cores for model in self._models.values())


def model_paths(names: Sequence[str]) -> dict[str, Path]:
    """Return the folders of bundles by the names that clients use.

    Args:
        names: folders of bundles, or names of embedded models.

    Raises:
        UsageError: two models have the same name, or one is given twice.
        BundleError: the package was built without an embedded model.
    """
    paths: dict[str, Path] = {}
    for path in map(find_model, names):
        name = printable(path.resolve().name.removesuffix(".svgb"))
        if name in paths and path.resolve() == paths[name].resolve():
            raise UsageError(f"the model '{name}' is given twice: '{path}'\n  give it once")
        if name in paths:
            raise UsageError(
                f"two models are called '{name}': '{paths[name]}' and '{path}'\n  give one of the folders another name"
            )
        paths[name] = path
    return paths


def frame_bytes(frame: schema.FrameForm) -> int:
    """Bytes of one frame as float32."""
    return frame.height * frame.width * frame.channels * 4


def _served(name: str, path: Path, engine: EngineOptions, progress: ProgressListener | None) -> ServedModel:
    with Forecaster.open(path, **vars(engine), samples=8, horizon=10, seed=0, progress=progress) as forecaster:
        forecaster.warm_up()  # what cannot run at all fails here
        manifest = forecaster.manifest
        about = schema.Model(
            name=name,
            bundle_id=manifest.bundle_id,
            family=manifest.model.family,
            stochastic=manifest.model.z_dim > 0,
            frame=schema.FrameForm(**manifest.frame.model_dump(exclude={"range"})),
            n_past=manifest.generation.n_past,
            frame_interval_s=manifest.generation.frame_interval_s,
            training_horizon=manifest.generation.training_horizon,
            context=forecaster.context,
            surprise_unit=forecaster.surprise_unit,
            backend=forecaster.description,
        )
        return ServedModel(path, _decided(engine, forecaster), about)


def _decided(engine: EngineOptions, forecaster: Forecaster) -> EngineOptions:
    """The same options with what `auto` has measured, so that no session measures while others run."""
    decision = forecaster.decision
    if decision is None:
        return replace(engine, calibrate="no" if engine.backend == "auto" else None)
    way = {name: value for name, value in vars(decision.way).items() if name != "threads"}
    return replace(engine, **way, threads=decision.way.threads or engine.threads, calibrate=None)
