"""Training end to end on tiny models: resume, stop, divergence, what a run leaves behind."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.precision.amp import MixedPrecision

from svg_common.errors import SvgError, UsageError
from svg_common.signals import stop_signals
from svg_train import loss_scaling, machine
from svg_train import train as train_module
from svg_train.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from svg_train.config import DataConfig, build_config
from svg_train.data import open_data
from svg_train.data.loading import StepSampler, training_loader
from svg_train.evaluation import held_out
from svg_train.families.svg.model import SVG
from svg_train.initial_weights import InitialWeights
from svg_train.machine import Machine
from svg_train.processes import LostLoaderError
from svg_train.train import DivergedError, FullDiskError, StoppedError, Trainer
from tests.command_runner import HANG_S, start, wait_until
from tests.conftest import TINY
from tests.svg_train.test_data_video import write_video

CPU = Machine(device="cpu", precision="32-true")
SETTINGS = {
    "model": {**TINY, "skip_lag": 0},
    "train": {
        "steps": 6, "batch_size": 2, "n_future": 2, "eval_every": 3, "eval_sequences": 3, "eval_samples": 2,
        "eval_horizon": 2, "save_every": 2, "warmup_steps": 2, "ema_decay": 0.5,
    },
}  # fmt: skip


SPATIAL = {"latent": "spatial", "g_dim": 8, "rnn_size": 8}


def config(model=None, **train):
    return build_config(SETTINGS, {"model": model or {}, "train": train})


def losses(folder: Path) -> dict[int, float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if line["kind"] == "train"}


def records(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module", autouse=True)
def _every_step():
    """And measure less of what no test here looks at."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("svg_train.train.LOG_EVERY", 1)
        patch.setattr("svg_train.data.statistics._SEQUENCES", 4)
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """An uninterrupted run of six steps."""
    out = tmp_path_factory.mktemp("run") / "run"
    Trainer(config(), out, CPU, resume=False).run()
    return out


def stop_after(step: int, monkeypatch, *numbers: signal.Signals) -> None:
    """Deliver real signals after `step`, a Ctrl-C unless others are given."""
    original = Trainer._train_step

    def train_step(self, frames):
        original(self, frames)
        if self._step == step:
            for number in numbers or [signal.SIGINT]:
                os.kill(os.getpid(), number)

    monkeypatch.setattr(Trainer, "_train_step", train_step)


def test_run_leaves_checkpoints_metrics_strips_and_tensorboard(finished):
    assert load_checkpoint(finished / "ckpt.pt").build()
    assert load_checkpoint(finished / "last.pt").training is not None
    assert load_checkpoint(finished / "ckpt.pt").frame_interval_s == 0.1
    assert set(losses(finished)) == {1, 2, 3, 4, 5, 6}
    for suffix in ("png", "gif"):
        assert (finished / "strips" / f"step-0000006.{suffix}").stat().st_size > 1000
    assert list((finished / "tensorboard").iterdir())


@pytest.mark.parametrize("model", [pytest.param({}, id="vector"), pytest.param(SPATIAL, id="spatial", marks=pytest.mark.slow)])
def test_training_lowers_the_loss(tmp_path, model):
    Trainer(config(model, steps=30, eval_every=30, lr=3e-3), tmp_path / "run", CPU, resume=False).run()
    run = losses(tmp_path / "run")
    assert sum(run[step] for step in range(26, 31)) < 0.8 * sum(run[step] for step in range(1, 6))


def test_resumed_run_repeats_the_losses_of_an_uninterrupted_one(tmp_path, monkeypatch, finished):
    stop_after(4, monkeypatch)
    with pytest.raises(StoppedError, match="--resume") as caught:
        Trainer(config(), tmp_path / "run", CPU, resume=False).run()
    assert caught.value.exit_code == 130
    monkeypatch.undo()
    monkeypatch.setattr("svg_train.train.LOG_EVERY", 1)
    Trainer(build_config(), tmp_path / "run", CPU, resume=True).run()
    assert losses(tmp_path / "run") == losses(finished)
    resumed, whole = load_checkpoint(tmp_path / "run" / "last.pt"), load_checkpoint(finished / "last.pt")
    for name, value in whole.weights.items():
        assert torch.equal(value, resumed.weights[name]), name
    assert resumed.metrics == whole.metrics


def test_a_resumed_run_keeps_its_interval_whatever_its_options_would_make_of_the_data_now(tmp_path, monkeypatch, finished):
    save_checkpoint(tmp_path / "last.pt", replace(load_checkpoint(finished / "last.pt"), step=3, frame_interval_s=0.25))

    def refuse(config, split, length, trained_s=None):
        raise UsageError(f"{split} at {trained_s} s")

    monkeypatch.setattr("svg_train.train.open_data", refuse)
    with pytest.raises(UsageError, match=r"train at 0\.25 s"):
        Trainer(build_config(), tmp_path, CPU, resume=True).run()


