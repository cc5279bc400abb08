"""Whatever OpenSTL can build is imported and forecasts the same: against its equations, restated without any of our code."""

from __future__ import annotations

import json

import pytest
import torch

from svg_train.reference.checkpoint import load_any_checkpoint
from tests.svg_train.frames.openstl_equations import forecast, random_weights
from tests.svg_train.frames.predictions import one_step

TOLERANCE = 1e-4
RGB = (3, 3, 8, 12)
BASE = {"method": "predrnn", "hidden": (6, 6), "k": 3, "norm": False, "patch": 4, "shape": (3, 1, 16, 24), "stride": 1}
CASES = {
    "convlstm, three channels, patches of 2, layer norm": {"method": "convlstm", "shape": RGB, "patch": 2, "norm": True},
    "convlstm, unequal layers": {"method": "convlstm", "hidden": (8, 4, 6)},
    "convlstm, one layer, patches of 1": {"method": "convlstm", "hidden": (5,), "patch": 1, "shape": (3, 3, 8, 9)},
    "convlstm before 1.0, layer norm": {"method": "convlstm", "old": True, "norm": True},
    "convlstm before 1.0, four unequal layers": {"method": "convlstm", "old": True, "hidden": (4, 6, 8, 4), "k": 5},
    "predrnn, four layers, patches of 2": {"hidden": (6,) * 4, "patch": 2, "shape": RGB},
    "predrnn, one layer, patches of 8, layer norm": {"hidden": (6,), "patch": 8, "shape": (3, 1, 32, 16), "norm": True},
    "predrnn.v2, filter 5, layer norm": {"method": "predrnnv2", "k": 5, "norm": True},
    "predrnn++, four layers": {"method": "predrnnpp", "hidden": (6,) * 4},
    "predrnn++ before 1.0, two layers, three channels": {"method": "predrnnpp", "old": True, "shape": (3, 3, 16, 24)},
    "mim, two layers": {"method": "mim"},
    "mim, four layers, layer norm": {"method": "mim", "hidden": (6,) * 4, "norm": True, "shape": (4, 1, 16, 24)},
    "mim, one layer": {"method": "mim", "hidden": (6,)},
    "e3d-lstm, layer norm": {"method": "e3dlstm", "norm": True, "k": 5},
    "e3d-lstm, stride 2, layer norm": {"method": "e3dlstm", "norm": True, "stride": 2, "k": 5, "shape": (3, 3, 16, 24)},
    "e3d-lstm, stride 2 on an odd size": {"method": "e3dlstm", "stride": 2, "k": 5, "shape": (3, 1, 20, 12)},
    "e3d-lstm, stride 3, three layers": {"method": "e3dlstm", "stride": 3, "k": 5, "hidden": (4,) * 3, "patch": 2},
}  # fmt: skip


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_imported_weights_forecast_as_their_equations_say(case, tmp_path):
    case = {**BASE, "old": False, **case}
    observed, channels, height, width = case["shape"]
    plane, horizon = (height // case["patch"], width // case["patch"]), 4
    weights = random_weights(
        method=case["method"],
        channels=channels * case["patch"] ** 2,
        plane=plane,
        hidden=case["hidden"],
        k=case["k"],
        norm=case["norm"],
    )
    torch.save(weights, tmp_path / "weights.pth")
    settings = {
        "method": case["method"], "in_shape": case["shape"], "pre_seq_length": observed, "aft_seq_length": horizon,
        "num_hidden": ",".join(map(str, case["hidden"])), "filter_size": case["k"], "stride": case["stride"],
        "patch_size": case["patch"], "layer_norm": int(case["norm"]),
        "dialect": "openstl-0.3" if case["old"] else "openstl-1.0",
    }  # fmt: skip
    (tmp_path / "model_param.json").write_text(json.dumps(settings))
    checkpoint = load_any_checkpoint(tmp_path / "weights.pth", tmp_path / "model_param.json")
    assert (checkpoint.config.model.height, checkpoint.config.model.width) == (height, width)

    frames = torch.rand(observed, 2, channels, height, width, generator=torch.Generator().manual_seed(0))
    expected = forecast(
        method=case["method"],
        weights=weights,
        frames=frames,
        horizon=horizon,
        patch=case["patch"],
        old=case["old"],
        stride=case["stride"],
    )
    assert (expected[1:] - expected[:-1]).abs().mean() > 0.03, "forecasts that stand still prove nothing"
    model = checkpoint.build()
    torch.testing.assert_close(one_step(model, frames), expected[: observed - 1], atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(model.roll_out(frames, horizon), expected[observed - 1 :], atol=TOLERANCE, rtol=0)
