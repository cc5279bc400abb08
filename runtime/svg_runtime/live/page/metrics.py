"""`/metrics`: the statistics of the run in the text format of Prometheus, by its conventions for names and units."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

import svg_runtime
from svg_runtime.live.page.camera import PageCamera

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_QUANTILES = {"0.5": "p50", "0.95": "p95", "0.99": "p99"}
_FRAMES = {
    "captured": ("svg_frames_captured", "Pictures that the source took or decoded"),
    "seen": ("svg_frames_observed", "Pictures that the model observed"),
    "forecast": ("svg_forecasts", "Forecasts made"),
    "dropped": ("svg_frames_dropped", "Model intervals whose picture was missed because the loop was busy"),
    "not_shown": ("svg_frames_not_shown", "Pictures left out because the outputs were slower"),
    "held": ("svg_frames_held", "Pictures shown to the model again, because none came in a short gap"),
    "blank": ("svg_frames_blank", "Pictures of one colour"),
    "frozen": ("svg_frames_frozen", "Pictures that were the same for long"),
}


class Metrics:
    """The page's registry, apart from that of the process, so that several pages and a program's own metrics get along.

    Args:
        cameras: gives those of the page.
        streams: gives how many streams are open.
        summary: gives the statistics of the run, as in --json.
    """

    def __init__(
        self, cameras: Callable[[], Sequence[PageCamera]], streams: Callable[[], int], summary: Callable[[], dict[str, Any]]
    ) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_RunCollector(cameras, streams, summary))
        ProcessCollector(registry=self._registry)

    def text(self) -> bytes:
        """Everything, now."""
        return generate_latest(self._registry)


class _RunCollector(Collector):
    def __init__(
        self, cameras: Callable[[], Sequence[PageCamera]], streams: Callable[[], int], summary: Callable[[], dict[str, Any]]
    ) -> None:
        self._cameras = cameras
        self._streams = streams
        self._summary = summary

    def describe(self) -> Iterable[Metric]:
        """Nothing: registering must not collect."""
        return []

    def collect(self) -> Iterator[Metric]:
        """See Prometheus."""
        cameras = self._cameras()
        yield _info("svg_build", "Version of svg-edge", {"version": svg_runtime.__version__})
        yield GaugeMetricFamily("svg_page_streams", "Streams of the page that are open", value=self._streams())
        yield from _about(cameras)
        yield from _counts(cameras)
        yield from _recorded(cameras, self._summary())
        yield _durations(cameras)
        yield from _signals(cameras)


def _info(name: str, text: str, labels: dict[str, str]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"{name}_info", text, labels=list(labels))
    family.add_metric(list(labels.values()), 1)
    return family


def _about(cameras: Sequence[PageCamera]) -> Iterator[Metric]:
    labels = ["camera", "source", "model", "bundle_id", "backend"]
    about = GaugeMetricFamily("svg_camera_info", "What is watched with which model", labels=labels)
    up = GaugeMetricFamily("svg_camera_up", "Whether the run of this camera makes progress", labels=["camera"])
    fits = GaugeMetricFamily("svg_model_fits", "Whether nothing speaks against the model for these pictures", labels=["camera"])
    for camera in cameras:
        caption, source = camera.about.caption, str(camera.summary()["source"])
        about.add_metric([camera.key, source, caption.model, camera.about.bundle_id, caption.backend], 1)
        up.add_metric([camera.key], int(camera.problem() is None))
        fits.add_metric([camera.key], int(not camera.stats.fit.reasons))
    yield from (about, up, fits)


def _counts(cameras: Sequence[PageCamera]) -> Iterator[Metric]:
    for key, (name, text) in _FRAMES.items():
        yield _counter(name, text, {camera.key: camera.summary()["frames"][key] for camera in cameras})
    resets = {camera.key: camera.summary()["resets"] for camera in cameras}
    yield _counter("svg_context_resets", "Resets of the model's context", resets)
    yield _counter("svg_reconnects", "Times that a lost camera came back", {one.key: _reconnects(one) for one in cameras})
    alarms = {camera.key: camera.summary()["alarms"]["count"] for camera in cameras}
    yield _counter("svg_alarms", "Alarms", alarms)
    events = CounterMetricFamily("svg_events", "Events of the run by kind", labels=["camera", "kind"])
    pictures = CounterMetricFamily("svg_page_pictures", "Pictures encoded for the page", labels=["camera", "picture"])
    for camera in cameras:
        for kind, count in camera.summary()["events"]["counts"].items():
            events.add_metric([camera.key, kind], count)
        for kind, count in camera.pictures_made.items():
            pictures.add_metric([camera.key, kind], count)
    yield from (events, pictures)


def _recorded(cameras: Sequence[PageCamera], summary: Mapping[str, Any]) -> Iterator[Metric]:
    """Counts of the recorders of each camera; the display of several belongs to no camera.

    What a full disk has cut off is taken from the stored pictures, but a counter never falls: both counters grow.
    """
    labels = ["camera", "what"]
    given = CounterMetricFamily("svg_recordings", "Pictures and forecasts that were to be recorded", labels=labels)
    lost = CounterMetricFamily("svg_recordings_lost", "Of these, those that could not be written", labels=labels)
    recorded = {camera.key: camera.summary()["recorded"] for camera in cameras}
    if "cameras" in summary:
        recorded[""] = summary["recorded"]
    for key, recorders in recorded.items():
        for counts in recorders:
            what = "pictures" if "pictures" in counts else "forecasts"
            given.add_metric([key, what], counts[what] + counts["lost"])
            lost.add_metric([key, what], counts["lost"])
    yield from (given, lost)


def _reconnects(camera: PageCamera) -> int:
    """A camera that was missing at the start comes back, too, and was not lost."""
    counts = camera.stats.events.counts
    return max(0, counts["camera_back"] - counts["camera_missing"])


def _counter(name: str, text: str, values: Mapping[str, float]) -> CounterMetricFamily:
    family = CounterMetricFamily(name, text, labels=["camera"])
    for camera, value in values.items():
        family.add_metric([camera], value)
    return family


def _durations(cameras: Sequence[PageCamera]) -> Metric:
    """Quantiles cover the last 10,000 frames; the library's own family has none."""
    name = "svg_stage_duration_seconds"
    family = Metric(name, "Latency by stage of the live loop; quantiles of the last 10,000 frames", "summary")
    for camera in cameras:
        totals = camera.stats.timer.totals()
        for stage, values in camera.summary()["latency_ms"].items():
            labels = {"camera": camera.key, "stage": stage}
            for quantile, key in _QUANTILES.items():
                family.add_sample(name, {**labels, "quantile": quantile}, values[key] / 1e3)
            count, total_ms = totals[stage]
            family.add_sample(f"{name}_sum", labels, total_ms / 1e3)
            family.add_sample(f"{name}_count", labels, count)
    return family


