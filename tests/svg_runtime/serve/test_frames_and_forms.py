"""Bodies of requests: every form of a frame and of a forecast, and what is refused."""

from __future__ import annotations

import gzip
import io
import struct
import tracemalloc
import zlib

import cv2
import numpy as np
import pytest

from svg_runtime.live.preprocess import Preprocessor
from svg_runtime.serve import frames
from svg_runtime.serve.answers import encode
from svg_runtime.serve.api import _accepted_form
from svg_runtime.serve.frames import FrameReader
from svg_runtime.serve.problems import ProblemError
from svg_runtime.serve.schema import FrameForm
from tests.svg_runtime.serve.serve_helpers import RAW, array_of, digits, encoded, open_session, send

GRAY = FrameForm(height=64, width=64, channels=1, colour_order="gray")
PICTURE = np.random.default_rng(2).integers(0, 255, (70, 90, 3), np.uint8)


def reader(**options) -> FrameReader:
    return FrameReader(GRAY, **{"max_pixels": 10_000, **options})


def read(body: bytes, media_type: str = frames.RAW, dtype: str = "float32", shape: str | None = None) -> np.ndarray:
    return reader().read(body, media_type, dtype, shape)


def refusal(body: bytes, **options) -> str:
    with pytest.raises(ProblemError) as refused:
        read(body, **options)
    return f"{refused.value.kind.name}: {refused.value.body.detail}"


# ---- Frames ----


def test_raw_numbers_of_the_models_size_are_the_frame():
    frame = digits(1)[0]
    assert np.array_equal(read(frame.astype("<f4").tobytes()), frame)
    eight_bits = (frame * 255).astype(np.uint8)
    assert np.array_equal(read(eight_bits.tobytes(), dtype="uint8"), eight_bits.astype(np.float32) / np.float32(255))


@pytest.mark.parametrize(
    ("picture", "shape"), [(PICTURE, "70,90,3"), (PICTURE[..., 0], "70,90"), (PICTURE[..., :1], "70,90,1")]
)
def test_raw_bytes_of_any_size_are_fitted_as_svg_live_does(picture, shape):
    expected = Preprocessor(64, 64, 1).fit(picture)
    assert np.array_equal(read(picture.tobytes(), dtype="uint8", shape=shape), expected)


def test_a_line_is_a_picture():
    line = reader(max_pixels=120_000).read(bytes(120_000), frames.RAW, "uint8", "1,120000")
    assert line.shape == (64, 64, 1)


@pytest.mark.parametrize(
    ("options", "refused"),
    [
        ({"shape": "32,64,1"}, "invalid: a float32 frame of shape (32, 64, 1)"),
        ({"shape": "64,64,3"}, "invalid: a float32 frame of shape (64, 64, 3)"),
        ({}, "invalid: 7 bytes"),
        ({"dtype": "uint8", "shape": "70,90,3"}, "invalid: 7 bytes"),
        ({"dtype": "uint8", "shape": "70,90,2"}, "invalid: shape=70,90,2"),
        ({"dtype": "uint8", "shape": "0,90"}, "invalid: shape=0,90"),
        ({"dtype": "uint8", "shape": "٣,٣"}, "invalid: shape=٣,٣"),
        ({"dtype": "uint8", "shape": "500,500"}, "too-large: a picture of 500x500 pixels"),
        ({"dtype": "uint8", "shape": "123456,100000,3"}, "too-large: a picture of 100000x123456 pixels"),
        ({"media_type": "image/png"}, "invalid: the body is not a whole PNG picture"),
    ],
)  # fmt: skip
def test_bodies_that_are_no_frame_are_refused(options, refused):
    assert refusal(b"1234567", **options) == refused


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_pictures_that_are_damaged_are_refused(kind):
    whole = encoded(PICTURE, f".{kind}")
    assert refusal(whole[:-40], media_type=f"image/{kind}") == f"invalid: the body is not a whole {kind.upper()} picture"
    other = "jpeg" if kind == "png" else "png"
    assert "not a whole" in refusal(whole, media_type=f"image/{other}")
    damaged = whole[:60] + bytes(200) + whole[260:]
    assert refusal(damaged, media_type=f"image/{kind}").startswith("invalid") or kind == "jpeg"  # which decodes what is left


