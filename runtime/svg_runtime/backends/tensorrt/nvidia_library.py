"""Loads NVIDIA's libraries, describes their differences, and collects their messages.

Their parsers and builders report problems to a logger, not by exceptions. TensorRT (10 and 11, and the system package of a
Jetson) builds engines on the GPU that runs them, by timing kernels there. TensorRT-RTX builds them anywhere, and compiles their
kernels on the GPU at the first run.
"""

from __future__ import annotations

import functools
import importlib
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from svg_common.command import require_modules
from svg_common.signals import defer_interrupts
from svg_runtime.errors import BackendMissingError, UsageError

LIBRARIES = {
    "tensorrt": "tensorrt",
    "tensorrt-rtx": "tensorrt_rtx",
}  # name of the backend and of its pip extra -> Python module
_OUT_OF_MEMORY = re.compile(r"out of memory|could not be allocated", re.IGNORECASE)
_OLDEST = (10, 1)  # TensorRT: earlier ones lack strongly typed networks or executions in memory of the caller


class Messages:
    """Hands the messages of a library's only logger to whoever collects just now, in any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._collectors: list[tuple[int, list[tuple[bool, str]]]] = []  # thread, its messages

    def append(self, message: tuple[bool, str]) -> None:
        """Give a message to the collectors of this thread. A thread without any is one of the library's own: to all."""
        with self._lock:
            own = [messages for thread, messages in self._collectors if thread == threading.get_ident()]
            for messages in own or [messages for _, messages in self._collectors]:
                messages.append(message)

    @contextmanager
    def collect(self) -> Iterator[list[tuple[bool, str]]]:
        """Collect what is said meanwhile."""
        collector = threading.get_ident(), list[tuple[bool, str]]()
        with self._lock:
            self._collectors.append(collector)
        try:
            yield collector[1]
        finally:
            with self._lock:
                self._collectors = [each for each in self._collectors if each is not collector]


@dataclass(frozen=True)
class Library:
    """The loaded module and its logger. NVIDIA's libraries use one logger per process, the first one that they get."""

    name: str
    module: ModuleType
    logger: Any

    @property
    def version(self) -> str:
        """The library's version, such as 10.3.0."""
        return str(self.module.__version__)

    @property
    def ahead_of_time(self) -> bool:
        """Whether it builds for any listed compute capabilities, without the GPU that will run the engine."""
        return self.name == "tensorrt-rtx"

    @property
    def keeps_timings(self) -> bool:
        """Whether the timings of an earlier build speed up the next one. TensorRT-RTX measures nothing."""
        return not self.ahead_of_time

    @property
    def network_flags(self) -> int:
        """Flags for strongly typed networks. TensorRT 10 needs one; from 11 on all networks are strongly typed."""
        flag = getattr(self.module.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
        return 0 if flag is None else 1 << int(flag)

    @property
    def user_allocation(self) -> Any:
        """The builder's flag for engines that allocate nothing while they run, as CUDA graphs require; None without the flag.

        TensorRT-RTX has it since 1.2. TensorRT's engines always behave this way.
        """
        return getattr(self.module.BuilderFlag, "REQUIRE_USER_ALLOCATION", None)

    def start(self, kind: str) -> Any:
        """Create a `Builder` or `Runtime`.

        Raises:
            BackendMissingError: the library cannot initialize CUDA.
        """
        with self.collect_messages() as messages:
            try:
                return getattr(self.module, kind)(self.logger)
            except TypeError as error:  # how its bindings report a failure (TensorRT #2913)
                message = "; ".join(message for _, message in messages) or str(error)
                raise BackendMissingError(
                    f"{self.name} {self.version} cannot start: {message}\n"
                    "  expected a driver that supports the CUDA version it was built for; or use --backend cpu"
                ) from error

    @contextmanager
    def collect_messages(self) -> Iterator[list[tuple[bool, str]]]:
        """Collect the library's messages meanwhile: pairs of (True for an error, False for a warning) and text."""
        with self.logger.messages.collect() as messages:
            yield messages

    @property
    def compute_capabilities(self) -> tuple[str, ...]:
        """Compute capabilities that it can build for: sm75, sm80, ..."""
        names = (name.lower() for name in self.module.ComputeCapability.__members__)
        return tuple(sorted((name for name in names if name.startswith("sm")), key=lambda name: int(name[2:])))


def refuse_full_memory(problem: str) -> None:
    """Raise a MemoryError where the library says of a problem that memory of the device ran out; it has no class for that."""
    if _OUT_OF_MEMORY.search(problem):
        raise MemoryError(problem)


@functools.cache
def load_library(name: str) -> Library:
    """Load `name`, one of LIBRARIES.

    Raises:
        UsageError: the name is unknown.
        MissingExtraError: it is not installed.
        BackendMissingError: it is installed but does not load, or is too old.
    """
    if name not in LIBRARIES:
        raise UsageError(f"unknown engine builder '{name}'\n  expected one of: {', '.join(LIBRARIES)}")
    require_modules(f"building {name} engines", name, LIBRARIES[name])
    try:
        with defer_interrupts():
            module = importlib.import_module(LIBRARIES[name])
    except (ImportError, OSError, RuntimeError) as error:  # wheel for another Python, C library or CPU
        raise BackendMissingError(f"{name} is installed but does not load: {error}") from error
    if name == "tensorrt" and tuple(int(number) for number in str(module.__version__).split(".")[:2]) < _OLDEST:
        oldest = ".".join(map(str, _OLDEST))
        raise BackendMissingError(f"tensorrt {module.__version__} is too old\n  expected {oldest} or later (JetPack 6.1)")
    return Library(name, module, _logger(module))


def _logger(library: Any) -> Any:
    class Logger(library.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            library.ILogger.__init__(self)  # its own metaclass refuses super()
            self.messages = Messages()

        def log(self, severity: Any, message: str) -> None:
            if severity <= library.ILogger.Severity.WARNING:
                self.messages.append((severity < library.ILogger.Severity.WARNING, message))

    return Logger()
