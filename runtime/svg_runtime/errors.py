"""Named errors of the runtime, each with its documented exit code."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from svg_common.errors import BackendMissingError, ExitCode, MissingExtraError, SvgError, UsageError

if TYPE_CHECKING:
    from svg_runtime.forecast.forecaster import Observation
    from svg_runtime.forecast.noise import FloatArray


class BundleError(SvgError):
    """A bundle is missing, damaged, of an unknown version, or does not match its manifest.

    Attributes:
        problems: one line per problem; empty if the message says it all.
    """

    def __init__(self, message: str, problems: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems)


class BackendError(SvgError):
    """A backend failed while running: out of memory, or a device fault."""


class EngineError(SvgError):
    """An engine cannot be built from a graph, or does not match the manifest."""


class EngineNotBuiltError(BackendMissingError):
    """An engine is not ready, and was not to be built."""


class SourceLostError(SvgError):
    """The camera or file that feeds the forecasts delivers no more frames."""

    exit_code = ExitCode.SOURCE_LOST


class FrameError(SvgError):
    """A frame has the wrong shape, type or range, or is not finite."""


class ForecastError(SvgError):
    """Forecasting fails repeatedly, or returns values that are not finite."""


class CamerasError(ForecastError):
    """Of several cameras that were observed or forecast together, some gave values that are not finite.

    Attributes:
        failed: camera -> what is wrong with it.
        results: camera -> what the call returns for the others: observations, or futures.
    """

    results: dict[int, Observation] | dict[int, FloatArray]

    def __init__(self, failed: Mapping[int, ForecastError], results: dict[int, Observation] | dict[int, FloatArray]) -> None:
        first, error = next(iter(failed.items()))
        others = f" (and of cameras {', '.join(map(str, list(failed)[1:]))})" if len(failed) > 1 else ""
        super().__init__(f"camera {first}{others}: {error}")
        self.failed = dict(failed)
        self.results = results


class ContextNotReadyError(SvgError):
    """A forecast was requested before n_past frames were observed."""


class StreamContextError(UsageError):
    """The window context is needed: the model, or the call, does not go with the stream context.

    Attributes:
        samples: of a forecast, how many the stream context has been read with and goes with; None for anything else.
    """

    def __init__(self, message: str, samples: int | None = None) -> None:
        super().__init__(message)
        self.samples = samples


__all__ = [
    "BackendError",
    "BackendMissingError",
    "BundleError",
    "CamerasError",
    "ContextNotReadyError",
    "EngineError",
    "EngineNotBuiltError",
    "ForecastError",
    "FrameError",
    "MissingExtraError",
    "SourceLostError",
    "StreamContextError",
    "SvgError",
    "UsageError",
]
