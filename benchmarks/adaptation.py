"""What adaptation gains: `python benchmarks/adaptation.py CLIP... [--init camera] [--train 10m] [--set crop=0.8,1 lr=1e-3]`.

Each clip by itself: its first 85 % are trained on for the given wall time, and its last 15 % are forecast by the adapted model,
by the one it started from, and by repeating the last frame. A row per clip: PSNR of the mean of ten samples over one second.

    python benchmarks/adaptation.py clips/a.mp4 clips/b.avi --train 10m --json adaptation.json
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from svg_adapt.adaptation import Adaptation, adapt
from svg_adapt.adaptation_options import RECIPE
from svg_common.command import stderr_console
from svg_common.files import write_json
from svg_common.log_messages import ConsoleHandler, log_messages_to
from svg_common.toml_files import parse_toml
from svg_runtime.machine.hardware import machine_today
from svg_train.config import DataConfig
from svg_train.machine import Machine
from svg_train.shipped_models import find_checkpoint

GOAL_DB = 0.7  # over the start, all pixels, on average, after 10 minutes on 2 cores


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="+", type=Path)
    parser.add_argument("--init", default="camera", help="checkpoint or model of the package; default: camera")
    parser.add_argument("--train", default="10m", help="wall time of training per clip; default: 10m")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE[,VALUE]", help="settings of data and training")
    parser.add_argument("--threads", type=int, help="of PyTorch; default: one per core")
    parser.add_argument("--out", type=Path, help="folder to keep the runs in; default: none is kept")
    parser.add_argument("--json", type=Path, help="write all values to this file")
    options = parser.parse_args()
    twice = [name for name, count in Counter(clip.stem for clip in options.clips).items() if count > 1]
    if twice:
        parser.error(f"more than one clip is called {', '.join(twice)}, and each has a folder of that name; rename them")
    overrides = settings(options.set)
    for name, own in {"duration_s": "--train", "root": "CLIP"}.items():
        if name in overrides["train"] | overrides["data"]:
            parser.error(f"--set {name} is given by {own}; use that instead")
    overrides["train"]["duration_s"] = options.train
    if options.threads:
        torch.set_num_threads(options.threads)
    rows = {}
    with tempfile.TemporaryDirectory() as temporary, log_messages_to(ConsoleHandler(stderr_console(), "")):
        for clip in options.clips:
            out = (options.out or Path(temporary)) / clip.stem
            rows[clip.name] = adapt_to(clip, find_checkpoint(options.init), out, overrides)
    print_table(rows)
    machine = machine_today()
    threads, cores = torch.get_num_threads(), machine["cores_usable"]
    print(f"\n{options.train} each, {threads} thread(s) of {cores} cores of {machine['cpu']}, load {machine['load_average']}")
    if options.json:
        write_json(options.json, {"clips": rows, "train": options.train, "settings": options.set, "machine": machine})


def settings(given: list[str]) -> dict[str, dict[str, Any]]:
    """Settings by table: those of data are known by name, the others are of training. Values are as in a recipe, or texts."""
    tables: dict[str, dict[str, Any]] = {"data": {}, "train": {}}
    for item in given:
        name, text = item.split("=", 1)
        table = "data" if name in DataConfig.model_fields else "train"
        values = [_value(part) for part in text.split(",")]
        tables[table][name] = values if len(values) > 1 else values[0]
    return tables


def _value(text: str) -> Any:
    try:
        return parse_toml(f"value = {text}")["value"]
    except ValueError:  # such as 5m
        return text


def adapt_to(clip: Path, start: Path, out: Path, overrides: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The report of one adaptation."""
    print(f"\n{clip.name}", file=sys.stderr)
    return adapt(
        Adaptation(
            start=start,
            out=out,
            recipe=RECIPE,
            overrides={**overrides, "data": {**overrides["data"], "root": str(clip)}},
            machine=Machine(),
            resume=False,
            record=None,
        )
    )


def print_table(rows: dict[str, dict[str, Any]]) -> None:
    """Gains in dB, and whether the goal is met on average."""
    width = max(map(len, rows))
    print(f"\n{'':{width}}{'steps':>7}{'over the start':>18}{'moving':>9}{'over repeating':>17}{'moving':>9}  worth it")
    for name, row in rows.items():
        every, moving = row["all"], row["moving"]
        gains = [every["over_start"]["db"], moving["over_start"]["db"], every["over_repeat"]["db"], moving["over_repeat"]["db"]]
        cells = "".join(f"{gain:>+{size}.2f}" for gain, size in zip(gains, (18, 9, 17, 9), strict=True))
        print(f"{name:{width}}{row['step']:>7}{cells}  {'yes' if row['worth_it'] else 'no'}")
    mean = sum(row["all"]["over_start"]["db"] for row in rows.values()) / len(rows)
    print(f"mean gain over the start {mean:+.2f} dB, goal {GOAL_DB:+.1f}: {'met' if mean >= GOAL_DB else 'MISSED'}")


if __name__ == "__main__":
    main()
