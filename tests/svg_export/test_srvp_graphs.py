"""SRVP's recurrent graphs compute what the network does on OpenVINO, whatever the sizes of the layers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from svg_export.families.srvp import fold, graphs
from svg_export.to_onnx import export_graph
from tests.svg_train.srvp.srvp_models import random_srvp

SIZES = {
    "as in the recipe": {"ny": 20, "nz": 20, "residual_size": 256, "residual_layers": 3},
    "two layers, two Euler steps": {"ny": 8, "nz": 8, "residual_size": 64, "residual_layers": 2, "n_euler_steps": 2},
    "one layer, ny < nz": {"ny": 2, "nz": 5, "residual_size": 0, "residual_layers": 1},
}


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_residual_steps_run_on_openvino(sizes):
    """Its CPU plugin crashes on a residual sum whose branch is a chain of small layers, bias and all."""
    openvino = pytest.importorskip("openvino", reason="openvino is not installed: pip install 'svg-edge[openvino]'")
    model, batch = random_srvp(**sizes), 8
    c, exports = model.config, graphs(fold(model), torch.float32, True)
    rng = torch.Generator().manual_seed(1)
    h_seq, past = torch.rand(c.n_past, 1, c.nhx, generator=rng), torch.randn(c.n_past, batch, c.noise_dim, generator=rng)
    y, eps = torch.randn(batch, c.ny, generator=rng), torch.randn(batch, c.noise_dim, generator=rng)
    with torch.no_grad():
        primed, (following, prior) = model.prime(h_seq, past), model.step(y, eps)
    for graph_name, given, expected in (
        ("prime", {"h_seq": h_seq, "eps": past}, {"y": primed.y, "w": primed.w, "prior_mu": primed.prior.mu}),
        ("step", {"y": y, "eps": eps}, {"y_out": following, "latent": following, "mu": prior.mu}),
    ):
        network = openvino.Core().read_model(export_graph(exports[graph_name], graph_name, "0" * 16))
        network.reshape({name: list(value.shape) for name, value in given.items()})
        compiled = openvino.compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        results = compiled({name: value.numpy() for name, value in given.items()})
        for name, value in expected.items():
            scale = max(1.0, float(value.abs().max()))
            np.testing.assert_allclose(results[name] / scale, value / scale, atol=1e-5, err_msg=name)
