"""`svg-train` adapts a tiny ensemble to a clip: record, train, compare, export, report, delete; interrupted, and refused."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from svg_adapt import adaptation, adaptation_options
from svg_adapt.adaptation_stage import write_stage
from svg_adapt.cli import app, train
from svg_adapt.recorded_source import RecordedSource
from svg_adapt.recording import Recording
from svg_common.errors import ExitCode
from svg_export.parity import ParityError
from svg_runtime import Forecaster
from svg_runtime.live.sources import SourceOptions
from svg_train import shipped_models as shipped_models_module
from svg_train.checkpoint import load_checkpoint, save_checkpoint
from svg_train.config import build_config
from svg_train.data import open_data
from svg_train.processes import LostLoaderError
from svg_train.shipped_models import find_checkpoint, shipped_models
from tests.command_runner import start, wait_until
from tests.families import save_tiny
from tests.svg_common.test_folder_lock import held_by_another_process
from tests.svg_runtime.live.live_helpers import read_times, write_video

QUICK = [
    *("--device", "cpu", "--precision", "32-true", "--batch-size", "4", "--n-future", "4", "--warmup-steps", "0"),
    *("--eval-sequences", "4", "--eval-samples", "2", "--eval-horizon", "4", "--save-every", "1", "--threads", "1"),
]

VIEW = ["--rotate", "180", "--source-flip", "vertical", "--roi", "0,0,32,32"]
ADAPTED = ["--lr", "1e-2", "--steps", "30", *VIEW]


@pytest.fixture(scope="module")
def start_model(tmp_path_factory) -> Path:
    """A tiny ensemble that forecasts dark frames of its own, whatever it has seen: steps enough for a test make it better."""
    path = save_tiny("ensemble", tmp_path_factory.mktemp("start") / "start.pt", channels=3)
    checkpoint = load_checkpoint(path)
    bias = checkpoint.weights["decoder.head.bias"].unflatten(0, (-1, 4))  # of content (3 channels), then of what is mixed
    bias[:3] = -0.25
    bias[3:] = torch.tensor([[-4.0], [-4.0], [4.0]])  # what moved, what is still, what is new
    save_checkpoint(path, checkpoint)
    return path


@pytest.fixture(scope="module")
def flashing(tmp_path_factory) -> Path:
    """Twelve seconds of frames that are bright or dark at random: their mean is 3 dB better than repeating the last one."""
    path, bright = tmp_path_factory.mktemp("clip") / "flashing.mp4", np.random.default_rng(0).integers(0, 2, 120)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "10", "preset": "ultrafast"})
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for value in 70 + 110 * bright:
            picture = np.full((32, 32, 3), value, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def command(start_model: Path, clip: Path, *more: str) -> list[str]:
    return ["svg-train", "--init", str(start_model), "--source", str(clip), "--record", "12s", *QUICK, *more]


@pytest.fixture(scope="module")
def adapted(start_model, flashing, tmp_path_factory):
    """A complete adaptation, and what it printed."""
    folder = tmp_path_factory.mktemp("adapted")
    run = start(command(start_model, flashing, *ADAPTED, "--json", "report.json"), folder)
    assert run.wait() == 0, run.output
    return folder, run.output


def test_an_adaptation_records_trains_compares_and_exports(adapted, flashing):
    folder, output = adapted
    run = folder / "run"
    report = json.loads((run / "adaptation.json").read_text())
    assert report["stage"] == "done"
    assert report["recording"]["recorded_s"] == pytest.approx(12)
    assert report["all"]["over_start"]["db"] > 0.5
    assert report["all"]["over_repeat"]["db"] > 0.5
    assert report["worth_it"]
    assert report["bundle"] == "run/run.svgb"
    assert {key: value for key, value in report.items() if key != "stage"} == json.loads((folder / "report.json").read_text())
    assert (run / "adaptation.txt").read_text().strip() in output
    assert "gain over start.pt" in output
    view = "--rotate 180 --flip vertical --roi 0,0,32,32"
    assert report["recording"]["view"] == view
    assert f"run it with: svg-live --model run/run.svgb --source {flashing} {view}\n" in output
    assert output.count("svg-train --out run --delete-recording") == 2  # said before it begins and at the end


def test_the_bundle_of_an_adaptation_forecasts(adapted):
    with Forecaster.open(adapted[0] / "run" / "run.svgb", backend="cpu", samples=2, horizon=2) as forecaster:
        for _ in range(3):
            forecaster.observe(np.full((16, 16, 3), 0.5, np.float32))
        assert forecaster.forecast().shape == (2, 2, 16, 16, 3)
        described = forecaster.manifest.training_data.description
        assert described.startswith("adapted from start.pt; video: 1 file with 102 train frames (split by end)")


def test_the_last_part_is_held_out_and_the_model_keeps_the_shape_of_the_start(adapted, start_model):
    saved = load_checkpoint(adapted[0] / "run" / "ckpt.pt")
    assert saved.config.model.shape() == load_checkpoint(start_model).config.model.shape()
    assert (saved.config.data.split_by, saved.config.data.test_fraction) == ("end", 0.15)
    assert saved.frame_interval_s == pytest.approx(0.1)


def test_a_complete_adaptation_is_not_begun_again(adapted, start_model, flashing):
    for more in ([], ["--resume"]):
        run = start(command(start_model, flashing, *ADAPTED, *more), adapted[0])
        assert run.wait() == ExitCode.USAGE
        assert "is complete: run/adaptation.json" in run.output


def test_a_run_that_gains_nothing_is_not_exported(start_model, flashing, tmp_path):
    run = start(command(start_model, flashing, "--lr", "1e-9", "--train", "1s"), tmp_path)
    assert run.wait() == 0, run.output
    assert "NOT worth it: keep start.pt. No bundle was written" in run.output
    assert f"svg-export {start_model} && svg-live --model start.svgb" in run.output
    report = json.loads((tmp_path / "run" / "adaptation.json").read_text())
    assert not report["worth_it"]
    assert report["bundle"] is None
    assert abs(report["all"]["over_start"]["db"]) < 0.1
    assert list((tmp_path / "run").glob("*.svgb")) == []


def test_clips_are_adapted_to_with_the_recipe(start_model, flashing, tmp_path):
    arguments = ["--init", str(start_model), "--config", "adapt", "--data-root", str(flashing), "--train", "1s", *QUICK]
    run = start(["svg-train", *arguments], tmp_path)
    assert run.wait() == 0, run.output
    report = json.loads((tmp_path / "run" / "adaptation.json").read_text())
    assert report["recording"] is None
    assert report["sequences"] > 1
    assert "delete" not in run.output
    assert load_checkpoint(tmp_path / "run" / "last.pt").config.data.split_by == "time"


def test_clips_with_fewer_pictures_than_the_model_has_steps_are_refused_with_their_interval(start_model, tmp_path):
    write_video(tmp_path / "slow.mp4", frames=60, fps=4)
    arguments = ["--init", str(start_model), "--config", "adapt", "--data-root", "slow.mp4", "--steps", "1", *QUICK]
    run = start(["svg-train", *arguments], tmp_path)
    assert run.wait() == ExitCode.USAGE
    assert "slow.mp4: at 4 frames per second its frames are 0.25 s apart, too slow for 0.1 s per step" in run.output
    assert "--frame-interval-s 0.25" in run.output
    assert not (tmp_path / "run").exists()
    run = start(["svg-train", *arguments, "--frame-interval-s", "0.25"], tmp_path)
    assert run.wait() == 0, run.output


def configured(monkeypatch, *arguments):
    """The settings with which an adaptation would train."""
    trainers = []

    def remember(**given):
        trainers.append(given)
        raise KeyboardInterrupt

    monkeypatch.setattr(adaptation, "Trainer", remember)
    error = invoke("--config", "adapt", "--steps", "2", *QUICK, *arguments)
    assert trainers, error
    return trainers[0]["config"]


@pytest.mark.parametrize("fps", [12, 15])
def test_a_clip_is_adapted_to_at_the_time_per_step_of_the_model_whatever_its_rate(fps, start_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "clip.mp4", frames=90, fps=fps)
    config = configured(monkeypatch, "--init", start_model, "--data-root", "clip.mp4")
    assert open_data(config, "train", 6).frame_interval_s == 0.1


@pytest.mark.parametrize(("name", "changed"), [("spatial", {}), ("predrnn", {"cell": "convlstm"})])
def test_the_loss_of_a_model_is_adapted_with_as_its_training_ended_with_it(name, changed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "clip.mp4", frames=90)
    start = load_checkpoint(save_tiny(name, tmp_path / "start.pt", channels=3, **changed))
    trained = build_config(start.config.model_dump(), {"train": {"beta": 1e-3, "beta_start": 0.0, "beta_ramp": [2, 3]}})
    save_checkpoint(tmp_path / "start.pt", replace(start, config=trained))
    given = ["--init", "start.pt", "--data-root", "clip.mp4"]
    config = configured(monkeypatch, *given)
    assert [config.train.beta_at(step) for step in (0, 9)] == [1e-3, 1e-3]
    assert configured(monkeypatch, *given, "--resume", "--beta", "0.5").train.beta == 0.5
    if name == "predrnn":
        assert config.model.true_frame_shares(0) == (1.0, 0.0)  # as on the device
        ramp = ["--sampling-ramp", "0", "4"]
        assert configured(monkeypatch, *given, "--resume", *ramp).model.sampling_ramp == (0, 4)


def test_short_clips_are_held_out_at_the_end_of_all_which_is_said_and_kept(start_model, tmp_path, monkeypatch, logged):
    """The last 15 % of 30 pictures are fewer than the 7 that an evaluation needs, of 60 more."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clips").mkdir()
    for number, frames in enumerate((60, 30, 30)):
        write_video(tmp_path / "clips" / f"{number}.mp4", frames)
    given = ["--init", start_model, "--data-root", "clips", "--resume"]
    config = configured(monkeypatch, *given)
    assert config.data.split_by == "end"
    assert "of all clips together, in the order of their names (--split-by end)" in logged.text
    assert configured(monkeypatch, *given, "--split-by", "file").data.split_by == "file"
    begun = build_config(config.model_dump(), {"data": {"split_by": "time"}})  # by an older version
    save_checkpoint(tmp_path / "run" / "last.pt", replace(load_checkpoint(start_model), config=begun, step=1))
    assert configured(monkeypatch, *given).data.split_by == "time"


