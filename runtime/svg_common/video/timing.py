"""Time of the pictures in a video file: the frame rate from the time stamps themselves, and the time of each picture.

A header's average rate includes pauses, a browser's recorder writes none, and phones vary theirs. So the rate is that of the
usual distance between two pictures, measured in the first part of the file.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Any

from svg_common.video.joins import JoinedPackets
from svg_common.video.sampling import MAX_HOLD_S

ASSUMED_FPS = Fraction(25)  # if neither time stamps nor codec say anything; also FFmpeg's own assumption
_MAX_FPS = 1000  # this and higher rates come from broken headers; a time base in milliseconds is often taken for a rate
_SHORTEST_S = 0.0015  # distances of a millisecond are those of a burst, rounded
_JUMP_S = 1  # a clock that steps back further than this was restarted, by a wrap or a joined recording
_NO_TIME_STAMPS = 0x80  # AVFMT_NOTIMESTAMPS
_PROGRAM_STREAM = "mpeg"  # FFmpeg's name of the format of DVDs
_MEASURED_PICTURES = 1000
_MEASURED_BYTES = 64 << 20  # uncompressed video: enough pictures, and no long read before the first one is shown
_USUAL = 0.25  # share of the median by which a usual distance differs at most, such as jitter and rounded stamps
_REGULAR = 0.6  # share of all distances that are usual, unless pictures arrive in pairs, twice, or by chance
_SAME_RATE = 0.01  # a nominal rate this close to the measured one is exact where rounded stamps are not


@dataclass(frozen=True)
class VideoTiming:
    """How time runs in a video file.

    Attributes:
        fps: pictures per second between pauses.
        assumed: the file has no time stamps: `fps` is the codec's own information or FFmpeg's assumption, and pictures are
            that far apart.
        decode_times: time stamps are those of decoding.
    """

    fps: Fraction
    assumed: bool
    decode_times: bool


def measure_timing(container: Any, stream: Any) -> VideoTiming:
    """Read the first packets of an open file and return its timing. The file must be opened anew for decoding."""
    # AVI stores no presentation times, and those that FFmpeg derives for B-frames are out of order; its decode times run at
    # the same pace.
    decode_times = container.format.name == "avi"
    if _has_no_time_stamps(container.format):
        return VideoTiming(_nominal_fps(stream), assumed=True, decode_times=decode_times)
    stamps_s, pictures = _read_stamps(container, stream, decode_times)
    interval_s = usual_interval_s(stamps_s)
    if interval_s is None or interval_s * _MAX_FPS < 1:
        return VideoTiming(_nominal_fps(stream), assumed=pictures > 1, decode_times=decode_times)
    return VideoTiming(_exact_rate(interval_s, stream), assumed=False, decode_times=decode_times)


def _has_no_time_stamps(container_format: Any) -> bool:
    """Whether FFmpeg makes up the stamps: of raw streams, and of pictures one after the other, such as raw Motion JPEG."""
    return bool(int(container_format.flags) & _NO_TIME_STAMPS) or container_format.name.endswith("_pipe")


def usual_interval_s(times_s: Sequence[float]) -> float | None:
    """Return the usual distance of two pictures in seconds, from the times of all; None for fewer than two pictures.

    It is the median, refined by the mean of what is near it: stamps are often rounded to milliseconds, and jitter averages
    out. Pauses, bursts and lost pictures do not change it. Where most distances are not near the median, as when pictures
    arrive in pairs, or too short for a camera, it is the mean of those that are not pauses.
    """
    distances = [later - earlier for earlier, later in pairwise(sorted(times_s))]
    if not distances:
        return None
    median = statistics.median(distances)
    usual = [distance for distance in distances if abs(distance - median) <= _USUAL * median]
    if median >= _SHORTEST_S and len(usual) >= _REGULAR * len(distances):
        return statistics.fmean(usual)
    held = [distance for distance in distances if distance <= max(MAX_HOLD_S, 3 * median)]
    return statistics.fmean(held) or None if held else None


class Clock:
    """Turns the time stamps of a file's frames into seconds that start at 0 and always advance."""

    def __init__(self, timing: VideoTiming) -> None:
        self._timing = timing
        self._interval_s = 1 / timing.fps
        self._origin_s: Fraction | None = None
        self._next_s = Fraction(0)  # for a frame without a usable stamp: one interval after the last frame

    def time_of(self, frame: Any) -> Fraction:
        """Return the seconds from the first frame to this one."""
        stamp = frame.dts if self._timing.decode_times else frame.pts
        no_stamp = self._timing.assumed or stamp is None
        now_s = self._next_s if no_stamp else self._since_start(stamp * frame.time_base)
        self._next_s = now_s + self._interval_s
        return now_s

    def _since_start(self, stamp_s: Fraction) -> Fraction:
        if self._origin_s is None:
            self._origin_s = stamp_s - self._next_s
        last_s, now_s = self._next_s - self._interval_s, stamp_s - self._origin_s
        if now_s > last_s:
            return now_s
        if last_s - now_s > _JUMP_S:
            self._origin_s = stamp_s - self._next_s
        return self._next_s


