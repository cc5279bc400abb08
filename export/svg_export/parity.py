"""The parity gate: the same frames and the same noise through two implementations, every output and state compared."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from svg_common.errors import ExitCode, SvgError, first_line
from svg_common.metrics import mean_squared_error, psnr
from svg_common.out_of_memory import is_out_of_memory
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
    Tensors,
    TorchGraphs,
    Trace,
    generated,
    in_step,
    network_latents,
    separate_name,
)
from svg_runtime.bundle.contract import SEPARATE, SHUFFLED_DECODER
from svg_runtime.bundle.manifest import ErrorCurve, ParityReport
from svg_runtime.bundle.reader import MAX_ROUNDING
from svg_train.families.base import FamilyConfig
from svg_train.families.video_model import VideoModel

TOLERANCE_FP32 = 1e-4  # largest difference of any output or state, relative to max(1, its largest value)
ROUNDING_FACTOR = 10.0  # multiple of the error of float32 arithmetic itself that the graphs may differ by in closed loop
FUSED, SHUFFLED = "fused.", "shuffled."  # prefixes of the outputs of the fused graphs and of the shuffled decoder
_DECODED = "forecast.decoder"  # the call whose output is a forecast frame, among the separate graphs
NETWORK = "network."  # before the name of a graph whose output is compared with the network itself


class ParityError(SvgError):
    """The exported graphs do not compute what the model computes; nothing was published."""

    exit_code = ExitCode.PARITY_FAILED


@dataclass
class Differences:
    """How much an output differs from what it should be, step by step: all that is kept of the two."""

    max_abs: list[float] = field(default_factory=list)
    mean_squared: list[float] = field(default_factory=list)
    largest: float = 1.0  # value that it should have, over all steps, or 1 if that is more

    def add(self, truth: NDArray[Any], given: NDArray[Any]) -> None:
        """Compare one more step."""
        exact = truth.astype(np.float64)
        self.max_abs.append(float(np.abs(exact - given).max()))
        self.mean_squared.append(mean_squared_error(exact, given))
        self.largest = max(self.largest, float(np.abs(truth).max()))

    def relative(self) -> NDArray[np.float64]:
        """The largest difference of each step, relative to the largest value over all steps."""
        return np.array(self.max_abs) / self.largest

    def curve(self, name: str) -> ErrorCurve:
        """The largest difference of each step, and the PSNR if it is of frames."""
        max_abs = tuple(float(f"{value:.3e}") for value in self.max_abs)
        if not name.endswith("frame"):
            return ErrorCurve(max_abs=max_abs)
        return ErrorCurve(max_abs=max_abs, psnr_db=tuple(round(psnr(error), 2) for error in self.mean_squared))


Found = dict[str, Differences]  # by "phase.graph_name.tensor"


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
        ParityError: a larger difference, or a value that is not finite, all offending tensors are listed; a model that
            amplifies rounding beyond use; or a graph that does not run in float64.
    """
    # 1) run PyTorch in float32 and in float64, and the graphs, on the same inputs
    gate = _Gate(model, contents)
    gate.run()
    # 2) how much rounding alone changes, which limits how much the graphs may differ
    rounding = {name: differences.relative() for name, differences in gate.rounding.items()}
    envelope = np.maximum.accumulate(np.max([rounding[name] for name in rounding if _is_forecast(name)], axis=0))
    observed = np.max([each.max() for name, each in rounding.items() if not _is_forecast(name)])
    refuse_unstable(float(np.maximum(envelope.max(), observed)), FORECAST_STEPS)
    # 3) list every output and state that differs by more
    rounded = {
        name: envelope if _is_forecast(name) else rounding[name.replace(NETWORK, "")].max(keepdims=True) for name in gate.found
    }
    refuse_differences(gate.found, rounded, tolerance, "the exported fp32 graphs do not compute what the model computes")
    recorded = tuple(float(f"{value:.3e}") for value in np.maximum(envelope, observed))  # it excuses the largest error of all
    return _report("pytorch", model.config, gate.found, tolerance=tolerance, rounding=recorded)


def compare_fp16(model: VideoModel, fp32: Mapping[str, bytes], fp16: Mapping[str, bytes]) -> ParityReport:
    """Measure the closed-loop error of fp16 graphs against the fp32 ones, as they compute on this machine.

    Whether it matters is decided by the quality gate (`svg_export.precision`).

    Raises:
        ParityError: a value that is not finite; all tensors with such values are listed.
    """
    config, family = model.config, FAMILY_EXPORTS[model.config.family]
    exports = family.graphs(family.fold(model), torch.float32, "step" in fp32)
    graphs, inputs = [OnnxGraphs(fp32), OnnxGraphs(fp16)], ProbeInputs.make(config)
    found: Found = defaultdict(Differences)
    for loop, prefix in _loops(exports):
        for call, (truth, given) in in_step(loop, implementations=graphs, exports=exports, config=config, inputs=inputs):
            _add(found, f"{prefix}{call}", truth, given)
    broken = sorted(name for name, differences in found.items() if not np.isfinite(differences.max_abs).all())
    if broken:
        raise ParityError(
            f"the fp16 graphs produce values that are not finite: {', '.join(broken)}\n"
            "  nothing was published; export without --fp16"
        )
    return _report("fp32", config, found)


