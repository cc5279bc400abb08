"""Checkpoints: round trip, atomic writes, and hostile or damaged files."""

from __future__ import annotations

import errno
import os
import pickle
import random
from dataclasses import replace

import pytest
import torch

from svg_train.checkpoint import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint
from tests.conftest import random_model, save_model


def test_round_trip_gives_the_same_model(tiny_checkpoint, tiny_model):
    loaded = load_checkpoint(tiny_checkpoint)
    assert loaded.config.model == tiny_model.config
    assert (loaded.step, loaded.frame_interval_s) == (7, 0.1)
    x, noise, past = torch.rand(3, 2, 1, 64, 64), torch.randn(2, 2, 4), torch.randn(2, 2, 4)
    torch.testing.assert_close(loaded.build().generate(x, noise, past), tiny_model.generate(x, noise, past), rtol=0, atol=0)


def test_file_loads_with_weights_only(tiny_checkpoint):
    content = torch.load(tiny_checkpoint, weights_only=True)
    assert content["config"]["model"]["nf"] == 4


class _Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("writer", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_pickle_with_code_is_refused_and_not_run(tmp_path, writer):
    ran, file = tmp_path / "ran", tmp_path / "evil.pt"
    writer({"format": "svg-edge-checkpoint", "version": 1, "weights": _Bomb(ran)}, file)
    with pytest.raises(CheckpointError, match=r"evil\.pt"):
        load_checkpoint(file)
    assert not ran.exists()
    # The bomb is a real one: a plain unpickler would have run it.
    if writer is not torch.save:
        pickle.loads(file.read_bytes())
        assert ran.exists()


def test_random_files_are_refused(tmp_path):
    """Among them every first instruction that a pickle could have."""
    file, rng = tmp_path / "random.pt", random.Random(0)
    pickles = [bytes([first]) + rng.randbytes(500) for first in range(256)]
    for content in (b"", b"PK\x03\x04 not a zip", b"hello world\n" * 50, *pickles):
        file.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"random\.pt"):
            load_checkpoint(file)


@pytest.mark.parametrize("share", [0.05, 0.5, 0.95, 0.999])
def test_truncated_file_is_refused(tmp_path, tiny_checkpoint, share):
    content = tiny_checkpoint.read_bytes()
    file = tmp_path / "cut.pt"
    file.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(CheckpointError, match="damaged, truncated"):
        load_checkpoint(file)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], r"is not an svg-edge checkpoint\n"),
        ({"format": "other"}, r"is not an svg-edge checkpoint\n"),
        ({"format": "svg-edge-checkpoint", "version": 99}, "version 99"),
        ({"format": "svg-edge-checkpoint", "version": "1" * 100_000}, r"version '1{39}; this svg-edge"),
        ({"format": "svg-edge-checkpoint", "version": 1, "weights": {"a": 1}}, "contains no weights"),
        ({"format": "svg-edge-checkpoint", "version": 1, "weights": {}, "config": {"model": {"nff": 3}}}, r"model\.nff"),
        ({"format": "svg-edge-checkpoint", "version": 1, "weights": {}, "config": {}, "step": "many"}, "step"),
    ],
)
def test_other_contents_are_refused(tmp_path, content, message):
    file = tmp_path / "other.pt"
    torch.save(content, file)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(file)


def test_missing_file_says_how_to_make_one(tmp_path):
    with pytest.raises(CheckpointError, match="svg-train"):
        load_checkpoint(tmp_path / "none.pt")


def test_an_older_checkpoint_that_says_variant_stays_readable(tmp_path):
    path = save_model(tmp_path / "ckpt.pt", random_model(prior="fixed"))
    content = torch.load(path, weights_only=True)
    assert content["config"]["model"].pop("prior") == "fixed"
    content["config"]["model"]["variant"] = "fp"
    torch.save(content, tmp_path / "older.pt")
    assert load_checkpoint(tmp_path / "older.pt").config == load_checkpoint(path).config


