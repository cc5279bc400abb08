"""PSNR and SSIM of frames in [0, 1], per frame. The data range is 1, never taken from the pictures.

SSIM is that of Wang et al. 2004 as scikit-image computes it (Gaussian window of 11 pixels, sigma 1.5, no border), which the
evaluation of SRVP (Franceschi et al. 2020) uses too. It is written here because torchmetrics' counts the mirrored border as
well, which changes the value, and filters ten times slower than the two matrix products below.
"""

from __future__ import annotations

import torch
from torch import Tensor

from svg_common.metrics import MIN_MSE

_RADIUS, _SIGMA = 5, 1.5  # of the window, pixels
_C1, _C2 = 0.01**2, 0.03**2  # (k1 L)^2 and (k2 L)^2 for a data range L of 1
_VALUES_AT_ONCE = 1 << 20  # of the frames that are filtered together; more would not fit the processor's cache


def frame_mse(frames: Tensor, target: Tensor) -> Tensor:
    """Mean squared error per frame and channel.

    Args:
        frames: (..., T, C, H, W).
        target: (T, C, H, W).

    Returns:
        (..., T, C).
    """
    # One slice at a time: the differences of a hundred samples would double the memory.
    flat = frames.reshape(-1, *target.shape)
    errors = torch.stack([(part - target).square_().mean(dim=(-2, -1)) for part in flat])
    return errors.view(*frames.shape[:-2])


def psnr_of_frames(mse: Tensor) -> Tensor:
    """Errors per frame and channel (..., C) -> dB per frame (...), at most 120: `svg_common.metrics.psnr` for tensors.

    The mean over channels, as SVG and SRVP report it.
    """
    return -10 * mse.clamp(min=MIN_MSE).log10().mean(-1)


def frame_ssim(frames: Tensor, target: Tensor) -> Tensor:
    """Structural similarity per frame, the mean over channels.

    Args:
        frames: (..., T, C, H, W) in [0, 1].
        target: (T, C, H, W), which every slice of `frames` is compared with.

    Returns:
        (..., T), at most 1.
    """
    rows, columns = (_window_matrix(size, target) for size in target.shape[-2:])
    mu_y = rows @ target @ columns.T
    var_y = rows @ target.square() @ columns.T - mu_y.square()
    values = []
    for x in frames.reshape(-1, *target.shape).split(max(1, _VALUES_AT_ONCE // target.numel())):
        mu_x = rows @ x @ columns.T
        var_x = rows @ x.square() @ columns.T - mu_x.square()
        mean_product = mu_x * mu_y
        covariance = rows @ (x * target) @ columns.T - mean_product
        above = (2 * mean_product + _C1) * (2 * covariance + _C2)
        below = (mu_x.square() + mu_y.square() + _C1) * (var_x + var_y + _C2)
        values.append((above / below).mean(dim=(-3, -2, -1)))
    return torch.cat(values).view(frames.shape[:-3])


def _window_matrix(size: int, like: Tensor) -> Tensor:
    """(size - 10, size): row i holds the Gaussian window at pixels i ... i + 10, so that a product filters without border.

    In a direction of fewer than 11 pixels the window is cut to the largest odd number of them.
    """
    radius = min(_RADIUS, (size - 1) // 2)
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float64)
    window = torch.exp(-0.5 * (offsets / _SIGMA) ** 2)
    matrix = torch.zeros(size - 2 * radius, size, dtype=torch.float64)
    for row in range(len(matrix)):
        matrix[row, row : row + len(window)] = window / window.sum()
    return matrix.to(like)
