"""Weights of our own model in a file that svg-train did not write: sizes from shapes, the rest from the options beside them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from svg_train.config import DataConfig, TrainConfig
from svg_train.families.svg import SvgConfig
from svg_train.reference.modules import Tensors, attributes
from svg_train.reference.options import Findings, read_options, shown, valid_alone, whole_number

_OTHER: dict[str, type[BaseModel]] = {"data": DataConfig, "train": TrainConfig}  # tables beside that of the model


def config_tables(
    tensors: Tensors, options: Mapping[Any, Any], given: Mapping[Any, Any], findings: Findings
) -> dict[str, dict[str, Any]]:
    """The tables of a configuration. The shapes decide; an option that contradicts them is a finding.

    Args:
        tensors: all weights, by name.
        options: beside them in the file.
        given: the user's, which win.
        findings: what is missing or contradictory is added.
    """
    tables = {
        name: _taken(kind, {**attributes(options.get(name)), **attributes(given.get(name))}) for name, kind in _OTHER.items()
    }
    stated = _stated(options) | _stated(given)
    inferred = _from_shapes(tensors)
    for name, value in inferred.items():
        if stated.get(name) not in (None, value):
            findings.add(f"{name} is {shown(stated[name])}, but the weights imply {value}", **{name: value})
    if "n_past" not in stated:
        generation = {"n_past": 5, "skip_lag": 0}
        missing = {name: example for name, example in generation.items() if name not in stated}
        findings.add("n_past is missing, and cannot be inferred from the weights", **missing)
    if inferred["latent"] == "spatial" and "image_size" not in stated:
        findings.add("image_size is missing, and cannot be inferred from the weights", image_size=64)
    return {**tables, "model": {**stated, **inferred}}


def _taken(kind: type[BaseModel], table: dict[Any, Any]) -> dict[Any, Any]:
    """The table, or of another program's what ours takes: a forecast needs neither data nor training."""
    try:
        kind.model_validate(table, strict=False)
    except ValidationError:
        return valid_alone(kind, table)
    return table


def _stated(options: Mapping[Any, Any]) -> dict[Any, Any]:
    """Settings of the model among the options, and in a table of their own, which may have others too."""
    plain = {name: value for name, value in read_options(options).items() if name in SvgConfig.model_fields}
    stated = {**plain, **attributes(options.get("model"))}
    return {name: whole_number(value) for name, value in stated.items() if value is not None}


def _from_shapes(tensors: Tensors) -> dict[str, Any]:
    """Sizes that follow from shapes and names."""
    first, head = _shape(tensors, "encoder.stages.0.0.weight"), _shape(tensors, "encoder.head.0.weight")
    embed, mu = _shape(tensors, "predictor.core.embed.weight"), _shape(tensors, "posterior.mu.weight")
    stages = {match[1] for name in tensors if (match := re.match(r"encoder\.stages\.(\d+)\.", name))}
    parts = {name.partition(".")[0] for name in tensors}
    prior = "learned" if "prior" in parts else "fixed" if "posterior" in parts else "none"
    table: dict[str, Any] = {"family": "svg", "prior": prior}
    table["latent"] = "spatial" if len(embed) == 4 else "vector"
    if len(first) == 4:
        table |= {"nf": first[0], "channels": first[1], "backbone": "dcgan" if first[2] == 4 else "vgg"}
    if len(first) == 4 and table["latent"] == "vector":  # the convolutions of a spatial model fit maps of any size
        table["image_size"] = 128 if len(stages) == 5 else 64
    table |= {name: shape[0] for name, shape in (("g_dim", head), ("rnn_size", embed), ("z_dim", mu)) if shape}
    for part in ("predictor", "posterior", "prior"):
        if part in parts:
            layers = re.compile(rf"{part}\.core\.(lstm\.weight_ih_l\d+|cells\.\d+\.conv\.weight)")
            table[f"{part}_layers"] = sum(layers.fullmatch(name) is not None for name in tensors)
    return table


def _shape(tensors: Tensors, name: str) -> tuple[int, ...]:
    return tensors[name].shape if name in tensors else ()
