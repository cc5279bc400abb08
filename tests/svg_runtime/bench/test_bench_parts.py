"""The parts of `svg-bench`: what is measured, what is counted, the table, and what the command refuses."""

from __future__ import annotations

import io
import json
import logging
import signal
import subprocess
import sys
from collections import Counter
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console
from torch.utils.flop_counter import FlopCounterMode

from svg_common.errors import ExitCode
from svg_common.log_messages import ConsoleHandler, log_messages_to
from svg_common.progress import NullListener, ProgressDisplay
from svg_runtime import forecast_options as options
from svg_runtime.backends import BACKENDS, COMPUTE_BF16
from svg_runtime.backends.onnxruntime.session import BoundSession
from svg_runtime.bench import process
from svg_runtime.bench.bench_report import print_report
from svg_runtime.bench.bench_run import BenchOptions, Findings, Row, on_host
from svg_runtime.bench.cases import list_cases
from svg_runtime.bench.cli import app
from svg_runtime.bench.operations import UncountableError, count_operations, forecast_bytes, graph_runs, multiply_adds
from svg_runtime.bench.probe import measure_peak
from svg_runtime.bench.process import JobError, _converse, run_job
from svg_runtime.bundle.reader import Bundle
from svg_runtime.calibration.ways import Way
from svg_runtime.errors import BundleError, UsageError
from svg_runtime.forecast import checks, forecaster
from tests.svg_runtime.backends.build_helpers import Watched
from tests.svg_runtime.bundle_helpers import copy_bundle

OPTIONS = BenchOptions(None, None, None, samples=2, horizon=3, seed=0, seconds=1.0)


def test_cases_cover_all_backends_precisions_and_graphs(fused_bundle):
    manifest = Bundle.open(fused_bundle).manifest
    cases = list_cases(manifest, None, None)
    several = {name: 5 if name in COMPUTE_BF16 else 4 for name in BACKENDS}  # bf16 is not in the bundle: one case
    assert Counter(case.backend for case in cases) == several
    assert [str(case) for case in cases[:4]] == ["cpu fp32 fused", "cpu fp32 separate", "cpu fp16 fused", "cpu fp16 separate"]
    assert list_cases(manifest, "auto", "fp16") == [Way("auto", None, "fp16", True), Way("auto", None, "fp16", False)]
    assert list_cases(manifest, "cpu", "bf16") == [Way("cpu", None, "bf16", False)]  # requested: the row has the reason
    with pytest.raises(UsageError, match="unknown backend 'gpu'"):
        list_cases(manifest, "gpu", None)


def test_a_bundle_without_fused_graphs_or_fp16_has_fewer_cases(fused_bundle):
    manifest = Bundle.open(fused_bundle).manifest
    fp32 = manifest.variants["fp32"]
    separate = fp32.model_copy(
        update={"graphs": {graph_name: spec for graph_name, spec in fp32.graphs.items() if graph_name != "step"}}
    )
    fewer = manifest.model_copy(update={"variants": {"fp32": separate}})
    assert list_cases(fewer, "cpu", None) == [Way("cpu", None, "fp32", False), Way("cpu", None, "fp16", False)]


def test_operations_are_those_that_pytorch_counts(fused_bundle, tiny_model, tmp_path, monkeypatch):
    import torch

    monkeypatch.chdir(tmp_path)
    watched = Watched()
    counts = count_operations(watched, "the count", str(fused_bundle), "fp32")
    assert set(counts) == {"encoder", "skip", "posterior", "prior", "predictor", "decoder"}
    assert watched.shares["the count"][-1] == 1.0
    with torch.no_grad(), FlopCounterMode(display=False) as encoder:
        h, skips = tiny_model.encoder(torch.zeros(1, 1, 64, 64))
    with torch.no_grad(), FlopCounterMode(display=False) as skip:
        cond = tiny_model.decoder.condition(skips)
    with torch.no_grad(), FlopCounterMode(display=False) as decoder:
        tiny_model.decoder(h, cond)
    for name, counter in (("encoder", encoder), ("skip", skip), ("decoder", decoder)):
        assert 2 * counts[name] == counter.get_total_flops(), name
    # Linear(h + z -> 24), two LSTM cells of 4 gates each, Linear to g; and for the prior one cell, two heads of z.
    cell = 4 * 24 * (24 + 24)
    assert counts["predictor"] == 20 * 24 + 2 * cell + 24 * 16
    assert counts["prior"] == 16 * 24 + cell + 2 * 24 * 4


