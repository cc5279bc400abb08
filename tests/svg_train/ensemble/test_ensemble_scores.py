"""The scores against their definitions, written out value by value, and against what a proper score must do."""

from __future__ import annotations

import math
from statistics import NormalDist

import pytest
import torch

from svg_eval.ensemble import fair_crps as evaluated_crps
from svg_train.families.ensemble.scores import fair_crps, patch_energy


@pytest.mark.parametrize("count", [2, 3, 5])
def test_fair_crps_is_its_definition(count):
    members, truth = torch.rand(2, count, 3, 1, 4, 4), torch.rand(2, 3, 1, 4, 4)
    for sequence, score in enumerate(fair_crps(members, truth)):
        total = 0.0
        for index in torch.cartesian_prod(*(torch.arange(size) for size in (2, 4, 4))):
            t, row, column = index.tolist()
            x, y = members[t, :, sequence, 0, row, column].tolist(), truth[t, sequence, 0, row, column].item()
            pairs = sum(abs(one - other) for one in x for other in x)
            total += sum(abs(value - y) for value in x) / count - pairs / (2 * count * (count - 1))
        assert score.item() == pytest.approx(total / 32, abs=1e-6)


def test_less_fairness_charges_for_the_member_that_is_wrong():
    """One of two members is exact: the fair score is zero whatever the other one is."""
    members, truth = torch.zeros(1, 2, 1, 1, 4, 4), torch.zeros(1, 1, 1, 4, 4)
    members[:, 1] = 0.6
    assert fair_crps(members, truth).item() == pytest.approx(0.0)
    assert fair_crps(members, truth, 0.9).item() == pytest.approx(0.1 * 0.3)
    assert patch_energy(members, truth, 4, 0.9).item() == pytest.approx(0.1 * 0.3, abs=1e-3)


def test_fair_crps_of_normal_samples_is_the_closed_form_whatever_their_number():
    """Gneiting and Raftery 2007, equation 21, for N(0, 1) and y = 0.7."""
    normal, y = NormalDist(), 0.7
    expected = y * (2 * normal.cdf(y) - 1) + 2 * normal.pdf(y) - 1 / math.sqrt(math.pi)
    generator = torch.Generator().manual_seed(0)
    for count in (2, 8):
        members = torch.randn(1, count, 1, 1, 400, 400, generator=generator)
        assert fair_crps(members, torch.full((1, 1, 1, 400, 400), y)).item() == pytest.approx(expected, abs=0.01)


def test_fair_crps_is_that_of_the_evaluation():
    members, truth = torch.rand(2, 4, 3, 3, 8, 8), torch.rand(2, 3, 3, 8, 8)
    for sequence, score in enumerate(fair_crps(members, truth)):
        x, y = members[:, :, sequence].transpose(0, 1).flatten(1).numpy(), truth[:, sequence].flatten().numpy()
        assert score.item() == pytest.approx(evaluated_crps(x, y).mean(), abs=1e-6)


def test_patch_energy_is_its_definition():
    members, truth = torch.rand(2, 3, 2, 3, 8, 8), torch.rand(2, 2, 3, 8, 8)
    corners = [(row, column) for row in (0, 4) for column in (0, 4)]
    for sequence, score in enumerate(patch_energy(members, truth, 4)):
        total = 0.0
        for t in range(2):
            for row, column in corners:
                area = (slice(None), slice(row, row + 4), slice(column, column + 4))
                x, y = [members[t, i, sequence][area] for i in range(3)], truth[t, sequence][area]
                near = [((value - y) ** 2).mean().sqrt() for value in x]
                pairs = [((x[i] - x[j]) ** 2).mean().sqrt() for i in range(3) for j in range(3) if i != j]
                total += float(sum(near)) / 3 - float(sum(pairs)) / (2 * 3 * 2)
        assert score.item() == pytest.approx(total / 8, abs=1e-4)


def test_patches_cover_a_frame_that_their_side_does_not_divide():
    members, truth = torch.zeros(1, 2, 1, 1, 40, 40), torch.zeros(1, 1, 1, 40, 40)
    right = patch_energy(members, truth, 32)
    members[..., 32:, :] = 1  # both samples are wrong below the whole patches
    assert patch_energy(members, truth, 32) - right == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize("score", [fair_crps, lambda members, truth: patch_energy(members, truth, 8)])
def test_samples_with_the_spread_of_the_truth_score_best(score):
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(1, 64, 1, 16, 16, generator=generator)
    drawn = torch.randn(1, 2, 64, 1, 16, 16, generator=generator)
    by_spread = {spread: score(spread * drawn, truth).mean().item() for spread in (0.0, 0.6, 1.0, 1.6)}
    assert min(by_spread, key=lambda spread: by_spread[spread]) == 1.0


def test_equal_samples_have_a_finite_slope():
    members = torch.zeros(1, 2, 1, 1, 8, 8, requires_grad=True)
    patch_energy(members, torch.zeros(1, 1, 1, 8, 8), 8).sum().backward()
    assert torch.isfinite(members.grad).all()
