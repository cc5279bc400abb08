"""`svg-bench` as a process: the table and JSON of a real run, failures as rows, and its end by a signal."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from svg_runtime import Forecaster
from svg_runtime.backends import BACKENDS, NVIDIA
from svg_runtime.live.preprocess import Preprocessor
from svg_runtime.live.sources.synthetic import SyntheticSource
from svg_runtime.machine import hardware as machine
from tests.svg_runtime.bundle_helpers import copy_bundle, graph_bytes, replace_graph

MAIN = "from svg_runtime.bench.cli import main; main()"
SIZES = ("--samples", "2", "--horizon", "3", "--seed", "5")
HAS_GPU = bool(machine.hardware()["gpus"])


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """In `folder`, which also takes the temporary files."""
    (folder / "tmp").mkdir()
    paths = {"PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": str(folder / "tmp"), "COLUMNS": "200"}
    return subprocess.Popen(
        [sys.executable, "-c", MAIN, *arguments], cwd=folder, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, **paths},
    )  # fmt: skip


def wait_for_child(process: subprocess.Popen[str]) -> int:
    """The worker's process id."""
    listing = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while not (numbers := listing.read_text().split()):
        assert process.poll() is None
        time.sleep(0.02)
    return int(numbers[0])


def wait_for_line(process: subprocess.Popen[str], expected: str) -> None:
    for line in process.stderr:
        if expected in line:
            return
    pytest.fail(f"ended without printing {expected}")


@pytest.fixture(scope="module")
def run(fused_bundle, tmp_path_factory) -> tuple[dict, str, str]:
    """JSON, table and progress of a run on all backends."""
    folder = tmp_path_factory.mktemp("bench")
    process = start(folder, "--model", str(fused_bundle), *SIZES, "--seconds", "0.1", "--json", "out.json")
    table, progress = process.communicate(timeout=300)
    assert process.returncode == 0, progress
    assert list((folder / "tmp").glob("svg-bench-*")) == []
    return json.loads((folder / "out.json").read_text()), table, progress


@pytest.fixture(scope="module")
def measured(run) -> dict[tuple[str, str], dict]:
    """Rows of the cpu backend by precision and graphs."""
    return {(row["precision"], row["graphs"]): row for row in run[0]["rows"] if row["backend"] == "cpu"}


def test_every_backend_precision_and_set_of_graphs_is_a_row(run, measured):
    assert [backend for backend, _ in itertools.groupby(run[0]["rows"], lambda row: row["backend"])] == list(BACKENDS)
    assert set(measured) == {(precision, graphs) for precision in ("fp32", "fp16") for graphs in ("fused", "separate")}
    for row in run[0]["rows"]:
        if row["backend"] in NVIDIA and not HAS_GPU:
            assert (row["precision"], row["graphs"]) == (None, None)
            assert row["failed"].startswith(f"the {row['backend']} backend ")
    for row in measured.values():
        assert row["failed"] is None
        assert set(row["computed_in"]["predictor"]) == {"f32"}
    ran = [row for row in run[0]["rows"] if row["failed"] is None]
    computed = ["+".join(sorted({name for layers in row["computed_in"].values() for name in layers})) for row in ran]
    lines = [line.split("  ") for line in run[1].splitlines()]
    assert "computed in: the precision in which the engine really computes" in run[1]
    for row, precisions in zip(ran, computed, strict=True):
        assert any(line[0].strip() == row["backend"] and precisions in map(str.strip, line) for line in lines), run[1]


def test_rates_follow_from_times(measured):
    for row in measured.values():
        assert row["forecast_ms"]["count"] == row["observe_ms"]["count"] == row["rounds"] >= 3
        assert 0 < row["forecast_ms"]["p50"] <= row["forecast_ms"]["p95"] <= row["forecast_ms"]["p99"]
        assert row["seconds"] >= 0.1
        assert row["frames_per_s"] == pytest.approx(row["rounds"] / row["seconds"], rel=1e-3)
        assert row["forecasts_per_s"] == pytest.approx(1e3 / row["forecast_ms"]["mean"])
        assert row["forecasts_per_s"] > row["frames_per_s"]  # which observe too
        assert 20 < row["peak_rss_mib"] < 1000
        assert row["open_s"] > 0


def test_errors_are_those_of_a_plain_forecast(measured, fused_bundle):
    source = SyntheticSource(5, 64)
    frames = [Preprocessor(64, 64, 1).fit(frame.image) for frame in itertools.islice(source.frames(), 3)]
    rng = np.random.default_rng(5)
    past, noise = (rng.standard_normal(shape, np.float32) for shape in ((2, 2, 4), (3, 2, 4)))

    def forecast(**opened):
        with Forecaster.open(fused_bundle, backend="cpu", samples=2, horizon=3, **opened) as forecaster:
            for frame in frames:
                forecaster.observe(frame)
            return forecaster.forecast(noise=noise, context_noise=past)

    reference = forecast(precision="fp32", fused=False)
    for (precision, graphs), row in measured.items():
        difference = forecast(precision=precision, fused=graphs == "fused") - reference
        for name, step in (("first", 0), ("last", 2)):
            error = row["error"][name]
            assert error["max_abs"] == pytest.approx(np.abs(difference[:, step]).max(), rel=0.05, abs=2e-6)
            if precision == "fp16":
                assert error["psnr_db"] == pytest.approx(-10 * np.log10(np.mean(difference[:, step] ** 2)), abs=0.2)
    assert measured["fp32", "separate"]["error"]["last"]["max_abs"] == 0
    assert measured["fp16", "separate"]["error"]["first"]["max_abs"] > 1e-5


