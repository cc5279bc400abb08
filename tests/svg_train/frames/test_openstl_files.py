"""Checkpoints of OpenSTL: containers, settings, what is asked for, and what is refused."""

from __future__ import annotations

import json
import os
import re
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from svg_adapt.cli import app as svg_train
from svg_common.errors import UsageError
from svg_train.checkpoint import CheckpointError, load_checkpoint
from svg_train.families.frames.openstl import recognizes
from svg_train.families.frames.openstl_settings import find_dialect, model_table
from svg_train.families.frames.openstl_weights import Sizes
from svg_train.reference.checkpoint import load_any_checkpoint
from svg_train.reference.options import Findings
from tests.svg_train.frames.openstl_equations import Weights, random_weights
from tests.svg_train.frames.predictions import one_step
from tests.svg_train.reference.option_classes import CLASSES, as_omegaconf, omegaconf
from tests.svg_train.reference.reference_files import Made, Name, OldTorch, zip_file
from tests.svg_train.reference.test_reference_layouts import write_safetensors

GOLDEN = (
    "convlstm_03", "convlstm_zoo_03", "convlstm_10", "predrnn_03", "predrnn_10", "predrnn_rgb_layernorm_10", "predrnnv2_03",
    "predrnnv2_10", "predrnnpp_03", "predrnnpp_10", "predrnnpp_ddp_03", "mim_03", "mim_10", "e3dlstm_03", "e3dlstm_10",
)  # fmt: skip
PLANE, HIDDEN = (4, 4), (4, 4)
IN_SHAPE = [3, 1, 16, 16]


def golden_case(shared_data: Path, name: str, folder: Path, **changed):
    """The imported checkpoint, and the arrays that OpenSTL computed."""
    stem = shared_data / "golden" / f"openstl_{name}"
    if not stem.with_suffix(".npz").is_file():
        pytest.skip("no golden files")
    settings = json.loads(stem.with_suffix(".json").read_text())
    arrays = {key: torch.from_numpy(value) for key, value in np.load(stem.with_suffix(".npz")).items()}
    n, _, *frame = arrays["frames"].shape
    (folder / "model_param.json").write_text(json.dumps({"in_shape": [n, *frame], **settings, **changed}))
    lightning = stem.with_suffix(".ckpt")
    path = lightning if lightning.is_file() else stem.with_suffix(".pth")
    needs_settings = path.suffix == ".pth" or changed
    return load_any_checkpoint(path, folder / "model_param.json" if needs_settings else None), arrays


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_files_forecast_what_openstl_did(name, tmp_path, shared_data):
    checkpoint, arrays = golden_case(shared_data, name, tmp_path)
    model, frames = checkpoint.build(), arrays["frames"]
    assert checkpoint.config.model.n_past == len(frames)
    torch.testing.assert_close(one_step(model, frames), arrays["one_step"], atol=1e-4, rtol=0)
    torch.testing.assert_close(model.roll_out(frames, len(arrays["expected"])), arrays["expected"], atol=1e-4, rtol=0)
    empty = torch.zeros(len(arrays["expected"]), 1, 0)
    shown = model.generate(frames, empty, torch.zeros(len(frames) - 1, 1, 0))
    torch.testing.assert_close(shown, arrays["expected"].clamp(0, 1), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["convlstm_03", "convlstm_10", "predrnnpp_03", "predrnnpp_10", "predrnn_03", "mim_10"])
def test_the_user_says_which_dialect_and_the_wrong_one_shows(name, tmp_path, shared_data):
    other = "openstl-1.0" if name.endswith("03") else "openstl-0.3"
    checkpoint, arrays = golden_case(shared_data, name, tmp_path, dialect=other)
    off = (checkpoint.build().roll_out(arrays["frames"], 5) - arrays["expected"]).abs().max()
    assert off > 1 if name.startswith(("convlstm", "predrnnpp")) else off < 1e-4


def weights(method: str = "convlstm", **sizes) -> Weights:
    return random_weights(
        **{"method": method, "channels": 16, "plane": PLANE, "hidden": HIDDEN, "k": 3, "norm": False, **sizes}
    )


def settings(method: str = "convlstm", **changed) -> dict:
    given = {
        "method": method, "in_shape": IN_SHAPE, "pre_seq_length": 3, "aft_seq_length": 5, "total_length": 8,
        "num_hidden": "4,4", "filter_size": 3, "stride": 1, "patch_size": 4, "layer_norm": 0, "lr": 5e-4,
        "dialect": "openstl-1.0",
    }  # fmt: skip
    return {name: value for name, value in {**given, **changed}.items() if value != "left out"}


def take(folder: Path, content, given: dict | None = None):
    torch.save(content, folder / "file.pth")
    if given is None:
        return load_any_checkpoint(folder / "file.pth")
    (folder / "settings.json").write_text(json.dumps(given))
    return load_any_checkpoint(folder / "file.pth", folder / "settings.json")


