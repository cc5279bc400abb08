"""The routes of the page, as an ASGI application."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
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
from svg_runtime.live.page.controls import read_change
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
_LATE = 50  # entries for a client that joins, of each camera's alarms, and of all else of it


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
        """Server-sent events; with ?live=1 also the signals and numbers of all cameras."""
        # A browser that connects again by itself sends the header; a page that does it can only ask.
        last_id = request.headers.get("last-event-id") or request.query_params.get("last", "")
        last = self._page.board.number_of(last_id)
        messages = self._messages(last, live=request.query_params.get("live") == "1")
        return self._stream_answer(request, messages, "text/event-stream")

    async def _messages(self, last: int | None, live: bool) -> AsyncIterator[str]:
        yield "retry: 2000\n\n"
        entries = self._page.board.after(0, most=_LATE) if last is None else self._page.board.after(last)
        points = dict.fromkeys(self._page.cameras, 0)
        slices = 0
        while not self._page.closing:
            messages = [entry.as_server_sent() for entry in entries]
            if entries:
                last = entries[-1].number
            if live:
                messages += self._live_messages(points, with_state=slices % round(_STATE_S / _SLICE_S) == 0)
            if not messages and slices % round(_HEARTBEAT_S / _SLICE_S) == 0:
                messages = [": still here\n\n"]
            if messages:
                yield "".join(messages)
            await asyncio.sleep(_SLICE_S)
            slices += 1
            entries = self._page.board.after(last or 0)

    def _live_messages(self, points: dict[str, int], with_state: bool) -> list[str]:
        """Points of the chart since the last ones, and the numbers; before these, of which cameras there are any."""
        messages = []
        if with_state:
            messages.append(_message("cameras", {"cameras": list(self._page.cameras)}))
        for key, camera in self._page.cameras.items():
            new = camera.history.after(points.get(key, 0))
            if new:
                points[key] = new[-1][0]
                messages.append(_message("signals", {"camera": key, "points": new}))
            if with_state:
                messages.append(_message("state", camera.state()))
        return messages

    async def _change(self, request: Request) -> Response:
        camera = self._camera(request)
        try:
            done = camera.ask(read_change(await request.body()))
            if done is not None:
                await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(done)), _APPLY_S)
        except SvgError as error:
            return _json({"error": str(error).replace("\n  ", "; ")}, 422)
        except (asyncio.TimeoutError, TimeoutError):
            return _json({"error": _NOT_YET}, 202)
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


def _json(values: Any, status: int = 200) -> Response:
    return JSONResponse(storable(values), status)


def _explain(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return PlainTextResponse(f"{error.detail}\n", error.status_code, headers=error.headers)
