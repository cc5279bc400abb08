"""How far a build is, told while it runs; and Ctrl-C, which ends it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from svg_runtime.backends.tensorrt.nvidia_library import Library

_POLL_S = 0.1
_ALMOST = 0.99  # 1 is said once the engine is there

T = TypeVar("T")


class BuildMonitor(Protocol):
    """What is given to a build: the library's IProgressMonitor."""

    phases: Phases
    cancelled: bool


@dataclass
class _Phase:
    parent: str | None
    steps: int
    done: int = 0


class Phases:
    """Phases of a build, each with steps and within a step of another one, as one share of the whole.

    Attributes:
        share: 0 to 1; it never falls, though phases begin that nobody announced.
    """

    def __init__(self) -> None:
        self.share = 0.0
        self._phases: dict[str, _Phase] = {}
        self._lock = threading.Lock()  # the builder may call from several threads

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """A phase begins."""
        with self._lock:
            self._phases[name] = _Phase(parent, max(steps, 1))

    def step(self, name: str, step: int) -> None:
        """A phase has done its step number `step`, counted from 0."""
        with self._lock:
            if name in self._phases:
                self._phases[name].done = step + 1
                self.share = max(self.share, self._share_within(None))

    def finish(self, name: str) -> None:
        """A phase is over, perhaps before its last step."""
        with self._lock:
            self._phases.pop(name, None)

    def _share_within(self, parent: str | None) -> float:
        """The phase under way in a step of `parent` that is furthest."""
        within = [(name, phase) for name, phase in self._phases.items() if phase.parent == parent]
        return max((min(1.0, (phase.done + self._share_within(name)) / phase.steps) for name, phase in within), default=0.0)


def run_watched(library: Library, build: Callable[[BuildMonitor], T], report: Callable[[float], None]) -> T:
    """Run `build` and report meanwhile how far it is.

    It runs in a thread of its own, because Python handles Ctrl-C in the main thread, and not before a call into the library has
    returned, which takes minutes. The build then ends at its next step.

    Args:
        library: TensorRT.
        build: is given the monitor for the builder.
        report: called with the share that is done, in this thread; the last one is 1.

    Raises:
        KeyboardInterrupt: Ctrl-C. The build is over, unless it was pressed twice.
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
            report(min(monitor.phases.share, _ALMOST))
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
            self.phases, self.cancelled = Phases(), False

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.phases.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            self.phases.step(phase_name, step)
            return not self.cancelled

        def phase_finish(self, phase_name: str) -> None:
            self.phases.finish(phase_name)

    monitor: BuildMonitor = Monitor()
    return monitor