@pytest.mark.parametrize(
    ("recipe", "options", "interval_s"),
    [
        ("", [], 0.1),
        ("frame_step = 1", [], 0.1),
        ("frame_interval_s = 0.25", [], 0.25),
        ("frame_interval_s = 0.25", ["--frame-interval-s", "0.2"], 0.2),
    ],
)
def test_a_recording_has_the_interval_of_the_recipe(recipe, options, interval_s, start_model, flashing, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.toml").write_text(f"[data]\nsplit_by = 'time'\n{recipe}\n")
    monkeypatch.setattr(adaptation.Recorder, "record", interrupted)
    invoke(*command(start_model, flashing, "--steps", "2", "--config", "own.toml", *options)[1:])
    assert json.loads((tmp_path / "run" / "recording" / "recording.json").read_text())["interval_s"] == interval_s


@pytest.mark.parametrize("setting", ["frame_step = 3", "name = 'digits'", "root = 'clips'", "cache = 'cache'"])
def test_a_recipe_that_is_not_for_a_recording_is_refused_before_it(setting, start_model, flashing, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.toml").write_text(f"[data]\n{setting}\n")
    error = invoke(*command(start_model, flashing, "--steps", "1", "--config", "own.toml")[1:])
    assert f"the recipe 'own.toml' sets data.{setting.split()[0]}, but a recording is kept in --out" in str(error)
    assert getattr(error, "exit_code", None) == ExitCode.USAGE
    assert [path.name for path in tmp_path.iterdir()] == ["own.toml"]


def test_a_killed_adaptation_goes_on_where_it_was(start_model, flashing, tmp_path):
    given = command(start_model, flashing, "--train", "3s")
    run = start(given, tmp_path)
    wait_until(lambda: (tmp_path / "run" / "last.pt").exists())
    run.process.kill()
    run.process.join()
    recorded = (tmp_path / "run" / "recording" / "000001.mp4").stat().st_mtime_ns
    again = start(given, tmp_path)
    assert again.wait() == ExitCode.USAGE
    assert "continue with the same command and --resume" in again.output
    other = start([*given, "--resume", "--lr", "1e-4"], tmp_path)
    assert other.wait() == ExitCode.USAGE
    assert "train.lr: saved 0.001, given 0.0001" in other.output
    alone = start(["svg-train", "--out", "run", "--resume"], tmp_path)
    assert alone.wait() == ExitCode.USAGE
    assert "is an adaptation\n  continue it with the command that started it and --resume" in alone.output
    (tmp_path / "run").rename(tmp_path / "moved")
    resumed = start([*given, "--resume", "--out", "moved"], tmp_path)
    assert resumed.wait() == 0, resumed.output
    assert (tmp_path / "moved" / "recording" / "000001.mp4").stat().st_mtime_ns == recorded  # it was complete
    steps = [json.loads(line)["step"] for line in (tmp_path / "moved" / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps)


def test_a_recording_that_was_stopped_goes_on(start_model, tmp_path):
    given = ["svg-train", "--init", str(start_model), "--source", "synthetic://digits", "--record", "200h", "--train", "1s"]
    run = start([*given, *QUICK], tmp_path)
    wait_until(lambda: (tmp_path / "run" / "recording" / "000001.mp4").exists())
    os.kill(run.process.pid, signal.SIGTERM)
    assert run.wait() == ExitCode.INTERRUPTED
    assert "continue with the same command and --resume" in run.output
    before = json.loads((tmp_path / "run" / "recording" / "recording.json").read_text())["recorded_s"]
    given[given.index("200h")] = f"{before + 2:.0f}s"
    resumed = start([*given, *QUICK, "--resume"], tmp_path)
    assert resumed.wait() == 0, resumed.output
    assert before + 1 <= json.loads((tmp_path / "run" / "recording" / "recording.json").read_text())["recorded_s"] <= before + 3


def test_no_other_command_touches_a_folder_that_is_recorded_into(start_model, tmp_path):
    given = ["svg-train", "--init", str(start_model), "--source", "synthetic://digits", "--record", "200h", *QUICK]
    run = start(given, tmp_path)
    wait_until(lambda: any((tmp_path / "run" / "recording").glob(".*.mp4")))  # a segment in progress
    for other in (given, [*given, "--resume"], ["svg-train", "--out", "run", "--delete-recording"]):
        refused = start(other, tmp_path)
        assert refused.wait() == ExitCode.ERROR
        assert "another process writes to 'run'" in refused.output
    os.kill(run.process.pid, signal.SIGINT)
    assert run.wait() == ExitCode.INTERRUPTED, run.output
    assert (tmp_path / "run" / "recording" / "000001.mp4").exists()


@pytest.mark.parametrize(
    ("data", "begun"),
    [(["--source", "synthetic://digits", "--record", "200h"], "recording"), (["--data-root", "CLIP"], "last.pt")],
)
def test_of_two_commands_that_start_at_once_one_is_refused(data, begun, start_model, flashing, tmp_path):
    given = ["svg-train", "--init", str(start_model), "--config", "adapt", "--train", "1h", *QUICK]
    given += [str(flashing) if part == "CLIP" else part for part in data]
    runs = [start(given, tmp_path) for _ in range(2)]
    wait_until(lambda: any(run.process.exitcode is not None for run in runs) and (tmp_path / "run" / begun).exists())
    refused, other = sorted(runs, key=lambda run: run.process.exitcode is None)
    assert refused.wait() == ExitCode.ERROR, refused.output
    assert "another process writes to 'run'" in refused.output
    os.kill(other.process.pid, signal.SIGINT)
    assert other.wait() == ExitCode.INTERRUPTED, other.output


def test_a_recording_that_another_command_begins_meanwhile_is_not_called_damaged(start_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    configure = adaptation._configuration
    with ExitStack() as others:

        def begin(request):
            (tmp_path / "run" / "recording").mkdir(parents=True)
            (tmp_path / "run" / "recording" / ".recording.partial-1.json").touch()
            others.enter_context(held_by_another_process(tmp_path / "run"))
            return configure(request)

        monkeypatch.setattr(adaptation, "_configuration", begin)
        error = invoke("--init", start_model, "--source", "synthetic://digits", "--record", "200h", *QUICK)
        assert "another process writes to 'run'" in str(error)


def test_a_refused_resume_keeps_the_model_of_the_run_in_progress(start_model, flashing, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "adaptation.json").write_text('{"stage": "training"}')
    (run / "ckpt.pt").write_bytes(b"its first model")
    with held_by_another_process(run):
        refused = start(command(start_model, flashing, "--steps", "2", "--resume"), tmp_path)
        assert refused.wait() == ExitCode.ERROR
    assert "another process writes to 'run'" in refused.output
    assert (run / "ckpt.pt").read_bytes() == b"its first model"
    assert sorted(path.name for path in run.iterdir()) == ["adaptation.json", "ckpt.pt"]


def model_alone(folder: Path, start_model: Path) -> Path:
    """A folder with a model in it that is the user's only copy."""
    folder.mkdir()
    return Path(shutil.copyfile(start_model, folder / "ckpt.pt"))


@pytest.mark.parametrize("resume", [[], ["--resume"]])
@pytest.mark.parametrize("stage", [None, "recording", "comparing"])
@pytest.mark.parametrize("recorded", [True, False])
def test_a_model_that_this_adaptation_has_not_saved_is_refused_and_kept(
    resume, stage, recorded, start_model, flashing, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    other = model_alone(tmp_path / "run", start_model)
    if stage is not None:
        write_stage(tmp_path / "run", stage)
    before = {path: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    data = ["--source", flashing, "--record", "12s"] if recorded else ["--data-root", flashing]
    for model in (start_model, other):
        error = invoke("--init", model, "--config", "adapt", *data, *QUICK, "--steps", "2", *resume)
        assert getattr(error, "exit_code", None) == ExitCode.USAGE
        if resume or stage is None:
            assert (
                "already contains a model, ckpt.pt, but no last.pt to continue from\n  start again with another --out"
                in str(error)
            )
    assert {path: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before


def test_the_model_that_an_adaptation_starts_from_is_never_taken_for_its_own(start_model, flashing, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = model_alone(tmp_path / "run", start_model)
    (tmp_path / "link.pt").symlink_to(own)
    write_stage(tmp_path / "run", "training")  # killed before its first save
    for given in (own, "link.pt"):
        error = invoke("--init", given, "--config", "adapt", "--data-root", flashing, *QUICK, "--steps", "2", "--resume")
        assert f"--init '{given}' would be replaced by the run in 'run'\n  choose another --out" in str(error)
        assert getattr(error, "exit_code", None) == ExitCode.USAGE
    assert own.read_bytes() == start_model.read_bytes()


@pytest.mark.parametrize("stage_of_kill", ["training", "recording"])
def test_an_adaptation_that_was_killed_before_its_first_save_begins_again(
    stage_of_kill, start_model, flashing, tmp_path, monkeypatch
):
    """The service always says --resume. The recording may go on first: with a longer --record."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "ckpt.pt").write_bytes(b"the model of an evaluation before the first save")
    write_stage(tmp_path / "run", "training")
    given = command(start_model, flashing, "--steps", "1", "--resume")[1:]
    if stage_of_kill == "recording":
        with monkeypatch.context() as patch:
            patch.setattr(adaptation.Recorder, "record", interrupted)
            invoke(*given)
        assert json.loads((tmp_path / "run" / "adaptation.json").read_text())["stage"] == "recording"
    assert invoke(*given) is None
    assert load_checkpoint("run/ckpt.pt").step == 1


def interrupted(*given, **named):
    raise KeyboardInterrupt


def test_a_run_that_is_no_adaptation_is_not_recorded_into(start_model, flashing, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model_alone(tmp_path / "run", start_model).rename(tmp_path / "run" / "last.pt")
    for more in ([], ["--resume"]):
        error = invoke(*command(start_model, flashing, "--steps", "2", *more)[1:])
        assert "already contains a run that is not an adaptation\n  choose another --out" in str(error)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["last.pt"]


def test_the_report_does_not_replace_what_the_adaptation_goes_on_from(start_model, flashing, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("adaptation.json", "recording/recording.json", "run.svgb/manifest.json"):
        error = invoke(*command(start_model, flashing, "--steps", "1", "--json", f"run/{name}")[1:])
        assert f"--json would overwrite 'run/{name}'" in str(error)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("", r"--data-root does not apply to the data 'digits', .*\n  digits are the default; .* add --config video,"),
        ("--init START", r"--data-root does not apply to the data 'digits', .*\n.*; for clips of your own add --config adapt,"),
        ("--data digits", r"--data-root does not apply to the data 'digits', .*\n  remove it, or choose one of these with"),
        ("--init a.svgb", r"'a\.svgb' is a bundle: graphs, not a checkpoint\n"),
        ("--init START --config adapt --data video --num-digits 3", "--num-digits does not apply to the data 'video'"),
    ],
)
def test_data_options_that_do_not_fit_are_named_as_they_were_given(options, message, start_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.svgb").mkdir()
    Path("a.svgb/manifest.json").touch()
    given = [str(start_model) if option == "START" else option for option in options.split()]
    assert re.match(message, str(invoke("--data-root", "clips", *given)))


@pytest.fixture(scope="module")
def stopped(start_model, flashing, tmp_path_factory) -> tuple[Path, list[str]]:
    """An adaptation that was stopped while it trained, and its command."""
    folder, given = tmp_path_factory.mktemp("stopped"), command(start_model, flashing, "--train", "1h")
    run = start(given, folder)
    wait_until(lambda: (folder / "run" / "last.pt").exists())
    os.kill(run.process.pid, signal.SIGINT)
    assert run.wait() == ExitCode.INTERRUPTED, run.output
    return folder, given


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--source", "synthetic://digits", r"flashing\.mp4 at 0\.1 s per picture, not of synthetic://digits at 0\.1 s\n"),
        ("--record", "2h", r"--record 7200 s is longer than what 'run' trains on: 12 s\n  give the same --record"),
    ],
)
def test_once_training_began_another_recording_is_refused(option, value, message, stopped, tmp_path):
    given = [*stopped[1], "--resume"]
    given[given.index(option) + 1] = value
    shutil.copytree(stopped[0] / "run", tmp_path / "run")
    facts = tmp_path / "run" / "recording" / "recording.json"
    facts.write_text(facts.read_text().replace('"ended": true', '"ended": false'))  # as of a camera
    run = start(given, tmp_path)
    assert run.wait() == ExitCode.USAGE
    assert re.search(message, run.output), run.output


def test_a_stopped_run_whose_recording_was_deleted_says_so(stopped, tmp_path):
    shutil.copytree(stopped[0] / "run", tmp_path / "run")
    assert start(["svg-train", "--out", "run", "--delete-recording"], tmp_path).wait() == 0
    for more in ([], ["--resume"]):
        run = start([*stopped[1], *more], tmp_path)
        assert run.wait() == ExitCode.USAGE
        assert "has no recording to go on with: it was deleted, or there was none\n  start a new one with another" in run.output


def test_a_clip_that_is_too_short_is_refused_before_the_training(start_model, tmp_path):
    write_video(tmp_path / "short.mp4", frames=12)
    for more in ([], ["--resume"]):
        run = start(command(start_model, tmp_path / "short.mp4", "--steps", "2", *more), tmp_path)
        assert run.wait() == ExitCode.USAGE  # with which its service leaves it alone
        assert "short.mp4 ended after 1.2 s: too short to adapt to\n  expected at least" in run.output
        assert "deleted with: svg-train --out run --delete-recording" in run.output
        assert "training" not in run.output


def test_a_camera_that_is_away_when_its_recording_is_to_go_on_says_what_is_kept(start_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Recording(tmp_path / "run" / "recording", RecordedSource.of(SourceOptions(camera=99)), 0.1, 10**9)
    write_stage(tmp_path / "run", "recording")
    error = invoke("--init", start_model, "--source", "/dev/video99", "--resume")
    assert "camera 99: it cannot be opened" in str(error)
    assert str(error).endswith("\n  what was recorded is kept\n  continue with the same command and --resume")
    assert getattr(error, "exit_code", None) == ExitCode.SOURCE_LOST


@pytest.fixture(scope="module")
def noise(tmp_path_factory) -> Path:
    """Twelve seconds of noise, of which less than five fit a recording of 100 kB."""
    path = tmp_path_factory.mktemp("noise") / "noise.mp4"
    draw = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "10", "preset": "ultrafast"})
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for _ in range(120):
            picture = draw.integers(0, 255, (64, 64, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def test_a_limit_that_leaves_too_little_is_named_and_a_larger_one_records_again(start_model, noise, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(adaptation_options, "_LEAST_LIMIT", "1kB")
    given = command(start_model, noise, "--steps", "1")[1:]
    for more in ([], ["--resume"], ["--resume", "--record", "10s"]):
        error = invoke(*given, "--record-limit", "100kB", *more)
        assert getattr(error, "exit_code", None) == ExitCode.USAGE
        assert str(error).startswith(f"--record-limit 0.1 MB is too small: of {noise}, it left too little to adapt to: 12 s, ")
        assert "expected at least 4.7 s: the last 15% are held out, and an evaluation needs" in str(error)
        assert "record it again with a larger --record-limit and --resume, or with another --out" in str(error)
        assert "--data-root" not in str(error)
    assert invoke(*given, "--record-limit", "1GB", "--resume") is None
    recorded = json.loads((tmp_path / "run" / "adaptation.json").read_text())["recording"]
    assert (recorded["recorded_s"], recorded["kept_s"]) == (pytest.approx(12), pytest.approx(12))


def test_the_report_tells_what_is_kept_from_what_was_recorded(start_model, noise, tmp_path, monkeypatch, logged):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(adaptation_options, "_LEAST_LIMIT", "1kB")
    small = ["--record-limit", "100kB", "--eval-horizon", "1", "--n-future", "2", "--test-fraction", "0.4"]
    assert invoke(*command(start_model, noise, "--steps", "1")[1:], *small) is None
    recorded = json.loads((tmp_path / "run" / "adaptation.json").read_text())["recording"]
    videos = (tmp_path / "run" / "recording").glob("*.mp4")
    assert recorded["recorded_s"] == pytest.approx(12)
    assert recorded["kept_s"] == pytest.approx(sum(len(read_times(video)) for video in videos) / 10)
    assert recorded["kept_s"] < 6
    assert re.search(r"recorded 12 s, of which the last \d s are kept, 0\.1 MB", logged.text)


def test_a_camera_that_is_not_there_leaves_nothing_behind(start_model, tmp_path):
    run = start(["svg-train", "--init", str(start_model), "--source", "/dev/video99"], tmp_path)
    assert run.wait() == ExitCode.SOURCE_LOST
    assert "camera 99: it cannot be opened" in run.output
    assert list(tmp_path.iterdir()) == []


def test_the_recording_is_deleted_by_the_command_that_is_shown(adapted, tmp_path):
    shutil.copytree(adapted[0] / "run", tmp_path / "run")
    run = start(["svg-train", "--out", "run", "--delete-recording"], tmp_path)
    assert run.wait() == 0, run.output
    assert run.output.startswith("deleted ")
    assert not (tmp_path / "run" / "recording").exists()
    assert list((tmp_path / "run" / "strips").iterdir()) == []
    assert (tmp_path / "run" / "run.svgb").is_dir()
    again = start(["svg-train", "--out", "run", "--delete-recording"], tmp_path)
    assert again.wait() == ExitCode.USAGE
    assert "'run' has no recording" in again.output


def invoke(*arguments: str):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exception


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--source", "a.mp4"], "needs a model to start from"),
        (["--config", "adapt", "--init", "MODEL"], "nothing to adapt to"),
        (["--init", "nowhere"], "no checkpoint 'nowhere': neither a file nor a model of this package"),
        (["--init", "MODEL", "--source", "a.mp4", "--camera", "0"], "both --source and --camera"),
        (["--record", "5m"], "--record without anything to record"),
        (VIEW, "--rotate, --source-flip, --roi without anything to record"),
        (["--init", "MODEL", "--source", "synthetic://digits", "--roi", "5,5"], "--roi 5,5 is not a region"),
        (["--init", "MODEL", "--source", "synthetic://digits", "--camera-size", "64x64"], "apply to cameras at this machine"),
        (["--init", "MODEL", "--source", "synthetic://digits", "--record", "20"], "--record: '20' is not a duration"),
        (["--init", "MODEL", "--source", "synthetic://digits", "--record", "1.4s"], "--record 1.4 s is too short to adapt to"),
        (["--init", "MODEL", "--source", "synthetic://digits", "--record-limit", "1kB"], "expected at least 1MB"),
        (["--init", "MODEL", "--source", "synthetic://digits", "--data-root", "clips"], "a recording is kept in --out"),
        (["--init", "MODEL", "--source", "synthetic://digits", "--processes", "2"], "--processes and an adaptation"),
        (["--init", "MODEL", "--source", "synthetic://digits", "--source-fps", "5"], "--source-fps applies to files"),
        (["--init", "MODEL", "--source", "synthetic://digits", "--data", "digits"], "a recording is kept in --out"),
        (["--steps", "5", "--train", "5s"], "both --steps and --train"),
        (["--train", "soon"], "--train: 'soon' is not a duration"),
        (["--train", "0s"], "--train: '0s' is no time at all; expected a number with its unit, such as 90s"),
        (
            ["--init", "MODEL", "--source", "clip.mp4", "--reconnect", "5"],
            "--reconnect has no effect with a file, which is not waited for\n  remove it",
        ),
        (["--delete-recording"], "'run' has no recording"),
    ],
)
def test_contradictions_are_refused(arguments, message, start_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    error = invoke(*(start_model if argument == "MODEL" else argument for argument in arguments))
    assert message in str(error)
    assert getattr(error, "exit_code", None) == ExitCode.USAGE
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--device", "cuda"], ExitCode.BACKEND_MISSING, "PyTorch finds no GPU"),
        (["--precision", "16-mixed"], ExitCode.USAGE, "--precision 16-mixed needs a GPU"),
        (["--test-fraction", "1"], ExitCode.USAGE, "--test-fraction 1 leaves nothing to train on"),
        (["--split-by", "file"], ExitCode.USAGE, "with its end held out\n  remove --split-by, or --source"),
        (["--state-size", "9"], ExitCode.ERROR, "start from it with: --init start --state-size 4"),
    ],
)
def test_what_training_would_refuse_is_refused_before_the_recording(options, code, message, start_model, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(shipped_models_module, "_FOLDER", start_model.parent)
    monkeypatch.chdir(tmp_path)
    error = invoke("--init", "start", "--source", "synthetic://digits", *options)
    assert message in str(error)
    assert getattr(error, "exit_code", None) == code
    assert list(tmp_path.iterdir()) == []


def test_an_adaptation_that_is_stopped_in_its_comparison_says_how_to_go_on(
    adapted, start_model, flashing, tmp_path, monkeypatch, logged
):
    shutil.copytree(adapted[0] / "run", tmp_path / "run")
    write_stage(tmp_path / "run", "comparing")
    monkeypatch.chdir(tmp_path)

    def interrupted(**given):
        assert given["device"] == "cpu"  # as the command says
        raise KeyboardInterrupt

    monkeypatch.setattr(adaptation, "compare", interrupted)
    invoke(*command(start_model, flashing, *ADAPTED, "--resume")[1:])
    assert "what was recorded and trained is kept\n  continue with the same command and --resume" in logged.text


def test_an_adaptation_that_loses_a_data_loader_says_how_to_go_on(start_model, flashing, tmp_path, monkeypatch):
    def lost(self):
        raise LostLoaderError("a data loader process was lost\n  give fewer --workers\n  continue as a run")

    monkeypatch.setattr(adaptation.Trainer, "run", lost)
    monkeypatch.chdir(tmp_path)
    error = invoke(*command(start_model, flashing, "--steps", "30")[1:])
    assert str(error).endswith("was lost\n  give fewer --workers\n  continue with the same command and --resume")


@pytest.mark.parametrize(
    ("failing", "number", "file", "advice"),
    [
        ("svg_runtime.live.outputs.mp4.H264Stream.flush", errno.ENOSPC, Path("run/recording/000001.mp4"), "free some space"),
        ("svg_runtime.live.outputs.mp4.H264Stream.flush", errno.EACCES, Path("run/recording/000001.mp4"), "make it writable"),
        ("svg_runtime.live.outputs.mp4.H264Stream.flush", errno.EIO, Path("run/recording/000001.mp4"), "check the disk"),
        ("svg_adapt.adaptation.Recording.add", errno.ENOSPC, "recording.json", "free some space"),
    ],
)
def test_a_disk_that_fails_while_it_records_keeps_the_recording_and_says_how_to_go_on(
    failing, number, file, advice, start_model, flashing, tmp_path, monkeypatch
):
    def fail(*given):
        raise OSError(number, os.strerror(number), "recording.json")

    monkeypatch.setattr(failing, fail)
    monkeypatch.chdir(tmp_path)
    error = invoke(*command(start_model, flashing, "--steps", "1")[1:])
    assert str(error) == (
        f"cannot write '{file}': {os.strerror(number)}\n  what was recorded and trained is kept; {advice}\n"
        "  continue with the same command and --resume"
    )
    assert getattr(error, "exit_code", None) == ExitCode.ERROR
    assert (tmp_path / "run" / "recording" / "recording.json").exists()


def test_a_disk_that_is_full_of_decoded_frames_keeps_the_recording_too(start_model, flashing, tmp_path, monkeypatch):
    def fail(*given, **named):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("svg_train.data.video_cache.frames_writer", fail)
    monkeypatch.chdir(tmp_path)
    error = invoke(*command(start_model, flashing, "--steps", "1")[1:])
    assert re.fullmatch(
        r"cannot write decoded frames to the cache folder '.*frames': No space left on device\n"
        r"  what was recorded and trained is kept; free some space\n  continue with the same command and --resume",
        str(error),
    )


def test_an_adaptation_whose_graphs_differ_from_the_model_ends_with_the_code_that_its_service_knows(
    adapted, start_model, flashing, tmp_path, monkeypatch
):
    shutil.copytree(adapted[0] / "run", tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "run.svgb")
    write_stage(tmp_path / "run", "comparing")
    monkeypatch.chdir(tmp_path)

    def differs(**given):
        raise ParityError("the graphs differ")

    monkeypatch.setattr(adaptation, "write_bundle", differs)
    error = invoke(*command(start_model, flashing, *ADAPTED, "--resume")[1:])
    assert getattr(error, "exit_code", None) == ExitCode.PARITY_FAILED
    assert not (tmp_path / "run" / "run.svgb").exists()
    assert re.search(r"Exit codes: .* 3 parity failed", train.__doc__)
    page = (Path(__file__).parents[2] / "docs" / "adapt.md").read_text(encoding="utf-8")
    hopeless = ExitCode.ERROR, ExitCode.USAGE, ExitCode.PARITY_FAILED, ExitCode.BACKEND_MISSING
    assert f"\nRestartPreventExitStatus={' '.join(str(int(code)) for code in hopeless)}\n" in page


def test_the_name_of_a_shipped_model_adapts_it(start_model, tmp_path, monkeypatch):
    monkeypatch.setattr(shipped_models_module, "_FOLDER", start_model.parent)
    assert shipped_models() == {"start": start_model}
    assert find_checkpoint("start") == start_model
    monkeypatch.chdir(tmp_path)
    (tmp_path / "start").mkdir()  # a folder is no checkpoint
    assert find_checkpoint("start") == start_model
    assert "nothing to adapt to" in str(invoke("--init", "start"))
    assert "or one of the models in this package: start" in str(invoke("--init", "other"))
    for recipe, message in {
        "[model]\nn_past = 5\n[train]\nsteps = 1": "nothing to adapt to",
        "[data]\nroot = 'nowhere'": "nowhere' does not exist",
        "[model]\nnf = 2": "differs in shape from this run's",  # a model of its own
    }.items():
        (tmp_path / "own.toml").write_text(recipe)
        assert message in str(invoke("--init", "start", "--config", "own.toml", *QUICK))


CHECK_SHARE = """
import os, threading
from svg_adapt.machine_share import set_niceness, set_threads
set_niceness(7)
import cv2, torch
set_threads(1)
torch.ones(500, 500) @ torch.ones(500, 500)
print(os.getpriority(os.PRIO_PROCESS, 0), torch.get_num_threads(), cv2.getNumThreads(),
      {os.getpriority(os.PRIO_PROCESS, int(task)) for task in os.listdir('/proc/self/task')})
"""


def test_niceness_and_threads_act_on_all_threads():
    done = subprocess.run([sys.executable, "-c", CHECK_SHARE], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split(maxsplit=3) == ["7", "1", "1", "{7}\n"]


def test_the_command_takes_its_niceness(start_model, tmp_path):
    given = [
        "svg-train",
        "--init",
        str(start_model),
        "--source",
        "synthetic://digits",
        "--record",
        "200h",
        "--nice",
        "9",
        *QUICK,
    ]
    run = start(given, tmp_path)
    wait_until(lambda: (tmp_path / "run" / "recording").exists())
    assert os.getpriority(os.PRIO_PROCESS, run.process.pid) == 9
    os.kill(run.process.pid, signal.SIGINT)
    assert run.wait() == ExitCode.INTERRUPTED
