"""Ways to run a bundle, raced against each other: the right one that is fastest wins."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from svg_common.progress import NullListener
from svg_runtime.bundle.reader import Bundle
from svg_runtime.calibration import race
from svg_runtime.calibration.race import Row, Task, find_fastest
from svg_runtime.calibration.ways import NOT_TIMED, REFERENCE, Request, Way, list_ways
from svg_runtime.errors import BackendError, BackendMissingError

OPENVINO, GPU, HALF = (
    Way("openvino", "CPU:f32", "fp32", False),
    Way("cuda", None, "fp32", True),
    Way("cuda", None, "fp16", True),
)


class Clock:
    """Time that passes only when something sleeps, so that no other program changes who wins."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        self.now += 1e-6
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


CLOCK = Clock()


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
        CLOCK.sleep(self.seconds)
        return np.full((2, 3, 4, 4, 1), 0.5 + self.off, np.float32)

    def close(self):
        assert not self.closed
        self.closed = True
        Stub.open_now -= 1


@pytest.fixture(autouse=True)
def _count(monkeypatch):
    monkeypatch.setattr(race, "time", CLOCK)
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
    assert rows[REFERENCE].reason == NOT_TIMED


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
    _, rows = run(reference=lambda: Stub(0.001), gpu=lambda: Stub(0.01))
    assert len(rows[GPU].seconds) == 1
    _, rows = run(reference=lambda: Stub(0.01), gpu=lambda: Stub(0.001))
    assert len(rows[GPU].seconds) == race._MIN_ROUNDS  # one round is too little to win
    _, rows = run(reference=lambda: Stub(0.005), gpu=lambda: Stub(0.008))
    assert len(rows[GPU].seconds) == race._MIN_ROUNDS
    began = CLOCK.perf_counter()
    _, rows = run(reference=lambda: Stub(0.004), gpu=lambda: Stub(0.004))
    assert CLOCK.perf_counter() - began < 1


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

    openvino = ["openvino fp32 shuffled", "openvino fp32 separate", "openvino fp32 fused"]
    assert names() == ["cpu fp32 separate", *openvino, "cpu fp32 fused", "cpu fp32 shuffled"]
    assert names(fused=True) == ["openvino fp32 fused", "cpu fp32 fused"]
    assert names(shuffled=True) == ["openvino fp32 shuffled", "cpu fp32 shuffled"]
    assert names(shuffled=False) == ["cpu fp32 separate", *openvino[1:], "cpu fp32 fused"]
    assert names(precision="fp16", fused=False) == ["openvino fp16 separate", "cpu fp16 separate"]
    assert names(precision="fp16", shuffled=True) == []
    assert names(precision="bf16") == []  # the bundle has none
    installed |= {"onnxruntime-gpu", "tensorrt"}
    on_cpu = names(device="cpu")
    assert len(on_cpu) == 6
    sets = ["fp16 fused", "fp16 separate", "fp32 fused", "fp32 separate"]
    cuda = [f"cuda {graphs}" for graphs in [*sets, "fp32 shuffled"]]
    engines = [f"{name} {graphs}" for name in ("ort-tensorrt", "tensorrt") for graphs in sets]
    assert names() == [on_cpu[0], *cuda, *engines, *on_cpu[1:]]  # whether their engines are ready, opening them shows
    installed -= {"onnxruntime-gpu"}
    assert names() == [on_cpu[0], *engines[4:], *on_cpu[1:]]
    installed = {"openvino", "onnxruntime-gpu"}
    copy = shutil.copytree(fused_bundle, tmp_path / "unmeasured.svgb")
    manifest = Bundle.open(forget_quality(copy, "fp16")).manifest
    assert names() == [on_cpu[0], *cuda[2:], *engines[2:4], *on_cpu[1:]]
    asked = ["cuda fp16 fused", "ort-tensorrt fp16 fused", "openvino fp16 fused", "cpu fp16 fused"]
    assert names(precision="fp16", fused=True) == asked


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


# Threads


def run_with_threads(seconds: dict[int | None, float], way: Way = OPENVINO, cores: int = 8) -> tuple[Way | None, list[Row]]:
    """`way` against a slow reference; what it takes by its number of threads."""

    def open_way(opened: Way) -> Stub:
        return Stub(0.03 if opened == REFERENCE else seconds[opened.threads])

    return find_fastest([REFERENCE, way], TASK, open_way, NullListener(), cores)


