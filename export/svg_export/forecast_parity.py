"""The parity gate of the graph `forecast`: several cameras in one batch against the network, with the same noise."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from svg_export.drawn_frames import digit_frames
from svg_export.parity import TOLERANCE_FP32, Found, ParityError, differences_between, refuse_differences, refuse_unstable
from svg_export.parity_loop import SAMPLES, OnnxGraphs, Tensors, Trace
from svg_runtime.bundle.manifest import FORECAST, ParityReport
from svg_train.families.base import FamilyConfig
from svg_train.families.video_model import VideoModel
from svg_train.losses import gaussian_kl

_CAMERAS = 2
FRAME, SURPRISE = "server.frame", "server.surprise"  # in the report: each forecast step, and that of the last observed frame


def forecast_reports(
    model: VideoModel, forecasts: Mapping[str, bytes], horizon: int, reports: Mapping[str, ParityReport]
) -> dict[str, ParityReport]:
    """The reports of all variants, with what is found of their graphs `forecast`.

    Args:
        model: the network, in float32.
        forecasts: the graphs, by precision: fp32, and perhaps fp16.
        horizon: their number of forecast frames.
        reports: of the other graphs, by precision.

    Raises:
        ParityError: a graph does not compute what the model computes, or gives values that are not finite; or the model
            amplifies rounding beyond use.
    """
    inputs = _probe(model.config, horizon)
    fp32 = _of_graph(forecasts["fp32"], inputs)
    found = {"fp32": _check_fp32(model, fp32, inputs, reports["fp32"])}
    if "fp16" in forecasts:
        found["fp16"] = _compare_fp16(fp32, _of_graph(forecasts["fp16"], inputs), reports["fp16"])
    return found


def _check_fp32(model: VideoModel, given: Trace, inputs: Tensors, report: ParityReport) -> ParityReport:
    """The limit is that of `check_fp32`: the tolerance, or ROUNDING_FACTOR times what float32 does to PyTorch."""
    truth = _of_network(model, inputs)
    found = differences_between(truth, given)
    rounding = differences_between(truth, _of_network(copy.deepcopy(model).double(), inputs))
    amplified = np.max([differences.relative().max() for differences in rounding.values()])
    refuse_unstable(float(amplified), steps=inputs["eps"].shape[1], advice="give a smaller --server-horizon, ")
    rounded = {name: np.maximum.accumulate(differences.relative()) for name, differences in rounding.items()}
    message = f"the exported graph '{FORECAST}' does not compute what the model computes"
    refuse_differences(found, rounded, TOLERANCE_FP32, message)
    *earlier, last = report.rounding or (0.0,)
    largest = float(f"{amplified:.3e}")
    return _extended(report, found).model_copy(update={"rounding": (*earlier, max(last, largest))})


def _compare_fp16(fp32: Trace, fp16: Trace, report: ParityReport) -> ParityReport:
    """The quality gate judges how large the error may be; here it must be finite."""
    if not all(np.isfinite(values).all() for steps in fp16.values() for values in steps):
        raise ParityError(
            f"the fp16 graph '{FORECAST}' produces values that are not finite\n  nothing was published; export without --fp16"
        )
    return _extended(report, differences_between(fp32, fp16))


def _extended(report: ParityReport, found: Found) -> ParityReport:
    largest = max(report.max_error, *(float(f"{differences.relative().max():.3e}") for differences in found.values()))
    curves = {name: differences.curve(name) for name, differences in found.items()}
    return report.model_copy(update={"curves": {**report.curves, **curves}, "max_error": largest})


def _probe(config: FamilyConfig, horizon: int) -> Tensors:
    """Frames of moving digits, others for each camera, and fixed noise."""
    rng = np.random.default_rng(0)
    gray = np.stack([digit_frames(seed, config.n_past, config.height, config.width) for seed in range(_CAMERAS)])
    inputs: Tensors = {"frames": np.repeat(gray[:, :, None], config.channels, axis=2)}
    for name, steps in (("context_eps", config.context_draws), ("eps", horizon)):
        inputs[name] = rng.standard_normal((_CAMERAS, steps, SAMPLES, config.noise_dim), np.float32)
    return inputs


def _of_graph(content: bytes, inputs: Tensors) -> Trace:
    """What the graph gives: the futures of all cameras by step, and their surprises."""
    run_graph = OnnxGraphs({FORECAST: content})
    outputs = run_graph(FORECAST, {name: inputs[name] for name in run_graph.inputs(FORECAST)})
    by_step = list(np.moveaxis(outputs["futures"], 2, 0))
    return {FRAME: by_step} | ({SURPRISE: [outputs["surprise"]]} if "surprise" in outputs else {})


def _of_network(model: VideoModel, inputs: Tensors) -> Trace:
    """What the network gives, in the type of its weights."""
    samples = SAMPLES if model.config.noise_dim else 1
    frames = np.repeat(inputs["frames"], samples, axis=0).swapaxes(0, 1)
    dtype = next(model.parameters()).dtype
    x, noise, context_noise = (
        torch.from_numpy(np.ascontiguousarray(values)).to(dtype)
        for values in (frames, _rows(inputs["eps"], samples), _rows(inputs["context_eps"], samples))
    )
    shape = _CAMERAS, samples, *inputs["frames"].shape[2:]
    trace = {FRAME: [frame.numpy().reshape(shape) for frame in model.eval().generate(x, noise, context_noise)]}
    latents = model.latents(x, noise, torch.zeros_like(context_noise))  # the prior at the means of the latents before
    if latents is None:
        return trace
    q, p = (latents.posterior_mu, latents.posterior_logvar), (latents.prior_mu, latents.prior_logvar)
    standard = torch.zeros_like(q[0])
    kl = gaussian_kl(*q, *(standard if value is None else value for value in p)).flatten(1).sum(1)
    return trace | {SURPRISE: [kl.numpy()[::samples]]}


def _rows(noise: NDArray[np.float32], samples: int) -> NDArray[np.float32]:
    """(cameras, steps, samples, size) -> (steps, cameras * samples, size); a deterministic model takes empty vectors."""
    by_step: NDArray[np.float32] = noise[:, :, :samples].swapaxes(0, 1)
    return by_step.reshape(len(by_step), _CAMERAS * samples, noise.shape[-1])
