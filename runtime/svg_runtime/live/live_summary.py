"""The summary that a live run prints to stderr at the end."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from svg_runtime.live.adaptive import counts_in_words


def print_summary(console: Console, summary: dict[str, Any], written: list[str]) -> None:
    """Print what the run did: a table on a terminal, plain lines otherwise."""
    rows = _rows_of_several(summary) if "cameras" in summary else _summary_rows(summary)
    rows += [("written", path) for path in written]
    if not console.is_terminal:
        for name, value in rows:
            console.print(f"{name}: {value}", markup=False)
        return
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, value in rows:
        table.add_row(Text(name, style="dim"), Text(value))  # names may hold brackets, which are no markup
    console.print(table)


def _summary_rows(summary: dict[str, Any]) -> list[tuple[str, str]]:
    frames, latency = summary["frames"], summary["latency_ms"]
    rows = [
        ("model", f"{summary['model']} on {summary['backend']}"),
        ("source", f"{summary['source']}; ended by {summary['stopped_by']}"),
        ("frames", _frames(frames)),
        ("rate", f"{summary['fps']:.1f} fps over {summary['duration_s']:.1f} s"),
    ]
    for stage in ("observe", "forecast", "end_to_end"):
        if stage in latency:
            p50, p95, p99 = (latency[stage][name] for name in ("p50", "p95", "p99"))
            rows.append((stage.replace("_", " "), f"{p50:.1f} ms median, {p95:.1f} p95, {p99:.1f} p99"))
    for name, unit in (("surprise_nats", "nats"), ("surprise_relative", "times the usual error,")):
        surprise = summary.get(name)
        if surprise:
            rows.append(
                ("surprise", f"{surprise['p50']:.2f} {unit} median, {surprise['p95']:.2f} p95, {surprise['max']:.2f} max")
            )
    if summary["score"]:
        last = summary["score"][-1]
        reduced = summary.get("adaptive", {}).get("reduced_s", 0) > 0
        varied = reduced or summary.get("counts_changed")  # not every forecast had all samples
        best = "best sample" if varied else f"best of {summary['samples']}"
        rows.append((
            f"PSNR at +{last['seconds']:.3g} s",
            f"{last['psnr_best']:.1f} dB {best}, {last['psnr_mean']:.1f} mean forecast, "
            f"{last['psnr_repeat']:.1f} repeating the last frame",
        ))  # fmt: skip
    rows += _adaptive_rows(summary)
    fit = summary["fit"]
    if fit["misfit_s"]:
        reasons = "; ".join(fit["reasons"]) or "it fits now"
        rows.append(("model does not fit", f"{fit['misfit_s']:.1f} s; {reasons}"))
    alarms = summary["alarms"]
    if alarms["enabled"]:
        rows.append(("alarms", f"{alarms['count']} with {alarms['signal']} from {alarms['threshold']:g} on"))
    return rows + _common_rows(summary)


def _rows_of_several(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """Totals, and a row for each camera."""
    rows = [
        ("model", f"{summary['model']} on {summary['backend']}"),
        ("frames", _frames(summary["frames"])),
        ("rate", f"{summary['fps']:.1f} fps over {summary['duration_s']:.1f} s"),
    ]
    if summary["batches"]:
        sizes = ", ".join(f"{count} of {size}" for size, count in summary["batches"].items())
        rows.append(("pictures at once", sizes))
    rows += _adaptive_rows(summary)
    for name, camera in summary["cameras"].items():
        rows.append((name, _camera_row(camera)))
        rows += [(f"{name}, {what}", value) for what, value in _common_rows(camera)]
    return rows + _common_rows(summary)


def _adaptive_rows(summary: dict[str, Any]) -> list[tuple[str, str]]:
    adaptive = summary.get("adaptive")
    if not adaptive:
        return []
    counts = counts_in_words(adaptive["samples"], adaptive["horizon"])
    return [("adaptive", f"{adaptive['reduced_s']:.1f} s reduced; {counts} now")]


def _camera_row(camera: dict[str, Any]) -> str:
    parts = [f"{camera['fps']:.1f} fps", _frames(camera["frames"])]
    if "end_to_end" in camera["latency_ms"]:
        end_to_end = camera["latency_ms"]["end_to_end"]
        parts.append(f"{end_to_end['p50']:.0f} ms end to end, {end_to_end['p95']:.0f} p95")
    alarms = camera["alarms"]
    if alarms["enabled"]:
        parts.append(f"{alarms['count']} alarm{'' if alarms['count'] == 1 else 's'}")
    if camera["fit"]["misfit_s"]:
        parts.append(f"the model did not fit for {camera['fit']['misfit_s']:.1f} s")
    return "; ".join([*parts, f"ended by {camera['stopped_by']}"])


def _common_rows(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """What a camera and a process may both have."""
    rows = []
    for recorded in summary["recorded"]:
        counts = {name: count for name, count in recorded.items() if name != "folder" and (count or name != "lost")}
        rows.append(
            ("recorded", ", ".join(_counted(count, name) for name, count in counts.items()) + f": {recorded['folder']}")
        )
    if summary["events"]["counts"]:
        rows.append(("events", ", ".join(f"{count} {kind}" for kind, count in summary["events"]["counts"].items())))
    if summary.get("peak_rss_mib") is not None:
        rows.append(("memory", f"{summary['peak_rss_mib']:.0f} MiB peak"))
    return rows


def _counted(count: int, name: str) -> str:
    """'1 segment', '2 segments'."""
    return f"{count} {name.removesuffix('s') if count == 1 else name}"


def _frames(frames: dict[str, int]) -> str:
    """The counts of frames; what is usually 0 only if it is not."""
    named = {name: count for name, count in frames.items() if count or name not in ("held", "blank", "frozen")}
    return ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in named.items())
