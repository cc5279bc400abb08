"""The parity gate: the same frames and the same noise through two implementations, every output and state compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from svg_common.errors import ExitCode, SvgError
from svg_common.metrics import mean_squared_error, psnr
from svg_export.families import FAMILY_EXPORTS
from svg_export.parity_loop import (
    FORECAST_STEPS,
    PROVIDER,
    SAMPLES,
    Exports,
    GraphRunner,
    OnnxGraphs,
    ProbeInputs,
    RoleLoop,
    SeparateLoop,
    TorchGraphs,
    Trace,
    generated,
    network_latents,
    separate_name,
)
from svg_runtime.bundle.contract import SEPARATE, SHUFFLED_DECODER
from svg_runtime.bundle.manifest import ErrorCurve, ParityReport
from svg_train.families.base import FamilyConfig
from svg_train.families.video_model import VideoModel

TOLERANCE_FP32 = 1e-4  # largest difference of any output or state, relative to max(1, its largest value)
ROUNDING_FACTOR = 10.0  # multiple of the error of float32 arithmetic itself that the graphs may differ by in closed loop
FUSED, SHUFFLED = "fused.", "shuffled."  # prefixes of the outputs of the fused graphs and of the shuffled decoder
NETWORK = "network."  # before the name of a graph whose output is compared with the network itself


class ParityError(SvgError):
    """The exported graphs do not compute what the model computes; nothing was published."""

    exit_code = ExitCode.PARITY_FAILED


def check_fp32(model: VideoModel, contents: Mapping[str, bytes], tolerance: float = TOLERANCE_FP32) -> ParityReport:
    """Compare exported fp32 graphs with PyTorch, in closed loop: with the modules that were exported, and with the network.

    What the fused graphs return is compared with the separate modules. Frames, and the Gaussians of what is observed and of
    what is forecast, are compared with the network too: a module could give wrong ones.

    The loop of a trained model amplifies rounding, about 1.6 times per step on moving digits, until even two correct float32
    implementations differ by more than the tolerance. So PyTorch also runs in float64, which shows what rounding alone does
    to this model. The graphs may differ by ROUNDING_FACTOR times that, if it is more than `tolerance`. The same holds for each
    tensor that is observed: a network without normalization, trained on one camera, may amplify rounding before the loop.

    Args:
        model: the network, in float32, as it was trained.
        contents: exported graphs by name.
        tolerance: largest difference, relative to the tensor's largest value or 1, whichever is more.

    Raises:
        ParityError: a larger difference, or a value that is not finite; all offending tensors are listed.
    """
    # 1) run PyTorch in float32 and in float64, and the graphs, on the same inputs
    inputs, family, fused = ProbeInputs.make(model.config), FAMILY_EXPORTS[model.config.family], "step" in contents
    exports = family.graphs(family.fold(model), torch.float32, fused)
    exact = family.graphs(family.fold(model).double(), torch.float64, fused)
    truth = _trace(TorchGraphs(exports), exports, model.config, inputs)
    unrounded = _trace(TorchGraphs(exact, torch.float64), exact, model.config, inputs)
    given = _trace(OnnxGraphs(contents), exports, model.config, inputs)
    rounding = relative_errors(truth, unrounded)
    truth = _with_fused_as_separate(truth)
    truth, given = _with_network(model, inputs, truth, given)
    truth, given = _with_shuffled(config=model.config, exports=exports, contents=contents, truth=truth, given=given)
    # 2) how much rounding alone changes, which limits how much the graphs may differ
    curves, errors = compare(truth, given), relative_errors(truth, given)
    envelope = np.maximum.accumulate(np.max([rounding[name] for name in rounding if _is_forecast(name)], axis=0))
    # 3) list every output and state that differs by more
    failed = []
    for name, error in errors.items():
        rounded = envelope if _is_forecast(name) else np.full(len(error), rounding[name.replace(NETWORK, "")].max())
        allowed = np.maximum(tolerance, ROUNDING_FACTOR * rounded)
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


def compare_fp16(model: VideoModel, fp32: Mapping[str, bytes], fp16: Mapping[str, bytes]) -> ParityReport:
    """Measure the closed-loop error of fp16 graphs against the fp32 ones, as they compute on this machine.

    Whether it matters is decided by the quality gate (`svg_export.precision`).

    Raises:
        ParityError: a value that is not finite; all tensors with such values are listed.
    """
    inputs, family = ProbeInputs.make(model.config), FAMILY_EXPORTS[model.config.family]
    exports = family.graphs(family.fold(model), torch.float32, "step" in fp32)
    truth, given = (_trace(OnnxGraphs(contents), exports, model.config, inputs) for contents in (fp32, fp16))
    curves = compare(truth, given)
    broken = [name for name, curve in curves.items() if not np.isfinite(curve.max_abs).all()]
    if broken:
        raise ParityError(
            f"the fp16 graphs produce values that are not finite: {', '.join(broken)}\n"
            "  nothing was published; export without --fp16"
        )
    largest = max(float(error.max()) for error in relative_errors(truth, given).values())
    return _report("fp32", model.config, curves, largest)


def _trace(run_graph: GraphRunner, exports: Exports, config: FamilyConfig, inputs: ProbeInputs) -> Trace:
    """The separate graphs, and those of the other roles under a prefix of their own where there are both."""
    separate = SeparateLoop(run_graph, exports, config).run(inputs) if set(SEPARATE) <= exports.keys() else {}
    roles = RoleLoop(run_graph, exports, config).run(inputs) if "step" in exports else {}
    prefix = FUSED if separate else ""
    return {**separate, **{prefix + name: values for name, values in roles.items()}}


def _with_fused_as_separate(truth: Trace) -> Trace:
    """What the fused graphs must return is what the separate ones do; of what is observed, prime has the last step alone."""
    separate = {name: truth[separate_name(name.removeprefix(FUSED))] for name in truth if name.startswith(FUSED)}
    return truth | {name: values if _is_forecast(name) else values[-1:] for name, values in separate.items()}


def _with_network(model: VideoModel, inputs: ProbeInputs, truth: Trace, given: Trace) -> tuple[Trace, Trace]:
    """Both traces with frames and Gaussians of every loop, beside those of the network, whose BatchNorm is not folded."""
    own = {"frame": generated(model, inputs), **network_latents(model, inputs)}
    expected, compared = {}, {}
    for name, values in given.items():
        what = _of_network(name)
        if what in own:
            loop, graph_name, tensor = name.rsplit(".", 2)
            expected[shown := f"{loop}.{NETWORK}{graph_name}.{tensor}"] = own[what]
            compared[shown] = values[-len(own[what]) :]
    return truth | expected, given | compared


def _of_network(name: str) -> str | None:
    """Which of the network's own values an output must equal; None if the network gives no such value."""
    _, graph_name, tensor = name.rsplit(".", 2)
    if _is_forecast(name):
        return tensor
    return tensor if graph_name == "prime" else f"{graph_name}_{tensor}"


