"""What ends `svg-forecast --ray`, with a stand-in for Ray: its workers are called here, one block after the other."""

from __future__ import annotations

import platform
import sys
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from rich.console import Console

from svg_common.errors import BackendMissingError, ExitCode, SvgError, UsageError
from svg_runtime.offline.listing import Video
from svg_runtime.offline.ray_run import forecast_with_ray
from svg_runtime.offline.stores import StoreAwayError
from svg_runtime.offline.tally import Tally
from svg_runtime.offline.worker import Worker

VIDEOS = [Video(f"{name}.mp4", 1, "v") for name in "ab"]


class RayError(Exception):
    """As Ray's."""


class RayTaskError(RayError):
    """As Ray's: a worker has raised."""


class ActorDiedError(RayError):
    """As Ray's: a worker is gone, or has raised in its constructor."""

    def __init__(self, actor_init_failed: bool = False) -> None:
        super().__init__("The actor died")
        self.actor_init_failed = actor_init_failed


class Reports:
    """Calls a worker for each row, and has its rows; or raises what Ray would. It takes no other options than Ray does."""

    def __init__(self, items, error: RayError | None) -> None:
        self.items = items
        self.error = error

    def map(self, worker, *, fn_constructor_args, compute, num_cpus, num_gpus):
        self.asked = {"workers": compute.size, "num_cpus": num_cpus, "num_gpus": num_gpus}
        self.worker = worker(*fn_constructor_args)
        return self

    def iter_rows(self):
        for item in self.items:
            row = self.worker(item)
            assert isinstance(row["report"], str)
            yield row
        if self.error is not None:
            raise self.error


@pytest.fixture
def end_with_ray(monkeypatch):
    """Run with a way to open the model, and an error of Ray after the last video."""

    def run(open_alike, error: RayError | None = None, pending=VIDEOS, gpus: float = 0.0) -> tuple[SvgError | None, Tally]:
        def from_items(items, *, override_num_blocks) -> Reports:
            assert override_num_blocks == len(items)  # a row is a task of its own
            run.reports = Reports(items, error)
            return run.reports

        ray, data = ModuleType("ray"), ModuleType("ray.data")
        ray.data = data
        ray.nodes = lambda: [{"Alive": True, "Resources": {"CPU": 1.0, "GPU": 1.0}}]
        ray.shutdown = lambda: None
        ray.exceptions = SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)
        data.DataContext = SimpleNamespace(get_current=lambda: SimpleNamespace())
        data.ActorPoolStrategy = SimpleNamespace
        data.from_items = from_items
        monkeypatch.setattr("svg_runtime.offline.ray_run.connect_to_ray", lambda: None)
        monkeypatch.setitem(sys.modules, "ray", ray)
        monkeypatch.setitem(sys.modules, "ray.data", data)
        dataset = SimpleNamespace(folder=Path("out"), scratch=Path("scratch"))
        dataset.part = lambda name: nullcontext(SimpleNamespace(rows=[]))
        dataset.at = lambda folder: dataset
        options = SimpleNamespace(ray_workers=1, ray_gpus=gpus, threads=None, open_alike=open_alike, keep=None)
        tally = Tally()
        failure = forecast_with_ray(
            options=options, dataset=dataset, model=Path("m.svgb"), pending=pending, tally=tally, console=Console(quiet=True)
        )
        return failure, tally

    return run


def opened(*given):
    return SimpleNamespace()


def missing(*given):
    raise BackendMissingError("no such backend here\n  install it")


def other_engine(*given):
    raise UsageError("another engine\n  remove --backend")


@pytest.mark.parametrize(
    ("open_alike", "code", "message"),
    [
        (missing, ExitCode.BACKEND_MISSING, "no such backend here\n  install it"),
        (other_engine, ExitCode.USAGE, "another engine\n  remove --backend"),
    ],
)
def test_a_worker_that_cannot_open_the_model_ends_the_run_as_this_process_would(end_with_ray, open_alike, code, message):
    failure, tally = end_with_ray(open_alike)
    assert failure is not None
    assert (failure.exit_code, str(failure)) == (code, f"on {platform.node()}: {message}")
    assert not tally.status


