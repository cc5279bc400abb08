"""The benchmarks of a GPU, as far as they can be tested without one: every peer on the CPU, handmade traces, arithmetic."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest

from svg_runtime.bundle.reader import Bundle
from tests.test_benchmarks import FOLDER, run_pytest

SAMPLES, HORIZON, ROUNDS = 2, 2, 3


@pytest.fixture(autouse=True)
def _benchmark_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FOLDER)


def call(name, start, duration=1.0, thread=1, correlation=0):
    from gpu_trace import Activity

    return Activity(name, "call", start, duration, thread, correlation)


def work(kind, start, duration, name="", correlation=0):
    from gpu_trace import Activity

    return Activity(name, kind, start, duration, correlation=correlation)


@pytest.fixture(scope="module")
def case(fused_bundle) -> dict:
    """A case on the CPU: PyTorch, ONNX Runtime, a CPU backend instead of those of a GPU, and one that does not exist."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        import gpu_case
        import matmul_peak

        patch.setattr(matmul_peak, "_SIDES", {"cpu": (64,)})  # half precision is slow on a processor
        patch.setattr(matmul_peak, "_COPY_BYTES", {"cpu": 1 << 20})
        patch.setattr(matmul_peak, "best_of", lambda work: work() or 1e-3)
        names = ("PyTorch eager", "ONNX Runtime CUDA, plain", "svg-edge cpu", "svg-edge nowhere")
        lines: list[str] = []
        patch.setattr(gpu_case._LOG, "info", lambda message, *values: lines.append(message % values))
        found = gpu_case.measure_case(Bundle.open(fused_bundle), SAMPLES, HORIZON, ROUNDS, names, device="cpu")
        matmul_peak.matmul_peak.cache_clear()
        matmul_peak.copy_peak.cache_clear()
    assert lines[-1] == "3 rounds of 7 peers"
    return json.loads(json.dumps(found))


@pytest.mark.slow
def test_all_peers_of_a_case_compute_the_same_frames(case):
    assert [(row["name"], row["precision"]) for row in case["peers"]] == [
        ("PyTorch eager", "fp32"), ("PyTorch eager", "fp16"), ("PyTorch eager", "bf16"),
        ("ONNX Runtime CUDA, plain", "fp32"), ("ONNX Runtime CUDA, plain", "fp16"),
        ("svg-edge cpu", "fp32"), ("svg-edge cpu", "fp16"), ("svg-edge nowhere", "fp32"), ("svg-edge nowhere", "fp16"),
    ]  # fmt: skip
    for row in case["peers"][:-2]:
        assert row["max_error"] < 1e-3 if row["precision"] == "fp32" else 30 < row["first_frame_db"] < 120
        assert len(row["seconds"]) == len(row["host_seconds"]) == ROUNDS
    for row in case["peers"][-2:]:
        assert "unknown backend 'nowhere'" in row["reason"]
        assert "seconds" not in row


@pytest.mark.slow
def test_host_time_ends_where_the_work_is_handed_over(case):
    """On the CPU, PyTorch then only has to return an array; our loop reads frames for the first time."""
    for row in case["peers"][:-2]:
        assert row["device_seconds"] == []
        assert all(0 < host <= total for host, total in zip(row["host_seconds"], row["seconds"], strict=True))


@pytest.mark.parametrize(("whole", "functions"), [(False, 3), (True, 1)])
def test_compiled_forecast_is_captured_without_a_break(fused_bundle, monkeypatch, whole, functions):
    """As functions of a step and as a whole; without the compiler behind the capture, which takes minutes."""
    import torch
    from bundle_weights import model_of
    from peers import Task
    from torch_peer import CompiledPeer, TorchPeer, read_context

    captured, compiler = [], torch.compile

    def capture(function, *, dynamic, fullgraph, mode):
        captured.append((dynamic, fullgraph, mode))
        return compiler(function, dynamic=dynamic, fullgraph=fullgraph, backend="eager")

    monkeypatch.setattr(torch, "compile", capture)
    bundle = Bundle.open(fused_bundle)
    model, task = model_of(bundle), Task.make(bundle, SAMPLES, HORIZON)
    context = read_context(model, task)
    handed_over = []
    peer = CompiledPeer(model, task, context, torch.float32, submitted=lambda: handed_over.append(1), whole=whole)
    with torch.compiler.set_stance("fail_on_recompile"):
        frames = peer.forecast()
    assert captured == [(False, True, None)] * functions
    assert len(handed_over) == 2
    np.testing.assert_allclose(frames, TorchPeer(model, task, context).forecast(), atol=1e-5)