def test_all_misfits_between_weights_and_configuration_are_listed(tmp_path):
    model = random_model()
    weights = model.state_dict()
    del weights["prior.mu.bias"]
    weights["posterior.mu.bias"] = torch.zeros(9)
    weights["stranger"] = torch.zeros(1)
    path = save_model(tmp_path / "a.pt", model)
    broken = Checkpoint(load_checkpoint(path).config, weights)
    with pytest.raises(CheckpointError) as caught:
        broken.build()
    for part in ("missing prior.mu.bias", "posterior.mu.bias: given (9,), expected (4,)", "unexpected stranger"):
        assert part in str(caught.value)


def test_failed_write_keeps_the_old_checkpoint(tmp_path, monkeypatch):
    path = save_model(tmp_path / "ckpt.pt", random_model())
    before = path.read_bytes()

    save = torch.save

    def to_full_disk(value, file):
        file.write(b"half")
        with open("/dev/full", "wb", buffering=0) as full:
            save(value, full)

    monkeypatch.setattr(torch, "save", to_full_disk)
    with pytest.raises(OSError, match="No space left") as error:
        save_checkpoint(path, load_checkpoint(path))
    assert (error.value.errno, error.value.filename) == (errno.ENOSPC, str(path))
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["ckpt.pt"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("g_dim", 10**9),
        ("rnn_size", 10**30),
        ("predictor_layers", 10**7),
        ("prior_layers", 65),
        ("n_past", 1025),
        ("z_dim", 70_000),
    ],
)
def test_a_configuration_of_any_size_costs_nothing(key, value, tiny_checkpoint, tmp_path):
    """A damaged or hostile file must not decide how much memory is taken."""
    content = torch.load(tiny_checkpoint, weights_only=True)
    content["config"]["model"][key] = value
    torch.save(content, tmp_path / "large.pt")
    with pytest.raises(CheckpointError, match=rf"config\.model\.{key}: Input should be less than or equal to"):
        load_checkpoint(tmp_path / "large.pt")


def test_weights_are_compared_before_the_model_is_built(tiny_checkpoint, tmp_path):
    content = torch.load(tiny_checkpoint, weights_only=True)
    content["config"]["model"] |= {"g_dim": 65536, "rnn_size": 65536}  # a predictor of 137 GB
    torch.save(content, tmp_path / "large.pt")
    with pytest.raises(CheckpointError, match="do not match its configuration"):
        load_checkpoint(tmp_path / "large.pt").build()


def test_weights_that_are_views_of_a_few_bytes_are_refused(tiny_checkpoint, tmp_path):
    content = torch.load(tiny_checkpoint, weights_only=True)
    content["weights"] = {
        name: torch.zeros((), dtype=value.dtype).expand(value.shape) for name, value in content["weights"].items()
    }
    torch.save(content, tmp_path / "views.pt")
    with pytest.raises(CheckpointError, match="share the same values"):
        load_checkpoint(tmp_path / "views.pt")


def _changed(tiny_checkpoint, path, **changes):
    torch.save({**torch.load(tiny_checkpoint, weights_only=True), **changes}, path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda value: value.to_sparse(), "is sparse, nested, quantized or without values"),
        (lambda value: torch.quantize_per_tensor(value, 0.1, 0, torch.qint8), "is sparse, nested, quantized or without values"),
        (lambda value: value.to("meta"), "is sparse, nested, quantized or without values"),
        (lambda value: value.to(torch.complex64), "has values of type complex64"),
        (lambda value: value.to(torch.int32), "has values of type int32"),
        (lambda value: value > 0, "has values of type bool"),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_a_tensor_that_is_no_weight_is_named(change, message, tiny_checkpoint, tmp_path):
    weights = torch.load(tiny_checkpoint, weights_only=True)["weights"]
    name = next(iter(weights))
    _changed(tiny_checkpoint, tmp_path / "odd.pt", weights={**weights, name: change(weights[name])})
    with pytest.raises(CheckpointError, match=rf"the weight '{name}' in '.*odd\.pt' {message}\n  expected"):
        load_checkpoint(tmp_path / "odd.pt")


