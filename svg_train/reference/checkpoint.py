"""Checkpoints of the reference implementation (Denton and Fergus 2018): pickled modules and options -> our `Checkpoint`.

    encoder, decoder, frame_predictor, posterior[, prior], opt  ->  config, weights

Other arrangements of the same weights, and of ours, are brought into this form (`layouts`).

The convolutions of [d, skip] are split as in our decoder, the LSTM cells become layers, and the generation rule is the
reference's (`skip_lag` 1). No code in the file runs, whatever it contains.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from svg_common.errors import UsageError
from svg_common.files import file_sha256, refuse_pipe
from svg_common.path_advice import shell_argument
from svg_train.checkpoint import FORMAT, Checkpoint, CheckpointError, load_checkpoint
from svg_train.config import Config, build_config
from svg_train.families import FAMILIES
from svg_train.families.svg import SvgConfig
from svg_train.reference.archives import describe_archive
from svg_train.reference.comparison import compare_tensors, read_parameter
from svg_train.reference.file import Format, OtherKindError, TorchFile, open_torch_file, sniff_format
from svg_train.reference.foreign_files import HEAD_BYTES, describe_foreign
from svg_train.reference.inert_pickle import PickleFormatError
from svg_train.reference.layouts import PARTS, Layout, given_settings, recognize
from svg_train.reference.modules import Tensors, attributes, named_tensors
from svg_train.reference.names import Target, map_parameters, reference_shapes
from svg_train.reference.options import SETTING_NAMES, Findings, is_sized, model_table, read_options, training_tables
from svg_train.reference.our_weights import config_tables
from svg_train.reference.refusals import EXPECTED, incomplete, other_model
from svg_train.reference.settings_file import read_settings

_NEEDED = ("encoder", "decoder", "frame_predictor")


class ReferenceCheckpointError(CheckpointError):
    """A file is not a checkpoint of the reference implementation, or parts of it are missing or contradictory."""


def load_any_checkpoint(path: str | Path, model_config: Path | None = None) -> Checkpoint:
    """Read a checkpoint of ours, of the reference implementation or of another program that a family knows.

    It is recognized by its content, not its name. Weights of the reference's networks and of our family svg may also be in
    Lightning checkpoints, state_dicts and safetensors files, if the settings that no weight depends on (n_past, ...) are in
    the file.

    Args:
        path: of the file.
        model_config: settings that are not in the file, in the form that its program writes them.

    Raises:
        CheckpointError: the file is missing, truncated or of no known program, or parts are missing or contradictory.
        UsageError: it is a pipe, or `model_config` has no effect.
    """
    kind = check_format(path)
    try:
        with open_torch_file(path) as file:
            importers = [family.importer(file.content) for family in FAMILIES.values()]
            importer = next(filter(None, importers), None)
            if importer is not None:
                return importer.take(Path(path), file, model_config)
            if not _is_ours(file.content):
                return _take(path, file, recognize(file.content, kind == "safetensors"), model_config)
    except OtherKindError as fault:
        raise ReferenceCheckpointError(f"'{path}' is {fault}") from fault
    except PickleFormatError as fault:
        _refuse_archive(path)
        raise ReferenceCheckpointError(
            f"cannot read the checkpoint '{path}': damaged, truncated or hostile ({fault}). "
            f"Any code in it was not run\n{EXPECTED}"
        ) from fault
    _refuse_needless(model_config, path)
    return load_checkpoint(path)


def check_format(path: str | Path) -> Format:
    """Refuse what is no checkpoint, such as a bundle, by its first bytes. Returns the format that they are of.

    Raises:
        CheckpointError, UsageError: see `load_any_checkpoint`.
    """
    head = _read_head(path)
    kind = sniff_format(head)
    if kind in ("tar", "other"):
        _refuse_archive(path)
    if kind == "tar":
        raise ReferenceCheckpointError(
            f"'{path}' is in the format of PyTorch before 0.1.10 (a tar archive)\n"
            "  load it in that PyTorch, save it again in a later one, and use the new file"
        )
    if kind == "other":
        what = describe_foreign(head)
        raise ReferenceCheckpointError(
            f"'{path}' is not an svg-edge checkpoint, nor any other file of torch.save{f': {what}' if what else ''}\n{EXPECTED}"
        )
    return kind


def load_with_sha256(path: str | Path, model_config: Path | None = None) -> tuple[Checkpoint, str]:
    """As `load_any_checkpoint`, with the SHA-256 of the file that was read: a training may replace it at any time.

    Raises:
        CheckpointError, UsageError: see `load_any_checkpoint`; or the file was replaced while it was read.
    """
    before = _state_of(path)
    checkpoint = load_any_checkpoint(path, model_config)
    sha256 = file_sha256(path)
    if _state_of(path) != before:
        raise CheckpointError(
            f"the checkpoint '{path}' was replaced or changed while it was read\n"
            "  run the command again; while a training writes it, take a copy"
        )
    return checkpoint, sha256


def _state_of(path: str | Path) -> tuple[int, ...] | None:
    """What changes with the file or its content; None: there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _refuse_needless(model_config: Path | None, path: str | Path) -> None:
    if model_config is not None:
        raise UsageError(
            f"'{model_config}' has no effect: the checkpoint '{path}' has the settings of its model\n  remove --model-config"
        )


