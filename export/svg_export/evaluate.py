"""Quality of a bundle on held-out sequences, forecast by the runtime itself: best of N samples against the truth.

python -m svg_export.evaluate ckpt.svgb --sequences 256
"""

from __future__ import annotations

import json as json_format
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from svg_common.command import run_command
from svg_common.files import write_json
from svg_runtime.bundle import find_model
from svg_runtime.forecaster import Forecaster
from svg_runtime.manifest import Precision
from svg_runtime.noise import NoiseSource
from svg_train.config import build_config
from svg_train.data import SequenceDataset, open_data
from svg_train.evaluation import Futures, psnr
from svg_train.pictures import save_strips

app = typer.Typer(add_completion=False)

_EXAMPLES = 4  # sequences whose futures are kept for the strip


@dataclass(frozen=True)
class BundleQuality:
    """PSNR in dB from the mean squared error over all sequences, frames in [0, 1]."""

    sequences: int
    samples: int
    horizon: int
    psnr_best: float
    psnr_sample: float
    psnr_mean: float
    psnr_repeat: float
    gain: float  # dB of the best sample above repeating the last frame
    psnr_best_per_step: list[float]
    psnr_repeat_per_step: list[float]
    spread_per_step: list[float]  # mean per-pixel standard deviation over samples


def evaluate_bundle(
    forecaster: Forecaster, data: SequenceDataset, sequences: int, seed: int = 0
) -> tuple[BundleQuality, list[Futures]]:
    """Forecast the first `sequences` held-out sequences (n_past + horizon frames each), one after the other."""
    n_past, samples, horizon = forecaster.manifest.generation.n_past, forecaster.samples, forecaster.horizon
    count, noise, z_dim = min(sequences, len(data)), NoiseSource(seed), forecaster.manifest.model.z_dim
    best, every, mean, repeat, spread = (np.zeros((count, horizon)) for _ in range(5))
    examples: list[Futures] = []
    for index in range(count):
        truth = data[index].astype(np.float32) / 255
        forecaster.reset()
        for frame in truth[:n_past]:
            forecaster.observe(frame)
        # Noise of its own for each sequence: a reset forecaster would draw the same again.
        futures = forecaster.forecast(
            noise=noise.draw(horizon, samples, z_dim), context_noise=noise.draw(n_past - 1, samples, z_dim)
        )
        target = truth[n_past:]
        errors = _mse(futures, target)  # (S, T)
        best[index] = errors[errors.mean(1).argmin()]
        every[index] = errors.mean(0)
        mean[index], repeat[index] = _mse(futures.mean(0), target), _mse(truth[n_past - 1], target)
        spread[index] = futures.std(0).mean((1, 2, 3))
        if index < _EXAMPLES:
            examples.append(_futures(truth, futures, errors))
    quality = BundleQuality(
        sequences=count, samples=samples, horizon=horizon,
        psnr_best=_db(best.mean()), psnr_sample=_db(every.mean()), psnr_mean=_db(mean.mean()), psnr_repeat=_db(repeat.mean()),
        gain=round(_db(best.mean()) - _db(repeat.mean()), 3),
        psnr_best_per_step=[_db(value) for value in best.mean(0)],
        psnr_repeat_per_step=[_db(value) for value in repeat.mean(0)],
        spread_per_step=[round(float(value), 5) for value in spread.mean(0)],
    )  # fmt: skip
    return quality, examples


@app.command()
def evaluate(
    bundle: Annotated[Path | None, typer.Argument(help="bundle; default: the embedded model")] = None,
    data: Annotated[str, typer.Option(help="digits, smmnist or video")] = "digits",
    data_root: Annotated[str | None, typer.Option(help="files of smmnist or video")] = None,
    sequences: Annotated[int, typer.Option(min=1, help="held-out sequences")] = 256,
    samples: Annotated[int, typer.Option(min=1, help="sampled futures per sequence")] = 10,
    horizon: Annotated[int, typer.Option(min=1, help="forecast frames")] = 10,
    seed: Annotated[int, typer.Option(min=0, help="seed of the noise")] = 0,
    fp16: Annotated[bool, typer.Option("--fp16", "--half", help="use the fp16 graphs")] = False,
    json: Annotated[Path | None, typer.Option(help="write the figures to this file")] = None,
    strip: Annotated[Path | None, typer.Option(help="draw the first sequences to this PNG, and a GIF beside it")] = None,
) -> None:
    """Evaluate a bundle on held-out sequences and print the figures as JSON."""
    precision: Precision = "fp16" if fp16 else "fp32"
    with Forecaster.open(find_model(bundle), samples=samples, horizon=horizon, precision=precision) as forecaster:
        frame, n_past = forecaster.manifest.frame, forecaster.manifest.generation.n_past
        model = {"image_size": frame.height, "channels": frame.channels, "n_past": n_past}
        interval = forecaster.manifest.generation.frame_interval_s
        source = {"name": data, "root": data_root, "frame_interval_s": interval}
        held_out = open_data(build_config({"model": model, "data": source}), "test", n_past + horizon)
        quality, examples = evaluate_bundle(forecaster, held_out, sequences, seed)
    print(json_format.dumps(asdict(quality), indent=2))
    if json is not None:
        write_json(json, asdict(quality))
    if strip is not None:
        save_strips(strip.parent, strip.stem, examples, n_past)


def _futures(truth: np.ndarray, futures: np.ndarray, errors: np.ndarray) -> Futures:
    truth_chw, futures_chw = (torch.from_numpy(np.moveaxis(array, -1, -3).copy()) for array in (truth, futures))
    return Futures(truth_chw, futures_chw, torch.from_numpy(errors.mean(1)))


def _mse(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Mean squared error per frame, over height, width and channels."""
    return ((a - b) ** 2).mean((-3, -2, -1))


def _db(mse: float) -> float:
    return round(psnr(float(mse)), 3)


if __name__ == "__main__":
    run_command(app)