def refuse_differences(found: Found, rounded: Mapping[str, NDArray[np.float64]], tolerance: float, message: str) -> None:
    """Refuse graphs of which an output or a state differs by more than `tolerance`, and than ROUNDING_FACTOR times rounding.

    Args:
        found: what was compared, by name.
        rounded: what rounding alone changes at each step, or at any, relative to the largest value, by name.
        tolerance: largest difference, relative as well.
        message: what is wrong with the graphs then.

    Raises:
        ParityError: a larger difference, or a value that is not finite; all offending tensors are listed.
    """
    failed = []
    for name, differences in found.items():
        error = differences.relative()
        allowed = np.broadcast_to(np.maximum(tolerance, ROUNDING_FACTOR * rounded[name]), error.shape)
        if not (error <= allowed).all():
            step = int(np.argmin(error <= allowed))
            failed.append(f"{name}: {error[step]:.3g} at step {step + 1}, allowed {allowed[step]:.3g}")
    if failed:
        raise ParityError("\n  ".join([f"{message}:", *failed, "nothing was published"]))


def refuse_unstable(rounding: float, steps: int, advice: str = "") -> None:
    """Refuse a model that says nothing in float32: its forecasts depend on rounding, and no graph can be compared with it.

    Args:
        rounding: largest difference between float32 and float64, relative to the largest value.
        steps: of the forecast.
        advice: what to try first, if there is anything special.

    Raises:
        ParityError: float32 and float64 differ by more than the runtime accepts, or a value is not finite.
    """
    if rounding <= MAX_ROUNDING:
        return
    apart = f"by {rounding:.3g} times its largest value" if np.isfinite(rounding) else "by more than any number"
    raise ParityError(
        "the model amplifies the rounding of float32 beyond use: "
        f"after {steps} forecast steps, float32 and float64 differ {apart}, expected at most {MAX_ROUNDING:g}\n"
        f"  it was trained too little, diverges, or is damaged: {advice}export an earlier checkpoint, train it for longer, "
        "or train it again with a lower --lr\n  nothing was published"
    )


class _Gate:
    """The comparisons of `check_fp32`, made while the loops run. Of their outputs, only what is compared later is kept.

    Attributes:
        found: how much the outputs of the graphs differ from what they should be.
        rounding: how much the outputs of the modules differ between float32 and float64.
    """

    def __init__(self, model: VideoModel, contents: Mapping[str, bytes]) -> None:
        family, fused = FAMILY_EXPORTS[model.config.family], "step" in contents
        self.found: Found = defaultdict(Differences)
        self.rounding: Found = defaultdict(Differences)
        self._contents = contents
        self._config = model.config
        self._inputs = ProbeInputs.make(model.config)
        self._exports = family.graphs(family.fold(model), torch.float32, fused)
        self._exact = family.graphs(family.fold(model).double(), torch.float64, fused)
        self._network = {"frame": generated(model, self._inputs), **network_latents(model, self._inputs)}
        self._separate = _needed_by_fused(self._exports)  # what the modules gave, until the fused graphs give it too
        self._given: dict[str, deque[NDArray[Any]]] = {}  # by the graphs, to compare it with the network
        self._frames: list[NDArray[Any]] = []  # of the modules, to compare the shuffled decoder's with them

    def run(self) -> None:
        """Run all loops, and make all comparisons."""
        exact = _refusing_float32(TorchGraphs(self._exact, torch.float64))
        implementations: list[GraphRunner] = [TorchGraphs(self._exports), OnnxGraphs(self._contents), exact]
        for loop, prefix in _loops(self._exports):
            for call, outputs in self._in_step(loop, implementations):
                self._compare(prefix, call, *outputs)
        self._compare_with_network()
        if SHUFFLED_DECODER in self._contents:
            self._compare_shuffled()

    def _in_step(
        self, loop: type[SeparateLoop | RoleLoop], implementations: list[GraphRunner]
    ) -> Iterator[tuple[str, list[Tensors]]]:
        return in_step(loop, implementations, exports=self._exports, config=self._config, inputs=self._inputs)

    def _compare(self, prefix: str, call: str, truth: Tensors, given: Tensors, unrounded: Tensors) -> None:
        """Compare one run of a graph. What a fused graph returns must be what the separate modules did."""
        _add(self.rounding, f"{prefix}{call}", truth, unrounded)
        expected = {name: self._separate[separate_name(f"{call}.{name}")].popleft() for name in truth} if prefix else truth
        _add(self.found, f"{prefix}{call}", expected, given)
        for name, value in truth.items():
            if f"{prefix}{call}.{name}" in self._separate:
                self._separate[f"{call}.{name}"].append(value)
        if call == _DECODED:
            self._frames.append(truth["frame"])
        for name, value in given.items():
            own = self._network.get(_of_network(f"{call}.{name}"))
            if own is not None:
                self._given.setdefault(f"{prefix}{call}.{name}", deque(maxlen=len(own))).append(value)

    def _compare_with_network(self) -> None:
        """Compare frames and Gaussians of every loop with those of the network, whose BatchNorm is not folded."""
        for name, values in self._given.items():
            loop, graph_name, tensor = name.rsplit(".", 2)
            found = self.found[f"{loop}.{NETWORK}{graph_name}.{tensor}"]
            for truth, given in zip(self._network[_of_network(name)], values, strict=True):
                found.add(truth, given)

    def _compare_shuffled(self) -> None:
        """Compare the frames of a loop that runs the shuffled decoder instead of the other."""
        run_graph = OnnxGraphs({**self._contents, "decoder": self._contents[SHUFFLED_DECODER]})
        frames = iter(self._frames)
        for call, (given,) in self._in_step(SeparateLoop, [run_graph]):
            if call == _DECODED:
                _add(self.found, f"{SHUFFLED}{call}", {"frame": next(frames)}, given)


