"""Faults of the machine, in real processes of all commands: full disks, sudden death, clocks, memory, file descriptors.

SVG_EDGE_TEST_KILLS sets how often each command is killed.
"""

from __future__ import annotations

import importlib
import itertools
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from svg_common.video.clips import find_clips
from svg_common.video.reader import VideoReader
from svg_runtime.backends.onnxruntime.session import BoundSession
from svg_runtime.bundle.reader import Bundle, find_model
from svg_runtime.errors import BackendError
from svg_runtime.forecast.forecaster import Forecaster
from svg_train.checkpoint import load_checkpoint
from tests.command_runner import flush_slowly, start, wait_until
from tests.file_size import file_size_limit
from tests.svg_runtime.live.live_helpers import write_video

KILLS = int(os.environ.get("SVG_EDGE_TEST_KILLS", "1"))
TINY_RUN = [
    *("--nf", "4", "--g-dim", "16", "--rnn-size", "24", "--z-dim", "4", "--n-past", "3", "--n-future", "2"),
    *("--batch-size", "2", "--eval-sequences", "2", "--eval-samples", "2", "--eval-horizon", "2"),
    *("--device", "cpu", "--precision", "32-true"),
]
TRAIN = ["svg-train", "--data", "digits", "--steps", "2", *TINY_RUN, "--out", "run"]


def live(bundle: Path, *more: str) -> list[str]:
    return ["svg-live", "--model", str(bundle), "--backend", "cpu", "--headless", "--max-frames", "8", *more]


def evaluate(bundle: Path, *more: str) -> list[str]:
    small = ["--backend", "cpu", "--samples", "2", "--sequences", "2", "--horizon", "2", "--data", "digits"]
    return ["svg-eval", str(bundle), *small, *more]


def bench(bundle: Path, *more: str) -> list[str]:
    return [
        "svg-bench",
        "--model",
        str(bundle),
        *["--backend", "cpu", "--seconds", "0.1", "--samples", "1", "--horizon", "1"],
        *more,
    ]


def export(checkpoint: Path, *more: str) -> list[str]:
    return ["svg-export", str(checkpoint), "--no-fused", "--no-shuffled", "--out", "b.svgb", *more]


def visible(folder: Path) -> list[str]:
    """Files without those that were being written when the process was killed: their names begin with a dot."""
    files = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(str(file) for file in files if not any(part.startswith(".") for part in file.parts))


def assert_whole(folder: Path) -> None:
    """Every visible result is complete, and nothing else is taken for a result."""
    for name in visible(folder):
        path = folder / name
        if path.suffix == ".pt":
            load_checkpoint(path).build()
        elif path.suffix == ".json" and path.parent == folder:
            json.loads(path.read_text(encoding="utf-8"))
        elif path.suffix in (".png", ".gif"):
            with Image.open(path) as picture:
                picture.load()
        elif path.suffix == ".mp4":
            with VideoReader(path) as reader:
                assert len(list(reader)) > 0
                assert reader.problem is None
    for bundle in folder.glob("*.svgb"):
        opened = Bundle.open(bundle)
        assert [opened.graphs(precision) for precision in opened.manifest.variants]


