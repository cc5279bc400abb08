"""Ways to run a bundle, raced against each other: the right one that is fastest wins."""

from __future__ import annotations

import shutil
import time

import numpy as np
import pytest

from svg_common.progress import NullListener
from svg_runtime.bundle.reader import Bundle
from svg_runtime.calibration import race
from svg_runtime.calibration.race import Row, Task, find_fastest
from svg_runtime.calibration.ways import REFERENCE, Request, Way, list_ways
from svg_runtime.errors import BackendError, BackendMissingError

OPENVINO, GPU, HALF = (
    Way("openvino", "CPU:f32", "fp32", False),
    Way("cuda", None, "fp32", True),
    Way("cuda", None, "fp16", True),
)


class Stub:
    """A forecaster that takes `seconds`; `off` is added to all frames."""

    open_now = 0
    most_open = 0

    def __init__(self, seconds: float, off: float = 0.0, fails: Exception | None = None) -> None:
        self.seconds, self.off, self.fails, self.closed = seconds, off, fails, False
        Stub.open_now += 1
        Stub.most_open = max(Stub.most_open, Stub.open_now)

    def observe(self, frame):
        pass

    def forecast(self, samples=None, horizon=None, noise=None, context_noise=None):
        if self.fails is not None:
            raise self.fails
        time.sleep(self.seconds)
        return np.full((2, 3, 4, 4, 1), 0.5 + self.off, np.float32)

    def close(self):
        assert not self.closed
        self.closed = True
        Stub.open_now -= 1


@pytest.fixture(autouse=True)
def _count(monkeypatch):
    monkeypatch.setattr(Stub, "open_now", 0)
    monkeypatch.setattr(Stub, "most_open", 0)
    yield
    assert Stub.open_now == 0  # whatever happened, all are closed


TASK = Task(np.zeros((2, 4, 4, 1), np.float32), np.zeros((1, 2, 3), np.float32), np.zeros((3, 2, 3), np.float32))


def run(**stubs) -> tuple[Way | None, dict[Way, Row]]:
    ways = {"reference": REFERENCE, "openvino": OPENVINO, "gpu": GPU, "half": HALF}

    def open_way(way: Way):
        (made,) = (stubs[name] for name, each in ways.items() if each == way)
        return made() if callable(made) else made

    fastest, rows = find_fastest([ways[name] for name in stubs], TASK, open_way, NullListener())
    return fastest, {row.way: row for row in rows}


def refuse(error):
    def made():
        raise error

    return made


def test_the_fastest_right_way_wins_and_all_have_a_row():
    fastest, rows = run(reference=lambda: Stub(0.006), openvino=lambda: Stub(0.001), gpu=lambda: Stub(0.003))
    assert fastest == OPENVINO
    assert rows[OPENVINO].median_s < rows[GPU].median_s < rows[REFERENCE].median_s
    assert Stub.most_open == 2


def test_a_fast_way_with_other_frames_is_left_out_loudly(caplog):
    fastest, rows = run(reference=lambda: Stub(0.003), gpu=lambda: Stub(0.0, off=0.01))
    assert fastest == REFERENCE
    assert "computes other frames than cpu fp32 separate: largest error 0.01" in rows[GPU].reason
    assert "bug report" in caplog.text


def test_reduced_precision_may_differ_by_its_rounding_and_no_more():
    assert run(reference=lambda: Stub(0.004), half=lambda: Stub(0.0, off=0.01))[0] == HALF
    assert run(reference=lambda: Stub(0.004), half=lambda: Stub(0.0, off=0.1))[0] == REFERENCE


def test_frames_that_are_not_numbers_are_other_frames():
    assert run(reference=lambda: Stub(0.001), half=lambda: Stub(0.0, off=float("nan")))[0] == REFERENCE


@pytest.mark.parametrize(
    "error", [BackendMissingError("no such device\n  try another"), MemoryError("9 GB"), BackendError("the engine failed")]
)
def test_a_way_that_does_not_open_or_run_has_its_reason(error):
    fastest, rows = run(
        reference=lambda: Stub(0.002), openvino=refuse(error), gpu=lambda: Stub(0.0, fails=error), half=lambda: Stub(0.0)
    )
    assert fastest == HALF
    assert rows[OPENVINO].reason == rows[GPU].reason == str(error).splitlines()[0]


def test_without_the_reference_nothing_is_decided():
    for stub in (refuse(BackendMissingError("not installed")), lambda: Stub(0.0, fails=MemoryError("1 GB"))):
        fastest, rows = run(reference=stub, openvino=lambda: Stub(0.0))
        assert fastest is None
        assert rows[REFERENCE].reason in ("not installed", "1 GB")


