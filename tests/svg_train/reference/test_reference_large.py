"""Checkpoints of the sizes that people train: every tensor is read, in memory close to that of the weights in use."""

from __future__ import annotations

import pytest
import torch

from benchmarks.reference_networks import build
from svg_train.reference.checkpoint import load_any_checkpoint
from svg_train.reference.file import open_torch_file
from svg_train.reference.names import map_parameters
from tests.sample import sampled
from tests.svg_train.reference.reference_files import OldTorch, write_checkpoint
from tests.svg_train.reference.test_reference_hostile import import_all

MB = 1 << 20
FULL = {"nf": 64, "g_dim": 128, "rnn_size": 256}
CASES = {
    "dcgan128": ({"image_size": 128}, "float32"),  # tensors of 33 MB, of which a half is needed
    "dcgan64 in double precision": ({}, "float64"),
    "vgg64 in double precision": ({"backbone": "vgg"}, "float64"),  # halves that lie between each other
}


@pytest.fixture(scope="module", params=sampled(CASES, ["dcgan64 in double precision"]))
def large(request, tmp_path_factory):
    """A checkpoint of full width in a folder of its own, and its modules."""
    sizes, dtype = CASES[request.param]
    parts = build(**FULL, **sizes)
    folder = tmp_path_factory.mktemp("large")
    # Not "whole": those are read once before, and malloc may keep that memory for the reading that is measured.
    path = write_checkpoint(folder / "large.pth", parts, OldTorch(16, dtype=dtype), "zip")
    yield path, parts
    path.unlink()


def test_every_weight_of_a_full_width_checkpoint_is_read(large):
    path, parts = large
    imported = load_any_checkpoint(path)
    modules = {name: part.state_dict() for name, part in parts.items()}
    for name, target in map_parameters(imported.config.model).items():
        source = target.source
        expected = modules[source.part][source.name]
        if source.dim is not None:
            expected = expected.narrow(source.dim, source.start, target.shape[source.dim])
        torch.testing.assert_close(imported.weights[name], expected, atol=0, rtol=0)


def test_memory_is_that_of_the_weights_and_of_one_tensor(large):
    path, parts = large
    values = [value for part in parts.values() for value in part.state_dict().values()]
    weights_mb = sum(value.numel() for value in values) * 4 / MB
    largest_mb = max(value.numel() for value in values) * 8 / MB
    (file,) = import_all(path.parent)["files"].values()
    assert file["result"] == "loaded"
    assert weights_mb * 0.5 < file["grown_mb"] < weights_mb + 3 * largest_mb


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "stream"])
def test_a_part_of_a_tensor_of_130_mb_is_read_from_where_it_lies(zipped, tmp_path):
    whole = torch.zeros(65, 1 << 19)
    whole[:, 0] = torch.arange(65)
    torch.save({"weight": whole}, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    with open_torch_file(tmp_path / "a.pth") as file:
        part = file.read(file.content["weight"].narrow(0, 60, 5))
    assert part.shape == (5, 1 << 19)
    assert part[:, 0].tolist() == [60, 61, 62, 63, 64]
    assert part.sum() == sum((60, 61, 62, 63, 64))
