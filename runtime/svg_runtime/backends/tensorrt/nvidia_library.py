"""Loads NVIDIA's libraries, says in what they differ, and keeps what they say.

Their parsers and builders report problems to a logger, not by exceptions. TensorRT (10 and 11, and the system package of a
Jetson) builds engines on the GPU that runs them, by timing kernels there. TensorRT-RTX builds them anywhere, and compiles their
kernels on the GPU at the first run.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from svg_common.command import require_modules
from svg_common.signals import defer_interrupts
from svg_runtime.errors import BackendMissingError, UsageError

LIBRARIES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}  # name of the backend and of its extra -> Python module
_OLDEST = (10, 1)  # of TensorRT: earlier ones have no strongly typed networks, or take no memory of the user's as here


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

    @property
    def ahead_of_time(self) -> bool:
        """Whether it builds without the GPU that runs the engine, for compute capabilities that are named to it."""
        return self.name == "tensorrt-rtx"

    @property
    def keeps_timings(self) -> bool:
        """Whether building again is faster with what an earlier build measured. TensorRT-RTX measures nothing."""
        return not self.ahead_of_time

    @property
    def network_flags(self) -> int:
        """For networks whose types are those of the graph. TensorRT 10 has to be told; from 11 on there are no others."""
        flag = getattr(self.module.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
        return 0 if flag is None else 1 << int(flag)

    @property
    def user_allocation(self) -> Any:
        """The builder's flag for engines that allocate nothing while they run, which CUDA graphs need; None: it has none.

        TensorRT-RTX has it since 1.2. TensorRT's engines run like that anyhow.
        """
        return getattr(self.module.BuilderFlag, "REQUIRE_USER_ALLOCATION", None)

    def start(self, kind: str) -> Any:
        """A new `Builder` or `Runtime`.

        Raises:
            BackendMissingError: the library does not get CUDA to work.
        """
        with self.collect_messages() as messages:
            try:
                return getattr(self.module, kind)(self.logger)
            except TypeError as error:  # so its bindings say that there is none (TensorRT #2913)
                words = "; ".join(message for _, message in messages) or str(error)
                raise BackendMissingError(
                    f"{self.name} {self.version} cannot start: {words}\n"
                    "  expected a driver that supports the CUDA version it was built for; or use --backend cpu"
                ) from error

    @contextmanager
    def collect_messages(self) -> Iterator[list[tuple[bool, str]]]:
        """What the library complains about meanwhile: (whether it is an error and not a warning, message)."""
        messages: list[tuple[bool, str]] = []
        self.logger.messages = messages
        yield messages

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
        BackendMissingError: it is installed but does not load, or is too old.
    """
    if name not in LIBRARIES:
        raise UsageError(f"unknown engine builder '{name}'\n  expected one of: {', '.join(LIBRARIES)}")
    require_modules(f"building {name} engines", name, LIBRARIES[name])
    try:
        with defer_interrupts():
            module = importlib.import_module(LIBRARIES[name])
    except (ImportError, OSError, RuntimeError) as error:  # a wheel for another Python, C library or processor
        raise BackendMissingError(f"{name} is installed but does not load: {error}") from error
    if name == "tensorrt" and tuple(int(number) for number in str(module.__version__).split(".")[:2]) < _OLDEST:
        oldest = ".".join(map(str, _OLDEST))
        raise BackendMissingError(f"tensorrt {module.__version__} is too old\n  expected {oldest} or later (JetPack 6.1)")
    return Library(name, module, _logger(module))


def _logger(library: Any) -> Any:
    class Logger(library.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            library.ILogger.__init__(self)  # its own metaclass refuses super()
            self.messages: list[tuple[bool, str]] = []

        def log(self, severity: Any, message: str) -> None:
            if severity <= library.ILogger.Severity.WARNING:
                self.messages.append((severity < library.ILogger.Severity.WARNING, message))

    return Logger()
