"""Models that lack a part, or whose states have sizes that an exporter could take for the batch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from svg_export.bundle_writer import write_bundle
from svg_export.families.svg import fold, separate_graphs
from svg_export.graph_export import EXAMPLE_BATCH, GraphExport
from svg_export.to_onnx import export_graph, read_interface
from svg_runtime import Forecaster
from svg_runtime.forecast.noise import NoiseSource
from svg_train.checkpoint import Checkpoint
from svg_train.config import build_config
from svg_train.families.svg.model import SVG
from tests.conftest import random_model
from tests.svg_runtime.bundle_helpers import draw, generated


class Accumulator(nn.Module):
    """frame (B, 2, 2, 2), state (B, 2, 2, 2) -> frame, state_out: no size tells the batch from the channels."""

    def forward(self, frame: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        return frame + state, frame * 0.5 + state


@pytest.mark.parametrize("axis", [0, 1])
def test_a_state_whose_sizes_equal_the_batch_of_the_example_keeps_a_dynamic_batch(axis):
    shape = [EXAMPLE_BATCH] * 4
    export = GraphExport(
        module=Accumulator(),
        example=(torch.rand(shape), torch.rand(shape)),
        inputs=["frame", "state"],
        outputs=["sum", "state_out"],
        states={"state": "state_out"},
        batch_axes=dict.fromkeys(("frame", "state", "sum", "state_out"), axis),
    )
    content = export_graph(export, "step", "0" * 16)
    inputs, outputs, _ = read_interface(content)
    for tensor in (*inputs, *outputs):
        assert [index for index, size in enumerate(tensor.shape) if size == "batch"] == [axis], tensor
    _check_batches(content, {"frame": axis, "state": axis}, shape)


def test_a_spatial_state_of_two_channels_keeps_a_dynamic_batch():
    model = random_model(latent="spatial", nf=2, g_dim=3, rnn_size=1, z_dim=1, predictor_layers=1)
    export = separate_graphs(fold(model), torch.float32)["prior"]
    content = export_graph(export, "prior", "0" * 16)
    inputs = {tensor.name: tensor.shape for tensor in read_interface(content)[0]}
    assert inputs == {"h": ("batch", 3, 8, 8), "state": ("batch", 2, 8, 8)}
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    given = {name: torch.rand(5, *shape[1:]) for name, shape in inputs.items()}
    expected = export.run(given)
    for name, value in zip(expected, session.run(list(expected), {k: v.numpy() for k, v in given.items()}), strict=True):
        np.testing.assert_allclose(value, expected[name], atol=1e-6)


def _check_batches(content: bytes, axes: dict[str, int], shape: list[int]) -> None:
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    for batch in (1, 3):
        sizes = {name: [batch if index == axis else size for index, size in enumerate(shape)] for name, axis in axes.items()}
        given = {name: np.random.default_rng(batch).random(size, np.float32) for name, size in sizes.items()}
        total, state = session.run(["sum", "state_out"], given)
        np.testing.assert_allclose(total, given["frame"] + given["state"], atol=1e-6)
        np.testing.assert_allclose(state, given["frame"] * 0.5 + given["state"], atol=1e-6)


# A model without skips: nothing but h and g leads from frame to frame.


class PlainEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(64, 16), nn.Tanh())

    def forward(self, frame: Tensor) -> tuple[Tensor, list[Tensor]]:
        return self.layers(frame), []


class PlainDecoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(16, 64), nn.Unflatten(1, (1, 8, 8)), nn.Upsample(scale_factor=8.0), nn.Sigmoid())

    def condition(self, skips: list[Tensor]) -> list[Tensor]:
        return []

    def forward(self, g: Tensor, cond: list[Tensor]) -> Tensor:
        return self.layers(g)


@dataclass(frozen=True)
class PlainCheckpoint(Checkpoint):
    """A checkpoint of a network that is not in the registry."""

    model: SVG | None = None

    def build(self) -> SVG:
        assert self.model is not None
        return self.model


@pytest.fixture(scope="module")
def plain() -> SVG:
    model = random_model()
    torch.manual_seed(1)
    model.encoder, model.decoder = PlainEncoder(), PlainDecoder()
    for parameter in (*model.encoder.parameters(), *model.decoder.parameters()):
        nn.init.normal_(parameter, 0, 0.4)
    return model.eval()


@pytest.fixture(scope="module")
def plain_bundle(plain, tmp_path_factory):
    config = build_config({"model": plain.config.model_dump()})
    checkpoint = PlainCheckpoint(config, plain.state_dict(), model=plain)
    out = tmp_path_factory.mktemp("plain") / "m.svgb"
    manifest = write_bundle(checkpoint, "0" * 64, out, fp16=False)
    assert "skip" not in manifest.variants["fp32"].graphs
    return out


@pytest.mark.parametrize("backend", ["cpu", "openvino"])
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("context", ["window", "stream"])
def test_a_model_without_skips_exports_and_forecasts(plain, plain_bundle, frames, context, fused, backend):
    pytest.importorskip(backend if backend == "openvino" else "onnxruntime")
    c = plain.config
    noise, past = draw(1, 3, 2, c.z_dim), NoiseSource(9).draw(c.n_past - 1, 2, c.z_dim)
    with Forecaster.open(
        plain_bundle, backend=backend, precision="fp32", samples=2, horizon=3, fused=fused, context=context, seed=9
    ) as forecaster:
        for frame in frames[: c.n_past]:
            forecaster.observe(frame)
        futures = forecaster.forecast(noise=noise)
    expected = generated(plain, frames[: c.n_past], noise, past)
    assert np.abs(expected[0] - expected[1]).max() > 1e-2
    np.testing.assert_allclose(futures, expected, atol=1e-4)
