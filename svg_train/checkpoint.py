"""Checkpoints: a state_dict plus plain JSON-like values. Loading one never runs code from the file."""

from __future__ import annotations

import math
import pickle
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from svg_common.errors import SvgError, first_line
from svg_common.files import atomic_file, refuse_pipe
from svg_common.frame_statistics import TrainingData
from svg_common.video.sampling import MAX_STEP_S, MIN_STEP_S
from svg_train.config import Config, problem_lines
from svg_train.families import FAMILIES
from svg_train.families.video_model import VideoModel
from svg_train.parameter_shapes import parameter_shapes
from svg_train.weight_names import is_counter, unwrap_names

FORMAT = "svg-edge-checkpoint"
VERSION = 1
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_LISTED = 5  # weights in a message
_EXPECTED = "\n  expected a file that svg-train wrote (ckpt.pt or last.pt)"


class CheckpointError(SvgError):
    """A checkpoint cannot be read, or its weights do not match its configuration."""


@dataclass(frozen=True)
class Checkpoint:
    """Weights and what is needed to use them. Only checkpoints that can be resumed have `training`."""

    config: Config
    weights: dict[str, torch.Tensor]
    step: int = 0
    frame_interval_s: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    training: dict[str, Any] | None = None
    training_data: TrainingData | None = None  # None: not known, as of other programs' checkpoints
    trained_clips: dict[str, int] = field(default_factory=dict)  # see svg_train.data.trained_clips; empty: not known, or none

    def build(self) -> VideoModel:
        """The model with these weights, in evaluation mode.

        Raises:
            CheckpointError: parameters are missing, unexpected, of another shape or not finite; all are in one message.
        """
        expected = parameter_shapes(self.config.model)
        given = {name: tuple(value.shape) for name, value in self.weights.items()}
        problems = [f"missing {name} {expected[name]}" for name in expected.keys() - given.keys()]
        problems += [f"unexpected {name} {given[name]}" for name in given.keys() - expected.keys()]
        problems += [
            f"{name}: given {given[name]}, expected {expected[name]}"
            for name in expected.keys() & given.keys()
            if expected[name] != given[name]
        ]
        if problems:
            raise CheckpointError(
                "the checkpoint's weights do not match its configuration:\n  " + "\n  ".join(sorted(problems))
            )
        _refuse_not_finite(self.weights)
        model = FAMILIES[self.config.model.family].build(self.config.model)
        model.load_state_dict(self.weights)
        return model.eval()


def save_checkpoint(path: str | Path, checkpoint: Checkpoint) -> None:
    """Write atomically: after a crash or on a full disk the old file is still there. Metrics that are not finite are left out.

    Raises:
        OSError: the folder cannot be written or the disk is full.
    """
    with staged_checkpoint(path, checkpoint):
        pass


