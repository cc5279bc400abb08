"""Checkpoints: a state_dict plus plain JSON-like values. Loading one never runs code from the file."""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from svg_common.errors import SvgError
from svg_common.files import atomic_file, refuse_pipe
from svg_common.frame_statistics import TrainingData
from svg_train.config import Config, problem_lines
from svg_train.families import FAMILIES
from svg_train.families.video_model import VideoModel
from svg_train.parameter_shapes import parameter_shapes
from svg_train.weight_names import unwrap_names

FORMAT = "svg-edge-checkpoint"
VERSION = 1


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

    def build(self) -> VideoModel:
        """The model with these weights, in evaluation mode.

        Raises:
            CheckpointError: parameters are missing, unexpected or of another shape; all are in one message.
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
        model = FAMILIES[self.config.model.family].build(self.config.model)
        model.load_state_dict(self.weights)
        return model.eval()


def save_checkpoint(path: str | Path, checkpoint: Checkpoint) -> None:
    """Write atomically: after a crash or on a full disk the old file is still there.

    Raises:
        OSError: the folder cannot be written or the disk is full.
    """
    with atomic_file(path) as partial:
        try:
            torch.save(
                {
                    "format": FORMAT,
                    "version": VERSION,
                    "config": checkpoint.config.model_dump(mode="json"),
                    "weights": {name: value.detach().cpu() for name, value in checkpoint.weights.items()},
                    "step": checkpoint.step,
                    "frame_interval_s": checkpoint.frame_interval_s,
                    "metrics": checkpoint.metrics,
                    "training": checkpoint.training,
                    "training_data": _plain(checkpoint.training_data),
                },
                partial,
            )
        except RuntimeError as error:  # torch reports a failed write as a RuntimeError of its zip writer
            reason = str(error).splitlines()[0]
            raise OSError(f"cannot write '{path}': is the disk full? (torch reports: {reason})") from error


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
            "Any code in it was not run\n  expected a file that svg-train wrote (ckpt.pt or last.pt)"
        ) from error
    except Exception as error:  # bytes that are not a pickle can raise anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"cannot read the checkpoint '{path}': damaged, truncated or not a checkpoint ({reason})\n"
            "  expected a file that svg-train wrote (ckpt.pt or last.pt)"
        ) from error
    return _parse(path, content)


def _parse(path: str | Path, content: Any) -> Checkpoint:
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(
            f"'{path}' is not an svg-edge checkpoint\n  expected a file that svg-train wrote (ckpt.pt or last.pt)"
        )
    if content.get("version") != VERSION:
        raise CheckpointError(
            f"'{path}' is a checkpoint of version {content.get('version')!r}; this svg-edge reads version {VERSION}\n"
            "  install the svg-edge release that wrote it"
        )
    weights = content.get("weights")
    if not isinstance(weights, dict) or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise CheckpointError(f"'{path}' contains no weights\n  expected a file that svg-train wrote (ckpt.pt or last.pt)")
    if not _is_stored(weights.values()):
        raise CheckpointError(
            f"several weights in '{path}' share the same values, which svg-train never writes\n"
            "  expected a file that svg-train wrote (ckpt.pt or last.pt)"
        )
    try:
        rest = _Metadata.model_validate({key: content[key] for key in content.keys() - {"format", "version", "weights"}})
    except ValidationError as error:
        raise CheckpointError(f"'{path}' is not a valid checkpoint:\n  " + "\n  ".join(problem_lines(error))) from error
    return Checkpoint(
        config=rest.config,
        weights=unwrap_names(weights),
        step=rest.step,
        frame_interval_s=rest.frame_interval_s,
        metrics=rest.metrics,
        training=rest.training,
        training_data=rest.training_data,
    )


def _plain(training_data: TrainingData | None) -> dict[str, Any] | None:
    return None if training_data is None else training_data.model_dump(mode="json")


def _is_stored(tensors: Iterable[torch.Tensor]) -> bool:
    """Whether tensors have no more bytes than the file. In a hostile one, a few bytes may be a view of any size."""
    listed = list(tensors)
    stored = {value.untyped_storage()._cdata: value.untyped_storage().nbytes() for value in listed}
    return sum(value.numel() * value.element_size() for value in listed) <= sum(stored.values())


class _Metadata(BaseModel):
    """All of a checkpoint file except its tensors."""

    model_config = ConfigDict(extra="forbid")

    config: Config
    step: int
    frame_interval_s: float | None
    metrics: dict[str, float]
    training: dict[str, Any] | None
    training_data: TrainingData | None = None  # older checkpoints have none
