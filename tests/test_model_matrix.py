"""Every family, backbone, size, channel count and prior: trains, exports with parity, and forecasts as PyTorch does."""

from __future__ import annotations

import itertools
import logging
from pathlib import Path
from typing import Any

import av
import numpy as np
import onnx
import pytest
import torch

from svg_export.bundle_writer import write_bundle
from svg_export.drawn_frames import DrawnSequences, digit_frames
from svg_export.parity import TOLERANCE_FP32
from svg_export.precision import HORIZON as GATE_HORIZON
from svg_export.precision import DrawnFrames
from svg_runtime import Forecaster
from svg_runtime.bundle.contract import has_separate
from svg_runtime.bundle.manifest import Manifest
from svg_runtime.bundle.reader import Bundle
from svg_runtime.forecast.noise import NoiseSource
from svg_train.checkpoint import Checkpoint, load_checkpoint
from svg_train.config import build_config
from svg_train.losses import gaussian_kl
from svg_train.train import Trainer
from tests.conftest import export_model, random_model, save_model, without_tracer
from tests.engine_precision import computes_in
from tests.svg_runtime.bundle_helpers import draw, generated
from tests.svg_train.ensemble.test_ensemble_model import model_of
from tests.svg_train.frames.test_frames_model import random_frames_model
from tests.svg_train.srvp.srvp_models import random_srvp
from tests.svg_train.test_data_video import _add_stream
from tests.svg_train.test_train import CPU

SAMPLES, HORIZON, N_PAST = 2, 3, 2
TINY = {"nf": 2, "g_dim": 8, "rnn_size": 12, "n_past": N_PAST}


def layers(index: int, prior: str) -> dict[str, int]:
    """1, 2 or 3 LSTM layers in every part that the model has, one part after the other."""
    parts = {"learned": ("predictor", "posterior", "prior"), "fixed": ("predictor", "posterior"), "none": ("predictor",)}[prior]
    return {f"{part}_layers": 1 + (index + offset) % 3 for offset, part in enumerate(parts)}


