"""What the processes of a training send, from the number of parameters; and the network that it needs, from a measured step.

    python benchmarks/gradient_traffic.py [RECIPE ...] [--processes 2 4] [--steps 5]

In a ring all-reduce each of N processes sends 2 (N - 1) / N of the gradient, in float32, and receives as much, at every step.
Batch normalization adds two small messages per layer, which cost latency rather than bandwidth.

A step is measured here, with one process and one thread, on a share of the recipe's batch, in time of the processor, so that
other programs do not count. The bandwidth is that at which the gradient takes a tenth of it, none of it hidden behind the
backward pass.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from batched_step import BatchedStep
from torch.nn.modules.batchnorm import _BatchNorm

from svg_runtime.machine.hardware import hardware
from svg_train.config import build_config
from svg_train.families import FAMILIES
from svg_train.recipe_files import load_recipe, shipped_recipes

WITHOUT_MODEL = ("adapt",)  # recipes for the model that they start from
SHARE_OF_STEP = 0.1


def step_of(recipe: str, processes: int) -> Callable[[], object]:
    """The training step of one of so many processes, on random frames."""
    config = build_config(load_recipe(recipe), {"data": {"root": None}})
    torch.manual_seed(0)
    model = FAMILIES[config.model.family].build(config.model)
    if model.channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    share, frames = config.train.batch_size // processes, config.sequence_length
    step = BatchedStep(model, lr=1e-6, beta=config.train.beta, precision="32-true")
    x = torch.rand(frames, share, config.model.channels, config.model.height, config.model.width)
    draws, size = config.model.training_noise(frames)
    eps = torch.randn(draws, share, size)
    return lambda: step(x, eps)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", help="default: all that ship")
    parser.add_argument("--processes", type=int, nargs="+", default=[2, 4], help="numbers that divide the batches")
    parser.add_argument("--steps", type=int, default=5, help="measured, after one that is not")
    options = parser.parse_args()
    torch.set_num_threads(1)
    machine = hardware()
    print(f"{machine['cpu']}, one thread, load {machine['load_average']}\n")
    print("| recipe | parameters | messages of norms | processes | sequences each | MB sent per step | step, s | Mbit/s |")
    print("|---|---|---|---|---|---|---|---|")
    for recipe in options.recipes or [name for name in shipped_recipes() if name not in WITHOUT_MODEL]:
        for count in options.processes:
            print(row(recipe, count, options.steps), flush=True)


def row(recipe: str, processes: int, steps: int) -> str:
    """A line of the table."""
    config = build_config(load_recipe(recipe))
    model = FAMILIES[config.model.family].build(config.model)
    parameters = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    norms = sum(isinstance(module, _BatchNorm) for module in model.modules())
    sent = 2 * (processes - 1) / processes * 4 * parameters
    seconds = median_s(step_of(recipe, processes), steps)
    megabits = sent * 8 / 1e6 / (SHARE_OF_STEP * seconds)
    share = config.train.batch_size // processes
    return (
        f"| `{recipe}` | {parameters / 1e6:.2f} M | {2 * norms} | {processes} | {share} | {sent / 1e6:.1f} | {seconds:.2f} "
        f"| {megabits:.0f} |"
    )


def median_s(step: Callable[[], object], steps: int) -> float:
    """Seconds of the processor for a step."""
    step()
    taken = []
    for _ in range(steps):
        before = time.process_time()
        step()
        taken.append(time.process_time() - before)
    return statistics.median(taken)


if __name__ == "__main__":
    main()
