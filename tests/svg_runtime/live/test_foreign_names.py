"""Sources as other programs take them are refused with the line that works here, before anything is opened."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from svg_common.errors import UsageError
from svg_runtime.live.cli import app
from svg_runtime.live.sources import SourceOptions, check_source
from svg_runtime.live.sources.foreign_names import camera_number
from svg_runtime.live.sources.network import explain_missing_stream


@pytest.fixture
def clips(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my clips").mkdir()
    for name in ("a.mp4", "b.mp4", "only.avi"):
        (tmp_path / "my clips" / name).touch()
    return tmp_path


PIPELINE = "nvarguscamerasrc ! video/x-raw(memory:NVMM),width=1280 ! nvvidconv ! appsink"
CASES = [
    ("0", "--camera 0"),
    ("12", "--camera 12"),
    ("/dev/video97", "--camera 97"),
    ("v4l2:97", "--camera 97"),
    ("file:///data/a%20b/x.mp4", "--source '/data/a b/x.mp4'"),
    ("file://localhost/data/x.mp4", "--source /data/x.mp4"),
    ("FILE:/data/x.mp4", "--source /data/x.mp4"),
    ("file:x.mp4", "--source x.mp4"),
    ("file:/data/x.mp4", "--source /data/x.mp4"),
    ("file://clips/x.mp4", "--source clips/x.mp4"),
    ("user:s3cret@host:554/x", "--source rtsp://..."),
    ("//user:s3cret@host/x?channel=1", "--source rtsp://..."),
    ("/etc/svg/user:s3cret@host/x", "--source rtsp://..."),
    ("clips/user:s3cret/x@host/x", "--source rtsp://..."),
    ("*.mov", "--source ."),
    ("my clips/*.mp4", "--source 'my clips'"),
    ("my clips/[ab].mp4", "--source 'my clips'"),
    ("my clips/o*.avi", "--source 'my clips/only.avi'"),
    ("shots/frame_%04d.png", "--source shots"),
    ("shots/%d.png", "--source shots"),
    ("v4l2src ! videoconvert ! appsink", "--camera 0"),
    ("v4l2src device=/dev/video2 ! videoconvert ! appsink", "--camera 2"),
    ("filesrc location=x.mp4 ! decodebin ! appsink", "--source x.mp4"),
    ("rtspsrc location=rtsp://user:s3cret@host/x ! decodebin ! appsink", "--source rtsp://..."),
    (PIPELINE, "--source udp://127.0.0.1:5000"),
    (PIPELINE * 80, "--source udp://127.0.0.1:5000"),
]


@pytest.mark.parametrize(("source", "line"), CASES)
def test_the_message_ends_with_the_line_that_works(clips, source, line):
    with pytest.raises(UsageError) as refused:
        check_source(SourceOptions(source=source))
    assert str(refused.value).endswith(line)
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize(
    "address",
    ["rtsp://user:s3cret@host/cam/realmonitor?channel=1&subtype=0", "http://host/video.mjpg?user=a&password=s3cret",
     "RTSP://user:s3cret%20d@host/x", "http://user:s3cret@host/[a]*.mjpg", "udp://@239.0.0.1:1234?pkt_size=1316",
     "rtsp://user:s3cret%2d@host/a%2d"],
)  # fmt: skip
def test_an_address_is_no_pattern(clips, address):
    check_source(SourceOptions(source=address))


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("viewer:${PASSWORD}@10.0.0.5/stream2", "--source rtsp://..."),
        ("//viewer:${PASSWORD}@10.0.0.5/stream2", "--source rtsp://..."),
        ("0", "--camera 0"),
        ("v4l2src ! videoconvert ! appsink", "--camera 0"),
        ("file:x.mp4", "--source x.mp4"),
        ("*.mov", "--source of-the-gate"),  # the folder of the file, as for any path
    ],
)
def test_a_file_of_options_gets_the_same_advice(clips, monkeypatch, source, line):
    monkeypatch.setenv("PASSWORD", "s3cret")
    (clips / "of-the-gate").mkdir()
    (clips / "of-the-gate" / "live.toml").write_text(f"source = '{source}'\nheadless = true\n")
    result = CliRunner().invoke(app, ["--config", "of-the-gate/live.toml", "--max-frames", "1"])
    assert isinstance(result.exception, UsageError)
    assert str(result.exception).endswith(line)
    assert "s3cret" not in str(result.exception)


@pytest.mark.parametrize(
    "address",
    ["srt://host:9000?passphrase=s3cret", "webrtc://user:s3cret@host?token=s3cret", "file://user:s3cret@host/x.mp4",
     "rtsp:/user:s3cret@host/x?channel=1", "synthetic://digits?s3cret"],
)  # fmt: skip
def test_a_refused_address_is_not_repeated(clips, address):
    with pytest.raises(UsageError) as refused:
        check_source(SourceOptions(source=address))
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize("name", ["0", "a*.mp4", "f%03d.png", "a ! b", "a:b@c.mp4"])
def test_a_file_of_that_name_is_taken(clips, name):
    (clips / name).touch()
    check_source(SourceOptions(source=name))


@pytest.mark.parametrize("source", ["0", "file:///x.mp4", PIPELINE])
def test_the_command_refuses_it_before_any_other_advice(source):
    result = CliRunner().invoke(app, ["--source", source, "--headless"])  # alone, --headless would be refused, too
    assert isinstance(result.exception, UsageError)
    assert "the source" in str(result.exception)


def test_a_pattern_that_the_shell_expanded_gets_the_folder_as_advice():
    result = CliRunner().invoke(app, ["--source", "a.mp4", "b.mp4", "c.mp4", "--headless"])
    assert isinstance(result.exception, UsageError)
    assert "b.mp4 c.mp4\n" in str(result.exception)
    assert str(result.exception).endswith("--source FOLDER/")


def test_every_sign_that_cuts_a_password_short_is_named():
    message = explain_missing_stream("rtsp://user:s3#cret@host/x", "401 Unauthorized")
    for sign, code in {"#": "%23", "@": "%40", "/": "%2F", "?": "%3F", "%": "%25", ":": "%3A"}.items():
        assert f"{code} for {sign}" in message
    assert "s3" not in message
    assert "http://USER:PASSWORD@" in explain_missing_stream("http://host/x", "401 Unauthorized")
    refused = explain_missing_stream("rtsp://user:s3cret@host/x", "401 Unauthorized")
    assert "refused the user name and password" in refused
    assert "%3A for :" in refused
    assert "s3cret" not in refused


@pytest.mark.parametrize("address", ["rtsp://user:s3cret@host/cam?channel=1*[0]", "HTTP://host/%d.jpg?k=s3cret"])
def test_signs_of_a_pattern_in_an_address_are_part_of_it(address):
    check_source(SourceOptions(source=address))


def test_an_unknown_address_with_signs_of_a_pattern_keeps_its_secrets():
    with pytest.raises(UsageError, match="expected a file") as refused:
        check_source(SourceOptions(source="onvif://user:s3cret@host/x?y*"))
    assert "s3cret" not in str(refused.value)


def test_a_camera_is_known_by_number_and_by_device(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "7").write_bytes(b"a file of that name")
    given = ("0", "/dev/video12", "v4l2:///dev/video1", "7", "clip.mp4", "rtsp://host/1")
    assert [camera_number(source) for source in given] == [0, 12, 1, None, None, None]


@pytest.mark.parametrize("source", ["", " "])
def test_an_empty_source_is_not_this_folder(source):
    with pytest.raises(UsageError, match="--source is empty"):
        check_source(SourceOptions(source=source))
