"""Recordings that were joined by writing one after the other into a file, such as `cat a.ts b.ts > c.ts`.

A recording that begins anew starts its time stamps and the counters of its packets again. To FFmpeg that is a loss of packets.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from svg_common.video.file_end import FileEnd, file_end
from svg_common.video.ogg import OggPages
from svg_common.video.transport import counts_anew, ts_layout

_STEP_BACK_S = 0.25  # decode times never step back, but for jitter
_WRAP = 1 << 33  # MPEG's time stamps have 33 bits; FFmpeg lets them run on, and takes for that what began at an earlier time
_LEAP_S = 3600  # so far a stamp does not leap where it wraps around
_SUSPECTED = 2  # packets that FFmpeg marks for a loss: that before the loss, and with a parser the one before that


class JoinedPackets:
    """Iterates over the packets of one stream, two behind the file, and finds where a recording begins anew.

    There the time stamps run on, one picture after the latest, and the marks of a loss that is none are removed. A last picture
    that is cut is marked, and so is one before a loss that FFmpeg does not mark.

    Args:
        packets: of an open PyAV container.
        path: the file; None if marks do not matter.
        interval_s: of two pictures.
        counted: FFmpeg marks a loss by the counters of packets (MPEG-TS), which some muxers do not set right.

    Attributes:
        end: how the file ends, once all packets were read.
    """

    def __init__(
        self, packets: Iterable[Any], path: Path | None = None, interval_s: float = 0.0, counted: bool = False
    ) -> None:
        self._packets = packets
        self._counted = counted
        self._cut: Any = None  # the latest packet behind which the file or a recording in it ends
        self._path = path
        self._interval_s = interval_s
        self._shift = 0
        self._decoded_s = -math.inf
        self._latest = 0  # stamp that is shown
        self.end = FileEnd.WHOLE

    def __iter__(self) -> Iterator[tuple[Any, bool]]:
        """Yield each packet with whether a recording begins with it.

        Raises:
            av.FFmpegError: the file cannot be read further; all packets before that were yielded.
            IndexError: PyAV's own at the end of a file in which a further stream appears; all packets were yielded.
        """
        import av

        waiting: deque[tuple[Any, bool]] = deque()
        pages = self._ogg_pages()
        try:
            for packet in self._packets:
                begins = self._begins(packet, [each for each, _ in waiting])
                self._mark_loss(packet, [each for each, _ in waiting], pages)
                waiting.append((packet, begins))
                if len(waiting) > _SUSPECTED:
                    yield waiting.popleft()
        except (av.FFmpegError, IndexError):
            yield from waiting
            raise
        self._look_at_end([packet for packet, _ in waiting if packet.size], pages)
        yield from waiting

    def is_incomplete(self, packet: Any) -> bool:
        """Return whether a part of a packet is missing for sure: its mark may be that of counters that are wrong."""
        return packet.is_corrupt and (not self._counted or packet is self._cut)

    def _ogg_pages(self) -> OggPages | None:
        if self._path is not None:
            with suppress(OSError):  # it was removed meanwhile
                return OggPages(self._path)
        return None

    def _mark_loss(self, packet: Any, before: list[Any], pages: OggPages | None) -> None:
        """Mark the packet before `packet` if something of an Ogg file is missing between them."""
        if pages is not None and packet.pos is not None:
            with suppress(OSError):
                missing = pages.missing_before(packet.pos)
                if before:
                    before[-1].is_corrupt |= missing

    def _look_at_end(self, last: list[Any], pages: OggPages | None) -> None:
        """Mark the last packet if the file ends within it, which FFmpeg does only in some formats."""
        if self._path is not None and last and last[-1].pos is not None:
            with suppress(OSError):  # the file was removed meanwhile
                self.end = file_end(self._path, last[-1].pos, last[-1].size)
                if pages is not None and pages.missing_at_end():
                    self.end = FileEnd.CUT
            if self.end in (FileEnd.CUT, FileEnd.LOST):
                self._mark_as_cut(last[-1])

    def _mark_as_cut(self, packet: Any) -> None:
        packet.is_corrupt = True
        self._cut = packet

    def _begins(self, packet: Any, before: list[Any]) -> bool:
        """Whether a recording begins with `packet`; packets `before` it were then marked for that alone, and are no more."""
        suspects = [each for each in before if each.is_corrupt]
        restarts = self._let_time_run_on(packet)
        # Only the clock may have been set anew, which is no reason to wait for a key frame.
        begins = packet.is_keyframe or bool(suspects) if restarts else bool(suspects) and self._counts_anew(packet)
        if begins and before and self._is_cut(before[-1], packet):
            self._mark_as_cut(before[-1])
        elif begins:
            for suspect in suspects:
                suspect.is_corrupt = False
        return begins

    def _let_time_run_on(self, packet: Any) -> bool:
        """Shift the time stamps of a packet behind those of earlier recordings; return whether they began anew with it."""
        if packet.dts is None or packet.pts is None:
            return False
        decoded_s = float(packet.dts * packet.time_base)
        step_s = decoded_s - self._decoded_s
        restarts = step_s < -_STEP_BACK_S or (packet.dts >= _WRAP and _LEAP_S < step_s < math.inf)
        if restarts:
            self._shift = self._latest + round(self._interval_s / packet.time_base) - packet.pts
        self._decoded_s = decoded_s
        packet.pts += self._shift
        packet.dts += self._shift
        self._latest = max(self._latest, packet.pts)
        return restarts

    def _counts_anew(self, packet: Any) -> bool:
        if self._path is None or packet.pos is None:
            return False
        with suppress(OSError), self._path.open("rb") as file:  # it was removed meanwhile
            return counts_anew(file, packet.pos)
        return False

    def _is_cut(self, last: Any, following: Any) -> bool:
        """Whether the recording that ended with the packet `last` was cut there."""
        if self._path is None or last.pos is None or following.pos is None:
            return False
        with suppress(OSError), self._path.open("rb") as file:
            layout = ts_layout(file, following.pos)
            return layout is not None and (following.pos - last.pos) % layout[0] != 0
        return False
