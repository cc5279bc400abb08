"""One session: a forecaster in a thread of its own, whose requests take turns.

A GPU context belongs to the thread that made it, so opening, observing, forecasting and closing happen in that thread. Opening
one session, which may take seconds, therefore holds up no other.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from svg_runtime.errors import ForecastError, SvgError
from svg_runtime.forecast.forecaster import Forecaster
from svg_runtime.forecast.forecaster import Observation as Seen
from svg_runtime.serve import schema
from svg_runtime.serve.answers import Answer, encode, summarize
from svg_runtime.serve.catalogue import ServedModel, frame_bytes
from svg_runtime.serve.frames import FrameReader
from svg_runtime.serve.limits import ServeLimits
from svg_runtime.serve.problems import ProblemError

_LOG = logging.getLogger(__name__)
_Result = TypeVar("_Result")
_THREAD_NAME = "session "
_Stage = Literal["receiving", "computing", "sending"]
_ADVICE: dict[_Stage, str] = {  # to those who have waited too long, by what the request before them does
    "receiving": "a body before this one is still arriving: send smaller ones, or wait until it is there",
    "computing": "ask for fewer samples, or for a shorter horizon",
    "sending": "an answer before this one is still on its way: read it to its end, or close its connection",
}


class Session:
    """A forecaster that one client feeds.

    Args:
        name: its id.
        request: what the client asked for.
        model: to open.
        limits: of the server.
        computing: how many sessions may compute at the same time, shared by all.
    """

    def __init__(
        self, name: str, request: schema.SessionRequest, model: ServedModel, limits: ServeLimits, computing: asyncio.Semaphore
    ) -> None:
        self.name = name
        self.request = request
        self.model = model
        self.closed = False
        self.last_used = time.monotonic()
        self._limits = limits
        self._computing = computing
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=_THREAD_NAME + name)
        self._turn = asyncio.Lock()
        self._stage: _Stage = "receiving"  # of the request whose turn it is
        self._waiting = 0
        self._reader = FrameReader(model.about.frame, limits.pixels)
        self._forecaster: Forecaster | None = None
        self._context: schema.Context = request.context or model.about.context
        self._observed = 0
        self._last_frame: NDArray[np.float32] | None = None

    @property
    def idle_s(self) -> float:
        """Seconds since the last request ended; 0 while one runs."""
        return 0.0 if self._turn.locked() else time.monotonic() - self.last_used

    @property
    def about(self) -> schema.Session:
        """What clients are told about it."""
        model = self.model.about
        return schema.Session(
            id=self.name,
            model=model.name,
            samples=self.request.samples,
            horizon=self.request.horizon,
            seed=self.request.seed,
            context=self._context,
            post_process=self.request.post_process,
            frame=model.frame,
            n_past=model.n_past,
            frame_interval_s=model.frame_interval_s,
            surprise_unit=model.surprise_unit,
            observed=self._observed,
            missing=self._missing,
            idle_timeout_s=self._limits.idle_s,
        )

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait until no other request of this session runs. Whatever large a request holds in memory, it holds within its turn.

        Raises:
            ProblemError: too many wait already, this one has waited too long, or the session was closed meanwhile.
        """
        if self._waiting > self._limits.waiting:
            raise ProblemError(
                "busy", f"{self._waiting} requests of session {self.name} are running or waiting",
                f"at most {self._limits.waiting + 1}", advice="wait for an answer before you send the next request",
            )  # fmt: skip
        self._waiting += 1
        try:
            await self._take_turn()
            try:
                if self.closed:
                    raise no_such_session(self.name)
                self._stage = "receiving"
                yield
            finally:
                self._turn.release()
        finally:
            self._waiting -= 1
            self.last_used = time.monotonic()

    async def _take_turn(self) -> None:
        try:
            await asyncio.wait_for(self._turn.acquire(), self._limits.wait_s)
        except asyncio.TimeoutError:
            raise ProblemError(
                "busy", f"the requests before this one took more than {self._limits.wait_s:g} s",
                advice=_ADVICE[self._stage],
            ) from None  # fmt: skip

    async def open(self) -> None:
        """Open the forecaster and run it once, so that the first forecast is not slow.

        Raises:
            SvgError: it cannot be opened so.
        """
        request = self.request

        def open_warm() -> Forecaster:
            forecaster = self.model.open(
                samples=request.samples,
                horizon=request.horizon,
                seed=request.seed,
                context=request.context,
                post_process=request.post_process,
            )
            try:
                forecaster.warm_up()
            except BaseException:
                _free(forecaster)
                raise
            return forecaster

        self.check_size(request.samples, request.horizon)
        self._forecaster = await self._in_thread(open_warm)
        self.last_used = time.monotonic()  # engines may take longer to build than a session may be idle

    async def observe(self, body: bytes, media_type: str, dtype: schema.Dtype, shape: str | None) -> schema.Observation:
        """Read the next frame, in its turn; see `FrameReader.read`.

        Raises:
            ProblemError: the body is not a frame of this model. It is then ignored.
            SvgError: the frame is refused, or the engine failed.
        """

        def read(forecaster: Forecaster) -> Seen:
            frame = self._reader.read(body=body, media_type=media_type, dtype=dtype, shape=shape)
            try:
                seen = forecaster.observe(frame)
            except ForecastError:  # the frame has been read all the same
                self._keep(frame)
                raise
            self._keep(frame)
            return seen

        seen = await self._compute(read)
        return schema.Observation(
            index=seen.index,
            surprise=seen.surprise,
            scores=tuple(schema.Score(**asdict(each)) for each in seen.scores),
            missing=self._missing,
        )

    async def forecast(self, request: schema.ForecastRequest, form: schema.Format) -> Answer:
        """Forecast, in its turn, and return the answer in one of the forms.

        Raises:
            ProblemError: too few frames were observed, or the forecast would be too large.
            SvgError: wrong counts, or the engine failed.
        """
        if self._missing:
            raise ProblemError(
                "not-ready", f"{self._observed} of {self.model.about.n_past} frames observed",
                advice=f"send {self._missing} more with POST /v1/sessions/{self.name}/frames", missing=self._missing,
            )  # fmt: skip
        samples, horizon = request.samples or self.request.samples, request.horizon or self.request.horizon
        self.check_size(samples, horizon)

        def forecast_and_encode(forecaster: Forecaster) -> Answer:
            futures = forecaster.forecast(samples, horizon)
            index = {"Svg-Frame-Index": str(self._observed - 1)}
            if form == "json":
                assert self._last_frame is not None
                summary = summarize(futures, self._last_frame, self._observed - 1)
                return Answer(summary.model_dump_json().encode(), "application/json", index)
            answer = encode(futures, request.what, form, request.dtype)
            return Answer(answer.body, answer.media_type, {**answer.headers, **index})

        return await self._compute(forecast_and_encode)

    async def reset(self) -> None:
        """Discard all frames, in its turn, and restart the noise from the seed."""

        def reset(forecaster: Forecaster) -> None:
            forecaster.reset()
            self._reader.reset()
            self._observed = 0
            self._last_frame = None

        await self._compute(reset)

    async def close(self) -> None:
        """Free the device as soon as the running request has ended; requests that wait are refused. May be called twice.

        A failure is no error: the session is gone all the same, and others are still to be closed.
        """
        self.closed = True
        forecaster = self._forecaster
        self._forecaster = None
        try:
            if forecaster is not None:
                await self._in_thread(lambda: _free(forecaster))
        except SvgError:
            pass  # a device that failed may fail again
        except Exception:
            _LOG.exception("session %s was not closed properly", self.name)
        finally:
            self._thread.shutdown(wait=False)

    def check_size(self, samples: int, horizon: int) -> None:
        """Refuse a forecast that would take too much memory.

        Raises:
            ProblemError: it would.
        """
        if samples > self._limits.samples:
            raise ProblemError(
                "too-large", f"{samples} samples", f"at most {self._limits.samples}", advice="ask for fewer samples"
            )
        size = samples * horizon * frame_bytes(self.model.about.frame)
        if size > self._limits.forecast_bytes:
            raise ProblemError(
                "too-large", f"{samples} samples of {horizon} frames are {size} bytes as float32",
                f"at most {self._limits.forecast_bytes} bytes", advice="ask for fewer samples, or for a shorter horizon",
            )  # fmt: skip

    def _keep(self, frame: NDArray[np.float32]) -> None:
        self._last_frame = frame
        self._observed += 1

    @property
    def _missing(self) -> int:
        return max(0, self.model.about.n_past - self._observed)

    async def _compute(self, work: Callable[[Forecaster], _Result]) -> _Result:
        """Run `work` in the thread of the session, when its turn among all sessions comes."""
        self._stage = "computing"
        async with self._computing:
            forecaster = self._forecaster
            if forecaster is None:
                raise no_such_session(self.name)
            result = await self._in_thread(lambda: work(forecaster))
        self._stage = "sending"
        return result

    async def _in_thread(self, work: Callable[[], _Result]) -> _Result:
        return await asyncio.wrap_future(self._thread.submit(work))


def _free(forecaster: Forecaster) -> None:
    """Close a forecaster, and give its memory back to the system. For the thread that opened it."""
    try:
        forecaster.close()
    finally:
        _trim_heap()


def _trim_heap() -> None:
    """Have glibc give back what was freed: it would keep most of it for this process. Other C libraries lack the function."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)


def threads_end(within_s: float) -> bool:
    """Whether the threads of all sessions in this process have ended; waits for them for so long."""
    deadline = time.monotonic() + within_s
    threads = [thread for thread in threading.enumerate() if thread.name.startswith(_THREAD_NAME)]
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return not any(thread.is_alive() for thread in threads)


def no_such_session(name: str) -> ProblemError:
    """The refusal of an id that is not open."""
    return ProblemError(
        "no-such-session",
        f"no session {name[:40]}",
        advice="open one with POST /v1/sessions; GET /v1/sessions lists those open",
    )
