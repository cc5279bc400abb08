"""The options of `svg-live`, of one camera and of the process that it runs in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from svg_runtime.backends.gpu_options import GpuOptions
from svg_runtime.bundle.manifest import Precision
from svg_runtime.forecast_options import Calibrate
from svg_runtime.live.alarms.options import AlarmOptions
from svg_runtime.live.outputs import RecordingOptions
from svg_runtime.live.overlay.names import DEFAULT, DEFAULT_WH
from svg_runtime.live.page.options import PageOptions
from svg_runtime.live.roi import Roi
from svg_runtime.live.sources import SourceOptions


@dataclass(frozen=True)
class LiveOptions:
    """The options of `svg-live`."""

    source: SourceOptions
    model: str | None = None
    backend: str = "auto"
    calibrate: Calibrate | None = None  # what "auto" measures
    device: str | None = None
    threads: int | None = None
    precision: Precision | None = None
    samples: int = 8
    horizon: int = 10
    lead: int | None = None  # forecast step whose mean and spread are shown large; None: the last
    seed: int = 0
    context: Literal["window", "stream"] | None = None  # None: as the bundle says
    post_process: bool = True  # correct forecasts by what came after earlier ones
    window: bool = True
    output: Path | None = None
    overlays: tuple[str, ...] = DEFAULT
    display_wh: tuple[int, int] = DEFAULT_WH
    recording: RecordingOptions = field(default_factory=RecordingOptions)
    json: Path | None = None
    max_frames: int | None = None
    roi: Roi | None = None  # the part of the picture that the model looks at
    adaptive: bool = False  # fewer samples, then a shorter horizon, where the rate cannot be held
    gpu: GpuOptions = field(default_factory=GpuOptions)
    alarms: AlarmOptions = field(default_factory=AlarmOptions)
    name: str | None = None  # of one of several cameras, or of one with a table in a file of options
    shared_by: Mapping[str, int] = field(default_factory=dict)  # how many cameras of its file write below a folder, by its key
    serve: PageOptions | None = None  # the page

    @property
    def corrects(self) -> bool:
        """Whether its forecasts are post-processed: not those of the synthetic camera, which a model can know exactly."""
        return self.post_process and not self.source.is_synthetic


def separated(cameras: Sequence[LiveOptions]) -> list[LiveOptions]:
    """Give each camera that has a name its own folders below those of all; a size limit of all is shared in equal parts.

    Records of alarms go to the same file, if they are to: each has the name of its camera. What a camera writes is in the same
    place, and has the same limit, whether the others of its file run beside it or not.
    """
    folders = [camera.alarms.folder for camera in cameras]
    return [
        replace(
            camera,
            recording=_recording_of(camera, len(cameras)),
            alarms=replace(
                camera.alarms,
                folder=_below(camera.alarms.folder, camera),
                buffer_bytes=camera.alarms.buffer_bytes // len(cameras),
                limit_bytes=camera.alarms.limit_bytes // _sharing(camera, "alarm_dir", folders.count(camera.alarms.folder)),
                camera=camera.name,
            ),
        )
        for camera in cameras
    ]


def _recording_of(camera: LiveOptions, count: int) -> RecordingOptions:
    """What is recorded of one of `count` cameras; the display shows all of them, and is recorded once."""
    recording = camera.recording
    display = recording.folder if count == 1 else None
    sharing = 1 if recording.shows_display else _sharing(camera, "record", count)
    return replace(
        recording,
        folder=display if recording.shows_display else _below(recording.folder, camera),
        forecasts=_below(recording.forecasts, camera),
        limit_bytes=recording.limit_bytes // sharing,
        forecasts_limit_bytes=recording.forecasts_limit_bytes // _sharing(camera, "save_forecasts", count),
    )


def _sharing(camera: LiveOptions, key: str, running: int) -> int:
    """How many cameras share the limit of a folder, be they in this run or only in the file."""
    return max(running, camera.shared_by.get(key, 1))


def _below(folder: Path | None, camera: LiveOptions) -> Path | None:
    return folder if folder is None or camera.name is None else folder / camera.name