def _read_stamps(container: Any, stream: Any, decode_times: bool) -> tuple[list[float], int]:
    """Time stamps of the first pictures in seconds, in the order of the file, and the number of these pictures.

    A picture that is shown later than what was read last is decoded is left out: in a file that is cut off, others that are
    shown before it may be missing, and it would tell a rate that is too low.
    """
    times = _read_times(container, stream)
    # A program stream stamps the first picture of a pack alone, and many small ones share one. FFmpeg finds the others' stamps
    # for some codecs; in a transport stream of H.264, what has none is the second field of a picture.
    if container.format.name == _PROGRAM_STREAM and any(shown_s is None for _, shown_s in times):
        return _filled_in([decoded_s for decoded_s, _ in times]), len(times)
    stamps: list[float] = []
    read_to_s: float | None = None
    for decoded_s, shown_s in times:
        stamp_s = decoded_s if decode_times else shown_s
        if stamp_s is not None:
            stamps.append(stamp_s)
            read_to_s = decoded_s
    known = [stamp_s for stamp_s in stamps if read_to_s is None or stamp_s <= read_to_s]
    pictures = len(times) - (len(stamps) - len(known))
    while len(known) > 1 and known[-1] == known[-2]:  # of joined MXF files, all pictures behind the first have its last stamp
        known.pop()
    return known, pictures


def _read_times(container: Any, stream: Any) -> list[tuple[float | None, float | None]]:
    """When the first pictures are decoded and shown, in seconds, in the order of the file; None without a stamp."""
    import av

    times: list[tuple[float | None, float | None]] = []
    size = 0
    try:
        for packet, _ in JoinedPackets(container.demux(stream)):
            if packet.size:
                times.append((_seconds(packet.dts, packet), _seconds(packet.pts, packet)))
            size += packet.size
            if len(times) > _MEASURED_PICTURES or size > _MEASURED_BYTES:
                break
    except (av.FFmpegError, IndexError):  # as in JoinedPackets
        pass  # damage is reported when the pictures are decoded
    return times


def _seconds(stamp: int | None, packet: Any) -> float | None:
    return None if stamp is None else float(stamp * packet.time_base)


def _filled_in(times_s: Sequence[float | None]) -> list[float]:
    """Times from the first to the last one that is known; the others in equal steps between these."""
    known = [(place, time_s) for place, time_s in enumerate(times_s) if time_s is not None]
    steps = [
        earlier_s + (later_s - earlier_s) * number / (later - earlier)
        for (earlier, earlier_s), (later, later_s) in pairwise(known)
        for number in range(later - earlier)
    ]
    return [*steps, *(time_s for _, time_s in known[-1:])]


def _exact_rate(interval_s: float, stream: Any) -> Fraction:
    """The nominal rate in the header that is nearest to the measured one, if it is the same; else the measured one."""
    measured = Fraction(1 / interval_s)
    nominal = [rate for rate in (stream.average_rate, stream.base_rate, stream.guessed_rate) if rate]
    same = [Fraction(rate) for rate in nominal if abs(rate - measured) <= _SAME_RATE * measured]
    return min(same, key=lambda rate: abs(rate - measured), default=measured.limit_denominator(1_000_000))


def _nominal_fps(stream: Any) -> Fraction:
    """The rate of a file without time stamps: the codec's timing information (VUI in H.264 and H.265) comes first."""
    rates = stream.codec_context.framerate, stream.guessed_rate, stream.average_rate
    return next((Fraction(rate) for rate in rates if rate and 0 < rate < _MAX_FPS), ASSUMED_FPS)
