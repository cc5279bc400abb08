"""How well svg-live's signals find anomalies: `python benchmarks/injected_anomalies.py --clips FOLDER [--keep FOLDER] ...`

Real clips of cameras that stand still are normal. Into each, six kinds of anomalies are injected at known times: playback in
reverse, three times as fast, a frozen picture, a covered lens, a shaken camera, an object that moves through. Every run is
observed and forecast frame by frame in the runtime, as svg-live does, and judged by its signals.

Normal are all frames after the first 6 seconds of a clip, in which the signals learn what is usual; an anomaly lasts up to 3
seconds, and begins at the liveliest moment of about every 15 seconds of the first minute. With --keep, forecasts are made once,
and signals can be changed and measured again in seconds.

    python benchmarks/injected_anomalies.py --clips CLIPS/train --index CLIPS/INDEX.tsv --keep forecasts
"""

from __future__ import annotations

import argparse
import copy
import csv
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import numpy as np
from injected_clips import INJECTIONS, SETTLE_S, Pictures, Recording, inject, read_recording
from injected_forecasts import Floats, Tape, record, replay
from injected_report import Anomaly, Judged, Values, as_json, by_signal, lines, measure

from svg_common.files import write_json
from svg_runtime.bundle.reader import find_model
from svg_runtime.forecast.forecaster import Forecaster, Observation
from svg_runtime.forecast.scores import ForecastMemory
from svg_runtime.live.alarms.trigger import TriggerOptions
from svg_runtime.live.empty_pictures import EmptyPicture, PictureCheck
from svg_runtime.live.events import EventLog
from svg_runtime.live.signals import Signals
from svg_runtime.machine.hardware import machine_today

_LEADS = 4  # forecast frames; the signals read the first one


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=Path, required=True, help="folder of clips of cameras that stand still")
    parser.add_argument("--index", type=Path, help="table with columns file and camera: only clips whose camera is 'static'")
    parser.add_argument("--model", default="camera", help="bundle; default: camera, the embedded one")
    parser.add_argument("--backend", default="auto", help="of the model; default: the fastest")
    parser.add_argument("--samples", type=int, default=8, help="futures per forecast; default: 8, as svg-live")
    parser.add_argument("--threshold", type=float, default=TriggerOptions().threshold, help="of the alarm; default: svg-live's")
    parser.add_argument("--seed", type=int, default=0, help="of the anomalies; default: 0")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep the forecasts there, and take those that are there")
    parser.add_argument("--json", type=Path, help="write all numbers to this file")
    options = parser.parse_args()
    files = static_clips(options.clips, options.index)
    with ExitStack() as stack:
        keep = options.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        forecaster = stack.enter_context(
            Forecaster.open(find_model(options.model), options.backend, samples=options.samples, horizon=_LEADS)
        )
        interval_s = forecaster.manifest.generation.frame_interval_s or 0.1
        keep /= _kept_of(forecaster, options.seed)
        runs = [
            run
            for file in files
            for run in _runs(forecaster=forecaster, file=file, interval_s=interval_s, seed=options.seed, keep=keep)
        ]
    if not runs:
        parser.error(f"no clip in {options.clips} is static and long enough")
    alarm = TriggerOptions(threshold=options.threshold, clear=options.threshold / 2)
    result = measure([run.normal for run in runs], [each for run in runs for each in run.anomalies], interval_s, alarm)
    print("\n".join([f"{len(runs)} clips: {', '.join(run.clip for run in runs)}", "", *lines(result, alarm)]))
    if options.json:
        write_json(options.json, {"hardware": machine_today(), "clips": [run.clip for run in runs], **as_json(result, alarm)})


def _kept_of(forecaster: Forecaster, seed: int) -> str:
    """Folder of a model's forecasts. Those of another one, on another backend or in another precision are others."""
    how = crc32(forecaster.description.split("; ")[0].encode())
    model = forecaster.manifest.bundle_id[:12]
    return f"{model}-{forecaster.backend}-{how:08x}-{forecaster.samples}-samples-seed-{seed}"


def static_clips(folder: Path, index: Path | None) -> list[Path]:
    """Files of `folder`; with an index, those whose camera is static there."""
    files = sorted(file for file in folder.iterdir() if file.is_file())
    if index is None:
        return files
    with index.open(encoding="utf-8", newline="") as table:
        static = {Path(row["file"]).name for row in csv.DictReader(table, delimiter="\t") if row["camera"] == "static"}
    return [file for file in files if file.name in static]


@dataclass(frozen=True)
class Run:
    """Signals of one clip: normal, and with each of its anomalies."""

    clip: str
    normal: dict[str, Values]
    anomalies: list[Anomaly]


def _runs(forecaster: Forecaster, file: Path, interval_s: float, seed: int, keep: Path) -> Iterator[Run]:
    """The run of a clip; none if it is too short."""
    recording = read_recording(file, interval_s)
    if recording is None:
        return
    tape = record(forecaster, recording.pictures, 0, keep / file.name / "normal")
    player = Player(recording, tape, interval_s)
    anomalies = []
    for start in recording.starts:
        for kind in INJECTIONS:
            made = inject(kind=kind, recording=recording, start=start, interval_s=interval_s, seed=seed)
            folder = keep / file.name / f"{kind.replace(' ', '-')}-{start}"
            other = record(forecaster, np.concatenate([recording.pictures[:start], made]), start, folder)
            anomalies.append(Anomaly(recording.name, kind, start, by_signal(player.continued(made, other))))
    settled = {name: values[round(SETTLE_S / interval_s) :] for name, values in by_signal(player.judged).items()}
    print(f"{recording.name}: {len(recording.pictures)} frames, {len(anomalies)} anomalies", file=sys.stderr, flush=True)
    yield Run(recording.name, settled, anomalies)


class Player:
    """What svg-live says of normal video, and of what else may follow at some of its frames.

    Args:
        recording: normal video.
        tape: of it.
        interval_s: seconds between frames.

    Attributes:
        judged: all frames of the recording.
    """

    def __init__(self, recording: Recording, tape: Tape, interval_s: float) -> None:
        memory, signals = ForecastMemory(), Signals(interval_s)
        self._recording = recording
        self._tape = tape
        self._interval_s = interval_s
        self._at: dict[int, tuple[ForecastMemory, Signals]] = {}
        self.judged: list[Judged] = []
        for each in _judge(signals, self._empty(recording.pictures), replay(tape, memory)):
            self.judged.append(each)
            if len(self.judged) in recording.starts:  # the forecast after this frame is remembered before the next one comes
                self._at[len(self.judged)] = copy.deepcopy((memory, signals))

    def continued(self, pictures: Pictures, other: Tape) -> list[Judged]:
        """`pictures` and their tape, before which the normal video was seen."""
        memory, signals = copy.deepcopy(self._at[other.first])
        last = other.first - 1
        memory.remember(last, self._tape.frame(last), self._tape.forecast(last))
        empty = self._empty(np.concatenate([self._recording.pictures[: other.first], pictures]))
        return list(_judge(signals, empty[other.first :], replay(other, memory)))

    def _empty(self, pictures: Pictures) -> list[EmptyPicture | None]:
        check = PictureCheck(self._interval_s, EventLog())
        return [check.add(picture) for picture in pictures]


def _judge(
    signals: Signals, empty: Sequence[EmptyPicture | None], frames: Iterator[tuple[Floats, Observation]]
) -> Iterator[Judged]:
    for why, (frame, observation) in zip(empty, frames, strict=True):
        yield Judged(signals.add(frame, observation, why), why)


if __name__ == "__main__":
    main()
