"""What post-processing is worth, and how its settings were chosen: `python benchmarks/post_processing.py --clips FOLDER ...`

Every clip is observed and forecast frame by frame in the runtime, as svg-live does, up to its first pause. The same forecasts
are taken as they are, and post-processed in several ways, of which each learns from all of them. Up to `--sequences` of each
clip, which do not overlap, are measured as svg-eval does.

    python benchmarks/post_processing.py --clips hold/ --backend openvino
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from svg_common.files import write_json
from svg_common.frames import fit_frame
from svg_common.video.clips import find_clips
from svg_eval.clips import gains_by_clip
from svg_eval.pixels import PixelAccumulator, psnr_or_nan
from svg_runtime.bundle.reader import find_model
from svg_runtime.forecast.forecaster import Forecaster
from svg_runtime.forecast.post_processing import PostProcessor, Settings
from svg_runtime.live.events import EventLog
from svg_runtime.live.sources.files import FileSource
from svg_runtime.live.stop import StopRequest
from svg_runtime.machine.hardware import machine_today

Floats = NDArray[np.float32]

_NEVER = 1e9  # a prior that nothing outweighs
WAYS = {
    "as the model makes them": None,
    "post-processed": Settings(),
    "all samples with the same coefficients": Settings(varied=0),
    "all samples equally far": Settings(uneven=0),
    "samples more uneven": Settings(uneven=1),
    "mean without the flow": Settings(prior_flow=_NEVER),
    "mean without the background": Settings(prior_background=_NEVER),
}


@dataclass
class Way:
    """One way to post-process, and what came out."""

    name: str
    post: PostProcessor | None  # None: none
    measured: PixelAccumulator = field(default_factory=PixelAccumulator)

    def reset(self) -> None:
        """Forget the clip before."""
        if self.post is not None:
            self.post.reset()

    def corrected(self, number: int, frame: Floats, futures: Floats | None) -> Floats | None:
        """What becomes of the forecast after frame `number`, if there is one."""
        if self.post is None:
            return futures
        self.post.observe(number, frame)
        return None if futures is None else self.post.correct(number, frame, futures)[1]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=Path, required=True, help="folder of clips that the model was not trained on")
    parser.add_argument("--model", default="camera", help="bundle; default: camera, the embedded one")
    parser.add_argument("--backend", default="auto", help="of the model; default: the fastest")
    parser.add_argument("--samples", type=int, default=10, help="futures per forecast; default: 10")
    parser.add_argument("--horizon", type=int, default=10, help="forecast frames; default: 10")
    parser.add_argument("--sequences", type=int, default=12, help="forecasts of each clip that are measured; default: 12")
    parser.add_argument("--json", type=Path, help="write all numbers to this file")
    options = parser.parse_args()
    ways = [Way(name, settings and PostProcessor(settings)) for name, settings in WAYS.items()]
    repeat, clips = PixelAccumulator(), []
    with Forecaster.open(
        find_model(options.model), options.backend, samples=options.samples, horizon=options.horizon
    ) as forecaster:
        for clip in find_clips(options.clips):
            file = clip.paths[0]
            frames = np.stack(list(_frames(file, forecaster)))
            due = _due(forecaster.manifest.generation.n_past, len(frames), options.horizon, options.sequences)
            _run(forecaster=forecaster, frames=frames, due=due, ways=ways, repeat=repeat)
            clips += [file.stem] * len(due)
            print(f"{file.stem}: {len(frames)} frames, {len(due)} measured", flush=True)
    rows = {way.name: _figures(way.measured, repeat, clips) for way in ways}
    print(*_table(rows), sep="\n")
    if options.json:
        machine = machine_today()
        write_json(options.json, {"hardware": machine, "clips": sorted(set(clips)), "sequences": len(clips), "ways": rows})


def _frames(file: Path, forecaster: Forecaster) -> Iterator[Floats]:
    """(H, W, C) of a clip at the model's size and interval, up to its first pause."""
    spec, interval_s = forecaster.manifest.frame, forecaster.manifest.generation.frame_interval_s or 0.1
    with StopRequest() as stop:
        for frame in FileSource(file, interval_s, stop, EventLog(announce=lambda message: None)).frames():
            if frame.clip:
                return
            yield fit_frame(frame.image, spec.height, spec.width, spec.channels).astype(np.float32) / 255


def _due(n_past: int, frames: int, horizon: int, most: int) -> set[int]:
    """Last observed frames of the forecasts that are measured."""
    starts = range(n_past - 1, frames - horizon, n_past + horizon)
    chosen = np.linspace(0, len(starts) - 1, min(most, len(starts))).astype(int)
    return {starts[index] for index in chosen}


def _run(forecaster: Forecaster, frames: Floats, due: set[int], ways: list[Way], repeat: PixelAccumulator) -> None:
    """One clip, from the first frame on."""
    forecaster.reset()
    for way in ways:
        way.reset()
    for number, frame in enumerate(frames):
        forecaster.observe(frame)
        futures = forecaster.forecast() if forecaster.ready else None
        truth = _channels_first(frames[number + 1 : number + 1 + forecaster.horizon])
        last = _channels_first(frame)
        if number in due:
            repeat.add(last.expand(1, *truth.shape), truth, last)
        for way in ways:
            corrected = way.corrected(number, frame, futures)
            if corrected is not None and number in due:
                way.measured.add(_channels_first(corrected), truth, last)


def _figures(measured: PixelAccumulator, repeat: PixelAccumulator, clips: list[str]) -> dict[str, float]:
    """Gains over repeating the last frame in dB, from sums over the set, and ensemble scores."""
    sums, last = measured.sums(), repeat.sums()
    every, moving = sums.scores("all"), sums.scores("moving")
    reference, of_moving = last.scores("all").mean.overall, last.scores("moving").mean.overall
    rows = gains_by_clip(clips, sums, last)
    return {
        "mean": psnr_or_nan(every.mean.overall) - psnr_or_nan(reference),
        "moving": psnr_or_nan(moving.mean.overall) - psnr_or_nan(of_moving),
        "best": psnr_or_nan(every.best.overall) - psnr_or_nan(reference),
        "least_clip": rows[0].gain_mean,
        "crps": 1000 * every.crps.overall,
        "crps_moving": 1000 * moving.crps.overall,
        "spread_first": every.spread_skill_per_step[0],
        "spread_last": every.spread_skill_per_step[-1],
        "moving_spread_first": moving.spread_skill_per_step[0],
        "moving_spread_last": moving.spread_skill_per_step[-1],
    }


def _table(rows: dict[str, dict[str, float]]) -> Iterator[str]:
    """Rows of Markdown."""
    yield ""
    yield "| | mean | mean, moving | best | least clip | CRPS | CRPS, moving | spread / skill | moving |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for name, row in rows.items():
        gains = " | ".join(f"{row[key]:+.2f}" for key in ("mean", "moving", "best", "least_clip"))
        spread, moving = (f"{row[f'{of}spread_first']:.2f}, {row[f'{of}spread_last']:.2f}" for of in ("", "moving_"))
        yield f"| {name} | {gains} | {row['crps']:.2f} | {row['crps_moving']:.1f} | {spread} | {moving} |"


def _channels_first(frames: Floats) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(frames)).movedim(-1, -3)


if __name__ == "__main__":
    main()