def refusal(folder: Path, content, given: dict | None = None) -> str:
    with pytest.raises(CheckpointError) as caught:
        take(folder, content, given)
    return str(caught.value)


def lightning(tensors: Weights, **changed) -> dict:
    hyper_parameters = settings(**{"dialect": "left out", "gpus": [0], **changed})
    named = {f"model.{name}": value for name, value in tensors.items()}
    return {"pytorch-lightning_version": "2.0", "state_dict": named, "hyper_parameters": hyper_parameters}


CONTAINERS = {
    "a state_dict": lambda w: w,
    "latest.pth": lambda w: {"epoch": 1, "state_dict": w, "optimizer": {}, "scheduler": {}},
    "a distributed run": lambda w: {f"module.{name}": value for name, value in w.items()},
    "compiled, in two wrappers": lambda w: {"state_dict": {f"module.model._orig_mod.{name}": v for name, v in w.items()}},
    "under another key": lambda w: {"model": w, "epoch": 1},
    "half precision": lambda w: {name: value.half() for name, value in w.items()},
    "Lightning": lightning,
    "beside moving averages": lambda w: {
        "state_dict": {**{f"ema.{n}": torch.zeros_like(v) for n, v in w.items()}, **{f"svgm.{n}": v for n, v in w.items()}},
    },
    "Lightning with a Namespace": lambda w: {**lightning(w), "hyper_parameters": SimpleNamespace(**settings())},
}  # fmt: skip


@pytest.mark.parametrize("container", CONTAINERS.values(), ids=CONTAINERS)
def test_every_container_has_the_same_weights(container, tmp_path):
    w = weights()
    checkpoint = take(tmp_path, container(w), settings())
    expected = take(tmp_path, w, settings()).weights
    assert checkpoint.weights.keys() == expected.keys()
    for name, value in checkpoint.weights.items():
        torch.testing.assert_close(value, expected[name], atol=2e-3, rtol=0)
        assert value.dtype == torch.float32


def test_safetensors_files_are_read_too(tmp_path):
    write_safetensors(tmp_path / "file.safetensors", weights("mim"))
    (tmp_path / "settings.json").write_text(json.dumps(settings("mim")))
    checkpoint = load_any_checkpoint(tmp_path / "file.safetensors", tmp_path / "settings.json")
    assert checkpoint.config.model.cell == "mim"


def test_settings_become_those_of_the_model(tmp_path):
    checkpoint = take(tmp_path, weights("e3dlstm", k=5), settings("e3dlstm", stride=2, filter_size=3))
    model = checkpoint.config.model
    assert (model.family, model.cell, model.n_past, model.hidden, model.history) == ("frames", "e3d-lstm", 3, (4, 4), 7)
    assert (model.filter_size, model.stride, model.patch_size, model.layer_norm) == (5, 2, 4, False)
    assert (checkpoint.config.train.n_future, checkpoint.config.data.name) == (5, "video")
    longer = take(tmp_path, weights("e3dlstm", k=5), settings("e3dlstm", dataname="kth")).config.model
    assert longer.history == 3 + 20 - 1  # the settings of 0.3 state the lengths of another data set
    kth = take(tmp_path, weights(), settings(dataname="kth"))
    assert kth.config.data.name == "kth"


def test_numbers_may_be_text_and_what_is_null_is_not_said(tmp_path):
    plain = take(tmp_path, weights("e3dlstm", k=5), settings("e3dlstm")).config
    text = {"stride": "1", "patch_size": "4", "layer_norm": "0", "pre_seq_length": "3", "aft_seq_length": 5.0}
    assert take(tmp_path, weights("e3dlstm", k=5), settings("e3dlstm", num_hidden=["4", 4.0], **text)).config == plain
    assert take(tmp_path, lightning(weights()), {"in_shape": None}).config.model.n_past == 3
    assert "in_shape is [3.5, 1, 8, 8], not four numbers" in refusal(tmp_path, weights(), settings(in_shape=[3.5, 1, 8, 8]))


@pytest.mark.parametrize(
    ("method", "name"),
    [
        ("convlstm", "ConvLSTM"), ("predrnn", "PredRNN"), ("predrnnv2", "PredRNN.v2"), ("predrnnpp", "PredRNN++"),
        ("mim", "MIM"), ("e3dlstm", "E3D-LSTM"),
    ],
)  # fmt: skip
def test_methods_may_be_written_as_in_papers(method, name, tmp_path):
    k = 5 if method == "e3dlstm" else 3
    given = {**settings(method, filter_size=k), "method": name}
    assert take(tmp_path, weights(method, k=k), given).config == take(tmp_path, weights(method, k=k), settings(method)).config
    other = {**settings(method), "method": "PredNet"}
    assert "svg-edge does not have: prednet" in refusal(tmp_path, weights(method, k=k), other)


