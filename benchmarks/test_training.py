"""A training step against the same step written as the reference does it: frame by frame, in float32."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from goal_metrics import GoalMetric, interleave, median_ratio, round_seconds

from svg_common.command import require_modules
from svg_common.errors import MissingExtraError

BATCH, STEPS, ROUNDS = 16, 15, 5
RECIPE_BATCH = 12
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


@pytest.mark.usefixtures("_train_extra")
@pytest.mark.parametrize("recipe", ["camera", "spatial-digits", "video"])
def test_recipe(benchmark: Any, record_metric: Any, pytestconfig: pytest.Config, recipe: str) -> None:
    """In the layout and the precision that `svg-train` picks, against PyTorch's layout, and bf16 wherever there is any."""
    import torch
    from batched_step import BatchedStep

    from svg_train.config import build_config
    from svg_train.families import FAMILIES
    from svg_train.machine import has_bf16
    from svg_train.recipe_files import load_recipe

    config = build_config(load_recipe(recipe)).model
    torch.manual_seed(0)
    model = FAMILIES[config.family].build(config)
    default = BatchedStep(copy.deepcopy(model), LR, BETA, "bf16-mixed" if has_bf16() else "32-true")
    if model.channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    ours = BatchedStep(model, LR, BETA)
    x = torch.rand(STEPS, RECIPE_BATCH, config.channels, config.height, config.width, device=ours.device)
    draws, size = config.training_noise(STEPS)
    eps = torch.randn(draws, RECIPE_BATCH, size, device=ours.device)

    benchmark.group = f"training step, {recipe}"
    layout = "channels last" if model.channels_last else "default layout"
    benchmark.extra_info.update(
        recipe=recipe, batch=RECIPE_BATCH, layout=layout, precision=ours.precision, device=str(ours.device)
    )
    rounds = pytestconfig.getoption("rounds") or ROUNDS
    default_s = interleave(benchmark, lambda: ours(x, eps), lambda: default(x, eps), rounds)
    if benchmark.enabled:
        name = f"training step, {recipe}: default layout in {default.precision} / {layout} in {ours.precision}"
        ratio = median_ratio(default_s, round_seconds(benchmark))
        record_metric(GoalMetric(name, ratio, "x", goal=1.5 if recipe == "camera" else None, at_least=True))
