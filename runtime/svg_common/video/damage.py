"""Which decoded pictures are intact: not those that are damaged, nor those that depend on damaged ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from svg_common.video.zero_holes import HoleFinder

# Encoders that refresh a picture strip by strip never send a key frame; their whole picture is new after at most this many
# pictures (the longest default key frame interval is 250, in x264 and x265).
_LONGEST_REFRESH = 300
_MOST_B_FRAMES = 16  # in a row, in H.264 and HEVC
# Loss is rarer than one packet in this many: what comes more often is a muxer that does not count its packets right.
_RARE = 3
_B_FRAME = 3  # FFmpeg's AV_PICTURE_TYPE_B


class DamageTracker:
    """Follows the decoding of one stream and judges its pictures.

    From a damaged picture on, all pictures are left out up to the next intact key frame, because each is predicted from those
    before it. Without a key frame in 300 pictures the stream is one that renews its picture strip by strip: the picture is
    then whole again.

    Call `reports_damage` once, then `sending` before and `failed` after a packet that cannot be decoded, and `is_intact` with
    each picture in the order of display.

    Attributes:
        left_out: pictures that were left out.
        reason: what the decoder said of the first damage; None while there is none.
        not_supported: why no picture of the stream can be made RGB, though it is intact; None while that is not known.
    """

    def __init__(self) -> None:
        self._hole_finder: HoleFinder | None = None
        self.left_out = 0
        self.reason: str | None = None
        self.not_supported: str | None = None
        self._smeared = False
        self._smeared_count = 0
        self._any_intact = False
        self._sent = 0
        self._incomplete = 0
        self._awaited: set[int] = set()  # time stamps of packets whose pictures have not come out
        self._damaged: set[int] = set()  # time stamps of packets that are known to be incomplete before they are decoded
        self._damage_goes_on = False
        self._failed_by: int | None = None  # a failed packet's time stamp is this at most

    def reports_damage(self, codec_context: Any, strict: bool = True) -> None:
        """Let a decoder, not opened yet, return damaged pictures, marked: else HEVC withholds them, uncounted.

        Args:
            codec_context: of the decoder.
            strict: refuse damaged Motion JPEG, which is returned unmarked otherwise.
        """
        from av.codec.context import Flags

        codec_context.flags |= Flags.output_corrupt
        self._hole_finder = HoleFinder.of(codec_context)
        if strict and codec_context.name == "mjpeg":
            codec_context.options = {**codec_context.options, "err_detect": "explode"}

    def sending(self, packet: Any, incomplete: bool = False) -> None:
        """Note a packet that is about to be decoded, and whether its mark of a loss is more than FFmpeg's suspicion."""
        self._sent += 1
        self._incomplete += packet.is_corrupt
        known = incomplete or (packet.is_corrupt and self._incomplete * _RARE <= self._sent)
        if packet.pts is not None:
            self._awaited.add(packet.pts)
            # A parser finishes a picture with the first bytes of the next one, and may mark it for a loss in that one.
            if known or self._damage_goes_on or (self._hole_finder and self._hole_finder.has_hole(packet)):
                self._damaged.add(packet.pts)
            self._damage_goes_on = known

    def begins_anew(self) -> None:
        """Note that what follows does not depend on what came before: another recording begins with the next packet."""
        self._note_what_is_missing_at_the_end()
        self._awaited.clear()
        self._damaged.clear()
        self._damage_goes_on = False
        self._smeared = False
        self._failed_by = None
        self._any_intact = False

    def failed(self, reason: str) -> None:
        """Note that a packet could not be decoded. With several threads it is an earlier one than the last that was sent."""
        if not self._awaited:
            self.left_out += 1  # else it is counted when its time stamp turns out to have no picture
        self._failed_by = max(self._awaited, default=None)
        self._start_of_damage(reason)

    def not_converted(self, reason: str) -> None:
        """Note that an intact picture could not be made RGB, such as for want of memory; others do not depend on that."""
        self.reason = self.reason or f"it cannot be converted: {reason}"
        self.left_out += 1

    def never_converted(self, reason: str) -> None:
        """Note that an intact picture could not be made RGB, and that others like it cannot."""
        self.not_supported = reason
        self.left_out += 1

    def is_intact(self, frame: Any) -> bool:
        """Return whether `frame` may be shown and used as truth."""
        failure_is_before = self._failure_is_before(frame)
        incomplete = self._packet_was_damaged(frame)
        damaged = frame.is_corrupt or incomplete
        if damaged and not incomplete and not frame.key_frame and not self._any_intact:
            return False  # a recording that starts between two key frames: not damage, and its decoder ends the wait
        if damaged:
            self._start_of_damage("it decodes with errors")
        elif self._smeared and ((frame.key_frame and failure_is_before) or self._smeared_count >= _LONGEST_REFRESH):
            self._smeared = False
            self._failed_by = None
        if self._smeared:
            self._smeared_count += 1
            self.left_out += 1
            return False
        self._any_intact = True
        return True

    def intact_pictures(self, frames: Iterable[Any]) -> Iterator[tuple[Any, bool]]:
        """Yield each of `frames` with whether it is intact.

        B-frames wait for the picture that follows them, because they are predicted from it as well.
        """
        held: list[Any] = []
        for frame in frames:
            intact = self.is_intact(frame)
            if intact and frame.pict_type == _B_FRAME and len(held) < _MOST_B_FRAMES:
                held.append(frame)
                continue
            yield from self._release(held, intact)
            yield frame, intact
        yield from self._release(held, intact=not self._smeared)
        self._note_what_is_missing_at_the_end()

    def _note_what_is_missing_at_the_end(self) -> None:
        if self._damaged:  # and no picture came of it
            self._start_of_damage("it is incomplete")
        self.left_out += len(self._awaited) if self._smeared else 0

    def _release(self, held: list[Any], intact: bool) -> Iterator[tuple[Any, bool]]:
        self.left_out += 0 if intact else len(held)
        yield from ((frame, intact) for frame in held)
        held.clear()

    def _start_of_damage(self, reason: str) -> None:
        self.reason = self.reason or reason
        self._smeared = True
        self._smeared_count = 0

    def _failure_is_before(self, frame: Any) -> bool:
        """Whether the packet that failed is one before `frame`: a key frame that was sent before it ends no wait.

        A failure is known with a delay and without its place, but it leaves a time stamp without a picture.
        """
        if frame.pts is None:
            self._awaited.clear()
            return True
        missing = {stamp for stamp in self._awaited if stamp < frame.pts}
        self._awaited -= missing | {frame.pts}
        self.left_out += len(missing) if self._smeared or missing & self._damaged else 0
        if self._failed_by is not None and (missing or frame.pts > self._failed_by):
            self._failed_by = None
        return self._failed_by is None

    def _packet_was_damaged(self, frame: Any) -> bool:
        """Whether the packet of this picture was incomplete, or one before it that gave no picture."""
        if frame.pts is None:
            return False
        damaged = {stamp for stamp in self._damaged if stamp <= frame.pts}
        self._damaged -= damaged
        return frame.pts in damaged or (bool(damaged) and not frame.key_frame)
