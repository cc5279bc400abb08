"""What a client may change while the run goes on, what is in force, and how a change reaches the live loop."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from svg_common.errors import SvgError, UsageError
from svg_common.validation import problem_line
from svg_runtime.live.page.names import OVERLAYS
from svg_runtime.live.roi import Roi, parse_roi
from svg_runtime.web.json_names import repeated_name
from svg_runtime.web.json_numbers import WHOLE

MOST_SAMPLES = MOST_STEPS = 64
_MOST_BYTES = 256 << 20  # of the futures of one forecast
_OF_ALL_CAMERAS = frozenset({"samples", "horizon"})  # whichever camera a client asks


class NotYetError(SvgError):
    """A change cannot be applied now, but will be later: it waits."""


class Change(BaseModel):
    """The body of a POST: only what is to change."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    samples: Annotated[int, Field(ge=1, le=MOST_SAMPLES), WHOLE] | None = None
    horizon: Annotated[int, Field(ge=1, le=MOST_STEPS), WHOLE] | None = None
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
    def asked(self) -> frozenset[str]:
        """What is to change: null changes nothing, but for `roi`."""
        return frozenset(name for name in self.model_fields_set if name == "roi" or getattr(self, name) is not None)

    def without(self, names: frozenset[str]) -> Change:
        """The rest of it."""
        return Change(**{name: getattr(self, name) for name in self.asked - names})

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


@dataclass(frozen=True)
class Waiting:
    """A change that the live loop has not applied yet.

    Attributes:
        camera: its key.
        change: what is to change.
        done: is done when it is applied; or raises why it is not, also where newer ones have replaced all of it.
    """

    camera: str
    change: Change
    done: Future[None]

    def without(self, newer: Waiting) -> Waiting:
        """The part that `newer` does not ask for."""
        names = newer.change.asked if newer.camera == self.camera else newer.change.asked & _OF_ALL_CAMERAS
        return replace(self, change=self.change.without(names))


class ChangeQueue:
    """Takes the changes of all cameras from the web server to the live loop, which applies them between two frames.

    No two of them ask for the same setting, the newest request counts: so no older one undoes it later, and only few can wait.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # the server puts, the loop takes
        self._waiting: list[Waiting] = []

    def put(self, camera: str, change: Change) -> Future[None]:
        """Queue a change of a camera; see `Waiting.done`."""
        newest = Waiting(camera, change, Future())
        with self._lock:
            older = self._waiting
            self._waiting = []
            for one in older:
                self._keep(one.without(newest))
            self._waiting.append(newest)
        return newest.done

    def take(self, camera: str) -> list[Waiting]:
        """All that waits for a camera."""
        with self._lock:
            found = [one for one in self._waiting if one.camera == camera]
            self._waiting = [one for one in self._waiting if one.camera != camera]
        return found

    def put_off(self, taken: Waiting) -> None:
        """Keep a change for the next `take`, but for what was asked for meanwhile."""
        with self._lock:
            for newer in self._waiting:
                taken = taken.without(newer)
            self._keep(taken)

    def _keep(self, older: Waiting) -> None:
        """What is left of it, although a newer one may still be refused."""
        if older.change.asked:
            self._waiting.append(older)
        else:
            older.done.set_exception(UsageError("a newer change has replaced this one"))