def test_a_gray_picture_with_16_bits_keeps_its_brightness():
    """As cameras store 12 bits in 16; the depth is kept for the session."""
    bright = np.full((64, 64), 4095, np.uint16)
    known = reader()
    assert known.read(encoded(bright, ".png"), "image/png", "float32", None).mean() == 1.0
    assert known.read(encoded(bright // 2, ".png"), "image/png", "float32", None).mean() == pytest.approx(0.5, abs=0.01)


def test_a_reset_session_forgets_how_deep_its_pictures_were(client):
    """Sixteen bits before, twelve after."""
    deep = encoded(np.full((64, 64), 65535, np.uint16), ".png")
    twelve = [encoded(np.full((64, 64), level, np.uint16), ".png") for level in (4095, 3000, 2000, 4095, 1000)]
    options = {"samples": 2, "horizon": 2, "seed": 4}
    used, fresh = open_session(client, **options), open_session(client, **options)
    for body in (deep, twelve[0]):
        assert client.post(f"{used}/frames", content=body, headers={"content-type": "image/png"}).status_code == 200
    assert client.post(f"{used}/reset").status_code == 204
    for session in (used, fresh):
        for body in twelve:
            assert client.post(f"{session}/frames", content=body, headers={"content-type": "image/png"}).status_code == 200
    assert client.post(f"{used}/forecast").content == client.post(f"{fresh}/forecast").content


def bomb(kind: str) -> bytes:
    """A small file that says it has 30000 x 30000 pixels."""
    content = encoded(np.zeros((8, 8), np.uint8), f".{kind}")
    if kind == "png":
        return content[:16] + struct.pack(">II", 30000, 30000) + content[24:]
    at = content.index(b"\xff\xc0")
    return content[: at + 5] + struct.pack(">HH", 30000, 30000) + content[at + 9 :]


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_pictures_are_measured_before_they_are_decoded(kind, monkeypatch):
    monkeypatch.setattr(frames, "decode_picture", lambda content: pytest.fail("decoded"))
    tracemalloc.start()
    assert refusal(bomb(kind), media_type=f"image/{kind}") == "too-large: a picture of 30000x30000 pixels"
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def test_names_in_a_png_do_not_reach_the_terminal_of_the_server(capfd):
    """A colour profile that is no profile: libpng warns of it by name. The pixels remain what they are."""
    whole = encoded(PICTURE, ".png")
    profile = png_chunk(b"iCCP", b"\x1b[31m\nforged\0\0" + zlib.compress(np.random.default_rng(0).bytes(500)))
    comment = png_chunk(b"tEXt", b"Comment\0IDAT")
    hostile = whole[:33] + comment + profile + whole[33:]
    cv2.imdecode(np.frombuffer(hostile, np.uint8), cv2.IMREAD_COLOR)
    assert "forged" in capfd.readouterr().err
    assert np.array_equal(read(hostile, "image/png"), read(whole, "image/png"))
    assert "forged" not in capfd.readouterr().err


def test_a_png_of_very_many_chunks_is_refused():
    whole = encoded(PICTURE, ".png")
    hostile = whole[:33] + png_chunk(b"tEXt", b"a\0b") * 5000 + whole[33:]
    assert "more than 4096 chunks" in refusal(hostile, media_type="image/png")


def test_a_jpeg_of_very_many_scans_is_refused():
    content = encoded(PICTURE, ".jpeg")
    assert "not a whole" in refusal(content[:-2] + b"\xff\xda" * 100 + content[-2:], media_type="image/jpeg")


def test_a_jpeg_cannot_show_another_size_than_the_decoder_finds():
    """FF 00 is no marker: libjpeg looks for the next one right behind it, and finds the real header."""
    content = encoded(np.zeros((300, 400), np.uint8), ".jpeg")
    scan = content.index(b"\xff\xda")
    header = content[2:scan]
    small = b"\xff\xc0" + struct.pack(">HBHHB", 17, 8, 8, 8, 3) + bytes(9)
    comment = b"\xff\xfe" + struct.pack(">H", 2 + len(small))
    for nothing in (b"\xff\x00", b"\xff\xff\x00"):
        skipped = nothing + struct.pack(">H", 2 + len(header) + len(comment))
        hostile = content[:2] + skipped + header + comment + small + content[scan:]
        assert cv2.imdecode(np.frombuffer(hostile, np.uint8), cv2.IMREAD_GRAYSCALE).shape == (300, 400)
        assert "not a whole" in refusal(hostile, media_type="image/jpeg")


class CountsLooks(bytes):
    """The content of a file, which counts how often it is looked into."""

    looks = 0

    def __getitem__(self, place):
        self.looks += 1
        return super().__getitem__(place)


@pytest.mark.parametrize("marker", [b"\xff", b"\xff\x01"])
def test_of_a_jpeg_of_markers_without_end_few_are_read(marker):
    content = CountsLooks(b"\xff\xd8" + marker * 30_000 + b"\xff\xda\xff\xd9")
    assert "not a whole" in refusal(content, media_type="image/jpeg")
    assert 0 < content.looks < 10_000


def test_headers_of_every_jpeg_of_opencv_are_read():
    for options in ([], [cv2.IMWRITE_JPEG_PROGRESSIVE, 1], [cv2.IMWRITE_JPEG_RST_INTERVAL, 4], [cv2.IMWRITE_JPEG_OPTIMIZE, 1]):
        content = cv2.imencode(".jpg", PICTURE, options)[1].tobytes()
        assert frames._jpeg_size(content) == (70, 90)
        assert frames._jpeg_size(content[:2] + b"\xff" * 3 + content[2:]) == (70, 90)  # fill bytes


def test_what_is_refused_is_not_observed(client):
    session = open_session(client)
    for content in (
        b"",
        b"123",
        np.full((64, 64, 1), 2, np.float32).tobytes(),
        np.full((64, 64, 1), np.nan, np.float32).tobytes(),
    ):
        assert client.post(f"{session}/frames", content=content, headers=RAW).status_code == 422
    assert send(client, session, digits(1)[0])["index"] == 0


@pytest.mark.parametrize("kind", ["application/json", "image/gif", "text/plain", ""])
def test_other_types_of_frames_are_refused(client, kind):
    refused = client.post(f"{open_session(client)}/frames", content=b"GIF89a", headers={"content-type": kind})
    assert (refused.status_code, refused.json()["type"]) == (415, "/#wrong-type")
    assert "image/png" in refused.json()["expected"]


def test_compressed_bodies_are_refused_and_said_to_be(client):
    session = open_session(client, samples=1, horizon=1)
    frame = digits(1)[0].tobytes()
    for path, kind, body in (("/frames", RAW["content-type"], frame), ("/forecast", "application/json", b"{}")):
        headers = {"content-type": kind, "content-encoding": "GZIP"}
        refused = client.post(session + path, content=gzip.compress(body), headers=headers)
        assert (refused.status_code, refused.json()["detail"]) == (415, "Content-Encoding: gzip")
        assert refused.headers["accept-encoding"] == "identity"
    plain = client.post(f"{session}/frames", content=frame, headers={**RAW, "content-encoding": "identity"})
    assert plain.json()["index"] == 0


@pytest.mark.parametrize(
    ("path", "detail"),
    [
        ("/forecast?samples=2", "samples in the query"), ("/reset?seed=1", "seed in the query"),
        ("/reset?x=", "x in the query"),
        ("/frames?dtpe=uint8", "dtpe in the query"), ("/frames?dtype=uint8&dtype=float32", "dtype is 2 times in the query"),
    ],
)  # fmt: skip
def test_values_in_the_query_that_would_be_ignored_are_refused(client, path, detail):
    session = open_session(client, samples=1, horizon=1)
    refused = client.post(session + path, content=digits(1)[0].tobytes(), headers=RAW)
    assert (refused.status_code, refused.json()["detail"]) == (422, detail)
    assert client.get(f"{session}?from=a-link").json()["observed"] == 0


@pytest.mark.parametrize("query", ["dtype=uint8", "dtype=float32", "shape=70,90,3", "shape="])
@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_pictures_are_not_described_in_the_query(client, query, kind):
    session = open_session(client, samples=1, horizon=1)
    headers = {"content-type": f"image/{kind}"}
    refused = client.post(f"{session}/frames?{query}", content=encoded(PICTURE, f".{kind}"), headers=headers)
    name = query.partition("=")[0]
    assert (refused.status_code, refused.json()["type"]) == (422, "/#invalid")
    assert refused.json()["detail"] == f"{name} in the query, with Content-Type: image/{kind}"
    assert client.get(session).json()["observed"] == 0


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(("method", "path"), [("POST", "/reset"), ("DELETE", "")])
def test_a_body_that_would_be_ignored_is_refused(client, method, path, chunked):
    session = open_session(client, samples=1, horizon=1)
    send(client, session, digits(1)[0])
    headers = {"content-type": "application/json"}
    for body in (b'{"seed": 7}', b"{"):
        refused = client.request(method, session + path, content=iter([body]) if chunked else body, headers=headers)
        assert (refused.status_code, refused.json()["type"]) == (422, "/#invalid")
    assert client.get(session).json()["observed"] == 1
    for nothing in (b"{}", b"") if path else (b"",):  # some libraries send an empty object
        answer = client.request(method, session + path, content=iter([nothing]) if chunked else nothing, headers=headers)
        assert answer.status_code == 204


def test_closing_has_no_query(client):
    session = open_session(client, samples=1, horizon=1)
    refused = client.delete(f"{session}?force=1")
    assert (refused.status_code, refused.json()["expected"]) == (422, "no query")
    assert client.delete(session).status_code == 204


def test_what_was_expected_is_said_once(client):
    outside = np.full((64, 64, 1), 2, np.float32).tobytes()
    refused = client.post(f"{open_session(client)}/frames", content=outside, headers=RAW)
    assert refused.json()["expected"] == "(64, 64, 1) float32 in [0, 1]"


@pytest.mark.parametrize("chunked", [False, True])
def test_bodies_that_are_too_large_are_refused(open_client, chunked):
    with open_client(frame_bytes=20_000, json_bytes=100) as client:
        session = open_session(client)
        for path, headers in (("/frames", RAW), ("/forecast", {"content-type": "application/json"})):
            body = b"x" * 30_000
            refused = client.post(session + path, content=iter([body]) if chunked else body, headers=headers)
            assert (refused.status_code, refused.json()["type"]) == (413, "/#too-large")
        assert send(client, session, digits(1)[0])["index"] == 0


# ---- Forecasts ----

FUTURES = np.random.default_rng(3).random((2, 3, 4, 5, 3), np.float32)  # samples, steps, height, width, channels


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
@pytest.mark.parametrize("what", ["samples", "mean", "mean_and_spread"])
def test_raw_npy_and_npz_hold_the_same_numbers(what, dtype):
    mean, spread = FUTURES.mean(axis=0), FUTURES.std(axis=0)
    expected = {"samples": FUTURES, "mean": mean, "mean_and_spread": np.stack([mean, spread])}[what]
    expected = expected if dtype == "float32" else np.rint(expected * np.float32(255)).astype(np.uint8)
    raw = encode(FUTURES, what, "raw", dtype)
    assert raw.headers["Svg-Shape"] == ",".join(map(str, expected.shape))
    assert len(raw.headers["Svg-Axes"].split(",")) == expected.ndim
    assert raw.body == expected.tobytes()
    assert np.array_equal(np.load(io.BytesIO(encode(FUTURES, what, "npy", dtype).body)), expected)
    with np.load(io.BytesIO(encode(FUTURES, what, "npz", dtype).body)) as arrays:
        assert list(arrays) == (["mean", "spread"] if what == "mean_and_spread" else [what])
        assert np.array_equal(np.squeeze(np.stack([arrays[name] for name in arrays])), expected)


@pytest.mark.parametrize(("what", "rows"), [("samples", 2), ("mean", 1), ("mean_and_spread", 2)])
def test_a_png_has_a_row_each_and_a_column_for_each_step(what, rows):
    picture = cv2.cvtColor(
        cv2.imdecode(np.frombuffer(encode(FUTURES, what, "png", "float32").body, np.uint8), 1), cv2.COLOR_BGR2RGB
    )
    assert picture.shape == (rows * 4, 3 * 5, 3)
    first = FUTURES[0, 1] if what == "samples" else FUTURES.mean(axis=0)[1]
    assert np.array_equal(picture[:4, 5:10], np.rint(first * 255).astype(np.uint8))
    if what == "mean_and_spread":
        assert np.array_equal(picture[4:, :5], np.rint(FUTURES.std(axis=0)[0] * 2 * 255).astype(np.uint8))


def test_a_picture_beyond_what_png_holds_is_refused():
    with pytest.raises(ProblemError, match="a PNG of 1200000x1 pixels"):
        encode(np.zeros((1, 1_200_000, 1, 1, 1), np.float32), "samples", "png", "uint8")


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        ("*/*", "raw"), ("", None), ("application/json", "json"), ("image/*", "png"), ("text/html", None),
        ("application/x-npz;q=0.5, application/x-npy", "npy"), ("application/json;q=0, image/png;q=0.1", "png"),
        ("image/png;q=x", None), ("text/html, */*;q=0.1", "raw"), ("APPLICATION/X-NPZ", "npz"),
        ("application/octet-stream;q=0, */*", "npy"), ("*/*, application/*;q=0", "png"), ("*/*;q=0, image/png", "png"),
        ("image/*;q=0.3, application/json;q=0.3", "png"), ("image/png;q=nan", None),
    ],
)  # fmt: skip
def test_the_header_accept_chooses_the_form(accept, form):
    if form is None:
        with pytest.raises(ProblemError, match="Accept"):
            _accepted_form(accept)
    else:
        assert _accepted_form(accept) == form


