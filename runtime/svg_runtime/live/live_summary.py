"""The summary that a live run prints to stderr at the end."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table


def print_summary(console: Console, summary: dict[str, Any], written: list[str]) -> None:
    """Print what the run did: a table on a terminal, plain lines otherwise."""
    rows = _summary_rows(summary) + [("written", path) for path in written]
    if not console.is_terminal:
        for name, value in rows:
            console.print(f"{name}: {value}", markup=False)
        return
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, value in rows:
        table.add_row(f"[dim]{name}[/dim]", value)
    console.print(table)


def _summary_rows(summary: dict[str, Any]) -> list[tuple[str, str]]:
    frames, latency = summary["frames"], summary["latency_ms"]
    rows = [
        ("model", f"{summary['model']} on {summary['backend']}"),
        ("source", f"{summary['source']}; ended by {summary['stopped_by']}"),
        ("frames", ", ".join(f"{count} {name}" for name, count in frames.items())),
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
                ("surprise", f"{surprise['mean']:.2f} {unit} mean, {surprise['p95']:.2f} p95, {surprise['max']:.2f} max")
            )
    if summary["score"]:
        last = summary["score"][-1]
        rows.append((
            f"PSNR at +{last['seconds']:g} s",
            f"{last['psnr_best']:.1f} dB best of {summary['samples']}, {last['psnr_mean']:.1f} mean forecast, "
            f"{last['psnr_repeat']:.1f} repeating the last frame",
        ))  # fmt: skip
    adaptive = summary.get("adaptive")
    if adaptive:
        rows.append(
            ("adaptive", f"{adaptive['reduced_s']:.1f} s reduced; {adaptive['samples']} samples x {adaptive['horizon']} now")
        )
    fit = summary["fit"]
    if fit["misfit_s"]:
        reasons = "; ".join(fit["reasons"]) or "it fits now"
        rows.append(("model does not fit", f"{fit['misfit_s']:.1f} s; {reasons}"))
    alarms = summary["alarms"]
    if alarms["enabled"]:
        rows.append(("alarms", f"{alarms['count']} with {alarms['signal']} from {alarms['threshold']:g} on"))
    if summary["events"]["counts"]:
        rows.append(("events", ", ".join(f"{count} {kind}" for kind, count in summary["events"]["counts"].items())))
    if summary["peak_rss_mib"] is not None:
        rows.append(("memory", f"{summary['peak_rss_mib']:.0f} MiB peak"))
    return rows
