"""ROC area of a model on UCSD Ped2: `python benchmarks/anomaly.py --data PED2 --model CHECKPOINT|BUNDLE|repeat ...`

The model has seen the normal clips, PED2/train, and forecasts the clips of PED2/test frame by frame, in the runtime, as
svg-live does; how wrong its forecasts are says whether a frame is anomalous. The picture is cut into overlapping tiles, each
forecast on its own, or, with --whole, a convolutional checkpoint of the family `frames` forecasts it at its full size.
"repeat" stands for the last frame.

Prints ROC areas in percent: each choice of `anomaly_scores.Scoring` against the one before. "chosen" is the best scoring of
normal clips that the model was not trained on, in which one place runs at double speed; no test clip decides.

    svg-train --config ped2.toml --data-root PED2/train --out run
    python benchmarks/anomaly.py --data PED2 --model run/ckpt.pt --whole
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import numpy as np
from anomaly_clips import LabelledClip, Pictures, read_clips, read_test_clips, sped_up
from anomaly_forecasts import (
    BundleForecaster,
    CheckpointForecaster,
    ClipForecaster,
    Measured,
    RepeatLast,
    at_size,
    measure,
)
from anomaly_report import Comparison, Group, as_json, lines
from anomaly_scores import CELL

from svg_common.files import atomic_file, file_sha256, write_json
from svg_runtime.forecast.forecaster import Forecaster
from svg_runtime.machine.hardware import machine_today
from svg_train.data.video_sampling import files_of_split
from svg_train.reference.checkpoint import load_any_checkpoint

REPEAT = "repeat"
_REPEAT_FROM = 5  # frames, so that the same frames are scored as of a model with that many context frames
_TEST_FRACTION = 0.15  # of the normal clips, as svg-train holds out by default
_SPED_UP_SIDE, _SPED_UP_START = 64, 40


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train/, test/ and test_labels.json")
    parser.add_argument("--model", required=True, help="ckpt.pt, a bundle, or 'repeat'")
    parser.add_argument("--tile", type=int, help="side of a tile in pixels; default: the model's frame, not scaled")
    parser.add_argument("--whole", action="store_true", help="run a convolutional checkpoint at the picture's size")
    parser.add_argument("--bf16", action="store_true", help="compute in bfloat16")
    parser.add_argument("--backend", help="of a bundle; default: cpu")
    parser.add_argument("--leads", type=int, default=2, help="forecasts of each frame; default: 2")
    parser.add_argument("--normal", type=int, default=4, help="normal clips that say what is usual; default: 4")
    parser.add_argument(
        "--keep", type=Path, metavar="FOLDER", help="keep errors there, and take those of the same model, options and pictures"
    )
    parser.add_argument("--json", type=Path, help="write all areas to this file")
    options = parser.parse_args()
    _refuse_ineffective(options, parser)
    if options.tile is not None and (options.tile < CELL or options.tile % CELL):
        parser.error(f"--tile is {options.tile}; expected a multiple of {CELL}")
    for name in ("leads", "normal"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} is {getattr(options, name)}; expected at least 1")
    clips = Clips.read(options.data, options.normal)
    with ExitStack() as stack:
        forecaster = _open(options, clips.picture_hw, stack)
        if options.keep:
            options.keep /= _kept_of(options, forecaster)
        results = {
            part: _measure_all(forecaster, part, group, options)
            for part, group in (("normal", clips.normal), ("made", _pictures(clips.made)), ("test", _pictures(clips.test)))
        }
    groups = (_group(results["normal"], {}), _group(results["made"], clips.made), _group(results["test"], clips.test))
    stages = Comparison(*groups).stages(options.leads)
    print("\n".join(lines(stages)))
    if options.json:
        write_json(options.json, {"hardware": machine_today(), **as_json(stages)})


def _refuse_ineffective(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Refuse what the model does not read: its areas would be taken for those of what was asked for."""
    if options.model == REPEAT:
        model, unread = f"'{REPEAT}'", ("whole", "bf16", "backend")
    elif Path(options.model).is_file():
        model, unread = "a checkpoint", ("backend",)
    else:
        model, unread = "a bundle", ("whole",)
    for name in unread:
        if getattr(options, name):
            parser.error(f"--{name} has no effect with {model}; remove it")


