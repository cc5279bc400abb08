"""Checkpoints of OpenSTL (https://github.com/chengtan9907/OpenSTL), of all versions, as our `Checkpoint`. No code in them runs.

    {"state_dict": weights, "optimizer": ..., "scheduler": ...}          0.3, latest.pth of a training run
    weights                                                              0.3, checkpoint.pth and the published ones
    {"state_dict": weights, "hyper_parameters": settings, ...}           1.0, Lightning

Settings that are not in the file come from the model_param.json that training wrote beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from svg_common.errors import UsageError
from svg_common.path_advice import shell_argument
from svg_train.checkpoint import Checkpoint, CheckpointError
from svg_train.config import Config, build_config
from svg_train.families.frames.config import Dialect, FramesConfig
from svg_train.families.frames.openstl_settings import (
    METHODS,
    SETTING_NAMES,
    VERSION_ARGUMENTS,
    find_dialect,
    merged_settings,
    model_table,
    stated_hidden,
    stated_method,
)
from svg_train.families.frames.openstl_weights import (
    Source,
    find_network,
    find_weights,
    map_weights,
    read_sizes,
    tell_sizes,
    unused_weights,
)
from svg_train.reference.comparison import compare_tensors
from svg_train.reference.file import TorchFile
from svg_train.reference.layouts import OPTION_KEYS, tables_in
from svg_train.reference.modules import Tensors, attributes
from svg_train.reference.options import Findings, plain_settings, shown
from svg_train.reference.refusals import OTHER_WEIGHTS, beyond
from svg_train.reference.settings_file import read_settings

_LISTED = 60  # problems in one message
_WRITTEN = "hyper_parameters"  # where OpenSTL itself writes settings, by Lightning
_SETTINGS_FILE = "model_param.json"
_OTHER_METHODS = (
    "crevnet", "dmvfn", "mau", "mmvp", "phydnet", "predformer", "prednet", "simvp", "swinlstm_b", "swinlstm_d", "tau", "wast",
)  # fmt: skip


def recognizes(content: Any) -> bool:
    """Whether the content of a file is a checkpoint of OpenSTL, of whichever method."""
    settings = _own_settings(content)
    by_settings = stated_method(settings) in (*METHODS, *_OTHER_METHODS) and "pre_seq_length" in settings
    return by_settings or find_network(find_weights(content)) is not None


def take(path: Path, file: TorchFile, model_config: Path | None) -> Checkpoint:
    """Read the checkpoint. As `Importer.take`; `model_config` is a model_param.json, with what it lacks added."""
    findings = Findings()
    tensors = find_weights(file.content)
    given = merged_settings(_own_settings(file.content), read_settings(model_config) if model_config else {})
    _refuse_other_methods(path, given, find_network(tensors))
    config = _describe(tensors, given, _container(file.content), findings)
    taken = None if config is None else _read(config, tensors, file, findings)
    if taken is None or findings.problems:
        raise CheckpointError(_incomplete(path, findings, model_config))
    return taken


def _own_settings(content: Any) -> dict[str, Any]:
    """Those of OpenSTL, over those of a training program of the user's own, which say nothing of OpenSTL's version."""
    users = {name: value for name, value in _users_settings(content).items() if name not in VERSION_ARGUMENTS}
    return users | _written_settings(content)


def _written_settings(content: Any) -> dict[str, Any]:
    return plain_settings(attributes(content.get(_WRITTEN))) if isinstance(content, dict) else {}


def _users_settings(content: Any) -> dict[str, Any]:
    """Those of a training program of the user's own, under whichever of the usual names.

    Without these a table with an in_shape holds the settings whatever its name, unless several such tables differ in it.
    """
    top = content if isinstance(content, dict) else {}
    tables = (plain_settings(attributes(top[key])) for key in OPTION_KEYS if key != _WRITTEN and key in top)
    usual = next((settings for settings in tables if {"method", "in_shape"} & settings.keys()), None)
    if usual is not None or "in_shape" in _written_settings(content):
        return usual or {}
    others = [plain_settings(attributes(table)) for _, table in tables_in(content)]
    others = [settings for settings in others if "in_shape" in settings]
    return others[0] if len({shown(settings["in_shape"]) for settings in others}) == 1 else {}


def _container(content: Any) -> Dialect | None:
    """Which version wrote a file; None: either may have, or the user."""
    keys = content.keys() if isinstance(content, dict) and not _users_settings(content) else ()
    if "pytorch-lightning_version" in keys:
        return "openstl-1.0"
    return "openstl-0.3" if {"state_dict", "optimizer", "scheduler"} <= set(keys) else None


def _refuse_other_methods(path: Path, given: Mapping[str, Any], network: str | None) -> None:
    stated = stated_method(given)
    other = stated if stated in _OTHER_METHODS else network if network not in METHODS.values() else None
    if other is not None:
        raise CheckpointError(
            f"'{path}' is a model of OpenSTL that svg-edge does not have: {other}\n"
            f"  expected a recurrent one: {', '.join(METHODS)}"
        )


def _describe(tensors: Tensors, given: Mapping[str, Any], container: Dialect | None, findings: Findings) -> Config | None:
    """The configuration; None if it is unknown or invalid, with the reasons among the findings."""
    sizes = read_sizes(tensors, stated_hidden(given))
    if sizes is None:
        findings.add_weight(f"weights: a whole layer is missing, or has no plausible shape: {tell_sizes(tensors)}")
        return None
    dialect = find_dialect(sizes.cell, given, container, findings)
    model = model_table(sizes, given, dialect, findings)
    data = "kth" if given.get("dataname") == "kth" else "video"  # the default would claim the built-in digits
    future = given.get("aft_seq_length")
    train = {"n_future": future} if type(future) is int and 1 <= future <= 1000 else {}
    try:
        return build_config({"model": model, "data": {"name": data}, "train": train}, texts=True)
    except UsageError as error:
        findings.add_limits(error, SETTING_NAMES, given)
        return None


def _read(config: Config, tensors: Tensors, file: TorchFile, findings: Findings) -> Checkpoint | None:
    """The weights, if all of the file's have the names and shapes that belong to the configuration."""
    assert isinstance(config.model, FramesConfig)
    sources = map_weights(config.model)
    expected = {source.name: source.shape for source in sources.values()}
    compare_tensors(expected | unused_weights(config.model), tensors, findings)
    if findings.problems:
        return None
    weights = {name: _read_weight(file, tensors, source, findings) for name, source in sources.items()}
    return Checkpoint(config, weights)


