"""Training every family: mixed precision, resumed runs, what the journal has, settings of other families."""

from __future__ import annotations

import json

import pytest
import torch

from svg_common.errors import UsageError
from svg_train.checkpoint import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint
from svg_train.config import build_config
from svg_train.evaluation import sample_futures
from svg_train.families import FAMILIES
from svg_train.initial_weights import initial_weights
from svg_train.machine import Machine
from svg_train.train import StoppedError, Trainer
from tests.families import TINY_MODELS
from tests.sample import sampled
from tests.svg_train.frames.test_frames_model import config as frames_config
from tests.svg_train.srvp.test_srvp_training import SETTINGS as SRVP_SETTINGS
from tests.svg_train.test_train import CPU, SPATIAL, config, losses, stop_after

TRAIN = {
    "steps": 2, "batch_size": 2, "n_future": 2, "eval_every": 2, "eval_sequences": 2, "eval_samples": 2, "eval_horizon": 2,
    "save_every": 1,
}  # fmt: skip
SRVP, FRAMES = TINY_MODELS["srvp"], TINY_MODELS["predrnn"]


@pytest.mark.parametrize("name", sampled(TINY_MODELS, {"spatial", "srvp-skips", "ensemble", "e3d-lstm"}))
def test_every_family_trains_in_mixed_precision_and_goes_on_where_it_was_saved(name, tmp_path, monkeypatch):
    """Lightning Fabric then casts frames and noise to bf16."""
    machine = Machine(device="cpu", precision="bf16-mixed")
    monkeypatch.setattr("svg_train.train.LOG_EVERY", 1)
    size = {"image_size": 40} if TINY_MODELS[name].get("family") in ("frames", "ensemble") else {}  # larger than the digits
    config = build_config({"model": {**TINY_MODELS[name], **size}, "train": TRAIN})
    monkeypatch.setattr(Trainer, "_after_step", stopped_after_one(Trainer._after_step))
    with pytest.raises(KeyboardInterrupt):
        Trainer(config, tmp_path / "run", machine, resume=False).run()
    monkeypatch.undo()
    assert load_checkpoint(tmp_path / "run" / "last.pt").step == 1
    evaluation = Trainer(config, tmp_path / "run", machine, resume=True).run()
    assert evaluation is not None
    assert load_checkpoint(tmp_path / "run" / "ckpt.pt").build().config == config.model
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    train, last = lines[0], lines[-1]
    assert ("kl" in train) == bool(config.model.noise_dim)
    assert ("auxiliary" in train) == (name in ("srvp", "srvp-skips", "ensemble", "predrnn-v2", "e3d-lstm"))
    assert last["kind"] == "eval"
    assert last["spread"] == 0 or config.model.noise_dim


RESUMED = {  # a run, and the step after which it is stopped
    "spatial": (config(SPATIAL, steps=4, eval_every=4), 2),
    "srvp": (build_config(SRVP_SETTINGS), 4),
    "predrnn": (frames_config("predrnn"), 3),
    "predrnn-v2": (frames_config("predrnn-v2"), 3),
}


@pytest.mark.parametrize("name", sampled(RESUMED, {"srvp"}))
def test_a_resumed_run_repeats_an_uninterrupted_one(name, tmp_path, monkeypatch):
    """What is chosen at random too: it depends on the step alone."""
    settings, step = RESUMED[name]
    monkeypatch.setattr("svg_train.train.LOG_EVERY", 1)
    Trainer(settings, tmp_path / "whole", CPU, resume=False).run()
    with monkeypatch.context() as patch:
        stop_after(step, patch)
        with pytest.raises(StoppedError):
            Trainer(settings, tmp_path / "run", CPU, resume=False).run()
    Trainer(build_config(), tmp_path / "run", CPU, resume=True).run()
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")
    resumed, whole = (load_checkpoint(tmp_path / run / "last.pt") for run in ("run", "whole"))
    assert resumed.config == whole.config
    for key, value in whole.weights.items():
        assert torch.equal(value, resumed.weights[key]), key
    assert resumed.metrics == whole.metrics


def stopped_after_one(plain):
    def after_step(self, last):
        plain(self, last)
        raise KeyboardInterrupt

    return after_step


