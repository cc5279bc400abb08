"""What a benchmark found, for people (a table) and for programs (JSON)."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from svg_runtime.backends.computed import summarize
from svg_runtime.bench.operations import forecast_operations
from svg_runtime.bench.run import BenchOptions, Findings, Row, first_line
from svg_runtime.bench.table import Group, Line, format_table, table_width
from svg_runtime.bundle.reader import Bundle
from svg_runtime.machine.hardware import hardware, versions

_LABELS = ("backend", "weights", "graphs")
_ABSENT = "-"
_NONE = (_ABSENT, _ABSENT)


@dataclass(frozen=True)
class Columns(Group):
    """A group of columns, and how its cells follow from a row's result."""

    cells: Callable[[dict[str, Any]], Sequence[str]]


def as_json(bundle: Bundle, options: BenchOptions, findings: Findings) -> dict[str, Any]:
    """The object behind --json. Times in ms, rates per second, memory in MiB, PSNR in dB, shares as parts of 1."""
    return {
        "model": bundle.path.name,
        "bundle_id": bundle.manifest.bundle_id,
        "frame_interval_s": bundle.manifest.generation.frame_interval_s,
        "samples": options.samples,
        "horizon": options.horizon,
        "seed": options.seed,
        "seconds": options.seconds,
        "device": options.device,
        "interrupted": findings.interrupted,
        "load_average_before": findings.load,
        "hardware": hardware(),
        "telemetry": {"before": findings.before, "after": findings.after},
        "versions": versions(),
        "peak": findings.peak,
        "multiply_adds": findings.counts,  # per run of a graph at batch 1
        "forecast_operations": _operations(bundle, options, findings),
        "missing": findings.missing,
        "rows": [row.as_json() for row in findings.rows],
    }


def describe(bundle: Bundle, options: BenchOptions, findings: Findings, width: int) -> list[str]:
    """Lines of the report: the table, in as many parts as `width` needs, and what its figures mean."""
    notes = [line for note in _notes(bundle, options, findings) for line in textwrap.wrap(note, width, subsequent_indent="  ")]
    return [_title(bundle, options), "", *_table(options.horizon, findings.rows, width), "", *notes]


def _table(horizon: int, rows: list[Row], width: int) -> list[str]:
    """Groups of columns side by side as far as they fit, the others below. Rows that failed are in the first part only."""
    measured = [row for row in rows if row.result is not None]
    if not measured:
        return format_table(_LABELS, [], [_line(row, ()) for row in rows], width)[1:]
    text: list[str] = []
    left = [*_speed_groups(), *_rest_groups(horizon)]
    shown = rows
    while left:
        parts = (left[:count] for count in range(len(left), 0, -1))
        part = next((part for part in parts if _part_width(part, shown) <= width), left[:1])
        text += [*([""] if text else []), *format_table(_LABELS, part, _lines(part, shown), width)]
        left, shown = left[len(part) :], measured
    return text


def _part_width(part: list[Columns], rows: list[Row]) -> int:
    return table_width(_LABELS, part, _lines(part, rows))


def _lines(part: list[Columns], rows: list[Row]) -> list[Line]:
    return [_line(row, [cell for columns in part for cell in columns.cells(row.result)] if row.result else ()) for row in rows]


def _title(bundle: Bundle, options: BenchOptions) -> str:
    frame = bundle.manifest.frame
    return (
        f"{bundle.path.name}: {options.samples} samples x {options.horizon} steps of {frame.width}x{frame.height}x"
        f"{frame.channels}, {options.seconds:g} s per row"
    )


def _line(row: Row, cells: Sequence[str]) -> Line:
    labels = (row.backend, row.precision or _ABSENT, row.graphs or _ABSENT)
    return Line(labels, tuple(cells)) if row.result is not None else Line(labels, sentence=first_line(row.reason or ""))


def _speed_groups() -> list[Columns]:
    def times(stage: str) -> Columns:
        names = ("p50", "p95", "p99")
        return Columns(f"{stage} ms", names, lambda result: [_number(result[f"{stage}_ms"][name]) for name in names])

    def rates(result: dict[str, Any]) -> list[str]:
        return [_number(result["forecasts_per_s"]), _number(result["frames_per_s"])]

    return [times("observe"), times("forecast"), Columns("per second", ("forecast", "frame"), rates)]