def test_an_operator_without_a_formula_is_refused():
    assert multiply_adds("Sigmoid", [[8, 8]], [8, 8]) == 0
    assert multiply_adds("MatMul", [[5, 2, 3], [3, 4]], [5, 2, 4]) == 5 * 2 * 3 * 4
    assert multiply_adds("Gemm", [[3, 2], [3, 4]], [2, 4]) == 2 * 3 * 4  # the left side transposed
    assert multiply_adds("Conv", [[1, 6, 9, 9], [4, 2, 3, 3]], [1, 4, 7, 7]) == 4 * 49 * 2 * 9  # in 3 groups
    with pytest.raises(UncountableError, match="LSTM"):
        multiply_adds("LSTM", [[1, 1, 8]], [1, 1, 8])


@pytest.mark.parametrize("fused", [True, False])
def test_the_counted_graph_runs_are_those_of_a_forecast(fused_bundle, frames, monkeypatch, fused):
    runs: Counter[str] = Counter()
    plain = BoundSession.run

    def counted(self):
        runs[self.graph_name] += 1
        plain(self)

    monkeypatch.setattr(BoundSession, "run", counted)
    with forecaster.Forecaster.open(fused_bundle, backend="cpu", samples=2, horizon=4, fused=fused) as opened:
        for frame in frames[:3]:
            opened.observe(frame)
        runs.clear()
        opened.forecast()
        assert runs == graph_runs(opened.manifest, 4, fused)


def test_bytes_are_files_inputs_and_outputs(fused_bundle):
    manifest = Bundle.open(fused_bundle).manifest
    graphs = manifest.variants["fp32"].graphs
    one, two = (forecast_bytes(manifest, "fp32", False, samples, 1) for samples in (1, 2))
    files = 3 * graphs["predictor"].bytes + graphs["decoder"].bytes + graphs["prior"].bytes  # one step: nothing is encoded
    predictor = 16 + 4 + 16 + 2 * (4 * 24)  # h, z, g, states in and out
    prior = 16 + 2 * 4 + 2 * (2 * 24)
    per_sample = 4 * (3 * predictor + prior + 16 + 64 * 64)
    assert two - one == per_sample
    conds = sum(int(np.prod(tensor.sized(1))) for tensor in graphs["decoder"].inputs if tensor.name.startswith("cond"))
    assert one == files + per_sample + 4 * conds  # which the samples share


def test_the_probe_measures_positive_rates():
    found = measure_peak(NullListener(), "the probe", threads=2)
    assert found["threads"] == 2
    assert found["matmul_gflops"] > 0
    assert found["copy_gb_s"] > 0


def test_only_rows_on_the_cpu_have_a_share_of_its_peak():
    assert all(on_host("openvino", device) for device in (None, "auto", "CPU", "CPU:bf16"))
    assert on_host("cpu", None)
    assert not any(on_host("openvino", device) for device in ("GPU", "GPU.1", "NPU"))
    assert not on_host("cuda", None)


def test_errors_of_a_job_are_raised(tmp_path):
    progress = NullListener()
    with pytest.raises(JobError, match="KeyError: 'nothing'") as refusal:
        run_job({"do": "nothing"}, tmp_path, progress)
    assert not refusal.value.missing
    with pytest.raises(JobError, match="no such bundle: "):
        run_job({"do": "count", "task": "it", "model": str(tmp_path / "none.svgb"), "precision": "fp32"}, tmp_path, progress)


@pytest.mark.parametrize("interrupted", [False, True])
def test_a_worker_that_ignores_sigterm_is_killed(monkeypatch, interrupted):
    """Also if the wait for it is cut short by another Ctrl-C."""
    program = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(60)"
    worker = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    worker.stdout.readline()
    monkeypatch.setattr(process, "_TERMINATE_S", 0.2)
    wait, waits = worker.wait, []

    def wait_interrupted(timeout=None):
        waits.append(timeout)
        if interrupted and len(waits) == 1:
            raise KeyboardInterrupt
        return wait(timeout)

    monkeypatch.setattr(worker, "wait", wait_interrupted)
    with pytest.raises(KeyboardInterrupt) if interrupted else nullcontext():
        process._end(worker)
    assert worker.returncode == -signal.SIGKILL
    worker.stdout.close()


