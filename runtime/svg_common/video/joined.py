"""Packets of recordings that were joined byte by byte, as by `cat a.ts b.ts`, as if they were one."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Any

_DECODE_JUMP_S = 0.25  # decode times never step back, but for jitter
_MARKED_BY_SEAM = 2  # packets: the last one of a recording, and the one that a parser finished with its first bytes


def joined_packets(packets: Iterable[Any], interval_s: Fraction = Fraction(0)) -> Iterator[tuple[Any, bool]]:
    """Yield the packets of one stream, and whether each is incomplete.

    Where decode times step back another recording begins: from there on the time stamps are moved behind those before.
    Counters of packets begin anew there, too, so that FFmpeg takes the last packets before it for incomplete; they are not.

    Args:
        packets: in the order of the file.
        interval_s: from the last picture of a recording to the first of the next one.

    Raises:
        av.FFmpegError: of `packets`, after all packets before it.
    """
    import av

    held: deque[tuple[Any, bool]] = deque()
    decoded = latest = -(1 << 63)  # FFmpeg has none below
    shift = 0
    try:
        for packet in packets:
            if packet.dts is not None:
                stamp = packet.dts if packet.pts is None else packet.pts
                if (decoded - packet.dts) * packet.time_base > _DECODE_JUMP_S:
                    held = deque((before, False) for before, _ in held)
                    shift = latest + round(interval_s / packet.time_base) - stamp
                decoded, latest = packet.dts, max(latest, stamp + shift)
                _move(packet, shift)
            held.append((packet, packet.is_corrupt))
            if len(held) > _MARKED_BY_SEAM:
                yield held.popleft()
    except av.FFmpegError:
        yield from held
        raise
    yield from held


def _move(packet: Any, shift: int) -> None:
    packet.dts += shift
    if packet.pts is not None:
        packet.pts += shift
