"""Runs all jobs of a benchmark one after another and collects rows. A job that fails is a row with the reason."""

from __future__ import annotations

import io
import itertools
import logging
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from svg_common.errors import SvgError, first_line
from svg_common.metrics import psnr
from svg_common.progress import ProgressListener
from svg_runtime.bench.cases import list_cases
from svg_runtime.bench.operations import forecast_bytes, forecast_operations
from svg_runtime.bench.process import JobError, run_job
from svg_runtime.bundle.manifest import Manifest, Precision
from svg_runtime.bundle.reader import Bundle
from svg_runtime.calibration.ways import Way, reference_way
from svg_runtime.live.preprocess import Preprocessor
from svg_runtime.live.sources.synthetic import SyntheticSource
from svg_runtime.machine.hardware import load_average, usable_cores
from svg_runtime.machine.telemetry import telemetry

_LOG = logging.getLogger(__name__)
_OTHER_JOBS = 4  # besides the rows: two before the first, one after the first that succeeds, one after the last
_FRAMES = 24  # of the synthetic camera, observed over and over
_ON_HOST = ("cpu", "openvino")  # backends that may run on the processor that the probe measured


@dataclass(frozen=True)
class BenchOptions:
    """What to measure. `seconds` is the measuring time per row, after its warm-up."""

    backend: str | None
    device: str | None
    precision: Precision | None  # None: all
    samples: int
    horizon: int
    seed: int
    seconds: float


@dataclass(frozen=True)
class Row:
    """One case with its result, or the reason why it failed. An unavailable backend is one row without precision and graphs.

    `result` is what `measure.measure` returned, plus `error` against fp32 and `share` of the peak if available.
    """

    backend: str
    precision: Precision | None = None
    graphs: str | None = None
    result: dict[str, Any] | None = None
    reason: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the row as plain JSON values; `failed` is None or the reason."""
        about = {"backend": self.backend, "precision": self.precision, "graphs": self.graphs}
        return {**about, "failed": self.reason} if self.result is None else {**about, **self.result, "failed": None}


@dataclass
class Findings:
    """All results of a benchmark. If `peak`, `counts` or `reference` is missing, `missing` has the reason."""

    rows: list[Row] = field(default_factory=list)
    peak: dict[str, Any] | None = None  # of the CPU: see probe.measure_peak
    counts: dict[str, int] | None = None  # multiply-adds per graph: see operations.count_operations
    reference: bool = False
    missing: dict[str, str] = field(default_factory=dict)
    interrupted: bool = False
    load: float | None = None  # of the machine before the benchmark: see hardware.load_average
    before: dict[str, Any] = field(default_factory=dict)  # power mode, clocks, temperatures: see telemetry.telemetry
    after: dict[str, Any] = field(default_factory=dict)


class Bench:
    """One run of `svg-bench`.

    Args:
        bundle: the bundle to measure.
        options: what to measure.
        progress: listener for the progress of each job.
        folder: an empty folder for frames and temporary files of the engines.
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
        _save(folder / "frames.npy", _pictures(self._manifest, options.seed))

    def run(self) -> None:
        """Fill `findings`; Ctrl-C ends it early with the rows so far."""
        try:
            self._prepare()
            for backend, cases in itertools.groupby(self._cases, lambda case: case.backend):
                self._measure_backend(backend, list(cases))
            if self._results:
                self._probe()
        except KeyboardInterrupt:
            self.findings.interrupted = True
        self.findings.after = telemetry()
        for row in self.findings.rows:
            self._add_share(row)

    def _prepare(self) -> None:
        findings = self.findings
        precision = "fp32" if "fp32" in self._manifest.variants else next(iter(self._manifest.variants))
        count = {"do": "count", "model": self._model, "precision": precision}
        findings.counts = self._attempt("counts", "operations of a forecast", count)
        reference = self._job(reference_way(self._manifest), None, 0.0, "reference.npy")
        findings.reference = self._attempt("reference", "fp32 frames on the cpu backend", reference) is not None

    def _probe(self) -> None:
        """Measure the peak, after the first row with a result and after the last one: other load only lowers it.

        Not before: where no backend runs, nobody waits for it.
        """
        peak = self._attempt("peak", "the CPU's peak", {"do": "probe", "threads": usable_cores()})
        if peak is not None:
            self.findings.peak = {name: max(value, (self.findings.peak or peak)[name]) for name, value in peak.items()}

    def _attempt(self, name: str, label: str, job: dict[str, Any]) -> dict[str, Any] | None:
        """Run an optional job: if it fails, note the reason and return None."""
        try:
            return self._run(label, job)
        except JobError as error:
            self.findings.missing[name] = str(error)
            _LOG.info("%s: %s", label, first_line(error))
            return None
        finally:
            self._done += 1

    def _measure_backend(self, backend: str, cases: list[Way]) -> None:
        """Add a row per case, or a single one if the backend or its device is not available."""
        for case in cases:
            try:
                row = self._measure(case)
            except JobError as error:
                # A precision may be missing from the bundle; anything else that is missing affects all cases of the backend.
                unavailable = case is cases[0] and error.missing and case.precision in self._manifest.variants
                _LOG.info("%s: %s", backend if unavailable else case, first_line(error))
                if unavailable:
                    self.findings.rows.append(Row(backend, reason=str(error)))
                    self._done += len(cases)
                    return
                row = Row(backend, case.precision, case.graphs, reason=str(error))
            self.findings.rows.append(row)
            self._done += 1
            if row.result is not None and self._results == 1:
                self._probe()

    @property
    def _results(self) -> int:
        return sum(row.result is not None for row in self.findings.rows)

    def _measure(self, case: Way) -> Row:
        result = self._run(str(case), self._job(case, self._options.device, self._options.seconds, "futures.npy"))
        if self.findings.reference:
            result["error"] = _error(np.load(self._folder / "futures.npy"), np.load(self._folder / "reference.npy"))
        latency_ms, rate = result["forecast_ms"]["p50"], result["frames_per_s"]
        _LOG.info("%s: %.1f ms per forecast, %.1f frames/s", case, latency_ms, rate)
        return Row(result.pop("backend"), case.precision, case.graphs, result)

    def _job(self, case: Way, device: str | None, seconds: float, futures: str) -> dict[str, Any]:
        options = self._options
        return {
            "do": "measure", "model": self._model, "backend": case.backend, "device": device, "precision": case.precision,
            "fused": case.fused, "samples": options.samples, "horizon": options.horizon, "seed": options.seed,
            "seconds": seconds, "frames": str(self._folder / "frames.npy"), "futures": str(self._folder / futures),
        }  # fmt: skip

    def _run(self, label: str, job: dict[str, Any]) -> dict[str, Any]:
        task = f"[{self._done + 1}/{_OTHER_JOBS + len(self._cases)}] {label}"
        self._progress.progress(task, 0.0)
        try:
            return run_job({**job, "task": task}, self._folder, self._progress)
        finally:
            self._progress.progress(task, 1.0)

    def _add_share(self, row: Row) -> None:
        """Add the share of the measured peak at the median forecast time, if the row ran on the CPU like the probe."""
        options, findings = self._options, self.findings
        if row.result is None or row.precision is None or findings.peak is None or not on_host(row.backend, options.device):
            return
        seconds = row.result["forecast_ms"]["p50"] / 1e3
        fused = row.graphs == "fused"
        moved = forecast_bytes(
            manifest=self._manifest, precision=row.precision, fused=fused, samples=options.samples, horizon=options.horizon
        )
        share = {"memory": moved / seconds / (findings.peak["copy_gb_s"] * 1e9)}
        if findings.counts is not None:
            operations = forecast_operations(findings.counts, self._manifest, options.samples, options.horizon)
            share["compute"] = operations / seconds / (findings.peak["matmul_gflops"] * 1e9)
        row.result["share"] = share


