"""The results of a benchmark: tables for a terminal, JSON for programs."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from svg_common.errors import first_line
from svg_runtime.backends.computed import summarize
from svg_runtime.bench.bench_run import BenchOptions, Findings, Row
from svg_runtime.bench.operations import forecast_operations
from svg_runtime.bundle.reader import Bundle
from svg_runtime.calibration.ways import reference_way
from svg_runtime.machine.hardware import hardware, load_share, versions

_LABELS = ("backend", "weights", "graphs")
_ABSENT = "-"
_NONE = (_ABSENT, _ABSENT)
_ANY_WIDTH = 1 << 16


@dataclass(frozen=True)
class ColumnGroup:
    """Columns that stay in one table, and the function that computes their cells from a row's result."""

    titles: tuple[str, ...]
    cells: Callable[[dict[str, Any]], Sequence[str]]


def as_json(bundle: Bundle, options: BenchOptions, findings: Findings) -> dict[str, Any]:
    """Return the object for --json. Times in ms, rates per second, memory in MiB, PSNR in dB, shares from 0 to 1."""
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


def print_report(console: Console, bundle: Bundle, options: BenchOptions, findings: Findings) -> None:
    """Print the tables, a line for each row that failed, and an explanation of the columns.

    Args:
        console: its width decides into how many tables the columns are split. Numbers are never cut.
        bundle: the measured bundle.
        options: the options of the benchmark.
        findings: the results.
    """
    measured = [row for row in findings.rows if row.result is not None]
    failed = [_failure(row) for row in findings.rows if row.result is None]
    console.print(_title(bundle, options), markup=False, soft_wrap=True)
    if measured:
        for table in _tables(console, measured, [*_speed_groups(), *_other_groups(options.horizon)]):
            console.print()
            console.print(table, soft_wrap=True)
    for lines in (failed, _notes(bundle, options, findings)):
        if lines:
            console.print()
        for line in lines:
            wrapped = textwrap.wrap(line, console.width, subsequent_indent="  ") if console.is_terminal else [line]
            console.print("\n".join(wrapped), markup=False, soft_wrap=True)


def _tables(console: Console, rows: list[Row], groups: list[ColumnGroup]) -> Iterator[Table]:
    """Yield as few tables as the console's width allows; a group is not split."""
    while groups:
        parts = (groups[:count] for count in range(len(groups), 0, -1))
        fitting = (part for part in parts if _width(console, _table(rows, part)) <= console.width)
        part = next(fitting, groups[:1])
        table = _table(rows, part)
        table.width = _width(console, table)  # even if the console is narrower: a cut number is a wrong number
        yield table
        groups = groups[len(part) :]


