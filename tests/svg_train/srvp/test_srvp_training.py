"""Training end to end on tiny models: the loss falls, and the command line."""

from __future__ import annotations

import pytest
import torch
from typer.testing import CliRunner

from svg_adapt.cli import app
from svg_train.checkpoint import CheckpointError, load_checkpoint
from svg_train.config import build_config
from svg_train.families import FAMILIES
from svg_train.families.srvp import SrvpConfig
from svg_train.recipe_files import load_recipe
from svg_train.train import Trainer
from tests.conftest import TINY as TINY_SVG
from tests.svg_train.srvp.published_network import PublishedSrvp, write_published
from tests.svg_train.srvp.srvp_models import TINY
from tests.svg_train.test_train import CPU, losses

SETTINGS = {
    "model": {**TINY, "family": "srvp", "n_euler_steps": 2, "skips": True},
    "train": {
        "steps": 6, "batch_size": 2, "n_future": 2, "eval_every": 3, "eval_sequences": 3, "eval_samples": 2,
        "eval_horizon": 2, "save_every": 2, "warmup_steps": 2, "ema_decay": 0.5,
    },
}  # fmt: skip


@pytest.fixture(autouse=True)
def _every_step(monkeypatch):
    torch.set_num_threads(1)
    monkeypatch.setattr("svg_train.train.LOG_EVERY", 1)


@pytest.mark.parametrize(("backbone", "nf"), [("dcgan", 4), pytest.param("vgg", 2, marks=pytest.mark.slow)])
def test_training_lowers_the_loss(backbone, nf, tmp_path):
    settings = {"model": {"backbone": backbone, "nf": nf}, "train": {"steps": 30, "eval_every": 30, "lr": 3e-3}}
    Trainer(build_config(SETTINGS, settings), tmp_path / "run", CPU, resume=False).run()
    run = losses(tmp_path / "run")
    assert sum(run[step] for step in range(26, 31)) < 0.8 * sum(run[step] for step in range(1, 6))
    model = load_checkpoint(tmp_path / "run" / "ckpt.pt").build()
    assert isinstance(model.config, SrvpConfig)


def test_mixed_precision_keeps_states_and_gaussians_in_float32():
    model = FAMILIES["srvp"].build(build_config(SETTINGS).model)
    draws, size = model.config.training_noise(6)
    x, noise = torch.rand(6, 2, 1, 64, 64), torch.randn(draws, 2, size)
    exact = model(x, noise)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model(x, noise)
    assert rounded.kl.dtype == rounded.mse.dtype == rounded.auxiliary.dtype == torch.float32
    torch.testing.assert_close(rounded.mse, exact.mse, rtol=0.05, atol=0.05)


SHAPE = "--family srvp --nf 2 --nhx 6 --ny 5 --nz 3 --nt-inf 2 --n-past 3 --inference-size 8 --residual-size 10"
ONE_STEP = "--steps 1 --batch-size 2 --n-future 2 --eval-sequences 1 --eval-samples 2 --eval-horizon 2 --device cpu"


def svg_train(*arguments: str):
    return CliRunner().invoke(app, [*arguments])


def test_svg_train_trains_the_family_by_its_name(tmp_path):
    result = svg_train(*SHAPE.split(), "--skips", "--n-euler-steps", "3", *ONE_STEP.split(), "--out", str(tmp_path / "run"))
    assert result.exit_code == 0, result.output
    model = load_checkpoint(tmp_path / "run" / "ckpt.pt").config.model
    sizes = {"nf": 2, "nhx": 6, "ny": 5, "nz": 3, "nt_inf": 2, "n_past": 3, "inference_size": 8, "residual_size": 10}
    assert model == SrvpConfig(**sizes, skips=True, n_euler_steps=3)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--ny", "3"), "model.ny"),  # of another family than svg
        (("--family", "srvp", "--g-dim", "3"), "model.g_dim"),
        (("--family", "srvp", "--image-size", "128"), "model.image_size"),
        (("--family", "srvp", "--n-past", "3"), "nt_inf is 5"),
    ],
)
def test_settings_of_another_family_are_refused(arguments, expected, tmp_path):
    result = svg_train(*arguments, "--out", str(tmp_path / "run"))
    assert result.exit_code != 0
    assert expected in str(result.exception)


def test_the_recipe_is_of_edge_size():
    built = build_config(load_recipe("srvp-digits"))
    model = FAMILIES["srvp"].build(built.model)
    assert sum(parameter.numel() for parameter in model.parameters()) < 2e6


def test_init_starts_from_a_published_checkpoint_and_names_the_flags_of_another_shape(tmp_path):
    path = write_published(tmp_path, PublishedSrvp(skipco=True))
    run = build_config(SETTINGS, {"train": {"steps": 1, "lr": 1e-12, "ema_decay": 0.0}})
    Trainer(run, tmp_path / "run", CPU, resume=False, init=path).run()
    start, tuned = PublishedSrvp(skipco=True), load_checkpoint(tmp_path / "run" / "last.pt")
    torch.testing.assert_close(tuned.weights["content.mix.weight"], start.w_inf[0].weight.detach(), atol=1e-6, rtol=0)
    with pytest.raises(CheckpointError, match="--skips") as caught:
        Trainer(build_config(SETTINGS, {"model": {"skips": False, "nhx": 7}}), tmp_path / "b", CPU, resume=False, init=path)
    assert "nhx: given 6, expected 7" in str(caught.value)


def test_init_from_another_family_names_the_family(tmp_path):
    path = write_published(tmp_path, PublishedSrvp())
    with pytest.raises(CheckpointError) as caught:
        Trainer(build_config({"model": TINY_SVG}), tmp_path / "run", CPU, resume=False, init=path)
    message = str(caught.value)
    assert "family: given srvp, expected svg" in message
    assert "--family srvp" in message
    assert "--nhx 6" in message
