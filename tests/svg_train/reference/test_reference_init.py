"""`svg-train --init` with a checkpoint of the reference implementation."""

from __future__ import annotations

import pytest
import torch
from typer.testing import CliRunner

from benchmarks.reference_networks import build
from svg_adapt.cli import app
from svg_train.checkpoint import CheckpointError, load_checkpoint
from svg_train.reference.checkpoint import load_any_checkpoint
from tests.svg_train.reference.reference_files import OldTorch, write_checkpoint

RUN = "--device cpu --precision 32-true --batch-size 2 --n-past 3 --n-future 2"
EVALUATION = "--eval-sequences 2 --eval-samples 2 --eval-horizon 2"
SHAPE = "--nf 2 --g-dim 6 --z-dim 3 --rnn-size 8"


@pytest.fixture
def reference(tmp_path):
    return write_checkpoint(tmp_path / "model.pth", build(), OldTorch(4), "stream")


def train(*arguments: str):
    return CliRunner().invoke(app, [part for line in (RUN, EVALUATION, *arguments) for part in line.split()])


def test_a_run_starts_from_the_reference_weights_and_trains_them(reference, tmp_path):
    start = load_any_checkpoint(reference).build()
    for lr, moves in (("1e-12", False), ("1e-2", True)):
        out = tmp_path / lr
        result = train(SHAPE, f"--init {reference} --out {out} --steps 2 --warmup-steps 0 --lr {lr}")
        assert result.exit_code == 0, result.exception
        tuned = load_checkpoint(out / "last.pt")
        assert tuned.step == 2
        distance = max(float((tuned.weights[name] - value.detach()).abs().max()) for name, value in start.named_parameters())
        assert (distance > 1e-3) == moves
        assert all(torch.isfinite(value).all() for value in tuned.weights.values())


def test_another_shape_is_refused_with_the_flags_that_fit(reference, tmp_path):
    arguments = "--nf 4 --g-dim 6 --z-dim 3 --rnn-size 16", f"--init {reference} --out {tmp_path / 'run'} --steps 1"
    result = train(*arguments)
    assert isinstance(result.exception, CheckpointError)
    problem, *sizes, then = str(result.exception).splitlines()
    assert f"'{reference}' differs in shape from this run's" in problem
    assert sizes == ["  nf: given 2, expected 4", "  rnn_size: given 8, expected 16"]
    assert then.endswith(f"--init {reference} --nf 2 --rnn-size 8 --skip-lag 1")
    assert not (tmp_path / "run").exists()
    assert train(*arguments, then.partition(": ")[2]).exit_code == 0  # what it advises works


def test_the_flags_that_fit_include_the_users_settings(tmp_path):
    parts = {name: part.state_dict() for name, part in build().items()}
    torch.save({"state_dict": parts}, tmp_path / "weights.pth")
    (tmp_path / "mine.json").write_text('{"n_past": 3, "last_frame_skip": false}')
    given = f"--init {tmp_path / 'weights.pth'} --model-config {tmp_path / 'mine.json'}"
    result = train("--nf 4 --g-dim 6 --z-dim 3 --rnn-size 8", f"{given} --out {tmp_path / 'run'} --steps 1")
    advised = str(result.exception).rpartition("start from it with: ")[2]
    assert advised == f"{given} --nf 2 --skip-lag 1"
    assert train("--g-dim 6 --z-dim 3 --rnn-size 8", f"{advised} --out {tmp_path / 'run'} --steps 1").exit_code == 0
