"""Metrics computed by networks: LPIPS and FVD. Their weights are not in this package; the user supplies TorchScript files.

LPIPS: maps two batches (B, 3, H, W) in [-1, 1] to B distances, such as `torch.jit.trace(lpips.LPIPS(net="alex"), (x, y))`.
Here B is 1 to 64. A trace can hold the B of its example, and is then refused.
FVD: maps videos (B, 3, T, 224, 224) in [-1, 1] to features (B, F), as the well-known `i3d_torchscript.pt` does; if its forward
takes rescale, resize and return_features, it is called with False, False and True.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from svg_common.errors import SvgError, first_line
from svg_common.files import refuse_pipe
from svg_common.quantities import count_text

_PROBES = (1, 3)  # frames in a batch: two sizes, because a trace can hold the one of its example
_FRAMES_AT_ONCE = 64
_I3D_SIDE = 224  # pixels
_I3D_ARGUMENTS = {"rescale": False, "resize": False, "return_features": True}
_EXPECTED = "expected a network for these; without its option, the metric is left out"


class WeightsError(SvgError):
    """A file of weights is not TorchScript, or not the expected network."""


class Lpips:
    """Perceptual distance of frames (Zhang et al. 2018); lower is better.

    Args:
        file: TorchScript.
        device: where to compute.
        height: of the frames; a network may need larger ones.
        width: likewise.

    Raises:
        WeightsError: the file is not what is expected, or cannot process such frames.
    """

    def __init__(self, file: Path, device: torch.device, height: int, width: int) -> None:
        self._file = file
        self._network = _load(file, device)
        for count in _PROBES:
            probe = torch.linspace(-1, 1, count * 3 * height * width, device=device).view(count, 3, height, width)
            if not (self._compare(probe, probe).abs() < 1e-3).all():
                raise self._is_not_lpips("does not return a distance of 0 for each pair of equal frames")

    def distances(self, frames: Tensor, target: Tensor) -> Tensor:
        """frames (S, T, C, H, W) and target (T, C, H, W) in [0, 1] -> (S, T).

        Raises:
            WeightsError: the network fails, or gives what are not distances.
        """
        flat, truth = _rgb(frames.flatten(0, 1)), _rgb(target).repeat(len(frames), 1, 1, 1)
        pairs = zip(flat.split(_FRAMES_AT_ONCE), truth.split(_FRAMES_AT_ONCE), strict=True)
        return torch.cat([self._compare(*pair) for pair in pairs]).view(frames.shape[:2])

    def _compare(self, frames: Tensor, target: Tensor) -> Tensor:
        """Two batches (B, 3, H, W) in [-1, 1] -> (B,)."""
        count, _, height, width = frames.shape
        what = f"a batch of {count_text(count, 'frame')} of {height} x {width} pixels"
        distances = _try(self._file, what, lambda: self._network(frames, target))
        if not isinstance(distances, Tensor) or distances.numel() != count:
            raise self._is_not_lpips(f"does not return one distance for each pair of frames, for {what}")
        return _finite(self._file, what, distances.flatten())

    def _is_not_lpips(self, problem: str) -> WeightsError:
        return WeightsError(
            f"'{self._file}' is not LPIPS: it {problem}\n"
            "  expected a TorchScript file that maps two batches (B, 3, H, W) in [-1, 1] to B distances"
        )


class VideoFeatures:
    """Features of whole videos, from I3D.

    Args:
        file: TorchScript.
        device: where to compute.
        length: frames of the videos.

    Raises:
        WeightsError: the file is not what is expected.
    """

    def __init__(self, file: Path, device: torch.device, length: int) -> None:
        self._file = file
        self._network = _load(file, device)
        names = {argument.name for argument in self._network.forward.schema.arguments}
        self._arguments = _I3D_ARGUMENTS if _I3D_ARGUMENTS.keys() <= names else {}
        self.features(torch.zeros(length, 1, _I3D_SIDE, _I3D_SIDE, device=device))

    def features(self, video: Tensor) -> Tensor:
        """(T, C, H, W) in [0, 1] -> (F,).

        Raises:
            WeightsError: the network fails, or gives what are not features.
        """
        size, what = (_I3D_SIDE, _I3D_SIDE), f"videos of {len(video)} frames"
        large = functional.interpolate(_rgb(video), size, mode="bilinear", align_corners=False)
        result = _try(self._file, what, lambda: self._network(large.transpose(0, 1)[None], **self._arguments))
        features = result[0] if isinstance(result, Tensor) and result.ndim == 2 and len(result) == 1 else result
        if not isinstance(features, Tensor) or features.ndim != 1 or len(features) < 2:
            raise WeightsError(
                f"'{self._file}' is not I3D: it does not return one feature vector per video\n"
                "  expected a TorchScript file that maps videos (B, 3, T, 224, 224) in [-1, 1] to (B, F)"
            )
        return _finite(self._file, what, features)


class FrechetVideoDistance:
    """FVD (Unterthiner et al. 2018) of forecasts against the truth, the observed frames included, as SRVP computes it."""

    def __init__(self, network: VideoFeatures) -> None:
        self._network = network
        self._real: list[Tensor] = []
        self._generated: list[Tensor] = []

    def add(self, sequence: Tensor, future: Tensor) -> None:
        """Add a true sequence (n_past + horizon, C, H, W) and one sample of its future (horizon, C, H, W).

        Raises:
            WeightsError: see `VideoFeatures.features`.
        """
        past = sequence[: len(sequence) - len(future)]
        self._real.append(self._network.features(sequence).double().cpu())
        self._generated.append(self._network.features(torch.cat([past, future])).double().cpu())

    def value(self) -> float:
        """The distance; NaN for fewer than two sequences, which have no covariance."""
        if len(self._real) < 2:
            return float("nan")
        return frechet_distance(torch.stack(self._real).numpy(), torch.stack(self._generated).numpy())


@dataclass(frozen=True)
class LearnedMetrics:
    """The learned metrics whose weights were given."""

    lpips: Lpips | None = None
    video_features: VideoFeatures | None = None

    def per_frame(self, frames: Tensor, target: Tensor) -> dict[str, Tensor]:
        """{"lpips": (S, T)}, or empty without weights."""
        return {} if self.lpips is None else {"lpips": self.lpips.distances(frames, target)}

    def new_fvd(self) -> FrechetVideoDistance | None:
        """An FVD for one model's forecasts; None without weights."""
        return None if self.video_features is None else FrechetVideoDistance(self.video_features)