@pytest.mark.parametrize("key", ["args", "config", "opt", "hparams"])
def test_settings_of_a_training_program_of_ones_own_are_found(key, tmp_path):
    expected = take(tmp_path, weights(), settings()).config
    for table in (settings(), SimpleNamespace(**settings())):
        assert take(tmp_path, {"state_dict": weights(), key: table}).config == expected


@pytest.mark.parametrize("kind", CLASSES.values(), ids=CLASSES)
@pytest.mark.parametrize(
    "place",
    [
        lambda table: {"args": table},
        lambda table: {"hyper_parameters": {"args": table, "lr": 1}},
        lambda table: {"settings_of_mine": {"model": table}},
        lambda table: {"hyper_parameters": {"args": table}, "callbacks": {"args": table}},
    ],
    ids=["a usual name", "an argument", "any name", "twice"],
)
def test_settings_are_found_in_any_class_and_table(place, kind, tmp_path):
    expected = take(tmp_path, weights(), settings()).config
    assert take(tmp_path, {"state_dict": weights(), **place(kind(settings()))}).config == expected


def test_settings_of_omegaconf_with_lists(tmp_path):
    expected = take(tmp_path, weights(), settings()).config
    with omegaconf() as module:
        table = as_omegaconf(module, {"model": settings(num_hidden=[4, 4]), "trainer": {"gpus": 1}})
        torch.save({"state_dict": weights(), "config": table}, tmp_path / "file.pth")
    assert load_any_checkpoint(tmp_path / "file.pth").config == expected


def test_settings_of_two_models_are_not_guessed(tmp_path):
    both = {"one": settings(), "other": settings(in_shape=[9, 1, 16, 16])}
    assert "in_shape is missing" in refusal(tmp_path, {"state_dict": weights(), **both})


ARRAYS = {
    "int64": np.array, "int32": lambda v: np.array(v, np.int32), "float": lambda v: np.array(v, np.float32),
    "big-endian": lambda v: np.array(v, ">i8"), "a view": lambda v: np.array([v, v]).T[:, 0],
    "numbers of numpy": lambda v: [np.int64(x) for x in v] if isinstance(v, list) else np.int16(v),
}  # fmt: skip


@pytest.mark.parametrize("array", ARRAYS.values(), ids=ARRAYS)
@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "stream"])
def test_arrays_of_numpy_among_the_settings_are_read(array, protocol, zipped, tmp_path):
    expected = take(tmp_path, lightning(weights(), dialect="openstl-1.0")).config
    changed = {"in_shape": array(IN_SHAPE), "num_hidden": array([4, 4])}
    if array is not ARRAYS["a view"]:
        changed |= {"patch_size": array(4), "pre_seq_length": array(3)}
    content = lightning(weights(), dialect="openstl-1.0")
    content["hyper_parameters"] |= changed
    path = tmp_path / "file.pth"
    torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    assert load_any_checkpoint(path).config == expected


@pytest.mark.parametrize(
    "array",
    [np.zeros(101, np.int64), np.array([[3, 1, 16, 16]]), np.array(["3"] * 4), np.array(IN_SHAPE, object), np.zeros(0)],
    ids=["long", "of two dimensions", "text", "objects", "empty"],
)
def test_other_arrays_are_left_out(array, tmp_path):
    content = lightning(weights())
    content["hyper_parameters"] |= {"remarks": array}
    assert take(tmp_path, content).config.model.cell == "convlstm"
    content["hyper_parameters"] |= {"in_shape": array}
    assert "in_shape is missing" in refusal(tmp_path, content)


@pytest.mark.parametrize(
    ("state", "args"),
    [
        ((1, (4,), Made(Name("numpy", "dtype"), ("i8",)), False, "x" * 31), (Name("numpy", "ndarray"), (0,), "b")),
        ((1, (1 << 40,), Made(Name("numpy", "dtype"), ("i8",)), False, "x" * 32), ()),
        ((1, (-4,), Made(Name("numpy", "dtype"), ("i8",)), False, "x" * 32), ()),
        ((1, [4], Made(Name("numpy", "dtype"), ([["i8"]],)), False, "x" * 32), ()),
        ((1, (4,), 7, False, 7), ()),
        ((1, 2), ()),
        (None, ()),
    ],
    ids=["too short", "a huge shape", "a negative shape", "lists", "numbers", "a short state", "no state"],
)
def test_damaged_arrays_are_left_out(state, args, tmp_path):
    array = Made(Name("numpy._core.multiarray", "_reconstruct"), args, state)
    torch_of_then = OldTorch(16)
    tensors = {f"model.{name}": torch_of_then.tensor(value) for name, value in weights().items()}
    content = {**lightning({}), "state_dict": tensors}
    content["hyper_parameters"]["in_shape"] = array
    (tmp_path / "file.pth").write_bytes(zip_file(content, torch_of_then.storages))
    with pytest.raises(CheckpointError, match="in_shape is missing"):
        load_any_checkpoint(tmp_path / "file.pth")


