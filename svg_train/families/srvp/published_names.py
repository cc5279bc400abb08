"""The source of each of our parameters in the original's `state_dict`, and the halves of its convolutions of concatenations.

    encoder.conv.I, encoder.last_conv       our stages, finest first, and our head
    decoder.first_upconv                    our decoder's head, of [w, y]
    decoder.conv.J                          our decoder's stage 3 - J, of [d, skip]
    w_proj, w_inf, q_y, inf_z, q_z, p_z     our content, posteriors and prior

An MLP is Linear, then (ReLU, Linear) for each further layer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from svg_train.families.srvp.config import SrvpConfig
from svg_train.parameter_shapes import parameter_shapes

_LINEAR = {
    "content.project": "w_proj.0", "content.mix": "w_inf.0", "posterior_z.lstm": "inf_z", "posterior_z.head": "q_z",
}  # fmt: skip
_PERCEPTRONS = {"posterior_y": "q_y", "prior": "p_z", "dynamics.f": "dynamics"}
_LAYER = 3  # modules of one of our layers: convolution, BatchNorm, LeakyReLU


@dataclass(frozen=True)
class Source:
    """A parameter of the original, and the first entry along dimension `dim` that is used; all of it if `dim` is None."""

    name: str
    shape: tuple[int, ...]  # of our parameter
    dim: int | None = None
    start: int = 0


def map_parameters(config: SrvpConfig) -> dict[str, Source]:
    """Every entry of SrvpModel(config).state_dict(), with its source."""
    return {name: _source(name, shape, config) for name, shape in parameter_shapes(config).items()}


def published_shapes(sources: dict[str, Source]) -> dict[str, tuple[int, ...]]:
    """Expected shape of every parameter of the original: the halves of a split one add up."""
    shapes: dict[str, tuple[int, ...]] = {}
    for source in sources.values():
        shape = list(source.shape)
        if source.dim is not None:
            shape[source.dim] += source.start
        shapes[source.name] = max(shapes.get(source.name, ()), tuple(shape))
    return shapes


def _source(name: str, shape: tuple[int, ...], config: SrvpConfig) -> Source:
    part, _, leaf = name.rpartition(".")
    if part in _LINEAR:
        return Source(f"{_LINEAR[part]}.{leaf}", shape)
    group, _, index = part.rpartition(".")
    if group in _PERCEPTRONS:  # Linear, ReLU, Linear, ... here; Linear, then (ReLU, Linear) there
        layer = int(index) // 2
        return Source(f"{_PERCEPTRONS[group]}.module.{layer}.{int(layer > 0)}.{leaf}", shape)
    vgg = config.backbone == "vgg"
    if name.startswith("encoder."):
        return Source(_encoder_name(name, vgg), shape)
    return _decoder_source(name, shape, config, vgg)


def _encoder_name(name: str, vgg: bool) -> str:
    if head := re.fullmatch(r"encoder\.head\.(.+)", name):
        return f"encoder.last_conv.{'1.' if vgg else ''}{head[1]}"
    _, _, stage, place, leaf = name.split(".")
    layer, inner = divmod(int(place), _LAYER)
    if vgg:  # whose stages begin with the pooling, except the first
        return f"encoder.conv.{stage}.{layer + int(stage != '0')}.{inner}.{leaf}"
    return f"encoder.conv.{stage}.{inner}.{leaf}"


def _decoder_source(name: str, shape: tuple[int, ...], config: SrvpConfig, vgg: bool) -> Source:
    split = re.search(r"\.from_(d|cond)\.weight$", name)
    if name.startswith("decoder.head."):
        block = f"decoder.first_upconv.{'0.' if vgg else ''}"
        if split is None:
            return Source(f"{block}1.{name.rpartition('.')[2]}", shape)
        return Source(f"{block}0.weight", shape, 0, config.inference_size if split[1] == "d" else 0)
    _, _, index, place = name.split(".", 3)
    block = f"decoder.conv.{3 - int(index)}"
    if split is not None:
        dim = 1 if vgg else 0  # the input channels of a convolution, of a transposed one
        start = shape[dim] if split[1] == "cond" else 0
        first = f"{block}.0.0" if vgg else block if index == "0" else f"{block}.0"
        return Source(f"{first}.weight", shape, dim, start)
    group, inner, leaf = place.split(".")
    if group == "finish":
        return Source(f"{block}.{'0.' if vgg else ''}1.{leaf}", shape)
    layer, inner_index = divmod(int(inner), _LAYER)
    if index == "0":  # the last convolution of VGG is bare
        return Source(f"{block}.{layer + 1}.{leaf}", shape)
    return Source(f"{block}.{layer + 1}.{inner_index}.{leaf}", shape)