def _refuse_archive(path: str | Path) -> None:
    archive = describe_archive(path)
    if archive is not None:
        raise ReferenceCheckpointError(f"'{path}' is {archive}")


def _read_head(path: str | Path) -> bytes:
    refuse_pipe(path)
    try:
        with open(path, "rb") as file:
            return file.read(HEAD_BYTES)
    except FileNotFoundError as error:
        raise CheckpointError(f"checkpoint '{path}' does not exist\n  train one with: svg-train --out run") from error
    except IsADirectoryError as error:
        if (Path(path) / ".metadata").is_file():
            raise CheckpointError(
                f"'{path}' is a sharded checkpoint of torch.distributed\n  make one file of it with: "
                f"python -m torch.distributed.checkpoint.format_utils dcp_to_torch {shell_argument(path)} whole.pth"
            ) from error
        if (Path(path) / "data.pkl").is_file():  # some browsers unpack what they download
            folder, name = shell_argument(Path(path).parent), shell_argument(Path(path).resolve().name)
            raise CheckpointError(
                f"'{path}' is a checkpoint that was unpacked\n"
                f"  pack it again, without compression: (cd {folder} && zip -0r packed.pth {name}), and give packed.pth"
            ) from error
        if (Path(path) / "manifest.json").is_file():
            raise CheckpointError(
                f"'{path}' is a bundle: graphs, not a checkpoint\n"
                "  expected the checkpoint that it was exported from, such as run/ckpt.pt of svg-train;\n"
                "  svg-export takes a bundle with --push, --pack or --triton"
            ) from error
        raise CheckpointError(f"'{path}' is a folder\n  expected a checkpoint, such as run/ckpt.pt of svg-train") from error


def _is_ours(content: Any) -> bool:
    return isinstance(content, dict) and isinstance(content.get("format"), str) and content["format"] == FORMAT


def _take(path: str | Path, file: TorchFile, layout: Layout, model_config: Path | None) -> Checkpoint:
    """Whatever the arrangement of the file: the weights and the configuration that they belong to.

    The user's settings are read where the file alone does not suffice, and win over those in it.
    """
    if layout.owner == "unknown":
        raise ReferenceCheckpointError(other_model(path, layout))
    take = _take_ours if layout.owner == "ours" else _convert
    findings = Findings()
    taken = take(file, layout, {}, findings)
    if findings.problems and findings.cause != "weights" and model_config is not None:
        findings = Findings()
        taken = take(file, layout, given_settings(read_settings(model_config)), findings)
    elif taken is not None and not findings.problems:
        _refuse_needless(model_config, path)
    if taken is None or findings.problems:
        raise ReferenceCheckpointError(incomplete(path, layout, findings, model_config))
    return taken


