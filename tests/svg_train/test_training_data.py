"""What a checkpoint says of its training data."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from svg_common.frame_statistics import sequence_statistics
from svg_export.bundle_writer import write_bundle
from svg_runtime.bundle.manifest import Manifest
from svg_runtime.bundle.reader import EMBEDDED_MODEL, Bundle
from svg_train.checkpoint import load_checkpoint
from svg_train.config import build_config
from svg_train.data import ClipPart, open_data
from svg_train.data.statistics import (
    FilesFingerprint,
    files_fingerprint,
    is_same_data,
    is_same_description,
    measure_training_data,
    warn_about_copies,
)
from svg_train.machine import Machine
from svg_train.recipe_files import load_recipe
from svg_train.train import Trainer


class Brightening:
    """Sequence i is a gray of i / 1000, in colour."""

    frame_interval_s = 0.1
    description = "brightening: 1000 sequences"

    def __init__(self, count: int = 1000) -> None:
        self._count = count
        self.read: list[int] = []

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> np.ndarray:
        self.read.append(index)
        return np.full((4, 2, 2, 3), round(255 * index / 1000), np.uint8)


def test_the_sample_is_spread_over_the_whole_data_set():
    data = Brightening()
    measured = measure_training_data(data)
    assert (measured.sequences, measured.frames, measured.description) == (256, 4, data.description)
    assert len(set(data.read)) == 256
    assert max(np.diff(data.read)) <= 4
    brightness = measured.statistics["brightness"]
    assert [brightness.p01, brightness.p50, brightness.p99] == pytest.approx([0.01, 0.5, 0.99], abs=0.01)
    assert measured.statistics["motion"].p99 == measured.statistics["colour"].p99 == 0.0


def test_a_small_data_set_is_measured_whole():
    data = Brightening(count=3)
    assert measure_training_data(data).sequences == 3
    assert data.read == [0, 1, 2]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of one step on drawn digits."""
    out = tmp_path_factory.mktemp("trained") / "run"
    sizes = {"channels": 1, "nf": 2, "g_dim": 4, "z_dim": 2, "rnn_size": 4, "n_past": 2}
    train = {"steps": 1, "batch_size": 1, "n_future": 2, "eval_sequences": 1, "eval_samples": 1, "eval_horizon": 1}
    train["description"] = " white\n\tdigits\x01"
    config = build_config({"model": sizes, "data": {"name": "digits"}, "train": train})
    Trainer(config, out, Machine(device="cpu", precision="32-true"), resume=False).run()
    return out


def test_training_stores_it_and_export_hands_it_on(trained, tmp_path):
    checkpoint = load_checkpoint(trained / "ckpt.pt")
    known = checkpoint.training_data
    assert known is not None
    assert known.description == r"white digits\x01; digits: 1 procedural digit per scene, train scenes"
    data = open_data(checkpoint.config, "train", checkpoint.config.sequence_length)
    means = [sequence_statistics(data[number * len(data) // 256])["brightness"] for number in range(256)]
    assert known.statistics["brightness"].mean == pytest.approx(np.mean(means), abs=1e-5)
    assert known == load_checkpoint(trained / "last.pt").training_data
    write_bundle(checkpoint, "0" * 64, tmp_path / "b.svgb", fp16=False, fused=False)
    assert Bundle.open(tmp_path / "b.svgb").manifest.training_data == known


def test_a_checkpoint_from_before_is_read_as_unknown(trained, tmp_path):
    content = torch.load(trained / "ckpt.pt", weights_only=True)
    del content["training_data"]
    torch.save(content, tmp_path / "old.pt")
    assert load_checkpoint(tmp_path / "old.pt").training_data is None


def test_a_bundle_that_does_not_know_it_has_no_such_key(tiny_bundle):
    """So that releases from before still read it."""
    content = json.loads((tiny_bundle / "manifest.json").read_text())
    assert "training_data" not in content
    assert Bundle.open(tiny_bundle).manifest.training_data is None
    written = Manifest.model_validate(content).model_dump(mode="json")
    assert "training_data" not in written


def test_the_embedded_bundle_says_what_its_recipe_gives():
    """It is that of the data on any machine."""
    config = build_config(load_recipe("embedded-digits"))
    measured = measure_training_data(open_data(config, "train", config.sequence_length))
    shipped = Bundle.open(EMBEDDED_MODEL).manifest.training_data
    assert shipped is not None
    assert is_same_description(shipped, measured)  # an earlier version worded it otherwise
    assert shipped.model_copy(update={"description": measured.description}) == measured


def test_a_description_is_the_same_in_the_words_of_an_earlier_version(trained):
    known = load_checkpoint(trained / "ckpt.pt").training_data

    def described(text: str):
        return known.model_copy(update={"description": text})

    for before, now in [
        ("video: 1 file(s) with 9 train frames", "video: 1 file with 9 train frames"),
        ("kth: 2 clips of 1 person(s) and 2 action(s)", "kth: 2 clips of 1 person and 2 actions"),
        (
            "smmnist: 2 digit(s) per scene from 9 train digits of /a b/x.gz",
            "smmnist: 2 digits per scene from 9 train digits of x.gz",
        ),
    ]:
        assert is_same_description(described(before), described(now))
        assert is_same_data(described(before), described(now))
    assert not is_same_description(described("video: 1 file(s)"), described("video: 2 files"))


def test_only_data_of_files_have_a_fingerprint_of_them(trained):
    config = load_checkpoint(trained / "ckpt.pt").config
    assert files_fingerprint(open_data(config, "train", 4)) is None


@pytest.mark.parametrize(("name", "copies"), [("1.mp4", 1), ("1.bmp", 0)])
def test_copies_of_pictures_are_no_copies_of_clips(name, copies, logged):
    """A fixed camera may take two that differ in their middle alone, and black ones are all the same."""

    class Clips(list):
        frame_interval_s, description = 0.1, ""

        def __init__(self, folder: str) -> None:
            self.files = [Path(folder, name)]
            self.parts = [ClipPart(self.files[0], tuple(self.files), 0, 9)]

    train, test = Clips("train\n"), Clips("test\n")
    of_train, of_test = (FilesFingerprint("", {data.files[0]: b"the same"}) for data in (train, test))
    warn_about_copies(train, of_train, test, of_test)
    assert logged.text.count("copies of videos") == copies
    assert logged.text.count("'test\\n/") == copies