class TestFullDisk:
    """One message that names the output, exit code 1, and no half-written file, whichever output finds the disk full."""

    @pytest.mark.parametrize(
        ("limit", "named"),
        [(50, "run/tensorboard"), (500, "run/metrics.jsonl"), (3000, "run/strips/step-0000002.png"),
         (17_000, "run/strips/step-0000002."), (100_000, "run/ckpt.pt"), (600_000, "run/last.pt")],
    )  # fmt: skip
    def test_training(self, tmp_path, limit, named):
        run = start(TRAIN, tmp_path, limits={resource.RLIMIT_FSIZE: limit})
        run.assert_one_message(1)
        assert f"error: File too large: {named}" in run.output
        assert not list(tmp_path.rglob(".*"))
        assert_whole(tmp_path)

    def test_bytecode_that_would_be_cut_off_is_not_written(self, tmp_path, monkeypatch):
        """It would fail each later import."""
        monkeypatch.setattr(sys, "dont_write_bytecode", False)
        (tmp_path / "of_a_full_disk.py").touch()
        monkeypatch.syspath_prepend(tmp_path)
        with file_size_limit(50):
            importlib.import_module("of_a_full_disk")
        assert [path.name for path in tmp_path.iterdir()] == ["of_a_full_disk.py"]

    @pytest.mark.parametrize("output", ["--output", "--json"])
    def test_live(self, tiny_bundle, tmp_path, output):
        (tmp_path / "full.mp4").symlink_to("/dev/full")
        run = start(live(tiny_bundle, output, "full.mp4"), tmp_path)
        run.assert_one_message(1)
        assert "error: cannot write 'full.mp4': No space left on device" in run.output

    @pytest.mark.parametrize("output", ["--json", "--plot"])
    def test_evaluation(self, tiny_bundle, tmp_path, output):
        (tmp_path / "full.png").symlink_to("/dev/full")
        run = start(evaluate(tiny_bundle, output, "full.png"), tmp_path)
        run.assert_one_message(1)
        assert "error: No space left on device: full.png" in run.output

    @pytest.mark.parametrize(("output", "limit"), [("p.pdf", 5000), ("p.svg", 5000), ("p.png", 5000), ("strips", 300)])
    def test_pictures_of_an_evaluation(self, tiny_bundle, tmp_path, output, limit):
        option = "--strips" if output == "strips" else "--plot"
        run = start(evaluate(tiny_bundle, option, output), tmp_path, limits={resource.RLIMIT_FSIZE: limit})
        run.assert_one_message(1)
        assert f"error: File too large: {output}" in run.output
        assert visible(tmp_path) == []

    @pytest.mark.slow
    def test_benchmark(self, tiny_bundle, tmp_path):
        run = start(bench(tiny_bundle, "--json", "/dev/full"), tmp_path)
        run.assert_one_message(1)
        assert "error: No space left on device: /dev/full" in run.output

    def test_temporary_files_of_a_benchmark(self, tiny_bundle, tmp_path):
        run = start(bench(tiny_bundle), tmp_path, limits={resource.RLIMIT_FSIZE: 20_000})
        run.assert_one_message(1)
        assert "set TMPDIR to a folder with more space" in run.output

    @pytest.mark.parametrize(
        ("more", "limit", "named"),
        [(["--save-checkpoint", "/dev/full"], None, "/dev/full"), ([], 3000, "b.svgb"),
         pytest.param(["--json", "/dev/full"], None, "/dev/full", marks=pytest.mark.slow)],
    )  # fmt: skip
    def test_export(self, tiny_checkpoint, tmp_path, more, limit, named):
        run = start(export(tiny_checkpoint, *more), tmp_path, limits={resource.RLIMIT_FSIZE: limit} if limit else None)
        run.assert_one_message(1)
        assert named in run.output.partition("error: ")[2].splitlines()[0]
        assert visible(tmp_path) == [] or "--json" in more
        assert_whole(tmp_path)

    @pytest.mark.parametrize("size_kib", [16, 96, 256])
    def test_a_disk_that_is_really_full(self, tiny_bundle, tmp_path, size_kib):
        disk = tmp_path / "disk"
        disk.mkdir()
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_kib}k", "tmpfs", str(disk)], check=False)
        if mounted.returncode:
            pytest.skip("this user may not mount a tmpfs")
        try:
            for command in (TRAIN, live(tiny_bundle, "--output", "o.mp4"), evaluate(tiny_bundle, "--strips", "strips")):
                run = start(command, disk)
                run.assert_one_message(0, 1)
                assert run.process.exitcode == 0 or "No space left" in run.output or "disk full" in run.output
                assert not list(disk.rglob(".*"))
                assert_whole(disk)
        finally:
            subprocess.run(["umount", str(disk)], check=True)


