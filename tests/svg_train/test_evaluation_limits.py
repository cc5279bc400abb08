"""What an evaluation may take: memory, and pictures that can be opened again."""

from __future__ import annotations

import warnings

import pytest
import torch
from PIL import Image

from svg_common.errors import UsageError
from svg_train import evaluation_size, pictures
from svg_train.config import build_config
from svg_train.evaluation import Futures, evaluate
from svg_train.families import FAMILIES
from svg_train.machine import Machine
from svg_train.recipe_files import load_recipe, shipped_recipes
from svg_train.train import Trainer
from tests.conftest import TINY
from tests.families import TINY_MODELS

SIZES = {"model": {**TINY, "skip_lag": 0}, "train": {"steps": 1, "batch_size": 1, "eval_samples": 1, "eval_sequences": 1}}


@pytest.mark.parametrize("setting", ["eval_horizon", "eval_samples", "eval_sequences"])
def test_an_evaluation_that_cannot_fit_in_memory_is_refused_before_the_first_step(tmp_path, monkeypatch, setting):
    monkeypatch.setattr(evaluation_size, "_memory_bytes", lambda device: 10**9)
    config = build_config(SIZES, {"train": {setting: 65536 if setting != "eval_samples" else 16384}})
    with pytest.raises(UsageError, match=r"would take .* GB of memory, but this machine has 1.00 GB: .*\n  expected a smaller"):
        Trainer(config, tmp_path / "run", Machine("cpu", precision="32-true"), resume=False).run()
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.parametrize("name", TINY_MODELS)
def test_an_evaluation_can_be_given_up_within_any_step_of_any_family(name):
    def look():
        seen.append(1)
        if len(seen) == last:
            raise InterruptedError

    config = build_config({"model": TINY_MODELS[name]}).model
    model = FAMILIES[config.family].build(config).train()
    sequences = torch.zeros(config.n_past + 4, 2, config.channels, config.height, config.width, dtype=torch.uint8)
    numbers = []
    for horizon in (2, 4):
        seen, last = [], None
        evaluate(model, sequences, 2, horizon, look=look)
        numbers.append(len(seen))
    assert numbers[1] > numbers[0] + 1  # looks of each step
    seen, last = [], numbers[1] - 1
    with pytest.raises(InterruptedError):
        evaluate(model, sequences, 2, 4, look=look)
    assert model.training
    evaluate(model, sequences, 2, 2)
    assert len(seen) == last


@pytest.mark.parametrize("recipe", shipped_recipes())
def test_what_a_recipe_asks_for_fits_into_4_gb(monkeypatch, recipe):
    monkeypatch.setattr(evaluation_size, "_memory_bytes", lambda device: 4 << 30)
    config = build_config(load_recipe(recipe))
    evaluation_size.refuse_too_large(config, config.train.eval_sequences, torch.device("cpu"))


@pytest.mark.parametrize(("side", "n_past", "horizon"), [(8, 3, 5000), (128, 300, 250), (1024, 5, 10), (1024, 64, 30)])
def test_strips_of_any_evaluation_can_be_opened(tmp_path, monkeypatch, side, n_past, horizon):
    monkeypatch.setattr(pictures, "_MOST_PIXELS", pictures._MOST_PIXELS // 40)  # in less time
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS // 40)
    side //= 4 if side == 1024 else 1
    moments = torch.arange(n_past + horizon) % 256 / 255  # equal ones would become one in the GIF
    truth = moments.reshape(-1, 1, 1, 1).expand(-1, 1, side, side)
    example = Futures(truth, truth[n_past:].expand(2, -1, -1, -1, -1), torch.zeros(2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        picture = pictures.save_strips(tmp_path, "strip", [example] * 4, n_past)
        Image.open(picture).load()
    width = Image.open(picture).width
    frames = Image.open(picture.with_suffix(".gif")).n_frames
    assert 1 < frames <= n_past + pictures._MOST_FORECASTS
    assert width == pictures._LABEL_WIDTH + frames * (side + pictures._GAP)
