"""All sessions of a server: opened up to a limit, found by id, closed when asked or when idle."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterable

from svg_runtime.serve import schema
from svg_runtime.serve.catalogue import Catalogue
from svg_runtime.serve.limits import ServeLimits
from svg_runtime.serve.problems import ProblemError
from svg_runtime.serve.session import Session, no_such_session

_IDLE_CHECK_S = 5.0


class SessionTable:
    """The sessions that are open, or are opening or closing: all of them hold memory, and count.

    Args:
        catalogue: models that may be opened.
        limits: of the server.
        computing: how many sessions may compute at the same time. An engine uses all its threads, so more would only get into
            each other's way.
    """

    def __init__(self, catalogue: Catalogue, limits: ServeLimits, computing: int = 1) -> None:
        self._catalogue = catalogue
        self._limits = limits
        self._computing = asyncio.Semaphore(computing)
        self._open: dict[str, Session] = {}
        self._held = 0  # also those that are opening and closing
        self._idle_watch: asyncio.Task[None] | None = None  # runs while sessions are open
        self.on_close: Callable[[str], None] = lambda reason: None  # called with why one was closed

    def __len__(self) -> int:
        return len(self._open)

    @property
    def about(self) -> schema.Sessions:
        """What clients are told about all of them."""
        return schema.Sessions(sessions=tuple(session.about for session in self._open.values()))

    async def open(self, request: schema.SessionRequest) -> Session:
        """Open a session. Others go on meanwhile.

        Raises:
            ProblemError: no such model, or no room.
            SvgError: it cannot be opened so.
        """
        model = self._catalogue.get(request.model)
        if model is None:
            raise ProblemError("invalid", f"model '{request.model[:40]}'", f"one of: {', '.join(self._catalogue.names)}")
        if self._held >= self._limits.sessions:
            raise ProblemError(
                "no-room", f"{self._held} sessions are open", f"at most {self._limits.sessions}",
                advice="close one with DELETE /v1/sessions/ID, or wait until one is closed because it is idle",
            )  # fmt: skip
        session = Session(
            name=secrets.token_hex(8), request=request, model=model, limits=self._limits, computing=self._computing
        )
        self._held += 1
        try:
            await session.open()
            self._open[session.name] = session
        except BaseException:
            await self._free(session)
            raise
        if self._idle_watch is None or self._idle_watch.done():
            self._idle_watch = asyncio.create_task(self._watch_idle())
        return session

    def get(self, name: str) -> Session:
        """The open session with this id.

        Raises:
            ProblemError: there is none.
        """
        if name not in self._open:
            raise no_such_session(name)
        return self._open[name]

    async def close(self, name: str, reason: str) -> None:
        """Close a session, and return when its memory is free.

        Raises:
            ProblemError: there is none with this id.
        """
        session = self.get(name)
        del self._open[name]
        await self._end(session, reason)

    async def close_idle(self) -> None:
        """Close the sessions that nobody has used for too long."""
        await self._close_all((name for name, session in self._open.items() if session.idle_s > self._limits.idle_s), "idle")

    async def _watch_idle(self) -> None:
        while self._open:
            await asyncio.sleep(min(self._limits.idle_s / 4, _IDLE_CHECK_S))
            await self.close_idle()

    async def close_all(self) -> None:
        """Close all sessions, at the end of the server."""
        await self._close_all(self._open, "end")

    async def _close_all(self, names: Iterable[str], reason: str) -> None:
        sessions = [self._open.pop(name) for name in list(names)]  # now: a client may close one of them meanwhile
        await asyncio.gather(*(self._end(session, reason) for session in sessions))

    async def _end(self, session: Session, reason: str) -> None:
        await self._free(session)
        self.on_close(reason)

    async def _free(self, session: Session) -> None:
        try:
            await session.close()
        finally:
            self._held -= 1
