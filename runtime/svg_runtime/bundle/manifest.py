"""manifest.json, which export writes and the runtime relies on, as frozen, validated objects."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    Strict,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError

from svg_common.frame_statistics import TrainingData
from svg_common.video.sampling import MAX_STEP_S, MIN_STEP_S

SCHEMA_VERSION = 1
FILE_NAME = "manifest.json"
BATCH = "batch"  # the one dynamic axis of every graph
# That axis of what may be shared by the batch, which is then 1: skip conditions, and what prime reads and gives once for all
# samples: h_seq, its Gaussians, and constants such as the content w of SRVP.
COND_BATCH = "cond_batch"
SAMPLES = "samples"  # the second dynamic axis of the graph `forecast`
FORECAST = "forecast"  # name of the graph that makes whole forecasts of many cameras, without a state

Precision = Literal["fp32", "fp16", "bf16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
Computes = Literal["variant", "float32", "mixed"]  # the variant's precision; float32 in all variants; some layers each
Metric = Literal["psnr_best", "psnr_mean", "ssim_best", "ssim_mean", "diversity"]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Difference = Annotated[Finite, Field(ge=0)]
Size = Annotated[int, Field(ge=1, le=65536)]
SizeOrNone = Annotated[int, Field(ge=0, le=65536)]  # 0: the model has no such part
Name = Annotated[str, Field(min_length=1, max_length=128)]  # of a tensor or a graph
# For people. Without a limit, Pydantic accepts lone surrogates, which UTF-8 cannot hold.
Text = Annotated[str, Field(max_length=4096)]

# Far beyond all models that a device can run: they keep a hostile manifest from taking all memory.
_MAX_AXES = 8
_MAX_TENSORS = 1024  # of each side of a graph
_MAX_ELEMENTS = 1 << 28  # of a tensor at batch 1: 1 GiB in float32
_MAX_GRAPH_ELEMENTS = 1 << 29  # of all tensors of a graph at batch 1


def _inside(path: str) -> str:
    if len(path) > 255 or not re.fullmatch(r"[\w.-]+(/[\w.-]+)*", path, re.ASCII) or ".." in path.split("/"):
        raise ValueError("not a plain path inside the bundle; expected one such as fp32/encoder.onnx")
    return path


def _int_alone(number: Any) -> Any:
    """Refuse true and 1.0, which pydantic takes for 1 of a Literal even where it is strict."""
    if type(number) is not int:
        raise PydanticCustomError("int_type", "Input should be a valid integer")
    return number


InsidePath = Annotated[str, AfterValidator(_inside)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_Whole = BeforeValidator(_int_alone)
_ListOfJson = Strict(False)  # JSON has lists alone, which a strict tuple refuses; what is in them is strict all the same


class Frozen(BaseModel):
    """Base of all parts of the manifest: immutable, unknown keys are refused, and so is the text "5" or true for a number.

    A manifest is hostile until it is checked, and readers in other languages do not guess what such a value means.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class TensorSpec(Frozen):
    """Name, type and shape of a graph's input or output, as read from the graph."""

    name: Name
    dtype: Literal["float32", "float16"]
    shape: Annotated[tuple[Size | Literal["batch", "cond_batch", "samples"], ...], _ListOfJson] = Field(max_length=_MAX_AXES)

    @model_validator(mode="after")
    def _fits_into_memory(self) -> TensorSpec:
        if self.elements > _MAX_ELEMENTS:
            raise ValueError(f"{self.elements} elements at batch 1, expected at most {_MAX_ELEMENTS}")
        return self

    @property
    def elements(self) -> int:
        """Number of elements at batch 1."""
        return math.prod(self.sized(1))

    @property
    def batch_axis(self) -> int:
        """Position of the dynamic axis."""
        return next(axis for axis, size in enumerate(self.shape) if size in (BATCH, COND_BATCH))

    def sized(self, batch: int) -> tuple[int, ...]:
        """Return the shape with `batch` for the dynamic axis, and 1 for that of samples."""
        sizes = {BATCH: batch, COND_BATCH: batch, SAMPLES: 1}
        return tuple(sizes.get(str(size)) or int(size) for size in self.shape)

    def shared(self, batch: int) -> tuple[int, ...]:
        """Return the shape with `batch` for the batch axis, and 1 where a tensor may be shared by the batch."""
        return tuple({BATCH: batch, COND_BATCH: 1}.get(str(size)) or int(size) for size in self.shape)

    def batch_range(self, max_batch: int) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """Return smallest, usual and largest shape: batch 1 .. max_batch; tensors shared by samples usually have batch 1."""
        usual = self.shared(max_batch) if COND_BATCH in self.shape else self.sized(max_batch)
        return self.sized(1), usual, self.sized(max_batch)


