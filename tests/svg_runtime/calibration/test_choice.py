"""What `auto` decides is measured once per circumstances, kept, and made again when it does not hold any more."""

from __future__ import annotations

import json
import time
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

from svg_common.errors import ExitCode
from svg_runtime import Forecaster, backends
from svg_runtime.backends.nvidia import device as device_module
from svg_runtime.backends.onnxruntime import cpu as cpu_backend
from svg_runtime.backends.onnxruntime import gpu as gpu_backend
from svg_runtime.backends.onnxruntime import providers
from svg_runtime.bench.calibrate import decision_table
from svg_runtime.calibration import choice, decisions, race, ways
from svg_runtime.errors import BackendMissingError, UsageError
from svg_runtime.live.cli import app
from tests.svg_runtime.backends.numpy_cuda import NumpyCuda, cudaError_t
from tests.svg_runtime.backends.ort_on_numpy_cuda import OrtOnNumpyCuda
from tests.svg_runtime.bundle_helpers import watch

pytestmark = pytest.mark.usefixtures("cache")
SMALL = {"samples": 2, "horizon": 2}


def opened(bundle, **given) -> str:
    with Forecaster.open(bundle, **SMALL, **given) as forecaster:
        return forecaster.description


def test_it_is_measured_once_and_says_why(fused_bundle, measured):
    first, second = opened(fused_bundle), opened(fused_bundle)
    assert first == second
    assert first.startswith("cpu (ONNX Runtime")
    assert "; chosen by measurement: cpu fp32 " in first
    assert measured == [["cpu fp32 separate", "cpu fp32 fused", "cpu fp32 shuffled"]]


def test_where_there_is_one_way_nothing_is_measured(fused_bundle, cache, measured, monkeypatch):
    monkeypatch.setattr(choice, "is_busy", lambda: True)
    monkeypatch.setattr(choice, "usable_cores", lambda: 4)
    assert opened(fused_bundle, fused=False, shuffled=False, threads=1).endswith("; not timed, as no other way took part")
    assert (measured, cache.exists()) == ([], False)


def test_other_circumstances_are_measured_on_their_own(fused_bundle, tiny_bundle, asked, monkeypatch):
    opened(fused_bundle)
    opened(tiny_bundle)
    for number, given in enumerate([{"threads": 1}, {"precision": "fp32"}, {"fused": True}, {"shuffled": True}], 3):
        opened(fused_bundle, **given)
        assert len(asked) == number
    with Forecaster.open(fused_bundle, samples=3, horizon=2):
        assert len(asked) == 7
    monkeypatch.setattr(decisions, "versions", lambda: {"onnxruntime": "99"})
    opened(fused_bundle)
    assert len(asked) == 8
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    opened(fused_bundle)
    assert len(asked) == 9


def test_memory_that_measuring_takes_is_no_other_circumstance(fused_bundle, asked, monkeypatch):
    free = [30]
    monkeypatch.setattr(decisions, "_free_memory_class", lambda: free[-1])
    find = choice.find_fastest

    def take_memory(**given):
        free.append(29)
        return find(**given)

    monkeypatch.setattr(choice, "find_fastest", take_memory)
    opened(fused_bundle)
    free.append(30)  # as before the start
    opened(fused_bundle)
    assert len(asked) == 1


def test_frames_are_those_of_the_backend_by_name(fused_bundle, frames):
    _, chosen = watch(fused_bundle, frames[:4], backend="auto", fused=True, seed=3, **SMALL)
    _, named = watch(fused_bundle, frames[:4], backend="cpu", fused=True, precision="fp32", seed=3, **SMALL)
    np.testing.assert_array_equal(chosen, named)


def test_the_stream_context_is_chosen_for_too(fused_bundle, measured):
    with Forecaster.open(fused_bundle, context="stream", **SMALL) as forecaster:
        assert forecaster.context == "stream"
    assert len(measured) == 1


@pytest.mark.parametrize(
    "damage",
    [
        "{",
        '{"way": {}}',
        *(
            pytest.param(text, marks=pytest.mark.slow)
            for text in ("", "[1]", '{"way": 3, "rows": 7, "busy": 0, "measured_s": 0}')
        ),
    ],
)
def test_a_damaged_decision_is_measured_again(fused_bundle, cache, asked, damage):
    opened(fused_bundle)
    (file,) = (cache / "calibration").iterdir()
    file.write_text(damage)
    opened(fused_bundle)
    assert len(asked) == 2
    assert json.loads(file.read_text())["way"]["backend"] == "cpu"


