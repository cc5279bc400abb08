"""LPIPS and FVD with small TorchScript networks in place of the real ones, whose weights are the user's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from svg_eval import evaluation_run
from svg_eval.cli import app
from svg_eval.learned import FrechetVideoDistance, Lpips, VideoFeatures, WeightsError, frechet_distance
from tests.families import save_tiny

CPU = torch.device("cpu")


class Distance(nn.Module):
    """Mean absolute difference, in the shape that LPIPS gives."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return (x - y).abs().mean(dim=[1, 2, 3], keepdim=True)


class Constant(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.ones(x.shape[0])


class Features(nn.Module):
    """Mean and mean square of the red channel, and the mean of the last frame."""

    def forward(self, x: Tensor) -> Tensor:
        red = x[:, 0]
        return torch.stack([red.mean(dim=[1, 2, 3]), red.square().mean(dim=[1, 2, 3]), x[:, :, -1].mean(dim=[1, 2, 3])], 1)


class Mean(nn.Module):
    """One number for all videos together."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean()


class FeaturesLikeI3D(nn.Module):
    """Returns features only with the arguments that i3d_torchscript.pt expects."""

    def forward(self, x: Tensor, rescale: bool = True, resize: bool = True, return_features: bool = False) -> Tensor:
        if rescale or resize or not return_features:
            return x
        return torch.stack([x.mean(dim=[1, 2, 3, 4]), x.square().mean(dim=[1, 2, 3, 4])], 1)


def script(folder: Path, network: nn.Module) -> Path:
    file = folder / f"{type(network).__name__}.pt"
    torch.jit.script(network).save(str(file))
    return file


def test_lpips_sees_rgb_between_minus_one_and_one(tmp_path):
    lpips = Lpips(script(tmp_path, Distance()), CPU, 16, 16)
    torch.manual_seed(0)
    frames, target = torch.rand(40, 5, 1, 16, 16), torch.rand(5, 1, 16, 16)
    expected = 2 * (frames - target).abs().mean((2, 3, 4))
    torch.testing.assert_close(lpips.distances(frames, target), expected)


@pytest.mark.parametrize("asked", [Features, FeaturesLikeI3D])
def test_video_features_are_those_of_the_network(tmp_path, asked):
    network = VideoFeatures(script(tmp_path, asked()), CPU, 6)
    video = torch.full((6, 1, 64, 64), 0.75)
    features = network.features(video)
    assert features[:2].tolist() == pytest.approx([0.5, 0.25])


def test_fvd_grows_with_the_distance_of_the_futures(tmp_path):
    network = VideoFeatures(script(tmp_path, Features()), CPU, 6)
    torch.manual_seed(0)
    values = {}
    for shift in (0.0, 0.1, 0.3):
        fvd = FrechetVideoDistance(network)
        for _ in range(4):
            sequence = torch.rand(6, 3, 32, 32) * 0.6
            fvd.add(sequence, sequence[2:] + shift)
        values[shift] = fvd.value()
    assert values[0.0] == pytest.approx(0, abs=1e-6)
    assert 0.001 < values[0.1] < values[0.3]
    lonely = FrechetVideoDistance(network)
    lonely.add(sequence, sequence[2:])
    assert np.isnan(lonely.value())


def test_frechet_distance_of_known_gaussians():
    rng = np.random.default_rng(0)
    a = rng.standard_normal((4000, 3))
    scaled = a * [1, 2, 3] + [5, 0, 0]
    # Covariances that commute: the squared gap of the means, and of the standard deviations of each feature.
    deviations = np.sqrt(np.diag(np.cov(a, rowvar=False)))
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    expected = 25 + sum((deviations * [0, 1, 2]) ** 2)
    moved = a + np.array([5, 0, 0])
    assert frechet_distance(a, moved) == pytest.approx(25)
    assert frechet_distance(a, scaled) == pytest.approx(expected, rel=0.01)
    turned = a @ np.linalg.qr(rng.standard_normal((3, 3)))[0]
    assert frechet_distance(scaled, turned) == pytest.approx(frechet_distance(turned, scaled))


def test_wrong_files_are_refused(tmp_path):
    (tmp_path / "text.pt").write_text("weights")
    torch.save({"weight": torch.zeros(3)}, tmp_path / "state.pt")
    truncated = tmp_path / "cut.pt"
    truncated.write_bytes(script(tmp_path, Distance()).read_bytes()[:500])
    for file in (tmp_path / "none.pt", tmp_path / "text.pt", tmp_path / "state.pt", truncated):
        for open_file in (lambda file: Lpips(file, CPU, 16, 16), lambda file: VideoFeatures(file, CPU, 6)):
            with pytest.raises(WeightsError, match="TorchScript"):
                open_file(file)


def test_wrong_networks_are_refused(tmp_path):
    with pytest.raises(WeightsError, match="distance of 0"):
        Lpips(script(tmp_path, Constant()), CPU, 16, 16)
    with pytest.raises(WeightsError, match="cannot process a batch of 1 frame of 16 x 24 pixels: "):
        Lpips(script(tmp_path, Features()), CPU, 16, 24)
    with pytest.raises(WeightsError, match="cannot process videos of 6 frames: "):
        VideoFeatures(script(tmp_path, Distance()), CPU, 6)
    for network in (nn.Identity(), Mean()):
        with pytest.raises(WeightsError, match="is not I3D"):
            VideoFeatures(script(tmp_path, network), CPU, 6)


class DistanceOfWindows(nn.Module):
    """Needs frames of 48 pixels, as a real network may."""

    def __init__(self) -> None:
        super().__init__()
        self.windows = nn.Conv2d(3, 2, 48, bias=False)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return (self.windows(x) - self.windows(y)).square().mean(dim=[1, 2, 3])


def test_frames_that_are_too_small_for_the_network_are_refused_before_any_forecast(tmp_path, monkeypatch):
    weights, model = script(tmp_path, DistanceOfWindows()), save_tiny("convlstm", tmp_path / "small.pt", image_size=40)
    monkeypatch.setattr(evaluation_run, "measure", lambda **given: pytest.fail("measured"))
    with pytest.raises(WeightsError, match=r"cannot process a batch of 1 frame of 40 x 40 pixels: (?s:.*)\n  expected"):
        app([str(model), "--sequences", "1", "--lpips-weights", str(weights)], standalone_mode=False)
    assert Lpips(weights, CPU, 48, 64)


def trace_for_two(x: Tensor, y: Tensor) -> Tensor:
    return (x - y).square().reshape(2, 3, 16, 16).mean((1, 2, 3))


def two_distances(x: Tensor, y: Tensor) -> Tensor:
    return (x - y).square().mean().expand(2)


@pytest.mark.parametrize(
    ("network", "problem"),
    [
        (trace_for_two, "cannot process a batch of 1 frame of 16 x 16 pixels: "),
        (two_distances, "does not return one distance for each pair of frames, for a batch of 1 frame of 16 x 16 pixels"),
    ],
)
def test_a_trace_for_one_size_of_batches_is_refused_before_any_forecast(tmp_path, network, problem):
    frames = torch.rand(2, 3, 16, 16)
    torch.jit.trace(network, (frames, frames), check_trace=False).save(str(tmp_path / "two.pt"))
    with pytest.raises(WeightsError, match=problem):
        Lpips(tmp_path / "two.pt", CPU, 16, 16)


class DistanceOfFew(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        if x.shape[0] > 3:
            raise ValueError("too many")
        return (x - y).abs().mean(dim=[1, 2, 3])


class LogOfDistance(nn.Module):
    """No number for frames that differ much."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.log(1 - (x - y).abs().mean(dim=[1, 2, 3]))


@pytest.mark.parametrize(
    ("network", "problem"),
    [(DistanceOfFew, "cannot process a batch of 4 frames of"), (LogOfDistance, "gives values that are not finite for a batch")],
)
def test_distances_that_fail_after_the_probe_name_the_file(tmp_path, network, problem):
    lpips = Lpips(script(tmp_path, network()), CPU, 16, 16)
    assert (lpips.distances(torch.zeros(1, 2, 3, 16, 16), torch.zeros(2, 3, 16, 16)) == 0).all()
    with pytest.raises(WeightsError, match=rf"{network.__name__}.pt' {problem}(?s:.*)the metric is left out"):
        lpips.distances(torch.zeros(2, 2, 3, 16, 16), torch.ones(2, 3, 16, 16))


class Logarithms(nn.Module):
    """No numbers for videos that are darker than grey."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.log(x.mean(dim=[2, 3, 4]))


class SquareRoots(nn.Module):
    """No numbers for videos that are brighter than grey."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.sqrt(-x.mean(dim=[2, 3, 4]))


def test_features_that_are_not_finite_are_refused_at_the_first_video(tmp_path):
    with pytest.raises(WeightsError, match=r"Logarithms.pt' gives values that are not finite for videos of 6 frames\n"):
        VideoFeatures(script(tmp_path, Logarithms()), CPU, 6)
    fvd = FrechetVideoDistance(VideoFeatures(script(tmp_path, SquareRoots()), CPU, 6))
    fvd.add(torch.zeros(6, 3, 8, 8), torch.zeros(4, 3, 8, 8))
    with pytest.raises(WeightsError, match=r"SquareRoots.pt' gives values that are not finite"):
        fvd.add(torch.zeros(6, 3, 8, 8), torch.ones(4, 3, 8, 8))