class StateSpec(Frozen):
    """A recurrent tensor: `output` of one call is `input` of the next."""

    input: Name
    output: Name
    initial: Literal["zeros", "given"] = "zeros"  # given: computed by prime, the encoder or the skip graph


class GraphSpec(Frozen):
    """One ONNX file and its interface."""

    file: InsidePath
    sha256: Sha256
    bytes: int = Field(ge=1)
    opset: int = Field(ge=1)
    inputs: Annotated[tuple[TensorSpec, ...], _ListOfJson] = Field(max_length=_MAX_TENSORS)
    outputs: Annotated[tuple[TensorSpec, ...], _ListOfJson] = Field(max_length=_MAX_TENSORS)
    states: Annotated[tuple[StateSpec, ...], _ListOfJson] = Field((), max_length=_MAX_TENSORS)
    computes: Computes = "variant"  # what its layers with weights compute in

    @model_validator(mode="before")
    @classmethod
    def _of_older_bundles(cls, data: Any) -> Any:
        """Bundles of the first form do not say which graphs stay in float32."""
        if not isinstance(data, dict) or "computes" in data:
            return data
        name = str(data.get("file")).rpartition("/")[2].removesuffix(".onnx")
        return {**data, "computes": "float32" if name in ("posterior", "prior", "predictor", "prime") else "variant"}

    @model_validator(mode="after")
    def _fits_into_memory(self) -> GraphSpec:
        elements = sum(tensor.elements for tensor in (*self.inputs, *self.outputs))
        if elements > _MAX_GRAPH_ELEMENTS:
            raise ValueError(f"its tensors have {elements} elements at batch 1, expected at most {_MAX_GRAPH_ELEMENTS}")
        return self

    def tensor(self, name: str) -> TensorSpec:
        """Return the input or output called `name`."""
        for spec in (*self.inputs, *self.outputs):
            if spec.name == name:
                return spec
        raise KeyError(name)


class ErrorCurve(Frozen):
    """Differences per step between two runs of the same steps with the same noise."""

    max_abs: Annotated[tuple[Difference, ...], _ListOfJson]
    psnr_db: Annotated[tuple[Finite, ...], _ListOfJson] | None = None  # frames only; at most 120, see `svg_common.metrics`

    @model_validator(mode="after")
    def _value_per_step(self) -> ErrorCurve:
        if not self.max_abs:
            raise ValueError("max_abs is empty, expected a value per step")
        if self.psnr_db is not None and len(self.psnr_db) != len(self.max_abs):
            raise ValueError(f"psnr_db has {len(self.psnr_db)} values, but max_abs has {len(self.max_abs)}")
        return self