def test_a_decision_of_an_older_release_is_measured_again(fused_bundle, cache, asked):
    opened(fused_bundle)
    (file,) = (cache / "calibration").iterdir()
    about = json.loads(file.read_text())
    for each in (about["way"], *about["rows"]):
        del each["shuffled"], each["threads"]
    file.write_text(json.dumps(about))
    opened(fused_bundle)
    assert len(asked) == 2


@pytest.mark.parametrize(
    "wrong", [{"threads": 0}, {"threads": True}, {"shuffled": None}, {"fused": True, "shuffled": True}, {"backend": "gpu"}]
)
def test_what_is_not_a_way_is_refused(wrong):
    with pytest.raises(ValueError, match="not a way"):
        ways.Way.from_json({**ways.REFERENCE.as_json(), **wrong})
    assert ways.Way.from_json(ways.REFERENCE.as_json()) == ways.REFERENCE


def test_without_a_cache_it_is_measured_every_time(fused_bundle, cache, asked):
    cache.write_text("a file in place of the folder")
    assert "chosen by measurement" in opened(fused_bundle)
    assert "chosen by measurement" in opened(fused_bundle)
    assert len(asked) == 2


def test_a_decision_of_a_busy_machine_says_so_and_holds_for_an_hour(fused_bundle, asked, monkeypatch):
    monkeypatch.setattr(choice, "is_busy", lambda: True)
    assert opened(fused_bundle).endswith(", on a busy machine")
    monkeypatch.setattr(choice, "is_busy", lambda: False)
    assert opened(fused_bundle).endswith(", on a busy machine")
    now = time.time()
    monkeypatch.setattr(decisions.time, "time", lambda: now + 3700)
    assert not opened(fused_bundle).endswith(", on a busy machine")
    assert len(asked) == 2


def test_what_was_not_timed_does_not_depend_on_other_work():
    row = race.Row(ways.REFERENCE, reason=ways.NOT_TIMED).as_json()
    decision = decisions.Decision(ways.REFERENCE, [row], busy=True, measured_s=0.0)
    assert decision.summary == ways.NOT_TIMED
    assert list(decision_table(decision))[-1] == f"auto takes {ways.REFERENCE}"


def test_it_can_be_measured_again_or_not_at_all(fused_bundle, asked, monkeypatch):
    opened(fused_bundle)
    opened(fused_bundle, calibrate="again")
    assert len(asked) == 2
    assert "chosen" not in opened(fused_bundle, calibrate="no")
    monkeypatch.setenv("SVG_EDGE_CALIBRATE", "no")
    assert "chosen" not in opened(fused_bundle)
    assert len(asked) == 2
    monkeypatch.setenv("SVG_EDGE_CALIBRATE", "maybe")
    with pytest.raises(UsageError, match="SVG_EDGE_CALIBRATE is 'maybe'\n  expected one of: ready, full, again, no"):
        opened(fused_bundle)


def test_with_a_named_backend_nothing_is_measured(fused_bundle, measured):
    assert "chosen" not in opened(fused_bundle, backend="cpu")
    for backend, message in (("cpu", "calibrate has no effect with the cpu backend"), ("cpo", "unknown backend 'cpo'")):
        with pytest.raises(UsageError, match=message):
            opened(fused_bundle, backend=backend, calibrate="again")
    assert measured == []


def test_a_precision_that_the_bundle_lacks_is_the_same_error(fused_bundle, measured):
    with pytest.raises(BackendMissingError, match="bf16"):
        opened(fused_bundle, precision="bf16")
    assert measured == []


def test_a_decision_that_does_not_open_any_more_is_forgotten(fused_bundle, cache, asked):
    opened(fused_bundle)
    (file,) = (cache / "calibration").iterdir()
    about = json.loads(file.read_text())
    about["way"] = {
        "backend": "openvino",
        "device": "GPU.9",
        "precision": "fp32",
        "fused": False,
        "shuffled": False,
        "threads": None,
    }
    file.write_text(json.dumps(about))
    assert opened(fused_bundle).startswith("cpu (ONNX Runtime")
    assert not file.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--calibrate", "again", "--no-calibrate"], "both --calibrate and --no-calibrate were given"),
        (["--calibrate", "full", "--backend", "cpu"], "--calibrate has no effect with --backend cpu"),
        (["--no-calibrate", "--backend", "cpu"], "--no-calibrate has no effect with --backend cpu"),
        (["--no-calibrate", "--backend", "cpo"], "unknown backend 'cpo'\n  expected auto or one of: cpu, openvino, "),
    ],
)
def test_options_that_contradict_each_other_are_refused(options, message):
    result = CliRunner().invoke(app, ["--headless", "--max-frames", "1", *options])
    assert isinstance(result.exception, UsageError)
    assert message in str(result.exception)
    assert result.exception.exit_code == ExitCode.USAGE


