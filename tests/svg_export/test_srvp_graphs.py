"""SRVP's forecasts on OpenVINO are PyTorch's, whatever the sizes of the layers of its residual steps."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from svg_runtime import Forecaster
from svg_train.checkpoint import load_checkpoint
from tests.families import export_tiny

SIZES = {
    "as in the recipe": {"ny": 20, "nz": 20, "residual_size": 256, "residual_layers": 3},
    "two layers, two Euler steps": {"ny": 8, "nz": 8, "residual_size": 64, "residual_layers": 2, "n_euler_steps": 2},
    "four layers, two Euler steps": {"ny": 20, "nz": 50, "residual_size": 256, "residual_layers": 4, "n_euler_steps": 2},
    "one layer, ny < nz": {"ny": 2, "nz": 5, "residual_size": 0, "residual_layers": 1},
}
QUICK = ("as in the recipe",)


@pytest.mark.parametrize(
    "sizes",
    [pytest.param(sizes, id=name, marks=() if name in QUICK else pytest.mark.slow) for name, sizes in SIZES.items()],
)
def test_residual_steps_run_on_openvino(sizes, tmp_path, monkeypatch):
    """While it fuses small layers in a row, its CPU plugin crashes at some sizes and batches."""
    pytest.importorskip("openvino", reason="openvino is not installed: pip install 'svg-edge[openvino]'")
    monkeypatch.setenv("SVG_EDGE_CACHE", str(tmp_path / "cache"))  # what was compiled before would not be compiled
    samples, horizon, rng = 8, 2, np.random.default_rng(1)
    bundle = export_tiny("srvp", tmp_path / "srvp.svgb", **sizes)
    model = load_checkpoint(bundle.with_suffix(".pt")).build().eval()
    c = model.config
    x = rng.random((c.n_past, 64, 64, 1), np.float32)
    noise, context_noise = (rng.standard_normal((n, samples, c.noise_dim), np.float32) for n in (horizon, c.context_draws))
    with Forecaster.open(bundle, backend="openvino", device="cpu", precision="fp32", samples=samples) as forecaster:
        for frame in x:
            forecaster.observe(frame)
        futures = forecaster.forecast(horizon=horizon, noise=noise, context_noise=context_noise)
    repeated = torch.from_numpy(x).permute(0, 3, 1, 2)[:, None].expand(-1, samples, -1, -1, -1)
    with torch.no_grad():
        expected = model.generate(repeated, torch.from_numpy(noise), torch.from_numpy(context_noise))
    np.testing.assert_allclose(futures, expected.permute(1, 0, 3, 4, 2).numpy(), atol=1e-5)