@pytest.mark.slow
def test_case_has_ceilings_and_a_roofline_per_precision(case):
    assert case["ceilings"]["matmul_operations_per_s"] == {
        name: pytest.approx(2 * 64**3 / 1e-3) for name in ("fp32", "fp16", "bf16")
    }
    assert case["ceilings"]["copy_bytes_per_s"] == pytest.approx(2 * (1 << 20) / 1e-3)
    by_precision = {row["precision"]: row for row in case["peers"][:3]}
    full, half, brain = (by_precision[name]["roofline"] for name in ("fp32", "fp16", "bf16"))
    assert full["operations"] == half["operations"] > 0
    assert half["moved_bytes"] == brain["moved_bytes"] < full["moved_bytes"]
    median = sorted(by_precision["fp32"]["seconds"])[1]
    assert full["share"] == pytest.approx(full["bound_s"] / median)
    assert case["telemetry"].keys() == {"before", "after"}


@pytest.mark.slow
def test_table_and_markdown_of_a_case(case):
    from gpu_report import HEADINGS, case_rows, gpu_markdown, gpu_table
    from peers import Peer

    rows = case_rows([Peer.from_json(row) for row in case["peers"]])
    table, markdown = gpu_table(rows), gpu_markdown(rows)
    assert len(table) == len(rows) + 1 == len(markdown) - 1
    assert table[0].startswith("peer")
    assert "unknown backend 'nowhere'" in table[-1]
    assert all(line.count(" | ") == len(HEADINGS) - 1 for line in markdown)
    assert f"| {rows[0]['total_ms']['p99']:.2f} |" in markdown[2]
    assert rows[0]["faster"] == {"PyTorch eager": 1.0}
    assert "seconds" not in rows[0]


