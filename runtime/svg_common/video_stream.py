"""Choice of the stream of a container that is its film: never a cover, a thumbnail or a tile of a still picture."""

from __future__ import annotations

from typing import Any

_PICTURE_CODECS = frozenset(("bmp", "gif", "mjpeg", "png", "tiff", "webp"))
_STILL_BRANDS = frozenset(("avif", "heic", "heim", "heis", "heix", "mif1"))


class NoFilmError(Exception):
    """A container has no video stream, or none that is a film. The text is the reason."""


def film_stream(container: Any) -> Any:
    """Return the video stream of an open PyAV container that is its film.

    Covers, thumbnails and tiles are marked by the container's dispositions, or known by their count of one, or are in a codec
    for pictures beside one for films. Then the container's default goes before others, and a larger picture before a smaller.

    Raises:
        NoFilmError: the container has no video stream, or only a cover or a still picture.
    """
    from av.stream import Disposition

    streams = [stream for stream in container.streams.video if stream.codec_context is not None]
    if container.streams.video and not streams:
        raise NoFilmError("FFmpeg has no decoder for its video")
    if not streams:
        raise NoFilmError(f"the format is '{container.format.name}', without a video stream")
    # Tiles of a HEIC picture are streams that depend on each other.
    parts = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image | Disposition.dependent
    films = [stream for stream in streams if not stream.disposition & parts]
    if container.metadata.get("major_brand") in _STILL_BRANDS and all(stream.frames <= 1 for stream in streams):
        raise NoFilmError("it is a still picture (HEIC or AVIF), not a video; convert it to PNG or JPEG")
    if not films:
        raise NoFilmError("it has a cover or a still picture, but no video")
    return max(films, key=_film_rank)  # the first of equals


def _film_rank(stream: Any) -> tuple[bool, bool, bool, int]:
    from av.stream import Disposition

    codec = stream.codec_context
    area = (codec.width or 0) * (codec.height or 0)
    # `frames` is 0 where the container does not announce it, as Matroska and MPEG-TS.
    return stream.frames != 1, codec.name not in _PICTURE_CODECS, bool(stream.disposition & Disposition.default), area