def test_a_weight_without_a_name_is_refused(tiny_checkpoint, tmp_path):
    weights = torch.load(tiny_checkpoint, weights_only=True)["weights"]
    _changed(tiny_checkpoint, tmp_path / "odd.pt", weights={**weights, 5: torch.zeros(2)})
    with pytest.raises(CheckpointError, match=r"the weight 5 in '.*odd\.pt' has a name of type int"):
        load_checkpoint(tmp_path / "odd.pt")


@pytest.mark.parametrize(
    "change", [torch.Tensor.half, torch.Tensor.bfloat16, torch.Tensor.double, lambda value: torch.nn.Parameter(value)]
)
def test_weights_of_any_floating_type_are_float32_without_gradients(change, tiny_checkpoint, tmp_path):
    weights = torch.load(tiny_checkpoint, weights_only=True)["weights"]
    changed = {name: change(value) if value.is_floating_point() else value for name, value in weights.items()}
    _changed(tiny_checkpoint, tmp_path / "other.pt", weights=changed)
    loaded = load_checkpoint(tmp_path / "other.pt")
    assert {value.dtype for value in loaded.weights.values()} == {torch.float32, torch.int64}
    assert not any(value.requires_grad for value in loaded.weights.values())
    for name, value in loaded.weights.items():
        torch.testing.assert_close(value, weights[name], rtol=1e-2, atol=1e-2)
    assert loaded.build()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named_before_any_work(value, tiny_checkpoint, tmp_path):
    weights = torch.load(tiny_checkpoint, weights_only=True)["weights"]
    weights["prior.mu.bias"][0] = value
    _changed(tiny_checkpoint, tmp_path / "nan.pt", weights=weights)
    with pytest.raises(CheckpointError, match=r"values that are not finite: prior\.mu\.bias\n  expected"):
        load_checkpoint(tmp_path / "nan.pt").build()


_TRAINING = {"weights": {}, "optimizer": {}, "schedule": {}, "averaged": 0, "best": float("-inf")}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frame_interval_s": float("nan")}, "frame_interval_s: "),
        ({"frame_interval_s": -1.0}, "frame_interval_s: "),
        ({"frame_interval_s": 0.0}, "frame_interval_s: "),
        ({"frame_interval_s": 1e-9}, "frame_interval_s: "),
        ({"frame_interval_s": 1e6}, "frame_interval_s: "),
        ({"metrics": {"psnr_best": float("inf")}}, r"metrics\.psnr_best: Input should be a finite number"),
        ({"step": -5}, "step: Input should be greater than or equal to 0"),
        ({"training": _TRAINING | {"best": "x"}}, r"training\.best: "),
        ({"training": _TRAINING | {"elapsed_s": "z"}}, r"training\.elapsed_s: "),
        ({"training": _TRAINING | {"averaged": -1}}, r"training\.averaged: "),
        ({"training": {name: value for name, value in _TRAINING.items() if name != "optimizer"}}, r"training\.optimizer: "),
        ({"training": {name: value for name, value in _TRAINING.items() if name != "schedule"}}, r"training\.schedule: "),
        ({"training": _TRAINING | {"weights": {"a": 1}}}, "contains no weights"),
    ],
)
def test_values_that_no_training_writes_are_refused(changes, message, tiny_checkpoint, tmp_path):
    _changed(tiny_checkpoint, tmp_path / "wrong.pt", **changes)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(tmp_path / "wrong.pt")


def test_metrics_that_are_not_finite_are_left_out(tiny_checkpoint, tmp_path):
    checkpoint = replace(load_checkpoint(tiny_checkpoint), metrics={"psnr_best": 20.0, "spread": float("inf")})
    save_checkpoint(tmp_path / "a.pt", checkpoint)
    assert load_checkpoint(tmp_path / "a.pt").metrics == {"psnr_best": 20.0}