CASE, BUILD = "[4/9] tensorrt fp16 fused", "building engine 1 of 2: fp16/step.onnx"
WAITS = {
    "log": "another process is building an engine on this GPU",
    "level": logging.INFO,
    "logger": "svg_runtime.backends.tensorrt",
}
BUILDING = [{"task": BUILD, "share": 0.25}, WAITS, {"task": BUILD, "share": 0.5}]


def hear(progress, *messages) -> dict[str, object]:
    """Pass the messages of a worker through its channel."""
    lines = [json.dumps(message) + "\n" for message in messages]
    return _converse(SimpleNamespace(stdin=io.StringIO(), stdout=lines), {"do": "measure"}, progress)


def test_the_progress_of_engines_in_a_job_is_forwarded():
    console = Console(file=io.StringIO(), width=120)
    with ProgressDisplay(console) as progress, log_messages_to(ConsoleHandler(console, prefix="")):
        progress.progress(CASE, 0.0)
        assert hear(progress, *BUILDING, {"task": CASE, "share": 0.5}, {"result": {"is": 1}}) == {"result": {"is": 1}}
    assert console.file.getvalue().splitlines() == [
        f"{CASE} ...",
        f"{BUILD} ...",
        "another process is building an engine on this GPU",
    ]


def test_the_progress_bar_names_the_engine():
    with ProgressDisplay(Console(file=io.StringIO(), force_terminal=True)) as progress:
        progress.progress(CASE, 0.0)
        hear(progress, *BUILDING)
        (task,) = progress._bar.tasks
        assert (task.description, task.completed) == (BUILD, 0.5)
        hear(progress, {"task": CASE, "share": 0.5})
        (task,) = progress._bar.tasks
        assert (task.description, task.completed) == (CASE, 0.5)


LOGGING_WORKER = """
import logging
from svg_runtime.bench.worker import JOBS, main
JOBS["log"] = lambda parent, task: logging.getLogger("svg_runtime.there").warning("it is %s", "slow") or {"is": task}
main()
"""


def test_a_worker_sends_its_log_messages(tmp_path, logged, monkeypatch):
    monkeypatch.setattr(process, "_WORKER", LOGGING_WORKER)
    assert run_job({"do": "log", "task": "it"}, tmp_path, NullListener()) == {"is": "it"}
    assert logged.record_tuples == [("svg_runtime.there", logging.WARNING, "it is slow")]


def test_output_of_a_library_does_not_disturb_the_worker():
    program = (
        "import os, sys; from svg_runtime.bench.worker import _private_stdout as own\n"
        "channel = own(); os.write(1, b'noise\\n'); print('noise', flush=True); channel.write('answer'); channel.close()"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True,
                         env={"PYTHONPATH": ":".join(sys.path)})  # fmt: skip
    assert run.stdout == "answer"
    assert run.stderr.count("noise") == 2


@pytest.fixture
def findings() -> Findings:
    times = {"p50": 1234.5, "p95": 1300.0, "p99": 1400.0, "mean": 1250.0, "max": 1500.0, "count": 3}
    frame = {"max_abs": 5e-7, "psnr_db": 120.0}
    result = {
        "description": "openvino 2026 (CPU, bf16)", "observe_ms": times, "forecast_ms": times, "forecasts_per_s": 0.8,
        "frames_per_s": 0.4, "peak_rss_mib": 1024.0, "computed_in": {"encoder": {"bf16": 4, "f32": 1}},
        "error": {"first": frame, "last": frame},
        "share": {"compute": 1.23, "memory": 0.04},
    }  # fmt: skip
    rows = [Row("openvino", "fp32", "separate", result), Row("cpu", "fp16", "fused", reason="broken\nin two lines")]
    return Findings([*rows, Row("cuda", reason="not here")], {"threads": 2, "matmul_gflops": 75.0, "copy_gb_s": 20.0},
                    {"predictor": 1, "decoder": 1, "encoder": 1, "prior": 1}, True)  # fmt: skip