def test_shares_follow_from_the_probe_and_the_count(run, measured):
    found = run[0]
    assert found["missing"] == {}
    adds = found["multiply_adds"]
    # n_past 3, horizon 3: the predictor reads 2 frames and forecasts 3, the last frame is not encoded.
    assert found["forecast_operations"] == 2 * 2 * (
        5 * adds["predictor"] + 3 * (adds["prior"] + adds["decoder"]) + 2 * adds["encoder"]
    )
    for row in measured.values():
        rate = found["forecast_operations"] / (row["forecast_ms"]["p50"] / 1e3) / 1e9
        assert row["share"]["compute"] == pytest.approx(rate / found["peak"]["matmul_gflops"])
        assert row["share"]["memory"] > 0
    # Half the bits, less to move: the share would be smaller in the same time.
    moved = {key: row["share"]["memory"] * row["forecast_ms"]["p50"] for key, row in measured.items()}
    assert moved["fp16", "separate"] < moved["fp32", "separate"]


def test_json_contains_options_hardware_and_versions(run):
    found = run[0]
    assert (found["model"], found["samples"], found["horizon"], found["seed"]) == ("fused.svgb", 2, 3, 5)
    assert found["hardware"]["cores_usable"] == found["peak"]["threads"] >= 1
    assert found["telemetry"].keys() == {"before", "after"}
    assert found["versions"]["numpy"] == np.__version__
    assert found["interrupted"] is False


def test_the_table_shows_the_rows_and_stderr_the_progress(run, measured):
    _, table, progress = run
    for (precision, graphs), row in measured.items():
        line = next(line for line in table.splitlines() if line.split()[:3] == ["cpu", precision, graphs])
        assert f" {row['peak_rss_mib']:.0f} " in line
        assert f"cpu {precision} {graphs}: {row['forecast_ms']['p50']:.1f} ms per forecast" in progress
    for backend in () if HAS_GPU else NVIDIA:
        assert f"the {backend} backend " in table
    assert "Traceback" not in progress


def test_graphs_that_fail_are_rows(fused_bundle, tmp_path):
    """Graphs that keep their interface, but that no engine knows how to run."""
    broken = graph_bytes(fused_bundle, "decoder", "fp16").replace(b"ConvTranspose", b"ConvTransform")
    bundle = replace_graph(copy_bundle(fused_bundle, tmp_path), "decoder", broken, "fp16")
    process = start(
        tmp_path, "--model", str(bundle), "--backend", "cpu", "--fp16", *SIZES, "--seconds", "0.1", "--json", "out.json"
    )
    table, stderr = process.communicate(timeout=300)
    assert process.returncode == 4, stderr
    failed = {row["graphs"]: row["failed"] for row in json.loads((tmp_path / "out.json").read_text())["rows"]}
    assert set(failed) == {"fused", "separate"}
    assert all("cannot load fp16/decoder.onnx" in reason for reason in failed.values())
    assert "cannot load fp16/decoder.onnx" in table
    assert "Traceback" not in stderr


def test_a_process_that_dies_is_a_row_and_ctrl_c_keeps_the_rows_so_far(fused_bundle, tmp_path):
    process = start(tmp_path, "--model", str(fused_bundle), "--backend", "cpu", *SIZES, "--seconds", "60", "--json", "out.json")
    wait_for_line(process, "cpu fp32 fused ...")
    child = wait_for_child(process)
    os.kill(child, signal.SIGKILL)
    wait_for_line(process, "cpu fp32 separate ...")
    child = wait_for_child(process)
    process.send_signal(signal.SIGINT)
    table, stderr = process.communicate(timeout=300)
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    assert not Path(f"/proc/{child}").exists()
    assert list((tmp_path / "tmp").glob("svg-bench-*")) == []
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["interrupted"]
    assert [row["failed"] for row in found["rows"]] == ["its process was killed by signal SIGKILL"]
    assert "its process was killed by signal SIGKILL" in table
    assert "interrupted" in table


def test_without_any_backend_the_exit_code_is_4(fused_bundle, tmp_path):
    process = start(tmp_path, "--model", str(fused_bundle), "--backend", "cuda", "--device", "cuda:99", *SIZES)
    table, stderr = process.communicate(timeout=300)
    assert process.returncode == 4
    assert "the cuda backend " in table
    assert "the CPU's peak" not in stderr  # nobody waits for it in vain
    assert "error: no backend could run this bundle" in stderr
    assert "Traceback" not in stderr