# Threads


@pytest.fixture
def one_is_faster(monkeypatch) -> None:
    """Every way is faster on fewer threads."""
    monkeypatch.setattr(choice, "usable_cores", lambda: 4)
    sessions = cpu_backend._session_options
    threads_of: list[int | None] = []  # of the last two that were opened: the challenger's is the last

    def note(onnxruntime, threads):
        if threads_of[-1:] != [threads]:
            threads_of.append(threads)
        return sessions(onnxruntime, threads)

    monkeypatch.setattr(cpu_backend, "_session_options", note)
    monkeypatch.setattr(
        race, "_race", lambda runners, task: [[0.001 if threads_of[-1] else 0.2] * 5, [0.1] * 5][: len(runners)]
    )


def test_the_winner_runs_on_fewer_threads_if_that_is_faster(fused_bundle, one_is_faster, measured):
    first = opened(fused_bundle)
    assert "; chosen by measurement: cpu fp32 separate, 1 thread " in first
    assert "cpu fp32 separate, 2 threads " in first
    with Forecaster.open(fused_bundle, **SMALL) as forecaster:
        assert forecaster.decision.way == ways.Way("cpu", None, "fp32", fused=False, threads=1)
        assert [row["threads"] for row in forecaster.decision.rows] == [None, None, None, 2, 1]
    assert len(measured) == 1


def test_a_number_of_threads_that_was_asked_for_is_kept(fused_bundle, one_is_faster):
    with Forecaster.open(fused_bundle, threads=4, **SMALL) as forecaster:
        assert [row["threads"] for row in forecaster.decision.rows] == [None] * 3


# A GPU takes part like everyone else


@pytest.fixture
def gpu(monkeypatch):
    """A GPU made of host memory, which wins every race that it may run."""
    pytest.importorskip("cuda.bindings")
    cuda = NumpyCuda()
    ort = OrtOnNumpyCuda(cuda)
    monkeypatch.setattr(device_module, "load_runtime", lambda: cuda)
    monkeypatch.setattr(providers, "load_onnxruntime", lambda backend, extra: ort)
    monkeypatch.setattr(ways, "cuda_is_installed", lambda: True)
    monkeypatch.setattr(backends, "cuda_is_installed", lambda: False)  # for the rule of thumb

    def win(runners, task):
        return [[0.001 if runner.backend == "cuda" else 0.1] * 5 for runner in runners]

    monkeypatch.setattr(race, "_race", win)
    return SimpleNamespace(cuda=cuda, ort=ort)


def test_a_fast_gpu_with_the_right_frames_is_taken(fused_bundle, gpu):
    assert opened(fused_bundle).startswith("cuda (ONNX Runtime 1.30.0, NumPy GPU)")
    assert gpu.cuda.left == (0, 0, 0, 0)


def test_a_fast_gpu_with_wrong_frames_is_not(fused_bundle, gpu, monkeypatch, caplog):
    read = gpu_backend.OrtGpuBackend.read
    monkeypatch.setattr(gpu_backend.OrtGpuBackend, "read", lambda self, buffer: np.clip(read(self, buffer) + 0.2, 0, 1))
    assert opened(fused_bundle).startswith("cpu (ONNX Runtime")
    assert "cuda fp16 fused computes other frames than cpu fp32 separate" in caplog.text
    with Forecaster.open(fused_bundle, fused=False, shuffled=False, **SMALL) as forecaster:
        assert forecaster.description.endswith("; not timed, as no other way took part")


def test_a_gpu_without_memory_is_not(fused_bundle, gpu):
    gpu.cuda.fail["cudaMalloc"] = cudaError_t.cudaErrorMemoryAllocation
    assert opened(fused_bundle).startswith("cpu (ONNX Runtime")
    assert gpu.cuda.left == (0, 0, 0, 0)


def test_what_was_measured_with_engines_holds_for_later_openings(fused_bundle, asked):
    opened(fused_bundle, calibrate="full")
    opened(fused_bundle)
    assert len(asked) == 1
    opened(fused_bundle, calibrate="full")
    assert len(asked) == 2