@pytest.mark.parametrize("step", [3, 6], ids=["between", "at the end"])
def test_a_signal_gives_up_an_evaluation_which_the_resumed_run_makes_up_for(tmp_path, monkeypatch, capsys, finished, step):
    def forecast_step(self, **arguments):
        forecast_frames.append(1)
        if trainer._step == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(self, **arguments)

    forecast_frames, plain = [], SVG.forecast_step
    trainer = Trainer(config(), tmp_path / "run", CPU, resume=False)
    with monkeypatch.context() as patch:
        patch.setattr(SVG, "forecast_step", forecast_step)
        with pytest.raises(StoppedError, match=f"stopped at step {step}, saved"):
            trainer.run()
    assert "stopping; this evaluation is left for --resume" in capsys.readouterr().err
    assert len(forecast_frames) == (1 if step == 3 else 3)  # of two per evaluation
    assert not (tmp_path / "run" / "strips" / f"step-{step:07d}.png").exists()
    Trainer(build_config(), tmp_path / "run", CPU, resume=True).run()
    assert records(tmp_path / "run") == records(finished)
    resumed, whole = (load_checkpoint(folder / "last.pt") for folder in (tmp_path / "run", finished))
    assert (resumed.step, resumed.metrics) == (6, whole.metrics)
    assert all(torch.equal(value, resumed.weights[name]) for name, value in whole.weights.items())


def test_a_resumed_run_keeps_its_precision_whatever_would_be_chosen_now(tmp_path, monkeypatch, finished, logged):
    stop_after(4, monkeypatch)
    with pytest.raises(StoppedError):
        Trainer(config(), tmp_path / "run", CPU, resume=False).run()
    assert load_checkpoint(tmp_path / "run" / "last.pt").metrics == {}  # those of step 3 are of other weights
    assert load_checkpoint(tmp_path / "run" / "ckpt.pt").metrics
    monkeypatch.undo()
    monkeypatch.setattr("svg_train.train.LOG_EVERY", 1)
    monkeypatch.setattr(machine, "_best_precision", lambda accelerator, measure: "bf16-mixed")
    shutil.copytree(tmp_path / "run", tmp_path / "other")
    Trainer(build_config(), tmp_path / "run", Machine(device="cpu"), resume=True).run()
    assert losses(tmp_path / "run") == losses(finished)
    assert "the run began in" not in logged.text
    Trainer(build_config(), tmp_path / "other", Machine(device="cpu", precision="bf16-mixed"), resume=True).run()
    assert "precision: the run began in 32-true; its losses change with it" in logged.text
    assert losses(tmp_path / "other")[6] != losses(finished)[6]


def test_a_precision_that_the_hardware_lacks_is_not_kept(monkeypatch):
    monkeypatch.setattr(machine, "has_bf16", lambda: False)
    kept = [Machine(device="cpu").fabric(began_in)._precision.precision for began_in in ("16-mixed", "bf16-mixed", "32-true")]
    assert kept == ["32-true"] * 3


def in_float16(monkeypatch, **scaler) -> list[torch.amp.GradScaler]:
    """What a GPU without bf16 computes in, on this processor. Returns the scaler of each run that follows."""
    scalers: list[torch.amp.GradScaler] = []

    def fabric(machine: Machine, began_in: str | None = None) -> Fabric:
        scalers.append(torch.amp.GradScaler("cpu", **scaler))
        return Fabric(accelerator="cpu", devices=1, plugins=[MixedPrecision("16-mixed", "cpu", scalers[-1])])

    monkeypatch.setattr(Machine, "fabric", fabric)
    return scalers


def test_a_run_in_float16_skips_steps_that_overflow_and_is_resumed_at_its_scale(tmp_path, monkeypatch):
    scalers = in_float16(monkeypatch, init_scale=2.0**20, growth_interval=3)
    Trainer(config(steps=12, save_every=6, eval_every=12), tmp_path / "whole", CPU, resume=False).run()
    lines = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    norms = [line["grad_norm"] for line in lines if line["kind"] == "train"]
    assert norms[0] is None  # 2^20 is too large
    assert any(norms)
    assert scalers[0].get_scale() < 2.0**20
    with monkeypatch.context() as patch:
        stop_after(6, patch)
        with pytest.raises(StoppedError):
            Trainer(config(steps=12, save_every=6, eval_every=12), tmp_path / "run", CPU, resume=False).run()
    Trainer(build_config(), tmp_path / "run", CPU, resume=True).run()
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")
    assert scalers[2].get_scale() == scalers[0].get_scale()


def test_a_run_in_float16_whose_gradients_are_never_finite_has_diverged(tmp_path, monkeypatch):
    in_float16(monkeypatch, init_scale=2.0**120)
    monkeypatch.setattr(loss_scaling, "_MOST_SKIPPED", 3)
    with pytest.raises(DivergedError, match="gradient is not finite at step 4"):
        Trainer(config(steps=5, eval_every=5), tmp_path / "run", CPU, resume=False).run()


def test_float16_on_a_processor_is_refused():
    with pytest.raises(UsageError, match="16-mixed needs a GPU"):
        Machine(device="cpu", precision="16-mixed").fabric()


