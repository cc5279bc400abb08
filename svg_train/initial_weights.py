"""The weights that a new run starts from: those of a checkpoint whose model has the same shape."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from svg_common.path_advice import shell_argument
from svg_train.checkpoint import CheckpointError
from svg_train.config_options import arguments
from svg_train.families.base import FamilyConfig
from svg_train.reference.checkpoint import load_any_checkpoint


def initial_weights(init: Path, model: FamilyConfig, model_config: Path | None) -> dict[str, Tensor]:
    """The weights of a checkpoint, whose model must have the shape of this run's.

    Args:
        init: the checkpoint, ours or another program's.
        model: of the run.
        model_config: settings of that model which are not in its checkpoint, in the form that its program writes them.

    Raises:
        CheckpointError: it cannot be read, or has another shape.
    """
    checkpoint = load_any_checkpoint(init, model_config)
    require_same_shape(checkpoint.config.model, model, init, model_config)
    return checkpoint.weights


def require_same_shape(start: FamilyConfig, model: FamilyConfig, init: Path | str, model_config: Path | None = None) -> None:
    """Refuse to start a run of `model` from the weights of another shape.

    Args:
        start: the model that the weights are of.
        model: of the run.
        init: what --init was given.
        model_config: as for `initial_weights`.

    Raises:
        CheckpointError: naming every difference, and the flags of a run that can start from it.
    """
    given, expected = start.shape(), model.shape()
    names = ["family"] if given["family"] != expected["family"] else list(expected)
    different = [name for name in names if given[name] != expected[name]]
    if different:
        sizes = "\n".join(f"  {name}: given {given[name]}, expected {expected[name]}" for name in different)
        flags = " ".join(arguments("model", name, given[name]) for name in _flags_of(start, different))
        settings = f" --model-config {shell_argument(model_config)}" if model_config is not None else ""
        raise CheckpointError(
            f"the model in '{init}' differs in shape from this run's:\n{sizes}\n"
            f"  start from it with: --init {shell_argument(init)}{settings} {flags}"
        )


def _flags_of(model: FamilyConfig, different: list[str]) -> list[str]:
    """Settings to give, so that a run has the shape of `model`: those that differ, or all if its family does."""
    if "family" not in different:
        return different
    changed = [name for name, value in model.shape().items() if value != type(model).model_fields[name].default]
    return ["family", *(name for name in changed if name != "family")]
