"""What one forecast does on a GPU: launches, copies, waits and idle gaps, from the CUPTI trace that PyTorch's profiler takes.

CUPTI sees all CUDA work of the process, so any engine's forecast can be traced.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

Kind = Literal["kernel", "copy", "set", "call"]

_KINDS: dict[str, Kind] = {
    "kernel": "kernel", "gpu_memcpy": "copy", "gpu_memset": "set", "cuda_runtime": "call", "cuda_driver": "call"
}  # fmt: skip
_HEAD = 64  # kernels before the marker: the profiler loses the first ones of its second and every later use (pytorch #192021)
_MIN_CUDA = (12, 6)  # before 12.6, tracing a CUDA graph older than the profiler's first use can crash the process
_VERSION = re.compile(r"(_v\d+|_ptsz|_ptds)+$")  # version suffixes in the driver's names


@dataclass(frozen=True)
class Activity:
    """Something that took time on the device, or a call of the host into CUDA."""

    name: str
    kind: Kind
    start_us: float
    duration_us: float
    thread: int = 0  # of the host, for calls
    correlation: int = 0  # the same for a call and for the work on the device that it started

    @property
    def end_us(self) -> float:
        """When it was over."""
        return self.start_us + self.duration_us


@dataclass(frozen=True)
class TraceSummary:
    """Counts and times of one forecast. Launches, copies and waits are calls of the host; kernels are what the device ran."""

    launches: int  # of kernels and of graphs
    graph_launches: int
    copies: int
    waits: int  # calls that return when the device has finished
    kernels: int
    pageable_copies: int  # to or from memory that is not pinned: they make the host wait too
    busy_us: float
    span_us: float  # from the first work of the device to the last

    @property
    def idle_share(self) -> float:
        """Part of the span in which the device had nothing to do."""
        return 1 - self.busy_us / self.span_us if self.span_us else 0.0

    def as_json(self) -> dict[str, Any]:
        """For the benchmark's extra_info."""
        return {**asdict(self), "idle_share": self.idle_share}


def trace_forecast(forecast: Callable[[], object]) -> TraceSummary:
    """Run a forecast under the profiler, between two markers that set it apart from what the profiler does itself.

    Time everything before: after its first use, CUPTI slows down every call into CUDA.

    Raises:
        ValueError: it cannot be traced here, or the profiler lost the markers.
    """
    import torch
    from torch.profiler import ProfilerActivity, profile

    if tuple(int(number) for number in str(torch.version.cuda).split(".")[:2]) < _MIN_CUDA:
        raise ValueError(f"tracing CUDA graphs needs a PyTorch with CUDA 12.6 or later; this one has {torch.version.cuda}")
    marker = torch.zeros(1, device="cuda")
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        for _ in range(_HEAD):
            marker.fill_(0)
        marker.fill_(1)
        torch.cuda.synchronize()
        forecast()
        marker.fill_(2)
    with tempfile.TemporaryDirectory(prefix="svg-trace-") as folder:
        file = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(file))
        events = json.loads(file.read_text(encoding="utf-8"))["traceEvents"]
    return summarize(between_markers(read_events(events)))


def read_events(events: Iterable[dict[str, Any]]) -> list[Activity]:
    """The work of the device and the calls into CUDA in a trace in Chrome's format."""
    return [
        Activity(
            name=_VERSION.sub("", event["name"]),
            kind=_KINDS[event["cat"]],
            start_us=event["ts"],
            duration_us=event["dur"],
            thread=event.get("tid", 0),
            correlation=event.get("args", {}).get("correlation", 0),
        )
        for event in events
        if event.get("ph") == "X" and event.get("cat") in _KINDS
    ]


def between_markers(activities: list[Activity], head: int = _HEAD) -> list[Activity]:
    """The activities between the two markers and between the calls that launched them, without the wait for the first.

    Args:
        activities: of a trace.
        head: launches before that of the first marker; the second one is the last launch.

    Raises:
        ValueError: the markers are missing.
    """
    calls = sorted((each for each in activities if each.kind == "call"), key=lambda each: each.start_us)
    launches = [each for each in _outermost(calls) if _launches(each)]
    if len(launches) < head + 2:
        raise ValueError("the profiler did not record the markers around the forecast; check its permission to trace this GPU")
    first, last = launches[head], launches[-1]
    begin, end = (_kernel_of(launch, activities) for launch in (first, last))
    inside = [each for each in calls if first.end_us <= each.start_us and each.end_us <= last.start_us]
    wait = next((each for each in inside if _waits(each)), None)
    waiting = [] if wait is None else _within(wait, inside)
    work = [each for each in activities if each.kind != "call" and begin.end_us <= each.start_us < end.start_us]
    return [each for each in inside if each not in waiting] + work


def _within(call: Activity, activities: list[Activity]) -> list[Activity]:
    """The call, and those that it made itself."""
    return [each for each in activities if each.kind == "call" and each.thread == call.thread
            and call.start_us <= each.start_us and each.end_us <= call.end_us]  # fmt: skip


def _kernel_of(launch: Activity, activities: list[Activity]) -> Activity:
    """What a call launched, or a call that it made itself."""
    numbers = {each.correlation for each in _within(launch, activities)}
    found = next((each for each in activities if each.kind == "kernel" and each.correlation in numbers), None)
    if found is None:
        raise ValueError("the profiler lost the kernel of a marker around the forecast, so its other times cannot be trusted")
    return found


def summarize(activities: list[Activity]) -> TraceSummary:
    """Count calls, without those that a call makes itself, and measure how long the device was busy."""
    calls = _outermost([each for each in activities if each.kind == "call"])
    work = [each for each in activities if each.kind != "call"]
    copies = [each for each in work if each.kind == "copy"]
    return TraceSummary(
        launches=sum(map(_launches, calls)),
        graph_launches=sum("GraphLaunch" in each.name for each in calls),
        copies=sum("Memcpy" in each.name for each in calls),
        waits=sum(map(_waits, calls)),
        kernels=sum(each.kind == "kernel" for each in work),
        pageable_copies=sum("pageable" in each.name.lower() for each in copies),
        busy_us=_covered_us(work),
        span_us=max((each.end_us for each in work), default=0.0) - min((each.start_us for each in work), default=0.0),
    )


def _launches(call: Activity) -> bool:
    return re.match(r"cu(da)?(GraphLaunch|Launch(?!HostFunc))", call.name) is not None


def _waits(call: Activity) -> bool:
    blocking_copy = "Memcpy" in call.name and "Async" not in call.name
    return "Synchronize" in call.name or blocking_copy


def _outermost(calls: list[Activity]) -> list[Activity]:
    """Calls that lie in no other of the same thread: the runtime makes the driver's."""
    outermost: list[Activity] = []
    until: dict[int, float] = {}
    for call in sorted(calls, key=lambda each: (each.start_us, -each.duration_us)):
        if call.end_us > until.get(call.thread, float("-inf")):
            outermost.append(call)
            until[call.thread] = call.end_us
    return outermost


def _covered_us(work: list[Activity]) -> float:
    """Length of the union: work of several streams at the same time counts once."""
    covered, until = 0.0, float("-inf")
    for each in sorted(work, key=lambda each: each.start_us):
        covered += max(0.0, each.end_us - max(each.start_us, until))
        until = max(until, each.end_us)
    return covered