def test_held_out_videos_are_all_evaluated_on(tmp_path):
    """`ckpt.pt` is chosen by them: the first sequences alone would be of few files."""
    for number in range(10):
        write_video(tmp_path / f"{number}.avi", frames=40, first=10 * number)
    settings = build_config(SETTINGS, {"data": {"name": "video", "root": str(tmp_path), "cache": str(tmp_path / "cache")}})
    data = open_data(settings, "test", 5)
    files = {data.clip_source(index) for index in range(len(data))}
    assert len(files) > 1
    chosen = held_out(data, len(files))
    assert len({int(value) for value in chosen[0].float().mean((1, 2, 3)) // 10}) == len(files)


def test_a_closed_terminal_saves_also_where_it_signals_twice(tmp_path, monkeypatch):
    stop_after(4, monkeypatch, signal.SIGHUP, signal.SIGHUP)
    with pytest.raises(StoppedError):
        Trainer(config(), tmp_path / "run", CPU, resume=False).run()
    assert load_checkpoint(tmp_path / "run" / "last.pt").step == 4


def test_other_seed_gives_other_losses(tmp_path, finished):
    Trainer(config(seed=1, steps=1), tmp_path / "run", CPU, resume=False).run()
    assert losses(tmp_path / "run")[1] != losses(finished)[1]


def test_divergence_stops_and_keeps_the_last_good_checkpoint(tmp_path, monkeypatch):
    original = Trainer._train_step

    def poisoned(self, frames):
        if self._step == 4:
            with torch.no_grad():
                self._raw.prior.mu.bias.fill_(float("nan"))
        original(self, frames)

    monkeypatch.setattr(Trainer, "_train_step", poisoned)
    with pytest.raises(DivergedError, match="step 5"):  # which is not in metrics.jsonl
        Trainer(config(), tmp_path / "run", CPU, resume=False).run()
    saved = load_checkpoint(tmp_path / "run" / "last.pt")
    assert saved.step == 4
    assert all(torch.isfinite(value).all() for value in saved.weights.values() if value.is_floating_point())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"eval_every": 1}, "the held-out forecasts are not finite at step 1"),
        ({"eval_every": 9, "ema_decay": 0.0}, "loss or gradient is not finite at step 2"),
        ({"eval_every": 9}, "weights are not finite after step 1"),
    ],
    ids=["metrics", "loss", "averaged weights"],
)
def test_a_run_that_diverges_at_once_saves_nothing_as_good(change, message, tmp_path):
    settings = config(lr=1e30, warmup_steps=0, save_every=1, steps=9, **{"ema_decay": 0.5, **change})
    with pytest.raises(DivergedError, match=rf"{message}.*\n  no good checkpoint was saved; start again"):
        Trainer(settings, tmp_path / "run", CPU, resume=False).run()
    assert not (tmp_path / "run" / "ckpt.pt").exists()
    for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)  # NaN is no JSON


def test_a_weight_that_no_forecast_needs_is_checked_before_it_is_saved(tmp_path, monkeypatch):
    original = Trainer._train_step

    def poisoned(self, frames):
        original(self, frames)
        if self._step == 4:
            with torch.no_grad():
                self._raw.posterior.mu.bias.fill_(float("inf"))

    monkeypatch.setattr(Trainer, "_train_step", poisoned)
    with pytest.raises(DivergedError, match=r"weights are not finite after step 4\n  the last good checkpoint is kept in"):
        Trainer(config(), tmp_path / "run", CPU, resume=False).run()
    assert load_checkpoint(tmp_path / "run" / "last.pt").step == 2


def test_a_run_is_written_where_a_link_leads_though_nothing_is_there_yet(tmp_path):
    (tmp_path / "run").symlink_to("disk/run")
    Trainer(config(steps=1), tmp_path / "run", CPU, resume=False).run()
    assert load_checkpoint(tmp_path / "disk" / "run" / "last.pt").step == 1


@pytest.mark.parametrize("appears", [False, True])
def test_existing_run_is_not_overwritten(appears, finished, tmp_path, monkeypatch):
    """It is refused before the data is decoded, which may take hours. Meanwhile another command may make one."""
    opened = []

    def open_slowly(*given):
        opened.append(given)
        if not (tmp_path / "run").exists():
            shutil.copytree(finished, tmp_path / "run")
        return open_data(*given)

    if not appears:
        shutil.copytree(finished, tmp_path / "run")
    monkeypatch.setattr("svg_train.train.open_data", open_slowly)
    with pytest.raises(UsageError, match="already contains a run"):
        Trainer(config(), tmp_path / "run", CPU, resume=False).run()
    assert bool(opened) is appears
    assert (tmp_path / "run" / "ckpt.pt").read_bytes() == (finished / "ckpt.pt").read_bytes()


