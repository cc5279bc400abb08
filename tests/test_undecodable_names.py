"""Files whose names are not UTF-8: every command takes them, shows them, and writes its results."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from svg_train.checkpoint import load_checkpoint
from tests.command_runner import Run, start
from tests.svg_runtime.live.live_helpers import write_video

NAME = os.fsdecode(b"na\xff $me$ [b]")  # also what begins a formula in matplotlib, and markup in rich
SHOWN = r"na\xff $me$ [b]"
SMALL = [
    *("--nf", "4", "--g-dim", "16", "--rnn-size", "24", "--z-dim", "4", "--n-past", "3", "--n-future", "2"),
    *("--batch-size", "2", "--eval-sequences", "2", "--eval-samples", "2", "--eval-horizon", "2"),
]


@pytest.fixture
def folder(tmp_path) -> Path:
    try:
        (tmp_path / NAME).mkdir()
    except OSError:
        pytest.skip("this file system takes only UTF-8")
    write_video(tmp_path / NAME / f"{NAME}.mp4", frames=60)
    return tmp_path


def run(folder: Path, *command: str) -> Run:
    run = start(command, folder)
    assert run.wait() == 0, run.output
    assert "Traceback" not in run.output
    return run


def test_live(folder, tiny_bundle):
    shutil.copytree(tiny_bundle, folder / f"{NAME}.svgb")
    for source in (f"{NAME}/{NAME}.mp4", NAME):
        output, json_file = f"{NAME}-o.mp4", f"{NAME}.json"
        command = ["svg-live", "--model", f"{NAME}.svgb", "--source", source, "--backend", "cpu", "--headless"]
        done = run(folder, *command, "--max-frames", "5", "--output", output, "--json", json_file)
        assert f"written: {SHOWN}-o.mp4" in done.output
        statistics = json.loads((folder / json_file).read_text(encoding="utf-8"))
        assert (statistics["model"], statistics["source"]) == (f"{SHOWN}.svgb", source.replace(NAME, SHOWN))
        assert (folder / output).stat().st_size > 1000


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_evaluation(folder, tiny_bundle, suffix):
    shutil.copytree(tiny_bundle, folder / f"_{NAME}.svgb")
    small = ["--backend", "cpu", "--samples", "2", "--sequences", "2", "--horizon", "2", "--data", "digits"]
    outputs = ["--plot", f"{NAME}.{suffix}", "--json", f"{NAME}.json", "--strips", f"{NAME}-strips"]
    done = run(folder, "svg-eval", f"_{NAME}.svgb", "--baseline", f"_{NAME}.svgb", *small, *outputs)
    assert f"model     _{SHOWN}.svgb" in done.output
    assert json.loads((folder / f"{NAME}.json").read_text(encoding="utf-8"))["model"]["name"] == f"_{SHOWN}.svgb"
    assert (folder / f"{NAME}.{suffix}").stat().st_size > 5000
    assert (folder / f"{NAME}-strips" / "overview.png").is_file()


def test_training_goes_on_without_tensorboard(folder):
    data = ["--data", "video", "--data-root", NAME, "--cache", f"{NAME}-cache"]
    command = ["svg-train", *data, *SMALL, "--steps", "2", "--device", "cpu", "--out", f"{NAME}-run", "--json", f"{NAME}.json"]
    done = run(folder, *command)
    assert f"warning: no TensorBoard events: the name of '{SHOWN}-run/tensorboard' is not UTF-8" in done.output
    assert load_checkpoint(folder / f"{NAME}-run" / "ckpt.pt").step == 2
    assert (folder / f"{NAME}-run" / "metrics.jsonl").read_text().count("\n") > 1


@pytest.mark.slow
def test_export(folder, tiny_checkpoint):
    shutil.copy(tiny_checkpoint, folder / f"{NAME}.pt")
    command = ["svg-export", f"{NAME}.pt", "--no-fused", "--no-shuffled"]
    done = run(folder, *command, "--json", f"{NAME}.json", "--save-checkpoint", f"{NAME}-c.pt")
    assert f"svg-live --model '{SHOWN}.svgb'" in done.output
    assert json.loads((folder / f"{NAME}.json").read_text(encoding="utf-8"))["bundle"] == f"{SHOWN}.svgb"
    assert load_checkpoint(folder / f"{NAME}-c.pt")


@pytest.mark.slow
def test_benchmark(folder, tiny_bundle):
    shutil.copytree(tiny_bundle, folder / f"{NAME}.svgb")
    small = ["--backend", "cpu", "--seconds", "0.1", "--samples", "1", "--horizon", "1"]
    done = run(folder, "svg-bench", "--model", f"{NAME}.svgb", *small, "--json", f"{NAME}.json")
    assert f"{SHOWN}.svgb: 1 samples" in done.output
    assert json.loads((folder / f"{NAME}.json").read_text(encoding="utf-8"))["model"] == f"{SHOWN}.svgb"


@pytest.mark.parametrize("command", [["svg-export"], ["svg-eval"], ["svg-live", "--headless", "--source"]])
def test_a_missing_file_is_shown_in_its_message(folder, command):
    done = start([*command, f"missing {NAME}"], folder)
    assert done.wait() in (1, 2)
    assert f"missing {SHOWN}" in done.output
