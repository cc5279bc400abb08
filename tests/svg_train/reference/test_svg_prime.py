"""Checkpoints of svg-prime, the public re-implementation with spatial latents (Villegas et al. 2019)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks import reference_networks
from benchmarks.reference_networks import generate
from svg_train.losses import gaussian_kl
from svg_train.reference.checkpoint import ReferenceCheckpointError, load_any_checkpoint
from tests.svg_train.reference.reference_files import Made, Name, OldTorch, write_parts, zip_file
from tests.svg_train.reference.svg_prime_networks import build, options

SAMPLES = 2


@pytest.fixture(scope="module")
def golden(shared_data) -> dict[str, torch.Tensor]:
    """What the original computes, with flat latents."""
    with np.load(shared_data / "golden" / "svgprime_tiny.npz") as arrays:
        tensors = {name: torch.from_numpy(arrays[name]) for name in arrays}
    return {name: value.flatten(2) if value.shape[-2:] == (8, 8) else value for name, value in tensors.items()}


@pytest.fixture(scope="module")
def imported(shared_data):
    return load_any_checkpoint(shared_data / "golden" / "svgprime_tiny.pth")


@torch.no_grad()
def gaussians(model, x: torch.Tensor, noise: torch.Tensor, context_noise: torch.Tensor) -> dict[str, torch.Tensor]:
    """mu and logvar of posterior and prior while the frames x are read, then of the prior during the forecast."""
    h, states = model.encoder(x[0])[0], model._initial_states(x.shape[1])
    posterior, prior, frames = [], [], list(model.generate(x, noise, context_noise))
    for index in range(len(x) - 1 + len(frames)):
        prior_now = model.prior.step(h, states.prior)
        prior.append(torch.stack(prior_now[:2]))
        after = [*x, *frames][index + 1]
        if index < len(x) - 1:
            *posterior_now, state = model.posterior.step(model.encoder(after)[0], states.posterior)
            posterior.append(torch.stack(posterior_now))
            states = states._replace(posterior=state)
        states = states._replace(prior=prior_now[2])
        h = model.encoder(after)[0]
    posterior_both, prior_both = torch.stack(posterior, 1), torch.stack(prior, 1)
    return {
        "posterior_mu": posterior_both[0], "posterior_logvar": posterior_both[1],
        "prior_mu": prior_both[0], "prior_logvar": prior_both[1],
        "surprise": gaussian_kl(*posterior_both, *prior_both[:, : len(x) - 1]).sum(-1),
    }  # fmt: skip


def test_golden_checkpoint_gives_the_original_forecast_gaussians_and_surprise(golden, imported):
    model = imported.build()
    x = golden["frames"][:, None].expand(-1, SAMPLES, -1, -1, -1)
    forecast = model.generate(x, golden["noise"], golden["context_noise"]).transpose(0, 1)
    torch.testing.assert_close(forecast, golden["expected"], atol=1e-4, rtol=0)
    for name, value in gaussians(model, x, golden["noise"], golden["context_noise"]).items():
        torch.testing.assert_close(value, golden[name], atol=1e-4, rtol=0, msg=lambda text, name=name: f"{name}: {text}")


def test_golden_checkpoint_has_the_expected_configuration(imported):
    model, train = imported.config.model, imported.config.train
    assert (model.latent, model.backbone, model.prior, model.skip_lag) == ("spatial", "vgg", "learned", 1)
    assert (model.nf, model.rnn_size, model.g_dim, model.z_dim, model.noise_dim) == (4, 8, 128, 4, 4 * 8 * 8)
    assert (model.predictor_layers, model.posterior_layers, model.prior_layers) == (2, 1, 1)
    assert (train.lr, train.n_future, imported.config.data.num_digits) == (3e-4, 10, 2)


CASES = {
    "RGB, frames of 128 px": (
        {"channels": 3, "image_size": 128},
        {"channels": 3, "image_width": 128},
        OldTorch(16, "cuda:1"),
        "zip",
    ),
    "frames of 96 px": ({"image_size": 96}, {"image_width": 96}, OldTorch(16), "zip"),
    "frames of 32 px, as the modules say": (
        {"image_size": 32, "says_size": True},
        {"image_width": None},
        OldTorch(4),
        "stream",
    ),
    "last_frame_skip": ({}, {"last_frame_skip": True}, OldTorch(4), "stream"),
    "fixed prior, two posterior layers, in double precision": (
        {"prior": "fixed", "layers": (3, 2, 0)},
        {"predictor_rnn_layers": 3, "posterior_rnn_layers": 2, "prior_rnn_layers": None},
        OldTorch(16, dtype="float64"),
        "zip",
    ),
    "before it had width factors": ({}, {"M": None, "K": None, "rnn_size": 8}, OldTorch(16), "zip"),
}


@pytest.mark.parametrize(("sizes", "opt", "torch_of_then", "container"), CASES.values(), ids=CASES)
def test_import_computes_what_the_original_computes(sizes, opt, torch_of_then, container, tmp_path):
    parts = build(**sizes)
    given = {name: value for name, value in options(**opt).items() if value is not None}
    imported = load_any_checkpoint(write_parts(tmp_path / "model.pth", parts, given, torch_of_then, container))
    model = imported.config.model
    assert (model.latent, model.nf, model.rnn_size, model.z_dim) == ("spatial", 2, 8, 3)
    side = model.image_size // 8
    rng = torch.Generator().manual_seed(1)
    x = torch.rand(3, 2, model.channels, model.image_size, model.image_size, generator=rng)
    noise, past = (torch.randn(steps, 2, 3, side, side, generator=rng) for steps in (4, 2))
    expected = generate(parts, x, noise, past, model.last_frame_skip)
    assert (expected[:, 0] - expected[:, 1]).abs().mean() > 1e-3, "samples that do not differ prove nothing"
    torch.testing.assert_close(imported.build().generate(x, noise.flatten(2), past.flatten(2)), expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize(("width", "reason"), [(100, "needs a multiple of 8"), (2048, "less than or equal to 1024")])
def test_frames_that_the_network_cannot_have_are_refused(width, reason, tmp_path):
    path = write_parts(tmp_path / "a.pth", build(), options(image_width=width), OldTorch(16))
    with pytest.raises(ReferenceCheckpointError, match=f"opt.image_width is {width}, which svg-edge does not take: .*{reason}"):
        load_any_checkpoint(path)


def test_the_maps_of_the_modules_say_the_size_of_the_frames(tmp_path):
    """The published program has maps of 8 x 8, whatever image_width was given."""
    path = write_parts(tmp_path / "a.pth", build(says_size=True), options(image_width=96), OldTorch(16))
    with pytest.raises(ReferenceCheckpointError, match=r"opt\.image_width is 96, but the parameters imply 64"):
        load_any_checkpoint(path)


@pytest.mark.parametrize("hostile", [(8, 12), (0, 0), (-1, -1), ("8", "8"), (1 << 800,) * 2, 8, (8,), ([], [])])
def test_maps_of_no_plausible_size_say_nothing(hostile, tmp_path):
    parts = build()
    parts["frame_predictor"].image_size = hostile
    path = write_parts(tmp_path / "a.pth", parts, options(image_width=32), OldTorch(16))
    assert load_any_checkpoint(path).config.model.image_size == 32


def test_a_predictor_that_reads_the_encoding_alone_is_deterministic(tmp_path):
    path = write_parts(tmp_path / "det.pth", build(prior="none"), options(), OldTorch(16))
    model = load_any_checkpoint(path).config.model
    assert (model.latent, model.prior, model.z_dim, model.noise_dim) == ("spatial", "none", 0, 0)


def test_state_dicts_in_a_lightning_checkpoint_are_taken_too(tmp_path):
    parts = build()
    flat = {f"model.{part}.{name}": value for part, module in parts.items() for name, value in module.state_dict().items()}
    torch.save({"state_dict": flat, "pytorch-lightning_version": "2.0.0", "hyper_parameters": options()}, tmp_path / "a.ckpt")
    whole = load_any_checkpoint(write_parts(tmp_path / "model.pth", parts, options(), OldTorch(16)))
    assert load_any_checkpoint(tmp_path / "a.ckpt").config == whole.config
    torch.testing.assert_close(load_any_checkpoint(tmp_path / "a.ckpt").weights, whole.weights, atol=0, rtol=0)


@pytest.mark.parametrize("stated", [True, False])
def test_a_model_that_reads_actions_is_refused_by_name(stated, tmp_path):
    opt = {name: value for name, value in options(a_dim=4).items() if stated or name != "a_dim"}
    with pytest.raises(ReferenceCheckpointError, match=r"opt\.a_dim is 4: the predictor reads actions too"):
        load_any_checkpoint(write_parts(tmp_path / "a.pth", build(a_dim=4), opt, OldTorch(16)))


def test_all_missing_and_contradictory_parts_are_in_one_message(tmp_path):
    parts = build()
    del parts["decoder"], parts["encoder"].c2[0].main[0]._parameters["bias"]
    parts["prior"].extra = torch.nn.Linear(2, 2)
    parts["posterior"].lstm[0].conv.weight = torch.nn.Parameter(torch.zeros(32, 5, 3, 3))
    opt = options(M=0.5, K=float("nan"), z_dim=7, model="dcgan")
    for name in ("image_width", "n_past"):
        del opt[name]
    with pytest.raises(ReferenceCheckpointError) as caught:
        load_any_checkpoint(write_parts(tmp_path / "a.pth", parts, opt, OldTorch(16)))
    for expected in (
        "a.pth' is not a complete checkpoint of svg-prime",
        "decoder: missing",
        "opt.M is 0.5 of 512 channels, but the parameters imply 8",
        "opt.K is nan of 64 channels, but the parameters imply 2",
        "opt.z_dim is 7, but the parameters imply 3",
        "opt.model is 'dcgan', but the parameters imply vgg",
        "opt.image_width is missing",
        "opt.n_past is missing",
    ):
        assert expected in str(caught.value)


def test_wrong_weights_are_listed_by_their_own_names(tmp_path):
    parts = build()
    del parts["encoder"].c4._parameters["bias"]
    parts["prior"].extra = torch.nn.Linear(2, 2)
    parts["decoder"].upc2[0].main[0].weight = torch.nn.Parameter(torch.zeros(8, 5, 3, 3))
    parts["posterior"].lstm[0].conv.weight = torch.nn.Parameter(torch.zeros(32, 5, 3, 3))
    with pytest.raises(ReferenceCheckpointError) as caught:
        load_any_checkpoint(write_parts(tmp_path / "a.pth", parts, options(), OldTorch(16)))
    for expected in (
        "encoder.c4.bias: missing, expected (6,)",
        "prior.extra.weight: unexpected, (2, 2)",
        "decoder.upc2.0.main.0.weight: given (8, 5, 3, 3), expected (8, 16, 3, 3)",
        "posterior.lstm.0.conv.weight: given (32, 5, 3, 3), expected (32, 16, 3, 3)",
    ):
        assert expected in str(caught.value)


def test_parts_of_both_implementations_in_one_file_are_refused(tmp_path):
    parts = {**reference_networks.build(), "frame_predictor": build()["frame_predictor"]}
    with pytest.raises(ReferenceCheckpointError, match=r"encoder\.c1\.0\.main\.0\.weight: missing"):
        load_any_checkpoint(write_parts(tmp_path / "a.pth", parts, options(), OldTorch(16)))


@pytest.mark.parametrize("value", [1 << 800, float("inf"), -1, "512", True], ids=["huge", "inf", "-1", "text", "True"])
@pytest.mark.parametrize("option", ["M", "K", "rnn_size", "a_dim"])
def test_hostile_options_are_findings(option, value, tmp_path):
    with pytest.raises(ReferenceCheckpointError, match=rf"opt\.{'M' if option == 'rnn_size' else option} is "):
        load_any_checkpoint(write_parts(tmp_path / "a.pth", build(), options(**{option: value}), OldTorch(16)))


def test_no_code_in_a_file_runs(tmp_path):
    """Classes and functions of the file stay names, also where a part of the model should be."""
    hostile = Made(Name("os", "system"), (f"touch {tmp_path / 'ran'}",))
    old = OldTorch(16)
    content = {name: old.module(part) for name, part in build().items()} | {"opt": options(), "prior": hostile}
    (tmp_path / "a.pth").write_bytes(zip_file(content, old.storages))
    with pytest.raises(ReferenceCheckpointError, match="prior: no torch module or state_dict"):
        load_any_checkpoint(tmp_path / "a.pth")
    assert not (tmp_path / "ran").exists()
