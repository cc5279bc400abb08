"""The length of a run in steps or in time, and its learning rate; a run in time is resumed with the time that is left."""

from __future__ import annotations

from functools import partial

import pytest

from svg_common.errors import UsageError
from svg_train import train as train_module
from svg_train.checkpoint import load_checkpoint
from svg_train.config import TrainConfig, build_config
from svg_train.run_length import RunLength
from svg_train.saved_run import is_complete
from svg_train.train import StoppedError, Trainer
from tests.svg_train.test_train import CPU, config, stop_after


def test_steps_warm_up_and_decay_to_zero():
    length = RunLength(TrainConfig(steps=10, warmup_steps=3))
    assert [length.learning_rate(step) for step in (0, 2, 3, 4)] == pytest.approx([0.25, 0.75, 1, 6 / 7])
    assert length.learning_rate(10) == 0
    within = RunLength(TrainConfig(steps=4, warmup_steps=6))
    assert [within.learning_rate(step) for step in range(5)] == pytest.approx([1 / 7, 2 / 7, 3 / 7, 0.25, 0])
    assert (length.is_over(9), length.is_over(10), length.steps_from(4)) == (False, True, range(4, 10))


def test_the_learning_rate_of_a_time_follows_the_clock_after_the_warm_up():
    now = [100.0]
    length = RunLength(TrainConfig(duration_s="1m", warmup_steps=3), now=lambda: now[0])
    assert length.learning_rate(10) == 1  # reading data does not count
    length.start()
    assert length.learning_rate(0) == 0.25
    now[0] += 45
    assert length.learning_rate(10) == 0.25
    assert length.share(7) == 0.75
    assert not length.is_over(1 << 30)
    now[0] += 15
    assert length.is_over(7)
    now[0] += 5
    assert length.learning_rate(7) == 0


def test_a_resumed_time_goes_on():
    length = RunLength(TrainConfig(duration_s=60), elapsed_s=50, now=lambda: 0.0)
    length.start()
    assert (length.elapsed_s, length.share(7)) == (50, pytest.approx(5 / 6))


@pytest.mark.parametrize(("given", "seconds"), [("90s", 90), ("1h30m", 5400), (12.5, 12.5), (None, None)])
def test_a_recipe_has_it_as_text_or_in_seconds(given, seconds):
    assert build_config({"train": {"duration_s": given}}).train.duration_s == seconds


@pytest.mark.parametrize("given", ["30", "soon", 0, -1, [30]])
def test_what_is_no_duration_is_refused_by_name(given):
    with pytest.raises(UsageError, match=r"train\.duration_s"):
        build_config({"train": {"duration_s": given}})


def count_seconds_per_step(monkeypatch, step_s: float) -> list[float]:
    """A clock that nothing else moves, unless a test does."""
    now, plain = [100.0], Trainer._train_step

    def train_step(self, frames):
        now[0] += step_s
        plain(self, frames)

    monkeypatch.setattr(Trainer, "_train_step", train_step)
    monkeypatch.setattr(train_module, "RunLength", partial(RunLength, now=lambda: now[0]))
    return now


def test_a_run_in_time_ends_with_an_evaluation_and_can_be_resumed(tmp_path, monkeypatch):
    timed = config(steps=1, duration_s=2.0, eval_every=100_000, save_every=100_000)
    count_seconds_per_step(monkeypatch, 0.5)
    with monkeypatch.context() as stopping:
        stop_after(3, stopping)
        with pytest.raises(StoppedError):
            Trainer(timed, tmp_path / "run", CPU, resume=False).run()
    saved = load_checkpoint(tmp_path / "run" / "last.pt")
    assert saved.step == 3  # more than `steps`, which do not count
    assert saved.training["elapsed_s"] == 1.5
    assert not is_complete(saved)
    evaluation = Trainer(timed, tmp_path / "run", CPU, resume=True).run()
    assert evaluation is not None
    whole = load_checkpoint(tmp_path / "run" / "last.pt")
    assert (whole.step, whole.training["elapsed_s"]) == (4, 2)
    assert whole.training["schedule"]["_last_lr"] == [0]
    with pytest.raises(UsageError, match="is complete"):
        Trainer(timed, tmp_path / "run", CPU, resume=True)


def test_saves_take_little_of_a_time():
    length = RunLength(TrainConfig(duration_s="1h"))
    due = []
    for began_s, ended_s in [(300, 360), (960, 961)]:  # the second one beside an evaluation, which does most of it
        length.note_save(began_s, ended_s)
        for elapsed_s in (ended_s + 599, ended_s + 600):
            length.agree(elapsed_s)
            due.append(length.has_to_be_saved)
    assert due == [False, True] * 2


@pytest.mark.parametrize(("save_s", "steps"), [(0, [3, 5, 8, 10]), (200, [3, 5, 8, 9])])
def test_a_run_in_time_is_saved_every_five_minutes_however_slow_its_steps_are(tmp_path, monkeypatch, save_s, steps):
    saved, save = [], Trainer._save_last
    now = count_seconds_per_step(monkeypatch, 140.0)

    def slow_save(self):
        now[0] += save_s
        saved.append(self._step)
        save(self)

    monkeypatch.setattr(Trainer, "_save_last", slow_save)
    timed = {"steps": 1, "duration_s": 1400.0, "eval_every": 100_000, "save_every": 100_000}
    with monkeypatch.context() as stopping:
        stop_after(5, stopping)
        with pytest.raises(StoppedError):
            Trainer(config(**timed), tmp_path / "run", CPU, resume=False).run()
    Trainer(build_config(), tmp_path / "run", CPU, resume=True).run()
    assert saved == steps  # with those of the stop and of the end