@pytest.mark.parametrize(("share", "num_gpus"), [(0.0, None), (0.25, 0.25)])
def test_workers_get_blocks_of_videos_and_what_they_take_is_asked_for(end_with_ray, monkeypatch, share, num_gpus):
    blocks = []
    monkeypatch.setattr(Worker, "run_part", lambda self, videos, name: blocks.append(videos))
    pending = [Video(f"{number}\udcff.mp4", number, "v") for number in range(300)]
    assert end_with_ray(opened, pending=pending, gpus=share)[0] is None
    assert end_with_ray.reports.asked == {"workers": 1, "num_cpus": 1, "num_gpus": num_gpus}
    assert [len(block) for block in blocks] == [64, 64, 64, 64, 44]
    assert [video for block in blocks for video in block] == pending


def test_a_worker_that_fits_on_no_machine_ends_the_run(end_with_ray, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(UsageError, match=r"takes 1 CPU and 2 GPUs, .*; the closest has 1 CPU and 1 GPU\n"):
        end_with_ray(opened, gpus=2.0)


def test_what_ends_a_worker_keeps_its_exit_code_and_what_is_finished_counts(end_with_ray, monkeypatch):
    def run_part(self, videos, name):
        if videos[0].name == VIDEOS[1].name:
            return BackendMissingError("the device is gone")
        self._tally.count({"video": videos[0].name, "status": "ok", "reason": None, "frames": 5, "alarms": 0})
        return None

    monkeypatch.setattr(Worker, "run_part", run_part)
    failure, tally = end_with_ray(opened)
    assert failure is not None
    assert (failure.exit_code, str(failure)) == (ExitCode.BACKEND_MISSING, f"on {platform.node()}: the device is gone")
    assert (tally.status, tally.frames) == ({"ok": 1}, 5)


@pytest.mark.parametrize(
    ("error", "again"),
    [(ActorDiedError(), True), (ActorDiedError(actor_init_failed=True), False), (RayTaskError("a bug"), False)],
)
def test_the_command_is_worth_repeating_only_after_the_loss_of_a_machine(end_with_ray, monkeypatch, error, again):
    monkeypatch.setattr(Worker, "run_part", lambda *given: None)
    failure, _ = end_with_ray(opened, error)
    assert "Ray ended the run" in str(failure)
    assert "what was finished is published" in str(failure)
    assert ("run the same command again" in str(failure)) is again


def test_a_worker_waits_for_a_store_that_is_away_in_three_of_its_blocks_and_not_in_all(end_with_ray, monkeypatch):
    asked = []

    def away(video, folder, stop):
        asked.append(video.name)
        raise StoreAwayError("no answer in time")

    monkeypatch.setattr("svg_runtime.offline.worker.local_copy", away)
    pending = [Video(f"s3://bucket/{number}.mp4", 1, "v") for number in range(5)]
    failure, tally = end_with_ray(opened, pending=pending)
    assert (failure, tally.status) == (None, {"unreachable": 5})
    assert asked == [video.name for video in pending[:3]]
    assert [reason.partition(":")[0] for reason in tally.reasons.values()] == [*["no answer in time"] * 3, *["not tried"] * 2]


def test_videos_of_two_blocks_that_are_shown_alike_have_a_reason_each(end_with_ray, monkeypatch):
    def away(video, folder, stop):
        raise StoreAwayError(f"no answer for {video.size}")

    monkeypatch.setattr("svg_runtime.offline.worker.local_copy", away)
    pending = [Video(f"https://host/get?id={number}", number, "v") for number in range(2)]
    _, tally = end_with_ray(opened, pending=pending)
    assert tally.reasons == {"https://host/get?...": "no answer for 0", "https://host/get?... (2)": "no answer for 1"}