@pytest.mark.parametrize(("score", "kept"), [(99.0, True), (-99.0, False)])
def test_a_run_that_was_killed_after_its_last_save_does_not_lose_a_better_model(score, kept, tmp_path, monkeypatch, finished):
    """The model is saved at evaluations, the state to continue from at others, so a kill leaves them of different steps."""
    with monkeypatch.context() as patch:
        stop_after(4, patch)
        with pytest.raises(StoppedError):
            Trainer(config(), tmp_path / "run", CPU, resume=False).run()
    better = load_checkpoint(finished / "ckpt.pt")
    save_checkpoint(tmp_path / "run" / "ckpt.pt", replace(better, metrics={**better.metrics, "psnr_best": score}))
    before = (tmp_path / "run" / "ckpt.pt").read_bytes()
    Trainer(config(), tmp_path / "run", CPU, resume=True).run()
    assert ((tmp_path / "run" / "ckpt.pt").read_bytes() == before) == kept


def test_metrics_of_something_else_are_not_replaced_by_a_new_run(tmp_path):
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text('{"epoch": 1, "accuracy": 0.9}\n')
    with pytest.raises(UsageError, match=r"metrics\.jsonl' would be replaced, but is not from svg-train: (?s:.*)another --out"):
        Trainer(config(), tmp_path, CPU, resume=False).run()
    assert metrics.read_text() == '{"epoch": 1, "accuracy": 0.9}\n'
    metrics.write_text('{"kind": "train", "step": 100, "loss": 0.5}\n{"kind": "tr')  # killed before its first save
    Trainer(config(steps=1), tmp_path, CPU, resume=False).run()
    assert set(losses(tmp_path)) == {1}


def test_a_run_that_was_killed_before_its_first_save_cannot_go_on_and_says_what_can(tmp_path, finished):
    shutil.copy(finished / "ckpt.pt", tmp_path)
    advice = "start again with another --out, from this model with: --init"
    with pytest.raises(CheckpointError, match=f"ended before its first save(?s:.*){advice}"):
        Trainer(config(), tmp_path, CPU, resume=True)
    with pytest.raises(UsageError, match=advice):
        Trainer(config(), tmp_path, CPU, resume=False).run()


def test_a_disk_that_is_full_after_a_save_is_no_end_of_the_run(tmp_path, monkeypatch):
    def write(folder, name, *rest):
        raise OSError(errno.ENOSPC, "No space left on device", str(folder / name))

    with monkeypatch.context() as patch:
        patch.setattr("svg_train.train.save_strips", write)
        with pytest.raises(FullDiskError, match=r"No space left(?s:.*)free some space, then continue(?s:.*)--resume"):
            Trainer(config(steps=4, eval_every=3, save_every=2), tmp_path / "run", CPU, resume=False).run()
    Trainer(config(), tmp_path / "run", CPU, resume=True).run()
    assert load_checkpoint(tmp_path / "run" / "last.pt").step == 4


@pytest.mark.parametrize(
    ("every", "advice"),
    [(1, r"continue from the last save with: svg-train --out \S*run --resume"), (100, "start again: nothing was saved yet")],
)
def test_a_data_loader_that_was_killed_ends_the_run_with_what_to_do(tmp_path, monkeypatch, every, advice):
    def train_step(self, frames):
        original(self, frames)
        if self._step == 2:
            os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
            wait_until(lambda: False)  # PyTorch raises in whatever is running

    original = Trainer._train_step
    monkeypatch.setattr(Trainer, "_train_step", train_step)
    machine = replace(CPU, workers=1)
    lost = (
        rf"a data loader process was lost: DataLoader worker \(pid \d+\) is killed by signal: Killed\n.*--workers\n  {advice}"
    )
    with pytest.raises(LostLoaderError, match=lost):
        Trainer(config(save_every=every, eval_every=100), tmp_path / "run", machine, resume=False).run()


def test_init_starts_from_the_weights_of_another_run(tmp_path, finished):
    Trainer(config(steps=1, lr=1e-12, ema_decay=0.0), tmp_path / "run", CPU, resume=False, init=finished / "ckpt.pt").run()
    start, tuned = load_checkpoint(finished / "ckpt.pt"), load_checkpoint(tmp_path / "run" / "last.pt")
    for name, value in start.build().named_parameters():
        torch.testing.assert_close(tuned.weights[name], value.detach(), atol=1e-6, rtol=0)
    assert tuned.step == 1


def test_average_of_a_run_that_starts_from_trained_weights_leaves_them_slowly(tmp_path, finished):
    sizes = config(steps=4, lr=0.01, ema_decay=0.999, warmup_steps=0)
    Trainer(sizes, tmp_path / "run", CPU, resume=False, init=finished / "ckpt.pt").run()
    start, tuned = load_checkpoint(finished / "ckpt.pt"), load_checkpoint(tmp_path / "run" / "last.pt")
    assert tuned.training is not None
    for name, _ in start.build().named_parameters():
        averaged, trained = (weights[name] - start.weights[name] for weights in (tuned.weights, tuned.training["weights"]))
        assert averaged.abs().max() < 0.01 * max(1e-4, float(trained.abs().max())), name


