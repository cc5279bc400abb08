"""The families side by side: `python benchmarks/families.py NAME=CHECKPOINT|RECIPE[:SETTING=VALUE...] ...`

A row for each: parameters, multiply-adds per sample and step, and the time of a forecast of 8 samples x 10 steps, exported and
run on this machine, over that of the first row; rounds of all rows are interleaved. A recipe gets random weights, a checkpoint
also its held-out quality, as its last evaluation has it.

    python benchmarks/families.py SVG-LP=comparison SRVP=srvp-digits ConvLSTM=frames-digits:cell=convlstm
    python benchmarks/families.py --same-backbone dcgan --same-backbone vgg    # SVG-LP and SRVP, nf 64
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from goal_metrics import aligned
from model_size import macs_per_step

from svg_export.bundle_writer import write_bundle
from svg_runtime.calibration.race import Task
from svg_runtime.forecast.forecaster import Forecaster
from svg_runtime.machine.hardware import hardware
from svg_train.checkpoint import Checkpoint
from svg_train.config import build_config
from svg_train.families import FAMILIES
from svg_train.recipe_files import load_recipe
from svg_train.reference.checkpoint import load_any_checkpoint

SAMPLES, HORIZON, GOAL = 8, 10, 1.6
_PUBLISHED: dict[str, dict[str, Any]] = {  # sizes of both papers, without skips and with them
    "SVG-LP": {"nf": 64},
    "SRVP": {"family": "srvp", "nf": 64},
}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="NAME=CHECKPOINT|RECIPE[:SETTING=VALUE...]")
    parser.add_argument("--same-backbone", action="append", choices=("dcgan", "vgg"), help="SVG-LP and SRVP at nf 64")
    parser.add_argument("--backend", default="cpu", help="default: cpu")
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    if options.models:
        named = dict(model.split("=", 1) for model in options.models)
        compare({name: open_model(source) for name, source in named.items()}, options.backend, options.rounds)
    for backbone in options.same_backbone or ():
        models = {
            name: random_checkpoint({"model": {**_with_skips(sizes, backbone), "backbone": backbone}})
            for name, sizes in _PUBLISHED.items()
        }
        first, second = compare(models, options.backend, options.rounds)
        times = first / second
        met = "met" if times >= GOAL else "MISSED"
        print(f"{backbone}: SRVP is {times:.2f} times as fast as SVG-LP; goal at least {GOAL}: {met}")
    machine = hardware()
    print(f"\n{machine['cores_usable']} cores of {machine['cpu']}, load {machine['load_average']}, {options.backend}")


def _with_skips(sizes: dict[str, Any], backbone: str) -> dict[str, Any]:
    """SRVP has skips with VGG, as published."""
    return {**sizes, "skips": True} if backbone == "vgg" and "family" in sizes else sizes


def open_model(source: str) -> Checkpoint:
    """A checkpoint, or a recipe with random weights."""
    name, *settings = source.split(":")
    if Path(name).is_file():
        return load_any_checkpoint(name)
    changed = dict(setting.split("=", 1) for setting in settings)
    recipe = load_recipe(name)
    return random_checkpoint({**recipe, "model": {**recipe["model"], **changed}})


def random_checkpoint(tables: dict[str, Any]) -> Checkpoint:
    """Initial weights, always the same."""
    config = build_config(tables)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Checkpoint(config, FAMILIES[config.model.family].build(config.model).state_dict())


def compare(models: dict[str, Checkpoint], backend: str, rounds: int) -> list[float]:
    """Print the table, and return the median seconds of each forecast."""
    with tempfile.TemporaryDirectory() as folder:
        bundles = {}
        for name, checkpoint in models.items():
            bundles[name] = Path(folder) / f"{len(bundles)}.svgb"
            write_bundle(checkpoint, "0" * 64, bundles[name], fp16=False)
        seconds = time_all(bundles, backend, rounds)
    first = next(iter(models))
    rows = [["", "M parameters", "GMAC per step", "ms", f"time / {first}", "best dB", "sample dB", "step"]]
    for name, checkpoint in models.items():
        size, macs = size_of(checkpoint)
        ratio = statistics.median(own / base for own, base in zip(seconds[name], seconds[first], strict=True))
        quality = [f"{checkpoint.metrics[key]:.2f}" if checkpoint.metrics else "" for key in ("psnr_best", "psnr_sample")]
        ms = statistics.median(seconds[name]) * 1e3
        numbers = [f"{size / 1e6:.2f}", f"{macs / 1e9:.3f}", f"{ms:.1f}", f"{ratio:.2f}"]
        rows.append([name, *numbers, *quality, str(checkpoint.step)])
    print("\n".join(aligned(rows)))
    return [statistics.median(each) for each in seconds.values()]


def size_of(checkpoint: Checkpoint) -> tuple[int, int]:
    """Parameters, and multiply-adds per sample and step."""
    model = checkpoint.build()
    return sum(parameter.numel() for parameter in model.parameters()), macs_per_step(model)


def time_all(bundles: dict[str, Path], backend: str, rounds: int) -> dict[str, list[float]]:
    """Seconds of one forecast of each bundle, round by round, interleaved."""
    seconds: dict[str, list[float]] = {name: [] for name in bundles}
    with ExitStack() as stack:
        opened = {}
        for name, path in bundles.items():
            forecaster = stack.enter_context(Forecaster.open(path, backend=backend, samples=SAMPLES, horizon=HORIZON))
            forecaster.warm_up()
            for frame in Task.make(forecaster.manifest, 1, 1).frames:
                forecaster.observe(frame)
            opened[name] = forecaster
        for _ in range(rounds):
            for name, forecaster in opened.items():
                start = time.perf_counter()
                forecaster.forecast()
                seconds[name].append(time.perf_counter() - start)
    return seconds


if __name__ == "__main__":
    main()
