"""The page: its server, the thread that makes its pictures, and its cameras."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Sequence

from svg_runtime.live.page.board import Board
from svg_runtime.live.page.camera import CameraAbout, PageCamera, key_of
from svg_runtime.live.page.controls import ChangeQueue, Settings
from svg_runtime.live.page.held_summary import HeldSummary
from svg_runtime.live.page.options import PageOptions
from svg_runtime.live.page.routes import PICTURES, Routes
from svg_runtime.live.page.studio import Studio
from svg_runtime.live.stats import LiveStats
from svg_runtime.web.access import Access, AccessControl
from svg_runtime.web.address import listen
from svg_runtime.web.limits import StreamSlots, WebLimits
from svg_runtime.web.serving import ServerThread

# How long a thread may hold Python's lock while another waits for it. A forecast takes it a hundred times, between one graph
# and the next; at Python's own 5 ms, each time that the server happens to hold it costs that much.
_SWITCH_S = 0.0002


class LivePage:
    """`open` and `start` it before the model, add the cameras, set `summary`, and `close` it at the end.

    Attributes:
        access: address with its port, and the token.
        cameras: by their names in addresses.
        board: what happened.
        closing: streams are to end.
        summary: gives the statistics of the run, as in --json.
    """

    def __init__(self, sock: socket.socket, access: Access, report: Callable[[str], None]) -> None:
        limits = WebLimits()
        self.access = access
        self.cameras: dict[str, PageCamera] = {}
        self.board = Board()
        self.closing = False
        self._switch_s = sys.getswitchinterval()
        self.summary = HeldSummary(dict)
        self._reported: set[str] = set()
        self._report = report
        self._studio = Studio(self._on_error)
        self._changes = ChangeQueue()
        routes = Routes(self, StreamSlots(limits))
        app = AccessControl(routes.app(), access, limits, basic_paths=PICTURES, on_error=self._on_error)
        self._server = ServerThread(app, sock, limits)

    @classmethod
    def open(cls, options: PageOptions, report: Callable[[str], None]) -> LivePage:
        """Take the address.

        Args:
            options: where to serve.
            report: gets warnings for the user.

        Raises:
            AddressError: the address cannot be taken.
        """
        sock, address = listen(options.address)
        return cls(sock, Access(address, options.token, options.names), report)

    def add_cameras(self, joining: Sequence[tuple[CameraAbout, Settings, LiveStats]]) -> list[PageCamera]:
        """Add cameras, before their first pictures; a client sees all of them or none."""
        cameras = dict(self.cameras)  # the server may be reading the old one
        joined = []
        for about, settings, stats in joining:
            key = key_of(about.name, set(cameras))
            camera = PageCamera(
                key=key, about=about, settings=settings, stats=stats, studio=self._studio, board=self.board,
                changes=self._changes,
            )  # fmt: skip
            cameras[key] = camera
            joined.append(camera)
            stats.events.listen(camera.on_event)
            stats.alarms.listeners.append(camera.on_alarm)
        self.cameras = cameras
        return joined

    def start(self) -> None:
        """Answer requests; until there are cameras, that the run is starting.

        Raises:
            SvgError: the server does not start.
        """
        sys.setswitchinterval(min(sys.getswitchinterval(), _SWITCH_S))
        self._studio.start()
        self._server.start()

    def on_event(self, kind: str, message: str) -> None:
        """Record an event of the run as a whole, not of one camera; any thread may call this."""
        self.board.add("event", "", {"kind": kind, "message": message})

    def close(self) -> None:
        """End all streams and the server, within two seconds. May be called twice."""
        self.closing = True
        self._studio.close()
        self._server.stop()
        sys.setswitchinterval(self._switch_s)

    def _on_error(self, error: Exception) -> None:
        """A bug, or no memory: said once for each kind; the run goes on."""
        kind = type(error).__name__
        if kind not in self._reported:
            self._reported.add(kind)
            self._report(f"the page failed to answer: {kind}: {error}")
