"""Recordings that were joined by writing one after the other into a file, such as `cat a.ts b.ts > c.ts`.

A recording that begins anew starts its time stamps and the counters of its packets again. To FFmpeg that is a loss of packets.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

_STEP_BACK_S = 0.25  # decode times never step back, but for jitter
_WRAP = 1 << 33  # MPEG's time stamps have 33 bits; FFmpeg lets them run on, and takes for that what began at an earlier time
_LEAP_S = 3600  # so far a stamp does not leap where it wraps around
_SUSPECTED = 2  # packets that FFmpeg marks for a loss: that before the loss, and with a parser the one before that
_LAYOUTS = ((188, 0), (192, 4), (204, 0))  # size of a packet and where its head is: plain, time of arrival, error correction
_SYNC = 0x47
_TABLES = 16  # packets from the table of programs to the first one of a picture: other tables, sound


class JoinedPackets:
    """Iterates over the packets of one stream, two behind the file, and finds where a recording begins anew.

    There the time stamps run on, one picture after the latest, and the marks of a loss that is none are removed.

    Args:
        packets: of an open PyAV container.
        path: the file; None if marks do not matter.
        interval_s: of two pictures.
    """

    def __init__(self, packets: Iterable[Any], path: Path | None = None, interval_s: float = 0.0) -> None:
        self._packets = packets
        self._path = path
        self._interval_s = interval_s
        self._shift = 0
        self._decoded_s = -math.inf
        self._latest = 0  # stamp that is shown

    def __iter__(self) -> Iterator[tuple[Any, bool]]:
        """Yield each packet with whether a recording begins with it.

        Raises:
            av.FFmpegError: the file cannot be read further; all packets before that were yielded.
            IndexError: PyAV's own at the end of a file in which a further stream appears; all packets were yielded.
        """
        import av

        waiting: deque[tuple[Any, bool]] = deque()
        try:
            for packet in self._packets:
                waiting.append((packet, self._begins(packet, [each for each, _ in waiting if each.is_corrupt])))
                if len(waiting) > _SUSPECTED:
                    yield waiting.popleft()
        except (av.FFmpegError, IndexError):
            yield from waiting
            raise
        yield from waiting

    def _begins(self, packet: Any, suspects: list[Any]) -> bool:
        """Whether a recording begins with `packet`; `suspects` were then marked for that alone, and are no more."""
        restarts = self._let_time_run_on(packet)
        # Only the clock may have been set anew, which is no reason to wait for a key frame.
        begins = packet.is_keyframe or bool(suspects) if restarts else bool(suspects) and self._counts_anew(packet)
        for suspect in suspects if begins else ():
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
        with self._path.open("rb") as file:
            return counts_anew(file, packet.pos)


def counts_anew(file: BinaryIO, position: int) -> bool:
    """Whether the MPEG-TS packet at `position`, and the table of programs before it, are the first ones that were written."""
    for size, begin in _LAYOUTS:
        heads = [_head(file, position + begin - count * size) for count in range(_TABLES)]
        if _is_head(heads[0]) and _is_head(heads[1]):
            table = next((head for head in heads[1:] if _is_head(head) and _stream_id(head) == 0), None)
            return _counter(heads[0]) == 0 and table is not None and _counter(table) == 0
    return False


def _head(file: BinaryIO, position: int) -> bytes:
    """Sync byte, stream and counter of a packet; zeros before the file's begin and behind its end."""
    file.seek(max(position, 0))
    return file.read(4).ljust(4, b"\0") if position >= 0 else bytes(4)


def _is_head(head: bytes) -> bool:
    return head[0] == _SYNC


def _stream_id(head: bytes) -> int:
    return int.from_bytes(head[1:3], "big") & 0x1FFF


def _counter(head: bytes) -> int:
    return head[3] & 0x0F
