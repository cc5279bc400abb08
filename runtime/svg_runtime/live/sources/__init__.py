"""Sources of pictures: a local or network camera, files, or the synthetic camera. `open_source` opens one."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from svg_common.printable import one_line
from svg_runtime.errors import SourceLostError, UsageError
from svg_runtime.live.events import EventLog
from svg_runtime.live.sources.addresses import is_stream_address, require_stream_address, stream_name
from svg_runtime.live.sources.base import Picture, Source, SourceFrame
from svg_runtime.live.sources.camera_settings import CameraSettings
from svg_runtime.live.sources.foreign_names import refuse_foreign_name
from svg_runtime.live.sources.local_cameras import MOST_CAMERA_INDEX, LocalCamera, find_local_camera, is_local_camera
from svg_runtime.live.sources.own import OpenSource, find_own_source
from svg_runtime.live.sources.pacing import SLOWER_THAN_MODEL, Ticker, is_same_step
from svg_runtime.live.sources.synthetic import SYNTHETIC_URL, SyntheticSource
from svg_runtime.live.sources.turned import Turn, TurnedSource
from svg_runtime.live.stop import StopRequest

__all__ = [
    "SYNTHETIC_URL",
    "CameraSettings",
    "Picture",
    "Source",
    "SourceFrame",
    "SourceOptions",
    "Turn",
    "camera_name",
    "check_source",
    "model_interval_s",
    "open_source",
    "source_files",
    "step_interval_s",
]

_DEFAULT_INTERVAL_S = 0.1  # if neither model nor source has a time base


@dataclass(frozen=True)
class SourceOptions:
    """The source on the command line. Neither camera nor source: the synthetic camera."""

    camera: int | None = None
    source: str | None = None
    source_fps: float | None = None  # pictures per second of files without time stamps
    realtime: bool = False  # files and synthetic camera at the model's rate instead of as fast as possible
    seed: int = 0
    reconnect_s: float = 10.0
    settings: CameraSettings = field(default_factory=CameraSettings)  # of a camera at this machine
    turn: Turn = field(default_factory=Turn)
    loop: bool = False  # files begin anew at their end

    @property
    def path(self) -> Path | None:
        """The file or folder, if that is the source, else None."""
        if self.source is None or self.camera is not None or is_stream_address(self.source):
            return None
        return Path(self.source)

    @property
    def is_paced(self) -> bool:
        """Whether pictures come at their own time: from a camera, or because real time was asked for."""
        return self.realtime or self.camera is not None or (self.path is None and not self.is_synthetic)

    @property
    def local_camera(self) -> LocalCamera | None:
        """The camera at this machine, if that is the source, else None; errors: as for `find_local_camera`."""
        if self.camera is not None:
            return LocalCamera(name=f"camera {self.camera}", device=self.camera, settings=self.settings)
        if self.source is not None and is_local_camera(self.source):
            return find_local_camera(self.source, self.settings)
        return None

    @property
    def is_elsewhere(self) -> bool:
        """Whether an address leads to the source: a network camera, or a source of one's own; errors: as `local_camera`."""
        return self.path is None and not self.is_synthetic and self.local_camera is None

    @property
    def is_synthetic(self) -> bool:
        """Whether the source is the synthetic camera."""
        return self.camera is None and self.source in (None, SYNTHETIC_URL)