def test_a_header_accept_on_several_lines_is_one(client):
    session = open_session(client, samples=1, horizon=1)
    for frame in digits(5):
        send(client, session, frame)
    lines = [("accept", "text/html"), ("accept", "application/json")]
    assert client.post(f"{session}/forecast", headers=lines).json()["samples"] == 1


def test_the_form_comes_from_the_body_then_from_accept(client):
    session = open_session(client, samples=2, horizon=3)
    for frame in digits(5):
        send(client, session, frame)
    strip = client.post(f"{session}/forecast", headers={"accept": "image/png"})
    assert strip.headers["content-type"] == "image/png"
    summary = client.post(f"{session}/forecast", json={"format": "json"}, headers={"accept": "image/png"}).json()
    assert (summary["index"], summary["samples"], len(summary["spread"]), len(summary["change"])) == (4, 2, 3, 3)
    assert array_of(client.post(f"{session}/forecast", json={"what": "mean", "dtype": "uint8"})).shape == (3, 64, 64, 1)
    assert client.post(f"{session}/forecast", headers={"accept": "text/html"}).status_code == 406


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"samples": 0}, 422), ({"samples": "2"}, 422), ({"what": "median"}, 422), ({"noise": 1}, 422), ([], 422),
        ({"samples": 64, "horizon": 1000}, 413), ({"samples": 65}, 413),
    ],
)  # fmt: skip
def test_forecasts_that_cannot_be_are_refused(client, body, status):
    session = open_session(client, samples=1, horizon=1)
    for frame in digits(5):
        send(client, session, frame)
    refused = client.post(f"{session}/forecast", json=body)
    assert refused.status_code == status, refused.text
    assert refused.json()["advice"]