MATRIX = [
    {"backbone": backbone, "image_size": size, "channels": channels, "prior": prior, "last_frame_skip": index % 2 == 1,
     "skip_lag": index // 2 % 2, **layers(index, prior)}
    for index, (backbone, size, channels, prior) in enumerate(
        itertools.product(("dcgan", "vgg"), (64, 128), (1, 3), ("learned", "fixed", "none"))
    )
]  # fmt: skip


# Of the default run. The other backbone, with 64 pixels in gray and a learned prior, is in `tiny_bundle` and `fused_bundle`;
# see tests/svg_runtime/forecast/test_forecaster_context.py and test_fused_rollout.py, tests/svg_export/test_export.py.
SAMPLE = {("vgg", 128, 3, "fixed")}


def row(model: dict[str, Any]) -> Any:
    """A parameter of the default run, or of the rest of the matrix."""
    values = tuple(model[key] for key in ("backbone", "image_size", "channels", "prior"))
    marks = () if values in SAMPLE else pytest.mark.slow
    return pytest.param(model, id="-".join(map(str, values)), marks=marks)


@pytest.mark.parametrize("model", [row(model) for model in MATRIX])
def test_trains_exports_and_forecasts(model, tmp_path):
    svg = random_model(**{**TINY, **model})
    c = svg.config
    frames = torch.rand(N_PAST + HORIZON, 1, c.channels, c.image_size, c.image_size)
    _train_one_step(svg, frames)
    checkpoint = save_model(tmp_path / "ckpt.pt", svg, data={"name": "digits" if c.channels == 1 else "video"})
    fused = c.image_size == 64 and c.channels == 1  # every backbone and prior; neither size nor channels concern the fusing
    bundle = export_model(checkpoint, tmp_path / "ckpt.svgb", fused=fused)
    _check_compared(Bundle.open(bundle).manifest, c.prior, fused)
    noise, past = torch.randn(HORIZON, SAMPLES, c.z_dim), torch.randn(N_PAST - 1, SAMPLES, c.z_dim)
    for use_fused in {False, fused}:
        _check_forecast(bundle, svg, frames, noise, past, use_fused)


def _check_compared(manifest: Manifest, prior: str, fused: bool) -> None:
    """The gate has compared the Gaussians of every stochastic SVG with those of the network itself."""
    curves = manifest.variants["fp32"].parity.curves
    assert ("observe.network.posterior.mu" in curves) == (prior != "none")
    assert ("fused.observe.network.prime.posterior_logvar" in curves) == (fused and prior != "none")


def _check_forecast(bundle, svg, frames, noise, past, use_fused):
    c = svg.config
    with Forecaster.open(bundle, samples=SAMPLES, horizon=HORIZON, fused=use_fused) as forecaster:
        assert forecaster.fused == use_fused
        for frame in frames[:N_PAST, 0]:
            observation = forecaster.observe(frame.permute(1, 2, 0).numpy())
        futures = forecaster.forecast(noise=noise.numpy(), context_noise=past.numpy())
        guided = forecaster.reconstruct(
            frames[N_PAST:, 0].permute(0, 2, 3, 1).numpy(), noise=noise[:, :1].numpy(), context_noise=past[:, :1].numpy()
        )
    context = frames[:N_PAST].repeat(1, SAMPLES, 1, 1, 1)
    expected = svg.generate(context, noise, past).permute(1, 0, 3, 4, 2).numpy()
    assert np.abs(futures - expected).max() < TOLERANCE_FP32
    expected = svg.reconstruct(frames, noise[:, :1], past[:, :1])[:, 0].permute(0, 2, 3, 1).numpy()
    assert np.abs(guided - expected).max() < TOLERANCE_FP32
    assert (np.abs(futures[0] - futures[1]).max() > 1e-4) == bool(c.z_dim)  # only a deterministic model has one future
    surprise = _surprise(svg, frames[:N_PAST])
    assert observation.surprise == (None if surprise is None else pytest.approx(surprise, rel=1e-3))


def _train_one_step(svg, frames):
    optimizer = torch.optim.SGD(svg.parameters(), lr=1e-3)
    output = svg.train()(frames, torch.randn(len(frames) - 1, 1, svg.config.z_dim))
    (output.mse + output.kl).backward()
    for parameter_name, parameter in svg.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert torch.isfinite(parameter.grad).all(), parameter_name
    optimizer.step()
    svg.eval()


@torch.no_grad()
def _surprise(svg, frames):
    """KL(posterior || prior) of the last frame, with N(0, I) where the prior is fixed."""
    if svg.posterior is None:
        return None
    h = torch.stack([svg.encoder(frame)[0] for frame in frames])
    mu_q, logvar_q = (values[-1] for values in svg.posterior.sequence(h[1:]))
    mu_p, logvar_p = torch.zeros_like(mu_q), torch.zeros_like(mu_q)
    if svg.prior is not None:
        mu_p, logvar_p = (values[-1] for values in svg.prior.sequence(h[:-1]))
    return float(gaussian_kl(mu_q, logvar_q, mu_p, logvar_p).sum())


# The other families, and SVG with maps. Each row has what no other has: sizes, layers, priors.

FRAMES = {"image_size": 36, "patch_size": 4, "hidden": (2, 2), "n_past": 3}
SPATIAL = {"latent": "spatial", "nf": 2, "g_dim": 4, "rnn_size": 4, "z_dim": 2, "n_past": 3}
ENSEMBLE = {"channels": 3, "n_past": 4}
SRVP = {"nf": 2, "nhx": 6, "ny": 5, "nz": 3, "nt_inf": 2, "n_past": 4, "inference_size": 8, "residual_size": 10}


def frames_model(**settings):
    """Weights with which forecasts move, and stay near [0, 1]."""
    model = random_frames_model(**settings)
    with torch.no_grad():
        model.conv_last.weight.mul_(0.5)
    return model


def srvp_model(**settings):
    """Weights with which the state of ten frames does not grow beyond half precision."""
    model = random_srvp(**settings)
    with torch.no_grad():
        for parameter in model.dynamics.parameters():
            parameter.mul_(0.4)
    return model


def ensemble_model(**settings):
    """Weights that move frames by few pixels: half precision tells neighbouring ones apart."""
    model = model_of(**settings)
    with torch.no_grad():
        model.decoder.head.weight.mul_(0.3)
    return model


WITH_BF16 = {
    "convlstm, unequal hidden sizes, not square": (
        frames_model, {**FRAMES, "cell": "convlstm", "hidden": (2, 3), "image_size": 16, "image_width": 24},
    ),
    "mim": (frames_model, {**FRAMES, "cell": "mim"}),
    "e3d-lstm, stride 2, short history": (
        frames_model, {**FRAMES, "cell": "e3d-lstm", "image_size": 40, "stride": 2, "history": 3},
    ),
    "spatial, last_frame_skip, 40 px": (random_model, {**SPATIAL, "last_frame_skip": True, "image_size": 40}),
    "srvp, vgg, skips, RGB, nz > ny": (
        srvp_model, {**SRVP, "backbone": "vgg", "skips": True, "channels": 3, "ny": 2, "nz": 5},
    ),
    "ensemble, RGB": (ensemble_model, {**ENSEMBLE, "image_size": 24}),
}  # fmt: skip
FP32_ALONE = {
    "ensemble, shared noise alone": (ensemble_model, {**ENSEMBLE, "image_size": 16, "noise_maps": 0, "noise_vector": 3}),
    "ensemble, no shared noise": (
        ensemble_model, {**ENSEMBLE, "image_size": 40, "noise_maps": 2, "noise_vector": 0, "channels": 1, "blocks": 0},
    ),
    "predrnn, RGB, layer norm, patch 2": (
        frames_model,
        {**FRAMES, "cell": "predrnn", "channels": 3, "layer_norm": True, "image_size": 16, "patch_size": 2},
    ),
    "predrnn-v2, one layer": (frames_model, {**FRAMES, "cell": "predrnn-v2", "hidden": (3,)}),
    "predrnnpp": (frames_model, {**FRAMES, "cell": "predrnnpp"}),
    "convlstm before 1.0, 128 px, patch 8": (
        frames_model, {**FRAMES, "cell": "convlstm", "dialect": "openstl-0.3", "image_size": 128, "patch_size": 8},
    ),
    "convlstm, layer norm": (frames_model, {**FRAMES, "cell": "convlstm", "layer_norm": True}),
    "predrnn, four layers": (frames_model, {**FRAMES, "cell": "predrnn", "hidden": (2,) * 4, "filter_size": 5}),
    "predrnnpp before 1.0, layer norm, not square": (
        frames_model,
        {**FRAMES, "cell": "predrnnpp", "dialect": "openstl-0.3", "layer_norm": True, "image_size": 16, "image_width": 24},
    ),
    "mim, RGB, four layers, layer norm, not square": (
        frames_model,
        {**FRAMES, "cell": "mim", "channels": 3, "hidden": (2,) * 4, "layer_norm": True, "image_size": 24, "image_width": 16},
    ),
    "mim, 128 px, patch 16": (frames_model, {**FRAMES, "cell": "mim", "image_size": 128, "patch_size": 16}),
    "e3d-lstm, unequal hidden sizes, layer norm, not square": (
        frames_model,
        {**FRAMES, "cell": "e3d-lstm", "hidden": (2, 3, 2), "layer_norm": True, "image_size": 16, "image_width": 24},
    ),
    "e3d-lstm, a stride that does not divide the map": (
        frames_model, {**FRAMES, "cell": "e3d-lstm", "stride": 2, "layer_norm": True},
    ),
    "spatial, skip_lag": (random_model, {**SPATIAL, "skip_lag": 1, "posterior_layers": 2, "prior_layers": 2}),
    "spatial, fixed prior, 128 px, RGB": (random_model, {**SPATIAL, "prior": "fixed", "image_size": 128, "channels": 3}),
    "spatial, fixed prior, last_frame_skip": (random_model, {**SPATIAL, "prior": "fixed", "last_frame_skip": True}),
    "spatial, no prior, 96 px": (random_model, {**SPATIAL, "prior": "none", "image_size": 96}),
    "spatial, no prior, last_frame_skip, RGB": (
        random_model, {**SPATIAL, "prior": "none", "last_frame_skip": True, "channels": 3},
    ),
    "srvp, 3 Euler steps": (srvp_model, {**SRVP, "n_euler_steps": 3}),
    "srvp, skips": (srvp_model, {**SRVP, "skips": True, "residual_size": 0, "residual_layers": 1}),
    "srvp, vgg": (srvp_model, {**SRVP, "backbone": "vgg", "nt_inf": 4, "inference_layers": 2}),
}  # fmt: skip
QUICK = ("convlstm, unequal hidden sizes, not square",)  # of the default run
ROWS = [
    pytest.param(*row, bf16, id=each, marks=() if each in QUICK else pytest.mark.slow)
    for rows, bf16 in ((WITH_BF16, True), (FP32_ALONE, False))
    for each, row in rows.items()
]
MOST = 8  # samples


@pytest.mark.parametrize(("make", "settings", "bf16"), ROWS)
def test_every_family_trains_exports_and_forecasts(make, settings, bf16, tmp_path, monkeypatch, caplog):
    checkpoint = _trained(make(**settings), tmp_path, monkeypatch)
    model = checkpoint.build()
    manifest = _export(checkpoint, tmp_path / "m.svgb", bf16=bf16)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING], "the exporter's own messages"
    if model.config.family == "svg":
        _check_compared(manifest, model.config.prior, fused=True)
    curves = manifest.variants["fp32"].parity.curves  # their later steps have passed the gate, which knows how rounding grows
    frames = [curve for name, curve in curves.items() if name.endswith(".frame")]
    assert frames
    assert max(curve.max_abs[0] for curve in frames) < TOLERANCE_FP32
    _check_reduced(tmp_path / "m.svgb", manifest)
    contexts = ("window",) if model.config.family in ("srvp", "ensemble") else ("window", "stream")
    for backend, context in itertools.product(("cpu", "openvino"), contexts):
        for fused in {True, not has_separate(manifest.variants["fp32"])}:
            _check_family_forecast(tmp_path / "m.svgb", model, context, backend=backend, fused=fused)


