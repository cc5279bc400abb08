"""Runs all jobs of a benchmark one after another and gathers them into rows. What fails is a row with its reason."""

from __future__ import annotations

import itertools
import logging
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from svg_common.metrics import psnr
from svg_common.progress import ProgressListener
from svg_runtime.bench.cases import REFERENCE, Case, list_cases
from svg_runtime.bench.operations import forecast_bytes, forecast_operations
from svg_runtime.bench.process import JobError, run_job
from svg_runtime.bundle.manifest import Manifest, Precision
from svg_runtime.bundle.reader import Bundle
from svg_runtime.live.preprocess import Preprocessor
from svg_runtime.live.sources.synthetic import SyntheticSource
from svg_runtime.machine.hardware import load_average, usable_cores
from svg_runtime.machine.telemetry import telemetry

_LOG = logging.getLogger(__name__)
_OTHER_JOBS = 4  # than rows: three before the first, one after the last
_FRAMES = 24  # of the synthetic camera, observed over and over
_ON_HOST = ("cpu", "openvino")  # backends that may run on the processor that the probe measured


@dataclass(frozen=True)
class BenchOptions:
    """What to measure. `seconds` is for each row, after its warm-up."""

    backend: str | None
    device: str | None
    precision: Precision | None  # None: every one
    samples: int
    horizon: int
    seed: int
    seconds: float


@dataclass(frozen=True)
class Row:
    """One case, with what was measured or with why it was not. A backend that is not here at all is one row without the rest.

    `result` is what `measure.measure` returned, with `error` against fp32 and `share` of the peak where they could be had.
    """

    backend: str
    precision: Precision | None = None
    graphs: str | None = None
    result: dict[str, Any] | None = None
    reason: str | None = None

    def as_json(self) -> dict[str, Any]:
        """For --json."""
        about = {"backend": self.backend, "precision": self.precision, "graphs": self.graphs}
        return {**about, "failed": self.reason} if self.result is None else {**about, **self.result, "failed": None}


@dataclass
class Findings:
    """All that a benchmark found. Where `peak`, `counts` or `reference` is missing, `missing` says why."""

    rows: list[Row] = field(default_factory=list)
    peak: dict[str, Any] | None = None  # of the processor: see probe.measure_peak
    counts: dict[str, int] | None = None  # multiply-adds per graph: see operations.count_operations
    reference: bool = False
    missing: dict[str, str] = field(default_factory=dict)
    interrupted: bool = False
    load: float | None = None  # of the machine before the benchmark: see machine.load_average
    before: dict[str, Any] = field(default_factory=dict)  # power mode, clocks, temperatures: see telemetry.telemetry
    after: dict[str, Any] = field(default_factory=dict)