class TestSudden:
    """SIGKILL at random moments."""

    @pytest.mark.parametrize("seed", range(KILLS))
    def test_death_of_a_training_leaves_checkpoints_that_load_and_resume(self, tmp_path, seed):
        (tmp_path / "clips").mkdir()
        for number in range(2):
            write_video(tmp_path / "clips" / f"{number}.mp4", frames=60)
        data = ["--data", "video", "--data-root", "clips", "--cache", "cache"]
        command = ["svg-train", *data, *TINY_RUN, *["--steps", "20", "--save-every", "1", "--eval-every", "2", "--out", "run"]]
        run = start(command, tmp_path, before=flush_slowly)
        wait_until(lambda: (tmp_path / "run" / "last.pt").exists() or run.process.exitcode is not None)
        assert run.kill_after(random.Random(seed).uniform(0, 1)), run.output
        assert_whole(tmp_path)
        assert load_checkpoint(tmp_path / "run" / "last.pt").training is not None
        done = start(["svg-train", "--out", "run", "--resume", "--device", "cpu", "--precision", "32-true"], tmp_path)
        assert done.wait() == 0, done.output
        assert_whole(tmp_path)

    @pytest.mark.parametrize("seed", range(KILLS))
    def test_death_of_an_export_leaves_the_old_bundle_or_the_new_one(
        self, tiny_checkpoint, tiny_bundle, tmp_path, seed, monkeypatch
    ):
        shutil.copytree(tiny_bundle, tmp_path / "b.svgb")
        command = export(tiny_checkpoint, "--json", "e.json", "--save-checkpoint", "c.pt")
        run = start(command, tmp_path, before=flush_slowly)
        if seed % 2 == 0:  # while files are written
            wait_until(lambda: any(tmp_path.glob(".b.svgb.*/*/*.onnx")) or run.process.exitcode is not None, 120)
            assert run.kill_after(random.Random(seed).uniform(0, 0.5)), run.output
            assert any(tmp_path.glob(".b.svgb.*"))
        else:
            run.kill_after(random.Random(seed).uniform(0, 8))
        assert_whole(tmp_path)
        assert (tmp_path / "b.svgb" / "manifest.json").is_file()
        monkeypatch.chdir(tmp_path)
        assert find_model(None).name in ("b.svgb", "digits.svgb")  # never a folder that was being written

    @pytest.mark.parametrize("seed", range(KILLS))
    def test_death_of_a_live_run_leaves_no_half_video(self, tiny_bundle, tmp_path, seed):
        run = start(live(tiny_bundle, "--output", "o.mp4", "--json", "s.json", "--max-frames", "10000"), tmp_path)
        wait_until(lambda: any(tmp_path.glob(".o*.mp4")) or run.process.exitcode is not None)
        assert run.kill_after(random.Random(seed).uniform(0, 1)), run.output
        assert visible(tmp_path) == []
        assert any(tmp_path.glob(".o*.mp4"))
        assert find_clips(tmp_path) == []


def turn_clock_back() -> None:
    """From now on, each look at the clock shows an hour less than the one before."""
    began_s, looks = time.time(), itertools.count()
    time.time = lambda: began_s - 3600.0 * next(looks)


def test_a_clock_that_is_set_back_changes_nothing_in_a_live_run(tiny_bundle, tmp_path):
    run = start(live(tiny_bundle, "--json", "s.json", "--output", "o.mp4", "--realtime"), tmp_path, before=turn_clock_back)
    assert run.wait() == 0, run.output
    statistics = json.loads((tmp_path / "s.json").read_text())
    assert statistics["frames"]["seen"] == 8
    assert 0.6 < statistics["duration_s"] < 3600  # seven intervals of 0.1 s at least; never the hours of the other clock
    assert statistics["latency_ms"]["end_to_end"]["p50"] > 0
    with VideoReader(tmp_path / "o.mp4") as reader:
        assert [round(frame.time_s, 3) for frame in reader] == [round(0.1 * tick, 3) for tick in range(8)]