def averaged(tensors: Weights) -> Weights:
    return {f"ema_model.module.{name}": torch.zeros_like(value) for name, value in tensors.items()}


PLACES = {
    "under any name": lambda w: {"ema": w},
    "deep, beside another network": lambda w: {
        "discriminator": {"conv.weight": torch.zeros(3)}, "generator": {"state_dict": w},
    },
    "beside moving averages": lambda w: {"state_dict": {**{f"model.{name}": v for name, v in w.items()}, **averaged(w)}},
    "after moving averages": lambda w: {"state_dict": {**averaged(w), **{f"model.{name}": v for name, v in w.items()}}},
    "bare, beside moving averages": lambda w: {**averaged(w), **w},
    "beside a loss": lambda w: {"state_dict": {"lpips.lin.weight": torch.zeros(2), **lightning(w)["state_dict"]}},
    "in a list": lambda w: [1, w],
    "in a defaultdict": lambda w: defaultdict(list, {"state_dict": w}),
}  # fmt: skip


@pytest.mark.parametrize("method", ["convlstm", "mim"])
@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_the_network_that_was_trained_is_found(place, method, tmp_path):
    w = weights(method)
    expected = take(tmp_path, w, settings(method))
    given = take(tmp_path, place(w), settings(method))
    assert given.config == expected.config
    torch.testing.assert_close(given.weights, expected.weights, atol=0, rtol=0)


@pytest.mark.parametrize("arguments", [{}, {"use_gpu": True}, {"gpus": [0]}, {"ckpt_path": "a.ckpt"}])
@pytest.mark.parametrize("more", [{}, {"epoch": 3, "optimizer": {}, "scheduler": {}}])
def test_a_training_program_of_ones_own_says_nothing_of_the_version(arguments, more, tmp_path):
    table = settings(**arguments, dialect="left out")
    assert "dialect is missing" in refusal(tmp_path, {"state_dict": weights(), "args": table, **more})
    assert take(tmp_path, {"state_dict": weights(), "args": table, **more}, {"dialect": "openstl-0.3"})


def test_what_openstl_wrote_wins_over_a_table_beside_it(tmp_path):
    expected = take(tmp_path, lightning(weights())).config
    assert take(tmp_path, {**lightning(weights()), "opt": {"method": "convlstm"}}).config == expected
    assert take(tmp_path, {**lightning(weights()), "opt": settings(in_shape=[9, 1, 8, 8])}).config == expected


def test_frames_need_not_be_square(tmp_path):
    model = take(tmp_path, weights("mim", plane=(2, 4)), settings("mim", in_shape=[3, 1, 8, 16])).config.model
    assert (model.height, model.width, model.plane) == (8, 16, (2, 4))


def test_unused_weights_are_required_and_not_kept(tmp_path):
    for method, name in (
        ("convlstm", "cell_list.1.conv_o.0.weight"),
        ("convlstm", "cell_list.0.conv_last.weight"),
        ("predrnnpp", "cell_list.0.conv_o.0.weight"),
        ("mim", "stlstm_layer_diff.0.conv_last.weight"),
        ("e3dlstm", "cell_list.0.conv_gm.0.conv3d.weight"),
        ("predrnnv2", "adapter.weight"),
    ):
        w = weights(method, k=5 if method == "e3dlstm" else 3)
        given = settings(method, filter_size=5 if method == "e3dlstm" else 3)
        kept = take(tmp_path, w, given).weights
        all_elements = sum(value.numel() for value in w.values())
        shape = tuple(w.pop(name).shape)
        if method == "predrnnv2":  # without it, the network is PredRNN's, which the settings contradict
            assert "method is 'predrnnv2', but the weights are those of predrnn" in refusal(tmp_path, w, given)
            continue
        assert f"{name}: missing, expected {shape}" in refusal(tmp_path, w, given)
        assert sum(value.numel() for value in kept.values()) < all_elements


# What the file or its settings do not tell.


@pytest.mark.parametrize("method", ["convlstm", "predrnnpp"])
def test_weights_of_either_version_are_refused_until_the_user_says_which(method, tmp_path):
    message = refusal(tmp_path, weights(method), settings(method, dialect="left out"))
    assert 'Add "dialect": "openstl-0.3"' in message
    assert 'or "dialect": "openstl-1.0"' in message
    for dialect in ("openstl-0.3", "openstl-1.0"):
        assert take(tmp_path, weights(method), settings(method, dialect=dialect)).config.model.dialect == dialect
    assert "dialect is 'old', expected one of openstl-0.3, openstl-1.0" in refusal(
        tmp_path, weights(method), settings(method, dialect="old")
    )


@pytest.mark.parametrize("method", ["predrnn", "predrnnv2", "mim", "e3dlstm"])
def test_where_both_versions_compute_the_same_none_is_asked_for(method, tmp_path):
    sizes = {"k": 5} if method == "e3dlstm" else {}
    assert take(tmp_path, weights(method, **sizes), settings(method, dialect="left out", filter_size=sizes.get("k", 3)))


