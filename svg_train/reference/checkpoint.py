"""Checkpoints of the reference implementation (Denton and Fergus 2018): pickled modules and options -> our `Checkpoint`.

    encoder, decoder, frame_predictor, posterior[, prior], opt  ->  config, weights

The convolutions of [d, skip] are split as in our decoder, the LSTM cells become layers, and the generation rule is the
reference's (`skip_lag` 1). No code in the file runs, whatever it contains.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from svg_common.errors import UsageError
from svg_train.checkpoint import FORMAT, Checkpoint, CheckpointError, load_checkpoint
from svg_train.config import Config, build_config
from svg_train.reference.archives import describe_archive
from svg_train.reference.file import Format, TorchFile, open_torch_file, sniff_format
from svg_train.reference.inert_pickle import PickleFormatError
from svg_train.reference.modules import Tensors, attributes, named_tensors
from svg_train.reference.names import COUNTER, Target, map_parameters, reference_shapes
from svg_train.reference.options import Findings, model_table, read_options, training_tables
from svg_train.reference.tensors import StoredTensor

_PARTS = ("encoder", "decoder", "frame_predictor", "posterior", "prior")
_NEEDED = ("encoder", "decoder", "frame_predictor")
_EXPECTED = (
    "  expected a file that svg-train wrote (ckpt.pt or last.pt),\n"
    "  or one that the reference implementation's training wrote (model.pth, with encoder, decoder, frame_predictor, ..., opt)"
)
_LISTED = 60  # problems in one message


class ReferenceCheckpointError(CheckpointError):
    """A file is not a checkpoint of the reference implementation, or parts of it are missing or contradictory."""


def load_any_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint of ours or of the reference implementation, recognized by its content, not its name.

    Raises:
        CheckpointError: the file is missing, truncated or neither of the two, or parts are missing or contradictory.
    """
    kind = _sniff(path)
    if kind in ("tar", "other"):
        _refuse_archive(path)
    if kind == "tar":
        raise ReferenceCheckpointError(
            f"'{path}' is in the format of PyTorch before 0.1.10 (a tar archive)\n"
            "  load it in that PyTorch, save it again in a later one, and use the new file"
        )
    if kind == "other":
        raise ReferenceCheckpointError(f"'{path}' is not an svg-edge checkpoint, nor any other file of torch.save\n{_EXPECTED}")
    try:
        with open_torch_file(path) as file:
            if not _is_ours(file.content):
                return _convert(path, file)
    except PickleFormatError as fault:
        _refuse_archive(path)
        raise ReferenceCheckpointError(
            f"cannot read the checkpoint '{path}': damaged, truncated or hostile ({fault}). "
            f"Any code in it was not run\n{_EXPECTED}"
        ) from fault
    return load_checkpoint(path)


def _refuse_archive(path: str | Path) -> None:
    archive = describe_archive(path)
    if archive is not None:
        raise ReferenceCheckpointError(f"'{path}' is {archive}")


def _sniff(path: str | Path) -> Format:
    try:
        with open(path, "rb") as file:
            return sniff_format(file.read(512))
    except FileNotFoundError as error:
        raise CheckpointError(f"checkpoint '{path}' does not exist\n  train one with: svg-train --out run") from error
    except IsADirectoryError as error:
        raise CheckpointError(f"'{path}' is a folder\n  expected a checkpoint, such as run/ckpt.pt of svg-train") from error


def _is_ours(content: Any) -> bool:
    return isinstance(content, dict) and isinstance(content.get("format"), str) and content["format"] == FORMAT


def _convert(path: str | Path, file: TorchFile) -> Checkpoint:
    findings = Findings()
    config, parts = _describe(file.content, findings)
    if config is None:
        raise _error(path, findings)
    targets = map_parameters(config.model)
    _compare(reference_shapes(targets), parts, findings)
    if findings.problems:
        raise _error(path, findings)
    weights = _read_weights(targets, parts, file, findings)
    if findings.problems:
        raise _error(path, findings)
    return Checkpoint(config, weights)