@pytest.mark.slow
def test_publishing_a_result_with_a_gpu(case, tmp_path):
    about = {"bundle": "tiny.svgb", "gpu_case": {**case, "gpu": {"name": "Some GPU"}}}
    machine = {"hardware": {"cores_usable": 2, "cpu": "Some CPU", "load_average": 0.1}, "versions": {}, "telemetry": {}}
    result = {"datetime": "2026-01-01T00:00", "machine_info": machine, "benchmarks": [{"extra_info": about}]}
    (tmp_path / "result.json").write_text(json.dumps(result))
    command = [sys.executable, str(FOLDER / "publish.py"), "result.json", "--results", "small.json"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "tiny, 2 samples x 2 steps on Some GPU:" in run.stdout
    small = json.loads((tmp_path / "small.json").read_text())["gpu"][0]
    assert small["rows"][0]["total_ms"].keys() >= {"p50", "p95", "p99"}
    assert small["ceilings"] == case["ceilings"]


def test_percentiles_are_those_of_all_rounds():
    from gpu_report import summary_ms

    found = summary_ms([number / 1000 for number in range(1, 102)])
    assert (found["p50"], found["p95"], found["p99"], found["count"]) == (51.0, 96.0, 100.0, 101)
    assert summary_ms([]) == {}


def timed(name, precision, *seconds, **more):
    from peers import Peer

    return Peer(name, precision, seconds=list(seconds), **more)


def test_metrics_compare_the_fastest_of_ours_with_the_fastest_compiled_one_of_its_precision():
    from gpu_report import gpu_metrics

    trace = {"waits": 2, "idle_share": 0.04}
    peers = [
        timed("PyTorch eager", "fp16", 6.0, 12.0), timed("torch.compile", "fp16", 4.0, 4.0),
        timed("torch.compile, whole forecast", "fp16", 1.4, 2.8), timed("PyTorch eager", "fp32", 99.0, 99.0),
        timed("svg-edge cuda", "fp16", 3.0, 3.0), timed("svg-edge tensorrt", "fp16", 1.0, 2.0, trace=trace),
        timed("svg-edge tensorrt", "fp32", reason="not here"),
    ]  # fmt: skip
    metrics = list(gpu_metrics(peers, "model"))
    assert [(metric.name, round(metric.value, 6), metric.met) for metric in metrics] == [
        ("tensorrt fp16 over PyTorch eager fp16: model", 6.0, True),
        ("tensorrt fp16 over torch.compile, whole forecast fp16: model", 1.4, False),
        ("tensorrt fp16, waits of the host in a forecast: model", 2, False),
        ("tensorrt fp16, device idle within a forecast: model", 4.0, True),
    ]


def test_trace_counts_the_calls_of_the_host_and_measures_gaps():
    from gpu_trace import summarize

    found = summarize(
        [
            call("cudaLaunchKernel", 0), call("cudaLaunchKernelExC", 2), call("cuLaunchKernelEx", 4),
            call("cudaGraphLaunch", 6), call("cudaLaunchHostFunc", 8), call("cudaStreamWaitEvent", 9), call("cudaMalloc", 10),
            call("cudaMemcpyAsync", 11), call("cudaMemcpy", 12), call("cudaStreamSynchronize", 14, 80.0),
            work("kernel", 20, 10), work("kernel", 25, 10), work("set", 40, 5),
            work("copy", 50, 10, "Memcpy DtoH (Device -> Pageable)"), work("copy", 60, 10, "Memcpy DtoH (Device -> Pinned)"),
        ]
    )  # fmt: skip
    assert (found.launches, found.graph_launches, found.copies, found.waits, found.kernels) == (4, 1, 2, 2, 2)
    assert found.pageable_copies == 1
    assert (found.busy_us, found.span_us) == (15 + 5 + 20, 50)  # kernels of two streams overlap between 25 and 30
    assert found.idle_share == pytest.approx(0.2)
    assert found.as_json()["idle_share"] == found.idle_share


def test_a_call_that_the_runtime_makes_itself_counts_once():
    from gpu_trace import summarize

    nested = [call("cudaLaunchKernel", 0, 5), call("cuLaunchKernel", 1, 3), call("cuLaunchKernel", 1, 3, thread=2)]
    assert summarize(nested).launches == 2
    assert summarize([*nested, call("cuLaunchKernel", 5, 1)]).launches == 3


def test_a_trace_without_work_has_no_gaps():
    from gpu_trace import summarize

    assert summarize([]).idle_share == 0.0


def test_markers_and_what_the_profiler_does_are_no_part_of_the_forecast():
    from gpu_trace import between_markers, summarize

    forecast = [
        call("cudaMemcpyAsync", 20), call("cudaGraphLaunch", 22), call("cudaStreamSynchronize", 25, 60),
        work("copy", 31, 4), work("kernel", 40, 40),
    ]  # fmt: skip
    head = [call("cudaLaunchKernel", -9, 1, correlation=1), call("cudaLaunchKernel", -7, 1, correlation=2),
            work("kernel", -6, 1, correlation=2)]  # fmt: skip
    around = [
        *head,  # of whose kernels one is lost
        call("cudaLaunchKernel", 0, 4, correlation=3), call("cuLaunchKernel", 1, 2, correlation=4),
        work("kernel", 5, 1, correlation=4), call("cudaDeviceSynchronize", 5, 10), call("cuCtxSynchronize", 6, 8),
        call("cudaLaunchKernel", 90, 4, correlation=5), work("kernel", 95, 1, correlation=5),
        call("cudaDeviceSynchronize", 96, 3), call("cudaDeviceSynchronize", 120, 3),
    ]  # fmt: skip
    inside = between_markers([*around, *forecast], head=2)
    assert sorted(inside, key=lambda each: each.start_us) == sorted(forecast, key=lambda each: each.start_us)
    assert summarize(inside).waits == 1
    with pytest.raises(ValueError, match="check its permission to trace this GPU"):
        between_markers(around[:6], head=2)
    with pytest.raises(ValueError, match="lost the kernel of a marker"):
        between_markers([each for each in [*around, *forecast] if each.correlation != 4], head=2)


def test_chrome_trace_is_read():
    from gpu_trace import Activity, read_events

    events = [
        {"ph": "X", "cat": "kernel", "name": "gemm", "ts": 1.5, "dur": 2.0, "tid": 7, "args": {"correlation": 4}},
        {"ph": "X", "cat": "cuda_driver", "name": "cuMemcpyHtoDAsync_v2_ptsz", "ts": 1.0, "dur": 0.5, "tid": 9},
        {"ph": "X", "cat": "cuda_runtime", "name": "cudaLaunchKernel_v7000", "ts": 2.0, "dur": 0.5, "tid": 9},
        {"ph": "X", "cat": "gpu_memset", "name": "Memset (Device)", "ts": 4.0, "dur": 0.5, "tid": 7},
        {"ph": "X", "cat": "cpu_op", "name": "aten::mm", "ts": 0.0, "dur": 9.0, "tid": 9},
        {"ph": "f", "cat": "ac2g", "name": "ac2g", "ts": 1.5, "id": 3},
        {"ph": "M", "name": "process_name"},
    ]
    assert read_events(events) == [
        Activity("gemm", "kernel", 1.5, 2.0, 7, 4), Activity("cuMemcpyHtoDAsync", "call", 1.0, 0.5, 9),
        Activity("cudaLaunchKernel", "call", 2.0, 0.5, 9), Activity("Memset (Device)", "set", 4.0, 0.5, 7),
    ]  # fmt: skip


def test_roofline_takes_the_lower_ceiling():
    from roofline import Roofline

    compute, memory = Roofline(4_000, 100, 1e3, 100.0), Roofline(4_000, 1_000, 1e3, 100.0)
    assert (compute.bound, compute.bound_s, compute.intensity) == ("compute", 4.0, 40.0)
    assert (memory.bound, memory.bound_s) == ("memory", 10.0)
    assert compute.share(8.0) == 0.5
    assert memory.as_json()["bound_s"] == 10.0


class Backend(SimpleNamespace):
    """A backend that records its calls."""

    def read(self, buffer):
        self.log.append(("read", buffer))
        return buffer

    def copy(self, source, target):
        self.log.append(("copy", source))


def test_clock_stops_the_host_time_at_the_first_wait():
    from device_clock import DeviceClock, time_backend

    backend, clock = Backend(log=[]), DeviceClock()
    time_backend(backend, clock)
    start = time.perf_counter()
    clock.begin()
    backend.copy(1, 0)
    assert backend.read(2) == 2
    time.sleep(0.02)
    backend.read(3)
    total_s = time.perf_counter() - start
    host_s, device_s = clock.end(total_s)
    assert backend.log == [("copy", 1), ("read", 2), ("read", 3)]
    assert 0 < host_s <= total_s - 0.02
    assert device_s is None
    clock.begin()
    assert clock.end(0.03) == (0.03, None)  # a peer that never calls `submitted` has waited all the time


class Event:
    """Records the stream that it is recorded on; a millisecond passes between any two."""

    def __init__(self, **options):
        assert options == {"enable_timing": True}
        self.records = []

    def record(self, stream):
        self.records.append(stream)

    def synchronize(self):
        assert self.records

    def elapsed_time(self, end):
        return float(len(end.records))


def test_clock_times_the_stream_of_a_backend(monkeypatch):
    import torch
    from device_clock import DeviceClock, time_backend

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "ExternalStream", lambda handle: f"stream {handle}")
    clock = DeviceClock()
    backend = Backend(log=[], stream=1234)
    time_backend(backend, clock)
    clock.begin()
    backend.read(1)
    backend.read(2)
    assert clock.end(0.03)[1] == 1e-3  # milliseconds to seconds, and the second read records nothing
    assert clock._events[0].records == clock._events[1].records == ["stream 1234"]


