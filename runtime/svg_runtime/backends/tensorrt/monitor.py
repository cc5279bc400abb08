"""Progress of a running build, and Ctrl-C, which ends it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from svg_runtime.backends.tensorrt.nvidia_library import Library

_POLL_S = 0.1
_MAX_RUNNING_SHARE = 0.99  # 1 is reported once the engine exists

T = TypeVar("T")


class BuildMonitor(Protocol):
    """The library's IProgressMonitor, as a build receives it."""

    phases: Phases
    cancelled: bool


@dataclass
class _Phase:
    parent: str | None
    steps: int
    done: int = 0


class Phases:
    """The nested phases of a build, combined into one progress value.

    Attributes:
        share: 0 to 1; it never decreases, although phases begin unannounced.
    """

    def __init__(self) -> None:
        self.share = 0.0
        self._phases: dict[str, _Phase] = {}
        self._lock = threading.Lock()  # the builder may call from several threads

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """Begin a phase of `steps` steps, within a step of `parent` if there is one."""
        with self._lock:
            self._phases[name] = _Phase(parent, max(steps, 1))

    def step(self, name: str, step: int) -> None:
        """Record that a phase has finished step number `step`, counted from 0."""
        with self._lock:
            if name in self._phases:
                self._phases[name].done = step + 1
                self.share = max(self.share, self._share_within(None))

    def finish(self, name: str) -> None:
        """End a phase, perhaps before its last step."""
        with self._lock:
            self._phases.pop(name, None)

    def _share_within(self, parent: str | None) -> float:
        """Return the share of the most advanced phase within a step of `parent`."""
        within = [(name, phase) for name, phase in self._phases.items() if phase.parent == parent]
        return max((min(1.0, (phase.done + self._share_within(name)) / phase.steps) for name, phase in within), default=0.0)


def run_with_progress(library: Library, build: Callable[[BuildMonitor], T], report: Callable[[float], None]) -> T:
    """Run `build` and report its progress meanwhile.

    It runs in a separate thread, because Python handles Ctrl-C in the main thread, and only after a call into the library has
    returned, which takes minutes. On Ctrl-C the build ends at its next step.

    Args:
        library: TensorRT or TensorRT-RTX.
        build: called with the monitor for the builder.
        report: called in this thread with the finished share; the last one is 1.

    Raises:
        KeyboardInterrupt: Ctrl-C. The build has ended, unless it was pressed twice.
    """
    monitor, outcome = _monitor(library), Future[T]()

    def work() -> None:
        try:
            outcome.set_result(build(monitor))
        except BaseException as error:
            outcome.set_exception(error)

    thread = threading.Thread(target=work, name="svg-engine-build", daemon=True)
    report(0.0)
    thread.start()
    try:
        while not wait([outcome], _POLL_S).done:
            report(min(monitor.phases.share, _MAX_RUNNING_SHARE))
    except BaseException:
        monitor.cancelled = True
        thread.join()
        raise
    result = outcome.result()
    report(1.0)
    return result


def _monitor(library: Any) -> BuildMonitor:
    class Monitor(library.module.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            library.module.IProgressMonitor.__init__(self)
            self.phases = Phases()
            self.cancelled = False

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.phases.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            self.phases.step(phase_name, step)
            return not self.cancelled

        def phase_finish(self, phase_name: str) -> None:
            self.phases.finish(phase_name)

    monitor: BuildMonitor = Monitor()
    return monitor
