"""Cameras on the network for tests: small real servers on the loopback, whose pictures say their numbers."""

from __future__ import annotations

import base64
import itertools
import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from http.server import BaseHTTPRequestHandler

import av
import numpy as np

FPS = 50
GOP = 10  # pictures from one that needs no other to the next
_SDP = """v=0
o=- 0 0 IN IP4 127.0.0.1
s=camera
c=IN IP4 127.0.0.1
t=0 0
m=audio 0 RTP/AVP 8
a=control:sound
m=video 0 RTP/AVP 96
a=rtpmap:96 {codec}/90000
a=control:picture
"""
_LEVELS = 20  # of brightness, 10 apart, so that no codec blurs them


def picture(number: int) -> np.ndarray:
    """(48, 64, 3) RGB, whose mean says the number modulo 400: red the greater digit, green and blue the lesser one.

    Noise around it makes each picture several packets.
    """
    high, low = divmod(number % _LEVELS**2, _LEVELS)
    noise = np.random.default_rng(number).integers(-20, 21, (48, 64, 1))
    return (np.array([high, low, low]) * 10 + 30 + noise).astype(np.uint8)


def numbers_of(images: list[np.ndarray]) -> list[int]:
    """The numbers of pictures that were sent as `picture` made them."""
    digits = [np.rint((image.mean(axis=(0, 1)) - 30) / 10).astype(int).tolist() for image in images]
    assert all(green == blue for _, green, blue in digits)
    return [red * _LEVELS + green for red, green, _ in digits]


class _Packets:
    """What FFmpeg writes, packet by packet."""

    def __init__(self) -> None:
        self.waiting: list[bytes] = []

    def write(self, data: bytes) -> int:
        self.waiting.append(bytes(data))
        return len(data)

    def take(self) -> list[bytes]:
        taken, self.waiting = self.waiting, []
        return taken


def encoded(
    container_format: str, codec: str, fps: int = FPS, pictures: int | None = None, aspect: Fraction | None = None
) -> Iterator[list[bytes]]:
    """Packets of one picture after another, without end, as FFmpeg makes them; after `pictures` of them, only audio.

    `aspect`: width of a pixel by its height.
    """
    packets = _Packets()
    muxing = {"packetsize": "300", "max_interleave_delta": "1"}  # or sound would wait for pictures
    with av.open(packets, "w", format=container_format, options=muxing) as container:
        fixed = f"keyint={GOP}:scenecut=0:log-level=none"
        options = {"tune": "zerolatency", "x264-params": fixed, "x265-params": fixed} if codec.startswith("libx26") else {}
        stream = container.add_stream(codec, rate=fps, options=options)
        stream.width, stream.height = 64, 48
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.gop_size = GOP
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        sound = None if pictures is None else container.add_stream("mp2", rate=48_000, layout="mono")
        for number in itertools.count():
            if pictures is None or number < pictures:
                frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
                frame.pts, frame.time_base = number, Fraction(1, fps)
                container.mux(stream.encode(frame))
            if sound is not None:
                silence = av.AudioFrame.from_ndarray(np.zeros((1, 1152), np.int16), format="s16", layout="mono")
                silence.sample_rate, silence.pts = 48_000, number * 1152
                container.mux(sound.encode(silence))
            yield packets.take()


class NetworkCamera(socketserver.ThreadingTCPServer):
    """A camera's server.

    Attributes:
        address: host and port.
        password: of the user admin; None: not required.
        fps: pictures a second.
        codec: H264 or H265.
        lost: numbers of pictures of which the last packet is lost on the way.
        silent: while set, connections stay and nothing comes.
        sent_s: `time.monotonic()` at which the pictures of the last connection were sent.
        requests: the first line of each request.
    """

    allow_reuse_address = True
    daemon_threads = True

    def __init__(
        self, handler: type[socketserver.BaseRequestHandler], port: int = 0, password: str | None = None, fps: int = FPS,
        codec: str = "H264", lost: range = range(0),
    ) -> None:  # fmt: skip
        self.password, self.fps, self.codec, self.lost = password, fps, codec, lost
        self.silent, self.off = threading.Event(), threading.Event()
        self.requests: list[str] = []
        self.sent_s: list[float] = []
        super().__init__(("127.0.0.1", port), handler)
        self.address = f"127.0.0.1:{self.server_address[1]}"

    def live_packets(self, container_format: str, codec: str) -> Iterator[list[bytes]]:
        """The packets of one picture every 1 / `fps` seconds, until the camera is switched off."""
        self.sent_s = []
        for packets in encoded(container_format, codec, self.fps):
            while self.silent.is_set() and not self.off.is_set():
                time.sleep(0.01)
            if self.off.is_set():
                return
            yield packets[:-1] if len(self.sent_s) in self.lost else packets
            self.sent_s.append(time.monotonic())
            time.sleep(1 / self.fps)