def check_source(options: SourceOptions) -> None:
    """Refuse a source that is neither a path nor an address, before anything is opened.

    Raises:
        UsageError: it is named as for another program, its address is not supported, or an option does not apply to it.
        BackendMissingError: this OpenCV was built without what opens it.
    """
    if options.camera is not None and options.camera > MOST_CAMERA_INDEX:
        raise UsageError(
            f"--camera {options.camera} is not a camera: the numbers are 0 to {MOST_CAMERA_INDEX}\n"
            "  svg-live --list-cameras shows those that are there; one of a greater number is --source v4l2:///dev/videoN"
        )
    camera = options.local_camera
    if camera is None and options.settings:
        raise UsageError(
            "--camera-size and --camera-fps apply to cameras at this machine, --camera, v4l2:// and csi://, "
            f"not to {_shown(options)}\n  remove them; in a file of options they are camera_size and camera_fps"
        )
    if options.loop and options.path is None:
        raise UsageError(
            f"--loop applies to files and folders, which end, not to {_shown(options)}\n"
            "  remove it; in a file of options it is loop"
        )
    if options.source is None or camera is not None or options.source == SYNTHETIC_URL:
        return
    if not options.source.strip():
        raise UsageError("--source is empty\n  give a file, a folder or an address, or . for this folder")
    refuse_foreign_name(options.source)
    if options.path is None and find_own_source(options.source) is None:
        require_stream_address(options.source)


def model_interval_s(options: SourceOptions, trained_s: float | None) -> float:
    """Return the seconds between observed pictures: as in training, else the video's own interval."""
    if trained_s is not None:
        return trained_s
    if options.path is not None:
        from svg_runtime.live.sources.files import source_intervals_s

        known_s = filter(None, source_intervals_s(options.path, options.source_fps))
        return next(known_s, _DEFAULT_INTERVAL_S)
    return _DEFAULT_INTERVAL_S


def step_interval_s(options: SourceOptions, interval_s: float) -> float:
    """Return the seconds per forecast step: the model's interval, or that of videos or images with a lower rate.

    Clips with different steps have only a nominal one, the model's. Where the first clip has that, the others are not opened.
    """
    if options.path is None:
        return interval_s
    from svg_runtime.live.sources.files import source_intervals_s

    own_s = (own or interval_s for own in source_intervals_s(options.path, options.source_fps))
    steps_s = (own if own > interval_s * SLOWER_THAN_MODEL else interval_s for own in own_s)
    first_s = next(steps_s, interval_s)
    same = first_s == interval_s or all(is_same_step(first_s, other_s) for other_s in steps_s)
    return first_s if same else interval_s


def source_files(options: SourceOptions) -> list[Path]:
    """List the files that the source reads; none for a camera.

    Raises:
        UsageError: the file or folder does not exist, or contains neither videos nor images.
    """
    if options.path is None:
        return []
    from svg_runtime.live.sources.files import require_clips

    return [path for clip in require_clips(options.path) for path in clip.paths]


def camera_name(options: SourceOptions) -> str | None:
    """Name of the camera, or source of one's own, in `options`, without a password; None for files and the synthetic camera."""
    camera = options.local_camera
    if camera is not None:
        return camera.name
    return None if options.path is not None or options.is_synthetic else stream_name(str(options.source))


def open_source(
    options: SourceOptions, interval_s: float, image_size: int, stop: StopRequest, events: EventLog,
    origin_s: float | None = None, alone: bool = True,
) -> Source:  # fmt: skip
    """Open the source in `options`, which yields a picture every `interval_s` seconds.

    Args:
        options: the source.
        interval_s: seconds between pictures.
        image_size: side of the synthetic picture in pixels.
        stop: ends waits and iterations.
        events: event log for problems.
        origin_s: `time.monotonic()` from which pictures in real time are due at whole intervals; None: from the first one on.
        alone: whether it is the only source of the run and is not tried again: the error of a missing camera then names others
            that work, which are opened for it.

    Raises:
        SourceLostError: the camera does not exist or delivers no frames.
        UsageError: the file does not exist, or the source is invalid.
        VideoError: the only file cannot be read.
        KeyboardInterrupt: a stop was requested while connecting to a network camera.
    """
    check_source(options)
    ticker = Ticker(interval_s, stop, origin_s=origin_s)
    source = _open_source(options=options, ticker=ticker, image_size=image_size, stop=stop, events=events, alone=alone)
    return TurnedSource(source, options.turn) if options.turn else source


