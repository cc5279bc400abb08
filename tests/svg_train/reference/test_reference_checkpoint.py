"""Import of the reference implementation's checkpoints: every backbone, every age of torch, and what is wrong with a file."""

from __future__ import annotations

import argparse
import json
import re

import numpy as np
import pytest
import torch

from benchmarks.reference_networks import Decoder, Encoder, Lstm, build, generate
from svg_common.errors import UsageError
from svg_export.cli import export
from svg_runtime.forecast.forecaster import Forecaster
from svg_train.checkpoint import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint
from svg_train.config import build_config
from svg_train.reference.checkpoint import ReferenceCheckpointError, load_any_checkpoint
from tests.conftest import random_model
from tests.sample import sampled
from tests.svg_train.reference.reference_files import OldTorch, options, write_checkpoint, write_parts


def probe_inputs(channels: int, size: int, z_dim: int, n_past: int = 3, batch: int = 2, horizon: int = 4):
    rng = torch.Generator().manual_seed(1)
    x = torch.rand(n_past, batch, channels, size, size, generator=rng)
    return x, torch.randn(horizon, batch, z_dim, generator=rng), torch.randn(n_past - 1, batch, z_dim, generator=rng)


CASES = {
    "dcgan64 learned prior, torch 0.3 on CUDA": ({}, OldTorch(3, "cuda:0"), "stream", {"dataset": "smmnist", "num_digits": 2}),
    "dcgan128 fixed prior, torch 1.6": (
        {"backbone": "dcgan", "image_size": 128, "prior": "fixed", "channels": 3}, OldTorch(16, "cuda:1"), "zip", {},
    ),
    "vgg64 learned prior, torch 0.4, three layers": (
        {"backbone": "vgg", "channels": 3, "layers": (3, 2, 1)}, OldTorch(4, "cuda:0"), "stream", {"dataset": "bair"},
    ),
    "vgg128 learned prior, last_frame_skip, Variables and views of torch 0.1": (
        {"backbone": "vgg", "image_size": 128}, OldTorch(1), "stream", {"last_frame_skip": True},
    ),
    "double precision": ({}, OldTorch(16, dtype="float64"), "zip", {}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_import_computes_what_the_reference_computes(case, tmp_path):
    sizes, torch_of_then, container, given = case
    parts = build(**sizes)
    path = write_checkpoint(tmp_path / "model.pth", parts, torch_of_then, container, **given)
    imported = load_any_checkpoint(path)
    model = imported.config.model
    assert (model.prior, model.skip_lag, model.n_past, model.nf) == (sizes.get("prior", "learned"), 1, 3, 2)
    x, noise, context_noise = probe_inputs(model.channels, model.image_size, model.z_dim)
    expected = generate(parts, x, noise, context_noise, model.last_frame_skip)
    assert expected.std(1).mean() > 1e-3, "samples that do not differ prove nothing"
    torch.testing.assert_close(imported.build().generate(x, noise, context_noise), expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize(
    "given",
    [
        {"dataset": "smmnist", "num_digits": 9, "lr": 0, "seed": -1, "n_future": 0, "batch_size": "many", "beta": -1.0},
        {"image_width": 64.0, "z_dim": "3", "n_past": "3"},
    ],
)
def test_what_only_training_needs_may_be_anything_and_numbers_may_be_text(given, tmp_path):
    """smmnist in colour is a data set that we do not have."""
    checkpoint = load_any_checkpoint(write_checkpoint(tmp_path / "a.pth", build(channels=3), OldTorch(4), **given))
    model = checkpoint.config.model
    assert (model.channels, model.image_size, model.z_dim, model.n_past) == (3, 64, 3, 3)
    assert checkpoint.config.data.name == ("video" if "dataset" in given else "kth")


def test_modules_of_todays_torch_and_data_parallel_wrappers(tmp_path):
    parts = build()
    wrapped = {name: torch.nn.DataParallel(part) for name, part in parts.items()}
    opt = argparse.Namespace(**{**options(parts), "optimizer": torch.optim.Adam})
    torch.save({**wrapped, "opt": opt}, tmp_path / "zip.pth")
    torch.save({**parts, "opt": opt}, tmp_path / "stream.pth", _use_new_zipfile_serialization=False)
    states = {name: part.state_dict() for name, part in parts.items()}
    torch.save({**states, "opt": vars(opt)}, tmp_path / "states.pth", pickle_protocol=4)
    first, *others = (load_any_checkpoint(tmp_path / f"{name}.pth") for name in ("zip", "stream", "states"))
    for other in others:
        assert other.config == first.config
        torch.testing.assert_close(other.weights, first.weights, atol=0, rtol=0)
    x, noise, context_noise = probe_inputs(1, 64, 3)
    expected = generate(parts, x, noise, context_noise, False)
    torch.testing.assert_close(first.build().generate(x, noise, context_noise), expected, atol=2e-5, rtol=0)


def test_half_precision_is_widened(tmp_path):
    parts = build()
    imported = load_any_checkpoint(write_checkpoint(tmp_path / "half.pth", parts, OldTorch(4, dtype="float16")))
    given = imported.weights["predictor.core.embed.weight"]
    assert given.dtype == torch.float32
    torch.testing.assert_close(given, parts["frame_predictor"].embed.weight.detach().half().float())


def test_a_predictor_that_reads_the_encoding_alone_is_deterministic(tmp_path):
    path = write_checkpoint(tmp_path / "det.pth", build(prior="none"), OldTorch(4))
    model = load_any_checkpoint(path).config.model
    assert (model.prior, model.z_dim, model.posterior_layers, model.prior_layers) == ("none", 0, 0, 0)


def test_options_reach_the_configuration(tmp_path):
    path = write_checkpoint(tmp_path / "a.pth", build(), OldTorch(3), dataset="smmnist", num_digits=2, beta=1e-5, n_future=12)
    config = load_any_checkpoint(path).config
    assert (config.data.name, config.data.num_digits) == ("smmnist", 2)
    assert (config.train.beta, config.train.n_future, config.train.lr, config.train.batch_size) == (1e-5, 12, 0.002, 100)
    other = write_checkpoint(tmp_path / "b.pth", build(), OldTorch(3), dataset="suncg")
    assert load_any_checkpoint(other).config.data.name == "video"


def test_shapes_replace_missing_options(tmp_path):
    left_out = dict.fromkeys(("model", "image_width", "channels", "g_dim", "z_dim", "rnn_size", "predictor_rnn_layers"))
    path = write_checkpoint(tmp_path / "a.pth", build(), OldTorch(4), **left_out)
    model = load_any_checkpoint(path).config.model
    assert (model.g_dim, model.z_dim, model.rnn_size, model.predictor_layers, model.channels) == (6, 3, 8, 2, 1)


def test_all_missing_and_contradictory_parts_are_in_one_message(tmp_path):
    parts = build(layers=(2, 1, 1))
    del parts["encoder"].c2.main[0]._parameters["bias"]
    parts["decoder"].upc3.main[0].weight = torch.nn.Parameter(torch.zeros(16, 5, 4, 4))
    parts["prior"].extra = torch.nn.Linear(2, 2)
    parts["posterior"].embed.weight.data[0, 0] = float("nan")
    path = write_checkpoint(tmp_path / "a.pth", parts, OldTorch(4), z_dim=7, model="vgg", predictor_rnn_layers=True)
    with pytest.raises(ReferenceCheckpointError) as caught:
        load_any_checkpoint(path)
    message = str(caught.value)
    for expected in (
        "opt.model is 'vgg', but the parameters imply dcgan",
        "opt.z_dim is 7, but the parameters imply 3",
        "opt.predictor_rnn_layers is True, but the parameters imply 2",
        "encoder.c2.main.0.bias: missing, expected (4,)",
        "decoder.upc3.main.0.weight: given (16, 5, 4, 4), expected (16, 4, 4, 4)",
        "prior.extra.weight: unexpected, (2, 2)",
    ):
        assert expected in message
    assert str(path) in message


@pytest.mark.parametrize(
    ("missing", "messages"),
    [
        ({"encoder", "opt"}, ["encoder: missing", "opt: missing", "opt.n_past is missing", "opt.last_frame_skip is missing"]),
        ({"posterior", "prior"}, ["posterior: missing"]),
        (
            {"encoder", "decoder", "frame_predictor", "posterior"},
            ["encoder: missing", "decoder: missing", "frame_predictor: "],
        ),
    ],
)
def test_missing_parts_are_named(missing, messages, tmp_path):
    states = {name: part.state_dict() for name, part in build().items() if name not in missing}
    opt = {} if "opt" in missing else {"opt": {"n_past": 3, "last_frame_skip": False}}
    torch.save({**states, **opt}, tmp_path / "a.pth")
    with pytest.raises(ReferenceCheckpointError) as caught:
        load_any_checkpoint(tmp_path / "a.pth")
    assert all(message in str(caught.value) for message in messages), caught.value


@pytest.mark.parametrize(
    ("sizes", "given", "theirs", "ours"),
    [
        ({"channels": 2}, {}, "opt.channels is 2", "model.channels: Input should be 1 or 3"),
        ({"channels": 2}, {"channels": None}, "opt.channels is 2", "model.channels: Input should be 1 or 3"),
        ({}, {"n_past": 1}, "opt.n_past is 1", "model.n_past: Input should be greater than or equal to 2"),
        ({}, {"n_past": 5000}, "opt.n_past is 5000", "model.n_past: Input should be less than or equal to 1024"),
        ({}, {"last_frame_skip": "maybe"}, "opt.last_frame_skip is 'maybe'", "model.last_frame_skip"),
    ],
)
def test_limits_are_said_with_the_names_of_the_settings_in_the_file(sizes, given, theirs, ours, tmp_path):
    path = write_checkpoint(tmp_path / "a.pth", build(**sizes), OldTorch(4), **given)
    with pytest.raises(ReferenceCheckpointError) as caught:
        load_any_checkpoint(path)
    reason, problem, advice = str(caught.value).splitlines()
    assert reason.endswith("a checkpoint of the reference implementation, of a model beyond the limits of svg-edge:")
    assert problem.strip().startswith(f"{theirs}, which svg-edge does not take: {ours}")
    assert "correct them" in advice


@pytest.mark.parametrize(
    ("layer", "missing", "told"),
    [
        ("encoder.c1", 6, False), ("encoder.c2", 6, True), ("decoder.upc1", 6, True), ("frame_predictor.embed", 2, True),
        ("frame_predictor.lstm", 8, True), ("frame_predictor.lstm.0", 4, True), ("frame_predictor.lstm.1", 4, True),
        ("prior.lstm", 4, True),
    ],
)  # fmt: skip
def test_a_layer_that_is_missing_is_named(layer, missing, told, tmp_path):
    """Where nothing else tells the sizes that it has, none are guessed."""
    parts = build()
    whole = {f"{part}.{name}": value for part, module in parts.items() for name, value in module.state_dict().items()}
    kept = {name: value for name, value in whole.items() if not name.startswith(f"{layer}.")}
    torch.save({"state_dict": kept, "opt": options(parts)}, tmp_path / "a.pth")
    with pytest.raises(ReferenceCheckpointError) as caught:
        load_any_checkpoint(tmp_path / "a.pth")
    message = str(caught.value)
    first = next(name for name in whole if name.startswith(f"{layer}."))
    assert f"{first}: missing" in message
    assert (f"{first}: missing, expected {tuple(whole[first].shape)}" in message) is told
    assert re.search(rf"a whole layer is missing, {layer}[.\w]*: {missing} of 88 weights; the file is not whole", message)
    assert "given" not in message


@pytest.mark.parametrize(
    ("name", "shape", "option"),
    [
        ("encoder.c1.main.0.weight", (2,), "channels"), ("frame_predictor.embed.weight", (), "rnn_size"),
        ("posterior.mu_net.weight", (), "z_dim"),
    ],
)  # fmt: skip
def test_a_weight_of_another_shape_is_refused_also_where_it_tells_a_size(name, shape, option, tmp_path):
    parts = build()
    whole = {f"{part}.{key}": value for part, module in parts.items() for key, value in module.state_dict().items()}
    given = {key: value for key, value in options(parts).items() if key != option}
    torch.save({"state_dict": {**whole, name: torch.ones(shape)}, "opt": given}, tmp_path / "a.pth")
    with pytest.raises(ReferenceCheckpointError, match=rf"{re.escape(name)}: given {re.escape(str(shape))}, expected "):
        load_any_checkpoint(tmp_path / "a.pth")


@pytest.mark.parametrize("stated", [True, False])
def test_a_learned_prior_that_is_missing_is_not_replaced_by_a_fixed_one(stated, tmp_path):
    """The reference's program for fixed priors has no such option."""
    parts = build()
    opt = {name: value for name, value in options(parts).items() if stated or name != "prior_rnn_layers"}
    del parts["prior"]
    path = write_parts(tmp_path / "a.pth", parts, opt, OldTorch(4))
    if stated:
        with pytest.raises(ReferenceCheckpointError, match=r"prior: missing, although opt\.prior_rnn_layers is 1"):
            load_any_checkpoint(path)
    else:
        assert load_any_checkpoint(path).config.model.prior == "fixed"


def test_numbers_that_are_not_finite_are_refused(tmp_path):
    parts = build()
    parts["posterior"].embed.weight.data[0, 0] = float("nan")
    with pytest.raises(ReferenceCheckpointError, match=r"posterior\.embed\.weight: contains values that are not finite"):
        load_any_checkpoint(write_checkpoint(tmp_path / "a.pth", parts, OldTorch(4)))


def test_a_checkpoint_of_ours_is_recognised_by_its_content(tiny_checkpoint, tmp_path):
    disguised = tmp_path / "reference.pth"
    disguised.write_bytes(tiny_checkpoint.read_bytes())
    assert load_any_checkpoint(disguised).config == load_checkpoint(tiny_checkpoint).config


def test_a_checkpoint_with_training_state_is_recognised_too(tmp_path):
    model = random_model()  # of its own: the step changes it
    optimizer = torch.optim.Adam(model.parameters())
    sum(parameter.sum() for parameter in model.parameters()).backward()
    optimizer.step()
    config = build_config({"model": model.config.model_dump()})
    schedule = {"rng": torch.get_rng_state()}
    training = {"weights": {}, "optimizer": optimizer.state_dict(), "schedule": schedule, "averaged": 0, "best": 0.0}
    save_checkpoint(tmp_path / "last.pt", Checkpoint(config, model.state_dict(), training=training))
    assert load_any_checkpoint(tmp_path / "last.pt").training is not None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"noise" * 99, "nor any other file of torch.save"),
        (b"", "nor any other file of torch.save"),
        (b"\0" * 257 + b"ustar" + b"\0" * 250, "before 0.1.10"),
    ],
)
def test_other_files_are_refused_with_what_was_expected(content, message, tmp_path):
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        load_any_checkpoint(tmp_path / "a.pth")