@contextmanager
def switched_on(handler: type[socketserver.BaseRequestHandler], **options) -> Iterator[NetworkCamera]:
    """A camera that serves until the end of the block; connections then break."""
    with NetworkCamera(handler, **options) as camera:
        threading.Thread(target=camera.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield camera
        finally:
            camera.off.set()
            camera.shutdown()


class Rtsp(socketserver.StreamRequestHandler):
    """H.264 or H.265 over RTSP, RTP packets between the replies (RFC 2326, 10.12); with audio that no client sets up."""

    server: NetworkCamera

    def handle(self) -> None:
        while (request := self._request()) is not None:
            method, number, allowed = request
            if not allowed and method != "OPTIONS":
                self._reply("401 Unauthorized", number, 'WWW-Authenticate: Basic realm="camera"')
            elif method == "DESCRIBE":
                description = _SDP.format(codec=self.server.codec).replace("\n", "\r\n")
                self._reply("200 OK", number, "Content-Type: application/sdp", body=description)
            elif method == "SETUP":
                self._reply("200 OK", number, "Session: 1", "Transport: RTP/AVP/TCP;unicast;interleaved=0-1")
            elif method == "PLAY":
                self._reply("200 OK", number, "Session: 1")
                return self._play()
            else:
                self._reply("200 OK", number, "Public: DESCRIBE, SETUP, PLAY, TEARDOWN")

    def _request(self) -> tuple[str, str, bool] | None:
        """Method, sequence number, and whether the password is right."""
        lines = list(iter(lambda: self.rfile.readline().decode().strip(), ""))
        if not lines:
            return None
        self.server.requests.append(lines[0])
        headers = dict(line.split(": ", 1) for line in lines[1:])
        key = base64.b64encode(f"admin:{self.server.password}".encode()).decode()
        allowed = self.server.password is None or headers.get("Authorization") == f"Basic {key}"
        return lines[0].split()[0], headers["CSeq"], allowed

    def _reply(self, status: str, number: str, *headers: str, body: str = "") -> None:
        lines = [f"RTSP/1.0 {status}", f"CSeq: {number}", *headers, f"Content-Length: {len(body)}", "", body]
        self.wfile.write("\r\n".join(lines).encode())

    def _play(self) -> None:
        with suppress(OSError):  # until the other side hangs up
            for packets in self.server.live_packets("rtp", f"libx{self.server.codec[1:]}"):
                for packet in packets:
                    channel = 1 if packet[1] == 200 else 0  # a sender report of RTCP, or RTP
                    self.wfile.write(b"$" + bytes([channel]) + len(packet).to_bytes(2, "big") + packet)


class Mjpeg(BaseHTTPRequestHandler):
    """JPEG pictures as parts of one endless HTTP reply."""

    server: NetworkCamera

    def do_GET(self) -> None:
        """Reply."""
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace;boundary=ffmpeg")
        self.end_headers()
        with suppress(OSError):  # until the other side hangs up
            for part in self.parts():
                self.wfile.write(part)

    def parts(self) -> Iterator[bytes]:
        """The pictures."""
        return (b"".join(packets) for packets in self.server.live_packets("mpjpeg", "mjpeg"))

    def log_message(self, format: str, *arguments) -> None:
        """Say nothing."""


@contextmanager
def sent_to(port: int, pictures: int | None = None, aspect: Fraction | None = None) -> Iterator[None]:
    """MPEG-TS sent to a port of this machine over UDP, as a robot does, whether or not anything listens.

    With `pictures`, there is sound, and it goes on after so many of them.
    """
    off = threading.Event()

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for packets in encoded("mpegts", "libx264", FPS, pictures, aspect):
                data = b"".join(packets)
                for start in range(0, len(data), 1316):  # seven packets of MPEG-TS
                    sender.sendto(data[start : start + 1316], ("127.0.0.1", port))
                if off.wait(1 / FPS):
                    return

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    try:
        yield
    finally:
        off.set()
        thread.join()


def free_port() -> int:
    """Return a port on which nothing listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
