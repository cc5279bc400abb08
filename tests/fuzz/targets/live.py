"""What svg-live is given: addresses of cameras, its configuration, and the headers of video files."""

from __future__ import annotations

import importlib
from functools import partial
from pathlib import Path

import numpy as np

from svg_common.video.container import missing_bytes
from svg_common.video.reader import VideoReader
from svg_runtime.live.cli import live
from svg_runtime.live.config.camera_keys import CAMERA_KEYS
from svg_runtime.live.config.live_config import LiveConfig
from svg_runtime.live.config.settings import settings_of
from svg_runtime.live.sources.addresses import is_stream_address, require_stream_address, stream_name
from tests.fuzz.mutations import mutate_bytes
from tests.fuzz.scratch import scratch_file
from tests.fuzz.target import Target

for late in ("av.audio.codeccontext", "av.subtitles.codeccontext", "av.subtitles.subtitle"):
    importlib.import_module(late)  # PyAV imports them for the first stream of their kind

_ADDRESS_WORDS = (
    b"rtsp://", b"RTSP:/", b"http:", b"://", b"user:pass@", b"@", b"[::1]", b":554", b"/a?b#c", b"#", b"%23",
    b"\xed\xb2\x80", b"synthetic://",
    b"file://", b"udp://@239.0.0.1:1234", b"\\", b"\x00", b"\xff",
)  # fmt: skip
_BOXES = (
    b"ftyp", b"moov", b"mdat", b"free", b"uuid", b"RIFF", b"AVI ", b"\x00\x00\x00\x01mdat" + b"\xff" * 8,
    b"\x00\x00\x00\x00mdat", b"\xff" * 4,
    b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67", b"\x01" + b"\xff" * 7, b"\x08\x00\x00\x00", b"\x00\x00\x00\x08free",
)  # fmt: skip
_SETTINGS = settings_of(live)
_CONFIG_WORDS = (
    b"\xef\xbb\xbf", b"[cameras.a]\n", b"[cameras]\n", b"[[cameras]]\n", b'[cameras."a/../b"]\n',
    b"cameras = 1\n", b"cameras.a.b = 1\n",
    b"${HOME}", b"$${HOME}", b"${NOT_SET_ANYWHERE}", b"${", b"= true\n", b"= inf\n", b"= nan\n", b"= 1e400\n",
    b"= 9" + b"9" * 5000, b"= 1979-05-27T07:32:00Z\n",
    b"= []\n", b"= [[1]]\n", b"[" * 2000, b'= ""\n', b'= "/"\n', b'"\\u0000"', b'"""',
    *(f"{key} = ".encode() for key in _SETTINGS),
)  # fmt: skip


def read_address(data: bytes) -> None:
    source = data.decode("utf-8", "surrogateescape")  # as Python decodes arguments
    shown = stream_name(source)
    assert is_stream_address(source) in (True, False)
    assert "/" not in shown.partition("://")[2]
    require_stream_address(source)


def read_config(path: Path) -> None:
    """All cameras together, then each alone, up to the values that the command gets."""
    loaded = LiveConfig.load(path, _SETTINGS)
    loaded.password_warning()
    for table in loaded.tables(CAMERA_KEYS, {}).values():
        loaded.values(table)
    for name in loaded.cameras or (None,):
        written = loaded.choose(name, {})
        loaded.values(written)
        assert all(loaded.portable(key, value) is not None for key, value in written.items())


def read_video(path: Path) -> None:
    """Every picture, as training and svg-live read it."""
    with VideoReader(path) as reader:
        for count, frame in enumerate(reader):
            assert frame.image.dtype == np.uint8
            if count == 20:
                break


TARGETS = {
    "address": Target(read=read_address, mutate=partial(mutate_bytes, words=_ADDRESS_WORDS)),
    "live-config": Target(
        read=read_config, place=partial(scratch_file, "live.toml"), mutate=partial(mutate_bytes, words=_CONFIG_WORDS)
    ),
    "video-container": Target(
        read=missing_bytes, place=partial(scratch_file, "video"), mutate=partial(mutate_bytes, words=_BOXES)
    ),
    "video": Target(read=read_video, place=partial(scratch_file, "video"), mutate=partial(mutate_bytes, words=_BOXES)),
}