def test_missing_file_says_how_to_make_one(tmp_path):
    with pytest.raises(CheckpointError, match="svg-train"):
        load_any_checkpoint(tmp_path / "none.pth")


@pytest.fixture(params=sampled(["random", "golden"], ["random"]))
def rollout(request, tmp_path):
    """A checkpoint, and arrays of what the reference makes of it: of random networks, or the golden one, which are large."""
    if request.param == "golden":
        golden = request.getfixturevalue("shared_data") / "golden" / "reference_dcgan64_lp.pth"
        stored = np.load(golden.with_suffix(".npz"))
        return golden, *(stored[name] for name in ("frames", "noise", "context_noise", "expected"))
    parts = build(nf=4)
    x, noise, context_noise = probe_inputs(1, 64, 3)
    expected = generate(parts, x[:, :1].repeat(1, 2, 1, 1, 1), noise, context_noise, False).transpose(0, 1)
    path = write_checkpoint(tmp_path / "reference.pth", parts, OldTorch(3, "cuda:0"))
    return path, x[:, 0].numpy(), noise.numpy(), context_noise.numpy(), expected.numpy()


def test_command_deploys_a_reference_checkpoint(rollout, tmp_path, monkeypatch):
    """In one export, which is slow: the bundle's roll-out, the summary, and the converted checkpoint."""
    monkeypatch.chdir(tmp_path)
    path, frames, noise, context_noise, expected = rollout
    export(None, path, fused=False, save_checkpoint=tmp_path / "converted.pt", json=tmp_path / "summary.json")
    bundle = tmp_path / f"{path.stem}.svgb"
    assert json.loads((tmp_path / "summary.json").read_text())["bundle"] == bundle.name
    np.testing.assert_allclose(run_bundle(bundle, frames, noise, context_noise), expected, atol=1e-4)
    converted = load_checkpoint(tmp_path / "converted.pt").build()
    x = torch.from_numpy(frames)[:, None].repeat(1, noise.shape[1], 1, 1, 1)
    generated = converted.generate(x, torch.from_numpy(noise), torch.from_numpy(context_noise))
    np.testing.assert_allclose(generated.transpose(0, 1), expected, atol=1e-4)