@contextmanager
def staged_checkpoint(path: str | Path, checkpoint: Checkpoint) -> Iterator[None]:
    """As `save_checkpoint`, but the file appears at the end of the block, and not at all if that fails.

    Raises:
        OSError: as `save_checkpoint`, before the block.
    """
    with atomic_file(path) as partial:
        content = {
            "format": FORMAT,
            "version": VERSION,
            "config": checkpoint.config.model_dump(mode="json"),
            "weights": {name: value.detach().cpu() for name, value in checkpoint.weights.items()},
            "step": checkpoint.step,
            "frame_interval_s": checkpoint.frame_interval_s,
            "metrics": {name: value for name, value in checkpoint.metrics.items() if math.isfinite(value)},
            "training": checkpoint.training,
            "training_data": _plain(checkpoint.training_data),
            "trained_clips": checkpoint.trained_clips,
        }
        try:
            with partial.open("wb") as file:  # given a path, torch would not say why it cannot write
                torch.save(content, file)
        except RuntimeError as error:  # of its zip writer, after an error of the file
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise
        yield


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint with `weights_only=True`.

    Raises:
        CheckpointError: the file is missing, truncated, not a checkpoint, contains code, or is of another version.
        UsageError: it is a pipe.
    """
    refuse_pipe(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"checkpoint '{path}' does not exist\n  train one with: svg-train --out run") from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"'{path}' is not an svg-edge checkpoint: it contains more than tensors and plain values. "
            f"Any code in it was not run{_EXPECTED}"
        ) from error
    except Exception as error:  # bytes that are not a pickle can raise anything
        reason = first_line(error)
        raise CheckpointError(
            f"cannot read the checkpoint '{path}': damaged, truncated or not a checkpoint ({reason}){_EXPECTED}"
        ) from error
    return _parse(path, content)


def _parse(path: str | Path, content: Any) -> Checkpoint:
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(f"'{path}' is not an svg-edge checkpoint{_EXPECTED}")
    version = content.get("version")
    if type(version) is not int or version != VERSION:
        raise CheckpointError(
            f"'{path}' is a checkpoint of version {repr(version)[:40]}; this svg-edge reads version {VERSION}\n"
            "  install the svg-edge release that wrote it"
        )
    weights = _weights(path, content.get("weights"))
    try:
        rest = _Metadata.model_validate({key: content[key] for key in content.keys() - {"format", "version", "weights"}})
    except ValidationError as error:
        raise CheckpointError(f"'{path}' is not a valid checkpoint:\n  " + "\n  ".join(problem_lines(error))) from error
    training = content["training"]
    return Checkpoint(
        config=rest.config,
        weights=unwrap_names(weights),
        step=rest.step,
        frame_interval_s=rest.frame_interval_s,
        metrics=rest.metrics,
        training=training and {**training, "weights": _weights(path, training["weights"])},
        training_data=rest.training_data,
        trained_clips=rest.trained_clips,
    )


def _weights(path: str | Path, given: Any) -> dict[str, torch.Tensor]:
    """The weights of a file as float32, which is what networks are built in; counters stay integers."""
    if not isinstance(given, dict) or not all(isinstance(value, torch.Tensor) for value in given.values()):
        raise CheckpointError(f"'{path}' contains no weights{_EXPECTED}")
    for name, value in given.items():
        problem = _problem(name, value)
        if problem is not None:
            raise CheckpointError(f"the weight {repr(name)[:200]} in '{path}' {problem}{_EXPECTED}")
    if not _is_stored(given.values()):
        raise CheckpointError(f"several weights in '{path}' share the same values, which svg-train never writes{_EXPECTED}")
    return {name: value.detach().float() if value.is_floating_point() else value for name, value in given.items()}


def _problem(name: object, value: torch.Tensor) -> str | None:
    """What keeps a tensor from being a weight."""
    if not isinstance(name, str):
        return f"has a name of type {type(name).__name__}"
    if value.layout != torch.strided or value.is_nested or value.is_quantized or value.device.type != "cpu":
        return "is sparse, nested, quantized or without values"
    if value.dtype not in _FLOATS and not (is_counter(name) and value.dtype in (torch.int32, torch.int64)):
        return f"has values of type {str(value.dtype).removeprefix('torch.')}"
    return None


def _refuse_not_finite(weights: Mapping[str, torch.Tensor]) -> None:
    names = [name for name, value in weights.items() if not torch.isfinite(value).all()]
    if names:
        more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
        raise CheckpointError(
            f"the checkpoint's weights contain values that are not finite: {', '.join(names[:_LISTED])}{more}\n"
            "  expected numbers: the training has diverged, or the file is damaged; take an earlier checkpoint"
        )


def _plain(training_data: TrainingData | None) -> dict[str, Any] | None:
    return None if training_data is None else training_data.model_dump(mode="json")


def _is_stored(tensors: Iterable[torch.Tensor]) -> bool:
    """Whether tensors have no more bytes than the file. In a hostile one, a few bytes may be a view of any size."""
    listed = list(tensors)
    stored = {value.untyped_storage()._cdata: value.untyped_storage().nbytes() for value in listed}
    return sum(value.numel() * value.element_size() for value in listed) <= sum(stored.values())


_Finite = Annotated[float, Field(allow_inf_nan=False)]


class _TrainingState(BaseModel):
    """What a run continues from, beside the weights that were evaluated. torch checks what is in its own tables."""

    model_config = ConfigDict(extra="forbid", strict=True)

    weights: dict[str, Any]
    optimizer: dict[str, Any]
    schedule: dict[str, Any]
    averaged: int = Field(ge=0)  # steps in the averaged weights
    best: float  # -inf before the first evaluation
    elapsed_s: _Finite = Field(0.0, ge=0)  # older checkpoints have none
    precision: str | None = None  # nor this
    loss_scaling: dict[str, Any] = Field(default_factory=dict)  # in float16 alone
    data_files: dict[str, str] = Field(default_factory=dict)  # split -> fingerprint; older checkpoints have none
    evaluation_due: bool = False  # given up when the run was stopped; older checkpoints were saved after it


class _Metadata(BaseModel):
    """All of a checkpoint file except its tensors."""

    model_config = ConfigDict(extra="forbid")

    config: Config
    step: int = Field(ge=0, lt=1 << 40)
    frame_interval_s: float | None = Field(ge=MIN_STEP_S, le=MAX_STEP_S)
    metrics: dict[str, _Finite]
    training: _TrainingState | None
    training_data: TrainingData | None = None  # older checkpoints have none
    trained_clips: dict[str, int] = Field(default_factory=dict)  # nor this
