"""Checkpoints of the original program (Franceschi et al. 2020): weights, and beside them `config.json` -> our `Checkpoint`.

    model.pt, model_best.pt, model_1000.pt   torch.save(model.state_dict())
    config.json                              the arguments of the training

No code in the file runs.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from svg_common.errors import UsageError
from svg_common.path_advice import shell_argument
from svg_train.checkpoint import Checkpoint, CheckpointError
from svg_train.config import Config, build_config
from svg_train.families.srvp.config import SrvpConfig
from svg_train.families.srvp.published_names import Source, map_parameters, published_shapes
from svg_train.families.srvp.published_settings import (
    SETTING_NAMES,
    generation_settings,
    is_sized,
    model_sizes,
    other_tables,
    says_how,
)
from svg_train.reference.comparison import compare_tensors, read_parameter
from svg_train.reference.file import TorchFile
from svg_train.reference.layouts import options_in, weight_places, without_outer_module
from svg_train.reference.modules import Tensors, named_tensors
from svg_train.reference.options import Findings, plain_settings
from svg_train.reference.refusals import OTHER_WEIGHTS, beyond
from svg_train.reference.settings_file import read_settings

SETTINGS_FILE = "config.json"

_PARTS = ("w_proj", "w_inf", "q_y.module", "inf_z", "q_z", "p_z.module", "dynamics.module")  # that no other model has
_ENOUGH = 3  # of them: a file may be incomplete
_OBSERVED = "nt_cond"  # the number of observed frames
_LISTED = 60  # problems in one message


class PublishedCheckpointError(CheckpointError):
    """A checkpoint of the original program lacks parts, or they contradict each other."""


def recognizes(content: Any) -> bool:
    """Whether a file holds weights of the original program."""
    return _weights(content) is not None


def _weights(content: Any) -> Tensors | None:
    """Those of the original program, under whatever name; None if there are none."""
    tables = (without_outer_module(named_tensors(held) or {}) for _, held in weight_places(content))
    return next((tensors for tensors in tables if _is_published(tensors)), None)


def _is_published(names: Iterable[str]) -> bool:
    return sum(any(name.startswith(f"{part}.") for name in names) for part in _PARTS) >= _ENOUGH


def take(path: Path, file: TorchFile, model_config: Path | None) -> Checkpoint:
    """Read the checkpoint. Its settings are those of the file itself, else of config.json beside it; `model_config` wins.

    Raises:
        PublishedCheckpointError: parts are missing or contradictory; all in one message.
        CheckpointError: the settings cannot be read.
    """
    # 1) weights and settings
    findings, tensors = Findings(), _weights(file.content) or {}
    top = file.content if isinstance(file.content, dict) else {}
    own = plain_settings(options_in(file.content, top, _OBSERVED) or {})
    beside = path.parent / SETTINGS_FILE
    settings_file = model_config or (beside if beside.exists() and not says_how(own) else None)
    settings = {**own, **(read_settings(settings_file) if settings_file is not None else {})}
    shown = f"'{settings_file or path}'" if settings else SETTINGS_FILE
    # 2) the configuration that both imply, and the parameters that it needs
    sizes = model_sizes(tensors, settings, shown, findings)
    shape = _shape(sizes, settings, findings)
    sources = map_parameters(shape) if shape is not None else {}
    if shape is not None:
        compare_tensors(published_shapes(sources), tensors, findings, is_sized(sizes))
    config = _configuration(sizes | generation_settings(settings, shown, findings), settings, findings)
    # 3) the values
    weights = {} if findings.problems else _read_weights(sources, tensors, file, findings)
    if config is None or findings.problems:
        raise PublishedCheckpointError(_refusal(path, settings_file, findings))
    return Checkpoint(config, weights)


def _shape(sizes: dict[str, Any], settings: dict[str, Any], findings: Findings) -> SrvpConfig | None:
    """A configuration of these sizes, whatever else is missing, so that the weights can be compared."""
    observed = sizes.get("nt_inf", 2)
    try:
        shape = {**sizes, "n_past": max(observed, 2) if isinstance(observed, int) else 2}
        return SrvpConfig.model_validate(shape, strict=False)
    except ValidationError as error:
        findings.add_limits(error, SETTING_NAMES, settings)
        return None


def _configuration(model: dict[str, Any], settings: dict[str, Any], findings: Findings) -> Config | None:
    """The whole configuration; None if something is missing or invalid."""
    if findings.problems:
        return None
    try:
        return build_config(other_tables(settings, model["channels"]), {"model": {"family": "srvp", **model}}, texts=True)
    except UsageError as error:
        findings.add_limits(error, SETTING_NAMES, settings)
        return None


def _read_weights(sources: dict[str, Source], tensors: Tensors, file: TorchFile, findings: Findings) -> dict[str, Tensor]:
    """Our parameters, float32 but for the counters; values that are not finite are findings."""
    weights: dict[str, Tensor] = {}
    for name, source in sources.items():
        stored = tensors.get(source.name)
        if stored is not None and source.dim is not None:
            stored = stored.narrow(source.dim, source.start, source.shape[source.dim])
        weights[name] = read_parameter(file, stored, name)
        if not torch.isfinite(weights[name]).all():
            findings.add_weight(f"{source.name}: contains values that are not finite")
    return weights


def _refusal(path: Path, settings_file: Path | None, findings: Findings) -> str:
    distinct = list(dict.fromkeys(findings.problems))
    shown = distinct[:_LISTED] + ([f"and {len(distinct) - _LISTED} more"] if len(distinct) > _LISTED else [])
    if findings.cause == "limits":
        reason = f"'{path}' has weights of SRVP, of a model beyond the limits of svg-edge:"
        return "\n".join((reason, *(f"  {problem}" for problem in shown), beyond(settings_file)))
    message = f"'{path}' has weights of SRVP, but not all that a forecast needs:\n  " + "\n  ".join(shown)
    if findings.cause == "weights":
        return f"{message}\n{OTHER_WEIGHTS}"
    if settings_file is None:
        command = f"svg-export {shell_argument(path)} --model-config FILE"
        return f"{message}\n  put the {SETTINGS_FILE} of its training beside it, or give that with: {command}"
    return f"{message}\n  expected what the original program wrote: model.pt, and the {SETTINGS_FILE} of the same training"