def test_the_winner_is_measured_with_half_of_its_threads_as_long_as_that_is_faster():
    fastest, rows = run_with_threads({None: 0.012, 4: 0.006, 2: 0.002, 1: 0.008})
    assert str(fastest) == "openvino fp32 separate, 2 threads"
    assert [row.way.threads for row in rows] == [None, None, 4, 2, 1]
    assert Stub.most_open == 2
    assert run_with_threads({None: 0.01, 4: 0.0098})[0] == OPENVINO  # within the noise
    fastest, rows = run_with_threads({None: 0.004, 4: 0.01})
    assert fastest == OPENVINO
    assert str(rows[-1].way) == "openvino fp32 separate, 4 threads"


@pytest.mark.parametrize(("way", "cores"), [(OPENVINO, 1), (GPU, 8), (Way("openvino", "GPU.0", "fp32", False), 8)])
def test_threads_of_one_core_or_of_a_gpu_are_not_measured(way, cores):
    fastest, rows = run_with_threads({None: 0.0}, way, cores)
    assert fastest == way
    assert len(rows) == 2


def test_fewer_threads_that_do_not_open_leave_the_winner():
    def open_way(opened: Way) -> Stub:
        if opened.threads:
            raise BackendError("no memory")
        return Stub(0.0)

    fastest, rows = find_fastest([REFERENCE], TASK, open_way, NullListener(), cores=2)
    assert fastest == REFERENCE
    assert rows[-1].reason == "no memory"


# Slow models


class Slow(Stub):
    """Takes `seconds` for each step; frames beyond the `right_until`-th are wrong."""

    def __init__(self, seconds: float, right_until: int = 100) -> None:
        super().__init__(seconds)
        self.right_until = right_until
        self.steps: list[int] = []

    def forecast(self, samples=None, horizon=None, noise=None, context_noise=None):
        assert horizon == len(noise)
        self.steps.append(horizon)
        CLOCK.sleep(self.seconds * horizon)
        return np.where(np.arange(horizon) < self.right_until, 0.5, 0.9).reshape(1, -1, 1, 1, 1).astype(np.float32)


LONG = Task(TASK.frames, TASK.context_noise, np.zeros((12, 2, 3), np.float32))


def test_slow_forecasts_are_timed_on_fewer_steps_and_compared_on_all(monkeypatch):
    monkeypatch.setattr(race, "_SLOW_S", 0.02)
    monkeypatch.setattr(race, "_SHORT_S", 0.01)
    made = {REFERENCE: Slow(0.004), OPENVINO: Slow(0.001), GPU: Slow(0.0, right_until=11)}
    fastest, rows = find_fastest([REFERENCE, OPENVINO, GPU], LONG, made.get, NullListener())
    assert fastest == OPENVINO
    assert made[OPENVINO].steps[0] == 12
    assert set(made[OPENVINO].steps[1:]) == {race._SHORT_STEPS}
    assert rows[1].as_json()["steps"] == race._SHORT_STEPS
    assert "largest error 0.4" in rows[2].reason


def test_fast_forecasts_are_timed_whole():
    made = {REFERENCE: Slow(0.0), OPENVINO: Slow(0.0)}
    _, rows = find_fastest(list(made), LONG, made.get, NullListener())
    assert {12} == set(made[OPENVINO].steps)
    assert "steps" not in rows[1].as_json()


def test_frames_that_become_wrong_in_a_later_forecast_are_other_frames():
    """Engines that replay what they have captured may read states that are out of date."""

    class Stale(Stub):
        def forecast(self, **given):
            self.off += 0.2 if self.off else 1e-9
            return super().forecast(**given)

    fastest, rows = run(reference=lambda: Stub(0.005), gpu=lambda: Stale(0.0))
    assert fastest == REFERENCE
    assert "computes other frames" in rows[GPU].reason


def test_every_round_of_a_way_counts_for_its_time():
    """The winner of several races has been timed in each."""
    _, rows = run(reference=lambda: Stub(0.02), openvino=lambda: Stub(0.002), gpu=lambda: Stub(0.02))
    assert len(rows[OPENVINO].seconds) == len(rows[REFERENCE].seconds) + len(rows[GPU].seconds)


def test_when_the_time_is_over_the_fastest_so_far_has_won(monkeypatch):
    """Opening is not counted: engines may take minutes to build."""
    monkeypatch.setattr(race, "_LIMIT_S", 0.04)
    monkeypatch.setattr(race, "_RACE_S", 0.03)

    def slow_to_open(seconds):
        def made():
            CLOCK.sleep(0.05)
            return Stub(seconds)

        return made

    fastest, rows = run(
        reference=slow_to_open(0.001), gpu=slow_to_open(0.0), half=lambda: Stub(0.03), openvino=refuse(MemoryError())
    )
    assert fastest == GPU
    assert rows[HALF].seconds
    assert rows[OPENVINO].reason == "not measured: 0 s were over"