def printed(bundle, findings, width: int, terminal: bool = True) -> list[str]:
    """The report, as lines of a terminal without colours, or of a file."""
    console = Console(file=io.StringIO(), width=width, force_terminal=terminal, color_system=None)
    print_report(console, Bundle.open(bundle), OPTIONS, findings)
    return console.file.getvalue().splitlines()


FIGURES = [*["1234", "1300", "1400"] * 2, "0.80", "0.40", "bf16+f32", "1024", *["5e-07", "120.0"] * 2, "123%", "4.0%"]


@pytest.mark.parametrize(("width", "tables"), [(60, 6), (80, 4), (120, 2), (160, 2), (200, 1)])
def test_the_report_fits_the_terminal(fused_bundle, findings, width, tables):
    text = printed(fused_bundle, findings, width)
    assert max(map(len, text)) <= width
    shown = [line.split() for line in text if line.startswith("openvino  fp32")]
    assert len(shown) == tables
    assert [cell for line in shown for cell in line[3:]] == FIGURES
    assert "cpu fp16 fused not measured: broken" in text
    assert "cuda not measured: not here" in text


def test_no_number_is_cut_in_a_narrow_terminal(fused_bundle, findings):
    shown = [line.split() for line in printed(fused_bundle, findings, 20) if line.startswith("openvino  fp32")]
    assert [cell for line in shown for cell in line[3:]] == FIGURES


def test_numbers_are_aligned_with_their_titles(fused_bundle, findings):
    above, titles, row = printed(fused_bundle, findings, 200)[2:5]
    assert titles.split()[:7] == ["backend", "weights", "graphs", "p50", "ms", "p95", "ms"]
    for title, unit, figure in (("observe", "p50 ms", "1234"), ("forecasts", "per s", "0.80"), ("peak", "MiB", "1024")):
        end = above.index(title) + len(title)
        assert titles[:end].endswith(unit)
        assert row[:end].endswith(f" {figure}")


def test_a_report_in_a_file_has_one_line_for_each_failure_and_note(fused_bundle, findings):
    findings.rows[1] = Row("cpu", "fp16", "fused", reason=" a long reason" * 20)
    text = printed(fused_bundle, findings, 80, terminal=False)
    assert "cpu fp16 fused not measured:" + " a long reason" * 20 in text
    assert sum(line.startswith(("engines:", "frames per second:", "compute:")) for line in text) == 3
    assert not any(line.startswith("  ") for line in text[text.index("cuda not measured: not here") :])


def test_the_report_lists_what_is_not_available(fused_bundle, findings):
    for row in findings.rows[:1]:
        del row.result["error"], row.result["share"]
    findings.reference, findings.counts = False, None
    findings.missing = {"reference": "no engine\nmore", "counts": "no formula for the operations of LSTM"}
    text = "\n".join(printed(fused_bundle, findings, 160))
    assert "no fp32 frames: no engine\n" in text
    assert "compute: not available: no formula for the operations of LSTM" in text


def refusal(*arguments: str) -> Exception:
    with pytest.raises(Exception) as caught:  # noqa: PT011
        app(list(arguments), standalone_mode=False)
    return caught.value


def test_the_command_refuses_before_it_measures(fused_bundle, tmp_path, capsys):
    assert isinstance(refusal("--model", str(tmp_path / "none.svgb")), BundleError)
    damaged = copy_bundle(fused_bundle, tmp_path)
    (damaged / "fp16" / "prior.onnx").write_bytes(b"")
    assert "fp16/prior.onnx" in str(refusal("--model", str(damaged)))
    assert isinstance(refusal("--model", str(fused_bundle), "--backend", "gpu"), UsageError)
    assert "both --fp16 and --bf16" in str(refusal("--model", str(fused_bundle), "--fp16", "--bf16"))
    for wrong in (["--seconds", "0"], ["--samples", str(options.COUNT_LIMIT + 1)], ["--horizon", "0"]):
        assert refusal(*wrong).exit_code == ExitCode.USAGE
    assert capsys.readouterr().out == ""
    assert options.COUNT_LIMIT == checks.COUNT_LIMIT