def _with_shuffled(
    config: FamilyConfig, exports: Exports, contents: Mapping[str, bytes], truth: Trace, given: Trace
) -> tuple[Trace, Trace]:
    """Both traces with the frames of a loop that runs the shuffled decoder instead of the other, if there is one."""
    if SHUFFLED_DECODER not in contents:
        return truth, given
    run_graph = OnnxGraphs({**contents, "decoder": contents[SHUFFLED_DECODER]})
    frames = SeparateLoop(run_graph, exports, config).run(ProbeInputs.make(config))["forecast.decoder.frame"]
    name = f"{SHUFFLED}forecast.decoder.frame"
    return truth | {name: truth["forecast.decoder.frame"]}, given | {name: frames}


def frame_curve(report: ParityReport) -> ErrorCurve:
    """The differences of the forecast frames, of the separate graphs if there are any."""
    names = (f"forecast.{graph_name}.frame" for graph_name in ("decoder", "step", "decode"))
    return next(report.curves[name] for name in names if name in report.curves)


def _is_forecast(name: str) -> bool:
    return name.removeprefix(FUSED).removeprefix(SHUFFLED).startswith("forecast")


def compare(truth: Trace, given: Trace) -> dict[str, ErrorCurve]:
    """The differences per step of every output.

    Raises:
        ParityError: they have not the same outputs.
    """
    if truth.keys() != given.keys():
        raise ParityError(f"the graphs return {sorted(given)}, expected {sorted(truth)}")
    return {name: _curve(name, truth[name], given[name]) for name in sorted(truth)}


def relative_errors(truth: Trace, given: Trace) -> dict[str, NDArray[np.float64]]:
    """Largest difference per step, relative to the tensor's largest value over all steps, or to 1 if that is more."""
    return {name: _differences(truth[name], given[name]) / max(1.0, *(np.abs(a).max() for a in truth[name])) for name in truth}


def _differences(truth: list[NDArray[Any]], given: list[NDArray[Any]]) -> NDArray[np.float64]:
    return np.array([np.abs(a.astype(np.float64) - b).max() for a, b in zip(truth, given, strict=True)])


def _curve(name: str, truth: list[NDArray[Any]], given: list[NDArray[Any]]) -> ErrorCurve:
    max_abs = tuple(float(f"{value:.3e}") for value in _differences(truth, given))
    if not name.endswith("frame"):
        return ErrorCurve(max_abs=max_abs)
    errors = [mean_squared_error(a.astype(np.float64), b) for a, b in zip(truth, given, strict=True)]
    return ErrorCurve(max_abs=max_abs, psnr_db=tuple(round(psnr(error), 2) for error in errors))


def _report(reference: Any, config: FamilyConfig, curves: dict[str, ErrorCurve], largest: float, **gate: Any) -> ParityReport:
    return ParityReport(
        reference=reference,
        provider=PROVIDER,
        observed=config.n_past,
        forecast=FORECAST_STEPS,
        samples=SAMPLES,
        max_error=float(f"{largest:.3e}"),
        curves=curves,
        **gate,
    )