def test_the_version_shows_in_the_container_and_in_the_settings_that_it_wrote(tmp_path):
    unnamed = settings(dialect="left out")
    for content, given, dialect in (
        ({"epoch": 1, "state_dict": weights(), "optimizer": {}, "scheduler": {}}, unnamed, "openstl-0.3"),
        (lightning(weights()), None, "openstl-1.0"),
        (weights(), {**unnamed, "use_gpu": True, "launcher": "none"}, "openstl-0.3"),
        (weights(), {**unnamed, "metric_for_bestckpt": "val_loss"}, "openstl-1.0"),
        (lightning(weights()), {"dialect": "openstl-0.3"}, "openstl-0.3"),  # before the cells were mended
    ):
        assert take(tmp_path, content, given).config.model.dialect == dialect
    mixed = refusal(tmp_path, weights(), {**unnamed, "use_gpu": True, "gpus": [0]})
    assert "dialect is missing" in mixed
    assert "dialect is missing" in refusal(tmp_path, lightning(weights()), {"use_gpu": True})


def test_without_settings_the_message_names_the_file_and_the_command(tmp_path):
    message = refusal(tmp_path, weights())
    assert 'Add "in_shape": [observed frames, channels, height, width], such as [10, 1, 64, 64]' in message
    assert "dialect is missing" in message
    assert message.endswith("--model-config model_param.json")
    (tmp_path / "model_param.json").write_text("{}")
    assert refusal(tmp_path, weights()).endswith(f"--model-config {tmp_path}/model_param.json")


def test_published_settings_lack_the_shape_of_the_frames(tmp_path):
    published = settings(in_shape="left out", pre_seq_length=10, aft_seq_length=10, total_length=10)
    message = refusal(tmp_path, weights(), published)
    assert "in_shape is missing, and cannot be inferred from the weights" in message
    assert "pre_seq_length is 10, but in_shape has 3 observed frames; correct the wrong one" in refusal(
        tmp_path, weights(), {**published, "in_shape": IN_SHAPE}
    )


def test_e3d_lstm_is_asked_for_what_its_weights_cannot_tell(tmp_path):
    given = settings("e3dlstm", stride="left out", aft_seq_length="left out")
    message = refusal(tmp_path, weights("e3dlstm", k=5), given)
    assert 'Add "stride": NUMBER' in message
    assert 'Add "aft_seq_length": NUMBER' in message


def test_all_contradictions_are_in_one_message(tmp_path):
    given = settings(
        "predrnn", num_hidden="8,8", filter_size=5, layer_norm=1, patch_size=2, stride=2, in_shape=[2, 1, 16, 16], dialect=7
    )
    message = refusal(tmp_path, weights("mim"), given)
    for expected in (
        "method is 'predrnn', but the weights are those of mim",
        "num_hidden is '8,8', but the weights imply 4,4",
        "filter_size is 5, but the weights imply 3",
        "layer_norm is 1, but the weights imply 0",
        "patch_size is 2, but 1 channel(s) and the weights imply 4",
        "stride is 2, but mim only works with 1",
        "pre_seq_length is 3, but in_shape has 2 observed frames",
        "dialect is 7, expected one of",
    ):
        assert expected in message


@pytest.mark.parametrize(
    ("method", "in_shape", "message"),
    [
        ("mim", [3, 1, 32, 16], "in_shape has 32 x 16 pixels, but the weights imply 16 x 16"),
        ("convlstm", [3, 2, 16, 16], "in_shape has 2 channel(s), but the weights imply 16 in a patch"),
        ("convlstm", [3, 16, 16, 16], "channels: Input should be 1 or 3"),
        ("convlstm", [3, 1, 18, 16], "the height of 18 pixels is not a multiple of patch_size 4"),
        ("convlstm", [1, 1, 16, 16], "n_past: Input should be greater than or equal to 2"),
        ("convlstm", [3, 1, 16], "not four numbers"),
        ("convlstm", [3, 1, 16, "x"], "not four numbers"),
        ("convlstm", [3, 1, 10**18, 16], "not four numbers"),
        ("convlstm", "3,1,16,16", "not four numbers"),
        ("convlstm", [3, 1, 0, 16], "not four numbers"),
    ],
)
def test_frames_that_do_not_fit_are_refused(method, in_shape, message, tmp_path):
    assert message in refusal(tmp_path, weights(method), settings(method, in_shape=in_shape, pre_seq_length="left out"))