def _table(rows: list[Row], groups: list[ColumnGroup]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for label in _LABELS:
        table.add_column(label, no_wrap=True)
    for group in groups:
        for title in group.titles:
            table.add_column(title, justify="right", no_wrap=True)
    for row in rows:
        assert row.result is not None
        cells = [cell for group in groups for cell in group.cells(row.result)]
        table.add_row(row.backend, row.precision, row.graphs, *cells)
    return table


def _width(console: Console, table: Table) -> int:
    """Return the width in characters that a table needs."""
    return Measurement.get(console, console.options.update(max_width=_ANY_WIDTH), table).maximum


def _failure(row: Row) -> str:
    labels = " ".join(filter(None, (row.backend, row.precision, row.graphs)))
    return f"{labels} not measured: {first_line(row.reason or '')}"


def _title(bundle: Bundle, options: BenchOptions) -> str:
    frame = bundle.manifest.frame
    return (
        f"{bundle.path.name}: {options.samples} samples x {options.horizon} steps of {frame.width}x{frame.height}x"
        f"{frame.channels}, {options.seconds:g} s per row"
    )


def _speed_groups() -> list[ColumnGroup]:
    def times(stage: str) -> ColumnGroup:
        names = ("p50", "p95", "p99")
        titles = tuple(f"{stage}\n{name} ms" for name in names)
        return ColumnGroup(titles, lambda result: [_number(result[f"{stage}_ms"][name]) for name in names])

    def rates(result: dict[str, Any]) -> list[str]:
        return [_number(result["forecasts_per_s"]), _number(result["frames_per_s"])]

    return [times("observe"), times("forecast"), ColumnGroup(("forecasts\nper s", "frames\nper s"), rates)]


def _other_groups(horizon: int) -> list[ColumnGroup]:
    def error(step: int, frame: str) -> ColumnGroup:
        titles = (f"error +{step}\nmax", f"error +{step}\ndB")
        return ColumnGroup(titles, lambda result: _error(result["error"][frame]) if "error" in result else _NONE)

    def memory(result: dict[str, Any]) -> list[str]:
        return [_ABSENT if result["peak_rss_mib"] is None else f"{result['peak_rss_mib']:.0f}"]

    def share(result: dict[str, Any]) -> list[str]:
        shares = result.get("share", {})
        return [_percent(shares[kind]) if kind in shares else _ABSENT for kind in ("compute", "memory")]

    def computed(result: dict[str, Any]) -> list[str]:
        return [summarize(result["computed_in"], "+") or "unknown"]

    return [
        ColumnGroup(("computed\nin",), computed),
        ColumnGroup(("peak\nMiB",), memory),
        error(1, "first"),
        error(horizon, "last"),
        ColumnGroup(("compute\nof peak", "memory\nof peak"), share),
    ]


def _error(error: dict[str, float]) -> tuple[str, str]:
    if error["max_abs"] == 0:
        return "0", "equal"
    return f"{error['max_abs']:.0e}", f"{error['psnr_db']:.1f}"


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.095 else f"{share:.1%}"


def _number(value: float) -> str:
    """Format with three significant digits and no exponent."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _notes(bundle: Bundle, options: BenchOptions, findings: Findings) -> list[str]:
    results = [row.result for row in findings.rows if row.result is not None]
    machine, interval = hardware(), bundle.manifest.generation.frame_interval_s
    notes = ["interrupted: only the rows measured so far"] if findings.interrupted else []
    if load_share(findings.load) > 1 / 2:
        notes.append(
            f"busy: load average {findings.load} before the benchmark; measure on an idle machine for reliable results"
        )
    mode = f", power mode {findings.before['power_mode']}" if "power_mode" in findings.before else ""
    notes.append(f"machine: {machine['board'] or machine['cpu']}, {machine['cores_usable']} core(s){mode}")
    if results:
        engines = dict.fromkeys(result["description"] for result in results)
        pace = f"; the model's own rate is {1 / interval:.3g}" if interval else ""
        notes += [f"engines: {'; '.join(engines)}", f"frames per second: observe and forecast, one after the other{pace}"]
        notes.append(
            "computed in: the precision in which the engine really computes layers with weights; --json lists it per graph"
        )
        notes.append("peak: resident memory of the row's own process, on the host")
        notes += _error_notes(bundle, findings) + _share_notes(bundle, options, findings)
    return notes


def _error_notes(bundle: Bundle, findings: Findings) -> list[str]:
    if not findings.reference:
        return [f"error: not available, because the cpu backend produced no fp32 frames: {_why(findings, 'reference')}"]
    graphs = reference_way(bundle.manifest).graphs
    return [f"error: largest difference and PSNR against the {graphs} fp32 graphs on the cpu backend, same noise"]


def _share_notes(bundle: Bundle, options: BenchOptions, findings: Findings) -> list[str]:
    if findings.peak is None:
        return [f"share of peak: not available, because the probe failed: {_why(findings, 'peak')}"]
    rates = f"{findings.peak['matmul_gflops']:.0f} GFLOP/s and copies at {findings.peak['copy_gb_s']:.1f} GB/s"
    notes = [f"share of peak: relative to NumPy on {findings.peak['threads']} cores here, float32 matrix products at {rates}"]
    operations = _operations(bundle, options, findings)
    if operations is None:
        notes.append(f"compute: not available: {_why(findings, 'counts')}")
    else:
        count = f"{operations / 1e9:.3g} GFLOP a forecast"
        notes.append(f"compute: {count} in convolutions and matrix products; reduced precision may exceed 100%")
    return [*notes, "memory: weights, inputs and outputs of every graph run, once; with caches it may exceed 100%"]


def _why(findings: Findings, name: str) -> str:
    return first_line(findings.missing.get(name, "interrupted"))


def _operations(bundle: Bundle, options: BenchOptions, findings: Findings) -> int | None:
    if findings.counts is None:
        return None
    return forecast_operations(findings.counts, bundle.manifest, options.samples, options.horizon)