def run_bench(bundle: Bundle, options: BenchOptions, progress: ProgressListener) -> Findings:
    """Measure every case of `options`, each in its own process. However it ends, no process and no file is left behind.

    Raises:
        UsageError: no such backend.
    """
    with tempfile.TemporaryDirectory(prefix="svg-bench-") as folder:
        bench = Bench(bundle, options, progress, Path(folder))
        bench.run()
        return bench.findings


def on_host(backend: str, device: str | None) -> bool:
    """Whether a backend runs on the CPU. A suffix of the device, as in CPU:bf16, is ignored."""
    return backend in _ON_HOST and (device or "auto").partition(":")[0].lower() in ("auto", "cpu")


def _pictures(manifest: Manifest, seed: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return (N, H, W, C) float32 frames of the synthetic camera."""
    spec = manifest.frame
    fit = Preprocessor(spec.height, spec.width, spec.channels).fit
    source = SyntheticSource(seed, max(spec.height, spec.width))
    return np.stack([fit(frame.image) for frame in itertools.islice(source.frames(), _FRAMES)])


def _save(file: Path, pictures: np.ndarray[Any, Any]) -> None:
    """Write `pictures` for the workers.

    Raises:
        SvgError: the disk of temporary files is full.
    """
    content = io.BytesIO()  # NumPy's own error of a failed write has no reason
    np.save(content, pictures)
    try:
        file.write_bytes(content.getvalue())
    except OSError as error:
        place = f"the temporary folder '{tempfile.gettempdir()}'"
        raise SvgError(f"cannot write to {place}: {error.strerror}\n  set TMPDIR to a folder with more space") from error


def _error(futures: np.ndarray[Any, Any], reference: np.ndarray[Any, Any]) -> dict[str, dict[str, float]]:
    """Compare (samples, 2, H, W, C) frames: the first and the last of a forecast."""

    def of(frame: int) -> dict[str, float]:
        difference = futures[:, frame].astype(np.float64) - reference[:, frame]
        return {"max_abs": float(np.abs(difference).max()), "psnr_db": psnr(float(np.mean(difference**2)))}

    return {"first": of(0), "last": of(1)}
