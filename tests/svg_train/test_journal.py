"""The record of a run that is resumed."""

from __future__ import annotations

import json

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from svg_train.journal import Journal

KEPT = ['{"kind": "train", "step": 1, "loss": 0.5}', '{"kind": "eval", "step": 3, "psnr_best": 20.5}']


@pytest.mark.parametrize(
    "damage",
    [b'{"kind": "tr', b"\xff\xfe\x00", b"[1, 2]", b'{"step": "2"}', b'{"step": [1]}', b"[" * 100_000, b'{"kind": "train"}'],
    ids=["cut short", "not text", "a list", "a step in quotes", "a list as step", "nested beyond Python's limit", "no step"],
)
def test_a_resumed_run_drops_damaged_lines_and_those_of_later_steps(tmp_path, damage):
    """A damaged disk or a killed run must not cost the run."""
    file = tmp_path / "metrics.jsonl"
    later = b'{"kind": "train", "step": 4, "loss": 0.4}'
    file.write_bytes(b"\n".join([KEPT[0].encode(), damage, KEPT[1].encode(), later]))
    with Journal(tmp_path, total_steps=10, start_step=3) as journal:
        journal.record("train", 5, {"loss": 0.3})
    lines = file.read_text().splitlines()
    assert lines[:2] == KEPT
    assert [json.loads(line)["step"] for line in lines] == [1, 3, 5]


def test_numbers_that_are_not_finite_are_null(tmp_path):
    with Journal(tmp_path, total_steps=1, start_step=0) as journal:
        journal.record("eval", 1, {"psnr_best": float("nan"), "spread": float("inf"), "gain": 0.5})
    line = (tmp_path / "metrics.jsonl").read_text()
    assert line == '{"kind": "eval", "step": 1, "psnr_best": null, "spread": null, "gain": 0.5}\n'


def test_tensorboard_keeps_what_was_written_up_to_the_step_at_which_a_run_was_saved(tmp_path):
    with Journal(tmp_path, total_steps=60, start_step=0) as journal:
        for step in (20, 40, 50):
            journal.record("train", step, {"loss": 1 / step})
    with Journal(tmp_path, total_steps=60, start_step=40) as journal:
        journal.record("train", 60, {"loss": 1 / 60})
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [event.step for event in events.Scalars("train/loss")] == [line["step"] for line in lines] == [20, 40, 60]
