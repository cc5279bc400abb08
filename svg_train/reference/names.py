"""The source of each of our parameters in the reference's modules: names, and the halves of its convolutions of [d, skip].

The reference numbers its blocks in the order of the data flow (c1 ... c5, upc1 ... upc5), ours count from the finest stage on.
svg-prime, the re-implementation with spatial latents, grew from the reference: same parts and names, but bare convolutions
as heads, and a convolution in each cell.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from svg_train.families.svg import SvgConfig
from svg_train.families.svg.backbones import describe_backbone
from svg_train.parameter_shapes import parameter_shapes

COUNTER = "num_batches_tracked"  # of BatchNorm; torch before 0.4.1 had none, and nothing is computed from it

_RECURRENT = {"predictor": "frame_predictor", "posterior": "posterior", "prior": "prior"}
_PART_OF_STAGE = {"from_d": (0, 0), "from_skip": (0, 0), "finish.0": (0, 1)}  # (layer, index in the layer)
_HEADS = {"head.0": "output.0", "mu": "mu_net", "logvar": "logvar_net", "core.embed": "embed"}


@dataclass(frozen=True)
class Source:
    """A parameter of the reference, and the first entry along dimension `dim` that is used; all of it if `dim` is None."""

    part: str  # encoder, decoder, frame_predictor, posterior, prior
    name: str
    dim: int | None = None
    start: int = 0


@dataclass(frozen=True)
class Target:
    """A parameter of ours: its shape, and where it comes from."""

    shape: tuple[int, ...]
    source: Source


def map_parameters(config: SvgConfig) -> dict[str, Target]:
    """Every entry of SVG(config).state_dict(), with its source in the reference's modules."""
    shapes = parameter_shapes(config)
    return {name: Target(shape, _source(name, shapes, config)) for name, shape in shapes.items()}


def reference_shapes(targets: dict[str, Target]) -> dict[tuple[str, str], tuple[int, ...]]:
    """Expected shape of every parameter of the reference: the halves of a split one add up."""
    shapes: dict[tuple[str, str], tuple[int, ...]] = {}
    for target in targets.values():
        source, shape = target.source, list(target.shape)
        if source.dim is not None:
            shape[source.dim] += source.start
        key = (source.part, source.name)
        shapes[key] = max(shapes.get(key, ()), tuple(shape))
    return shapes


def _source(name: str, shapes: dict[str, tuple[int, ...]], config: SvgConfig) -> Source:
    part, _, rest = name.partition(".")
    if part in _RECURRENT:
        return Source(_RECURRENT[part], _recurrent_name(rest))
    bare_head = config.latent == "spatial"
    if part == "encoder":
        return Source(part, _encoder_name(rest, config.backbone, _stages(config), bare_head))
    if bare_head and rest.startswith("head."):
        return Source(part, f"upc1.{rest.rpartition('.')[2]}")
    return _decoder_source(rest, shapes, config.backbone, _stages(config))


def _stages(config: SvgConfig) -> int:
    return len(describe_backbone(config).stages)


def _recurrent_name(name: str) -> str:
    """core.lstm.weight_ih_l1 -> lstm.1.weight_ih; core.cells.1 -> lstm.1; the layers around the LSTM have other names."""
    if cell := re.fullmatch(r"core\.lstm\.(\w+)_l(\d+)", name):
        return f"lstm.{cell[2]}.{cell[1]}"
    if name.startswith("core.cells."):
        return name.replace("core.cells.", "lstm.")
    layer, _, leaf = name.rpartition(".")
    return f"{_HEADS[layer]}.{leaf}"


def _encoder_name(name: str, backbone: str, stages: int, bare_head: bool) -> str:
    """stages.I.K.leaf -> c(I+1).main.K.leaf; with several layers per stage (VGG) c(I+1).(K // 3).main.(K % 3).leaf."""
    group, index, rest = name.split(".", 2)
    if group == "head":
        return f"c{stages + 1}.{rest}" if bare_head else f"c{stages + 1}.{index}.{rest}"
    place, leaf = rest.split(".")
    layer, inner = divmod(int(place), 3)  # convolution, BatchNorm, LeakyReLU
    return _block(block=f"c{int(index) + 1}", backbone=backbone, layer=layer, inner=inner, leaf=leaf)


def _decoder_source(name: str, shapes: dict[str, tuple[int, ...]], backbone: str, stages: int) -> Source:
    group, index, rest = name.split(".", 2)
    if group == "head":
        return Source("decoder", f"upc1.{index}.{rest}")
    block, (place, leaf) = f"upc{stages + 1 - int(index)}", (rest.rsplit(".", 1))
    if place in _PART_OF_STAGE:
        layer, inner = _PART_OF_STAGE[place]
    else:
        layer, inner = divmod(int(place.removeprefix("tail.")), 3)
        layer += 1
    # What ends in the image is a plain nn.Sequential there: [transposed convolution, Sigmoid], or a layer without `main`.
    last_layer = {"dcgan": 0, "vgg": 1}[backbone]
    if index == "0" and layer == last_layer:
        source = f"{block}.{inner}.{leaf}" if backbone == "dcgan" else f"{block}.{layer}.{leaf}"
    else:
        source = _block(block=block, backbone=backbone, layer=layer, inner=inner, leaf=leaf)
    if leaf != "weight" or not place.startswith("from_"):
        return Source("decoder", source)
    dim = 0 if backbone == "dcgan" else 1  # the input channels of a transposed convolution, of a convolution
    start = shapes[f"decoder.stages.{index}.from_d.weight"][dim] if place == "from_skip" else 0
    return Source("decoder", source, dim, start)


def _block(block: str, backbone: str, layer: int, inner: int, leaf: str) -> str:
    return f"{block}.main.{inner}.{leaf}" if backbone == "dcgan" else f"{block}.{layer}.main.{inner}.{leaf}"