def _convert(file: TorchFile, layout: Layout, given: Mapping[Any, Any], findings: Findings) -> Checkpoint | None:
    config, parts, sized = _describe(layout, given, findings)
    model = _svg_settings(config, findings)
    if config is None or model is None:
        return None
    targets = map_parameters(model)
    expected = {f"{part}.{name}": shape for (part, name), shape in reference_shapes(targets).items()}
    stored = {f"{part}.{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()}
    compare_tensors(expected, stored, findings, sized)
    if findings.problems:
        return None
    return Checkpoint(config, _read_weights(targets, parts, file, findings))


def _take_ours(file: TorchFile, layout: Layout, given: Mapping[Any, Any], findings: Findings) -> Checkpoint | None:
    tables = config_tables(layout.tensors, layout.options or {}, given, findings)
    config = _build_config(findings, tables, names={}, stated={})
    model = _svg_settings(config, findings)
    if config is None or model is None:
        return None
    targets = map_parameters(model)
    expected = {name: target.shape for name, target in targets.items()}
    compare_tensors(expected, layout.tensors, findings, is_sized(tables["model"]))
    if findings.problems:
        return None
    return Checkpoint(config, {name: read_parameter(file, layout.tensors.get(name), name) for name in targets})


def _describe(layout: Layout, given: Mapping[Any, Any], findings: Findings) -> tuple[Config | None, dict[str, Tensors], bool]:
    """Configuration, parts, and whether all sizes are known; no configuration if too much is missing to know it."""
    stored = layout.parts
    parts: dict[str, Tensors] = {}
    for part in PARTS:
        tensors = named_tensors(stored[part]) if part in stored else None
        if tensors:
            parts[part] = tensors
        elif part in _NEEDED or part in stored:
            findings.add_weight(f"{part}: {'no torch module or state_dict' if part in stored else 'missing'}")
    if layout.options is None and not given:
        findings.add("opt: missing (the training options)")
    options = read_options({**(layout.options or {}), **given})
    map_size = attributes(stored.get("frame_predictor")).get("image_size")
    model = model_table(parts, options, map_size, findings)
    if model["prior"] != "none" and "posterior" not in parts and "posterior" not in stored:
        findings.add_weight("posterior: missing, although the predictor reads more than the frame's encoding")
    if not all(part in parts for part in _NEEDED):
        return None, parts, False
    tables = {**training_tables(options, model.get("channels")), "model": model}
    stated = {f"opt.{name}": value for name, value in options.items()}
    return _build_config(findings, tables, SETTING_NAMES, stated), parts, is_sized(model)


def _build_config(
    findings: Findings, tables: dict[str, dict[str, Any]], names: Mapping[str, str], stated: Mapping[str, Any]
) -> Config | None:
    """The configuration; None if it is invalid, with the reasons among the findings. As `Findings.add_limits`."""
    try:
        return build_config(tables, texts=True)
    except UsageError as error:
        findings.add_limits(error, names, stated)
        return None


def _svg_settings(config: Config | None, findings: Findings) -> SvgConfig | None:
    """The settings of the family whose weights these are. The options beside them may name any."""
    if config is None:
        return None
    if isinstance(config.model, SvgConfig):
        return config.model
    findings.add(f"model.family is {config.model.family}, but the weights imply svg")
    return None


def _read_weights(
    targets: dict[str, Target], parts: dict[str, Tensors], file: TorchFile, findings: Findings
) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = {}
    for name, target in targets.items():
        source = target.source
        stored = parts[source.part].get(source.name)
        if stored is not None and source.dim is not None:  # half of it
            stored = stored.narrow(source.dim, source.start, target.shape[source.dim])
        value = read_parameter(file, stored, source.name)
        if not torch.isfinite(value).all():
            findings.add_weight(f"{source.part}.{source.name}: contains values that are not finite")
        weights[name] = value
    return weights