def _rest_groups(horizon: int) -> list[Columns]:
    def error(heading: str, frame: str) -> Columns:
        return Columns(heading, ("max", "dB"), lambda result: _error(result["error"][frame]) if "error" in result else _NONE)

    def memory(result: dict[str, Any]) -> list[str]:
        return [_ABSENT if result["peak_rss_mib"] is None else f"{result['peak_rss_mib']:.0f}"]

    def share(result: dict[str, Any]) -> list[str]:
        found = result.get("share", {})
        return [_percent(found[kind]) if kind in found else _ABSENT for kind in ("compute", "memory")]

    def computed(result: dict[str, Any]) -> list[str]:
        return [summarize(result["computed_in"], "+") or "not told"]

    return [
        Columns("computed", ("in",), computed),
        Columns("peak", ("MiB",), memory),
        error("error at +1", "first"),
        error(f"at +{horizon}", "last"),
        Columns("share of peak", ("compute", "memory"), share),
    ]


def _error(error: dict[str, float]) -> tuple[str, str]:
    if error["max_abs"] == 0:
        return "0", "equal"
    return f"{error['max_abs']:.0e}", f"{error['psnr_db']:.1f}"


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.095 else f"{share:.1%}"


def _number(value: float) -> str:
    """Three figures that matter, and no exponent."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _notes(bundle: Bundle, options: BenchOptions, findings: Findings) -> list[str]:
    results = [row.result for row in findings.rows if row.result is not None]
    machine, interval = hardware(), bundle.manifest.generation.frame_interval_s
    notes = ["interrupted: these are the rows so far"] if findings.interrupted else []
    if findings.load is not None and findings.load > machine["cores_usable"] / 2:
        notes.append(f"busy: load average {findings.load} before the benchmark; an idle machine gives better figures")
    mode = f", power mode {findings.before['power_mode']}" if "power_mode" in findings.before else ""
    notes.append(f"machine: {machine['board'] or machine['cpu']}, {machine['cores_usable']} core(s){mode}")
    if results:
        engines = dict.fromkeys(result["description"] for result in results)
        pace = f"; the model's pace is {1 / interval:.3g}" if interval else ""
        notes += [f"engines: {'; '.join(engines)}", f"frames per second: observe and forecast, one after the other{pace}"]
        notes.append("computed in: what the engine really computes layers with weights in; --json says which graph")
        notes.append("peak: resident memory of the row's own process, on the host")
        notes += _error_notes(findings) + _share_notes(bundle, options, findings)
    return notes


def _error_notes(findings: Findings) -> list[str]:
    if not findings.reference:
        return [f"error: not known, as the cpu backend gave no fp32 frames: {_why(findings, 'reference')}"]
    return ["error: largest difference and PSNR against the separate fp32 graphs on the cpu backend, same noise"]


def _share_notes(bundle: Bundle, options: BenchOptions, findings: Findings) -> list[str]:
    if findings.peak is None:
        return [f"share of peak: not known, as the probe failed: {_why(findings, 'peak')}"]
    rates = f"{findings.peak['matmul_gflops']:.0f} GFLOP/s and copies at {findings.peak['copy_gb_s']:.1f} GB/s"
    notes = [
        f"share of peak: of what NumPy reaches on {findings.peak['threads']} cores here, float32 matrix products at {rates}"
    ]
    operations = _operations(bundle, options, findings)
    if operations is None:
        notes.append(f"compute: not known: {_why(findings, 'counts')}")
    else:
        count = f"{operations / 1e9:.3g} GFLOP a forecast"
        notes.append(f"compute: {count} in convolutions and matrix products; reduced precision may pass 100%")
    return [*notes, "memory: weights, inputs and outputs of every graph run, once; caches may pass 100%"]


def _why(findings: Findings, name: str) -> str:
    return first_line(findings.missing.get(name, "interrupted"))


def _operations(bundle: Bundle, options: BenchOptions, findings: Findings) -> int | None:
    if findings.counts is None:
        return None
    return forecast_operations(findings.counts, bundle.manifest, options.samples, options.horizon)
