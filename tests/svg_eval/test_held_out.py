"""Held-out sequences are those of the training, at its interval, in svg-eval, the quality gate and the recalibration alike."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from svg_common.errors import SvgError, UsageError
from svg_eval.data import check_unseen, open_held_out
from svg_eval.models import checkpoint_info
from svg_export import precision, recalibrate
from svg_train.checkpoint import Checkpoint
from svg_train.config import Config, build_config
from svg_train.data import open_data
from svg_train.data.statistics import files_fingerprint
from svg_train.data.trained_clips import trained_clips
from tests.svg_train.test_data_video import write_video

MODEL = {"n_past": 2, "channels": 1, "image_size": 64}
HORIZON = 3
FUTURE = 20  # frames of training, which the short clips do not have


def write_clips(folder: Path) -> Path:
    """Two short clips at 10 frames per second, and five at 30 that a longer training sequence takes the interval from."""
    folder.mkdir()
    for name in ("a1", "a2"):
        write_video(folder / f"{name}.avi", frames=20, fps=10)
    for name in "bcdef":
        write_video(folder / f"{name}.avi", frames=40, fps=30)
    return folder


def write_pictures(folder: Path, frames: int) -> Path:
    folder.mkdir(parents=True)
    for number in range(frames):
        cv2.imwrite(str(folder / f"{number:03d}.png"), np.full((64, 64), 2 * number, np.uint8))
    return folder


def trained_on(root: Path, n_future: int = FUTURE, **data) -> Checkpoint:
    """A checkpoint as `svg-train` would write it, without weights."""
    table = {"name": "video", "root": str(root), "cache": str(root.parent / "cache"), **data}
    config = build_config({"model": MODEL, "train": {"n_future": n_future}, "data": table})
    return Checkpoint(config, {}, frame_interval_s=open_data(config, "train", config.sequence_length).frame_interval_s)


def trained_clips_of(config: Config) -> dict[str, int]:
    """What `svg-train` would store."""
    train, test = (open_data(config, split, config.sequence_length) for split in ("train", "test"))
    return trained_clips(train, files_fingerprint(train), test, files_fingerprint(test))


def held_out(checkpoint: Checkpoint, horizon: int = HORIZON, **given):
    info = checkpoint_info("model", checkpoint, "")
    data = open_held_out(info, given, None, horizon)
    check_unseen([info], data, split_options=True)
    return data


def names(data) -> set[str]:
    return {file.name for file in data.files}


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    return write_clips(tmp_path_factory.mktemp("mixed") / "clips")


@pytest.fixture(scope="module")
def mixed(clips) -> Checkpoint:
    """A training whose interval is that of the clips that are long enough for it."""
    return trained_on(clips)


def test_nothing_is_evaluated_on_that_was_trained_on(mixed):
    seen = names(open_data(mixed.config, "train", mixed.config.sequence_length))
    unseen = names(open_data(mixed.config, "test", mixed.config.sequence_length))
    assert seen | unseen == {f"{name}.avi" for name in "bcdef"}
    data = held_out(mixed)
    assert names(data) == unseen
    assert not names(data) & seen
    assert data.frame_interval_s == mixed.frame_interval_s == pytest.approx(1 / 30)


@pytest.mark.parametrize("split_by", ["file", "time", "end"])
def test_held_out_clips_that_were_trained_on_are_named_once_their_folder_has_others(split_by, tmp_path, logged, monkeypatch):
    root = tmp_path / "clips"
    root.mkdir()
    for number in range(6):
        write_video(root / f"{number}.avi", frames=40, first=number)
    checkpoint = trained_on(root, n_future=3, split_by=split_by)
    checkpoint = replace(checkpoint, trained_clips=trained_clips_of(checkpoint.config))
    held_out(checkpoint)
    shutil.copytree(root, tmp_path / "same")
    held_out(checkpoint, root=str(tmp_path / "same"))
    write_video(root / "0b.avi", frames=40, first=9)  # held out, by their order, is 2 instead of 3
    (tmp_path / "others").mkdir()
    for frames in (60, 70):
        write_video(tmp_path / "others" / f"{frames}.avi", frames)
    held_out(checkpoint, root=str(tmp_path / "others"))
    assert "was trained on" not in logged.text
    held_out(checkpoint)
    moved = "model was trained on frames of 1 of 1 held-out clip, such as "
    assert (moved in logged.text) == (split_by == "file")
    assert ("; and --split-by and --test-fraction as in its training" in logged.text) == (split_by == "file")
    held_out(checkpoint, test_fraction=1)
    assert f"model was trained on frames of {6 if split_by == 'time' else 5} of 7 held-out clips" in logged.text
    info = checkpoint_info("model", checkpoint, "")
    data, strange = open_held_out(info, {"test_fraction": 1.0}, None, HORIZON), replace(info, trained_clips={})
    with pytest.raises(
        UsageError, match=r"of 7 held-out clips(?s:.*)those of the training alone, as --data-root, with --resume"
    ):
        check_unseen([info, strange], data, refuse=True)
    check_unseen([info, info], data, refuse=True)  # what its start was trained on was said when it was trained
    monkeypatch.setattr(precision, "HORIZON", HORIZON)
    monkeypatch.setattr(precision, "MIN_SEQUENCES", 1)
    precision.find_held_out(checkpoint, {"test_fraction": 1.0})
    assert logged.messages[-1].startswith("the model was trained on frames of ")
    assert logged.messages[-1].endswith("or with others alone, as --data-root")  # svg-export has no --split-by


def test_the_quality_gate_is_on_the_same_clips_as_the_evaluation(mixed, monkeypatch):
    monkeypatch.setattr(precision, "MIN_SEQUENCES", 1)
    gate = precision.find_held_out(mixed, {}).data
    evaluated = held_out(mixed, precision.HORIZON)
    assert gate.description == evaluated.description
    assert names(gate) == names(open_data(mixed.config, "test", mixed.config.sequence_length))


def test_the_quality_gate_is_on_all_clips(tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "SEQUENCES", 4)
    root = tmp_path / "films"
    for name in "abcd":
        write_pictures(root / name, frames=60)
    trained = trained_on(root, n_future=precision.HORIZON, split_by="file", test_fraction=0.5)
    monkeypatch.setattr(precision, "MIN_SEQUENCES", 1)
    gate = precision.find_held_out(trained, {})
    measured = [gate.data.clip_source(number).name for number in range(gate.settings.sequences)]
    assert len(set(measured)) == 2
    assert [measured.count(name) for name in set(measured)] == [2, 2]


def test_a_recalibration_is_on_the_same_clips_as_the_training(mixed, clips, monkeypatch):
    opened = []
    monkeypatch.setattr(Checkpoint, "build", lambda self: recalibrate.nn.BatchNorm2d(1))

    def select(data, count):
        opened.append(data)
        raise SvgError("far enough")

    monkeypatch.setattr(recalibrate, "_select_sequences", select)
    with pytest.raises(SvgError, match="far enough"):
        recalibrate.recalibrate_checkpoint(mixed, {"name": "video", "root": str(clips)}, 16)
    assert names(opened[0]) == names(open_data(mixed.config, "train", mixed.config.sequence_length))


def test_a_bundle_is_evaluated_at_its_interval_on_what_its_training_held_out(mixed, clips):
    known = {"name": "video", "frame_interval_s": mixed.frame_interval_s}  # by a bundle
    info = replace(checkpoint_info("bundle", mixed, ""), data=known)
    data = open_held_out(info, {"root": str(clips), "cache": str(clips.parent / "cache")}, None, HORIZON)
    assert names(data) == names(open_data(mixed.config, "test", mixed.config.sequence_length))
    assert data.frame_interval_s == mixed.frame_interval_s


@pytest.mark.parametrize(("given", "interval_s"), [({"frame_step": 2}, 2 / 30), ({"frame_interval_s": 0.1}, 0.1)])
def test_the_users_time_base_is_obeyed(mixed, given, interval_s):
    assert held_out(mixed, test_fraction=0.5, **given).frame_interval_s == pytest.approx(interval_s)


def test_other_clips_are_read_at_the_models_interval(tmp_path):
    (tmp_path / "slow").mkdir()
    write_video(tmp_path / "slow/a.avi", frames=60, fps=10)
    checkpoint = trained_on(tmp_path / "slow", n_future=4)
    (tmp_path / "fast").mkdir()
    write_video(tmp_path / "fast/a.avi", frames=120, fps=30)
    assert held_out(checkpoint, root=str(tmp_path / "fast")).frame_interval_s == pytest.approx(0.1)
    many = write_pictures(tmp_path / "pictures", 60)
    checkpoint = replace(checkpoint, frame_interval_s=0.04)
    assert held_out(checkpoint, root=str(many)).frame_interval_s == pytest.approx(0.04)  # pictures are one step apart


@pytest.mark.parametrize("fps", [12, 15])
def test_a_clip_alone_is_measured_at_the_time_that_it_has_among_others(tmp_path, fps):
    (tmp_path / "trained").mkdir()
    write_video(tmp_path / "trained/a.avi", frames=60, fps=10)
    checkpoint = trained_on(tmp_path / "trained", n_future=4)
    (tmp_path / "odd").mkdir()
    write_video(tmp_path / "odd/a.avi", frames=60, fps=fps)
    odd = {"root": str(tmp_path / "odd"), "test_fraction": 1.0}
    alone, asked_for = held_out(checkpoint, **odd), held_out(checkpoint, **odd, frame_interval_s=0.1)
    write_video(tmp_path / "odd/b.avi", frames=120, fps=25)
    among = held_out(checkpoint, **odd)
    assert alone.frame_interval_s == pytest.approx(0.1)
    assert asked_for.frame_interval_s == 0.1
    for data in (alone, asked_for):
        np.testing.assert_array_equal(data[0], among[0])


def test_a_model_whose_interval_was_rounded_is_measured_at_what_it_was_trained_at(tmp_path):
    """As older versions did: 0.1 s are one and a half frames of this clip, which made two."""
    (tmp_path / "clips").mkdir()
    write_video(tmp_path / "clips/a.avi", frames=60, fps=15)
    checkpoint = replace(trained_on(tmp_path / "clips", n_future=4, frame_interval_s=0.1), frame_interval_s=2 / 15)
    assert held_out(checkpoint, test_fraction=1.0).frame_interval_s == pytest.approx(2 / 15)


@pytest.mark.parametrize("options", [{"frame_step": 2}, {"frame_step": 2, "frame_interval_s": 0.5}, {"source_fps": 4.0}])
def test_pictures_keep_the_rate_that_they_had_in_training(tmp_path, options):
    write_pictures(tmp_path / "pictures/one", 80)
    checkpoint = trained_on(tmp_path / "pictures", n_future=4, **options)
    trained = open_data(checkpoint.config, "test", 2 + HORIZON)
    data = held_out(checkpoint)
    assert data.description == trained.description
    np.testing.assert_array_equal(data[0], trained[0])


def test_pictures_that_were_left_out_of_training_move_no_clip(tmp_path):
    clips = write_clips(tmp_path / "clips")
    write_pictures(clips / "c1", 60)
    write_pictures(clips / "e1", 60)
    checkpoint = trained_on(clips)  # pictures, 10 a second, have none for every step
    assert held_out(checkpoint).description == open_data(checkpoint.config, "test", 2 + HORIZON).description


def test_what_only_training_does_restricts_no_crop(clips):
    moving = trained_on(clips, crop=(0.5, 0.8), camera_motion=0.25)
    assert held_out(moving, crop=(1.0, 1.0))[0].shape == (MODEL["n_past"] + HORIZON, 64, 64, 1)
