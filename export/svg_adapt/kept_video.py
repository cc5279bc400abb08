"""What of a recording is on the disk: its oldest segments may have given way to the limit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from svg_adapt.recording import Facts, segment_number, segments_in


@dataclass(frozen=True)
class KeptSegment:
    """A segment that can be read."""

    pictures: int
    seconds: float  # gaps included


@dataclass(frozen=True)
class KeptVideo:
    """All segments that are on the disk, the oldest first, and whether older ones gave way to the limit."""

    segments: list[KeptSegment]
    gave_way: bool

    @classmethod
    def read(cls, folder: Path, facts: Facts) -> KeptVideo:
        """Look into the indexes of the segments in `folder`; one that cannot be read is left out, as training leaves it out."""
        paths = segments_in(folder)
        found = (_read(path, facts.segments_s.get(path.name)) for path in paths)
        gave_way = facts.reached_limit_bytes is not None or any(segment_number(path) > 1 for path in paths[:1])
        return cls([segment for segment in found if segment is not None], gave_way)

    @property
    def seconds(self) -> float:
        """All together."""
        return sum(segment.seconds for segment in self.segments)

    def longest_held_out_s(self, test_fraction: float) -> float:
        """The longest piece of video in the last `test_fraction` of all pictures: a sequence does not cross segments."""
        from svg_train.data.video_sampling import cuts_at_end

        cuts = cuts_at_end([segment.pictures for segment in self.segments], test_fraction)
        pairs = zip(self.segments, cuts, strict=True)
        return max((segment.seconds * (1 - cut / segment.pictures) for segment, cut in pairs), default=0.0)


def _read(path: Path, seconds: float | None) -> KeptSegment | None:
    """Earlier versions did not store `seconds`: the header of the file says it, but for gaps."""
    import av

    try:
        # of a relative path, FFmpeg takes what is before a colon for a protocol
        with av.open(str(path.absolute())) as container:
            stream = container.streams.video[0]
            if seconds is None:
                seconds = float((stream.duration or 0) * (stream.time_base or 0))
            return KeptSegment(stream.frames, seconds) if stream.frames else None
    except (av.FFmpegError, OSError, IndexError):
        return None