def _shown(options: SourceOptions) -> str:
    """What the source is called in a message: which of several it is, without a password."""
    return camera_name(options) or (SYNTHETIC_URL if options.is_synthetic else one_line(str(options.source)))


def _open_source(
    options: SourceOptions, ticker: Ticker, image_size: int, stop: StopRequest, events: EventLog, alone: bool
) -> Source:
    camera = options.local_camera
    if camera is not None:
        return _open_local_camera(
            camera=camera, ticker=ticker, stop=stop, events=events, retry_s=options.reconnect_s, alone=alone
        )
    if options.is_elsewhere:
        url = str(options.source)
        open_own = find_own_source(url)
        if open_own is not None:
            return _open_own_source(
                open_own=open_own, url=url, ticker=ticker, stop=stop, events=events, retry_s=options.reconnect_s
            )
        return _open_network_camera(url=url, ticker=ticker, stop=stop, events=events, retry_s=options.reconnect_s)
    schedule = ticker if options.realtime else None
    if options.path is None:
        return SyntheticSource(options.seed, image_size, schedule)
    from svg_runtime.live.sources.files import FileSource

    return FileSource(
        path=options.path, interval_s=ticker.interval_s, stop=stop, events=events, ticker=schedule,
        source_fps=options.source_fps, loop=options.loop,
    )  # fmt: skip


def _open_local_camera(
    camera: LocalCamera, ticker: Ticker, stop: StopRequest, events: EventLog, retry_s: float, alone: bool
) -> Source:
    from svg_runtime.live.sources import capture
    from svg_runtime.live.sources.camera import CameraSource
    from svg_runtime.live.sources.camera_help import explain_missing_camera
    from svg_runtime.live.sources.local_cameras import OPEN_TIMEOUT_S
    from svg_runtime.live.sources.opening import DeviceOpener

    def report(given: CameraSettings) -> None:
        asked = f"{camera.name} was asked for {camera.settings} and gives {given}"
        events.once("camera_settings", f"{asked}; svg-live --list-cameras shows what it can")

    def open_device() -> capture.CaptureDevice:
        return capture.open_capture(camera.device, camera.api, camera.settings, report)

    opener = DeviceOpener(open_device, camera.name, stop, timeout_s=OPEN_TIMEOUT_S) if camera.may_hang else open_device
    try:
        return CameraSource(
            name=camera.name,
            open_device=opener,
            ticker=ticker,
            stop=stop,
            events=events,
            retry_s=retry_s,
            response_timeout_s=camera.response_s,
        )
    except capture.NoPictureError as error:
        raise SourceLostError(explain_missing_camera(camera, str(error), try_others=alone)) from None


def _open_network_camera(url: str, ticker: Ticker, stop: StopRequest, events: EventLog, retry_s: float) -> Source:
    from svg_runtime.live.sources import network
    from svg_runtime.live.sources.camera import CameraSource
    from svg_runtime.live.sources.capture import NoPictureError
    from svg_runtime.live.sources.stream_capture import RESPONSE_TIMEOUT_S, StreamForm

    form = StreamForm()
    try:
        return CameraSource(
            name=stream_name(url),
            open_device=lambda: network.open_stream(url, stop, events, form),
            ticker=ticker,
            stop=stop,
            events=events,
            retry_s=retry_s,
            response_timeout_s=RESPONSE_TIMEOUT_S,
            hang_advice=f"{network.CHECK_ADVICE}, then restart",
        )
    except NoPictureError as error:
        raise SourceLostError(network.explain_missing_stream(url, str(error))) from None


def _open_own_source(
    open_own: OpenSource, url: str, ticker: Ticker, stop: StopRequest, events: EventLog, retry_s: float
) -> Source:
    from svg_runtime.live.sources.capture import NoPictureError

    try:
        return open_own(url, ticker, stop=stop, events=events, retry_s=retry_s)
    except NoPictureError as error:
        raise SourceLostError(f"{stream_name(url)} delivers no frames: {error}\n  check that it is connected and on") from None
