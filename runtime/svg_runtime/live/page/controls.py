"""What a client may change while the run goes on, what is in force, and how a change reaches the live loop."""

from __future__ import annotations

import queue
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from svg_common.errors import SvgError, UsageError
from svg_common.validation import problem_line
from svg_runtime.live.page.names import OVERLAYS
from svg_runtime.live.roi import Roi, parse_roi
from svg_runtime.web.json_names import repeated_name

MOST_SAMPLES = MOST_STEPS = 64
_MOST_BYTES = 256 << 20  # of the futures of one forecast
_MOST_WAITING = 8  # changes that the loop has not taken yet


class BusyError(SvgError):
    """Too many changes wait for the live loop."""


class NotYetError(SvgError):
    """A change cannot be applied now, but will be later: it waits."""


class Change(BaseModel):
    """The body of a POST: only what is to change."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    samples: Annotated[int, Field(ge=1, le=MOST_SAMPLES)] | None = None
    horizon: Annotated[int, Field(ge=1, le=MOST_STEPS)] | None = None
    overlay: str | None = None
    roi: Annotated[str, Field(max_length=100)] | None = None  # X,Y,W,H as --roi; null: the whole picture
    threshold: Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)] | None = None
    reset: Literal[True] | None = None

    @field_validator("reset", mode="before")
    @classmethod
    def _no_number(cls, value: object) -> object:
        if value == 1 and value is not True:  # which is equal to True
            raise ValueError("Input should be true")
        return value

    @property
    def changes_region(self) -> bool:
        """Whether `roi` was given, be it null."""
        return "roi" in self.model_fields_set

    @property
    def region(self) -> Roi | None:
        """The region; None: the whole picture."""
        return None if self.roi is None else parse_roi(self.roi, "roi")

    def beyond(self, now: Settings) -> Change:
        """The part of it that is not in force already: a region that is would start the model anew for nothing."""
        given = {name: getattr(self, name) for name in ("samples", "horizon", "overlay", "threshold")}
        changed = {name: value for name, value in given.items() if value not in (None, getattr(now, name))}
        if self.changes_region and self.region != (None if now.roi is None else parse_roi(now.roi)):
            changed["roi"] = self.roi
        if self.reset:
            changed["reset"] = True
        return Change(**changed)


@dataclass(frozen=True)
class Settings:
    """What is in force.

    Attributes:
        samples: futures per forecast.
        horizon: forecast steps.
        overlay: on the live picture.
        roi: the part of the picture that the model looks at, as --roi; None: all of it.
        threshold: from which on a signal is an alarm; None: there are no alarms.
    """

    samples: int
    horizon: int
    overlay: str
    roi: str | None = None
    threshold: float | None = None


@dataclass(frozen=True)
class Fixed:
    """Why some settings cannot change in this run; None: they can."""

    samples: str | None = None
    horizon: str | None = None
    frame_bytes: int = 1  # of one forecast frame, float32


def read_change(body: bytes) -> Change:
    """Read the body of a POST.

    Raises:
        UsageError: it is no JSON, a key is unknown or given twice, or a value out of bounds.
    """
    repeated = repeated_name(body)
    if repeated is not None:
        raise UsageError(f"{repeated[0]}: given {repeated[1]} times; expected each name once")
    try:
        change = Change.model_validate_json(body)
    except ValidationError as error:
        raise UsageError("; ".join(problem_line(found) for found in error.errors(include_url=False))) from error
    if change.overlay is not None and change.overlay not in OVERLAYS:
        raise UsageError(f"overlay: expected one of {', '.join(OVERLAYS)}")
    return change


def check_change(change: Change, now: Settings, fixed: Fixed, picture_hw: tuple[int, int] | None) -> None:
    """Refuse what this run cannot do.

    Args:
        change: what is asked for.
        now: what is in force.
        fixed: what cannot change.
        picture_hw: size of the source's picture; None: not known yet.

    Raises:
        UsageError: with the reason.
    """
    for name in ("samples", "horizon"):
        reason = getattr(fixed, name)
        if getattr(change, name) not in (None, getattr(now, name)) and reason is not None:
            raise UsageError(f"{name}: {reason}")
    samples, horizon = change.samples or now.samples, change.horizon or now.horizon
    if (change.samples or change.horizon) and samples * horizon * fixed.frame_bytes > _MOST_BYTES:
        raise UsageError(f"{samples} samples of {horizon} steps take more than {_MOST_BYTES >> 20} MiB; expected fewer")
    if change.threshold is not None and now.threshold is None:
        raise UsageError("threshold: this run has no alarms; start svg-live with --alarm")
    region = change.region
    if region is not None:
        if picture_hw is None:  # one that lies outside the first picture would end the run
            raise UsageError("roi: there is no picture yet; try again in a moment")
        region.in_picture(*picture_hw)


class ChangeQueue:
    """Takes changes from the web server to the live loop, which applies them between two frames."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[tuple[Change, Future[None]]] = queue.SimpleQueue()
        self._put_off: deque[tuple[Change, Future[None]]] = deque()

    def put(self, change: Change) -> Future[None]:
        """Queue a change. The future is done when it is applied, or raises why it is not.

        Raises:
            BusyError: too many wait.
        """
        if self._queue.qsize() + len(self._put_off) >= _MOST_WAITING:
            raise BusyError("too many changes wait; try again later")
        done: Future[None] = Future()
        self._queue.put((change, done))
        return done

    def take(self) -> list[tuple[Change, Future[None]]]:
        """All that waits, in order; what was put off comes first."""
        found = list(self._put_off)
        self._put_off.clear()
        while not self._queue.empty():
            found.append(self._queue.get())
        return found

    def put_off(self, change: Change, done: Future[None]) -> None:
        """Keep a change for the next `take`."""
        self._put_off.append((change, done))