def test_a_deterministic_model_is_run_once_for_all_its_samples(monkeypatch):
    config = build_config({"model": FRAMES}).model
    model = FAMILIES["frames"].build(config).eval()
    truth = torch.rand(config.n_past + 2, 3, 1, config.height, config.width)
    batches = []
    plain = model.generate
    monkeypatch.setattr(model, "generate", lambda x, *noise: batches.append(x.shape[1]) or plain(x, *noise))
    futures = sample_futures(model=model, truth=truth, samples=4, horizon=2, seed=0)
    assert batches == [3]
    assert futures.shape == (4, 2, 3, 1, config.height, config.width)
    assert torch.equal(futures[0], futures[3])


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"family": "frames", "z_dim": 3}, "model.z_dim: the family 'frames' has no such setting, only svg; remove it"),
        ({"family": "frames", "nf": 3}, "model.nf: the family 'frames' has no such setting, only svg and srvp; remove it"),
        ({"cell": "mim"}, "model.cell: the family 'svg' has no such setting, only frames; remove it"),
        ({"family": "srvp", "width": 3}, "model.width: Extra inputs are not permitted"),  # which no family has
    ],
)
def test_a_setting_of_another_family_is_refused_with_its_owners(model, message):
    with pytest.raises(UsageError) as refusal:
        build_config({"model": model})
    assert message in str(refusal.value)


def test_a_checkpoint_with_a_setting_of_another_family_says_the_same(tmp_path):
    config = build_config({"model": FRAMES})
    save_checkpoint(tmp_path / "ckpt.pt", Checkpoint(config, {}))
    content = torch.load(tmp_path / "ckpt.pt", weights_only=True)
    content["config"]["model"]["nhx"] = 3
    torch.save(content, tmp_path / "ckpt.pt")
    with pytest.raises(CheckpointError, match=r"config\.model\.nhx: the family 'frames' has no such setting, only srvp"):
        load_checkpoint(tmp_path / "ckpt.pt")


def test_a_run_cannot_start_from_the_weights_of_another_family(tmp_path):
    config = build_config({"model": SRVP})
    network = FAMILIES["srvp"].build(config.model)
    save_checkpoint(tmp_path / "ckpt.pt", Checkpoint(config, network.state_dict()))
    machine = Machine(device="cpu", precision="32-true")
    with pytest.raises(CheckpointError) as refusal:
        Trainer(build_config({"model": FRAMES}), tmp_path / "run", machine, resume=False, init=tmp_path / "ckpt.pt")
    assert "family: given srvp, expected frames" in str(refusal.value)
    assert "--family srvp --nf 2" in str(refusal.value)


RULES = [  # a model, its generation rule, other settings of training, and the flags of the rule
    ("deterministic", {"n_past": 4, "skip_lag": 1, "last_frame_skip": True}, {}, "--n-past 4 --skip-lag 1 --last-frame-skip"),
    ("srvp", {"n_past": 5, "n_euler_steps": 3}, {"beta_y": 2.0, "l2_res": 0.5}, "--n-past 5 --n-euler-steps 3"),
    ("e3d-lstm", {"n_past": 4, "history": 9}, {"sampling_ramp": (1, 2)}, "--n-past 4 --history 9"),
    ("ensemble", {}, {"members": 3, "patch_weight": 0.5}, ""),
]


@pytest.mark.parametrize(("name", "rule", "training", "flags"), RULES)
def test_weights_that_were_trained_with_another_rule_come_with_a_note(name, rule, training, flags, tmp_path, logged):
    own = build_config({"model": TINY_MODELS[name]}).model
    trained = build_config({"model": {**TINY_MODELS[name], **rule, **training}})
    init = tmp_path / "ckpt.pt"
    save_checkpoint(init, Checkpoint(trained, FAMILIES[own.family].build(trained.model).state_dict()))
    initial_weights(init, own)
    differences = [f"  {setting}: {value} there, {getattr(own, setting)} here" for setting, value in rule.items()]
    note = [
        f"note: this run forecasts by another rule than the model in '{init}':",
        *differences,
        f"  keep that rule with: {flags}",
    ]
    assert [record.getMessage() for record in logged.records] == (["\n".join(note)] if rule else [])
    logged.clear()
    initial_weights(init, build_config({"model": {**TINY_MODELS[name], **rule}}).model)
    assert not logged.records


@pytest.mark.parametrize("family", ["same", "other"])
def test_the_line_to_start_from_another_shape_has_the_flags_of_its_rule(family, tmp_path):
    trained = build_config({"model": {**SRVP, "n_past": 6, "n_euler_steps": 3}})
    save_checkpoint(tmp_path / "ckpt.pt", Checkpoint(trained, FAMILIES["srvp"].build(trained.model).state_dict()))
    own = {**SRVP, "nf": 3} if family == "same" else FRAMES
    with pytest.raises(CheckpointError) as refusal:
        initial_weights(tmp_path / "ckpt.pt", build_config({"model": own}).model)
    line = str(refusal.value).splitlines()[-1]
    assert line.startswith(f"  start from it with: --init {tmp_path / 'ckpt.pt'} ")
    for flag in ("--nf 2", "--n-past 6", "--n-euler-steps 3"):
        assert flag in line
    assert "None" not in line