def test_missing_unexpected_and_damaged_weights_are_in_one_message(tmp_path):
    w = weights()
    del w["cell_list.1.conv_x.0.weight"]
    w["cell_list.0.conv_x.0.weight"] = w["cell_list.0.conv_x.0.weight"][:, :8]
    w["extra.weight"] = torch.zeros(3)
    w["conv_last.weight"] = w["conv_last.weight"].long()
    message = refusal(tmp_path, w, settings())
    for expected in (
        "cell_list.1.conv_x.0.weight: missing, expected (16, 4, 3, 3)",
        "cell_list.0.conv_x.0.weight: given (16, 8, 3, 3), expected (16, 16, 3, 3)",
        "extra.weight: unexpected, (3,)",
        "conv_last.weight: given type torch.int64, expected floating point",
    ):
        assert expected in message
    assert message.endswith("fetch or save the checkpoint again")
    assert message.count("correct the settings") == 0
    broken = weights()
    broken["cell_list.0.conv_h.0.weight"][0, 0, 0, 0] = float("nan")
    assert "cell_list.0.conv_h.0.weight: contains values that are not finite" in refusal(tmp_path, broken, settings())


@pytest.mark.parametrize("first", ["inside", "outside"])
def test_a_weight_inside_and_outside_of_the_wrapper_is_refused(first, tmp_path):
    content = lightning(weights(), dialect="openstl-1.0")
    surplus = {"conv_last.weight": torch.zeros(16, 4, 1, 1)}
    held = content["state_dict"]
    content["state_dict"] = {**held, **surplus} if first == "inside" else {**surplus, **held}
    assert "conv_last.weight (outside model): unexpected, (16, 4, 1, 1)" in refusal(tmp_path, content)


def test_a_layer_that_is_missing_is_named_as_such(tmp_path):
    w = {name: value for name, value in weights(hidden=(4,) * 3).items() if not name.startswith("cell_list.1.")}
    assert "a whole layer is missing" in refusal(tmp_path, w, settings())


NOT_WHOLE = "the file is not whole (one of several, or saved in part), or its settings are those of another model"


@pytest.mark.parametrize(
    ("method", "layer", "missing", "total"),
    [
        ("convlstm", "cell_list.0", 4, 13),
        ("predrnn", "cell_list.0", 5, 16),
        ("predrnn", "cell_list.1", 5, 16),
        ("predrnnv2", "cell_list.0", 5, 17),
        ("predrnnpp", "cell_list.0", 8, 27),
        ("predrnnpp", "gradient_highway", 2, 27),
        ("mim", "stlstm_layer.0", 5, 32),
        ("mim", "stlstm_layer.1", 8, 32),
        ("e3dlstm", "cell_list.0", 8, 25),
    ],
)
def test_weights_of_a_layer_that_is_missing_are_named(method, layer, missing, total, tmp_path):
    k = 5 if method == "e3dlstm" else 3
    whole = weights(method, hidden=(4,) * 3, k=k)
    message = refusal(tmp_path, without(whole, f"{layer}."), settings(method, num_hidden="4,4,4", filter_size=k))
    gone = {name: tuple(value.shape) for name, value in whole.items() if name.startswith(f"{layer}.")}
    assert all(f"{name}: missing, expected {shape}" in message for name, shape in gone.items())
    assert f"a whole layer is missing, {layer}: {missing} of {total} weights; {NOT_WHOLE}" in message
    assert message.endswith("fetch or save the checkpoint again")


def test_the_last_layer_is_missing_or_the_settings_are_wrong(tmp_path):
    w = without(weights("predrnn", hidden=(4,) * 3), "cell_list.2.")
    message = refusal(tmp_path, w, settings("predrnn", num_hidden="4,4,4"))
    assert "num_hidden is '4,4,4', but the weights imply 4,4" in message
    assert "a whole layer is missing, cell_list.2: 5 of 16 weights" in message
    assert take(tmp_path, w, settings("predrnn")).config.model.hidden == (4, 4)


def test_single_weights_that_tell_sizes_are_named_too(tmp_path):
    for name in ("conv_last.weight", "cell_list.1.conv_h.0.weight", "cell_list.0.conv_m.0.weight"):
        message = refusal(tmp_path, without(weights("predrnn"), name), settings("predrnn"))
        assert f"{name}: missing" in message
        assert "missing: 1 of 11 weights" in message
    unknown = refusal(tmp_path, {n: w for n, w in weights().items() if "conv_h" not in n}, settings())
    assert "of cell_list.N.conv_h.0.weight there must be one" in unknown


def test_of_many_missing_weights_the_first_are_named(tmp_path):
    w = weights("mim", hidden=(4,) * 6)
    kept = {name: value for name, value in w.items() if not re.match(r"stlstm_layer\.[234]\.", name)}
    message = refusal(tmp_path, kept, settings("mim", num_hidden="4,4,4,4,4,4"))
    assert message.count(": missing, expected") == 8
    assert f"missing: {len(w) - len(kept)} of {len(w)} weights" in message


def without(w: Weights, start: str) -> Weights:
    return {name: value for name, value in w.items() if not name.startswith(start)}


