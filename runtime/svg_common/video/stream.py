"""Choice of the stream of a container that is its film: never a cover, a thumbnail or a tile of a still picture."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

_PICTURE_CODECS = frozenset(("bmp", "gif", "mjpeg", "png", "tiff", "webp"))
_COUNTED_PICTURES = 300
_COUNTED_BYTES = 32 << 20
_FEW = 10  # a stream with less than this share of another's pictures is one of covers, thumbnails or slides
_STILL_BRANDS = frozenset(("avif", "heic", "heim", "heis", "heix", "mif1"))


class NoFilmError(Exception):
    """A container has no video stream, or none that is a film. The text is the reason."""


def count_pictures(container: Any) -> dict[int, int]:
    """Read the first packets of an open file and return the pictures per index of a video stream; the file must be opened anew.

    Empty if the headers say enough: Matroska and MPEG-TS, for example, do not announce how many pictures a stream has.
    """
    import av

    streams = container.streams.video
    if not streams or (len(streams) == 1 and not (container.streams.audio and _in_picture_codec(streams))):
        return {}
    pictures = {stream.index: 0 for stream in streams}
    size = 0
    try:
        for packet in container.demux(*streams):
            if packet.size:  # an empty one marks the end, and bears no index
                pictures[packet.stream_index] += 1
            size += packet.size
            if sum(pictures.values()) >= _COUNTED_PICTURES or size > _COUNTED_BYTES:
                break
    except (av.FFmpegError, IndexError):  # PyAV's own at the end of a file in which a further stream appears
        pass  # damage is reported when the pictures are decoded
    return pictures


def film_stream(container: Any, pictures: Mapping[int, int] | None = None) -> Any:
    """Return the video stream of an open PyAV container that is its film.

    Covers, thumbnails and tiles are marked by the container's dispositions, or known by their few pictures, or are in a codec
    for pictures beside one for films. Then the container's default goes before others, and a larger picture before a smaller.

    Args:
        container: an open container.
        pictures: those of `count_pictures`; not known for a network camera.

    Raises:
        NoFilmError: the container has no video stream, or only a cover or a still picture.
    """
    from av.stream import Disposition

    streams = [stream for stream in container.streams.video if stream.codec_context is not None]
    if container.streams.video and not streams:
        raise NoFilmError("FFmpeg has no decoder for its codec")
    if not streams:
        raise NoFilmError(f"the format is '{container.format.name}', without a video stream")
    # Tiles of a HEIC picture are streams that depend on each other.
    parts = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image | Disposition.dependent
    films = [stream for stream in streams if not stream.disposition & parts]
    if container.metadata.get("major_brand") in _STILL_BRANDS and all(stream.frames <= 1 for stream in streams):
        raise NoFilmError("it is a still picture (HEIC or AVIF), not a video; convert it to PNG or JPEG")
    counted = pictures or {}
    one_beside_sound = container.streams.audio and bool(counted) and max(counted.values()) == 1 and _in_picture_codec(films)
    if not films or one_beside_sound:
        raise NoFilmError("it has a cover or a still picture, but no video")
    return max(films, key=lambda stream: _film_rank(stream, counted))  # the first of equals


def _in_picture_codec(streams: Iterable[Any]) -> bool:
    contexts = [stream.codec_context for stream in streams]
    return all(context is not None and context.name in _PICTURE_CODECS for context in contexts)


def _film_rank(stream: Any, counted: Mapping[int, int]) -> tuple[bool, bool, bool, bool, int]:
    from av.stream import Disposition

    codec = stream.codec_context
    area = (codec.width or 0) * (codec.height or 0)
    count, most = stream.frames or counted.get(stream.index, 0), max(counted.values(), default=0)
    few = count < most and (count <= 1 or count * _FEW < most)
    is_default = bool(stream.disposition & Disposition.default)
    # Matroska and MPEG-TS do not announce `frames`, which is then 0; MP4 does, and its streams may lie one after the other.
    return stream.frames != 1, not few, codec.name not in _PICTURE_CODECS, is_default, area
