"""Figures of `injected_anomalies.py`: ROC area, share detected and delay of each signal per kind of anomaly, false alarms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from goal_metrics import aligned
from numpy.typing import NDArray

from svg_eval.roc import roc_area
from svg_runtime.live.alarms.trigger import AlarmTrigger, TriggerOptions
from svg_runtime.live.empty_pictures import EmptyPicture
from svg_runtime.live.signals import SignalValues

REPORTED = "reported"  # combined, above which are pictures that svg-live reports as blank or frozen
SIGNALS = (*(field.name for field in fields(SignalValues)), REPORTED)
ALL = "all kinds"
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Judged:
    """What svg-live says of a frame.

    Attributes:
        values: its signals; None while nothing is known, and of pictures that carry nothing.
        empty: why its picture carries nothing.
    """

    values: SignalValues | None
    empty: EmptyPicture | None = None


@dataclass(frozen=True)
class Anomaly:
    """Signals of one injected anomaly: of each signal a value per frame, all of them anomalous."""

    clip: str
    kind: str
    start: int
    values: dict[str, Values]


@dataclass(frozen=True)
class Row:
    """One signal on one kind of anomaly.

    Attributes:
        roc_area: of frames: all anomalous ones of the kind against all normal ones, of all clips together.
        detected: share of the anomalies in which an alarm starts.
        delay_s: median, from the first anomalous frame to the alarm, of those detected; None without one.
    """

    kind: str
    signal: str
    anomalies: int
    roc_area: float
    detected: float
    delay_s: float | None


@dataclass(frozen=True)
class Result:
    """All numbers.

    Attributes:
        rows: of each kind, and of all together, each signal.
        false_alarms: of each signal, alarms in ten minutes of normal video.
        normal_s: seconds of normal video, without those in which the signals settle.
    """

    rows: tuple[Row, ...]
    false_alarms: dict[str, float]
    normal_s: float


def by_signal(judged: Sequence[Judged]) -> dict[str, Values]:
    """Of each signal a value per frame. What is not known raises no alarm: it counts as 0, the usual."""

    def of(each: Judged, name: str) -> float:
        if name == REPORTED:
            return of(each, "combined") if each.empty is None else np.inf
        return 0.0 if each.values is None else getattr(each.values, name) or 0.0

    return {name: np.array([of(each, name) for each in judged], np.float64) for name in SIGNALS}


def measure(
    normal: Sequence[dict[str, Values]], anomalies: Sequence[Anomaly], interval_s: float, options: TriggerOptions
) -> Result:
    """All numbers.

    Args:
        normal: of each clip the signals of its normal frames after those in which they settle.
        anomalies: all that were injected.
        interval_s: seconds between frames.
        options: of the alarm.
    """
    kinds = [*dict.fromkeys(each.kind for each in anomalies), ALL]
    seconds = interval_s * sum(len(clip["combined"]) for clip in normal)
    alarms = {name: sum(len(alarm_times(clip[name], interval_s, options)) for clip in normal) for name in SIGNALS}
    rows = []
    for kind in kinds:
        chosen = [each for each in anomalies if kind in (each.kind, ALL)]
        rows += [
            _row(kind=kind, name=name, normal=normal, anomalies=chosen, interval_s=interval_s, options=options)
            for name in SIGNALS
        ]
    return Result(tuple(rows), {name: count * 600 / seconds for name, count in alarms.items()}, seconds)


def _row(
    kind: str,
    name: str,
    normal: Sequence[dict[str, Values]],
    anomalies: Sequence[Anomaly],
    interval_s: float,
    options: TriggerOptions,
) -> Row:
    usual = np.concatenate([clip[name] for clip in normal])
    unusual = np.concatenate([each.values[name] for each in anomalies])
    labels = np.arange(len(usual) + len(unusual)) >= len(usual)
    first = [alarm_times(each.values[name], interval_s, options)[:1] for each in anomalies]
    delays = [time for times in first for time in times]
    return Row(
        kind=kind,
        signal=name,
        anomalies=len(anomalies),
        roc_area=roc_area(np.concatenate([usual, unusual]), labels),
        detected=len(delays) / len(anomalies),
        delay_s=float(np.median(delays)) if delays else None,
    )


def alarm_times(values: Values, interval_s: float, options: TriggerOptions) -> list[float]:
    """Seconds from the first value to each start of an alarm, when that value is known: an alarm may last at the end."""
    trigger = AlarmTrigger(options, interval_s)
    times = [number * interval_s for number in range(len(values))]
    return [time for time, value in zip(times, values, strict=True) if trigger.add(time, float(value)) == "started"]


def lines(result: Result, options: TriggerOptions) -> list[str]:
    """The tables."""
    rows = [["", "", "anomalies", "ROC area", "detected", "median delay"]]
    for row in result.rows:
        kind, count = (row.kind, str(row.anomalies)) if row.signal == SIGNALS[0] else ("", "")
        delay = "-" if row.delay_s is None else f"{row.delay_s:.2f} s"
        rows.append([kind, row.signal, count, f"{row.roc_area:.3f}", f"{100 * row.detected:.0f} %", delay])
    false = ", ".join(f"{name} {rate:.2f}" for name, rate in result.false_alarms.items())
    return [
        *aligned(rows),
        "",
        f"alarms at {options.threshold:g} for {options.min_duration_s:g} s",
        f"false alarms per ten minutes of normal video ({result.normal_s / 60:.1f} minutes): {false}",
    ]


def as_json(result: Result, options: TriggerOptions) -> dict[str, Any]:
    """All numbers."""
    return {**asdict(result), "alarm": asdict(options)}