def _error(path: str | Path, findings: Findings) -> ReferenceCheckpointError:
    shown = findings.problems[:_LISTED]
    if len(findings.problems) > _LISTED:
        shown.append(f"and {len(findings.problems) - _LISTED} more")
    return ReferenceCheckpointError(
        f"'{path}' is not a complete checkpoint of the reference implementation:\n  " + "\n  ".join(shown) + f"\n{_EXPECTED}"
    )


def _describe(content: Any, findings: Findings) -> tuple[Config | None, dict[str, Tensors]]:
    """Parts and configuration; None if too much is missing to know the configuration."""
    top = content if isinstance(content, dict) else {}
    parts: dict[str, Tensors] = {}
    for part in _PARTS:
        tensors = named_tensors(top[part]) if part in top else None
        if tensors is not None:
            parts[part] = tensors
        elif part in _NEEDED or part in top:
            findings.add(f"{part}: {'not a torch module' if part in top else 'missing'}")
    if "opt" not in top:
        findings.add("opt: missing (the argparse Namespace of the training options)")
    options = read_options(attributes(top.get("opt")))
    model = model_table(parts, options, findings)
    if model["prior"] != "none" and "posterior" not in parts and "posterior" not in top:
        findings.add("posterior: missing, although the predictor reads more than the frame's encoding")
    if not all(part in parts for part in _NEEDED):
        return None, parts
    try:
        return build_config(training_tables(options), {"model": model}), parts
    except UsageError as error:
        findings.problems += [line.strip() for line in str(error).splitlines()[1:]]
        return None, parts


def _compare(expected: dict[tuple[str, str], tuple[int, ...]], parts: dict[str, Tensors], findings: Findings) -> None:
    """Check names and shapes of all parameters, and that they have no more elements than the file stores."""
    for (part, name), shape in sorted(expected.items()):
        tensor = parts.get(part, {}).get(name)
        if tensor is None:
            if not name.endswith(COUNTER):
                findings.add(f"{part}.{name}: missing, expected {shape}")
        elif tensor.shape != shape:
            findings.add(f"{part}.{name}: given {tensor.shape}, expected {shape}")
        elif not name.endswith(COUNTER) and not tensor.storage.dtype.is_floating_point:
            findings.add(f"{part}.{name}: given type {tensor.storage.dtype}, expected floating point")
    for part, tensors in parts.items():
        for name in sorted(tensors.keys() - {name for owner, name in expected if owner == part}):
            findings.add(f"{part}.{name}: unexpected, {tensors[name].shape}")
    wanted = [parts[part][name] for part, name in expected if name in parts.get(part, {})]
    if sum(tensor.numel for tensor in wanted) > _stored_elements(wanted):
        findings.add("several parameters share the same values in the file, which training never produces")


def _stored_elements(tensors: list[StoredTensor]) -> int:
    """Elements of all the storages behind `tensors`, each storage once."""
    ends: dict[str, int] = {}
    for storage in (tensor.storage for tensor in tensors):
        ends[storage.key] = max(ends.get(storage.key, 0), storage.offset + storage.numel)
    return sum(ends.values())


def _read_weights(
    targets: dict[str, Target], parts: dict[str, Tensors], file: TorchFile, findings: Findings
) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = {}
    for name, target in targets.items():
        source = target.source
        stored = parts[source.part].get(source.name)
        if stored is None:
            weights[name] = torch.zeros((), dtype=torch.int64)  # a counter that old versions lack
            continue
        value = _read_parameter(file, stored, target)
        if not torch.isfinite(value).all():
            findings.add(f"{source.part}.{source.name}: contains values that are not finite")
        weights[name] = value
    return weights


def _read_parameter(file: TorchFile, stored: StoredTensor, target: Target) -> Tensor:
    """Read a parameter, or the half of it that the target takes, as float32; the counters stay int64."""
    source = target.source
    if source.dim is not None:
        stored = stored.narrow(source.dim, source.start, target.shape[source.dim])
    return file.read(stored).to(torch.int64 if source.name.endswith(COUNTER) else torch.float32)