def frechet_distance(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Squared Frechet distance of two Gaussians fitted to features (n, F): |m_a - m_b|^2 + tr(A + B - 2 (A B)^(1/2))."""
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    # tr (A B)^(1/2) from symmetric matrices only: A^(1/2) B A^(1/2) has the same eigenvalues as A B.
    values, vectors = np.linalg.eigh(cov_a)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    product = np.linalg.eigvalsh(root @ cov_b @ root).clip(0)
    gap = a.mean(0) - b.mean(0)
    return float(gap @ gap + np.trace(cov_a) + np.trace(cov_b) - 2 * np.sqrt(product).sum())


def _load(file: Path, device: torch.device) -> Any:
    refuse_pipe(file)
    if not file.is_file():
        raise WeightsError(f"weights file '{file}' does not exist\n  expected a TorchScript file")
    try:
        return torch.jit.load(str(file), map_location=device).eval()
    except (RuntimeError, ValueError, OSError) as error:
        raise WeightsError(
            f"'{file}' is not a TorchScript file ({first_line(error)})\n"
            "  expected what torch.jit.save writes; a state_dict alone does not define the network"
        ) from error


def _try(file: Path, what: str, run: Callable[[], Any]) -> Any:
    try:
        with torch.no_grad():
            return run()
    except (RuntimeError, TypeError, IndexError, torch.jit.Error) as error:  # the last one: raised by the network's own code
        reason = str(error).strip().splitlines()[-1]
        raise WeightsError(f"the network in '{file}' cannot process {what}: {reason}\n  {_EXPECTED}") from error


def _finite(file: Path, what: str, values: Tensor) -> Tensor:
    if not values.isfinite().all():
        raise WeightsError(f"the network in '{file}' gives values that are not finite for {what}\n  {_EXPECTED}")
    return values


def _rgb(frames: Tensor) -> Tensor:
    """(N, C, H, W) in [0, 1] -> (N, 3, H, W) in [-1, 1]."""
    return frames.expand(-1, 3, -1, -1) * 2 - 1
