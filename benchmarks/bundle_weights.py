"""The PyTorch model behind a bundle: the weights of its fp32 graphs, loaded into an `SVG`."""

from __future__ import annotations

import numpy as np
import onnx
import torch
from torch import nn

from svg_common.errors import SvgError
from svg_export.families.svg import fold
from svg_runtime.bundle.reader import Bundle
from svg_train.families.svg import SvgConfig
from svg_train.families.svg.model import SVG

_PART = {
    "encoder": "encoder",
    "skip": "decoder",
    "decoder": "decoder",
}  # names in the graphs of recurrent parts begin with `lstm` or the part


class WeightsMissingError(SvgError):
    """The graphs do not contain the model's weights under their names."""


def model_of(bundle: Bundle) -> SVG:
    """An SVG in evaluation mode that computes what the bundle computes.

    BatchNorm is folded into the weights of the graphs. Here it stays, but as the identity, so that PyTorch has as much to
    compute as with the exported model.

    Raises:
        WeightsMissingError: the bundle's exporter names or shapes weights in another way.
    """
    model = SVG(_config(bundle)).eval()
    weights = _folded_weights(bundle)
    expected = {name: value.shape for name, value in fold(model).state_dict().items()}
    for name, shape in expected.items():
        if name.endswith("bias"):
            weights.setdefault(name, torch.zeros(shape))  # the exporter omits an addition of zeros
    weights |= {name: _as_exported_from(weights[name], shape) for name, shape in expected.items() if name in weights}
    wrong = [name for name, shape in expected.items() if name not in weights or weights[name].shape != shape]
    if wrong:
        raise WeightsMissingError(
            f"the graphs of '{bundle.path.name}' do not contain {wrong[0]} in the form that this benchmark expects"
        )
    model.load_state_dict({name: weights[name] for name in expected}, strict=False)
    model.apply(_neutralize)
    return model


def _config(bundle: Bundle) -> SvgConfig:
    model, frame, generation = bundle.manifest.model, bundle.manifest.frame, bundle.manifest.generation
    sizes = {name: value for name, value in model.settings.items() if name in SvgConfig.model_fields}
    rule = generation.model_dump(include={"n_past", "skip_lag", "last_frame_skip"})
    known = {"prior": model.prior, "z_dim": model.z_dim, "image_size": frame.height, "channels": frame.channels}
    return SvgConfig.model_validate({**known, **sizes, **rule})


def _folded_weights(bundle: Bundle) -> dict[str, torch.Tensor]:
    weights = {}
    for graph_name, content in bundle.graphs("fp32").items():
        part = _PART.get(graph_name, graph_name)
        for tensor in onnx.load_from_string(content).graph.initializer:
            name = f"{part}.{tensor.name.partition('.')[2]}"
            weights[name] = torch.from_numpy(np.array(onnx.numpy_helper.to_array(tensor)))
    return weights


def _as_exported_from(weight: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """Undo what `svg_export.lowering` did to a transposed convolution's weight (C_in, C_out, k, k) or bias, if it did."""
    if weight.dim() == 2 and len(shape) == 4:  # as a matrix product
        return weight.reshape(shape) if weight.numel() == shape.numel() else weight
    if weight.dim() == 1 and len(shape) == 1 and weight.numel() > shape.numel():
        return weight[:: weight.numel() // shape.numel()]  # repeated for every pixel
    mirrored = weight.dim() == 4 and weight.shape[2:] == (3, 3) and weight.shape[1::-1] == shape[:2] != weight.shape[:2]
    return weight.transpose(0, 1).flip(2, 3) if mirrored else weight  # as an ordinary convolution


def _neutralize(module: nn.Module) -> None:
    """Statistics with which BatchNorm is the identity, up to the rounding of eps."""
    if isinstance(module, nn.BatchNorm2d):
        nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)
        module.running_mean.zero_()
        module.running_var.fill_(1.0 - module.eps)
