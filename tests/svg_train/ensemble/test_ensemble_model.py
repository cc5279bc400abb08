"""The network of the family `ensemble`: what a new one does, how it moves pixels, and what its training scores."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional

from svg_train.families.ensemble import EnsembleConfig
from svg_train.families.ensemble.layers import Observed, full_flow, warp
from svg_train.families.ensemble.model import EnsembleModel
from svg_train.families.ensemble.scores import fair_crps, patch_energy
from tests.families import TINY_MODELS

TINY = TINY_MODELS["ensemble"]


def model_of(seed: int = 0, **changed) -> EnsembleModel:
    """With weights of which none is zero."""
    torch.manual_seed(seed)
    model = EnsembleModel(EnsembleConfig(**{**TINY, **changed}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


def draws(model: EnsembleModel, batch: int, horizon: int) -> tuple[torch.Tensor, torch.Tensor]:
    size = model.config.noise_dim
    return torch.randn(horizon, batch, size), torch.randn(1, batch, size)


def test_a_new_network_repeats_the_last_frame():
    torch.manual_seed(0)
    model = EnsembleModel(EnsembleConfig(image_size=64, n_past=3)).eval()
    still = torch.rand(1, 2, 3, 8, 8).repeat_interleave(8, -1).repeat_interleave(8, -2).repeat(3, 1, 1, 1, 1)
    noise = torch.randn(2, 2, model.config.noise_dim)
    frames = model.generate(still, noise, noise[:1])
    assert ((frames - still[0]) ** 2).mean() < 0.01
    assert ((still[0] - 0.5) ** 2).mean() > 0.05


@pytest.mark.parametrize(("right", "down"), [(3, 0), (0, 2), (-2, 5)])
def test_a_flow_of_whole_pixels_moves_a_frame(right, down):
    frame = torch.rand(1, 2, 16, 16)
    flow = torch.tensor([right, down]).expand(1, 16, 16, 2).float()
    padded = torch.nn.functional.pad(frame, (6, 6, 6, 6), mode="replicate")
    expected = padded[:, :, 6 + down : 22 + down, 6 + right : 22 + right]
    torch.testing.assert_close(warp(frame, flow), expected, atol=1e-5, rtol=0)


def test_a_flow_of_half_a_pixel_mixes_two():
    frame = torch.rand(1, 1, 8, 8)
    moved = warp(frame, torch.tensor([0.5, 0.0]).expand(3, 8, 8, 2))
    torch.testing.assert_close(moved[2, :, :, :-1], (frame[0, :, :, :-1] + frame[0, :, :, 1:]) / 2, atol=1e-6, rtol=0)


@pytest.mark.parametrize("shape", [(2, 2, 8, 8), (1, 2, 3, 5)])
def test_a_flow_is_interpolated_as_pytorch_does(shape):
    flow = torch.randn(shape)
    expected = torch.nn.functional.interpolate(flow, scale_factor=2, mode="bilinear", align_corners=False)
    torch.testing.assert_close(full_flow(flow).permute(0, 3, 1, 2), expected)


def test_all_noise_changes_the_forecast():
    model = model_of()
    x = torch.rand(3, 1, 1, 16, 16)
    noise, past = draws(model, 1, 3)
    frames = model.generate(x, noise, past)
    for index in range(model.config.noise_dim):
        changed = noise.clone()
        changed[1, 0, index] += 1
        other = model.generate(x, changed, past)
        assert torch.equal(other[0], frames[0]), "a draw changed what came before it"
        assert (other[1] != frames[1]).any(), index
    assert (model.generate(x, noise, past + 1)[0] != frames[0]).any()


def test_each_sequence_is_forecast_by_itself():
    model = model_of()
    x, (noise, past) = torch.rand(3, 4, 1, 16, 16), draws(model, 4, 3)
    together = model.generate(x, noise, past)
    for index in range(4):
        alone = model.generate(x[:, index : index + 1], noise[:, index : index + 1], past[:, index : index + 1])
        torch.testing.assert_close(together[:, index : index + 1], alone)


@pytest.mark.parametrize(("members", "change_weight"), [(2, 0.0), (3, 0.0), (2, 0.5)])
def test_training_scores_the_forecasts_that_are_generated(members, change_weight):
    """The leads that the noise chooses, of members whose noise lies one after the other; leads in a row, and their changes."""
    model = model_of(members=members, change_weight=change_weight)
    c, batch, horizon = model.config, 2, 4
    x = torch.rand(c.n_past + horizon, batch, 1, 16, 16)
    count, size = c.training_noise(len(x))
    noise = torch.randn(count, batch, size)
    output = model(x, noise)
    eps = noise[..., :-1].view(1 + horizon, members, batch, c.noise_dim)
    samples = torch.stack([model.generate(x[: c.n_past], eps[1:, i], eps[:1, i]) for i in range(members)], 1)
    order = noise[:horizon, 0, -1]
    start = min(max(int(order.argmax()) - (c.leads - 1) // 2, 0), horizon - c.leads)
    in_a_row = list(range(start, start + c.leads))
    leads = in_a_row if change_weight else sorted(order.argsort()[: c.leads].tolist())
    torch.testing.assert_close(output.frames, samples[leads, 0])
    truth, chosen = x[c.n_past :][leads], samples[leads]

    def scored(chosen: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        patches = [patch_energy(chosen, truth, side, c.fairness) for side in (8, 16)]
        return fair_crps(chosen, truth, c.fairness) + c.patch_weight * sum(patches) / 2

    score = scored(chosen, truth) + c.change_weight * scored(chosen[1:] - chosen[:-1], truth[1:] - truth[:-1])
    shifted = warp(x[c.n_past - 2], full_flow(model.prime(x[: c.n_past])[1].motion))
    score = score + c.motion_weight * (shifted - x[c.n_past - 1]).abs().mean(dim=(1, 2, 3))
    weights = 0.02 / ((x[c.n_past - 1] - x[0]).abs().mean(dim=(1, 2, 3)) + 0.02)
    torch.testing.assert_close(output.auxiliary, horizon * (score * weights).mean())
    torch.testing.assert_close(output.mse, horizon * ((chosen - truth[:, None]) ** 2).mean())
    assert not output.mse.requires_grad


def test_every_lead_is_scored_now_and_then():
    """In a row too, those at the ends of a forecast no less than a third as often as any other."""
    model = model_of(leads=3, change_weight=1.0)
    counts = torch.zeros(10)
    for seed in range(500):
        leads = model._leads(torch.rand(10, generator=torch.Generator().manual_seed(seed)))
        assert leads == list(range(leads[0], leads[0] + 3))
        counts[leads] += 1
    assert counts.min() > counts.max() / 3
    assert model._leads(torch.rand(2)) == [0, 1]


def test_training_reaches_every_weight():
    model = model_of().train()
    count, size = model.config.training_noise(6)
    output = model(torch.rand(6, 2, 1, 16, 16), torch.randn(count, 2, size))
    assert output.auxiliary is not None
    output.auxiliary.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_training_learns_how_the_observed_frames_moved():
    """Texture moves two pixels to the right from frame to frame: each pixel was two to the left before."""
    torch.manual_seed(0)
    model = EnsembleModel(EnsembleConfig(**{**TINY, "widths": (16, 16, 16)}))
    optimizer = torch.optim.Adam(model.parameters(), lr=6e-3)
    count, size = model.config.training_noise(4)
    for _ in range(80):
        texture = functional.interpolate(torch.rand(8, 1, 4, 6), (16, 24), mode="bicubic").clamp(0, 1)
        x = torch.stack([texture[..., 6 - 2 * t : 22 - 2 * t] for t in range(4)])
        output = model(x, torch.randn(count, 8, size))
        optimizer.zero_grad()
        output.auxiliary.backward()
        optimizer.step()
    motion = model.prime(x[:3])[1].motion[..., 2:-2, 2:-2].mean(dim=(0, 2, 3))
    assert -2.6 < motion[0] < -1.4
    assert abs(motion[1]) < 0.5


def test_what_moves_is_cut_out_with_its_outline():
    """A flow that is the same everywhere moves the opaque square, and nothing of the background around it."""
    torch.manual_seed(0)
    decoder = EnsembleModel(EnsembleConfig(**TINY)).decoder
    background, opacity = torch.rand(1, 1, 16, 16), torch.zeros(1, 1, 16, 16)
    opacity[..., 4:8, 4:8] = 1
    observed = Observed(
        quarter=torch.zeros(1, 8, 4, 4),
        half=torch.zeros(1, 8, 8, 8),
        motion=torch.zeros(1, 2, 8, 8),
        layer=torch.cat([opacity, opacity], 1),
        background=background,
    )
    maps = torch.zeros(1, 4, 16, 16)
    maps[:, 1:] = torch.tensor([10.0, 0, -10]).view(3, 1, 1)
    flow = torch.tensor([-3.0, 0]).expand(1, 16, 16, 2)
    expected = background.clone()
    expected[..., 4:8, 7:11] = 1
    torch.testing.assert_close(decoder._compose(maps, flow, observed), expected, atol=1e-4, rtol=0)


def test_what_was_seen_to_move_is_opaque_and_what_was_not_is_not():
    prime = EnsembleModel(EnsembleConfig(**TINY)).prime
    x = torch.full((3, 1, 1, 16, 16), 0.5)
    x[0, ..., 4:8, 4:8] = 0.8
    opacity = prime(x)[1].layer[0, -1]
    assert opacity[4:8, 4:8].min() > 0.95
    assert opacity[12:, 12:].max() < 0.1


@pytest.mark.slow
def test_training_learns_that_two_futures_are_possible():
    """The lamp goes on or off by chance: samples must do both, and be nearer to one of them than to the other."""
    torch.manual_seed(0)
    sizes = {"widths": (8, 12, 16), "decoder_widths": (12, 8), "state_size": 12, "leads": 1}
    model = EnsembleModel(EnsembleConfig(**{**TINY, **sizes}))
    optimizer = torch.optim.Adam(model.parameters(), lr=6e-3)
    frames = torch.full((2, 4, 1, 16, 16), 0.5)
    frames[0, 3] = 0.2
    frames[1, 3] = 0.8
    count, size = model.config.training_noise(4)
    for _ in range(250):
        x = frames[torch.randint(2, (8,))].transpose(0, 1)
        output = model(x, torch.randn(count, 8, size))
        optimizer.zero_grad()
        output.auxiliary.backward()
        optimizer.step()
    noise, past = draws(model, 64, 1)
    samples = model.eval().generate(frames[:1, :3].transpose(0, 1).repeat(1, 64, 1, 1, 1), noise, past)[0]
    errors = ((samples[:, None] - frames[:, 3]) ** 2).mean(dim=(2, 3, 4))  # (64, 2) from either future
    assert errors.amin(1).mean() < 0.5 * errors.mean()
    assert 0.1 < errors.argmin(1).float().mean() < 0.9


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_size": 20}, "expected a multiple of 8"),
        ({"noise_maps": 0, "noise_vector": 0}, "all samples would be alike"),
        ({"members": 1}, "greater than or equal to 2"),
        ({"widths": (1, 2)}, "widths"),
        ({"decoder_widths": (1, 0)}, "from 1 to 65536, not 0"),
        ({"change_weight": 1.0, "leads": 1}, "no change is decoded"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        EnsembleConfig(**settings)