def _refusing_float32(run_graph: GraphRunner) -> GraphRunner:
    """The graphs in float64; a module that computes in float32 all the same is refused by the name of its graph."""

    def run(graph_name: str, inputs: Mapping[str, NDArray[Any]]) -> Tensors:
        try:
            return run_graph(graph_name, inputs)
        except RuntimeError as error:  # of a layer whose weights and inputs have different types
            if is_out_of_memory(error):
                raise
            raise ParityError(
                f"the graph '{graph_name}' does not run in float64, as the parity gate runs it: {first_line(error)}\n"
                "  expected modules that take any type: use svg_export.graph_export.widened instead of .float() and float32\n"
                "  nothing was published"
            ) from error

    return run


def _loops(exports: Exports) -> list[tuple[type[SeparateLoop | RoleLoop], str]]:
    """The loops over the separate graphs and over the other roles; where there are both, these have a prefix of their own."""
    separate: list[tuple[type[SeparateLoop | RoleLoop], str]] = [(SeparateLoop, "")] if set(SEPARATE) <= exports.keys() else []
    return separate + ([(RoleLoop, FUSED if separate else "")] if "step" in exports else [])


def _needed_by_fused(exports: Exports) -> dict[str, deque[NDArray[Any]]]:
    """An empty queue for every output of the separate graphs that a fused one returns too; prime has the last step alone."""
    if not {*SEPARATE, "step"} <= exports.keys():
        return {}
    lengths = {f"observe.prime.{name}": 1 for name in exports["prime"].outputs}
    lengths |= {f"forecast.step.{name}": FORECAST_STEPS for name in exports["step"].outputs}
    return {separate_name(name): deque(maxlen=length) for name, length in lengths.items()}


def _add(found: Found, call: str, truth: Tensors, given: Tensors) -> None:
    """Compare the outputs of one run of a graph.

    Raises:
        ParityError: they have not the same outputs.
    """
    if truth.keys() != given.keys():
        raise ParityError(f"the graphs return {sorted(given)}, expected {sorted(truth)}")
    for name, value in truth.items():
        found[f"{call}.{name}"].add(value, given[name])


def _of_network(name: str) -> str:
    """Which of the network's own values an output must equal, if the network gives it."""
    _, graph_name, tensor = name.rsplit(".", 2)
    return tensor if _is_forecast(name) or graph_name == "prime" else f"{graph_name}_{tensor}"


def differences_between(truth: Trace, given: Trace) -> Found:
    """The differences of whole runs, by output.

    Raises:
        ParityError: they have not the same outputs.
    """
    if truth.keys() != given.keys():
        raise ParityError(f"the graphs return {sorted(given)}, expected {sorted(truth)}")
    found: Found = defaultdict(Differences)
    for name, steps in truth.items():
        for expected, value in zip(steps, given[name], strict=True):
            found[name].add(expected, value)
    return found


def frame_curve(report: ParityReport) -> ErrorCurve:
    """The differences of the forecast frames, of the separate graphs if there are any."""
    names = (f"forecast.{graph_name}.frame" for graph_name in ("decoder", "step", "decode"))
    return next(report.curves[name] for name in names if name in report.curves)


def _is_forecast(name: str) -> bool:
    return name.removeprefix(FUSED).removeprefix(SHUFFLED).startswith("forecast")


def _report(reference: Any, config: FamilyConfig, found: Found, **gate: Any) -> ParityReport:
    largest = max(float(differences.relative().max()) for differences in found.values())
    return ParityReport(
        reference=reference,
        provider=PROVIDER,
        observed=config.n_past,
        forecast=FORECAST_STEPS,
        samples=SAMPLES,
        max_error=float(f"{largest:.3e}"),
        curves={name: found[name].curve(name) for name in sorted(found)},
        **gate,
    )
