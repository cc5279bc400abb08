"""From a decoded frame to the picture that a viewer would see: RGB, square pixels, upright, eight bits."""

from __future__ import annotations

import errno
import logging
from fractions import Fraction
from functools import cache
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from svg_common.video.hdr import BT2020, HDR_TRANSFERS, to_sdr
from svg_common.video.sample_depth import DEPTHS, bits_in_use, depth_note, to_eight_bits

_LOG = logging.getLogger(__name__)

_UNSPECIFIED, _BT709, _BT601 = 2, 1, 5  # colour matrices, by FFmpeg's numbers
_LIMITED_RANGE, _FULL_RANGE = 1, 2
_BLACK, _CONTRAST = 16, 219  # of limited range, at eight bits
_MATRICES = {8: "YCgCo", 10: "BT.2020 with constant luminance", 14: "ICtCp", 15: "IPT-C2", 16: "YCgCo-Re", 17: "YCgCo-Ro"}
_NOT_SUPPORTED = (errno.EOPNOTSUPP, errno.ENOSYS)
_WIDEST_PIXEL = 4  # anamorphic film is 2:1, half-width 16:9 television 128:45; what is beyond is a broken header
_SQUARE_ENOUGH = Fraction(1, 100)
_SIDE_DATA_TYPES = 64  # FFmpeg 8 has 33

_Matrix = tuple[int, int, int, int]  # a, b, c, d of a display matrix


class PictureConverter:
    """Turns the decoded frames of one stream into pictures as a viewer sees them.

    - Colours by the matrix and the range that the stream names; BT.601 where it names none, as FFmpeg does.
    - HDR (PQ and HLG) and BT.2020 become SDR in BT.709: see `svg_common.video.hdr`.
    - Pixels that are not square: the picture is enlarged along its shorter side. An aspect ratio beyond 4:1 is ignored.
    - Gray of limited range is expanded to full range.
    - RGB and gray of 16 bits: white is the largest value of the depth in use so far, as in `svg_common.video.picture_files`.
    - Turned and mirrored by the display matrix of the container or of the frame.

    Args:
        stream: a video stream of an open PyAV container.
    """

    def __init__(self, stream: Any) -> None:
        from av.video.reformatter import VideoReformatter

        self._codec = stream.codec_context
        self._container_aspect: Fraction | None = stream.sample_aspect_ratio
        self._first_aspect: Fraction | None = self._codec.sample_aspect_ratio
        self._aspect = self._pixel_aspect()
        self._bits = 0
        self._matrix: _Matrix | None = None
        # frame.reformat makes one for every frame, with threads of its own, and building its tables takes as long as converting
        self._reformatter = VideoReformatter()

    def convert(self, frame: Any) -> NDArray[np.uint8]:
        """Return `frame` as an image (H, W, 3) uint8 RGB.

        Raises:
            av.FFmpegError: it cannot be converted; `conversion_not_supported` says whether none of the stream can.
        """
        if frame.key_frame:  # an aspect ratio changes with a key frame, but the codec announces it before its picture is shown
            self._aspect = self._pixel_aspect()
        self._matrix = _display_matrix(frame) or self._matrix  # a codec sends it once, or now and then
        wide = self._codec.color_primaries == BT2020
        hdr = self._codec.color_trc in HDR_TRANSFERS
        deep = _has_16_bit_samples(frame.format)
        bits = _bits_of_limited_gray(frame)
        rgb = self._to_rgb(frame, "rgb48le" if wide or hdr or deep or bits > DEPTHS[0] else "rgb24")
        if bits:
            rgb = _expanded(rgb, bits)
        if wide or hdr:
            rgb = to_sdr(rgb, self._codec.color_trc, wide_gamut=wide)
        elif deep:
            rgb = self._to_eight_bits(rgb)
        elif rgb.dtype == np.uint16:
            rgb = to_eight_bits(rgb, DEPTHS[-1])
        return np.ascontiguousarray(_upright(rgb, self._matrix))

    def _to_rgb(self, frame: Any, rgb_format: str) -> NDArray[Any]:
        import av

        width, height = _square_size(frame.width, frame.height, self._aspect)
        colours: dict[str, int] = {}
        if not frame.format.is_rgb and len(frame.format.components) >= 3:
            matrix = _BT601 if frame.colorspace == _UNSPECIFIED else int(frame.colorspace)
            full = frame.color_range == _FULL_RANGE or frame.format.name.startswith("yuvj")
            # Old versions of PyAV convert by BT.601 and limited range unless the two matrices differ; RGB has none.
            colours = {
                "src_colorspace": matrix,
                "dst_colorspace": _BT601 if matrix == _BT709 else _BT709,
                "src_color_range": _FULL_RANGE if full else int(frame.color_range),
                "dst_color_range": _FULL_RANGE,
            }
        try:
            converted = self._reformatter.reformat(frame, width=width, height=height, format=rgb_format, **colours)
        except av.FFmpegError as error:
            if not conversion_not_supported(error):
                raise
            raise av.FFmpegError(error.errno or 0, _not_supported(frame)) from error
        image: NDArray[Any] = converted.to_ndarray()
        return image

    def _to_eight_bits(self, image: NDArray[Any]) -> NDArray[np.uint8]:
        bits = max(self._bits, bits_in_use(image))
        if bits != self._bits and bits < DEPTHS[-1]:
            _LOG.warning("%s", depth_note(bits))
        self._bits = bits
        return to_eight_bits(image, bits)

    def _pixel_aspect(self) -> Fraction:
        """Width of a pixel by its height: what the container says, unless the codec has changed its own since."""
        codec_aspect: Fraction | None = self._codec.sample_aspect_ratio
        changed = bool(codec_aspect) and codec_aspect != self._first_aspect
        aspect = codec_aspect if changed else self._container_aspect or codec_aspect
        if not aspect or not Fraction(1, _WIDEST_PIXEL) <= aspect <= _WIDEST_PIXEL or abs(aspect - 1) < _SQUARE_ENOUGH:
            return Fraction(1)
        return aspect


