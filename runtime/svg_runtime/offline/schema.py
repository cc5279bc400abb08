"""The tables of `svg-forecast`. The number of `SCHEMA` grows when a reader of the old one would misread the new one."""

from __future__ import annotations

import math

import pyarrow as pa

# 2: camera_motion, a part of combined; 3: motion, likewise; 4: what lasts, in combined
# 5: surprise as a ratio of RMS errors, z_surprise of the error itself
SCHEMA = "svg-edge/forecasts/5"

_VIDEO = [
    pa.field("video_id", pa.string(), nullable=False),  # of this content at this address
    pa.field("video", pa.string(), nullable=False),  # path or address
]

# A row per frame that the model observed; a row group per video.
FRAMES = pa.schema(
    [
        *_VIDEO,
        pa.field("frame", pa.int32(), nullable=False),  # 0, 1, ... in the video, at the model's interval
        pa.field("time_s", pa.float64(), nullable=False),  # from the video's first picture
        pa.field("clip", pa.int32(), nullable=False),  # continuous piece of the video; a pause begins another
        pa.field("held", pa.bool_(), nullable=False),  # the picture before it again, in a short gap
        pa.field("empty", pa.string()),  # "blank", "frozen"; null: neither
        pa.field("misfit", pa.bool_(), nullable=False),  # the model does not fit these pictures
        pa.field("surprise", pa.float32()),  # in the unit that the metadata names
        pa.field("z_surprise", pa.float32()),  # robust standard deviations above what is usual in this video
        pa.field("z_error", pa.float32()),
        pa.field("z_motion", pa.float32()),
        pa.field("z_scene", pa.float32()),
        pa.field("z_camera_motion", pa.float32()),
        pa.field("z_combined", pa.float32()),
        # Of the forecasts of this frame that were made 1, 2, ..., horizon frames earlier; null: none was made then.
        pa.field("mse_best", pa.list_(pa.float32()), nullable=False),
        pa.field("mse_mean", pa.list_(pa.float32()), nullable=False),
        pa.field("mse_repeat", pa.list_(pa.float32()), nullable=False),
    ]
)

# A row per event.
EVENTS = pa.schema(
    [
        *_VIDEO,
        pa.field("kind", pa.string(), nullable=False),  # "alarm", "pause", "size_changed", "blank_picture", "misfit", ...
        pa.field("frame", pa.int32()),  # null: of the whole video
        pa.field("time_s", pa.float64()),
        pa.field("duration_s", pa.float64()),  # of an alarm, of a pause
        pa.field("signal", pa.string()),  # that raised an alarm, and its largest values
        pa.field("peak_surprise", pa.float32()),
        pa.field("peak_error", pa.float32()),
        pa.field("peak_motion", pa.float32()),
        pa.field("peak_scene", pa.float32()),
        pa.field("peak_camera_motion", pa.float32()),
        pa.field("peak_combined", pa.float32()),
        pa.field("message", pa.string(), nullable=False),
    ]
)

# A row per video.
VIDEOS = pa.schema(
    [
        *_VIDEO,
        pa.field("size", pa.int64(), nullable=False),  # bytes; -1: not known
        pa.field("version", pa.string(), nullable=False),  # time of the last change, ETag
        pa.field("status", pa.string(), nullable=False),  # "ok", "damaged": not all of it, "failed": none of it
        pa.field("reason", pa.string()),  # of a status that is not ok
        pa.field("frames", pa.int32(), nullable=False),  # rows in the table of frames
        pa.field("forecasts", pa.int32(), nullable=False),
        pa.field("alarms", pa.int32(), nullable=False),
        pa.field("duration_s", pa.float64(), nullable=False),
        pa.field("step_s", pa.float64()),  # nominal seconds per frame and forecast step; up to 5 % off, as the video's rate is
        pa.field("width", pa.int32()),  # of the video's last picture
        pa.field("height", pa.int32()),
    ]
)


def forecasts_schema(arrays: dict[str, tuple[int, ...]]) -> pa.Schema:
    """The table of the forecasts themselves, a file per video: a column of float16 bytes per array, in C order.

    Args:
        arrays: name -> shape, which is also in the field's metadata.
    """
    columns = [
        pa.field(
            name,
            pa.binary(2 * math.prod(shape)),
            nullable=False,
            metadata={"dtype": "float16", "shape": ",".join(map(str, shape))},
        )
        for name, shape in arrays.items()
    ]
    return pa.schema([_VIDEO[0], pa.field("frame", pa.int32(), nullable=False), *columns])
