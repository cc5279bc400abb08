"""Opens a bundle on a backend: the one that was named, or the one that `auto` measures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from svg_common.arguments import check_flag
from svg_common.progress import NullListener, ProgressListener
from svg_runtime.backends import check_backend, check_options, open_backend
from svg_runtime.backends.base import Backend
from svg_runtime.backends.gpu_options import GpuOptions
from svg_runtime.bundle.manifest import Manifest, Precision
from svg_runtime.bundle.reader import Bundle
from svg_runtime.calibration.choice import Choice, wanted
from svg_runtime.calibration.decisions import Decision
from svg_runtime.calibration.race import Runner
from svg_runtime.calibration.ways import Request, Way
from svg_runtime.errors import (
    BackendError,
    BackendMissingError,
    BundleError,
    EngineError,
    EngineNotBuiltError,
    MissingExtraError,
    UsageError,
)
from svg_runtime.forecast.model import ContextMode, check_choices
from svg_runtime.forecast.sampled_context import largest_batch
from svg_runtime.forecast_options import Calibrate

_MadeT = TypeVar("_MadeT")


@dataclass(frozen=True)
class OpenOptions:
    """What `Forecaster.open` describes; `samples` is the batch of a forecast, of all cameras together."""

    backend: str
    device: str | None
    precision: Precision | None
    samples: int
    horizon: int
    context: ContextMode | None
    fused: bool | None
    shuffled: bool | None
    threads: int | None
    gpu: GpuOptions | None
    progress: ProgressListener | None
    calibrate: Calibrate | None
    cameras: int = 1  # that are observed together
    lanes: int = 1  # see `open_backend`; what is timed has one, with as many threads as are fastest for it

    def max_batch(self, manifest: Manifest) -> int:
        """The largest batch that a bundle's graphs are bound for, see `largest_batch`."""
        return largest_batch(manifest, self.samples, self.cameras)

    def check(self) -> None:
        """Refuse what no backend can do.

        Raises:
            UsageError: an invalid value.
        """
        check_backend(self.backend)
        check_flag("fused", self.fused, or_none=True)
        check_options(
            precision=self.precision, threads=self.threads, gpu=self.gpu, progress=self.progress, shuffled=self.shuffled
        )
        if self.fused and self.shuffled:
            raise UsageError("both fused and shuffled are True, but the fused graphs contain the plain decoder\n  expected one")
        if self.calibrate is not None and self.backend != "auto":
            raise UsageError(f"calibrate has no effect with the {self.backend} backend\n  remove it, or use backend='auto'")


@dataclass(frozen=True)
class Opened:
    """A bundle on a backend."""

    bundle: Bundle
    backend: Backend
    fused: bool | None
    shuffled: bool | None
    decision: Decision | None  # why "auto" chose this backend, if it measured or had no other to take


def open_model(
    path: str | Path, options: OpenOptions, make: Callable[[Opened], _MadeT], make_timed: Callable[[Opened], Runner]
) -> _MadeT:
    """Open a bundle, and return what `make` makes of it.

    Args:
        path: the *.svgb folder, an address or a model of the package, see `Bundle.open`.
        options: backend and all that belongs to it.
        make: the user's own; the backend is closed if it fails.
        make_timed: makes a forecaster with the manifest's context, for what "auto" measures.
    """
    options.check()
    bundle = Bundle.open(path)
    manifest = bundle.manifest
    check_choices(manifest.model.family, manifest.variants.values(), options.context, options.fused)
    rule_of_thumb = partial(_open, bundle, options, make)
    mode = wanted(options.calibrate)
    gpu = options.gpu or GpuOptions()
    if options.backend != "auto" or mode == "no" or options.device not in (None, "auto", "cpu") or gpu.given:
        return rule_of_thumb()
    choice = Choice(
        bundle=bundle, samples=options.samples, max_batch=options.max_batch(manifest), horizon=options.horizon,
        threads=options.threads,
        request=Request(
            device=options.device, precision=options.precision, fused=options.fused, shuffled=options.shuffled
        ),
    )  # fmt: skip
    measured = replace(options, gpu=replace(gpu, build_engines=gpu.build_engines and mode == "full"))

    def as_way(way: Way) -> OpenOptions:
        changed: dict[str, Any] = {**vars(way), "threads": way.threads or options.threads}
        return replace(measured, **changed, lanes=1)

    decision = choice.decide(
        lambda way: _open(bundle, as_way(way), make_timed), options.progress or NullListener(), again=mode != "ready"
    )  # fmt: skip
    if decision is None:
        return rule_of_thumb()
    try:
        way = as_way(decision.way)
        if options.lanes > 1:
            way = replace(way, threads=options.threads, lanes=options.lanes)
        return _open(bundle, way, make, decision)
    except EngineNotBuiltError:  # the stream context needs engines that the measured window does not
        return rule_of_thumb()
    except (BackendMissingError, MissingExtraError, BundleError, BackendError, EngineError):
        choice.forget()  # it worked before: something has changed that the decision does not know of
        return rule_of_thumb()


def _open(bundle: Bundle, options: OpenOptions, make: Callable[[Opened], _MadeT], decision: Decision | None = None) -> _MadeT:
    try:
        backend = open_backend(
            bundle=bundle,
            name=options.backend,
            device=options.device,
            precision=options.precision,
            threads=options.threads,
            samples=options.max_batch(bundle.manifest),
            gpu=options.gpu,
            progress=options.progress,
            shuffled=options.shuffled,
            lanes=options.lanes,
        )
        try:
            return make(
                Opened(bundle=bundle, backend=backend, fused=options.fused, shuffled=options.shuffled, decision=decision)
            )
        except BaseException:
            backend.close()
            raise
    except MemoryError as error:
        raise BackendError(
            f"the {options.backend} backend is out of memory: {error}\n  close other programs that use it, or lower samples"
        ) from error