def _signals(cameras: Sequence[PageCamera]) -> Iterator[Metric]:
    surprise = GaugeMetricFamily("svg_surprise", "The model's surprise at the last frame", labels=["camera", "unit"])
    signals = GaugeMetricFamily(
        "svg_signal_deviations", "Signals in robust standard deviations above the usual", labels=["camera", "signal"]
    )
    active = GaugeMetricFamily("svg_alarm_active", "Whether there is an alarm", labels=["camera"])
    threshold = GaugeMetricFamily("svg_alarm_threshold", "The signal from which on it is an alarm", labels=["camera"])
    for camera in cameras:
        unit, values = camera.about.caption.surprise_unit, camera.stats.alarms.values
        is_known = camera.problem() is None  # else the last ones are of the past
        if is_known and unit is not None and camera.stats.surprise.count:
            surprise.add_metric([camera.key, unit], camera.stats.surprise.last)
        for name, value in vars(values).items() if is_known and values is not None else ():
            if value is not None:
                signals.add_metric([camera.key, name], value)
        summary = camera.summary()["alarms"]
        active.add_metric([camera.key], int(camera.stats.alarms.active))
        if summary["enabled"]:
            threshold.add_metric([camera.key], summary["threshold"])
    yield from (surprise, signals, active, threshold)