def test_onnx_runtime_does_not_fall_back_to_the_cpu(fused_bundle):
    import onnx_peer
    import onnxruntime

    from svg_runtime.errors import BackendMissingError

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    with pytest.raises(BackendMissingError, match="onnxruntime-gpu"):
        onnx_peer.session(Bundle.open(fused_bundle).graphs("fp32")["prior"], device="cuda")


def test_gpu_benchmarks_say_why_they_are_skipped(tmp_path):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has such a GPU")
    run = run_pytest(tmp_path, "-rs", files=("test_peers_gpu.py",))
    assert run.returncode == 0, run.stdout + run.stderr
    assert "3 skipped" in run.stdout
    assert "needs PyTorch with CUDA" in run.stdout or "needs an NVIDIA GPU" in run.stdout
    assert not (tmp_path / "cache" / "d" / "svg-edge-bundles").exists()  # no model is made in vain


def test_a_case_that_ends_early_says_how(monkeypatch, tmp_path):
    from test_peers_gpu import run_case

    with pytest.raises(pytest.fail.Exception, match=r"gpu_case.py failed with exit code 1:\n(.*\n)*.*nowhere\.svgb"):
        run_case(tmp_path / "nowhere.svgb", 1, 1, tmp_path)


def test_bundle_with_reduced_precision_by_name_and_by_option_are_one(tmp_path, monkeypatch):
    import bundles

    made = []
    monkeypatch.setattr(bundles, "_export_random", lambda model, path, reduced: made.append((model["nf"], path, reduced)))
    for name, precision in (
        ("random:nf2-fp16", None),
        ("random:nf2-fp16", "fp32"),
        ("random:nf2", "fp16"),
        ("random:nf2", None),
    ):
        bundles._random_bundle(name, tmp_path, precision)
    assert made[0] == made[1] == made[2] == (2, made[0][1], "fp16")
    assert made[3][2] is None
    assert made[3][1] != made[0][1]


