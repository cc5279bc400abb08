"""KTH from small .avi files in its published layout: persons, frame ranges, interval, and what may be missing or wrong."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from svg_adapt.cli import app
from svg_common.errors import SvgError, UsageError
from svg_train.checkpoint import load_checkpoint
from svg_train.config import build_config
from svg_train.data import open_data
from svg_train.data.kth import CLASSES
from svg_train.data.kth_ranges import read_ranges
from tests.refused import refused
from tests.svg_train.test_data_pictures import write_pictures

LENGTH = 6
PREFACE = """
This database contains sequences of six classes of actions performed by
25 subjects in four different conditions (see below).

Training:   person11, 12, 13, 14, 15, 16, 17, 18
Test:       person22, 02, 03, 05, 06, 07, 08, 09, 10

"""


def write_clip(root: Path, clip: str, frames: int = 20, mark: int = 0, fps: int = 25) -> Path:
    """A lossless clip of 160x120 gray pixels: the left half has the level `mark`, the right half of frame i the level 3 i."""
    path = root / clip.split("_")[1] / f"{clip}_uncomp.avi"
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=fps)
        stream.width, stream.height, stream.pix_fmt = 160, 120, "gray"
        for i in range(frames):
            image = np.full((120, 160), 3 * i, np.uint8)
            image[:, :80] = mark
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="gray")))
        container.mux(stream.encode())
    return path


def write_ranges(root: Path, *lines: str) -> Path:
    path = root / "00sequences.txt"
    path.write_text(PREFACE + "\n".join(lines) + "\n")
    return path


@pytest.fixture
def root(tmp_path) -> Path:
    (tmp_path / "kth").mkdir()
    return tmp_path / "kth"


def config_of(root: Path, channels: int = 1, image_size: int = 64, **data):
    source = {"name": "kth", "root": str(root), "cache": str(root.parent / "cache"), **data}
    model = {"n_past": 2, "channels": channels, "image_size": image_size}
    return build_config({"model": model, "train": {"n_future": 4}, "data": source})


def open_kth(root: Path, split: str, length: int = LENGTH, **options):
    return open_data(config_of(root, **options), split, length)


def numbers(sequence) -> list[int]:
    """Frame numbers of `write_clip`, from 1 as the ranges count."""
    return (np.median(sequence[:, :, 40:], (1, 2, 3)).astype(int) // 3 + 1).tolist()


def all_numbers(data) -> list[list[int]]:
    return [numbers(data[i]) for i in range(len(data))]


def marks(data, count: int | None = None) -> set[int]:
    """The marks of the clips that the (first `count`) sequences are from."""
    return {int(np.median(data[i][:, :, :24])) for i in range(count or len(data))}


def test_persons_decide_the_split(root):
    for person in (1, 20, 21, 25):
        write_clip(root, f"person{person:02d}_jogging_d2", mark=person)
    train, test = open_kth(root, "train"), open_kth(root, "test")
    assert (marks(train), marks(test)) == ({1, 20}, {21, 25})
    assert train[0].shape == (LENGTH, 64, 64, 1)
    assert train[0].dtype == np.uint8
    assert type(train[0]) is np.ndarray
    assert train.frame_interval_s == pytest.approx(0.04)
    assert train.description == (
        "kth: 2 clips of 2 persons and 1 action with 40 train frames, 0.04 s per step, 30 sequences of 6"
    )


def test_train_takes_every_start_and_test_few_in_a_mixed_order(root):
    write_clip(root, "person01_boxing_d1", 30)
    write_clip(root, "person22_boxing_d1", 80)
    train, test = open_kth(root, "train"), open_kth(root, "test", 4)
    assert all_numbers(train) == [list(range(i, i + LENGTH)) for i in range(1, 26)]
    windows = all_numbers(test)
    assert sorted(windows) == [list(range(i, i + 4)) for i in range(1, 78, 4)]
    assert windows != sorted(windows)
    assert all_numbers(open_kth(root, "test", 4)) == windows


def test_the_first_test_sequences_show_many_actions(root):
    for mark, action in enumerate(CLASSES[:4]):
        write_clip(root, f"person23_{action}_d1", 24, mark=mark)
    test = open_kth(root, "test")
    assert len(test) == 16
    assert len(marks(test, 8)) >= 3


def test_sequences_stay_inside_the_frame_ranges(root):
    write_clip(root, "person01_boxing_d1", 40)
    write_ranges(root, "person01_boxing_d1\t\tframes\t1-8, 20-29, 12-18, 29-29, 35-99")
    windows = all_numbers(open_kth(root, "train"))
    wanted = [*range(1, 4), *range(20, 25), *range(12, 14), 35]
    assert windows == [list(range(i, i + LENGTH)) for i in wanted]


def test_frame_step_and_interval_mean_the_same(root):
    write_clip(root, "person02_walking_d3", 40)
    write_ranges(root, "person02_walking_d3\tframes\t3-22, 23-40")
    by_step, by_time = open_kth(root, "train", frame_step=3), open_kth(root, "train", frame_interval_s=0.12)
    assert by_step.frame_interval_s == by_time.frame_interval_s == pytest.approx(0.12)
    assert all_numbers(by_step) == all_numbers(by_time)
    assert all_numbers(by_step) == [list(range(i, i + 16, 3)) for i in (*range(3, 8), *range(23, 26))]
    with pytest.raises(UsageError, match="remove one of the two"):
        open_kth(root, "train", frame_step=2, frame_interval_s=0.12)


def test_a_model_that_was_trained_already_keeps_its_interval(root):
    write_clip(root, "person02_walking_d3", 40)
    write_ranges(root, "person02_walking_d3\tframes\t1-40")
    assert open_kth(root, "train", frame_interval_s=0.05).frame_interval_s == 0.05
    assert open_data(config_of(root, frame_interval_s=0.05), "train", LENGTH, 0.04).frame_interval_s == 0.04


def test_channels_and_size_follow_the_model(root):
    write_clip(root, "person01_boxing_d1", mark=100)
    frames = open_kth(root, "train", channels=3, image_size=128)[0]
    assert frames.shape == (LENGTH, 128, 128, 3)
    assert frames[:, :, :48].min() == frames[:, :, :48].max() == 100
    assert numbers(frames[:, ::2, ::2]) == list(range(1, LENGTH + 1))


def test_decoded_clips_come_from_the_cache(root, capsys):
    write_clip(root, "person01_boxing_d1")
    write_clip(root, "person21_boxing_d1")
    before = all_numbers(open_kth(root, "train"))
    assert "decoding 1 video file" in capsys.readouterr().err
    assert all_numbers(open_kth(root, "train")) == before
    assert "decoding" not in capsys.readouterr().err


def test_what_is_absent_is_noted(root, logged):
    write_clip(root, "person01_boxing_d1")
    open_kth(root, "train")
    messages = logged.text
    assert "has no train clip of handclapping, handwaving, jogging, running, walking" in messages
    assert "no clip of the train persons 2, 3, 4" in messages
    assert "has no 00sequences.txt" in messages
    assert "https://www.csc.kth.se/cvap/actions/00sequences.txt" in messages


def test_the_known_missing_clip_is_not_reported(root, logged):
    write_clip(root, "person13_handclapping_d1")
    write_ranges(root, "person13_handclapping_d1\tframes\t1-20", "person13_handclapping_d3\t*missing*")
    assert len(open_kth(root, "train")) == 15
    messages = logged.text
    assert all(record.levelno == logging.INFO for record in logged.records)
    assert "_d3" not in messages


def test_clips_without_ranges_strange_names_and_damage_are_listed(root, logged):
    write_clip(root, "person01_boxing_d1")
    write_clip(root, "person02_boxing_d1")
    cut = write_clip(root, "person03_boxing_d1")
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size * 8 // 10])
    write_clip(root, "person04_boxing_d1", fps=20)
    write_clip(root, "person05_boxing_d1", frames=4)
    for name in (
        "person77_boxing_d1_uncomp.avi",
        "person01_running_d1_uncomp.avi",
        "holiday.avi",
        "person06_boxing_d1_uncomp.avi",
    ):
        (root / "boxing" / name).write_text("no video")
    clips = [f"person{i:02d}_boxing_d1 frames 1-20" for i in (1, 3, 4, 5, 6)]
    write_ranges(root, *clips)
    data = open_kth(root, "train")
    assert data.description.startswith("kth: 2 clips of 2 persons")
    messages = logged.text
    assert "7 KTH clips are not used" in messages
    for reason in (
        "person02_boxing_d1_uncomp.avi: 00sequences.txt lists no frame ranges for it",
        "person04_boxing_d1_uncomp.avi: at 20 frames per second",
        "person05_boxing_d1_uncomp.avi: too short: 4 consecutive train frames",
        "person06_boxing_d1_uncomp.avi: Invalid data",
        "person77_boxing_d1_uncomp.avi: expected a name such as person01_boxing_d1_uncomp.avi",
        "person01_running_d1_uncomp.avi: expected a name",
        "holiday.avi: expected a name",
    ):
        assert reason in messages
    assert "1 KTH clip is damaged" in messages
    assert "person03_boxing_d1_uncomp.avi: the file is truncated" in messages


def test_entries_that_are_no_clips_are_listed_and_the_others_used(root, logged):
    write_clip(root, "person01_boxing_d1")
    (root / "boxing" / "person02_boxing_d1_uncomp.avi").symlink_to("nowhere")
    os.mkfifo(root / "boxing" / "person03_boxing_d1_uncomp.avi")
    (root / "boxing" / "person04_boxing_d1_uncomp.avi").mkdir()
    (root / "boxing" / "person05_boxing_d1").mkdir()
    (root / "boxing" / "holiday.avi").symlink_to("nowhere")
    with refused(root / "boxing" / "person05_boxing_d1"):
        assert open_kth(root, "train").description.startswith("kth: 1 clip of 1 person")
    for reason in (
        "4 KTH clips are not used",
        "person02_boxing_d1_uncomp.avi: a link that leads to no file",
        "person03_boxing_d1_uncomp.avi: a pipe or a device, not a file",
        "person05_boxing_d1: a folder that cannot be read: Permission denied",
        "holiday.avi: expected a name such as",
    ):
        assert reason in logged.text
    logged.clear()
    write_clip(root, "person21_boxing_d1")
    open_kth(root, "test")
    assert "person02" not in logged.text  # of the other part


def test_a_broken_link_does_not_hide_the_pictures_of_a_clip(root):
    write_pictures(root / "boxing" / "person01_boxing_d1", range(1, 21))
    (root / "boxing" / "person01_boxing_d1_uncomp.avi").symlink_to("nowhere")
    assert len(open_kth(root, "train")) == 15


@pytest.mark.parametrize("place", ["person01_boxing_d1/frames", "person01_boxing_d1_uncomp.avi"])
def test_frame_ranges_are_found_for_pictures_in_any_folder_of_a_clip(root, place, logged):
    write_pictures(root / "boxing" / place, range(1, 21))
    write_pictures(root / "boxing" / "person02_boxing_d1", [1], name="image-{:03d}_64x64.png")
    write_ranges(root, "person01_boxing_d1 frames 1-8", "person02_boxing_d1 frames 1-20")
    assert len(open_kth(root, "train")) == 3
    assert "person02_boxing_d1/image-001_64x64.png: too short" in logged.text


def test_lines_that_cannot_be_parsed_are_reported(root, logged):
    write_clip(root, "person01_boxing_d1")
    path = write_ranges(
        root,
        "person01_boxing_d1   frames   1 - 10 ,11-20,",
        "person02_boxing_d1\tframes\t1-10, 20",
        "person03_boxing_d1\tframes\t10-1",
        "person04_boxing_d1",
        "person01_boxing_d1 frames 1-5",
        "person05_boxing_d1 frames 1-" + "9" * 5000,  # more digits than Python converts
    )
    ranges, unclear = read_ranges(path)
    assert ranges == {"person01_boxing_d1": [(1, 10), (11, 20)]}
    assert [line.split()[0] for _, line in unclear] == [f"person0{i}_boxing_d1" for i in (2, 3, 4, 1, 5)]
    open_kth(root, "train")
    messages = logged.text
    assert "cannot parse 5 lines of" in messages
    assert f"line {unclear[0][0]}: person02_boxing_d1" in messages
    assert "expected lines such as: person01_boxing_d1 frames 1-95, 96-185" in messages


def test_no_data_says_where_to_get_it_and_where_to_put_it(root, tmp_path):
    write_clip(root, "person01_boxing_d1")
    cases = [
        (None, "train", UsageError, "data 'kth' needs --data-root"),
        (tmp_path / "nowhere", "train", UsageError, "nowhere' is not a folder"),
        (tmp_path, "train", SvgError, "no KTH clip of the train persons 1 to 20"),
        (root, "test", SvgError, "no KTH clip of the test persons 21 to 25"),
    ]
    for place, split, kind, problem in cases:
        with pytest.raises(kind, match=problem) as caught:
            open_data(build_config({"data": {"name": "kth", "root": place and str(place)}}), split, LENGTH)
        for hint in ("https://www.csc.kth.se/cvap/actions/", "ROOT/boxing/person01_boxing_d1_uncomp.avi", "--data-root"):
            assert hint in str(caught.value)
    with pytest.raises(SvgError, match="too short: 20 consecutive train frames"):
        open_kth(root, "train", 21)


@pytest.mark.parametrize(
    "option",
    [{"test_fraction": 0.3}, {"split_by": "file"}, {"num_digits": 2}, {"edge_px": 1.0}],
    ids=lambda option: next(iter(option)),
)
def test_options_that_do_not_apply_to_kth_are_refused(root, option):
    with pytest.raises(UsageError, match=f"{next(iter(option))} does not apply to data 'kth'"):
        config_of(root, **option)


@pytest.mark.parametrize("option", [{"root": "x"}, {"cache": "x"}, {"frame_step": 2}, {"split_by": "time"}])
def test_options_that_do_not_apply_to_the_digits_are_refused(option):
    with pytest.raises(UsageError, match="does not apply to data 'digits'"):
        build_config({"data": option})


def test_training_runs_on_kth(root, tmp_path):
    torch.set_num_threads(1)  # tiny layers: a second thread costs more than it brings
    write_clip(root, "person01_boxing_d1")
    write_clip(root, "person21_boxing_d1")
    options = {
        "data": "kth", "data-root": root, "cache": tmp_path / "cache", "out": tmp_path / "run", "json": tmp_path / "j.json",
        "device": "cpu", "precision": "32-true", "steps": 1, "batch-size": 2, "n-past": 2, "n-future": 2, "frame-step": 2,
        "nf": 2, "g-dim": 8, "z-dim": 2, "rnn-size": 8, "eval-sequences": 2, "eval-samples": 2, "eval-horizon": 2,
    }  # fmt: skip
    result = CliRunner().invoke(app, [part for name, value in options.items() for part in (f"--{name}", str(value))])
    assert result.exit_code == 0, result.output
    checkpoint = load_checkpoint(tmp_path / "run" / "ckpt.pt")
    assert checkpoint.config.data.name == "kth"
    assert checkpoint.frame_interval_s == pytest.approx(0.08)
    assert json.loads((tmp_path / "j.json").read_text())["psnr_best"] > 0
