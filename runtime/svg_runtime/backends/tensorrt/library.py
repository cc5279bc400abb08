"""Loads NVIDIA's library, and keeps what it says: its parser and builder report problems to a logger, not by exceptions."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from svg_common.command import require_modules
from svg_runtime.errors import BackendMissingError, UsageError

LIBRARIES = {"tensorrt-rtx": "tensorrt_rtx"}  # name of the backend and of its extra -> Python module


@dataclass(frozen=True)
class Library:
    """The loaded module and its logger. NVIDIA's libraries use one logger per process, whichever is given first."""

    name: str
    module: ModuleType
    logger: Any

    @property
    def version(self) -> str:
        """Its release."""
        return str(self.module.__version__)

    @contextmanager
    def heard(self) -> Iterator[list[tuple[bool, str]]]:
        """What the library complains about meanwhile: (whether it is an error and not a warning, message)."""
        complaints: list[tuple[bool, str]] = []
        self.logger.complaints = complaints
        yield complaints

    @property
    def compute_capabilities(self) -> tuple[str, ...]:
        """Those that it can build for: sm75, sm80, ..."""
        names = (name.lower() for name in self.module.ComputeCapability.__members__)
        return tuple(sorted((name for name in names if name.startswith("sm")), key=lambda name: int(name[2:])))


@functools.cache
def load_library(name: str) -> Library:
    """Load `name`, one of LIBRARIES.

    Raises:
        UsageError: there is no such library.
        MissingExtraError: it is not installed.
        BackendMissingError: it is installed but does not load.
    """
    if name not in LIBRARIES:
        raise UsageError(f"'{name}' builds no engines\n  expected one of: {', '.join(LIBRARIES)}")
    require_modules(f"building {name} engines", name, LIBRARIES[name])
    try:
        module = _import(name)
    except (ImportError, OSError, RuntimeError) as error:  # a wheel for another Python, C library or processor
        raise BackendMissingError(f"{name} is installed but does not load: {error}") from error
    return Library(name, module, _logger(module))


def _import(name: str) -> ModuleType:
    import tensorrt_rtx

    module: ModuleType = tensorrt_rtx
    return module


def _logger(library: Any) -> Any:
    class Logger(library.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            library.ILogger.__init__(self)  # its own metaclass refuses super()
            self.complaints: list[tuple[bool, str]] = []

        def log(self, severity: Any, message: str) -> None:
            if severity <= library.ILogger.Severity.WARNING:
                self.complaints.append((severity < library.ILogger.Severity.WARNING, message))

    return Logger()
