"""Named errors of the runtime, each with its documented exit code."""

from __future__ import annotations

from collections.abc import Iterable

from svg_common.errors import BackendMissingError, ExitCode, MissingExtraError, SvgError, UsageError


class BundleError(SvgError):
    """A bundle is missing, damaged, of an unknown version, or not what its manifest says.

    Attributes:
        problems: all of them, one line each, where there can be several.
    """

    def __init__(self, message: str, problems: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems)


class BackendError(SvgError):
    """A backend failed while it ran: out of memory, or a fault of the device."""


class EngineError(SvgError):
    """An engine cannot be built from a graph, or would not be what the bundle says."""


class SourceLostError(SvgError):
    """The camera or file that feeds the forecasts gives no more frames."""

    exit_code = ExitCode.SOURCE_LOST


class FrameError(SvgError):
    """A frame has the wrong shape, type or range, or is not finite."""


class ContextNotReadyError(SvgError):
    """A forecast was asked for before n_past frames were observed."""


__all__ = [
    "BackendError",
    "BackendMissingError",
    "BundleError",
    "ContextNotReadyError",
    "EngineError",
    "FrameError",
    "MissingExtraError",
    "SourceLostError",
    "SvgError",
    "UsageError",
]