def _trained(model, folder: Path, monkeypatch) -> Checkpoint:
    """One step of the trainer from these weights, which is enough to see that every part is trained and saved."""
    monkeypatch.setattr("svg_train.train.BN_BATCHES", 2)
    c = model.config
    data: dict[str, Any] = {"name": "digits"}
    if c.channels == 3 or c.height != c.width:
        (folder / "videos").mkdir()
        _write_digits(folder / "videos" / "a.avi")
        data = {"name": "video", "root": str(folder / "videos"), "cache": str(folder / "cache")}
    train = {
        "steps": 1, "batch_size": 2, "n_future": 2, "eval_every": 1, "eval_sequences": 1, "eval_samples": 1, "eval_horizon": 2,
        "warmup_steps": 0, "ema_decay": 0.5, "lr": 1e-4,
    }  # fmt: skip
    config = build_config({"model": c.model_dump(), "train": train, "data": data})
    start = save_model(folder / "start.pt", model, data=data)
    Trainer(config, folder / "run", CPU, resume=False, init=start).run()
    checkpoint = load_checkpoint(folder / "run" / "ckpt.pt")
    assert any((value != model.state_dict()[each]).any() for each, value in checkpoint.weights.items())
    return checkpoint


def _write_digits(path: Path) -> None:
    """A video whose colours have moving digits of their own: of flat frames, BatchNorm would learn variances of nothing."""
    frames = np.stack([digit_frames(colour, 40, 64, 96) for colour in range(3)], axis=-1)
    with av.open(str(path), "w") as container:
        stream = _add_stream(container, 10)
        for frame in (frames * 255).astype(np.uint8):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def _export(checkpoint: Checkpoint, out: Path, bf16: bool) -> Manifest:
    """In fp32, fp16 and, if this processor has it, bf16, compared with fp32 on a few drawn frames."""
    c = checkpoint.config.model
    drawn = DrawnFrames(DrawnSequences(c, 3, c.n_past + GATE_HORIZON), "svg-export CHECKPOINT --fp16")
    with without_tracer():
        return write_bundle(
            checkpoint, "0" * 64, out, fp16=True, bf16=bf16 and computes_in("bf16"), held_out=drawn, shuffled=False
        )