def test_init_notes_another_rule_in_the_first_process_alone(tmp_path, finished, monkeypatch, logged):
    other, init = config({"skip_lag": 1}), finished / "ckpt.pt"
    monkeypatch.setenv("LOCAL_RANK", "1")
    Trainer(other, tmp_path / "run", CPU, resume=False, init=init)
    assert "another rule" not in logged.text
    monkeypatch.setenv("LOCAL_RANK", "0")
    Trainer(other, tmp_path / "run", CPU, resume=False, init=init)
    assert f"note: this run forecasts by another rule than the model in '{init}':\n  skip_lag: 0 there, 1 here" in logged.text


def test_init_notes_another_time_per_step(tmp_path, finished, logged):
    init, ours = tmp_path / "start.pt", {"data": {"name": "digits", "frame_interval_s": 0.102}}
    for trained_s, noted in ((0.2, True), (0.1, False), (None, False)):
        logged.clear()
        save_checkpoint(init, replace(load_checkpoint(finished / "ckpt.pt"), frame_interval_s=trained_s))
        run = Trainer(build_config(SETTINGS, ours), tmp_path / "run", CPU, resume=False, init=init)
        run._open()
        run._lock.release()
        note = f"note: this run has other steps than the model in '{init}': 0.2 s there, 0.102 s here\n"
        assert (f"{note}  keep them with: --frame-interval-s 0.2" in logged.messages) == noted
        assert ("other steps" in logged.text) == noted
    InitialWeights(init, {}, 0.2).note_other_interval(0.1, DataConfig(name="video", frame_step=3))
    assert logged.messages[-1].endswith("keep them with: --frame-interval-s 0.2 in place of --frame-step")


def test_init_from_another_shape_is_refused(tmp_path, finished):
    other = build_config(SETTINGS, {"model": {"nf": 5}})
    with pytest.raises(CheckpointError, match=r"given .*, expected"):
        Trainer(other, tmp_path / "run", CPU, resume=False, init=finished / "ckpt.pt").run()


@pytest.mark.parametrize("part", ["weights", "optimizer"])
def test_a_training_state_that_does_not_fit_its_model_is_refused(part, tmp_path, finished):
    content = torch.load(finished / "last.pt", weights_only=True)
    table = content["training"][part]
    del table[next(iter(table))]
    (tmp_path / "run").mkdir()
    torch.save({**content, "step": 4}, tmp_path / "run" / "last.pt")
    with pytest.raises(CheckpointError, match=r"run/last\.pt' does not fit its model .*\n.*--init .*ckpt\.pt"):
        Trainer(build_config(), tmp_path / "run", CPU, resume=True).run()


def test_complete_run_cannot_be_resumed(finished):
    with pytest.raises(UsageError, match="complete"):
        Trainer(build_config(), finished, CPU, resume=True)


def train_one_more_step(step, monkeypatch, resume=True, settings=None, out=Path("run")):
    with monkeypatch.context() as patch:
        stop_after(step, patch)
        with pytest.raises(StoppedError):
            Trainer(settings or build_config(), out, CPU, resume=resume).run()


@pytest.mark.parametrize(
    ("name", "level", "message"),
    [
        ("b.avi", 0, r"was trained on video: 1 file with .*\n  found video: 2 files with .*\n.*--init run/ckpt\.pt"),
        ("a.avi", 60, r"was trained on other frames\n.*--init run/ckpt\.pt"),
    ],
    ids=["more", "other"],
)
def test_a_run_is_resumed_on_the_same_data_alone_wherever_they_are(tmp_path, monkeypatch, name, level, message):
    before, after = tmp_path / "before", tmp_path / "after"
    before.mkdir()
    monkeypatch.chdir(before)
    write_video(Path("a.avi"))
    data = {"name": "video", "root": ".", "cache": str(tmp_path / "cache")}
    train_one_more_step(2, monkeypatch, False, build_config(SETTINGS, {"data": data, "train": {"eval_every": 1}}))
    assert list(Path("run/strips").iterdir())  # among the clips
    before.rename(after)
    monkeypatch.chdir(after)
    train_one_more_step(3, monkeypatch)

    write_video(Path(name), first=level)
    with pytest.raises(UsageError, match=message):
        Trainer(build_config(), Path("run"), CPU, resume=True).run()
    content = torch.load("run/last.pt", weights_only=True)
    assert content["step"] == 3
    older = {name: value for name, value in content["training"].items() if name != "data_files"}
    torch.save({**content, "training": older, "training_data": None}, "run/last.pt")  # as of older versions
    train_one_more_step(4, monkeypatch)


