"""The routes of the page, as an ASGI application."""

from __future__ import annotations

import asyncio
import json
import math
import re
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Protocol

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import (
    FileResponse,
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from svg_common.errors import SvgError
from svg_common.files import storable
from svg_runtime.live.page.board import Board
from svg_runtime.live.page.camera import PageCamera
from svg_runtime.live.page.controls import Change, read_change
from svg_runtime.live.page.held_summary import HeldSummary
from svg_runtime.live.page.metrics import CONTENT_TYPE, Metrics
from svg_runtime.live.page.studio import Feed, Shot
from svg_runtime.web.limits import StreamSlots

STATIC = Path(__file__).with_name("static")
_STATIC_FILES = {
    "page.css": "text/css",
    "page.js": "text/javascript",
    "chart.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}
PICTURES = re.compile(r"/cameras/[^/]+/(stream\.mjpg|picture\.jpg|futures\.jpg|snapshot\.png)")
_BOUNDARY = "picture"
_REPEAT_S = 10.0  # a picture is sent again, so that a client that is gone is noticed
_PICTURE_S = 5.0  # how long a single picture may take
_APPLY_S = 3.0  # how long a change may take: the loop applies it between two frames
_SLICE_S, _STATE_S, _HEARTBEAT_S = 0.5, 1.0, 10.0
_NOT_YET = "not applied yet: it is as soon as there are new pictures; other samples or steps need a whole context of them"
_PIECE = 100  # points of the chart in one message: over a slow link something comes soon, and no other client waits long


@dataclass(frozen=True)
class _Wanted:
    """What a client of the events asks for.

    Attributes:
        last: number of the entry that it has seen last; None: none of this run.
        live: "1": entries, numbers and signals; "numbers": these alone; else entries alone.
        camera: of which alone; None: of all.
        since_s: time of the point of the chart that it has seen last.
    """

    last: int | None
    live: str
    camera: str | None
    since_s: float


class Page(Protocol):
    """What the routes need of `LivePage`."""

    cameras: dict[str, PageCamera]
    board: Board
    closing: bool
    summary: HeldSummary


class Routes:
    """All routes of a page.

    Args:
        page: whose cameras are shown.
        slots: limits streams.
    """

    def __init__(self, page: Page, slots: StreamSlots) -> None:
        self._page = page
        self._slots = slots
        self._metrics = Metrics(
            cameras=lambda: list(page.cameras.values()), streams=lambda: slots.count, summary=lambda: page.summary()
        )

    def app(self) -> Starlette:
        """The application, without access control."""
        camera = "/cameras/{key}"
        reads = {
            "/": self._html, "/static/{file}": self._static, "/favicon.ico": self._icon,
            "/healthz": self._health, "/healthz/": self._health,
            "/metrics": self._read_metrics, "/metrics/": self._read_metrics,
            "/stats.json": self._all_stats, "/cameras.json": self._states, "/events": self._events,
            camera: self._html, f"{camera}/": self._html,
            f"{camera}/stats.json": self._stats, f"{camera}/state.json": self._state,
            f"{camera}/stream.mjpg": self._stream, f"{camera}/picture.jpg": self._picture,
            f"{camera}/futures.jpg": self._futures, f"{camera}/snapshot.png": self._snapshot,
            f"{camera}/clips/{{file}}": self._clip,
        }  # fmt: skip
        routes = [Route(path, endpoint, methods=["GET"]) for path, endpoint in reads.items()]
        routes.append(Route(f"{camera}/controls", self._change, methods=["POST"]))
        app = Starlette(routes=routes, exception_handlers={HTTPException: _explain})
        app.router.redirect_slashes = False  # to a whole address, which leaves the path and the TLS of a proxy
        return app

    # 1) the page itself

    async def _html(self, request: Request) -> Response:
        root = "./"  # relative: a proxy may put everything below a path
        if "key" in request.path_params:
            if self._page.cameras:  # else they may come: the page waits for them
                self._camera(request)
            root = "../../" if request.scope["path"].endswith("/") else "../"
        return HTMLResponse((STATIC / "index.html").read_text(encoding="utf-8").replace("{root}", root))

    async def _static(self, request: Request) -> Response:
        name = request.path_params["file"]
        if name not in _STATIC_FILES:
            raise HTTPException(404, "no such file")
        return FileResponse(STATIC / name, media_type=_STATIC_FILES[name], headers={"cache-control": "no-cache"})

    async def _icon(self, request: Request) -> Response:
        return RedirectResponse("static/icon.svg", 308)

    # 2) numbers

    async def _health(self, request: Request) -> Response:
        problems = {camera.key: camera.problem() for camera in self._page.cameras.values()}
        found = [f"{key}: {problem}" for key, problem in problems.items() if problem is not None]
        if not problems:
            found = ["starting"]
        return PlainTextResponse("\n".join(found or ["ok"]) + "\n", 503 if found else 200)

    async def _read_metrics(self, request: Request) -> Response:
        return Response(await run_in_threadpool(self._metrics.text), headers={"content-type": CONTENT_TYPE})

    async def _all_stats(self, request: Request) -> Response:
        return _json(self._page.summary())

    async def _stats(self, request: Request) -> Response:
        return _json(self._camera(request).summary())

    async def _states(self, request: Request) -> Response:
        return _json([camera.state() for camera in self._page.cameras.values()])

    async def _state(self, request: Request) -> Response:
        return _json(self._camera(request).state())

    # 3) pictures

    async def _stream(self, request: Request) -> Response:
        """The live picture, one after another, as browsers show it in an img."""
        camera = self._camera(request)
        kind = f"multipart/x-mixed-replace; boundary={_BOUNDARY}"
        return self._stream_answer(request, self._parts(camera, _live_feed(camera, request)), kind)

    async def _parts(self, camera: PageCamera, feed: Feed) -> AsyncIterator[bytes]:
        """A browser shows a part when the headers of the next one have come, so they are sent at once."""
        shot: Shot | None = None
        head = f"--{_BOUNDARY}\r\nContent-Type: image/jpeg\r\n\r\n".encode()
        yield head
        while not self._page.closing:
            number = 0 if shot is None else shot.number
            shot = await _within(_REPEAT_S, camera.picture(feed, number)) or shot
            if self._page.closing:
                return
            if shot is not None:
                yield shot.data + b"\r\n" + head

    async def _picture(self, request: Request) -> Response:
        camera = self._camera(request)
        return Response(await _single(camera, _live_feed(camera, request)), media_type="image/jpeg")

    async def _futures(self, request: Request) -> Response:
        camera = self._camera(request)
        return Response(await _single(camera, camera.grid), media_type="image/jpeg")

    async def _snapshot(self, request: Request) -> Response:
        camera = self._camera(request)
        data = await _single(camera, camera.png)
        name = f"{camera.key}-{datetime.now(timezone.utc):%Y%m%dT%H%M%SZ}.png"
        return Response(data, media_type="image/png", headers={"content-disposition": f'attachment; filename="{name}"'})

    async def _clip(self, request: Request) -> Response:
        path = self._camera(request).clip(request.path_params["file"])
        if path is None:
            raise HTTPException(404, "no such clip: it was removed, or is still being written")
        return FileResponse(path, media_type="video/mp4" if path.suffix == ".mp4" else "image/png")

    # 4) events and changes

    async def _events(self, request: Request) -> Response:
        """Server-sent events; see `_Wanted`."""
        # A browser that connects again by itself sends the header; a page that does it can only ask.
        last_id = request.headers.get("last-event-id") or request.query_params.get("last", "")
        query = request.query_params
        wanted = _Wanted(
            last=self._page.board.number_of(last_id), live=query.get("live", ""), camera=query.get("camera"),
            since_s=_since(query.get("since")),
        )  # fmt: skip
        return self._stream_answer(request, self._messages(wanted), "text/event-stream")

    async def _messages(self, wanted: _Wanted) -> AsyncIterator[str]:
        yield "retry: 2000\n\n"
        last = wanted.last
        points: dict[str, float] = {}  # seconds of the newest one that was sent, by camera
        slices = 0
        while not self._page.closing:
            entries = [] if wanted.live == "numbers" else self._page.board.after(last, wanted.camera)
            last = entries[-1].number if entries else last or 0
            if entries:
                yield "".join(entry.as_server_sent() for entry in entries)
            if wanted.live in ("1", "numbers"):
                for message in self._live_messages(wanted, points, with_state=slices % round(_STATE_S / _SLICE_S) == 0):
                    yield message
                    await asyncio.sleep(0)  # lets others have their turn
            elif not entries and slices % round(_HEARTBEAT_S / _SLICE_S) == 0:
                yield ": still here\n\n"
            await asyncio.sleep(_SLICE_S)
            slices += 1

    def _live_messages(self, wanted: _Wanted, points: dict[str, float], with_state: bool) -> Iterator[str]:
        """Of which cameras there are any; then the numbers of each, and points of its chart since the last ones."""
        if with_state:
            yield _message("cameras", {"cameras": list(self._page.cameras)})
        for key, camera in self._page.cameras.items():
            if wanted.camera not in (None, key):
                continue
            if with_state:
                yield _message("state", camera.state())
            new = camera.history.after(points.get(key, wanted.since_s)) if wanted.live == "1" else []
            for begin in range(0, len(new), _PIECE):
                piece = new[begin : begin + _PIECE]
                points[key] = piece[-1][1]
                yield _message("signals", {"camera": key, "points": piece})

    async def _change(self, request: Request) -> Response:
        camera = self._camera(request)
        try:
            change = read_change(await request.body())
            done = camera.ask(change)
            if done is not None:
                applied = asyncio.wrap_future(done)
                await asyncio.wait([applied], timeout=_APPLY_S)
                if not applied.done():
                    return _not_yet(camera, change, applied)
                applied.result()
        except SvgError as error:
            return _json({"error": _in_a_line(error)}, 422)
        return _json(camera.state())

    def _camera(self, request: Request) -> PageCamera:
        camera = self._page.cameras.get(request.path_params["key"])
        if camera is None:
            raise HTTPException(404, "no camera of this name; /cameras.json has them, as camera")
        return camera

    def _stream_answer(self, request: Request, pieces: AsyncIterator[Any], kind: str) -> Response:
        if request.method == "HEAD":
            return Response(headers={"content-type": kind})
        return _StreamAnswer(self._slots, request.client.host if request.client else "", pieces, kind)


class _StreamAnswer(StreamingResponse):
    """An answer that does not end by itself: 503 if no slot is free for its client.

    It holds its slot from the check on, until it has ended or was cancelled, even if it never began.
    """

    def __init__(self, slots: StreamSlots, client: str, pieces: AsyncIterator[Any], kind: str) -> None:
        super().__init__(pieces, headers={"content-type": kind})
        self._slots = slots
        self._client = client

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._slots.taken_by(self._client) as is_free:
            if not is_free:
                raise HTTPException(503, "too many streams are open; close some pages", headers={"retry-after": "5"})
            await super().__call__(scope, receive, send)


def _live_feed(camera: PageCamera, request: Request) -> Feed:
    """The live picture, with ?size=small for a phone: of the overlays that are a display of their own."""
    sizes = {"small": camera.small, "large": camera.live}
    size = request.query_params.get("size", "large")
    if size not in sizes:
        raise HTTPException(400, f"size: expected one of {', '.join(sizes)}")
    return sizes[size]


def _since(text: str | None) -> float:
    """Seconds of a point of the chart; those of before a reboot are of no use."""
    try:
        seconds = -math.inf if text is None else float(text)
    except ValueError:
        seconds = math.nan
    if math.isnan(seconds):
        raise HTTPException(400, "since: expected the seconds of a point of the chart")
    return seconds if seconds <= time.monotonic() else -math.inf


def _not_yet(camera: PageCamera, change: Change, applied: asyncio.Future[None]) -> Response:
    """The client does not wait any longer, so it hears by an entry if the change is refused."""
    name = uuid.uuid4().hex

    def note(late: asyncio.Future[None]) -> None:
        error = late.exception()
        if error is not None:
            camera.note_refused(change, name, _in_a_line(error))

    applied.add_done_callback(note)
    return _json({"error": _NOT_YET, "change": name}, 202)


async def _single(camera: PageCamera, feed: Feed) -> bytes:
    # The first picture is not waited for: it may come in days, and a browser has six connections, which other cameras need.
    shot = None if feed.newest() is None else await _within(_PICTURE_S, camera.picture(feed))
    if shot is None:
        raise HTTPException(503, "no picture: the source gives none", headers={"retry-after": "1"})
    return shot.data


async def _within(seconds: float, picture: Any) -> Shot | None:
    try:
        shot: Shot | None = await asyncio.wait_for(picture, seconds)
    except (asyncio.TimeoutError, TimeoutError):
        return None
    return shot


def _message(event: str, values: dict[str, Any]) -> str:
    return f"event: {event}\ndata: {json.dumps(storable(values), allow_nan=False)}\n\n"


def _in_a_line(error: BaseException) -> str:
    return str(error).replace("\n  ", "; ")


def _json(values: Any, status: int = 200) -> Response:
    return JSONResponse(storable(values), status)


def _explain(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return PlainTextResponse(f"{error.detail}\n", error.status_code, headers=error.headers)
