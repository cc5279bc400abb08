"""Parameters of the models of recipes, and multiply-adds per sample and step: python benchmarks/model_size.py RECIPE ...

A step is what a longer forecast adds: a frame, from its latent to its encoding. Skip conditions that a forecast computes once
are not in it. torch.utils.flop_counter counts convolutions and matrix products.
"""

from __future__ import annotations

import sys

import torch
from torch.utils.flop_counter import FlopCounterMode

from svg_train.config import build_config
from svg_train.families import FAMILIES
from svg_train.families.video_model import VideoModel
from svg_train.recipe_files import load_recipe


def macs_per_step(model: VideoModel) -> int:
    """Multiply-adds by which a forecast of two steps exceeds one of a single step."""
    c = model.config
    x, context_noise = torch.zeros(c.n_past, 1, c.channels, c.height, c.width), torch.zeros(c.context_draws, 1, c.noise_dim)
    flops = []
    for horizon in (1, 2):
        with FlopCounterMode(display=False) as counter:
            model.generate(x, torch.zeros(horizon, 1, c.noise_dim), context_noise)
        flops.append(counter.get_total_flops())
    return (flops[1] - flops[0]) // 2


def main() -> None:
    for name in sys.argv[1:]:
        config = build_config(load_recipe(name)).model
        model = FAMILIES[config.family].build(config).eval()
        parameters = sum(parameter.numel() for parameter in model.parameters())
        print(f"{name}: {parameters / 1e6:.2f} M parameters, {macs_per_step(model) / 1e9:.3f} GMAC per sample and step")


if __name__ == "__main__":
    main()