def test_a_reference_that_takes_no_part_is_compared_with_and_closed(monkeypatch):
    opened = []

    def open_way(way):
        opened.append(way)
        return Stub(0.0)

    fastest, rows = find_fastest([HALF], TASK, open_way, NullListener())
    assert (fastest, opened, [row.way for row in rows]) == (HALF, [REFERENCE, HALF], [HALF])


def test_a_clear_race_is_short_and_one_without_a_winner_ends(monkeypatch):
    monkeypatch.setattr(race, "_RACE_S", 0.2)
    _, rows = run(reference=lambda: Stub(0.01), gpu=lambda: Stub(0.001))
    assert len(rows[GPU].seconds) == race._MIN_ROUNDS
    began = time.perf_counter()
    _, rows = run(reference=lambda: Stub(0.004), gpu=lambda: Stub(0.004))
    assert time.perf_counter() - began < 5


def test_the_task_fits_the_bundle(tiny_bundle):
    manifest = Bundle.open(tiny_bundle).manifest
    frame, task = manifest.frame, Task.make(manifest, samples=3, horizon=4)
    assert task.frames.shape == (manifest.generation.n_past, frame.height, frame.width, frame.channels)
    assert 0 <= task.frames.min() < task.frames.max() <= 1
    assert not np.array_equal(task.frames[0], task.frames[1])
    assert task.context_noise.shape == (manifest.generation.n_past - 1, 3, manifest.model.z_dim)
    assert task.noise.shape == (4, 3, manifest.model.z_dim)


def test_ways_follow_what_is_installed_and_what_was_asked(fused_bundle, tmp_path, monkeypatch):
    from svg_runtime.calibration import ways
    from tests.conftest import forget_quality

    manifest = Bundle.open(fused_bundle).manifest
    installed = {"openvino"}
    monkeypatch.setattr(ways, "is_installed", lambda module: module in installed)
    monkeypatch.setattr(ways, "cuda_is_installed", lambda: "onnxruntime-gpu" in installed)

    def names(**request) -> list[str]:
        return [str(way) for way in list_ways(manifest, Request(**request))]

    assert names() == ["cpu fp32 separate", "cpu fp32 fused", "openvino fp32 separate", "openvino fp32 fused"]
    assert names(fused=True) == ["cpu fp32 fused", "openvino fp32 fused"]
    assert names(precision="fp16", fused=False) == ["cpu fp16 separate", "openvino fp16 separate"]
    assert names(precision="bf16") == []  # the bundle has none
    installed |= {"onnxruntime-gpu", "tensorrt"}
    gpu = ["cuda fp32 separate", "cuda fp32 fused", "cuda fp16 separate", "cuda fp16 fused"]
    engines = [way.replace("cuda", name) for name in ("ort-tensorrt", "tensorrt") for way in gpu]
    assert names()[4:] == [*gpu, *engines]  # whether their engines are ready, opening them shows
    assert names(device="cpu") == names()[:4]
    installed -= {"onnxruntime-gpu"}
    assert names()[4:] == engines[4:]
    installed = {"openvino", "onnxruntime-gpu"}
    copy = shutil.copytree(fused_bundle, tmp_path / "unmeasured.svgb")
    manifest = Bundle.open(forget_quality(copy, "fp16")).manifest
    assert names()[4:] == [*gpu[:2], *engines[:2]]
    assert names(precision="fp16", fused=True) == [
        "cpu fp16 fused",
        "openvino fp16 fused",
        "cuda fp16 fused",
        "ort-tensorrt fp16 fused",
    ]


def test_a_race_that_fails_costs_the_champion_nothing():
    """Two that are open at once may need more memory than there is: then only the challenger is out."""
    calls = {"gpu": 0}

    class Late(Stub):
        def forecast(self, **given):
            calls["gpu"] += 1
            if calls["gpu"] > 2:  # after its frames were compared
                raise MemoryError("9 GB")
            return super().forecast(**given)

    fastest, rows = run(reference=lambda: Stub(0.002), openvino=lambda: Stub(0.0), gpu=lambda: Late(0.0))
    assert fastest == OPENVINO
    assert rows[GPU].reason == "9 GB"
    assert "ms" in rows[OPENVINO].as_json()


def test_an_interrupted_race_closes_both():
    with pytest.raises(KeyboardInterrupt):
        run(reference=lambda: Stub(0.0), gpu=lambda: Stub(0.0, fails=KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        run(reference=lambda: Stub(0.0, fails=KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        run(reference=lambda: Stub(0.0), gpu=refuse(KeyboardInterrupt()))
