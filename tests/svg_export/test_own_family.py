"""A family that a reader of docs/add-a-family.md could write: what it may have, and what is refused early and in words."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from typing import ClassVar, Literal

import pytest
import torch
from torch import Tensor, nn

from svg_export.bundle_writer import ContractError, write_bundle
from svg_export.families import FAMILY_EXPORTS, FamilyExport
from svg_export.graph_export import EXAMPLE_BATCH, GraphExport, unwritten_graphs
from svg_export.parity import ParityError
from svg_runtime.bundle.manifest import GraphSpec
from svg_runtime.bundle.reader import Bundle
from svg_train.checkpoint import Checkpoint, load_checkpoint
from svg_train.config import build_config
from svg_train.families.base import FamilyConfig
from svg_train.families.video_model import TrainingOutput, VideoModel


class DriftConfig(FamilyConfig):
    """Settings of every type that a bundle can have."""

    default_context: ClassVar[Literal["window", "stream"]] = "window"

    family: Literal["drift"] = "drift"
    image_size: int = 16
    n_past: int = 3
    rates: tuple[float, ...] = (0.5, 1.0)
    parts: tuple[str, ...] = ("a", "b")
    primed: bool = True
    state: str = "hidden"
    narrowed: bool = False

    @property
    def noise_dim(self) -> int:
        return 2

    @property
    def prior_kind(self) -> Literal["fixed"]:
        return "fixed"

    @property
    def context_draws(self) -> int:
        return 0 if self.primed else self.n_past - 1


class Drift(VideoModel):
    """One map that drifts."""

    config: DriftConfig

    def __init__(self, config: DriftConfig) -> None:
        super().__init__()
        self.config = config
        self.noise = nn.Linear(2, 1)

    def step(self, h: Tensor, hidden: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
        given = eps.float() if self.config.narrowed else eps
        following = torch.tanh(hidden + h + self.noise(given)[..., None, None])
        return torch.sigmoid(following), following

    def prime(self, x: Tensor) -> Tensor:
        return x.mean(0)

    def forward(self, x: Tensor, noise: Tensor, step: int = 0) -> TrainingOutput:
        raise NotImplementedError

    @torch.no_grad()
    def generate(self, x: Tensor, noise: Tensor, context_noise: Tensor) -> Tensor:
        hidden, h, frames = self.prime(x), x[-1], []
        for eps in noise:
            h, hidden = self.step(h, hidden, eps)
            frames.append(h)
        return torch.stack(frames)

    def reconstruct(self, x: Tensor, noise: Tensor, context_noise: Tensor) -> Tensor:
        raise NotImplementedError


class StepGraph(nn.Module):
    """h, hidden, eps -> frame, h_out, hidden_out."""

    def __init__(self, model: Drift) -> None:
        super().__init__()
        self.model = model

    def forward(self, h: Tensor, hidden: Tensor, eps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        frame, following = self.model.step(h, hidden, eps)
        return frame, frame.clone(), following


class PrimeGraph(nn.Module):
    """h_seq -> hidden."""

    def __init__(self, model: Drift) -> None:
        super().__init__()
        self.model = model

    def forward(self, h_seq: Tensor) -> Tensor:
        return self.model.prime(h_seq)


def graphs(model: Drift, dtype: torch.dtype, fused: bool) -> dict[str, GraphExport]:
    c, state = model.config, model.config.state
    frame = torch.rand(EXAMPLE_BATCH, 1, c.height, c.width)
    step = GraphExport(
        module=StepGraph(model),
        example=(frame, torch.rand_like(frame), torch.rand(EXAMPLE_BATCH, 2)),
        inputs=["h", state, "eps"],
        outputs=["frame", "h_out", f"{state}_out"],
        states={"h": "h_out", state: f"{state}_out"},
        computes="float32",
    )
    prime = GraphExport(
        module=PrimeGraph(model),
        example=(torch.stack([frame] * c.n_past),),
        inputs=["h_seq"],
        outputs=[state],
        batch_axes={"h_seq": 1},
        computes="float32",
    )
    return {"step": step, "prime": prime} if c.primed else {"step": step}


@dataclass(frozen=True)
class DriftCheckpoint(Checkpoint):
    """A checkpoint of a network that is not in the registry."""

    def build(self) -> VideoModel:
        model = Drift(self.config.model)
        model.load_state_dict(self.weights)
        return model.eval()


@pytest.fixture
def export(tmp_path, monkeypatch):
    """Write the bundle of the family with these settings; returns its folder."""
    monkeypatch.setitem(FAMILY_EXPORTS, "drift", FamilyExport(copy.deepcopy, graphs))

    def write(**settings):
        torch.manual_seed(0)
        model = DriftConfig(**settings)
        checkpoint = DriftCheckpoint(build_config().model_copy(update={"model": model}), Drift(model).state_dict())
        write_bundle(checkpoint, "0" * 64, tmp_path / "drift.svgb", fp16=False)
        return tmp_path / "drift.svgb"

    return write


def test_settings_of_every_type_reach_the_manifest(export):
    settings = json.loads((export() / "manifest.json").read_text())["model"]["settings"]
    assert repr(settings["rates"]) == "[0.5, 1.0]"
    assert settings["parts"] == ["a", "b"]


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        (
            {"primed": False},
            "variants.fp32.graphs: the graphs are ['step']; a model without encoder and prime has a step from frame to frame, "
            "and no latents; the prior is 'fixed'",
        ),
        ({"state": "state"}, "variants.fp32.graphs.step.states: ['state'], names that no state may have"),
        ({"state": "posterior_mu"}, "variants.fp32.graphs.step.states: ['posterior_mu'], names that no state may have"),
        ({"rates": (0.0,) * 201}, "settings: 'rates' has 201 values, expected at most 200"),
    ],
)
def test_what_the_contract_refuses_is_said_before_anything_is_exported(export, monkeypatch, settings, problem):
    monkeypatch.setattr("svg_export.bundle_writer.export_graph", pytest.fail)
    with pytest.raises(ContractError) as caught:
        export(**settings)
    assert problem in str(caught.value)


def test_a_graph_that_computes_in_float32_whatever_it_is_given_is_named(export):
    with pytest.raises(ParityError) as caught:
        export(narrowed=True)
    first, expected, _ = str(caught.value).splitlines()
    assert first.startswith("the graph 'step' does not run in float64, as the parity gate runs it: ")
    assert "svg_export.graph_export.widened" in expected


def interfaces(graphs: dict[str, GraphSpec]) -> dict[str, tuple[object, ...]]:
    return {name: (spec.inputs, spec.outputs, spec.states, spec.computes) for name, spec in graphs.items()}


def test_graphs_are_checked_as_they_are_then_written(fused_bundle, tiny_checkpoint):
    model = load_checkpoint(tiny_checkpoint).build()
    family = FAMILY_EXPORTS["svg"]
    written = dict(Bundle.open(fused_bundle).manifest.variants["fp32"].graphs)
    written.pop("decoder_shuffled", None)
    assert interfaces(unwritten_graphs(family.graphs(family.fold(model), torch.float32, True))) == interfaces(written)