def conversion_not_supported(error: Any) -> bool:
    """Whether FFmpeg refused a conversion for what it is, not for the frame that was to be converted."""
    return error.errno in _NOT_SUPPORTED


def _not_supported(frame: Any) -> str:
    matrix = int(frame.colorspace)
    name = _MATRICES.get(matrix, f"number {matrix} of H.273" if matrix != _UNSPECIFIED else frame.format.name)
    return f"its colour space, {name}, is not supported"


def _bits_of_limited_gray(frame: Any) -> int:
    """Bits of a sample of gray in limited range, which FFmpeg takes for full range; 0 for all other frames."""
    components = frame.format.components
    bits = int(components[0].bits)
    is_gray = len(components) < 3 and not frame.format.is_rgb and not frame.format.has_palette
    is_limited = frame.color_range == _LIMITED_RANGE and DEPTHS[0] <= bits <= DEPTHS[-1]
    return bits if is_gray and is_limited else 0


def _expanded(rgb: NDArray[Any], bits: int) -> NDArray[Any]:
    """Gray in three equal channels, from limited range to full range."""
    table = _full_range(bits, rgb.dtype.name)
    # Not np.take for all: it is many times slower, as it first makes each sample an index of eight bytes.
    return cv2.LUT(rgb, table) if rgb.dtype == np.uint8 else cv2.merge([np.take(table, rgb[..., 0])] * 3)


@cache
def _full_range(bits: int, dtype: str) -> NDArray[Any]:
    """Table from samples of limited range to those of full range.

    Args:
        bits: of a sample before it was stretched over all values of `dtype`.
        dtype: of the samples and of the table.
    """
    largest = np.iinfo(dtype).max
    samples = np.arange(largest + 1) * (2**bits - 1) / largest
    unit = 2 ** (bits - DEPTHS[0])
    shares = (samples - _BLACK * unit) / (_CONTRAST * unit)
    table: NDArray[Any] = np.round(np.clip(shares, 0, 1) * largest).astype(dtype)
    return table


def _has_16_bit_samples(pixel_format: Any) -> bool:
    """Whether a format is RGB or gray of 16 bits, in which cameras store fewer; the depth of YUV is in its name."""
    components = pixel_format.components
    return components[0].bits == DEPTHS[-1] and (pixel_format.is_rgb or len(components) < 3)


def _square_size(width: int, height: int, aspect: Fraction) -> tuple[int, int]:
    return (round(width * aspect), height) if aspect >= 1 else (width, round(height / aspect))


def _upright(image: NDArray[Any], matrix: _Matrix | None) -> NDArray[Any]:
    """Turn and mirror `image` by the nearest of the eight orientations to a display matrix."""
    if matrix is None:
        return image
    # The matrix maps a stored point to the shown one: x' = a x + c y, y' = b x + d y, with y downwards.
    a, b, c, d = matrix
    swapped = abs(b) + abs(c) > abs(a) + abs(d)
    image = image.transpose(1, 0, 2) if swapped else image
    right, down = (c, b) if swapped else (a, d)
    return image[:: -1 if down < 0 else 1, :: -1 if right < 0 else 1]


def _display_matrix(frame: Any) -> _Matrix | None:
    from av.sidedata.sidedata import Type

    try:
        data = _side_data(frame).get(Type.DISPLAYMATRIX)
    except ValueError:  # PyAV lists no side data if it does not know the type of one, such as EXIF in Motion JPEG
        data = _listed_side_data(frame).get(Type.DISPLAYMATRIX)
    if data is None:
        return None
    values = np.frombuffer(data, np.int32)  # 3 x 3 in rows, 16.16 fixed point, in the byte order of the machine
    return (int(values[0]), int(values[1]), int(values[3]), int(values[4])) if values.size == 9 else None


def _side_data(frame: Any) -> Any:
    """What `frame.side_data` returns, but not kept in the frame.

    Each would hold the other, and hundreds of frames would wait for the garbage collector.
    """
    from av.sidedata.sidedata import SideDataContainer

    container: Any = SideDataContainer  # whose stubs lack the argument
    return container(frame)


def _listed_side_data(frame: Any) -> Any:
    """The side data of `frame` without those whose type PyAV does not know."""
    import av
    from av.sidedata.sidedata import Type

    graph = av.filter.Graph()
    types: Any = Type  # whose stubs take the values for types as well
    known = {kind.value for kind in types}
    steps = [graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 1000))]
    unknown = [kind for kind in range(_SIDE_DATA_TYPES) if kind not in known]
    steps += [graph.add("sidedata", f"mode=delete:type={kind}") for kind in unknown]
    steps.append(graph.add("buffersink"))
    for before, after in pairwise(steps):
        before.link_to(after)
    graph.configure()
    graph.push(frame)
    return _side_data(graph.pull())
