"""BatchNorm recalibration: pooled statistics, repair of a spoiled model, and the command."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from torch import nn

from svg_common.errors import SvgError, UsageError
from svg_export import recalibrate
from svg_export.hub.model_card import model_card
from svg_export.recalibrate import Moments, closed_loop_statistics, recalibrate_checkpoint, true_frame_statistics
from svg_runtime.bundle.reader import Bundle
from svg_runtime.bundle.remote.addresses import HubAddress
from svg_train.checkpoint import Checkpoint, load_checkpoint
from svg_train.config import build_config
from svg_train.data import open_data
from svg_train.data.loading import collate, to_unit
from svg_train.evaluation import evaluate, held_out
from svg_train.families.svg.model import SVG
from tests.conftest import TINY, random_model, save_model

ESTIMATES = [true_frame_statistics, closed_loop_statistics]
HORIZON = 3
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def batch_norms(model: nn.Module) -> dict[str, nn.BatchNorm2d]:
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}


def spoil(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Running variances 4 times too large: every layer's output is half as strong as it was trained to be."""
    return {name: value * 4 if name.endswith("running_var") else value for name, value in weights.items()}


@pytest.fixture(scope="module")
def digits():
    config = build_config({"model": TINY})
    return held_out(open_data(config, "train", TINY["n_past"] + HORIZON), 20)


@pytest.fixture(scope="module")
def trained() -> Checkpoint:
    """A tiny model after a few seconds of training, enough that its forecasts beat a black picture."""
    config = build_config({"model": TINY, "train": {"n_future": HORIZON}})
    data = open_data(config, "train", config.sequence_length)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = SVG(config.model).train()
    optimizer = torch.optim.Adam(model.parameters(), 4e-3)
    for step in range(60):
        x = to_unit(collate([data[8 * step + i] for i in range(8)]))
        output = model(x, torch.randn(len(x) - 1, 8, TINY["z_dim"]))
        optimizer.zero_grad()
        (output.mse + 1e-4 * output.kl).backward()
        optimizer.step()
    return Checkpoint(config, model.state_dict(), step=60, frame_interval_s=0.1, metrics={"psnr_best": 1.0})


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(recalibrate, "EVALUATED_SEQUENCES", 16)
    monkeypatch.setattr(recalibrate, "EVALUATED_SAMPLES", 2)


def test_batches_are_pooled_exactly_even_when_their_means_lie_apart():
    layer, batches = nn.BatchNorm2d(3), [torch.randn(n, 3, 4, 5) * n + 1000 * n for n in (1, 7, 2)]
    moments = Moments.of(layer)
    for batch in batches:
        moments.add(batch)
    moments.store(layer)
    values = torch.cat([batch.double().transpose(0, 1).flatten(1) for batch in batches], dim=1)
    torch.testing.assert_close(layer.running_mean, values.mean(1).float())
    torch.testing.assert_close(layer.running_var, values.var(1).float())
    assert layer.num_batches_tracked == 3