def test_options_of_the_cuda_backend_are_measured_in_every_precision(fused_bundle, monkeypatch, capsys):
    import cuda_options

    from svg_runtime.backends.nvidia import device
    from svg_runtime.backends.onnxruntime import providers
    from tests.svg_runtime.backends.numpy_cuda import NumpyCuda
    from tests.svg_runtime.backends.ort_on_numpy_cuda import CUDA, OrtOnNumpyCuda

    pytest.importorskip("cuda.bindings")
    cuda = NumpyCuda()
    ort = OrtOnNumpyCuda(cuda)
    monkeypatch.setattr(device, "load_runtime", lambda: cuda)
    monkeypatch.setattr(providers, "load_onnxruntime", lambda backend, extra: ort)
    monkeypatch.setattr(cuda_options, "CHOICES", dict(list(cuda_options.CHOICES.items())[:2]))
    monkeypatch.setattr(cuda_options, "HORIZON", 2)
    monkeypatch.setattr(sys, "argv", ["cuda_options.py", str(fused_bundle), "--samples", "2", "--rounds", "2"])
    cuda_options.main()
    rows = [line.rsplit(maxsplit=3) for line in capsys.readouterr().out.splitlines()[1:]]
    assert [(row[0].strip(), row[1]) for row in rows] == [
        (name, precision) for precision in ("fp32", "fp16") for name in cuda_options.CHOICES
    ]
    assert all(float(cell) > 0 for row in rows for cell in row[2:])
    assert {session[CUDA]["cudnn_conv_algo_search"] for session in ort.sessions} == {"EXHAUSTIVE", "HEURISTIC"}