def one_scene(path: Path, seed: int, moment: int = 0) -> None:
    """A clip of a fixed camera: a bright yard, in which a small thing moves."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=10, options={"qscale": "2"})
        stream.width = stream.height = 32
        stream.pix_fmt = "yuvj420p"
        for tick in range(24):
            picture = np.full((32, 32, 3), 150, np.uint8)
            place = (seed * 5 + tick + moment) % 28
            picture[place : place + 4, place : place + 4] = 90
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


@pytest.fixture
def scenes(tmp_path, monkeypatch) -> Path:
    """Six clips of one camera, of which a stopped run holds one out: scene-3."""
    monkeypatch.chdir(tmp_path)
    clips = tmp_path / "clips"
    clips.mkdir()
    for number in range(6):
        one_scene(clips / f"scene-{number}.avi", number)
    data = {"name": "video", "root": str(clips), "cache": str(tmp_path / "cache")}
    settings = build_config(SETTINGS, {"data": data, "train": {"eval_every": 1}})
    assert {file.name for file in open_data(settings, "test", 4).files} == {"scene-3.avi"}
    train_one_more_step(1, monkeypatch, False, settings)
    return clips


def test_a_clip_that_was_held_out_is_not_trained_on_after_its_name_was_exchanged(scenes):
    first, held = scenes / "scene-0.avi", scenes / "scene-3.avi"
    first.rename(scenes / "between")
    held.rename(first)
    (scenes / "between").rename(held)
    with pytest.raises(UsageError, match=r"'run' was trained on other files, or in another order\n.*--init run/ckpt\.pt"):
        Trainer(build_config(), Path("run"), CPU, resume=True).run()


def test_a_held_out_copy_of_a_clip_is_named(tmp_path, scenes, logged, monkeypatch):
    settings = load_checkpoint("run/last.pt").config
    train_one_more_step(1, monkeypatch, False, settings, Path("none"))
    assert "copies" not in logged.text
    shutil.copyfile(scenes / "scene-0.avi", scenes / "scene-3.avi")
    train_one_more_step(1, monkeypatch, False, settings, Path("one"))
    assert logged.text.count("copies of videos that are trained on: 1 of 1 held-out video, such as ") == 1
    assert "scene-3.avi' of '" in logged.text


def test_a_clip_that_is_cut_may_be_the_copy_of_one_that_is_trained_on(scenes, logged, monkeypatch):
    settings = build_config(load_checkpoint("run/last.pt").config.model_dump(), {"data": {"split_by": "end"}})
    assert [(part.source.name, part.first > 0) for part in open_data(settings, "test", 4).parts] == [("scene-5.avi", True)]
    shutil.copyfile(scenes / "scene-0.avi", scenes / "scene-5.avi")
    train_one_more_step(1, monkeypatch, False, settings, Path("cut"))
    assert logged.text.count("copies of videos that are trained on: 1 of 1 held-out video, such as ") == 1
    assert "scene-5.avi' of '" in logged.text
    assert list(load_checkpoint("cut/last.pt").trained_clips.values()) == [24] * 4


def test_held_out_clips_that_the_start_was_trained_on_are_named_and_known_later(scenes, logged, monkeypatch):
    settings = load_checkpoint("run/last.pt").config
    one_scene(scenes / "scene-0b.avi", 9)  # held out is 2 instead of 3 now
    with monkeypatch.context() as patch:
        stop_after(1, patch)
        with pytest.raises(StoppedError):
            Trainer(settings, Path("new"), CPU, resume=False, init=Path("run/last.pt")).run()
    assert logged.text.count("the model in 'run/last.pt' was trained on frames of 1 of 1 held-out clip, such as '") == 1
    assert len(load_checkpoint("new/last.pt").trained_clips) == 7
    train_one_more_step(2, monkeypatch, out=Path("new"))
    assert len(load_checkpoint("new/last.pt").trained_clips) == 7


def test_a_clip_that_is_added_while_the_data_is_read_is_not_trained_on_and_held_out(scenes, monkeypatch):
    settings = load_checkpoint("run/last.pt").config

    def open_slowly(config, split, *given):
        if split == "test":
            one_scene(scenes / "scene-0b.avi", 9)
        return open_data(config, split, *given)

    monkeypatch.setattr(train_module, "open_data", open_slowly)
    with pytest.raises(SvgError, match=r"scene-2\.avi' would be trained on and held out: the clips have changed while"):
        Trainer(settings, Path("new"), CPU, resume=False).run()


def test_another_clip_in_place_of_the_held_out_one_is_refused(scenes):
    shutil.copyfile(scenes / "scene-0.avi", scenes / "scene-3.avi")
    with pytest.raises(UsageError, match=r"'run' held out other files\n.*--init run/ckpt\.pt"):
        Trainer(build_config(), Path("run"), CPU, resume=True).run()


def test_copies_of_the_clips_under_other_names_are_the_same_data(scenes, monkeypatch):
    """Neither folder, times nor names count, as long as the order stays."""
    shutil.copytree(scenes, "elsewhere", copy_function=shutil.copyfile)
    for file in Path("elsewhere").iterdir():
        file.rename(file.with_name(f"yard-{file.name}"))
    shutil.rmtree(scenes)
    stop_after(2, monkeypatch)
    with pytest.raises(StoppedError):
        Trainer(build_config(), Path("run"), CPU, resume=True, places={"root": "elsewhere"}).run()


def test_a_run_of_an_earlier_version_is_resumed_and_knows_its_files_then(scenes, monkeypatch):
    content = torch.load("run/last.pt", weights_only=True)
    assert set(content["training"].pop("data_files")) == {"train", "test"}
    assert list(content.pop("trained_clips").values()) == [24] * 5
    known = content["training_data"]
    known["description"] = known["description"].replace("5 files", "5 file(s)")
    assert "5 file(s)" in known["description"]
    torch.save(content, "run/last.pt")
    train_one_more_step(2, monkeypatch)
    assert set(load_checkpoint("run/last.pt").training["data_files"]) == {"train", "test"}
    assert len(load_checkpoint("run/last.pt").trained_clips) == 5


def test_where_the_data_of_a_resumed_run_are_is_refused_by_the_name_of_the_option(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    content = torch.load(tmp_path / "run" / "last.pt", weights_only=True)
    torch.save({**content, "step": 4}, tmp_path / "run" / "last.pt")
    with pytest.raises(UsageError, match="--data-root does not apply to the data 'digits'"):
        Trainer(build_config(), tmp_path / "run", CPU, resume=True, places={"root": "clips"})


def test_a_run_is_resumed_where_its_data_are_now(tmp_path):
    (tmp_path / "before").mkdir()
    write_video(tmp_path / "before" / "a.avi")
    sizes = [f"--{name.replace('_', '-')}={value}" for table in SETTINGS.values() for name, value in table.items()]
    data = ["--data=video", f"--data-root={tmp_path / 'before'}", "--cache=cache"]
    run = start(["svg-train", *sizes, *data, "--steps=100000", "--eval-every=100000"], tmp_path)
    wait_until(lambda: (tmp_path / "run" / "last.pt").exists())
    run.process.terminate()
    assert run.wait() == 130, run.output
    (tmp_path / "before").rename(tmp_path / "after")
    lost = start(["svg-train", "--resume"], tmp_path)
    assert lost.wait() == 2
    assert "correct --data-root" in lost.output
    last = tmp_path / "run" / "last.pt"
    saved = last.stat().st_mtime_ns
    moved = start(["svg-train", "--resume", "--data-root=after", "--cache=new"], tmp_path)
    wait_until(lambda: last.stat().st_mtime_ns > saved or moved.process.exitcode is not None)
    moved.process.terminate()
    assert moved.wait() == 130, moved.output
    now = load_checkpoint(tmp_path / "run" / "last.pt").config.data
    assert (now.root, now.cache) == ("after", "new")
    assert list((tmp_path / "new").iterdir())


@pytest.mark.parametrize("model", [{}, SPATIAL], ids=["vector", "spatial"])
def test_bf16_mixed_precision_runs(tmp_path, model):
    Trainer(config(model, steps=1), tmp_path / "run", Machine(device="cpu", precision="bf16-mixed"), resume=False).run()
    assert load_checkpoint(tmp_path / "run" / "last.pt").weights["prior.mu.bias"].dtype == torch.float32


@pytest.mark.parametrize(
    ("units", "bf16_s", "expected"),
    [(True, 0.5, "bf16-mixed"), (True, 1.0, "bf16-mixed"), (True, 1.5, "32-true"), (False, 0.5, "32-true")],
)
def test_a_processor_trains_in_bf16_where_it_has_units_for_it_that_are_faster(monkeypatch, units, bf16_s, expected):
    clock = 0.0

    def conv2d(*inputs, **options):
        nonlocal clock
        clock += bf16_s if torch.is_autocast_enabled("cpu") else 1.0
        return convolved(*inputs, **options)

    convolved = torch.nn.functional.conv2d
    monkeypatch.setattr(torch.nn.functional, "conv2d", conv2d)
    monkeypatch.setattr(machine, "time", SimpleNamespace(perf_counter=lambda: clock))
    monkeypatch.setattr(machine, "has_bf16", lambda: units)
    monkeypatch.setattr(machine, "_bf16_pays", machine._bf16_pays.__wrapped__)  # measured anew
    torch.manual_seed(7)
    assert Machine("cpu").fabric().strategy.precision.precision == expected
    assert torch.rand(1) == torch.rand(1, generator=torch.Generator().manual_seed(7))  # a seed of before counts


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "cuda:", "cpu:1", "auto:0", "tpu"])
def test_unknown_device_is_a_usage_error(device):
    with pytest.raises(UsageError, match="expected auto"):
        Machine(device=device).fabric()


def test_kl_weight_is_annealed_between_the_ramp_steps():
    train = build_config({"train": {"beta": 5e-4, "beta_start": 1e-4, "beta_ramp": [10, 20]}}).train
    assert [train.beta_at(step) for step in (0, 10, 15, 20, 99)] == pytest.approx([1e-4, 1e-4, 3e-4, 5e-4, 5e-4])
    assert build_config({"train": {"beta": 2e-4}}).train.beta_at(3) == 2e-4
    at_once = build_config({"train": {"beta": 5e-4, "beta_start": 0.0, "beta_ramp": [10, 10]}}).train
    assert [at_once.beta_at(step) for step in (0, 9, 10, 99)] == [0, 0, 5e-4, 5e-4]
    with pytest.raises(UsageError, match="in ascending order"):
        build_config({"train": {"beta_start": 1e-4, "beta_ramp": [20, 10]}})


def test_batches_depend_on_the_step_alone_and_ranks_share_them_out():
    def steps(start, **options):
        return list(StepSampler(10, 3, range(start, 8), seed=5, **options))

    assert steps(0)[4:] == steps(4)
    one = [index for batch in StepSampler(12, 4, range(3), 5) for index in batch]
    assert sorted(one) == list(range(12))  # an epoch visits each once
    ranks = [list(StepSampler(12, 4, range(3), 5, rank, 2)) for rank in range(2)]
    assert [a + b for a, b in zip(*ranks, strict=True)] == list(StepSampler(12, 4, range(3), 5))


@pytest.mark.parametrize("start", ["fork", pytest.param("forkserver", marks=pytest.mark.slow)])
def test_signals_to_all_processes_end_no_data_loader_and_are_the_training_s_to_report(monkeypatch, capfd, start):
    """A terminal, torchrun and a service manager send them to all; the training needs its batches until it ends itself."""
    monkeypatch.setattr(multiprocessing.context._default_context, "_actual_context", multiprocessing.get_context(start))
    data = open_data(config(), "train", 4)
    batches = iter(training_loader(data, StepSampler(len(data), 2, range(100), seed=0), workers=1, pin_memory=False))
    old = {number: signal.signal(number, lambda *given: os.write(2, b"stopping\n")) for number in stop_signals()}
    try:
        next(batches)
        (loader,) = multiprocessing.active_children()
        for number in old:
            subprocess.run(["kill", f"-{number.value}", str(loader.pid)], check=True)
        for _ in range(9):  # more than were on their way
            next(batches)
        assert loader.is_alive()
        loader.terminate()
        loader.join(60)
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
    assert loader.exitcode == 0
    assert "stopping" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--steps", "0"], 2, "--steps"),
        (["--lr", "0"], 2, "'--lr'"),
        (["--channels", "3"], 2, "channels must be 1"),
        (["--config", "nowhere.toml"], 2, "unknown recipe 'nowhere.toml'"),
        (["--resume", "--lr", "1"], 2, "--resume continues"),
        (["--resume", "--data-root", "clips", "--data", "video"], 2, "all settings but --data-root and --cache"),
        (
            ["--resume"],
            1,
            "there is no run in 'run': no last.pt\n  expected the --out of a run; start a new one",
        ),
        (["--data", "video"], 2, "--data-root"),
        (["--bogus"], 2, "bogus"),
        (["--json", "run/ckpt.pt"], 2, "--json would overwrite 'run/ckpt.pt'"),
        (["--out", "/dev/null/run", "--steps", "1"], 1, "/dev/null/run"),
    ],
)
def test_mistakes_get_one_message_and_the_documented_code(tmp_path, arguments, code, message):
    run = start(["svg-train", *arguments], tmp_path)
    assert (run.wait(), "Traceback" in run.output) == (code, False), run.output
    assert message in run.output


def test_two_processes_share_one_run_also_in_a_job_of_slurm(tmp_path):
    tiny = {key.replace("_", "-"): value for key, value in {**SETTINGS["model"], **SETTINGS["train"], "steps": 2}.items()}
    flags = [part for key, value in tiny.items() for part in (f"--{key}", str(value))]
    script = tmp_path / "svg-train"  # as it is installed: the launcher starts the same script again for the second process
    script.write_text("from svg_adapt.cli import main\n\nmain()\n")
    command = [sys.executable, script, "--processes", "2", "--device", "cpu", "--precision", "32-true"]
    job = {"SLURM_NTASKS": "1", "SLURM_JOB_NAME": "train", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}
    result = subprocess.run(
        [*command, *flags], cwd=tmp_path, env={**os.environ, **job}, capture_output=True, text=True, timeout=180
    )
    assert result.returncode == 0, result.stderr
    assert len(losses(tmp_path / "run")) == 2  # written once, by the first process
    assert result.stdout.count("best model: run/ckpt.pt") == 1
    names = load_checkpoint(tmp_path / "run" / "last.pt").build().state_dict().keys()
    assert not any(name.startswith("module.") for name in names)


def test_missing_torch_names_the_extra(tmp_path):
    block = "import sys; sys.modules['torch'] = None; from svg_adapt.cli import main; main()"
    result = subprocess.run([sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert result.returncode == 4
    assert "svg-edge[train]" in result.stderr
    assert "Traceback" not in result.stderr


def test_ctrl_c_of_the_command_saves_and_exits_130(tmp_path):
    recipe = tmp_path / "tiny.toml"
    tables = {
        "model": SETTINGS["model"],
        "train": {**SETTINGS["train"], "steps": 100000, "eval_every": 100000, "save_every": 100000},
    }
    recipe.write_text("".join(f"[{t}]\n" + "".join(f"{k} = {v}\n" for k, v in values.items()) for t, values in tables.items()))
    command = [sys.executable, "-c", "from svg_adapt.cli import main; main()", "--config", str(recipe), "--device", "cpu"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    metrics = tmp_path / "run" / "metrics.jsonl"
    wait_until(lambda: metrics.exists() and metrics.read_text(), timeout_s=2 * HANG_S)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert "--resume" in stderr
    assert load_checkpoint(tmp_path / "run" / "last.pt").training is not None
