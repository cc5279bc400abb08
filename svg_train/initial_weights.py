"""The weights that a new run starts from: those of a checkpoint whose model has the same shape."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from svg_common.path_advice import shell_argument
from svg_common.video.sampling import SAME_RATE
from svg_train.checkpoint import CheckpointError
from svg_train.config import DataConfig
from svg_train.config_options import arguments
from svg_train.data import SequenceDataset
from svg_train.data.notes import log_once
from svg_train.data.statistics import FilesFingerprint
from svg_train.data.trained_clips import clips_in_words, held_out_in_vain
from svg_train.families.base import FamilyConfig
from svg_train.reference.checkpoint import load_any_checkpoint


@dataclass(frozen=True)
class InitialWeights:
    """Weights of another run, how long its steps last, and what it was trained on."""

    init: Path
    weights: dict[str, Tensor]
    frame_interval_s: float | None  # None: not known
    trained_clips: Mapping[str, int] = field(default_factory=dict)  # see svg_train.data; empty: not known, or none

    def note_other_interval(self, interval_s: float | None, data: DataConfig) -> None:
        """Log if steps last longer or shorter in the new run, which may be meant, and the option that avoids it.

        Args:
            interval_s: seconds per step of the new run, as its data has turned out; None: not known.
            data: its settings.
        """
        start_s = self.frame_interval_s
        if start_s is None or interval_s is None or abs(interval_s - start_s) <= SAME_RATE * start_s:
            return
        replaced = " in place of --frame-step" if data.frame_step != 1 else ""
        log_once(
            logging.INFO,
            f"note: this run has other steps than the model in '{self.init}': {start_s:.4g} s there, {interval_s:.4g} s here\n"
            f"  keep them with: --frame-interval-s {start_s:.6g}{replaced}",
        )

    def warn_if_trained_on(self, test: SequenceDataset, test_files: FilesFingerprint | None) -> None:
        """Log held-out clips that the start was trained on: the new run has seen them through its weights.

        Args:
            test: held-out sequences of the new run.
            test_files: fingerprint of its files. None: it is not read from clips.
        """
        seen = held_out_in_vain(test, test_files, self.trained_clips)
        if seen:
            log_once(
                logging.WARNING,
                f"the model in '{self.init}' was trained on frames of {clips_in_words(seen, test)}; "
                "held-out metrics will be too good\n"
                "  hold out what it was not trained on, with --split-by and --test-fraction as in its training or with other "
                "clips, and start again with another --out",
            )


def initial_weights(init: Path, model: FamilyConfig, model_config: Path | None = None, quiet: bool = False) -> InitialWeights:
    """The weights of a checkpoint, whose model must have the shape of this run's. Another generation rule is noted.

    Args:
        init: the checkpoint, ours or another program's.
        model: of the run.
        model_config: settings of that model which are not in its checkpoint, in the form that its program writes them.
        quiet: whether to log nothing, as in all processes but the first.

    Raises:
        CheckpointError: it cannot be read, or has another shape.
    """
    checkpoint = load_any_checkpoint(init, model_config)
    require_same_shape(checkpoint.config.model, model, init, model_config)
    if not quiet:
        _note_other_rule(checkpoint.config.model, model, init)
    return InitialWeights(init, checkpoint.weights, checkpoint.frame_interval_s, checkpoint.trained_clips)


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
        flags = _flags_of(start, [*different, *_different_rule(start, model)])
        settings = f" --model-config {shell_argument(model_config)}" if model_config is not None else ""
        raise CheckpointError(
            f"the model in '{init}' differs in shape from this run's:\n{sizes}\n"
            f"  start from it with: --init {shell_argument(init)}{settings} {flags}"
        )


def _note_other_rule(start: FamilyConfig, model: FamilyConfig, init: Path) -> None:
    """Log that the same weights forecast otherwise in this run, which may be meant, and the flags that avoid it."""
    different = _different_rule(start, model)
    if different:
        given, own = start.rule(), model.rule()
        settings = "\n".join(f"  {name}: {given[name]} there, {own[name]} here" for name in different)
        note = f"note: this run forecasts by another rule than the model in '{init}':\n{settings}"
        log_once(logging.INFO, f"{note}\n  keep that rule with: {_flags_of(start, different)}")


def _different_rule(start: FamilyConfig, model: FamilyConfig) -> list[str]:
    """The settings of the generation rule of `start` that `model` has otherwise, or not at all; None is no choice of one."""
    own = model.rule()
    return [name for name, value in start.rule().items() if value is not None and value != own.get(name)]


def _flags_of(model: FamilyConfig, different: list[str]) -> str:
    """What gives a run the shape and the rule of `model`: the settings that differ, or all if its family does."""
    values = {**model.shape(), **model.rule()}
    if "family" in different:
        changed = [name for name, value in values.items() if value != type(model).model_fields[name].default]
        different = ["family", *(name for name in changed if name != "family")]
    # no option says None: it is left out
    return " ".join(arguments("model", name, values[name]) for name in different if values[name] is not None)
