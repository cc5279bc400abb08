"""The parity gate: the same frames and the same noise through two implementations, every output and state compared.

One loop walks the generation rule over n_past observed and FORECAST_STEPS forecast frames and records what each graph gives.
It runs over anything that maps (role, inputs) to outputs: the PyTorch model, or the exported graphs on ONNX Runtime.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from svg_common.digits import digit_stream
from svg_common.errors import ExitCode, SvgError
from svg_export.graphs import fold_batch_norm
from svg_runtime.manifest import ErrorCurve, ParityReport
from svg_runtime.noise import gaussian_sample
from svg_train.config import ModelConfig
from svg_train.model import SVG
from svg_train.recurrent import GaussianLSTM

FORECAST_STEPS = 10
SAMPLES = 3
TOLERANCE_FP32 = 1e-4  # largest difference of any output or state, relative to max(1, its largest value)
ROUNDING_FACTOR = 10.0  # how many times the error of float32 arithmetic itself the graphs may be off in closed loop
MIN_FIRST_STEP_PSNR_FP16 = 40.0  # dB against fp32; later steps part because the loop amplifies rounding
_PROVIDER = "CPUExecutionProvider"

Tensors = dict[str, NDArray[Any]]
Run = Callable[[str, Mapping[str, NDArray[Any]]], Tensors]
Trace = dict[str, list[NDArray[Any]]]


class ParityError(SvgError):
    """The exported graphs do not compute what the model computes. Nothing was published."""

    exit_code = ExitCode.PARITY_FAILED


@dataclass(frozen=True)
class Stimulus:
    """Frames (n_past, 1, C, S, S) and noise, the same for all implementations."""

    frames: NDArray[np.float32]
    context_noise: NDArray[np.float32]  # (n_past - 1, SAMPLES, z_dim)
    noise: NDArray[np.float32]  # (FORECAST_STEPS, SAMPLES, z_dim)

    @classmethod
    def make(cls, config: ModelConfig) -> Stimulus:
        """Moving digits, which have edges as well as flat parts, and fixed noise."""
        rng, step = np.random.default_rng(0), digit_stream(0, 2, config.image_size)
        gray = np.stack([step() for _ in range(config.n_past)])[:, None, None]
        draw = [rng.standard_normal((n, SAMPLES, config.z_dim), np.float32) for n in (config.n_past - 1, FORECAST_STEPS)]
        return cls(np.repeat(gray, config.channels, axis=2), *draw)


@dataclass
class Loop:
    """One walk through the generation rule. `record` makes the trace; states travel as they do in the runtime."""

    run: Run
    config: ModelConfig
    trace: Trace = field(default_factory=lambda: defaultdict(list))
    states: dict[str, NDArray[Any]] = field(default_factory=dict)

    def walk(self, stimulus: Stimulus) -> Trace:
        """Observe all frames, forecast, return every output of every graph by "phase.role.tensor"."""
        encoded = [self.call("observe", "encoder", frame=frame[None]) for frame in stimulus.frames[:, 0]]
        conds = [self.call("observe", "skip", **_skips(entry)) for entry in encoded]
        for h_prev, h_now, eps in zip(encoded[:-1], encoded[1:], stimulus.context_noise, strict=True):
            posterior = self.step("observe", "posterior", h=_spread(h_now["h"]))
            self.step("observe", "prior", h=_spread(h_prev["h"]))
            self.step("observe", "predictor", h=_spread(h_prev["h"]), z=_sample(posterior, eps))
        h, cond = _spread(encoded[-1]["h"]), conds[-1 if self.config.last_frame_skip else -1 - self.config.skip_lag]
        for eps in stimulus.noise:
            prior = self.step("forecast", "prior", h=h)
            g = self.step("forecast", "predictor", h=h, z=_sample(prior, eps))["g"]
            frame = self.call("forecast", "decoder", g=g, **cond)["frame"]
            entry = self.call("forecast", "encoder", frame=frame)
            h = entry["h"]
            if self.config.last_frame_skip:
                cond = self.call("forecast", "skip", **_skips(entry))
        return self.trace

    def call(self, phase: str, role: str, **inputs: NDArray[Any]) -> Tensors:
        """Run a stateless graph and record its outputs."""
        outputs = self.run(role, inputs)
        for name, value in outputs.items():
            if not name.startswith("_"):  # private to the implementation
                self.trace[f"{phase}.{role}.{name}"].append(value)
        return outputs

    def step(self, phase: str, role: str, **inputs: NDArray[Any]) -> Tensors:
        """Run a recurrent graph, carrying its state."""
        state = self.states.get(role)
        if state is None:
            layers = getattr(self.config, f"{role}_layers")
            state = np.zeros((2 * layers, SAMPLES, self.config.rnn_size), np.float32)
        outputs = self.call(phase, role, **inputs, state=state)
        self.states[role] = outputs["state_out"]
        return outputs


class TorchGraphs:
    """The PyTorch model, unfolded, behind the graphs' names. It is the truth that the exported graphs are held against."""

    def __init__(self, model: SVG) -> None:
        self._model = model.eval()
        self._folded_decoder = fold_batch_norm(model).decoder

    @torch.no_grad()
    def __call__(self, role: str, inputs: Mapping[str, NDArray[Any]]) -> Tensors:
        """Run one role on NumPy values."""
        dtype = next(self._model.parameters()).dtype
        tensors = {name: torch.from_numpy(np.ascontiguousarray(value)).to(dtype) for name, value in inputs.items()}
        return {name: value.numpy() for name, value in getattr(self, f"_{role}")(tensors).items()}

    def _encoder(self, t: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        h, skips = self._model.encoder(t["frame"])
        return {"h": h, **{f"skip_{i}": skip for i, skip in enumerate(skips)}}

    def _skip(self, t: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Conditions as the graphs define them, scaled by the folded BatchNorm, and beside them the unfolded decoder's own."""
        skips = [t[f"skip_{i}"] for i in range(len(t))]
        folded, own = self._folded_decoder.condition(skips), self._model.decoder.condition(skips)
        return {f"cond_{i}": cond for i, cond in enumerate(folded)} | {f"_own_{i}": cond for i, cond in enumerate(own)}

    def _decoder(self, t: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        own = [t[f"_own_{i}"] for i in range(len(self._model.decoder.stages))]
        return {"frame": self._model.decoder(t["g"], own)}

    def _predictor(self, t: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        g, state = self._model.predictor.step(t["h"], t["z"], t["state"])
        return {"g": g, "state_out": state}

    def _posterior(self, t: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return _gaussian(self._model.posterior, t)

    def _prior(self, t: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return _gaussian(self._model.prior, t)


class OnnxGraphs:
    """Exported graphs on plain ONNX Runtime: what anyone can run in any language."""

    def __init__(self, contents: Mapping[str, bytes]) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self._sessions = {
            role: onnxruntime.InferenceSession(content, options, providers=[_PROVIDER]) for role, content in contents.items()
        }

    def __call__(self, role: str, inputs: Mapping[str, NDArray[Any]]) -> Tensors:
        """Run one role on NumPy values."""
        session = self._sessions[role]
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, dict(inputs)), strict=True))


def check_fp32(model: SVG, contents: Mapping[str, bytes], tolerance: float = TOLERANCE_FP32) -> ParityReport:
    """Hold exported fp32 graphs against the PyTorch model, in closed loop.

    The loop of a trained model amplifies rounding, about 1.6 times per step on moving digits, until even two correct float32
    implementations differ by more than the tolerance. So PyTorch also walks in float64, which shows what rounding alone does
    to this model, and the graphs may differ by ROUNDING_FACTOR times that where it is more than `tolerance`.

    Args:
        model: the truth, in float32.
        contents: exported graphs by role.
        tolerance: largest difference, relative to the tensor's largest value or 1, whichever is more.

    Raises:
        ParityError: a larger difference, or a value that is not finite; all offending tensors are listed.
    """
    exact = TorchGraphs(copy.deepcopy(model).double())
    truth, given, unrounded = _traces(model.config, TorchGraphs(model), OnnxGraphs(contents), exact)
    curves = _compare(truth, given)
    errors, rounding = _relative(truth, given), _relative(truth, unrounded)
    envelope = np.maximum.accumulate(np.max([rounding[name] for name in rounding if name.startswith("forecast")], axis=0))
    failed = []
    for name, error in errors.items():
        forecast = name.startswith("forecast")
        allowed = np.maximum(tolerance, ROUNDING_FACTOR * envelope) if forecast else np.full(len(error), tolerance)
        if not (error <= allowed).all():
            step = int(np.argmin(error <= allowed))
            failed.append(f"{name}: {error[step]:.3g} at step {step + 1}, allowed {allowed[step]:.3g}")
    if failed:
        raise ParityError(
            "the exported fp32 graphs do not compute what the model computes:\n  " + "\n  ".join(failed)
            + "\n  nothing was published"
        )  # fmt: skip
    largest = max(float(error.max()) for error in errors.values())
    envelope_values = tuple(float(f"{value:.3e}") for value in envelope)
    return _report("pytorch", model.config, curves, largest, tolerance=tolerance, rounding=envelope_values)


def check_fp16(model: SVG, fp32: Mapping[str, bytes], fp16: Mapping[str, bytes]) -> ParityReport:
    """Measure the closed-loop error of fp16 graphs against the fp32 ones, as they compute on this machine.

    Raises:
        ParityError: a value that is not finite, or a first forecast frame below MIN_FIRST_STEP_PSNR_FP16.
    """
    truth, given = _traces(model.config, OnnxGraphs(fp32), OnnxGraphs(fp16))
    curves = _compare(truth, given)
    first = curves["forecast.decoder.frame"].psnr_db[0]  # type: ignore[index]  # frames always have one
    if not all(np.isfinite(curve.max_abs).all() for curve in curves.values()) or not first >= MIN_FIRST_STEP_PSNR_FP16:
        raise ParityError(
            f"the fp16 graphs leave the fp32 ones at once: first forecast frame {first:.1f} dB, "
            f"expected at least {MIN_FIRST_STEP_PSNR_FP16:.0f} dB and finite values everywhere\n"
            "  nothing was published; export without --fp16"
        )
    largest = max(float(error.max()) for error in _relative(truth, given).values())
    return _report("fp32", model.config, curves, largest, min_first_step_psnr_db=MIN_FIRST_STEP_PSNR_FP16)


def _traces(config: ModelConfig, *implementations: Run) -> list[Trace]:
    stimulus = Stimulus.make(config)
    return [Loop(run, config).walk(stimulus) for run in implementations]


def _compare(truth: Trace, given: Trace) -> dict[str, ErrorCurve]:
    if truth.keys() != given.keys():
        raise ParityError(f"the graphs give {sorted(given)}, expected {sorted(truth)}")
    return {name: _curve(name, truth[name], given[name]) for name in sorted(truth)}


def _relative(truth: Trace, given: Trace) -> dict[str, NDArray[np.float64]]:
    """Largest difference per step, relative to the tensor's largest value over all steps, or to 1 if that is more."""
    return {name: _differences(truth[name], given[name]) / max(1.0, *(np.abs(a).max() for a in truth[name])) for name in truth}


def _differences(truth: list[NDArray[Any]], given: list[NDArray[Any]]) -> NDArray[np.float64]:
    return np.array([np.abs(a.astype(np.float64) - b).max() for a, b in zip(truth, given, strict=True)])


def _curve(name: str, truth: list[NDArray[Any]], given: list[NDArray[Any]]) -> ErrorCurve:
    max_abs = tuple(float(f"{value:.3e}") for value in _differences(truth, given))
    if not name.endswith("frame"):
        return ErrorCurve(max_abs=max_abs)
    mse = [max(float(((a.astype(np.float64) - b) ** 2).mean()), 1e-12) for a, b in zip(truth, given, strict=True)]
    return ErrorCurve(max_abs=max_abs, psnr_db=tuple(round(-10 * float(np.log10(m)), 2) for m in mse))


def _report(reference: Any, config: ModelConfig, curves: dict[str, ErrorCurve], largest: float, **gate: Any) -> ParityReport:
    return ParityReport(
        reference=reference,
        provider=_PROVIDER,
        observed=config.n_past,
        forecast=FORECAST_STEPS,
        samples=SAMPLES,
        max_error=float(f"{largest:.3e}"),
        curves=curves,
        **gate,
    )


def _gaussian(lstm: GaussianLSTM, t: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    mu, logvar, state = lstm.step(t["h"], t["state"])
    return {"mu": mu, "logvar": logvar, "state_out": state}


def _skips(encoded: Tensors) -> Tensors:
    return {name: value for name, value in encoded.items() if name.startswith("skip_")}


def _sample(gaussian: Tensors, eps: NDArray[np.float32]) -> NDArray[np.float32]:
    return gaussian_sample(gaussian["mu"], gaussian["logvar"], eps)


def _spread(h: NDArray[Any]) -> NDArray[Any]:
    """One encoding for all samples."""
    return np.repeat(h, SAMPLES, axis=0)
