"""Codecs: H.264 is written and read in memory; of the others, whether FFmpeg has a decoder."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from svg_runtime.doctor.finding import Finding

_DECODERS = {"hevc": "H.265", "mjpeg": "MJPEG", "vp9": "VP9", "av1": "AV1"}
_PICTURES, _SIDE = 8, 64
_TOLERANCE = 12.0  # gray levels, of pictures that H.264 compressed
_ADVICE = "pip install --force-reinstall av"


def check() -> list[Finding]:
    """Try them."""
    return [_h264(), *(_decoder(name, shown) for name, shown in _DECODERS.items())]


def _h264() -> Finding:
    import av

    try:
        difference = round_trip()
    except (av.FFmpegError, ValueError, OSError) as error:
        return Finding("H.264", "problem", f"it cannot be written or read: {error}", _ADVICE)
    if difference > _TOLERANCE:
        return Finding("H.264", "problem", f"it comes back {difference:.0f} gray levels off", _ADVICE)
    return Finding("H.264", "ok", f"{_PICTURES} pictures written and read in memory")


def round_trip() -> float:
    """Encode a moving edge, decode it, and return the mean difference in gray levels.

    Raises:
        ValueError: there is no such encoder, or pictures are missing.
        av.FFmpegError: they fail.
    """
    import av
    from av.video.codeccontext import VideoCodecContext

    encoder: Any = VideoCodecContext.create("libx264", "w")
    encoder.width = encoder.height = _SIDE
    encoder.pix_fmt = "yuv420p"
    encoder.framerate = 10
    written = [_picture(index) for index in range(_PICTURES)]
    packets = []
    for picture in written:
        packets += encoder.encode(av.VideoFrame.from_ndarray(picture, format="gray").reformat(format="yuv420p"))
    packets += encoder.encode(None)
    decoder: Any = VideoCodecContext.create("h264", "r")
    frames = [frame for packet in [*packets, None] for frame in decoder.decode(packet)]
    if len(frames) != _PICTURES:
        raise ValueError(f"{_PICTURES} pictures were written, and {len(frames)} read")
    read = np.stack([frame.to_ndarray(format="gray") for frame in frames])
    return float(np.abs(read.astype(np.float32) - np.stack(written)).mean())


def _picture(index: int) -> NDArray[np.uint8]:
    picture = np.full((_SIDE, _SIDE), 60, np.uint8)
    picture[:, index * 4 : index * 4 + 16] = 180
    return picture


def _decoder(name: str, shown: str) -> Finding:
    import av

    try:
        codec = av.codec.Codec(name, "r")
    except ValueError:
        return Finding(shown, "missing", "this FFmpeg cannot read it", _ADVICE)
    return Finding(shown, "ok", f"can be read ({codec.name})")