def _check_reduced(bundle: Path, manifest: Manifest) -> None:
    """States, Gaussians and norms stay float32 in fp16; a graph that computes in float32 is the same file."""
    full, half = (manifest.variants[precision].graphs for precision in ("fp32", "fp16"))
    reduced = {graph_name for graph_name, spec in full.items() if spec.computes != "float32"}
    for graph_name in half.keys() & full.keys():
        assert (half[graph_name].sha256 == full[graph_name].sha256) == (graph_name not in reduced), graph_name
        spec = half[graph_name]
        tensors = [tensor for tensor in (*spec.inputs, *spec.outputs) if not tensor.name.startswith(("skip_", "cond_"))]
        assert all(tensor.dtype == "float32" for tensor in tensors), graph_name
    for graph_name in reduced:
        graph = onnx.load(bundle / half[graph_name].file).graph
        types = _types(graph)
        weights = {types[node.input[1]] for node in graph.node if node.op_type in ("Conv", "ConvTranspose")}
        assert onnx.TensorProto.FLOAT16 in weights, graph_name
        for node in graph.node:
            if node.op_type in ("LayerNormalization", "Softmax", "Softplus", "Exp", "MatMul"):
                assert types[node.input[0]] == onnx.TensorProto.FLOAT, (graph_name, node.op_type)
    report = manifest.variants["fp16"].divergence
    assert report.divergence_psnr_db[0] > 45