class Bench:
    """One run of `svg-bench`.

    Args:
        bundle: what to measure.
        options: how.
        progress: who is told how far it is.
        folder: for frames and for what the engines leave; empty.
    """

    def __init__(self, bundle: Bundle, options: BenchOptions, progress: ProgressListener, folder: Path) -> None:
        self._manifest = bundle.manifest
        self._options = options
        self._progress = progress
        self._folder = folder
        self._model = str(bundle.path.absolute())
        self._cases = list_cases(self._manifest, options.backend, options.precision)
        self._done = 0  # jobs
        self.findings = Findings(load=load_average(), before=telemetry())
        np.save(folder / "frames.npy", _pictures(self._manifest, options.seed))

    def run(self) -> None:
        """Fill `findings`; Ctrl-C ends it early with the rows so far."""
        try:
            self._prepare()
            for backend, cases in itertools.groupby(self._cases, lambda case: case.backend):
                self._measure_backend(backend, list(cases))
            self._probe()
        except KeyboardInterrupt:
            self.findings.interrupted = True
        self.findings.after = telemetry()
        for row in self.findings.rows:
            self._add_share(row)

    def _prepare(self) -> None:
        found = self.findings
        self._probe()
        precision = "fp32" if "fp32" in self._manifest.variants else next(iter(self._manifest.variants))
        count = {"do": "count", "model": self._model, "precision": precision}
        found.counts = self._attempt("counts", "operations of a forecast", count)
        reference = self._job(REFERENCE, None, 0.0, "reference.npy")
        found.reference = self._attempt("reference", "fp32 frames on the cpu backend", reference) is not None

    def _probe(self) -> None:
        """Before and after the rows: other work on the machine only lowers what a probe finds, so the best one counts."""
        peak = self._attempt("peak", "the processor's peak", {"do": "probe", "threads": usable_cores()})
        if peak is not None:
            self.findings.peak = {name: max(value, (self.findings.peak or peak)[name]) for name, value in peak.items()}

    def _attempt(self, name: str, words: str, job: dict[str, Any]) -> dict[str, Any] | None:
        """Something that the table can do without."""
        try:
            return self._run(words, job)
        except JobError as error:
            self.findings.missing[name] = str(error)
            _LOG.info("%s: %s", words, first_line(error))
            return None
        finally:
            self._done += 1

    def _measure_backend(self, backend: str, cases: list[Case]) -> None:
        """A row per case, or one for all of them where the backend or its device is not here."""
        end = self._done + len(cases)
        for case in cases:
            try:
                row = self._measure(case)
            except JobError as error:
                # A precision may be missing from the bundle; whatever else is missing, the other cases miss it too.
                nowhere = case is cases[0] and error.missing and case.precision in self._manifest.variants
                _LOG.info("%s: %s", backend if nowhere else case, first_line(error))
                if nowhere:
                    self.findings.rows.append(Row(backend, reason=str(error)))
                    break
                row = Row(backend, case.precision, case.graphs, reason=str(error))
            self.findings.rows.append(row)
            self._done += 1
        self._done = end

    def _measure(self, case: Case) -> Row:
        result = self._run(str(case), self._job(case, self._options.device, self._options.seconds, "futures.npy"))
        if self.findings.reference:
            result["error"] = _error(np.load(self._folder / "futures.npy"), np.load(self._folder / "reference.npy"))
        latency_ms, rate = result["forecast_ms"]["p50"], result["frames_per_s"]
        _LOG.info("%s: %.1f ms per forecast, %.1f frames/s", case, latency_ms, rate)
        return Row(result.pop("backend"), case.precision, case.graphs, result)

    def _job(self, case: Case, device: str | None, seconds: float, futures: str) -> dict[str, Any]:
        options = self._options
        return {
            "do": "measure", "model": self._model, "backend": case.backend, "device": device, "precision": case.precision,
            "fused": case.fused, "samples": options.samples, "horizon": options.horizon, "seed": options.seed,
            "seconds": seconds, "frames": str(self._folder / "frames.npy"), "futures": str(self._folder / futures),
        }  # fmt: skip

    def _run(self, words: str, job: dict[str, Any]) -> dict[str, Any]:
        task = f"[{self._done + 1}/{_OTHER_JOBS + len(self._cases)}] {words}"
        self._progress.progress(task, 0.0)
        try:
            return run_job({**job, "task": task}, self._folder, self._progress)
        finally:
            self._progress.progress(task, 1.0)

    def _add_share(self, row: Row) -> None:
        """Of the measured peak, by the median forecast. None where the probe measured another device than the row ran on."""
        options, found = self._options, self.findings
        if row.result is None or row.precision is None or found.peak is None or not on_host(row.backend, options.device):
            return
        seconds = row.result["forecast_ms"]["p50"] / 1e3
        fused, sizes = row.graphs == "fused", (options.samples, options.horizon)
        moved = forecast_bytes(self._manifest, row.precision, fused, *sizes)
        share = {"memory": moved / seconds / (found.peak["copy_gb_s"] * 1e9)}
        if found.counts is not None:
            operations = forecast_operations(found.counts, self._manifest, *sizes)
            share["compute"] = operations / seconds / (found.peak["matmul_gflops"] * 1e9)
        row.result["share"] = share


def run_bench(bundle: Bundle, options: BenchOptions, progress: ProgressListener) -> Findings:
    """Measure every case of `options`, each in a process of its own. No process and no file is left, whatever ends it.

    Raises:
        UsageError: no such backend.
    """
    with tempfile.TemporaryDirectory(prefix="svg-bench-") as folder:
        bench = Bench(bundle, options, progress, Path(folder))
        bench.run()
        return bench.findings


def on_host(backend: str, device: str | None) -> bool:
    """Whether a backend runs on the processor itself. What follows a colon is the device's number or precision: CPU:bf16."""
    return backend in _ON_HOST and (device or "auto").partition(":")[0].lower() in ("auto", "cpu")


def first_line(error: Exception | str) -> str:
    """What a table has room for."""
    return (str(error).splitlines() or [""])[0]


def _pictures(manifest: Manifest, seed: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """(N, H, W, C) float32 frames of the synthetic camera."""
    spec = manifest.frame
    fit = Preprocessor(spec.height, spec.width, spec.channels).fit
    source = SyntheticSource(seed, max(spec.height, spec.width))
    return np.stack([fit(frame.image) for frame in itertools.islice(source.frames(), _FRAMES)])


def _error(futures: np.ndarray[Any, Any], reference: np.ndarray[Any, Any]) -> dict[str, dict[str, float]]:
    """Difference of (samples, 2, H, W, C) frames: the first and the last of a forecast."""

    def of(frame: int) -> dict[str, float]:
        difference = futures[:, frame].astype(np.float64) - reference[:, frame]
        return {"max_abs": float(np.abs(difference).max()), "psnr_db": psnr(float(np.mean(difference**2)))}

    return {"first": of(0), "last": of(1)}