@pytest.mark.parametrize("estimate", ESTIMATES)
def test_statistics_are_those_of_all_activations(tiny_model, digits, estimate, monkeypatch):
    monkeypatch.setattr(recalibrate, "_TRUE_FRAMES_BATCH", 7)
    monkeypatch.setattr(recalibrate, "_CLOSED_LOOP_BATCH", 7)
    seen: list[list[torch.Tensor]] = []  # per layer
    moment_hook = recalibrate._moment_hook

    def recording(moments):
        seen.append(activations := [])
        add = moment_hook(moments)
        return lambda layer, inputs: (activations.append(inputs[0].clone()), add(layer, inputs))[1]

    monkeypatch.setattr(recalibrate, "_moment_hook", recording)
    layers = batch_norms(estimate(tiny_model, digits))
    frames = {"encoder": TINY["n_past"] + HORIZON, "decoder": TINY["n_past"] + HORIZON - 1}
    if estimate is closed_loop_statistics:  # the context and all forecasts but the last are read, the forecasts are drawn
        frames = {"encoder": TINY["n_past"] + HORIZON - 1, "decoder": HORIZON}
    for (name, layer), activations in zip(layers.items(), seen, strict=True):
        x = torch.cat(activations).double()
        assert len(x) == 20 * frames[name.split(".")[0]]
        torch.testing.assert_close(layer.running_mean.double(), x.mean((0, 2, 3)), atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(layer.running_var.double(), x.var((0, 2, 3)), atol=1e-6, rtol=1e-5)


def test_first_layer_of_true_frames_against_plain_torch(tiny_model, digits):
    convolution = tiny_model.encoder.stages[0][0]
    with torch.no_grad():
        x = convolution(to_unit(digits).flatten(0, 1))
    layer = true_frame_statistics(tiny_model, digits).encoder.stages[0][1]
    torch.testing.assert_close(layer.running_mean, x.mean((0, 2, 3)), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(layer.running_var, x.var((0, 2, 3)), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("estimate", ESTIMATES)
def test_only_statistics_change_and_old_ones_have_no_part(tiny_model, digits, estimate):
    original = {name: value.clone() for name, value in tiny_model.state_dict().items()}
    new = estimate(tiny_model, digits)
    assert {name for name, value in tiny_model.state_dict().items() if not torch.equal(value, original[name])} == set()
    changed = {name for name, value in new.state_dict().items() if not torch.equal(value, original[name])}
    assert changed == {f"{layer}.{name}" for layer in batch_norms(new) for name in STATISTICS}
    assert not any(module.training for module in new.modules())
    spoiled = random_model()
    spoiled.load_state_dict(spoil(original))
    again = estimate(spoiled, digits).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in new.state_dict().items())


@pytest.mark.parametrize("estimate", ESTIMATES)
@pytest.mark.parametrize(
    "shape", [{"prior": "none"}, {"prior": "fixed", "backbone": "vgg"}, {"last_frame_skip": True}], ids=str
)
def test_every_variant_has_statistics(digits, estimate, shape):
    model = random_model(**shape)
    layers = batch_norms(estimate(model, digits[:, :16]))
    old = batch_norms(model)
    assert layers.keys() == old.keys()
    assert all(layer.running_var.isfinite().all() and (layer.running_var > 0).any() for layer in layers.values())
    assert not any(torch.equal(layers[name].running_mean, old[name].running_mean) for name in layers)


def test_values_that_are_not_finite_are_refused(digits):
    model = random_model()
    with torch.no_grad():
        model.decoder.head[0].weight[0] = math.inf
    with pytest.raises(SvgError, match="not finite"):
        true_frame_statistics(model, digits)


def test_spoiled_model_is_repaired(trained, quick, logged):
    spoiled = replace(trained, weights=spoil(trained.weights))
    result = recalibrate_checkpoint(spoiled, {"name": "digits"}, 24)
    held = held_out(open_data(trained.config, "test", trained.config.sequence_length), 16)
    unspoiled = evaluate(trained.build(), held, 2, HORIZON).metrics()
    assert result.before == evaluate(spoiled.build(), held, 2, HORIZON).metrics()
    assert result.after == evaluate(result.checkpoint.build(), held, 2, HORIZON).metrics()
    assert result.before["psnr_best"] < unspoiled["psnr_best"] - 1
    assert result.after["psnr_best"] > unspoiled["psnr_best"] - 0.3
    assert result.candidates[result.chosen] == max(result.candidates.values())
    assert [message.split()[1] for message in logged.messages] == ["estimating", "forecasting"]


def test_checkpoint_carries_the_metrics_and_no_stale_ones(trained, quick):
    resumable = replace(trained, training={"weights": {}})
    result = recalibrate_checkpoint(resumable, {"name": "digits"}, 24)
    metrics = result.checkpoint.metrics
    assert metrics["psnr_best"] == result.after["psnr_best"]
    assert metrics["psnr_best_before"] == result.before["psnr_best"]
    assert metrics["bn_recalibrated_sequences"] == result.sequences == 24
    assert result.checkpoint.training is None


def test_report_says_plainly_when_it_is_worse(trained, quick):
    result = recalibrate_checkpoint(trained, {"name": "digits"}, 16)
    worse = replace(result, after={**result.before, "psnr_best": result.before["psnr_best"] - 0.5})
    assert "0.50 dB worse than before" in worse.lines()[-1]
    assert "--bn running" in worse.lines()[-1]
    better = replace(result, after={**result.before, "psnr_best": result.before["psnr_best"] + 0.5})
    assert "changed by +0.50 dB" in better.lines()[-1]


def test_data_are_as_in_training_unless_named(trained, quick):
    two = replace(trained, config=build_config({"data": {"num_digits": 2}}, trained.config.model_dump(exclude={"data"})))
    same = recalibrate_checkpoint(two, {"name": "digits", "num_digits": None}, 16)
    named = recalibrate_checkpoint(two, {"name": "digits", "num_digits": 1}, 16)
    assert "2 procedural digits" in same.data
    assert "1 procedural digit" in named.data
    assert same.before["psnr_repeat"] != named.before["psnr_repeat"]


def write_video(path: Path, frames: int) -> Path:
    """Gray noise frames, lossless."""
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "gray"
        for _ in range(frames):
            image = rng.integers(0, 256, (64, 64), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="gray")))
        container.mux(stream.encode())
    return path