class ParityReport(Frozen):
    """Differences between a variant and its reference over observed and forecast frames, with the same noise."""

    reference: Literal["pytorch", "fp32"]
    provider: Text  # that computed the variant, e.g. CPUExecutionProvider
    observed: int
    forecast: int
    samples: int
    tolerance: Difference | None = None  # gate: largest one allowed, relative to max(1, the tensor's largest value); None: fp16
    # Error of float32 arithmetic in the reference, up to each forecast step.
    rounding: Annotated[tuple[Difference, ...], _ListOfJson] | None = None
    max_error: Difference  # largest one, relative to max(1, the tensor's largest value)
    # Tensor -> per step; "observe.h", "fused.forecast.step.frame", "shuffled.forecast.decoder.frame", "server.frame", ...
    curves: dict[Text, ErrorCurve] = Field(min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _without_unused_gate(cls, given: Any) -> Any:
        """Older bundles carry this key, always null, and must stay readable."""
        if isinstance(given, dict) and given.get("min_first_step_psnr_db", 0.0) is None:
            return {name: value for name, value in given.items() if name != "min_first_step_psnr_db"}
        return given

    @model_validator(mode="after")
    def _as_many_steps_as_frames(self) -> ParityReport:
        """What is observed is not compared at every frame; the graph `forecast`, "server.", has a horizon of its own."""
        for name, curve in self.curves.items():
            steps, phase = len(curve.max_abs), re.sub(r"^(fused|shuffled)\.", "", name).partition(".")[0]
            if phase == "forecast" and steps != self.forecast:
                raise ValueError(f"the curve {name[:100]!r} has {steps} values for {self.forecast} forecast frames")
            if phase == "observe" and steps > self.observed:
                raise ValueError(f"the curve {name[:100]!r} has {steps} values for {self.observed} observed frames")
        return self


class PairedDifference(Frozen):
    """One quality metric on the same sequences with the same noise, averaged over sequences; higher is better."""

    fp32: Finite
    reduced: Finite
    difference: Finite  # reduced - fp32; negative is a loss
    low: Finite  # of the paired confidence interval of the difference
    high: Finite
    tolerance: Annotated[Finite, Field(ge=0)]  # gate: the largest invisible loss

    @model_validator(mode="after")
    def _interval_in_order(self) -> PairedDifference:
        if not self.low <= self.difference <= self.high:
            raise ValueError(f"the difference {self.difference} lies outside its interval [{self.low}, {self.high}]")
        return self

    @property
    def is_loss(self) -> bool:
        """Whether the whole interval lies beyond the tolerance: the loss is certain and visible."""
        return self.high < -self.tolerance


class _ComparedWithFp32(Frozen):
    """The run of a gate: forecasts in fp32 and in a reduced precision, with the same noise."""

    sequences: int = Field(ge=2)
    samples: int = Field(ge=1)  # futures per sequence
    horizon: int = Field(ge=1)  # forecast frames
    seed: int = Field(ge=0)  # of the noise
    confidence: float = Field(gt=0, lt=1)  # of the intervals
    computed_by: Text  # engine, device and precision
    divergence_psnr_db: Annotated[tuple[Finite, ...], _ListOfJson]  # per step, reduced against fp32
    min_first_step_psnr_db: Finite  # gate: of the first of them

    @model_validator(mode="after")
    def _value_per_step(self) -> _ComparedWithFp32:
        if len(self.divergence_psnr_db) != self.horizon:
            raise ValueError(f"divergence_psnr_db has {len(self.divergence_psnr_db)} values for {self.horizon} steps")
        return self

    def _failures(self, metrics: Mapping[Metric, PairedDifference]) -> list[str]:
        first, least = self.divergence_psnr_db[0], self.min_first_step_psnr_db
        lines = (
            [f"the first forecast frame is {first:.1f} dB from fp32, expected at least {least:g} dB"] if first < least else []
        )
        return lines + [
            f"{name} falls from {value.fp32:.5g} to {value.reduced:.5g}: by {-value.high:.2g} to {-value.low:.2g} with "
            f"{self.confidence:.0%} confidence, tolerance {value.tolerance:.2g}"
            for name, value in metrics.items()
            if value.is_loss
        ]


class QualityReport(_ComparedWithFp32):
    """The effect of a reduced precision on forecasts of held-out sequences, and the gate that it has passed.

    The loop amplifies rounding, so a sample diverges from that of fp32 with the same noise. It is then another sample of the
    same distribution, not a worse one: so the gate checks the first step, and the quality against the truth.
    """

    data: Text  # name of the data set
    split: Literal["test"]
    metrics: dict[Metric, PairedDifference]  # psnr in dB; best and mean over samples; a single sample has no diversity

    @model_validator(mode="after")
    def _complete(self) -> QualityReport:
        expected = set(get_args(Metric)) - (set() if self.samples > 1 else {"diversity"})
        if set(self.metrics) != expected:
            raise ValueError(f"metrics are {sorted(self.metrics)}, expected {sorted(expected)}")
        return self

    def failures(self) -> list[str]:
        """List the failures of the gate, one line each; empty if it is passed."""
        return self._failures(self.metrics)


class DivergenceReport(_ComparedWithFp32):
    """How far a reduced precision is from fp32 on drawn frames: all that can be measured without held-out sequences.

    The quality against the truth is then not known, so no backend chooses such a variant by itself.
    """

    frames: Text  # what was drawn
    quality_against_truth: Literal["not measured"]
    measure_with: str = Field(max_length=500)  # the command that measures it; CHECKPOINT, FILE, DIR: the user's own
    diversity: PairedDifference | None  # None for a single sample

    def failures(self) -> list[str]:
        """List the failures of the gate, one line each; empty if it is passed."""
        return self._failures({} if self.diversity is None else {"diversity": self.diversity})


class PrecisionVariant(Frozen):
    """One precision of the whole set of graphs."""

    graphs: dict[Name, GraphSpec]
    parity: ParityReport | None  # None for bf16, which uses the graphs of fp32
    quality: QualityReport | None = None  # None for fp32, and where the quality was not measured
    divergence: DivergenceReport | None = None  # of a reduced precision whose quality was not measured
    forecast: GraphSpec | None = None  # whole forecasts of many cameras without a state, for servers; no Forecaster reads it

    @property
    def files(self) -> dict[str, GraphSpec]:
        """All graphs by name, those of forecasters and that of servers."""
        return self.graphs if self.forecast is None else {**self.graphs, FORECAST: self.forecast}

    @model_serializer(mode="wrap")
    def _without_absent_parts(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Bundles without these parts have no such keys, so that releases that do not know them still read the bundles."""
        values: dict[str, Any] = dump(self)
        absent = [name for name in ("divergence", "forecast") if getattr(self, name) is None]
        return {name: each for name, each in values.items() if name not in absent}


class FrameSpec(Frozen):
    """The frame that the model expects."""

    height: Size
    width: Size
    channels: Annotated[Literal[1, 3], _Whole]
    colour_order: Literal["gray", "RGB"]
    range: Annotated[tuple[float, float], _ListOfJson]

    @model_validator(mode="after")
    def _readable(self) -> FrameSpec:
        """Refuse values that the runtime does not support."""
        if self.range != (0.0, 1.0):
            raise ValueError(f"range is {self.range}; this release supports only [0, 1]")
        if self.colour_order != ("gray" if self.channels == 1 else "RGB"):
            raise ValueError(f"colour_order is {self.colour_order} with {self.channels} channel(s)")
        return self


_MAX_SETTINGS = 64
_MAX_VALUES = 200  # of a setting that is a list


def _refuse_too_long(settings: Any) -> Any:
    """Refuse a table or a list that is too long before its values are checked: each that is wrong costs several messages."""
    if not isinstance(settings, dict):
        return settings
    if len(settings) > _MAX_SETTINGS:
        raise ValueError(f"{len(settings)} settings, expected at most {_MAX_SETTINGS}")
    for name, values in settings.items():
        if isinstance(values, (list, tuple)) and len(values) > _MAX_VALUES:
            raise ValueError(f"{str(name)[:40]!r} has {len(values)} values, expected at most {_MAX_VALUES}")
    return settings


_ShortText = Annotated[str, Field(max_length=200)]
_Single = bool | int | Finite | _ShortText
Setting = _Single | Annotated[tuple[_Single, ...], _ListOfJson] | None
_PRIOR_OF_VARIANT = {"lp": "learned", "fp": "fixed", "det": "none"}


class ModelSpec(Frozen):
    """What kind of network it is. Its sizes are in the graphs; the runtime needs no others."""

    family: str = Field(pattern=r"^[a-z][a-z0-9-]{0,30}$")
    prior: Literal["learned", "fixed", "none"]  # fixed: N(0, I); none: deterministic, one future
    z_dim: SizeOrNone  # size of the flat vector of noise per sample and step; 0 without a prior
    settings: Annotated[
        dict[_ShortText, Setting], BeforeValidator(_refuse_too_long)
    ]  # of the family, as it was trained; for readers of the file

    @model_validator(mode="before")
    @classmethod
    def _of_older_bundles(cls, data: Any) -> Any:
        """Read what bundles of the first form have, all settings in one table; they must stay readable."""
        if not isinstance(data, dict) or "settings" in data or data.get("family") != "svg":
            return data
        known = {name: data[name] for name in ("family", "prior", "z_dim") if name in data}
        if "prior" not in data and data.get("variant") in _PRIOR_OF_VARIANT:
            known["prior"] = _PRIOR_OF_VARIANT[data["variant"]]
        settings = {name: value for name, value in data.items() if name in _OLDER_SETTINGS}
        rest = {name: value for name, value in data.items() if name not in (*known, *settings, "variant")}
        return {**known, **rest, "settings": settings}

    @model_validator(mode="after")
    def _latents_fit_the_prior(self) -> ModelSpec:
        if bool(self.z_dim) != (self.prior != "none"):
            raise ValueError(f"prior {self.prior} with z_dim {self.z_dim}")
        return self


_OLDER_SETTINGS = ("backbone", "nf", "g_dim", "rnn_size", "predictor_layers", "posterior_layers", "prior_layers", "skips")


class GenerationSpec(Frozen):
    """How the graphs are run to make a forecast."""

    n_past: int = Field(ge=2, le=1024)
    skip_lag: Annotated[Literal[0, 1], _Whole]
    last_frame_skip: bool
    frame_interval_s: float | None = Field(
        ge=MIN_STEP_S, le=MAX_STEP_S
    )  # seconds per model step; None if the training data had no time base
    training_horizon: int = Field(ge=1)  # forecast frames in training
    context: Literal["window", "stream"] = "window"  # how the runtime reads what was observed, unless the user says otherwise
    context_draws: int | None = Field(None, ge=0, le=1024)  # vectors of noise for n_past frames; None: one per pair of them


class Provenance(Frozen):
    """Where the bundle comes from. No times and no paths: the same checkpoint gives the same bytes."""

    checkpoint_sha256: Sha256
    checkpoint_step: int
    metrics: dict[Text, float]
    data: Text
    versions: dict[Text, Text]


class Manifest(Frozen):
    """The whole of manifest.json."""

    format: Literal["svg-bundle"]
    schema_version: Literal[1]
    bundle_id: str = Field(pattern=r"^[0-9a-f]{16}$")
    model: ModelSpec
    frame: FrameSpec
    generation: GenerationSpec
    variants: dict[Precision, PrecisionVariant] = Field(min_length=1)
    provenance: Provenance
    training_data: TrainingData | None = None  # None: not known, in older bundles and those of other programs' checkpoints

    @model_serializer(mode="wrap")
    def _without_unknown_training_data(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Bundles that do not know it have no such key, so that releases that do not know it still read them."""
        values: dict[str, Any] = dump(self)
        return values if self.training_data is not None else {n: each for n, each in values.items() if n != "training_data"}

    @property
    def context_draws(self) -> int:
        """Vectors of noise that are drawn for each sample while the context is read."""
        draws = self.generation.context_draws
        return self.generation.n_past - 1 if draws is None else draws

    def quality_is_known(self, precision: Precision) -> bool:
        """Whether the bundle has this precision with its quality measured: backends choose only such a one by themselves."""
        variant = self.variants.get(precision)
        return variant is not None and (precision == "fp32" or variant.quality is not None)

    def quality_note(self, precision: Precision) -> str | None:
        """What a user of this precision must know: that its quality was not measured, and how to measure it; None if it was."""
        variant = self.variants.get(precision)
        if variant is None or variant.divergence is None:
            return None
        command = variant.divergence.measure_with
        return f"quality of {precision} against the truth was not measured; measure and record it with: {command}"


def missing_quality_reports(manifest: Manifest) -> list[str]:
    """List reduced precisions without a passed quality gate, and other missing or misplaced reports, one line each."""
    problems = []
    fp32 = manifest.variants.get("fp32")
    for precision, variant in manifest.variants.items():
        where = f"variants.{precision}"
        if (variant.parity is None) != (precision == "bf16"):
            problems.append(f"{where}.parity: expected a report, except for bf16, which uses the graphs of fp32")
        reports = {"quality": variant.quality, "divergence": variant.divergence}
        if sum(report is not None for report in reports.values()) != (precision != "fp32"):
            problems.append(
                f"{where}.quality: expected a report for every reduced precision, or else one as {where}.divergence, "
                "and none for fp32"
            )
        for name, report in reports.items():
            if report is not None:
                problems += [f"{where}.{name}: does not pass its gate: {line}" for line in report.failures()]
        if precision == "bf16" and (fp32 is None or variant.files != fp32.files):
            problems.append(f"{where}.graphs: expected the graphs of fp32, which bf16 shares")
    return problems