def test_a_clock_that_is_set_back_changes_nothing_in_training(tmp_path):
    for folder, before in (("plain", None), ("back", turn_clock_back)):
        run = start([*TRAIN[:-1], folder], tmp_path, before=before)
        assert run.wait() == 0, run.output
    plain, back = (load_checkpoint(tmp_path / folder / "last.pt") for folder in ("plain", "back"))
    assert plain.metrics == back.metrics
    assert all(bool((plain.weights[name] == back.weights[name]).all()) for name in plain.weights)


def use_up_memory() -> None:
    """Let every run of an engine fail for lack of memory."""

    def run(self: BoundSession) -> None:
        raise MemoryError

    BoundSession.run = run  # type: ignore[method-assign]


def report_bad_allocations() -> None:
    """As `use_up_memory`, in the words of a C++ library."""

    def run(self: BoundSession) -> None:
        raise RuntimeError("std::bad_alloc")

    BoundSession.run = run  # type: ignore[method-assign]


@pytest.mark.parametrize("fault", [use_up_memory, report_bad_allocations])
@pytest.mark.parametrize("command", [live, evaluate])
def test_a_backend_without_memory_is_one_message(tiny_bundle, tmp_path, command, fault):
    run = start(command(tiny_bundle, "--json", "s.json"), tmp_path, before=fault)
    run.assert_one_message(1)
    assert "out of memory" in run.output or "bad_alloc" in run.output
    assert visible(tmp_path) == []


def test_a_forecaster_without_memory_raises_its_named_error(tiny_bundle, frames, monkeypatch):
    with Forecaster.open(tiny_bundle, backend="cpu", samples=2, horizon=2) as forecaster:
        for frame in frames[:4]:
            forecaster.observe(frame)
        with monkeypatch.context() as fault:
            fault.setattr(BoundSession, "run", lambda self: (_ for _ in ()).throw(MemoryError("12 GiB")))
            with pytest.raises(BackendError, match="out of memory: 12 GiB"):
                forecaster.forecast()
            with pytest.raises(BackendError, match="out of memory"):
                forecaster.observe(frames[4])
        forecaster.reset()
        for frame in frames[:3]:
            forecaster.observe(frame)
        assert forecaster.forecast().shape[0] == 2


def leave_little_memory() -> None:
    """Let this process have 200 MiB more than it has now."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (200 << 20), resource.getrlimit(resource.RLIMIT_AS)[1]))


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the limit needs Linux")
def test_training_without_memory_is_one_message(tmp_path):
    run = start([*TRAIN, "--nf", "64", "--batch-size", "256"], tmp_path, before=leave_little_memory)
    run.assert_one_message(1)
    assert "error: out of memory" in run.output


@pytest.mark.parametrize("descriptors", [6, 10, *(pytest.param(n, marks=pytest.mark.slow) for n in (9, 11, 12, 14))])
@pytest.mark.parametrize("command", ["live", "evaluate", "train", "bench"])
def test_without_file_descriptors_there_is_one_message(tiny_bundle, tmp_path, command, descriptors):
    commands = {
        "live": live(tiny_bundle, "--json", "s.json", "--output", "o.mp4"),
        "evaluate": evaluate(tiny_bundle, "--json", "s.json", "--plot", "p.png"),
        "train": [*TRAIN, "--json", "m.json"],
        "bench": bench(tiny_bundle, "--json", "s.json"),
    }
    run = start(commands[command], tmp_path, limits={resource.RLIMIT_NOFILE: descriptors})
    run.assert_one_message(0, 1, 4)
    assert run.process.exitcode == 0 or "oo many open files" in run.output
    assert_whole(tmp_path)