@pytest.mark.parametrize(
    ("sizes", "changed", "theirs", "ours"),
    [
        ({"channels": 32}, {"in_shape": [3, 2, 16, 16]}, "in_shape is [3, 2, 16, 16]", "model.channels"),
        ({}, {"in_shape": [1, 1, 16, 16], "pre_seq_length": 1}, "in_shape is [1, 1, 16, 16]", "model.n_past"),
        ({}, {"in_shape": [3, 1, 5000, 16]}, "in_shape is [3, 1, 5000, 16]", "model.image_size"),
        ({}, {"in_shape": [3, 1, 16, 5000]}, "in_shape is [3, 1, 16, 5000]", "model.image_width"),
        ({}, {"in_shape": [3, 1, 18, 16]}, "in_shape is [3, 1, 18, 16], patch_size is 4", "the height of 18 pixels"),
        ({"channels": 6400}, {"in_shape": [3, 1, 160, 160], "patch_size": 80}, "patch_size is 80", "model.patch_size"),
        ({"hidden": (1,) * 65}, {"num_hidden": [1] * 65}, "num_hidden is [1, 1, 1", "model.hidden"),
        ({"method": "e3dlstm", "k": 5}, {"stride": 9}, "stride is 9", "model.stride"),
        ({"method": "e3dlstm", "k": 5}, {"aft_seq_length": 5000}, "aft_seq_length is 5000", "model.history"),
    ],
)
def test_limits_are_said_with_the_names_of_the_settings_in_the_file(sizes, changed, theirs, ours, tmp_path):
    message = refusal(tmp_path, weights(**sizes), settings(sizes.get("method", "convlstm"), **changed))
    reason, problem, advice = message.splitlines()
    assert reason.endswith("of a model beyond the limits of svg-edge:")
    assert problem.strip().startswith(f"{theirs}")
    assert "which svg-edge does not take: model" in problem
    assert ours in problem
    assert advice.strip().startswith("if these are not the settings that the model was trained with, correct them")


def test_a_small_file_with_large_weights_is_refused(tmp_path):
    w = weights(hidden=(64, 64))
    w = {name: torch.zeros(1).expand(value.shape) for name, value in w.items()}
    message = refusal(tmp_path, w, settings(num_hidden="64,64"))
    assert "reaches beyond its storage" in message or "share the same values" in message


