"""manifest.json: what export promises and the runtime trusts, as frozen, validated objects."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

SCHEMA_VERSION = 1
FILE_NAME = "manifest.json"
BATCH = "batch"  # the one dynamic axis of every graph
COND_BATCH = "cond_batch"  # that axis of the decoder's skip conditions: 1 (shared by the batch) or the batch

Precision = Literal["fp32", "fp16"]
Size = Annotated[int, Field(ge=1, le=65536)]
SizeOrNone = Annotated[int, Field(ge=0, le=65536)]  # 0: the variant has no such part


def _inside(path: str) -> str:
    if len(path) > 255 or not re.fullmatch(r"[\w.-]+(/[\w.-]+)*", path, re.ASCII) or ".." in path.split("/"):
        raise ValueError("leaves the bundle or is no plain name; expected a path inside it, such as fp32/encoder.onnx")
    return path


InsidePath = Annotated[str, AfterValidator(_inside)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Frozen(BaseModel):
    """Immutable, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class TensorSpec(Frozen):
    """Name, type and shape of a graph's input or output, as read from the graph."""

    name: str
    dtype: Literal["float32", "float16"]
    shape: tuple[Size | Literal["batch", "cond_batch"], ...]

    def sized(self, batch: int) -> tuple[int, ...]:
        """The shape with `batch` in place of the dynamic axis."""
        return tuple(batch if size in (BATCH, COND_BATCH) else int(size) for size in self.shape)

    def shared(self, batch: int) -> tuple[int, ...]:
        """The shape with `batch` in place of the batch axis, and 1 where a tensor may be shared by the batch."""
        return tuple({BATCH: batch, COND_BATCH: 1}.get(str(size)) or int(size) for size in self.shape)


class StateSpec(Frozen):
    """A recurrent tensor: what `output` gave is the next call's `input`."""

    input: str
    output: str
    initial: Literal["zeros", "given"] = "zeros"  # given: by the graph prime, the encoder or the skip graph


class GraphSpec(Frozen):
    """One ONNX file and its interface."""

    file: InsidePath
    sha256: Sha256
    bytes: int = Field(ge=1)
    opset: int = Field(ge=1)
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    states: tuple[StateSpec, ...] = ()

    def tensor(self, name: str) -> TensorSpec:
        """The input or output called `name`."""
        for spec in (*self.inputs, *self.outputs):
            if spec.name == name:
                return spec
        raise KeyError(name)


class ErrorCurve(Frozen):
    """Differences per step between two ways to run the same steps with the same noise."""

    max_abs: tuple[float, ...]
    psnr_db: tuple[float, ...] | None = None  # frames only


class ParityReport(Frozen):
    """How far a variant is from its reference over n_past observed and some forecast frames, same noise."""

    reference: Literal["pytorch", "fp32"]
    provider: str  # what computed the variant, e.g. CPUExecutionProvider
    observed: int
    forecast: int
    samples: int
    tolerance: float | None = None  # gate: largest difference allowed, relative to max(1, the tensor's largest value)
    rounding: tuple[float, ...] | None = None  # what float32 arithmetic itself does to the reference, per forecast step
    min_first_step_psnr_db: float | None = None  # gate: first forecast frame against the reference
    max_error: float  # largest difference, relative to max(1, the tensor's largest value)
    curves: dict[str, ErrorCurve]  # tensor -> per step; "observe.h", "forecast.frame", "forecast.prior.state", ...


class Variant(Frozen):
    """One precision of the whole set of graphs."""

    graphs: dict[str, GraphSpec]
    parity: ParityReport


class FrameSpec(Frozen):
    """What a frame is to the model."""

    height: Size
    width: Size
    channels: Literal[1, 3]
    colour_order: Literal["gray", "RGB"]
    range: tuple[float, float]

    @model_validator(mode="after")
    def _readable(self) -> FrameSpec:
        """Refuse what the runtime would otherwise have to ignore."""
        if self.range != (0.0, 1.0):
            raise ValueError(f"range is {self.range}; this release knows [0, 1] only")
        if self.colour_order != ("gray" if self.channels == 1 else "RGB"):
            raise ValueError(f"colour_order is {self.colour_order} with {self.channels} channel(s)")
        return self


class ModelSpec(Frozen):
    """Dimensions of the network."""

    family: Literal["svg"]
    variant: Literal["lp", "fp", "det"]  # learned prior, fixed prior N(0, I), deterministic
    backbone: Literal["dcgan", "vgg"]
    nf: Size
    g_dim: Size
    z_dim: SizeOrNone  # 0 in variant det
    rnn_size: Size
    predictor_layers: Size
    posterior_layers: SizeOrNone  # 0 in variant det
    prior_layers: SizeOrNone  # 0 in variants fp and det
    skips: Size  # number of skip tensors

    @model_validator(mode="after")
    def _parts_of_variant(self) -> ModelSpec:
        parts = (bool(self.z_dim), bool(self.posterior_layers), bool(self.prior_layers))
        expected = {"lp": (True, True, True), "fp": (True, True, False), "det": (False, False, False)}[self.variant]
        if parts != expected:
            raise ValueError(
                f"variant {self.variant} with z_dim {self.z_dim}, posterior_layers {self.posterior_layers}, "
                f"prior_layers {self.prior_layers}"
            )
        return self


class GenerationSpec(Frozen):
    """The rule by which graphs become a forecast."""

    n_past: int = Field(ge=2, le=1024)
    skip_lag: Literal[0, 1]
    last_frame_skip: bool
    frame_interval_s: float | None = Field(
        gt=0, allow_inf_nan=False
    )  # seconds per model step; None when the training data had no time base
    training_horizon: int = Field(ge=1)  # forecast frames that training saw


class Provenance(Frozen):
    """Where the bundle comes from. No times and no paths: the same checkpoint gives the same bytes."""

    checkpoint_sha256: Sha256
    checkpoint_step: int
    metrics: dict[str, float]
    data: str
    versions: dict[str, str]


class Manifest(Frozen):
    """All of manifest.json."""

    format: Literal["svg-bundle"]
    schema_version: Literal[1]
    bundle_id: str = Field(pattern=r"^[0-9a-f]{16}$")
    model: ModelSpec
    frame: FrameSpec
    generation: GenerationSpec
    variants: dict[Precision, Variant] = Field(min_length=1)
    provenance: Provenance