def _types(graph: onnx.GraphProto) -> dict[str, int]:
    inferred = onnx.shape_inference.infer_shapes(onnx.helper.make_model(graph)).graph
    values = [*inferred.input, *inferred.output, *inferred.value_info]
    return {tensor.name: tensor.data_type for tensor in graph.initializer} | {
        value.name: value.type.tensor_type.elem_type for value in values
    }


def _check_family_forecast(bundle: Path, model, context: str, **opened: Any) -> None:
    """After more frames than it needs, and with 8 samples or 1: window and stream as PyTorch, on the same frames."""
    c = model.config
    extra = 2 if context == "window" or c.family == "frames" else 0
    frames = np.random.default_rng(2).random((c.n_past + extra, c.height, c.width, c.channels), np.float32)
    noise, past = draw(3, HORIZON, MOST, c.noise_dim), draw(4, c.context_draws, MOST, c.noise_dim)
    given = {"noise": noise, "context_noise": past}
    if context == "stream":
        del given["context_noise"]
        past = NoiseSource(5).draw(len(frames) - 1, MOST, c.noise_dim)
    with Forecaster.open(
        bundle, samples=MOST, horizon=HORIZON, precision="fp32", context=context, seed=5, **opened
    ) as forecaster:
        for frame in frames:
            forecaster.observe(frame)
        futures = forecaster.forecast(**given)
        single = None
        if context == "window":
            single = forecaster.forecast(samples=1, **{key: value[:, :1] for key, value in given.items()})
    expected = _expected(model, frames, noise, past, context)
    assert np.abs(futures - expected).max() < TOLERANCE_FP32
    if single is not None:
        assert np.abs(single - expected[:1]).max() < TOLERANCE_FP32
    assert futures.std() > 0.01, "frames that are nearly flat prove nothing"
    assert (np.abs(futures[0] - futures[1]).max() > 1e-4) == bool(c.noise_dim)


def _expected(model, frames: np.ndarray, noise: np.ndarray, past: np.ndarray, context: str) -> np.ndarray:
    if model.config.family == "frames" and context == "stream":  # the state has read all frames
        x = torch.from_numpy(np.moveaxis(frames, -1, 1).copy())[:, None]
        shown = model.roll_out(x, HORIZON).clamp(0, 1).repeat(1, MOST, 1, 1, 1)
        return shown.permute(1, 0, 3, 4, 2).numpy()
    return generated(model, frames, noise, past)