@pytest.mark.parametrize(
    ("content", "given", "name"),
    [
        (lightning({"enc.enc.0.conv.conv.weight": torch.zeros(3)}, method="SimVP"), None, "simvp"),
        (lightning({"anything": torch.zeros(3)}, method="TAU"), None, "tau"),
        ({"enc.enc.0.conv.conv.weight": torch.zeros(3)}, None, "SimVP or a relative of it"),
        ({"enc.enc.0.conv.conv.weight": torch.zeros(3)}, {"method": "tau"}, "tau"),
        ({"cell_list.0.conv_t.0.weight": torch.zeros(3)}, None, "MAU"),
    ],
)
def test_other_methods_of_openstl_are_refused_by_name(content, given, name, tmp_path):
    message = refusal(tmp_path, content, given)
    assert f"is a model of OpenSTL that svg-edge does not have: {name}" in message
    assert message.endswith("expected a recurrent one: convlstm, predrnn, predrnnv2, predrnnpp, mim, e3dlstm")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "cannot read the model's settings"),
        (b"[1]", "it is not a table {...} but a list"),
        (b"\xff\xfe{\0}\0", "UTF-16"),
        (b"[" * 100_000, "cannot read the model's settings"),
        (b'{"a": "' + b"x" * (1 << 20) + b'"}', "more than 1 MiB"),
        (b'{"lr": 1' + b"0" * 5000 + b"}", "a number with too many digits"),
    ],
    ids=["unfinished", "a list", "not text", "nested too deeply", "too large", "a huge number"],
)
def test_settings_that_are_no_table_are_refused(content, message, tmp_path):
    torch.save(weights(), tmp_path / "file.pth")
    (tmp_path / "settings.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=re.escape(message)) as caught:
        load_any_checkpoint(tmp_path / "file.pth", tmp_path / "settings.json")
    assert "expected the JSON file that the program which trained the model wrote" in str(caught.value)


def nested(depth: int, copies: int = 1) -> list:
    """Lists in lists; with two copies each, writing them out would take 2^depth entries."""
    value: list = []
    for _ in range(depth):
        value = [value] * copies
    return value


def containing_itself() -> list:
    value: list = []
    value.append(value)
    return value


HOSTILE = {
    "nested": nested(5_000), "shared": nested(60, copies=2), "containing itself": containing_itself(), "a table": {(1, 2): 3},
    "a huge number": 10**5000, "a list with a huge number": [10**5000, 1], "long": [3] * 101,
}  # fmt: skip
NAMES = ["method", "in_shape", "num_hidden", "filter_size", "layer_norm", "dialect", "pre_seq_length", "patch_size"]


@pytest.mark.parametrize("value", HOSTILE.values(), ids=HOSTILE)
def test_a_file_is_recognized_whatever_its_settings_hold(value):
    for name in ("method", "in_shape", "num_hidden"):
        content = {"state_dict": {}, "hyper_parameters": {**settings(), name: value}}
        assert recognizes(content) == (name != "method")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", HOSTILE.values(), ids=HOSTILE)
def test_settings_that_are_no_plain_values_are_a_short_finding(value, name):
    sizes = Sizes(cell="convlstm", hidden=HIDDEN, layers=2, filter_size=3, layer_norm=False, patch_channels=16, plane=PLANE)
    given, findings = {**settings(), name: value}, Findings()
    model_table(sizes, given, find_dialect("convlstm", given, None, findings), findings)
    assert name in findings.problems[0]
    assert max(map(len, findings.problems)) < 200


@pytest.mark.parametrize("kind", ["shared", "containing itself"])
def test_a_file_with_hostile_settings_is_refused_or_read_without_them(kind, tmp_path):
    message = refusal(tmp_path, lightning(weights(), in_shape=HOSTILE[kind], method=HOSTILE[kind]))
    assert "in_shape is missing" in message
    assert take(tmp_path, lightning(weights(), remarks=HOSTILE[kind])).config.model.cell == "convlstm"


def test_settings_in_a_pipe_are_refused_and_not_waited_for(tmp_path):
    torch.save(weights(), tmp_path / "file.pth")
    os.mkfifo(tmp_path / "settings.json")
    with pytest.raises(UsageError, match="pipe"):
        load_any_checkpoint(tmp_path / "file.pth", tmp_path / "settings.json")


def test_training_continues_from_weights_of_openstl(tmp_path):
    torch.save(weights(plane=(9, 9)), tmp_path / "file.pth")
    (tmp_path / "settings.json").write_text(json.dumps(settings(in_shape=[3, 1, 36, 36])))
    init = ["--init", str(tmp_path / "file.pth"), "--model-config", str(tmp_path / "settings.json")]
    model = ["--family", "frames", "--cell", "convlstm", "--image-size", "36", "--hidden", "4,4", "--n-past", "3"]
    train = [
        "--steps",
        "1",
        "--lr",
        "1e-12",
        "--batch-size",
        "1",
        "--eval-sequences",
        "1",
        "--device",
        "cpu",
        "--precision",
        "32-true",
    ]
    result = CliRunner().invoke(svg_train, [*init, *model, *train, "--out", str(tmp_path / "run")])
    assert result.exit_code == 0, result.output
    tuned = load_checkpoint(tmp_path / "run" / "ckpt.pt").weights
    torch.testing.assert_close(tuned["conv_last.weight"], weights(plane=(9, 9))["conv_last.weight"], atol=1e-6, rtol=0)
    alone = CliRunner().invoke(svg_train, [*init[2:], *model])
    assert "--model-config has no effect without --init" in str(alone.exception)


def test_settings_that_are_not_there_are_named(tmp_path):
    torch.save(weights(), tmp_path / "file.pth")
    with pytest.raises(CheckpointError, match="No such file"):
        load_any_checkpoint(tmp_path / "file.pth", tmp_path / "none.json")


def test_no_code_in_a_file_runs(tmp_path):
    """A scheduler's bound method is how OpenSTL's own files look; a command looks no different."""
    marker = tmp_path / "ran"
    torch_of_then = OldTorch(16, "cuda:0")
    tensors = {name: torch_of_then._tensor(value.numpy()) for name, value in weights().items()}
    content = {
        "epoch": 1,
        "state_dict": torch_of_then._ordered(tensors),
        "optimizer": Made(Name("collections", "defaultdict"), (Name("builtins", "dict"),)),
        "scheduler": {
            "anneal_func": Made(Name("builtins", "getattr"), (Made(Name("torch.optim.lr_scheduler", "OneCycleLR")), "step")),
            "command": Made(Name("os", "system"), (f"touch {marker}",)),
        },
    }
    (tmp_path / "latest.pth").write_bytes(zip_file(content, torch_of_then.storages))
    (tmp_path / "settings.json").write_text(json.dumps(settings(dialect="left out")))
    checkpoint = load_any_checkpoint(tmp_path / "latest.pth", tmp_path / "settings.json")
    assert checkpoint.config.model.dialect == "openstl-0.3"
    torch.testing.assert_close(checkpoint.weights["conv_last.weight"], weights()["conv_last.weight"])
    assert not marker.exists()


def test_checkpoints_of_other_people_with_similar_names_are_not_openstls(tmp_path):
    """Such as ConvLSTM implementations with one convolution for all gates."""
    others = {"cell_list.0.conv.weight": torch.zeros(4, 2, 3, 3), "cell_list.0.conv.bias": torch.zeros(4)}
    assert "its weights are not those of a model that svg-edge has" in refusal(tmp_path, others)