def test_video_gives_statistics_when_it_is_long_enough(trained, quick, tmp_path):
    data = {"name": "video", "cache": str(tmp_path / "cache")}
    long, short = write_video(tmp_path / "long.mkv", 60), write_video(tmp_path / "short.mkv", 21)
    result = recalibrate_checkpoint(trained, {**data, "root": str(long), "test_fraction": 0.3}, 1000)
    assert 16 <= result.sequences <= 42 - trained.config.sequence_length + 1
    assert "1 file" in result.data
    with pytest.raises(SvgError, match="at least 16 training sequences"):
        recalibrate_checkpoint(trained, {**data, "root": str(short), "test_fraction": 0.4}, 1000)
    with pytest.raises(UsageError, match="--data-root"):
        recalibrate_checkpoint(trained, {**data, "root": None}, 1000)


def test_command_exports_a_recalibrated_bundle(tiny_model, tmp_path, svg_export, quick):
    checkpoint = save_model(tmp_path / "model.pt", tiny_model, train={"n_future": HORIZON})
    options = ("--bn", "recalibrate", "--data", "digits", "--num-digits", "2", "--bn-sequences", "20", "--json", "s.json")
    code, messages = svg_export("model.pt", *options, "--no-fused", "--save-checkpoint", "new.pt")
    assert code == 0, messages
    again = recalibrate_checkpoint(load_checkpoint(checkpoint), {"name": "digits", "num_digits": 2}, 20)
    assert json.loads((tmp_path / "s.json").read_text())["batch_norm"] == again.summary()
    manifest = Bundle.open(tmp_path / "model.svgb").manifest
    assert manifest.provenance.metrics == again.checkpoint.metrics
    assert manifest.provenance.metrics["bn_recalibrated_sequences"] == 20
    card = model_card(manifest, HubAddress("ada/cam"), None)
    best = [f"{metrics['psnr_best']:.4g}" for metrics in (again.after, again.before)]
    assert f"| PSNR of the best sample, dB | {' | '.join(best)} |" in card
    assert "estimated anew (`--bn recalibrate`), on 20 training sequences" in card
    for untrue in ("during training", "same bytes", "\\_before", "bn\\_"):
        assert untrue not in card
    saved = load_checkpoint(tmp_path / "new.pt").weights
    assert all(torch.equal(value, saved[name]) for name, value in again.checkpoint.weights.items())
    for line in again.lines():
        assert line in messages


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--bn", "recalibrate"], "add --data"),
        (["--data", "digits"], "only --fp16, --bf16 and --bn recalibrate use data"),
        (["--data-root", "x", "--num-digits", "1"], "remove --data-root --num-digits"),
        (["--bn-sequences", "20"], "add --bn recalibrate"),
        (["--fp16", "--bn-sequences", "20"], "add --bn recalibrate"),
        (["--bn", "recalibrate", "--data", "cats"], "'digits'"),
        (["--bn", "recalibrate", "--data", "digits", "--bn-sequences", "2"], "16"),
        (["--bn", "batch"], "recalibrate"),
        (["--json", "tiny.svgb/manifest.json"], "--json would overwrite 'tiny.svgb/manifest.json'"),
    ],
)
def test_mistakes_are_usage_errors(tiny_checkpoint, tmp_path, svg_export, arguments, message):
    code, messages = svg_export(str(tiny_checkpoint), *arguments)
    assert code == 2, messages
    assert message in messages
    assert list(tmp_path.iterdir()) == []


def test_folder_that_is_not_a_bundle_is_refused_before_the_work(tiny_checkpoint, tmp_path, svg_export, monkeypatch):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "holiday.txt").write_text("here")
    monkeypatch.setattr(recalibrate, "recalibrate_checkpoint", None)  # calling it would be another error
    code, messages = svg_export(str(tiny_checkpoint), "--bn", "recalibrate", "--data", "digits", "--out", "photos")
    assert (code, "not a bundle" in messages) == (2, True), messages