def _read_weight(file: TorchFile, tensors: Tensors, source: Source, findings: Findings) -> Tensor:
    value = file.read(tensors[source.name].narrow(0, source.start, source.length)).float().reshape(source.ours)
    if not torch.isfinite(value).all():
        findings.add_weight(f"{source.name}: contains values that are not finite")
    return value


def _incomplete(path: Path, findings: Findings, model_config: Path | None) -> str:
    """All that is missing or contradictory or beyond our limits, and what to run next."""
    problems = findings.problems
    shown = problems[:_LISTED] + ([f"and {len(problems) - _LISTED} more"] if len(problems) > _LISTED else [])
    listed = "\n  ".join(shown)
    if findings.cause == "limits":
        reason = f"'{path}' is a checkpoint of OpenSTL, of a model beyond the limits of svg-edge"
        return f"{reason}:\n  {listed}\n{beyond(model_config)}"
    reason = f"'{path}' is a checkpoint of OpenSTL, but something that a forecast needs is missing or contradictory"
    return f"{reason}:\n  {listed}\n{OTHER_WEIGHTS if findings.cause == 'weights' else _next_step(path, model_config)}"


def _next_step(path: Path, model_config: Path | None) -> str:
    if model_config is not None:
        return f"  correct the settings in '{model_config}', which are those that the model was trained with"
    beside = (folder / _SETTINGS_FILE for folder in (path.parent, path.parent.parent))
    found = next((settings for settings in beside if settings.is_file()), Path(_SETTINGS_FILE))
    return (
        f"  give the settings that training wrote, with what is asked for above added: --model-config {shell_argument(found)}"
    )