def test_command_does_not_overwrite_what_it_exports(tmp_path):
    path = write_checkpoint(tmp_path / "model.pth", build(), OldTorch(3))
    (tmp_path / "link.pth").symlink_to(path)
    with pytest.raises(UsageError, match="overwrite"):
        export(None, path, save_checkpoint=tmp_path / "link.pth")


def run_bundle(bundle, frames, noise, context_noise):
    """frames (n, C, H, W) -> forecasts (samples, horizon, C, H, W) of the Forecaster."""
    with Forecaster.open(bundle, backend="cpu", samples=noise.shape[1], horizon=len(noise)) as forecaster:
        for frame in frames:
            forecaster.observe(np.moveaxis(frame, 0, -1))
        return np.moveaxis(forecaster.forecast(noise=noise, context_noise=context_noise), -1, -3)


def test_golden_checkpoint_has_the_expected_configuration(shared_data):
    config = load_any_checkpoint(shared_data / "golden" / "reference_dcgan64_lp.pth").config
    assert (config.model.nf, config.model.g_dim, config.model.z_dim, config.model.rnn_size) == (64, 32, 10, 64)
    assert (config.data.name, config.data.num_digits, config.train.n_future) == ("smmnist", 2, 10)


@pytest.mark.parametrize("backbone", ["dcgan", "vgg"])
@pytest.mark.parametrize("image_size", [64, 128])
def test_stand_ins_have_the_names_and_shapes_of_the_reference(shared_data, backbone, image_size):
    modules = json.loads((shared_data / "golden" / "reference_keys.json").read_text())["modules"]
    with torch.device("meta"):
        sizes = (backbone, image_size, 3, 64, 128)
        given = {"encoder": Encoder(*sizes), "decoder": Decoder(*sizes)}
        recurrent = {"frame_predictor": Lstm(138, 128, 256, 2, False), "posterior_and_prior": Lstm(128, 10, 256, 1, True)}
    wanted = modules[f"{backbone}_{image_size}"] | {name: modules[name] for name in recurrent}
    for name, module in {**given, **recurrent}.items():
        assert {key: list(value.shape) for key, value in module.state_dict().items()} == wanted[name]
