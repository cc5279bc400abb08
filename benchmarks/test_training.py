"""A training step against the same step written as the reference does it: frame by frame, in float32."""

from __future__ import annotations

from typing import Any

import pytest
from goal_metrics import GoalMetric, interleave, median_ratio, round_seconds

from svg_common.command import require_modules
from svg_common.errors import MissingExtraError

BATCH, STEPS, ROUNDS = 16, 15, 5
LR, BETA = 1e-4, 1e-4  # random frames teach nothing: a small rate avoids extreme weights, whose arithmetic may be slower


@pytest.fixture
def _train_extra() -> None:
    try:
        require_modules("the training benchmark", "train", "torch", "lightning_fabric")
    except MissingExtraError as error:
        pytest.skip(str(error))


@pytest.mark.usefixtures("_train_extra")
def test_training_step(benchmark: Any, record_metric: Any, pytestconfig: pytest.Config) -> None:
    import torch
    from batched_step import BatchedStep
    from reference_step import ReferenceStep, ReferenceSVG

    from svg_train.families.svg import SvgConfig
    from svg_train.families.svg.model import SVG

    torch.manual_seed(0)
    model = SVG(SvgConfig(nf=64, skip_lag=1))
    reference = ReferenceSVG(model)
    ours = BatchedStep(model, LR, BETA)
    theirs = ReferenceStep(reference.to(ours.device), LR, BETA)
    x = torch.rand(STEPS, BATCH, 1, 64, 64, device=ours.device)
    eps = torch.randn(STEPS - 1, BATCH, model.config.z_dim, device=ours.device)

    benchmark.group = "training step"
    benchmark.extra_info.update(nf=64, batch=BATCH, frames=STEPS, precision=ours.precision, device=str(ours.device))
    rounds = pytestconfig.getoption("rounds") or ROUNDS
    reference_s = interleave(benchmark, lambda: ours(x, eps), lambda: theirs(x, eps), rounds)
    if benchmark.enabled:
        name = f"training step, nf 64, batch {BATCH}: frame by frame in fp32 / batched in {ours.precision}"
        ratio = median_ratio(reference_s, round_seconds(benchmark))
        goal = 2.5 if ours.precision == "bf16-mixed" else None
        record_metric(GoalMetric(name, ratio, "x", goal=goal, at_least=True))
        benchmark.extra_info["reference_seconds"] = reference_s
