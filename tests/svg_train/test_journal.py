"""The record of a run that is resumed."""

from __future__ import annotations

import json

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from svg_train import journal as journal_module
from svg_train.journal import Journal, _continue_at, foreign_line
from tests.file_size import file_size_limit

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


def test_a_full_disk_costs_a_resumed_run_none_of_its_record(tmp_path):
    file = tmp_path / "metrics.jsonl"
    later = '{"kind": "train", "step": 4, "loss": 0.4}'
    file.write_text("".join(f"{line}\n" for line in [*KEPT, later]))
    with file_size_limit(0), pytest.raises(OSError, match=r"metrics\.jsonl"):
        Journal(tmp_path, total_steps=10, start_step=3)
    assert file.read_text().splitlines() == [*KEPT, later]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_record_from_which_no_line_has_to_go_is_left_alone(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_text("".join(f"{line}\n" for line in KEPT))
    before = file.stat()
    with Journal(tmp_path, total_steps=10, start_step=3):
        assert (file.stat().st_ino, file.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert file.read_text().splitlines() == KEPT


def test_an_evaluation_that_a_run_owes_is_not_kept_twice(tmp_path):
    """It was recorded when the run was continued, and lost with the next kill, before it was saved."""
    made_up = '{"kind": "eval", "step": 3, "psnr": 20.0}'
    (tmp_path / "metrics.jsonl").write_text("".join(f"{line}\n" for line in [KEPT[0], made_up]))
    for owes, expected in ((False, [KEPT[0], made_up]), (True, KEPT[:1])):
        with Journal(tmp_path, total_steps=10, start_step=3, owes_evaluation=owes):
            assert (tmp_path / "metrics.jsonl").read_text().splitlines() == expected


def test_the_record_of_another_run_is_not_continued_by_a_new_one(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(KEPT[0] + "\n")
    with Journal(tmp_path, total_steps=10, start_step=0):
        assert (tmp_path / "metrics.jsonl").read_text() == ""


@pytest.mark.parametrize(
    ("content", "number"),
    [
        ("", None),
        ("".join(f"{line}\n" for line in KEPT), None),
        (KEPT[0] + '\n{"kind": "tr', None),  # killed
        ('{"ki', None),
        (KEPT[0] + "\n\0\0", None),
        (KEPT[0] + '\n{"loss', 2),
        (KEPT[0], None),
        ('{"loss": 0.5}\n', 1),  # of another program
        (KEPT[0] + '\n{"step": 2, "loss": 0.5}', 2),
        ('{"kind": "export", "step": 1}\n', 1),
        ('{"kind": "export", "step": 1}', 1),
        ('{"kind": "train", "step": "1"}\n', 1),
        ("[1]\n" + KEPT[0], 1),
        ("notes\n", 1),
        (KEPT[0] + "\n\n" + KEPT[1], 2),
    ],
)
def test_lines_of_something_else_are_told_from_those_of_a_run(content, number):
    assert foreign_line(content) == number


def test_a_journal_that_cannot_be_opened_leaves_no_file_open(tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr(journal_module, "_continue_at", lambda *given: opened.append(_continue_at(*given)) or opened[0])
    (tmp_path / "tensorboard").touch()  # no folder for its events
    with pytest.raises(OSError, match="tensorboard"):
        Journal(tmp_path, total_steps=10, start_step=3)
    assert opened[0].closed


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