def _group(measured: Mapping[str, Measured], clips: Mapping[str, LabelledClip]) -> Group:
    return Group(
        errors={name: each.errors for name, each in measured.items()},
        surprise={name: each.surprise for name, each in measured.items()},
        labels={name: clip.anomalous for name, clip in clips.items()},
    )


@dataclass(frozen=True)
class Clips:
    """Normal clips that say what is usual, held-out normal clips made anomalous, and test clips."""

    normal: dict[str, Pictures]
    made: dict[str, LabelledClip]
    test: dict[str, LabelledClip]

    @classmethod
    def read(cls, root: Path, normal: int) -> Clips:
        """Held out are the clips that svg-train holds out by default; `normal` others are spread over the rest."""
        train = read_clips(root, "train")
        names = list(train)
        held_out = [names[index] for index in files_of_split(len(names), "test", _TEST_FRACTION)]
        rest = [name for name in names if name not in held_out]
        usual = [rest[index] for index in np.linspace(0, len(rest) - 1, min(normal, len(rest))).round().astype(int)]
        made = {
            f"{name}-{number}": sped_up(train[name][start:], _SPED_UP_SIDE, _SPED_UP_START)
            for name in held_out
            for number, start in enumerate((0, len(train[name]) // 3))
        }
        return cls({name: train[name] for name in usual}, made, read_test_clips(root))

    @property
    def picture_hw(self) -> tuple[int, int]:
        """Height and width of the pictures."""
        height, width = next(iter(self.normal.values())).shape[1:]
        return height, width


def _pictures(clips: Mapping[str, LabelledClip]) -> dict[str, Pictures]:
    return {name: clip.pictures for name, clip in clips.items()}


def _open(options: argparse.Namespace, picture_hw: tuple[int, int], stack: ExitStack) -> ClipForecaster:
    if options.model == REPEAT:
        return RepeatLast(options.leads, _REPEAT_FROM)
    if Path(options.model).is_file():
        checkpoint = load_any_checkpoint(options.model)
        checkpoint = at_size(checkpoint, picture_hw) if options.whole else checkpoint
        return CheckpointForecaster(checkpoint, options.leads, options.bf16)
    opened = Forecaster.open(
        options.model,
        options.backend or "cpu",
        precision="bf16" if options.bf16 else None,
        samples=1,
        horizon=options.leads,
        context="window",
    )
    return BundleForecaster(stack.enter_context(opened))


def _kept_of(options: argparse.Namespace, forecaster: ClipForecaster) -> str:
    """Folder of a model's errors. Those of another one, or measured in another way, are others."""
    if isinstance(forecaster, BundleForecaster):
        model = forecaster.description
    else:
        model = REPEAT if options.model == REPEAT else file_sha256(options.model)
    way = [model, options.tile, options.whole, options.bf16, options.leads, "raw_surprise"]
    return hashlib.sha256(json.dumps(way).encode()).hexdigest()[:16]


def _measure_all(
    forecaster: ClipForecaster, part: str, clips: Mapping[str, Pictures], options: argparse.Namespace
) -> dict[str, Measured]:
    """Measure all clips, or read what was measured before of the same pictures."""
    results = {}
    for name, clip in clips.items():
        file = options.keep / f"{part}-{name}-{crc32(clip):08x}.npz" if options.keep else None
        if file is not None and file.exists():
            with np.load(file) as kept:
                results[name] = Measured(kept["errors"], kept["surprise"])
            continue
        results[name] = measure(forecaster, clip, options.tile)
        if file is not None:
            with atomic_file(file) as partial:
                np.savez(partial, errors=results[name].errors, surprise=results[name].surprise)
        print(f"{part} {name}: {len(clip)} frames", file=sys.stderr, flush=True)
    return results


if __name__ == "__main__":
    main()
